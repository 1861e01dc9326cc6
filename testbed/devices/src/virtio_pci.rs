//! The common configuration registers of a virtio function over PCI, and checks of what the
//! driver does with them (VIRTIO 1.3 §3.1 and 4.1.4.3).
//!
//! This is a state machine without threads. A write returns an [`Effect`], which the device
//! carries out.

use virtio_bindings::bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK,
    VIRTIO_CONFIG_S_FAILED, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET,
    VIRTIO_F_VERSION_1,
};

use super::{driver_errors::DriverErrors, interrupt_sender::NO_VECTOR};

/// The status bits (VIRTIO 1.3 §2.1).
pub(super) const ACKNOWLEDGE: u8 = VIRTIO_CONFIG_S_ACKNOWLEDGE as u8;
pub(super) const DRIVER: u8 = VIRTIO_CONFIG_S_DRIVER as u8;
pub(super) const DRIVER_OK: u8 = VIRTIO_CONFIG_S_DRIVER_OK as u8;
pub(super) const FEATURES_OK: u8 = VIRTIO_CONFIG_S_FEATURES_OK as u8;
pub(super) const NEEDS_RESET: u8 = VIRTIO_CONFIG_S_NEEDS_RESET as u8;
pub(super) const FAILED: u8 = VIRTIO_CONFIG_S_FAILED as u8;

/// The length of the structure without fields that need a feature.
const BYTES: u64 = 0x38;

/// The offset of the device status.
pub(super) const STATUS_AT: u64 = 0x14;

/// The offset of the configuration generation.
pub(super) const GENERATION_AT: u64 = 0x15;

/// A half of a 64-bit field. Each is accessed on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Half {
    Low,
    High,
}

/// A field of `struct virtio_pci_common_cfg`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    DeviceFeatureSelect,
    DeviceFeature,
    DriverFeatureSelect,
    DriverFeature,
    ConfigMsixVector,
    NumQueues,
    DeviceStatus,
    ConfigGeneration,
    QueueSelect,
    QueueSize,
    QueueMsixVector,
    QueueEnable,
    QueueNotifyOff,
    QueueDesc(Half),
    QueueDriver(Half),
    QueueDevice(Half),
}

/// The [`Field::setup_bit`]s of a queue's three addresses.
const ADDRESSES: u8 = 0b111;

impl Field {
    /// The bit of a field that must be set up before a queue is enabled; 0 for other fields.
    fn setup_bit(self) -> u8 {
        match self {
            Self::QueueDesc(_) => 1,
            Self::QueueDriver(_) => 2,
            Self::QueueDevice(_) => 4,
            Self::QueueSize => 8,
            _ => 0,
        }
    }
}

/// Every valid access to the structure: offset, width, field.
const FIELDS: [(u64, usize, Field); 19] = [
    (0x00, 4, Field::DeviceFeatureSelect),
    (0x04, 4, Field::DeviceFeature),
    (0x08, 4, Field::DriverFeatureSelect),
    (0x0c, 4, Field::DriverFeature),
    (0x10, 2, Field::ConfigMsixVector),
    (0x12, 2, Field::NumQueues),
    (0x14, 1, Field::DeviceStatus),
    (0x15, 1, Field::ConfigGeneration),
    (0x16, 2, Field::QueueSelect),
    (0x18, 2, Field::QueueSize),
    (0x1a, 2, Field::QueueMsixVector),
    (0x1c, 2, Field::QueueEnable),
    (0x1e, 2, Field::QueueNotifyOff),
    (0x20, 4, Field::QueueDesc(Half::Low)),
    (0x24, 4, Field::QueueDesc(Half::High)),
    (0x28, 4, Field::QueueDriver(Half::Low)),
    (0x2c, 4, Field::QueueDriver(Half::High)),
    (0x30, 4, Field::QueueDevice(Half::Low)),
    (0x34, 4, Field::QueueDevice(Half::High)),
];

/// The device's task after a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing.
    None,
    /// Stop all queues, then call [`CommonConfig::reset`].
    Reset,
    /// The features are negotiated.
    FeaturesAgreed(u64),
    /// Enable this queue, then call [`CommonConfig::queue_in_use`].
    Enable(u16, QueueRegisters),
    /// The driver is ready: notifications are served from now on.
    Start,
}

/// The driver's setup of one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct QueueRegisters {
    /// The number of descriptors.
    pub(super) size: u16,
    /// The MSI-X vector.
    pub(super) vector: u16,
    /// The physical address of the descriptor table.
    pub(super) desc: u64,
    /// The physical address of the available ring.
    pub(super) driver: u64,
    /// The physical address of the used ring.
    pub(super) device: u64,
    /// Whether the queue is in use.
    enabled: bool,
    /// The fields that were written, as [`Field::setup_bit`]s.
    written: u8,
    /// Those of them that were last written after a reset and before ACKNOWLEDGE.
    early: u8,
    /// Whether the vector was written and not read back.
    vector_unread: bool,
}

/// The registers, for all queues of a device.
#[derive(Debug)]
pub(super) struct CommonConfig {
    offered: u64,
    queue_size: u16,
    vectors: u16,

    device_feature_select: u32,
    driver_feature_select: u32,
    driver_features: u64,
    config_vector: u16,
    config_vector_unread: bool,
    status: u8,
    generation: u8,
    queue_select: u16,
    queues: Vec<QueueRegisters>,

    /// Whether the device clears FEATURES_OK.
    refuses_features: bool,
    /// Whether the driver has never reset the device.
    untouched: bool,
    /// Whether the driver has not yet read that a reset finished.
    reset_unread: bool,
    /// Whether the driver has not yet read back FEATURES_OK.
    features_unread: bool,
}

impl CommonConfig {
    /// The registers of a device that offers the features `offered` and has `queues` queues of
    /// at most `queue_size` descriptors, and `vectors` MSI-X vectors.
    pub(super) fn new(offered: u64, queues: u16, queue_size: u16, vectors: u16) -> Self {
        let registers = QueueRegisters {
            size: queue_size,
            vector: NO_VECTOR,
            desc: 0,
            driver: 0,
            device: 0,
            enabled: false,
            written: 0,
            early: 0,
            vector_unread: false,
        };
        Self {
            offered,
            queue_size,
            vectors,
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            config_vector: NO_VECTOR,
            config_vector_unread: false,
            status: 0,
            generation: 0,
            queue_select: 0,
            queues: vec![registers; queues.into()],
            refuses_features: false,
            untouched: true,
            reset_unread: false,
            features_unread: false,
        }
    }

    /// Sets whether FEATURES_OK is refused.
    pub(super) fn refuse_features(&mut self, refuses: bool) {
        self.refuses_features = refuses;
    }

    /// The device status.
    pub(super) fn status(&self) -> u8 {
        self.status
    }

    /// The offered features.
    pub(super) fn offered(&self) -> u64 {
        self.offered
    }

    /// The features that the driver accepted; 0 before FEATURES_OK.
    pub(super) fn agreed(&self) -> u64 {
        if self.status & FEATURES_OK != 0 {
            self.driver_features
        } else {
            0
        }
    }

    /// The vector of configuration changes.
    pub(super) fn config_vector(&self) -> u16 {
        self.config_vector
    }

    /// The vector of queue `index`.
    pub(super) fn queue_vector(&self, index: u16) -> u16 {
        self.queues
            .get(usize::from(index))
            .map_or(NO_VECTOR, |queue| queue.vector)
    }

    /// Resets all registers. The queues must have stopped.
    pub(super) fn reset(&mut self) {
        let fresh = Self::new(
            self.offered,
            self.queues.len() as u16,
            self.queue_size,
            self.vectors,
        );
        *self = Self {
            // Not reset, because the driver may hold a configuration that it read before.
            generation: self.generation,
            untouched: false,
            reset_unread: true,
            ..fresh
        };
    }

    /// Marks queue `index` as in use: `queue_enable` reads 1 from now on.
    pub(super) fn queue_in_use(&mut self, index: u16) {
        if let Some(queue) = self.queues.get_mut(usize::from(index)) {
            queue.enabled = true;
        }
    }

    /// Sets DEVICE_NEEDS_RESET, because the device cannot go on (VIRTIO 1.3 §2.1.2). Returns
    /// whether the driver must be interrupted.
    pub(super) fn needs_reset(&mut self) -> bool {
        self.status |= NEEDS_RESET;
        self.status & DRIVER_OK != 0
    }

    /// Notes that the device-specific configuration changed.
    pub(super) fn configuration_changed(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }

    /// Reads a field.
    pub(super) fn read(&mut self, offset: u64, data: &mut [u8], driver_errors: &DriverErrors) {
        let Some(field) = field_at(offset, data.len(), driver_errors) else {
            data.fill(0);
            return;
        };
        let value = self.value(field);
        data.copy_from_slice(&value.to_le_bytes()[..data.len()]);
    }

    fn value(&mut self, field: Field) -> u32 {
        match field {
            Field::DeviceFeatureSelect => self.device_feature_select,
            Field::DeviceFeature => word(self.offered, self.device_feature_select),
            Field::DriverFeatureSelect => self.driver_feature_select,
            Field::DriverFeature => word(self.driver_features, self.driver_feature_select),
            Field::ConfigMsixVector => {
                self.config_vector_unread = false;
                self.config_vector.into()
            }
            Field::NumQueues => self.queues.len() as u32,
            Field::DeviceStatus => {
                self.reset_unread = false;
                self.features_unread = false;
                self.status.into()
            }
            Field::ConfigGeneration => self.generation.into(),
            Field::QueueSelect => self.queue_select.into(),
            Field::QueueNotifyOff => self.queue_select.into(),
            Field::QueueSize => self.selected().map_or(0, |queue| queue.size.into()),
            Field::QueueMsixVector => self.selected().map_or(NO_VECTOR.into(), |queue| {
                queue.vector_unread = false;
                queue.vector.into()
            }),
            Field::QueueEnable => self.selected().map_or(0, |queue| queue.enabled.into()),
            Field::QueueDesc(half) => self.selected().map_or(0, |queue| part(queue.desc, half)),
            Field::QueueDriver(half) => self.selected().map_or(0, |queue| part(queue.driver, half)),
            Field::QueueDevice(half) => self.selected().map_or(0, |queue| part(queue.device, half)),
        }
    }

    fn selected(&mut self) -> Option<&mut QueueRegisters> {
        self.queues.get_mut(usize::from(self.queue_select))
    }

    /// Writes a field. `msix` is whether MSI-X is enabled.
    pub(super) fn write(
        &mut self,
        offset: u64,
        data: &[u8],
        msix: bool,
        driver_errors: &DriverErrors,
    ) -> Effect {
        let Some(field) = field_at(offset, data.len(), driver_errors) else {
            return Effect::None;
        };
        let mut bytes = [0; 4];
        bytes[..data.len()].copy_from_slice(data);
        let value = u32::from_le_bytes(bytes);
        // Only initialization must wait for the reset. Selecting a field to read, another
        // reset, and removing a mapping need not.
        let initialises = match field {
            Field::DeviceStatus => value != 0,
            Field::DeviceFeatureSelect | Field::DriverFeatureSelect | Field::QueueSelect => false,
            Field::ConfigMsixVector | Field::QueueMsixVector => value != u32::from(NO_VECTOR),
            _ => true,
        };
        if self.reset_unread && initialises {
            driver_errors.add(format!(
                "{field:?} was written after a reset that was not seen to finish: device_status \
                 must read 0 first (VIRTIO 1.3 §4.1.4.3.2)"
            ));
        }
        match field {
            Field::DeviceFeatureSelect => self.device_feature_select = value,
            Field::DriverFeatureSelect => self.driver_feature_select = value,
            Field::DriverFeature => self.write_features(value, driver_errors),
            Field::ConfigMsixVector => {
                self.config_vector = self.mapped(value as u16, driver_errors);
                // Only a mapping must be read back.
                self.config_vector_unread = value as u16 != NO_VECTOR;
            }
            Field::DeviceStatus => return self.write_status(value as u8, msix, driver_errors),
            Field::QueueSelect => self.queue_select = value as u16,
            Field::DeviceFeature
            | Field::NumQueues
            | Field::ConfigGeneration
            | Field::QueueNotifyOff => driver_errors.add(format!(
                "{field:?} was written, which is read-only (VIRTIO 1.3 §4.1.4.3.2)"
            )),
            Field::QueueSize
            | Field::QueueMsixVector
            | Field::QueueEnable
            | Field::QueueDesc(_)
            | Field::QueueDriver(_)
            | Field::QueueDevice(_) => return self.write_queue(field, value, msix, driver_errors),
        }
        Effect::None
    }

    /// The vector that the device maps an event to when the driver requests `vector`.
    fn mapped(&self, vector: u16, driver_errors: &DriverErrors) -> u16 {
        if vector < self.vectors || vector == NO_VECTOR {
            return vector;
        }
        driver_errors.add(format!(
            "MSI-X vector {vector} was requested, but the table has {} (VIRTIO 1.3 §4.1.5.1.2.2)",
            self.vectors
        ));
        NO_VECTOR
    }

    fn write_features(&mut self, value: u32, driver_errors: &DriverErrors) {
        if self.status & FEATURES_OK != 0 {
            driver_errors.add("features were written after FEATURES_OK (VIRTIO 1.3 §3.1.1)");
            return;
        }
        if self.status & DRIVER == 0 {
            driver_errors.add("features were written before DRIVER (VIRTIO 1.3 §3.1.1)");
        }
        let Some(shift) = self
            .driver_feature_select
            .checked_mul(32)
            .filter(|shift| *shift < 64)
        else {
            if value != 0 {
                driver_errors.add(format!(
                    "features above bit 63 were accepted, by driver_feature_select {} (VIRTIO \
                     1.3 §2.2.1)",
                    self.driver_feature_select
                ));
            }
            return;
        };
        let mask = u64::from(u32::MAX) << shift;
        self.driver_features = self.driver_features & !mask | u64::from(value) << shift;
    }

    fn write_status(&mut self, value: u8, msix: bool, driver_errors: &DriverErrors) -> Effect {
        if value == 0 {
            return Effect::Reset;
        }
        if self.untouched {
            driver_errors
                .add("the device was not reset before its initialisation (VIRTIO 1.3 §3.1.1)");
            self.untouched = false;
        }
        // The driver may not have seen NEEDS_RESET yet, which the device sets.
        let old = self.status & !NEEDS_RESET;
        if old & !value != 0 {
            driver_errors.add(format!(
                "status bits {:#04x} were cleared other than by a reset (VIRTIO 1.3 §2.1.1)",
                old & !value
            ));
        }
        let known = ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK | NEEDS_RESET | FAILED;
        if value & !known != 0 {
            driver_errors.add(format!(
                "undefined status bits {:#04x} were set (VIRTIO 1.3 §2.1)",
                value & !known
            ));
        }
        let mut new = value & !old & known & !NEEDS_RESET;
        if old & FAILED != 0 && new != 0 {
            driver_errors
                .add("the initialisation went on after FAILED without a reset (VIRTIO 1.3 §2.1.1)");
        }
        for (bit, before, names) in [
            (DRIVER, ACKNOWLEDGE, "DRIVER was set before ACKNOWLEDGE"),
            (FEATURES_OK, DRIVER, "FEATURES_OK was set before DRIVER"),
            (
                DRIVER_OK,
                FEATURES_OK,
                "DRIVER_OK was set before FEATURES_OK",
            ),
        ] {
            if new & bit != 0 && old & before == 0 {
                driver_errors.add(format!("{names}, or in the same write (VIRTIO 1.3 §3.1.1)"));
            }
        }
        if new & FEATURES_OK != 0
            && (self.refuses_features || !self.features_acceptable(driver_errors))
        {
            new &= !FEATURES_OK;
        }
        self.status |= new;
        if new & FEATURES_OK != 0 {
            self.features_unread = true;
            return Effect::FeaturesAgreed(self.driver_features);
        }
        if new & DRIVER_OK == 0 {
            return Effect::None;
        }
        self.check_before_start(msix, driver_errors);
        if self.status & FEATURES_OK == 0 {
            // Without negotiated features the format of the rings is unknown.
            self.status &= !DRIVER_OK;
            return Effect::None;
        }
        Effect::Start
    }

    /// Whether the device can work with the accepted features.
    fn features_acceptable(&self, driver_errors: &DriverErrors) -> bool {
        let foreign = self.driver_features & !self.offered;
        if foreign != 0 {
            driver_errors.add(format!(
                "features {foreign:#x} were accepted, which are not offered (VIRTIO 1.3 §2.2.1)"
            ));
        }
        let version_1 = 1 << VIRTIO_F_VERSION_1;
        let legacy = self.offered & !self.driver_features & version_1 != 0;
        if legacy {
            driver_errors.add("VIRTIO_F_VERSION_1 was not accepted (VIRTIO 1.3 §6.1)");
        }
        foreign == 0 && !legacy
    }

    fn check_before_start(&self, msix: bool, driver_errors: &DriverErrors) {
        if self.features_unread {
            driver_errors
                .add("FEATURES_OK was not read back before DRIVER_OK (VIRTIO 1.3 §3.1.1, step 6)");
        }
        if msix && self.config_vector_unread {
            driver_errors.add(
                "config_msix_vector was not read back after it was written (VIRTIO 1.3 \
                 §4.1.5.1.2.2)",
            );
        }
    }

    fn write_queue(
        &mut self,
        field: Field,
        value: u32,
        msix: bool,
        driver_errors: &DriverErrors,
    ) -> Effect {
        let index = self.queue_select;
        let status = self.status;
        let most = self.queue_size;
        let vector = match field {
            Field::QueueMsixVector => self.mapped(value as u16, driver_errors),
            _ => NO_VECTOR,
        };
        let Some(queue) = self.selected() else {
            driver_errors.add(format!(
                "{field:?} of queue {index} was written: no such queue"
            ));
            return Effect::None;
        };
        // Only initialization has an order, and it begins with ACKNOWLEDGE. Between a reset and
        // ACKNOWLEDGE, drivers may clear fields and release vectors.
        let begun = status & ACKNOWLEDGE != 0 || field == Field::QueueEnable;
        let unmaps = field == Field::QueueMsixVector && value == u32::from(NO_VECTOR);
        queue.early &= !field.setup_bit();
        if status & FEATURES_OK == 0 {
            if !begun {
                queue.early |= field.setup_bit();
            } else if !unmaps {
                driver_errors.add(format!(
                    "{field:?} was written before FEATURES_OK (VIRTIO 1.3 §3.1.1)"
                ));
            }
        }
        // A vector may change at any time, because the device does not derive memory from it.
        if queue.enabled && field != Field::QueueMsixVector {
            driver_errors.add(format!(
                "{field:?} of queue {index} was written with {value:#x} while the queue is \
                 enabled (VIRTIO 1.3 §4.1.4.3.2)"
            ));
            return Effect::None;
        }
        queue.written |= field.setup_bit();
        match field {
            Field::QueueSize => {
                let size = value as u16;
                if size.is_power_of_two() && size <= most {
                    queue.size = size;
                } else {
                    driver_errors.add(format!(
                        "queue size {size} was written: it must be a power of 2, at most {most} \
                         (VIRTIO 1.3 §4.1.4.3.2)"
                    ));
                }
            }
            Field::QueueMsixVector => {
                queue.vector = vector;
                queue.vector_unread = !unmaps;
            }
            Field::QueueDesc(half) => set(&mut queue.desc, half, value),
            Field::QueueDriver(half) => set(&mut queue.driver, half, value),
            Field::QueueDevice(half) => set(&mut queue.device, half, value),
            _ => {
                if value != 1 {
                    driver_errors.add(format!(
                        "{value} was written to queue_enable of queue {index}; it must be 1 \
                         (VIRTIO 1.3 §4.1.4.3.2)"
                    ));
                    return Effect::None;
                }
                if queue.written & ADDRESSES != ADDRESSES {
                    driver_errors.add(format!(
                        "queue {index} was enabled before all of its addresses were written \
                         (VIRTIO 1.3 §4.1.4.3.2)"
                    ));
                }
                if queue.early != 0 {
                    driver_errors.add(format!(
                        "queue {index} was enabled with fields that were written before \
                         FEATURES_OK (VIRTIO 1.3 §3.1.1)"
                    ));
                }
                if msix && queue.vector_unread {
                    driver_errors.add(format!(
                        "queue_msix_vector of queue {index} was not read back after it was \
                         written (VIRTIO 1.3 §4.1.5.1.2.2)"
                    ));
                }
                if status & DRIVER_OK != 0 {
                    driver_errors.add(format!(
                        "queue {index} was enabled after DRIVER_OK (VIRTIO 1.3 §3.1.1, step 7)"
                    ));
                }
                return Effect::Enable(index, *queue);
            }
        }
        Effect::None
    }
}

/// The field that an access of `bytes` bytes at `offset` names, if the specification allows it
/// (VIRTIO 1.3 §4.1.3.1).
fn field_at(offset: u64, bytes: usize, driver_errors: &DriverErrors) -> Option<Field> {
    let hit = FIELDS
        .iter()
        .find(|(at, width, _)| *at == offset && *width == bytes);
    if hit.is_none() {
        let why = if offset < BYTES {
            "no field has that place and width (VIRTIO 1.3 §4.1.3.1)"
        } else {
            "the field there belongs to a feature that is not offered"
        };
        driver_errors.add(format!(
            "common configuration: an access of {bytes} bytes at {offset:#x}: {why}"
        ));
    }
    hit.map(|(_, _, field)| *field)
}

/// The 32 feature bits that `select` selects.
fn word(features: u64, select: u32) -> u32 {
    match select {
        0 => features as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}

fn part(value: u64, half: Half) -> u32 {
    match half {
        Half::Low => value as u32,
        Half::High => (value >> 32) as u32,
    }
}

fn set(value: &mut u64, half: Half, new: u32) {
    *value = match half {
        Half::Low => *value & !u64::from(u32::MAX) | u64::from(new),
        Half::High => *value & u64::from(u32::MAX) | u64::from(new) << 32,
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFERED: u64 = 1 << VIRTIO_F_VERSION_1 | 1 << 29 | 1 << 9;

    const DEVICE_FEATURE_SELECT: u64 = 0x00;
    const DEVICE_FEATURE: u64 = 0x04;
    const DRIVER_FEATURE_SELECT: u64 = 0x08;
    const DRIVER_FEATURE: u64 = 0x0c;
    const CONFIG_VECTOR: u64 = 0x10;
    const NUM_QUEUES: u64 = 0x12;
    const STATUS: u64 = 0x14;
    const GENERATION: u64 = 0x15;
    const QUEUE_SELECT: u64 = 0x16;
    const QUEUE_SIZE: u64 = 0x18;
    const QUEUE_VECTOR: u64 = 0x1a;
    const QUEUE_ENABLE: u64 = 0x1c;
    const QUEUE_NOTIFY_OFF: u64 = 0x1e;
    const QUEUE_DESC: u64 = 0x20;
    const QUEUE_DRIVER: u64 = 0x28;
    const QUEUE_DEVICE: u64 = 0x30;

    const NONE: u32 = NO_VECTOR as u32;

    /// A driver and the registers: 2 queues, 3 vectors, MSI-X on.
    struct Bench {
        registers: CommonConfig,
        driver_errors: DriverErrors,
    }

    impl Bench {
        fn new() -> Self {
            Self {
                registers: CommonConfig::new(OFFERED, 2, 256, 3),
                driver_errors: DriverErrors::default(),
            }
        }

        /// A device that was reset, and whose driver has seen that.
        fn reset() -> Self {
            let mut bench = Self::new();
            assert_eq!(bench.status(0), Effect::Reset);
            bench.registers.reset();
            assert_eq!(bench.read_status(), 0);
            bench
        }

        /// A device with all offered features negotiated.
        fn agreed() -> Self {
            let mut bench = Self::reset();
            bench.status(ACKNOWLEDGE);
            bench.status(ACKNOWLEDGE | DRIVER);
            bench.accept(OFFERED);
            let status = ACKNOWLEDGE | DRIVER | FEATURES_OK;
            assert_eq!(bench.status(status), Effect::FeaturesAgreed(OFFERED));
            assert_eq!(bench.read_status(), status);
            bench
        }

        /// A device after DRIVER_OK, with queue 0 enabled.
        fn ready() -> Self {
            let mut bench = Self::agreed();
            bench.set_up_queue();
            assert!(matches!(
                bench.set::<2>(QUEUE_ENABLE, 1),
                Effect::Enable(0, _)
            ));
            bench.registers.queue_in_use(0);
            assert_eq!(bench.status(0x0f), Effect::Start);
            bench.nothing_wrong();
            bench
        }

        fn set_up_queue(&mut self) {
            self.set::<2>(QUEUE_VECTOR, 1);
            assert_eq!(self.get::<2>(QUEUE_VECTOR), 1);
            for (field, address) in [
                (QUEUE_DESC, 0x1000),
                (QUEUE_DRIVER, 0x2000),
                (QUEUE_DEVICE, 0x3000),
            ] {
                self.set::<4>(field, address);
                self.set::<4>(field + 4, 1);
            }
        }

        fn accept(&mut self, features: u64) {
            for select in 0..2 {
                self.set::<4>(DRIVER_FEATURE_SELECT, select);
                self.set::<4>(DRIVER_FEATURE, word(features, select));
            }
        }

        fn status(&mut self, value: u8) -> Effect {
            self.set::<1>(STATUS, value.into())
        }

        fn set<const N: usize>(&mut self, offset: u64, value: u32) -> Effect {
            let data = value.to_le_bytes();
            self.registers
                .write(offset, &data[..N], true, &self.driver_errors)
        }

        fn get<const N: usize>(&mut self, offset: u64) -> u32 {
            let mut data = [0; 4];
            self.registers
                .read(offset, &mut data[..N], &self.driver_errors);
            u32::from_le_bytes(data)
        }

        fn read_status(&mut self) -> u8 {
            self.get::<1>(STATUS) as u8
        }

        fn nothing_wrong(&self) {
            assert_eq!(self.driver_errors.list(), [""; 0]);
        }

        /// The only driver error.
        fn driver_error(&self) -> String {
            let list = self.driver_errors.list();
            assert_eq!(list.len(), 1, "{list:#?}");
            list[0].clone()
        }
    }

    #[test]
    fn the_specified_order_of_initialisation_is_no_driver_error() {
        Bench::ready().nothing_wrong();
    }

    #[test]
    fn features_are_shown_32_at_a_time_and_none_beyond() {
        let mut bench = Bench::reset();
        let mut words = Vec::new();

        for select in [0, 1, 2, u32::MAX] {
            bench.set::<4>(DEVICE_FEATURE_SELECT, select);
            words.push(bench.get::<4>(DEVICE_FEATURE));
        }

        assert_eq!(words, [1 << 29 | 1 << 9, 1, 0, 0]);
        bench.nothing_wrong();
    }

    #[test]
    fn accepted_features_read_back() {
        let mut bench = Bench::agreed();

        bench.set::<4>(DRIVER_FEATURE_SELECT, 1);

        assert_eq!(bench.get::<4>(DRIVER_FEATURE), 1);
        assert_eq!(bench.registers.agreed(), OFFERED);
    }

    #[test]
    fn features_that_are_not_offered_are_refused() {
        let mut bench = Bench::reset();
        bench.status(ACKNOWLEDGE);
        bench.status(ACKNOWLEDGE | DRIVER);
        bench.accept(OFFERED | 1 << 34);

        bench.status(ACKNOWLEDGE | DRIVER | FEATURES_OK);

        assert_eq!(bench.read_status(), (ACKNOWLEDGE | DRIVER));
        assert_eq!(bench.registers.agreed(), 0);
        assert!(bench.driver_error().contains("not offered"));
    }

    #[test]
    fn a_driver_without_version_1_is_refused() {
        let mut bench = Bench::reset();
        bench.status(ACKNOWLEDGE);
        bench.status(ACKNOWLEDGE | DRIVER);
        bench.accept(1 << 9);

        bench.status(ACKNOWLEDGE | DRIVER | FEATURES_OK);

        assert_eq!(bench.read_status() & FEATURES_OK, 0);
        assert!(bench.driver_error().contains("VERSION_1"));
    }

    #[test]
    fn features_above_bit_63_can_be_declined_but_not_accepted() {
        let mut bench = Bench::reset();
        bench.status(ACKNOWLEDGE);
        bench.status(ACKNOWLEDGE | DRIVER);
        bench.set::<4>(DRIVER_FEATURE_SELECT, 2);
        bench.set::<4>(DRIVER_FEATURE, 0);
        bench.nothing_wrong();

        bench.set::<4>(DRIVER_FEATURE, 1);

        assert!(bench.driver_error().contains("above bit 63"));
    }

    #[test]
    fn features_are_fixed_after_features_ok() {
        let mut bench = Bench::agreed();

        bench.accept(0);

        assert_eq!(bench.registers.agreed(), OFFERED);
        assert!(bench.driver_error().contains("after FEATURES_OK"));
    }

    #[test]
    fn features_before_driver_are_driver_errors() {
        let mut bench = Bench::reset();
        bench.status(ACKNOWLEDGE);

        bench.accept(OFFERED);

        assert!(bench.driver_error().contains("before DRIVER"));
    }

    #[test]
    fn a_driver_that_never_resets_is_a_driver_error() {
        let mut bench = Bench::new();

        bench.status(ACKNOWLEDGE);

        assert!(bench.driver_error().contains("not reset"));
    }

    #[test]
    fn a_driver_that_does_not_wait_for_the_reset_is_a_driver_error() {
        let mut bench = Bench::new();
        bench.status(0);
        bench.registers.reset();

        bench.status(ACKNOWLEDGE);

        assert!(bench.driver_error().contains("not seen to finish"));
    }

    #[test]
    fn a_second_reset_need_not_wait_for_the_first() {
        let mut bench = Bench::reset();
        bench.status(0);
        bench.registers.reset();

        assert_eq!(bench.status(0), Effect::Reset);

        bench.nothing_wrong();
    }

    #[test]
    fn status_bits_out_of_order_are_driver_errors() {
        for (before, value, error) in [
            (0, DRIVER, "DRIVER was set before ACKNOWLEDGE"),
            (0, ACKNOWLEDGE | DRIVER, "DRIVER was set before ACKNOWLEDGE"),
            (
                ACKNOWLEDGE,
                ACKNOWLEDGE | FEATURES_OK,
                "FEATURES_OK was set before DRIVER",
            ),
        ] {
            let mut bench = Bench::reset();
            bench.registers.driver_features = OFFERED;
            if before != 0 {
                bench.status(before);
            }

            bench.status(value);

            assert!(bench.driver_error().starts_with(error));
        }
    }

    #[test]
    fn driver_ok_without_features_ok_starts_nothing() {
        let mut bench = Bench::reset();
        bench.status(ACKNOWLEDGE);
        bench.status(ACKNOWLEDGE | DRIVER);

        let effect = bench.status(ACKNOWLEDGE | DRIVER | DRIVER_OK);

        assert_eq!(effect, Effect::None);
        assert_eq!(bench.read_status(), (ACKNOWLEDGE | DRIVER));
        let list = bench.driver_errors.list();
        assert!(
            list.iter()
                .any(|text| text.contains("DRIVER_OK was set before FEATURES_OK"))
        );
    }

    #[test]
    fn features_ok_must_be_read_back() {
        let mut bench = Bench::reset();
        bench.status(ACKNOWLEDGE);
        bench.status(ACKNOWLEDGE | DRIVER);
        bench.accept(OFFERED);
        bench.status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
        bench.set_up_queue();
        bench.set::<2>(QUEUE_ENABLE, 1);
        bench.registers.queue_in_use(0);

        bench.status(0x0f);

        assert!(
            bench
                .driver_error()
                .contains("not read back before DRIVER_OK")
        );
    }

    #[test]
    fn cleared_status_bits_stay_set_and_are_driver_errors() {
        let mut bench = Bench::ready();

        bench.status(ACKNOWLEDGE);

        assert_eq!(bench.read_status(), 0x0f);
        assert!(bench.driver_error().contains("were cleared"));
    }

    #[test]
    fn undefined_status_bits_are_driver_errors() {
        let mut bench = Bench::reset();

        bench.status(ACKNOWLEDGE | 0x20);

        assert_eq!(bench.read_status(), ACKNOWLEDGE);
        assert!(bench.driver_error().contains("undefined status bits 0x20"));
    }

    #[test]
    fn after_failed_only_a_reset_helps() {
        let mut bench = Bench::reset();
        bench.status(ACKNOWLEDGE);
        bench.status(ACKNOWLEDGE | FAILED);
        bench.nothing_wrong();

        bench.status(ACKNOWLEDGE | FAILED | DRIVER);

        assert!(bench.driver_error().contains("after FAILED"));
    }

    #[test]
    fn needs_reset_is_the_devices_to_set_and_a_reset_clears_it() {
        let mut bench = Bench::ready();

        assert!(bench.registers.needs_reset());
        assert_eq!(bench.read_status(), (0x0f | NEEDS_RESET));
        bench.status(0x0f | FAILED);
        assert_eq!(bench.status(0), Effect::Reset);
        bench.registers.reset();

        assert_eq!(bench.read_status(), 0);
        bench.nothing_wrong();
    }

    #[test]
    fn read_only_fields_keep_their_value() {
        for (offset, width) in [
            (DEVICE_FEATURE, 4),
            (NUM_QUEUES, 2),
            (GENERATION, 1),
            (QUEUE_NOTIFY_OFF, 2),
        ] {
            let mut bench = Bench::agreed();

            bench
                .registers
                .write(offset, &[0xff; 4][..width], true, &bench.driver_errors);

            assert!(bench.driver_error().contains("read-only"));
            assert_eq!(bench.get::<2>(NUM_QUEUES), 2);
            assert_eq!(bench.get::<1>(GENERATION), 0);
        }
    }

    #[test]
    fn accesses_of_the_wrong_width_or_place_are_driver_errors_and_read_zero() {
        let accesses: [(u64, usize); 8] = [
            (0x14, 2),
            (0x14, 4),
            (0x10, 4),
            (0x20, 8),
            (0x1b, 1),
            (0x22, 4),
            (0x38, 2),
            (0x3c, 4),
        ];
        for (offset, width) in accesses {
            let mut bench = Bench::ready();
            let mut data = [0xee; 8];

            bench
                .registers
                .read(offset, &mut data[..width], &bench.driver_errors);

            assert_eq!(data[..width], [0; 8][..width]);
            assert!(
                bench
                    .driver_error()
                    .contains("common configuration: an access of")
            );
            let effect =
                bench
                    .registers
                    .write(offset, &[0; 8][..width], true, &bench.driver_errors);
            assert_eq!(effect, Effect::None);
        }
    }

    #[test]
    fn a_queue_that_does_not_exist_has_size_0() {
        let mut bench = Bench::agreed();

        bench.set::<2>(QUEUE_SELECT, 2);
        assert_eq!(bench.get::<2>(QUEUE_SIZE), 0);
        bench.nothing_wrong();
        bench.set::<4>(QUEUE_DESC, 0x1000);

        assert!(bench.driver_error().contains("no such queue"));
    }

    #[test]
    fn each_queue_has_its_own_registers() {
        let mut bench = Bench::agreed();

        bench.set::<2>(QUEUE_SIZE, 64);
        bench.set::<2>(QUEUE_SELECT, 1);

        assert_eq!(bench.get::<2>(QUEUE_SIZE), 256);
        assert_eq!(bench.get::<2>(QUEUE_NOTIFY_OFF), 1);
        bench.set::<2>(QUEUE_SELECT, 0);
        assert_eq!(bench.get::<2>(QUEUE_SIZE), 64);
        bench.nothing_wrong();
    }

    #[test]
    fn halves_of_an_address_are_written_independently() {
        let mut bench = Bench::agreed();

        bench.set::<4>(QUEUE_DEVICE + 4, 0x12);
        bench.set::<4>(QUEUE_DEVICE, 0x3456_7000);

        assert_eq!(bench.registers.queues[0].device, 0x12_3456_7000);
        assert_eq!(bench.get::<4>(QUEUE_DEVICE + 4), 0x12);
    }

    #[test]
    fn a_queue_size_must_be_a_power_of_two_within_the_limit() {
        for size in [0, 3, 255, 512] {
            let mut bench = Bench::agreed();

            bench.set::<2>(QUEUE_SIZE, size);

            assert_eq!(bench.get::<2>(QUEUE_SIZE), 256);
            assert!(bench.driver_error().contains("power of 2"));
        }
    }

    #[test]
    fn queue_fields_before_features_ok_are_driver_errors() {
        for (field, value) in [(QUEUE_SIZE, 64), (QUEUE_VECTOR, 1), (QUEUE_ENABLE, 1)] {
            let mut bench = Bench::reset();
            bench.status(ACKNOWLEDGE);

            bench.set::<2>(field, value);

            let list = bench.driver_errors.list();
            assert!(list[0].contains("before FEATURES_OK"), "{list:?}");
        }
    }

    #[test]
    fn after_a_reset_vectors_and_addresses_may_be_released() {
        for is_seen in [true, false] {
            let mut bench = Bench::ready();
            assert_eq!(bench.status(0), Effect::Reset);
            bench.registers.reset();
            if is_seen {
                assert_eq!(bench.read_status(), 0);
            }

            for queue in 0..2 {
                bench.set::<2>(QUEUE_SELECT, queue);
                bench.set::<2>(QUEUE_VECTOR, NONE);
            }
            bench.set::<2>(CONFIG_VECTOR, NONE);
            if is_seen {
                bench.set::<2>(QUEUE_SELECT, 0);
                for field in [QUEUE_DESC, QUEUE_DRIVER, QUEUE_DEVICE] {
                    bench.set::<4>(field, 0);
                    bench.set::<4>(field + 4, 0);
                }
            }
            bench.nothing_wrong();
        }
    }

    #[test]
    fn a_queue_set_up_between_reset_and_acknowledge_is_a_driver_error_when_it_is_enabled() {
        let mut bench = Bench::reset();
        bench.set::<4>(QUEUE_DESC, 0x1000);
        bench.nothing_wrong();
        bench.status(ACKNOWLEDGE);
        bench.status(ACKNOWLEDGE | DRIVER);
        bench.accept(OFFERED);
        bench.status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
        bench.read_status();
        for field in [QUEUE_DRIVER, QUEUE_DEVICE] {
            bench.set::<4>(field, 0x2000);
        }

        bench.set::<2>(QUEUE_ENABLE, 1);

        assert!(
            bench
                .driver_error()
                .contains("fields that were written before")
        );
    }

    #[test]
    fn a_queue_in_use_keeps_its_fields_but_not_its_vector() {
        let mut bench = Bench::ready();

        bench.set::<2>(QUEUE_VECTOR, 2);
        bench.nothing_wrong();
        assert_eq!(bench.registers.queue_vector(0), 2);
        bench.set::<4>(QUEUE_DESC, 0x9000);

        assert_eq!(bench.get::<4>(QUEUE_DESC), 0x1000);
        assert!(bench.driver_error().contains("while the queue is enabled"));
    }

    #[test]
    fn nothing_but_1_may_be_written_to_queue_enable() {
        for value in [0, 2] {
            let mut bench = Bench::agreed();
            bench.set_up_queue();

            assert_eq!(bench.set::<2>(QUEUE_ENABLE, value), Effect::None);

            assert!(bench.driver_error().contains("it must be 1"));
        }
    }

    #[test]
    fn a_queue_enabled_before_its_addresses_is_a_driver_error() {
        let mut bench = Bench::agreed();
        bench.set::<4>(QUEUE_DESC, 0x1000);
        bench.set::<4>(QUEUE_DEVICE, 0x3000);

        bench.set::<2>(QUEUE_ENABLE, 1);

        assert!(bench.driver_error().contains("before all of its addresses"));
    }

    #[test]
    fn a_queue_enabled_after_driver_ok_is_a_driver_error() {
        let mut bench = Bench::ready();
        bench.set::<2>(QUEUE_SELECT, 1);
        bench.set_up_queue();

        bench.set::<2>(QUEUE_ENABLE, 1);

        assert!(bench.driver_error().contains("after DRIVER_OK"));
    }

    #[test]
    fn a_vector_beyond_the_table_reads_back_as_none() {
        let mut bench = Bench::agreed();

        bench.set::<2>(QUEUE_VECTOR, 3);
        bench.set::<2>(CONFIG_VECTOR, 0xfffe);

        assert_eq!(bench.get::<2>(QUEUE_VECTOR), NONE);
        assert_eq!(bench.get::<2>(CONFIG_VECTOR), NONE);
        assert_eq!(bench.driver_errors.count(), 2);
    }

    #[test]
    fn no_vector_is_always_allowed_and_need_not_be_read_back() {
        for status in [0, ACKNOWLEDGE, ACKNOWLEDGE | DRIVER] {
            let mut bench = Bench::reset();
            bench.status(status);
            let before = bench.driver_errors.count();
            bench.set::<2>(QUEUE_VECTOR, NONE);
            assert_eq!(bench.get::<2>(QUEUE_VECTOR), NONE);
            assert_eq!(bench.driver_errors.count(), before, "{status:#x}");
        }
        let mut bench = Bench::agreed();
        bench.set_up_queue();
        bench.set::<2>(CONFIG_VECTOR, NONE);
        bench.set::<2>(QUEUE_VECTOR, NONE);

        bench.set::<2>(QUEUE_ENABLE, 1);
        bench.registers.queue_in_use(0);
        bench.status(0x0f);

        bench.nothing_wrong();
    }

    #[test]
    fn a_queue_vector_must_be_read_back() {
        let mut bench = Bench::agreed();
        bench.set_up_queue();
        bench.set::<2>(QUEUE_VECTOR, 0);

        bench.set::<2>(QUEUE_ENABLE, 1);

        assert!(
            bench
                .driver_error()
                .contains("queue_msix_vector of queue 0 was not read back")
        );
    }

    #[test]
    fn the_configuration_vector_must_be_read_back() {
        let mut bench = Bench::agreed();
        bench.set_up_queue();
        bench.set::<2>(QUEUE_ENABLE, 1);
        bench.registers.queue_in_use(0);
        bench.set::<2>(CONFIG_VECTOR, 0);

        bench.status(0x0f);

        assert!(
            bench
                .driver_error()
                .contains("config_msix_vector was not read back")
        );
    }

    #[test]
    fn a_reset_forgets_everything_but_the_generation() {
        let mut bench = Bench::ready();
        bench.set::<2>(CONFIG_VECTOR, 1);
        bench.registers.configuration_changed();

        bench.status(0);
        bench.registers.reset();

        assert_eq!(bench.read_status(), 0);
        assert_eq!(bench.get::<2>(CONFIG_VECTOR), NONE);
        assert_eq!(bench.get::<2>(QUEUE_VECTOR), NONE);
        assert_eq!(bench.get::<2>(QUEUE_ENABLE), 0);
        assert_eq!(bench.get::<4>(QUEUE_DESC), 0);
        assert_eq!(bench.get::<1>(GENERATION), 1);
        bench.nothing_wrong();
    }
}
