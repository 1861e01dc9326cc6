//! The common configuration registers of a virtio function over PCI, and checks of what the
//! driver does with them (VIRTIO 1.3 §3.1 and 4.1.4.3).
//!
//! A write returns an [`Effect`], which the device carries out.

use virtio_bindings::bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK,
    VIRTIO_CONFIG_S_FAILED, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET,
    VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1,
};

use crate::driver_errors::DriverErrors;
use offset::*;

/// Status bit: the driver has noticed the device (VIRTIO 1.3 §2.1).
pub const ACKNOWLEDGE: u8 = VIRTIO_CONFIG_S_ACKNOWLEDGE as u8;
/// Status bit: the driver can drive the device.
pub const DRIVER: u8 = VIRTIO_CONFIG_S_DRIVER as u8;
/// Status bit: the driver is ready.
pub const DRIVER_OK: u8 = VIRTIO_CONFIG_S_DRIVER_OK as u8;
/// Status bit: the features are negotiated.
pub const FEATURES_OK: u8 = VIRTIO_CONFIG_S_FEATURES_OK as u8;
/// Status bit: the device cannot go on.
pub const NEEDS_RESET: u8 = VIRTIO_CONFIG_S_NEEDS_RESET as u8;
/// Status bit: the driver has given the device up.
pub const FAILED: u8 = VIRTIO_CONFIG_S_FAILED as u8;

/// The vector of an event without a vector (`VIRTIO_MSI_NO_VECTOR`).
pub const NO_VECTOR: u16 = 0xffff;

/// The offsets of the registers.
#[expect(missing_docs, reason = "the names are those of VIRTIO 1.3 §4.1.4.3")]
pub mod offset {
    pub const DEVICE_FEATURE_SELECT: u64 = 0x00;
    pub const DEVICE_FEATURE: u64 = 0x04;
    pub const DRIVER_FEATURE_SELECT: u64 = 0x08;
    pub const DRIVER_FEATURE: u64 = 0x0c;
    pub const CONFIG_VECTOR: u64 = 0x10;
    pub const NUM_QUEUES: u64 = 0x12;
    pub const STATUS: u64 = 0x14;
    pub const GENERATION: u64 = 0x15;
    pub const QUEUE_SELECT: u64 = 0x16;
    pub const QUEUE_SIZE: u64 = 0x18;
    pub const QUEUE_VECTOR: u64 = 0x1a;
    pub const QUEUE_ENABLE: u64 = 0x1c;
    pub const QUEUE_NOTIFY_OFF: u64 = 0x1e;
    pub const QUEUE_DESC: u64 = 0x20;
    pub const QUEUE_DRIVER: u64 = 0x28;
    pub const QUEUE_DEVICE: u64 = 0x30;
}

/// The length of the structure without fields that need a feature.
const BYTES: u64 = 0x38;

/// The bits of a queue's three addresses, of those that [`setup_bit`] returns.
const ADDRESSES: u8 = 0b111;

/// The bit of the field at `at` that must be set up before a queue is enabled; 0 for other fields.
fn setup_bit(at: u64) -> u8 {
    match at {
        QUEUE_DESC.. => 1 << ((at - QUEUE_DESC) / 8),
        QUEUE_SIZE => 8,
        _ => 0,
    }
}

/// Every valid access to the structure: offset, width, and the name of the field. The halves of
/// 64-bit fields are accessed on their own.
const FIELDS: [(u64, usize, &str); 19] = [
    (DEVICE_FEATURE_SELECT, 4, "device_feature_select"),
    (DEVICE_FEATURE, 4, "device_feature"),
    (DRIVER_FEATURE_SELECT, 4, "driver_feature_select"),
    (DRIVER_FEATURE, 4, "driver_feature"),
    (CONFIG_VECTOR, 2, "config_msix_vector"),
    (NUM_QUEUES, 2, "num_queues"),
    (STATUS, 1, "device_status"),
    (GENERATION, 1, "config_generation"),
    (QUEUE_SELECT, 2, "queue_select"),
    (QUEUE_SIZE, 2, "queue_size"),
    (QUEUE_VECTOR, 2, "queue_msix_vector"),
    (QUEUE_ENABLE, 2, "queue_enable"),
    (QUEUE_NOTIFY_OFF, 2, "queue_notify_off"),
    (QUEUE_DESC, 4, "queue_desc"),
    (QUEUE_DESC + 4, 4, "queue_desc"),
    (QUEUE_DRIVER, 4, "queue_driver"),
    (QUEUE_DRIVER + 4, 4, "queue_driver"),
    (QUEUE_DEVICE, 4, "queue_device"),
    (QUEUE_DEVICE + 4, 4, "queue_device"),
];

/// The device's task after a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// Stop all queues, then call [`CommonConfig::reset`].
    Reset,
    /// The features are negotiated.
    FeaturesAgreed(u64),
    /// Enable this queue, then call [`CommonConfig::queue_in_use`].
    Enable(u16, Ring),
    /// The driver is ready: notifications are served from now on.
    Start,
}

/// The size and the physical addresses of a queue's ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ring {
    /// The number of descriptors.
    pub size: u16,
    /// The address of the descriptor table.
    pub descriptors: u64,
    /// The address of the driver area: the available ring, or the driver's event suppression
    /// structure.
    pub driver: u64,
    /// The address of the device area: the used ring, or the device's event suppression
    /// structure.
    pub device: u64,
}

impl Ring {
    /// The address that the field at `at` has a half of, and the place of the half in it.
    fn address(&mut self, at: u64) -> (&mut u64, u64) {
        let address = match at {
            QUEUE_DEVICE.. => &mut self.device,
            QUEUE_DRIVER.. => &mut self.driver,
            _ => &mut self.descriptors,
        };
        (address, at % 8 * 8)
    }
}

/// The driver's setup of one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct QueueRegisters {
    ring: Ring,
    /// The MSI-X vector.
    vector: u16,
    /// Whether the queue is in use.
    enabled: bool,
    /// The fields that were written, as [`setup_bit`]s.
    written: u8,
    /// The fields of `written` that were last written after a reset and before ACKNOWLEDGE.
    early: u8,
    /// Whether the vector was written and not read back.
    vector_unread: bool,
}

impl QueueRegisters {
    fn value(&mut self, at: u64) -> u32 {
        match at {
            QUEUE_SIZE => self.ring.size.into(),
            QUEUE_VECTOR => {
                self.vector_unread = false;
                self.vector.into()
            }
            QUEUE_ENABLE => self.enabled.into(),
            _ => {
                let (address, shift) = self.ring.address(at);
                (*address >> shift) as u32
            }
        }
    }
}

/// Faults of the common configuration registers.
#[derive(Clone, Debug, Default)]
pub struct RegisterFaults {
    /// FEATURES_OK is cleared when the driver sets it.
    pub refuses_features: bool,
    /// `config_generation` changes after each read of it.
    pub generation_runs: bool,
    /// Registers that read as another value, by offset. The device works with the right
    /// values.
    pub reads: Vec<(u64, u32)>,
}

/// Replaces the data of a read at `offset` if `reads` has another value for it.
pub fn replace(reads: &[(u64, u32)], offset: u64, data: &mut [u8]) {
    if let Some((_, value)) = reads.iter().find(|(at, _)| *at == offset) {
        for (byte, wrong) in data.iter_mut().zip(value.to_le_bytes()) {
            *byte = wrong;
        }
    }
}

/// The registers, for all queues of a device.
#[derive(Debug)]
pub struct CommonConfig {
    /// The offered features.
    pub offered: u64,
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

    /// False values.
    pub faults: RegisterFaults,
    /// The number of normal resets before the slow one, and the number of status reads that the
    /// slow one takes.
    slow_reset: Option<(u32, u32)>,
    /// The number of status reads until the current reset ends.
    resetting: Option<u32>,
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
    pub fn new(offered: u64, queues: u16, queue_size: u16, vectors: u16) -> Self {
        let registers = QueueRegisters {
            ring: Ring {
                size: queue_size,
                ..Ring::default()
            },
            vector: NO_VECTOR,
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
            faults: RegisterFaults::default(),
            slow_reset: None,
            resetting: None,
            untouched: true,
            reset_unread: false,
            features_unread: false,
        }
    }

    /// Makes the reset after the next `after` resets slow. It ends at the status read after
    /// `reads` reads, or never with `u32::MAX`. Until then the registers keep their values.
    pub fn slow_reset(&mut self, after: u32, reads: u32) {
        self.slow_reset = Some((after, reads));
    }

    /// Lets a slow reset end at the next read of the status.
    pub fn finish_reset(&mut self) {
        if let Some(reads) = &mut self.resetting {
            *reads = 0;
        }
    }

    /// Notes a read at `offset`. Returns whether it ends a slow reset.
    pub(crate) fn read_ends_reset(&mut self, offset: u64) -> bool {
        if offset != STATUS {
            return false;
        }
        match &mut self.resetting {
            Some(0) => true,
            Some(u32::MAX) | None => false,
            Some(reads) => {
                *reads -= 1;
                false
            }
        }
    }

    /// Whether a slow reset has not ended.
    pub fn is_resetting(&self) -> bool {
        self.resetting.is_some()
    }

    /// Whether the reset that the driver begins with this write ends at once.
    fn reset_ends(&mut self) -> bool {
        if self.resetting.is_some() {
            return false;
        }
        match self.slow_reset {
            Some((0, reads)) => {
                self.resetting = Some(reads);
                self.slow_reset = None;
                false
            }
            Some((after, reads)) => {
                self.slow_reset = Some((after - 1, reads));
                true
            }
            None => true,
        }
    }

    /// Sets the status that firmware left, which used the device before the driver.
    pub fn left_with(&mut self, status: u8) {
        self.status = status;
    }

    /// The device status.
    pub fn status(&self) -> u8 {
        self.status
    }

    /// The features that the driver accepted; 0 before FEATURES_OK.
    pub fn agreed(&self) -> u64 {
        if self.status & FEATURES_OK != 0 {
            self.driver_features
        } else {
            0
        }
    }

    /// The vector of configuration changes.
    pub fn config_vector(&self) -> u16 {
        self.config_vector
    }

    /// The ring of queue `index`, if it is in use.
    pub fn ring(&self, index: u16) -> Option<Ring> {
        let queue = self.queues.get(usize::from(index))?;
        queue.enabled.then_some(queue.ring)
    }

    /// The vector of queue `index`.
    pub fn queue_vector(&self, index: u16) -> u16 {
        self.queues
            .get(usize::from(index))
            .map_or(NO_VECTOR, |queue| queue.vector)
    }

    /// Resets all registers. The queues must have stopped.
    pub fn reset(&mut self) {
        let generation = self.generation;
        self.power_cycle();
        // Not reset, because the driver may hold a configuration that it read before.
        self.generation = generation;
        self.untouched = false;
        self.reset_unread = true;
    }

    /// Gives all registers the values that they have after power-on.
    pub(crate) fn power_cycle(&mut self) {
        let queues = self.queues.len() as u16;
        *self = Self {
            faults: std::mem::take(&mut self.faults),
            slow_reset: self.slow_reset,
            ..Self::new(self.offered, queues, self.queue_size, self.vectors)
        };
    }

    /// Marks queue `index` as in use: `queue_enable` reads 1 from now on.
    pub fn queue_in_use(&mut self, index: u16) {
        if let Some(queue) = self.queues.get_mut(usize::from(index)) {
            queue.enabled = true;
        }
    }

    /// Sets DEVICE_NEEDS_RESET, because the device cannot go on (VIRTIO 1.3 §2.1.2). Returns
    /// whether the driver must be interrupted.
    pub fn needs_reset(&mut self) -> bool {
        self.status |= NEEDS_RESET;
        self.status & DRIVER_OK != 0
    }

    /// Notes that the device-specific configuration changed.
    pub fn configuration_changed(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }

    /// Reads a field.
    pub fn read(&mut self, offset: u64, data: &mut [u8], driver_errors: &DriverErrors) {
        if field_at(offset, data.len(), driver_errors).is_none() {
            data.fill(0);
            return;
        }
        let value = self.value(offset);
        data.copy_from_slice(&value.to_le_bytes()[..data.len()]);
        if offset == GENERATION && self.faults.generation_runs {
            self.configuration_changed();
        }
        replace(&self.faults.reads, offset, data);
    }

    /// The value of the field at `at`.
    fn value(&mut self, at: u64) -> u32 {
        match at {
            DEVICE_FEATURE_SELECT => self.device_feature_select,
            DEVICE_FEATURE => word(self.offered, self.device_feature_select),
            DRIVER_FEATURE_SELECT => self.driver_feature_select,
            DRIVER_FEATURE => word(self.driver_features, self.driver_feature_select),
            CONFIG_VECTOR => {
                self.config_vector_unread = false;
                self.config_vector.into()
            }
            NUM_QUEUES => self.queues.len() as u32,
            STATUS => {
                self.reset_unread = false;
                self.features_unread = false;
                self.status.into()
            }
            GENERATION => self.generation.into(),
            QUEUE_SELECT | QUEUE_NOTIFY_OFF => self.queue_select.into(),
            _ => match self.selected() {
                Some(queue) => queue.value(at),
                None if at == QUEUE_VECTOR => NO_VECTOR.into(),
                None => 0,
            },
        }
    }

    fn selected(&mut self) -> Option<&mut QueueRegisters> {
        self.queues.get_mut(usize::from(self.queue_select))
    }

    /// Writes a field. `msix` is whether MSI-X is enabled.
    pub fn write(
        &mut self,
        offset: u64,
        data: &[u8],
        msix: bool,
        driver_errors: &DriverErrors,
    ) -> Effect {
        let Some(name) = field_at(offset, data.len(), driver_errors) else {
            return Effect::None;
        };
        let mut bytes = [0; 4];
        bytes[..data.len()].copy_from_slice(data);
        let value = u32::from_le_bytes(bytes);
        // Only initialization must wait for the reset. Selecting a field to read, another
        // reset, and removing a mapping need not.
        let initialises = match offset {
            STATUS => value != 0,
            DEVICE_FEATURE_SELECT | DRIVER_FEATURE_SELECT | QUEUE_SELECT => false,
            CONFIG_VECTOR | QUEUE_VECTOR => value != u32::from(NO_VECTOR),
            _ => true,
        };
        // V07.
        if self.reset_unread && initialises {
            driver_errors.add(format!(
                "{name} was written after a reset that was not seen to finish: device_status \
                 must read 0 first (VIRTIO 1.3 §4.1.4.3.2)"
            ));
        }
        match offset {
            DEVICE_FEATURE_SELECT => self.device_feature_select = value,
            DRIVER_FEATURE_SELECT => self.driver_feature_select = value,
            DRIVER_FEATURE => self.write_features(value, driver_errors),
            CONFIG_VECTOR => {
                self.config_vector = self.mapped(value as u16, driver_errors);
                // Only a mapping must be read back.
                self.config_vector_unread = value as u16 != NO_VECTOR;
            }
            STATUS => return self.write_status(value as u8, msix, driver_errors),
            QUEUE_SELECT => self.queue_select = value as u16,
            // V64.
            DEVICE_FEATURE | NUM_QUEUES | GENERATION | QUEUE_NOTIFY_OFF => {
                driver_errors.add(format!(
                    "{name} was written, which is read-only (VIRTIO 1.3 §4.1.4.3.2)"
                ));
            }
            _ => return self.write_queue(offset, name, value, msix, driver_errors),
        }
        Effect::None
    }

    /// The vector that the device maps an event to when the driver requests `vector`.
    fn mapped(&self, vector: u16, driver_errors: &DriverErrors) -> u16 {
        if vector < self.vectors || vector == NO_VECTOR {
            return vector;
        }
        driver_errors.add(format!(
            // V70.
            "MSI-X vector {vector} was requested, but the table has {} (VIRTIO 1.3 §4.1.5.1.2.2)",
            self.vectors
        ));
        NO_VECTOR
    }

    fn write_features(&mut self, value: u32, driver_errors: &DriverErrors) {
        if self.status & FEATURES_OK != 0 {
            // V12.
            driver_errors.add("features were written after FEATURES_OK (VIRTIO 1.3 §3.1.1)");
            return;
        }
        if self.status & DRIVER == 0 {
            // V11.
            driver_errors.add("features were written before DRIVER (VIRTIO 1.3 §3.1.1)");
        }
        let Some(shift) = self
            .driver_feature_select
            .checked_mul(32)
            .filter(|shift| *shift < 64)
        else {
            if value != 0 {
                driver_errors.add(format!(
                    // V06.
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
            return if self.reset_ends() {
                Effect::Reset
            } else {
                Effect::None
            };
        }
        // V11.
        if self.untouched {
            driver_errors
                .add("the device was not reset before its initialisation (VIRTIO 1.3 §3.1.1)");
            self.untouched = false;
        }
        // The driver may not have seen NEEDS_RESET yet, which the device sets.
        let old = self.status & !NEEDS_RESET;
        // V01.
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
        // V02.
        if old & FAILED != 0 && new != 0 {
            driver_errors
                .add("the initialisation went on after FAILED without a reset (VIRTIO 1.3 §2.1.1)");
        }
        // V11.
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
            && (self.faults.refuses_features || !self.features_acceptable(driver_errors))
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
        // V04, V06.
        let foreign = self.driver_features & !self.offered;
        if foreign != 0 {
            driver_errors.add(format!(
                "features {foreign:#x} were accepted, which are not offered (VIRTIO 1.3 §2.2.1)"
            ));
        }
        let version_1 = 1 << VIRTIO_F_VERSION_1;
        let legacy = self.offered & !self.driver_features & version_1 != 0;
        // V18.
        if legacy {
            driver_errors.add("VIRTIO_F_VERSION_1 was not accepted (VIRTIO 1.3 §6.1)");
        }
        foreign == 0 && !legacy
    }

    fn check_before_start(&self, msix: bool, driver_errors: &DriverErrors) {
        // V11.
        if self.features_unread {
            driver_errors
                .add("FEATURES_OK was not read back before DRIVER_OK (VIRTIO 1.3 §3.1.1, step 6)");
        }
        // V70.
        if msix && self.config_vector_unread {
            driver_errors.add(
                "config_msix_vector was not read back after it was written (VIRTIO 1.3 \
                 §4.1.5.1.2.2)",
            );
        }
    }

    fn write_queue(
        &mut self,
        at: u64,
        name: &str,
        value: u32,
        msix: bool,
        driver_errors: &DriverErrors,
    ) -> Effect {
        let index = self.queue_select;
        let status = self.status;
        let most = self.queue_size;
        let is_packed = self.agreed() & 1 << VIRTIO_F_RING_PACKED != 0;
        let vector = match at {
            QUEUE_VECTOR => self.mapped(value as u16, driver_errors),
            _ => NO_VECTOR,
        };
        let Some(queue) = self.selected() else {
            driver_errors.add(format!(
                "{name} of queue {index} was written: no such queue"
            ));
            return Effect::None;
        };
        // Only initialization has an order, and it begins with ACKNOWLEDGE. Between a reset and
        // ACKNOWLEDGE, drivers may clear fields and release vectors.
        let begun = status & ACKNOWLEDGE != 0 || at == QUEUE_ENABLE;
        let unmaps = at == QUEUE_VECTOR && value == u32::from(NO_VECTOR);
        queue.early &= !setup_bit(at);
        if status & FEATURES_OK == 0 {
            if !begun {
                queue.early |= setup_bit(at);
            // V11, V12.
            } else if !unmaps {
                driver_errors.add(format!(
                    "{name} was written before FEATURES_OK (VIRTIO 1.3 §3.1.1)"
                ));
            }
        }
        // V66. A vector may change at any time, because the device does not derive memory from it.
        if queue.enabled && at != QUEUE_VECTOR {
            driver_errors.add(format!(
                "{name} of queue {index} was written with {value:#x} while the queue is \
                 enabled (VIRTIO 1.3 §4.1.4.3.2)"
            ));
            return Effect::None;
        }
        queue.written |= setup_bit(at);
        match at {
            QUEUE_SIZE => {
                let size = value as u16;
                // V65.
                let is_possible = size.is_power_of_two() || is_packed && size > 0;
                if is_possible && size <= most {
                    queue.ring.size = size;
                } else {
                    driver_errors.add(format!(
                        "queue size {size} was written: it must be a power of 2 for a split ring, \
                         not 0, and at most {most} (VIRTIO 1.3 §4.1.4.3.2)"
                    ));
                }
            }
            QUEUE_VECTOR => {
                queue.vector = vector;
                queue.vector_unread = !unmaps;
            }
            QUEUE_DESC.. => {
                let (address, shift) = queue.ring.address(at);
                *address = *address & !(0xffff_ffff << shift) | u64::from(value) << shift;
            }
            _ => {
                // V66.
                if value != 1 {
                    driver_errors.add(format!(
                        "{value} was written to queue_enable of queue {index}; it must be 1 \
                         (VIRTIO 1.3 §4.1.4.3.2)"
                    ));
                    return Effect::None;
                }
                // V66.
                if queue.written & ADDRESSES != ADDRESSES {
                    driver_errors.add(format!(
                        "queue {index} was enabled before all of its addresses were written \
                         (VIRTIO 1.3 §4.1.4.3.2)"
                    ));
                }
                // V11.
                if queue.early != 0 {
                    driver_errors.add(format!(
                        "queue {index} was enabled with fields that were written before \
                         FEATURES_OK (VIRTIO 1.3 §3.1.1)"
                    ));
                }
                // V70.
                if msix && queue.vector_unread {
                    driver_errors.add(format!(
                        "queue_msix_vector of queue {index} was not read back after it was \
                         written (VIRTIO 1.3 §4.1.5.1.2.2)"
                    ));
                }
                // V11.
                if status & DRIVER_OK != 0 {
                    driver_errors.add(format!(
                        "queue {index} was enabled after DRIVER_OK (VIRTIO 1.3 §3.1.1, step 7)"
                    ));
                }
                return Effect::Enable(index, queue.ring);
            }
        }
        Effect::None
    }
}

/// The name of the field that an access of `bytes` bytes at `offset` is for, if the specification
/// allows it (VIRTIO 1.3 §4.1.3.1).
fn field_at(offset: u64, bytes: usize, driver_errors: &DriverErrors) -> Option<&'static str> {
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
            // V61.
            "common configuration: an access of {bytes} bytes at {offset:#x}: {why}"
        ));
    }
    hit.map(|(_, _, name)| *name)
}

/// The 32 feature bits that `select` selects.
fn word(features: u64, select: u32) -> u32 {
    match select {
        0 => features as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFERED: u64 = 1 << VIRTIO_F_VERSION_1 | 1 << 29 | 1 << 9;

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
            let mut bench = Self::accepting(OFFERED);
            let status = ACKNOWLEDGE | DRIVER | FEATURES_OK;
            assert_eq!(bench.status(status), Effect::FeaturesAgreed(OFFERED));
            assert_eq!(bench.read_status(), status);
            bench
        }

        /// A device after DRIVER_OK, with queue 0 enabled.
        fn ready() -> Self {
            let mut bench = Self::agreed().enabled();
            assert_eq!(bench.status(0x0f), Effect::Start);
            bench.nothing_wrong();
            bench
        }

        /// A device whose driver has set ACKNOWLEDGE.
        fn acknowledged() -> Self {
            Self::reset().after::<1>(STATUS, ACKNOWLEDGE.into())
        }

        /// A device whose driver has set DRIVER and accepted `features`.
        fn accepting(features: u64) -> Self {
            let driver = ACKNOWLEDGE | DRIVER;
            let mut bench = Self::acknowledged().after::<1>(STATUS, driver.into());
            bench.accept(features);
            bench
        }

        /// A device before DRIVER_OK, with queue 0 enabled.
        fn enabled(mut self) -> Self {
            self.set_up_queue();
            let effect = self.set::<2>(QUEUE_ENABLE, 1);
            assert!(matches!(effect, Effect::Enable(0, _)));
            self.registers.queue_in_use(0);
            self
        }

        /// The bench after a write that is no driver error.
        fn after<const N: usize>(mut self, offset: u64, value: u32) -> Self {
            self.set::<N>(offset, value);
            self.nothing_wrong();
            self
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

    /// V01, V02, V04, V06, V07, V11, V12, V18, V64, V65, V66, V70.
    #[test]
    fn each_forbidden_write_is_a_driver_error() {
        let (new, reset, known) = (Bench::new, Bench::reset, Bench::acknowledged);
        let (agreed, ready) = (Bench::agreed, Bench::ready);
        let absent = || Bench::agreed().after::<2>(QUEUE_SELECT, 2);
        let unseen = || {
            let mut bench = Bench::new().after::<1>(STATUS, 0);
            bench.registers.reset();
            bench
        };
        let failed = || Bench::acknowledged().after::<1>(STATUS, u32::from(ACKNOWLEDGE | FAILED));
        let foreign = || Bench::accepting(OFFERED | 1 << 34);
        let legacy = || Bench::accepting(1 << 9);
        let above = || {
            Bench::accepting(0)
                .after::<4>(DRIVER_FEATURE_SELECT, 2)
                .after::<4>(DRIVER_FEATURE, 0)
        };
        let set_up = || {
            let mut bench = Bench::agreed();
            bench.set_up_queue();
            bench
        };
        // The state of the device, the write, the error, and the value of the register afterwards.
        type Case = (fn() -> Bench, u64, usize, u32, &'static str, u32);
        let cases: [Case; 29] = [
            (new, STATUS, 1, 0x01, "not reset", 0x01),
            (unseen, STATUS, 1, 0x01, "not seen to finish", 0x01),
            (ready, STATUS, 1, 0x01, "were cleared", 0x0f),
            (reset, STATUS, 1, 0x21, "status bits 0x20", 0x01),
            (reset, STATUS, 1, 0x02, "DRIVER was set before ACK", 0x02),
            (reset, STATUS, 1, 0x03, "DRIVER was set before ACK", 0x03),
            (foreign, STATUS, 1, 0x0b, "not offered", 0x03),
            (legacy, STATUS, 1, 0x0b, "VERSION_1", 0x03),
            (failed, STATUS, 1, 0x83, "after FAILED", 0x83),
            (known, DRIVER_FEATURE, 4, 1, "before DRIVER", 1),
            (above, DRIVER_FEATURE, 4, 1, "above bit 63", 0),
            (agreed, DRIVER_FEATURE, 4, 0, "after FEATURES_OK", 1),
            (agreed, DEVICE_FEATURE, 4, 7, "read-only", 0x2000_0200),
            (agreed, NUM_QUEUES, 2, 7, "read-only", 2),
            (agreed, GENERATION, 1, 7, "read-only", 0),
            (agreed, QUEUE_NOTIFY_OFF, 2, 7, "read-only", 0),
            (known, QUEUE_SIZE, 2, 64, "before FEATURES_OK", 64),
            (known, QUEUE_VECTOR, 2, 1, "before FEATURES_OK", 1),
            (absent, QUEUE_SIZE, 2, 64, "no such queue", 0),
            (absent, QUEUE_DESC, 4, 0x1000, "no such queue", 0),
            (agreed, QUEUE_SIZE, 2, 0, "power of 2", 256),
            (agreed, QUEUE_SIZE, 2, 3, "power of 2", 256),
            (agreed, QUEUE_SIZE, 2, 255, "power of 2", 256),
            (agreed, QUEUE_SIZE, 2, 512, "power of 2", 256),
            (agreed, QUEUE_VECTOR, 2, 3, "was requested", NONE),
            (agreed, CONFIG_VECTOR, 2, 0xfffe, "was requested", NONE),
            (set_up, QUEUE_ENABLE, 2, 0, "it must be 1", 0),
            (set_up, QUEUE_ENABLE, 2, 2, "it must be 1", 0),
            (ready, QUEUE_DESC, 4, 0x9000, "queue is enabled", 0x1000),
        ];
        for (bench, offset, width, value, error, afterwards) in cases {
            let mut bench = bench();
            let mut data = value.to_le_bytes();

            let Bench {
                registers,
                driver_errors,
            } = &mut bench;
            let effect = registers.write(offset, &data[..width], true, driver_errors);
            assert_eq!(effect, Effect::None, "{error}");
            let found = bench.driver_error();
            assert!(found.contains(error), "{found} is not {error}");

            data.fill(0);
            bench
                .registers
                .read(offset, &mut data[..width], &bench.driver_errors);
            assert_eq!(u32::from_le_bytes(data), afterwards, "{error}");
        }
    }

    /// V65.
    #[test]
    fn a_packed_ring_may_have_any_size_but_0() {
        for (size, errors) in [(1, 0), (3, 0), (255, 0), (256, 0), (0, 1), (257, 1)] {
            let features = OFFERED | 1 << VIRTIO_F_RING_PACKED;
            let mut bench = Bench::accepting(features);
            bench.registers.offered = features;
            bench.status(ACKNOWLEDGE | DRIVER | FEATURES_OK);

            bench.set::<2>(QUEUE_SIZE, size);

            assert_eq!(bench.driver_errors.count(), errors, "{size}");
        }
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
    fn a_second_reset_need_not_wait_for_the_first() {
        let mut bench = Bench::reset();
        bench.status(0);
        bench.registers.reset();

        assert_eq!(bench.status(0), Effect::Reset);

        bench.nothing_wrong();
    }

    /// V11.
    #[test]
    fn features_ok_before_driver_is_a_driver_error() {
        let mut bench = Bench::acknowledged();
        bench.registers.driver_features = OFFERED;

        bench.status(ACKNOWLEDGE | FEATURES_OK);

        let error = bench.driver_error();
        assert!(error.starts_with("FEATURES_OK was set before DRIVER"));
    }

    #[test]
    fn driver_ok_without_features_ok_starts_nothing() {
        let mut bench = Bench::accepting(0);

        let effect = bench.status(ACKNOWLEDGE | DRIVER | DRIVER_OK);

        assert_eq!(effect, Effect::None);
        assert_eq!(bench.read_status(), (ACKNOWLEDGE | DRIVER));
        let list = bench.driver_errors.list();
        assert!(
            list.iter()
                .any(|text| text.contains("DRIVER_OK was set before FEATURES_OK"))
        );
    }

    /// V11, V70.
    #[test]
    fn driver_ok_needs_features_ok_and_the_vector_read_back() {
        let features_unread = || {
            let mut bench = Bench::accepting(OFFERED);
            bench.status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
            bench.enabled()
        };
        let vector_unread = || Bench::agreed().enabled().after::<2>(CONFIG_VECTOR, 0);
        let cases: [(fn() -> Bench, _); 2] = [
            (features_unread, "not read back before DRIVER_OK"),
            (vector_unread, "config_msix_vector was not read back"),
        ];
        for (bench, error) in cases {
            let mut bench = bench();

            assert_eq!(bench.status(0x0f), Effect::Start);

            assert!(bench.driver_error().contains(error), "{error}");
        }
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

    /// V61.
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

        assert_eq!(bench.registers.queues[0].ring.device, 0x12_3456_7000);
        assert_eq!(bench.get::<4>(QUEUE_DEVICE + 4), 0x12);
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

    /// V11, V66, V70.
    #[test]
    fn each_queue_that_is_enabled_too_early_or_too_late_is_a_driver_error() {
        let known = Bench::acknowledged;
        let partial = || {
            Bench::agreed()
                .after::<4>(QUEUE_DESC, 0x1000)
                .after::<4>(QUEUE_DEVICE, 0x3000)
        };
        let early = || {
            let mut bench = Bench::reset().after::<4>(QUEUE_DESC, 0x1000);
            bench.status(ACKNOWLEDGE);
            bench.status(ACKNOWLEDGE | DRIVER);
            bench.accept(OFFERED);
            bench.status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
            bench.read_status();
            bench
                .after::<4>(QUEUE_DRIVER, 0x2000)
                .after::<4>(QUEUE_DEVICE, 0x3000)
        };
        let unread = || {
            let mut bench = Bench::agreed();
            bench.set_up_queue();
            bench.after::<2>(QUEUE_VECTOR, 0)
        };
        let late = || {
            let mut bench = Bench::ready().after::<2>(QUEUE_SELECT, 1);
            bench.set_up_queue();
            bench
        };
        let cases: [(fn() -> Bench, _); 5] = [
            (known, "before FEATURES_OK"),
            (partial, "before all of its addresses"),
            (early, "fields that were written before"),
            (unread, "queue_msix_vector of queue 0 was not read back"),
            (late, "after DRIVER_OK"),
        ];
        for (bench, error) in cases {
            let mut bench = bench();

            let effect = bench.set::<2>(QUEUE_ENABLE, 1);

            assert!(matches!(effect, Effect::Enable(..)), "{error}");
            let found = &bench.driver_errors.list()[0];
            assert!(found.contains(error), "{found} is not {error}");
        }
    }

    #[test]
    fn the_vector_of_a_queue_in_use_may_change() {
        let bench = Bench::ready().after::<2>(QUEUE_VECTOR, 2);

        assert_eq!(bench.registers.queue_vector(0), 2);
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
        bench.status(0x0f);

        bench.nothing_wrong();
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
