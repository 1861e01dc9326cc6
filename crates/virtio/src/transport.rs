//! The initialization of a virtio PCI device, from reset to `DRIVER_OK`, in the order that
//! the specification requires. Each step is a type, and only the step before it makes a
//! value of it (VIRTIO 1.3 §3.1.1).
//!
//! ```text
//! Device<Unknown> ─begin_reset→ <Resetting> ─poll→ <Reset> ─acknowledge→ <Driver>
//!                                            ─accept→ <Negotiated> ─start→ <Live>
//! ```
//!
//! A reset can begin at any step. A step that fails sets `FAILED` and returns a
//! `Device<R, Unknown>`. Otherwise only [`Device::give_up`] sets `FAILED`.
//!
//! A device that has confirmed a reset no longer uses its queues. [`Quiet`] is the proof of
//! that. Only a `Device<R, Reset>`, or a `Device<R, Removed>`, returns it, and a ring
//! requires it before it returns requests in flight.

use core::marker::PhantomData;

use virtio_spec::pci::IsrStatus;
use virtio_spec::{DeviceStatus, F, le128};

use crate::error::Error;
use crate::pci::{Layout, Structure};
use crate::queue_size::QueueSize;
use crate::registers::{Doorbell, Registers};

/// The device-independent features that this crate supports.
///
/// `ORDER_PLATFORM` requires barriers that order accesses as a hardware device sees them.
/// On x86-64 the barriers between processors do that. On Arm those of this crate order
/// accesses for processors only, so the feature is not accepted there. `ACCESS_PLATFORM`
/// needs no code here, because the system provides all addresses (see
/// [`crate::dma::DmaMemory`]).
pub const SUPPORTED: F = {
    let anywhere = F::VERSION_1
        .union(F::RING_PACKED)
        .union(F::INDIRECT_DESC)
        .union(F::EVENT_IDX)
        .union(F::ACCESS_PLATFORM);
    if cfg!(target_arch = "x86_64") {
        anywhere.union(F::ORDER_PLATFORM)
    } else {
        anywhere
    }
};

/// A set of the first 64 feature bits, in a form that can be stored in a device extension.
/// virtio-spec's [`F`] has 128 bits and needs an alignment of 16 bytes, which a device
/// extension does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features(u64);

impl Features {
    /// The set.
    #[must_use]
    pub fn get(self) -> F {
        F::from_bits_retain(le128::from_ne(u128::from(self.0)))
    }

    /// The set as bits.
    #[must_use]
    pub fn bits(self) -> u64 {
        self.0
    }
}

impl From<F> for Features {
    /// Keeps the first 64 bits. No other bit is defined (VIRTIO 1.3 §2.2), and
    /// [`Device::acknowledge`] reads no others.
    fn from(features: F) -> Self {
        Self(features.bits().to_ne() as u64)
    }
}

/// How often a configuration is read that changes during each read. Then it counts as
/// unstable.
const CONFIG_ATTEMPTS: u32 = 64;

/// The vector number that means "no vector" (VIRTIO 1.3 §4.1.5.1.2). virtio-spec has no
/// name for it.
const NO_VECTOR: u16 = 0xFFFF;

/// The value of each byte register of a removed device.
const GONE: u8 = 0xFF;

/// Offsets into the common configuration (VIRTIO 1.3 §4.1.4.3). virtio-spec has the
/// structure, but accesses its fields only through pointers. A test compares the two.
mod common {
    pub(super) const DEVICE_FEATURE_SELECT: usize = 0x00;
    pub(super) const DEVICE_FEATURE: usize = 0x04;
    pub(super) const DRIVER_FEATURE_SELECT: usize = 0x08;
    pub(super) const DRIVER_FEATURE: usize = 0x0C;
    pub(super) const CONFIG_MSIX_VECTOR: usize = 0x10;
    pub(super) const NUM_QUEUES: usize = 0x12;
    pub(super) const DEVICE_STATUS: usize = 0x14;
    pub(super) const CONFIG_GENERATION: usize = 0x15;
    pub(super) const QUEUE_SELECT: usize = 0x16;
    pub(super) const QUEUE_SIZE: usize = 0x18;
    pub(super) const QUEUE_MSIX_VECTOR: usize = 0x1A;
    pub(super) const QUEUE_ENABLE: usize = 0x1C;
    pub(super) const QUEUE_NOTIFY_OFF: usize = 0x1E;
    pub(super) const QUEUE_DESC: usize = 0x20;
    pub(super) const QUEUE_DRIVER: usize = 0x28;
    pub(super) const QUEUE_DEVICE: usize = 0x30;
}

/// The mapped windows of a device's structures, one for each
/// [`Location`](crate::pci::Location) of its [`Layout`].
#[derive(Clone, Copy, Debug)]
pub struct Windows<R> {
    /// Features, status and queue set-up.
    pub common: R,
    /// The notification addresses of the queues.
    pub notify: R,
    /// The interrupt status byte.
    pub isr: R,
    /// The device-specific configuration.
    pub device: R,
}

/// Only the device's location is known. The next step is a reset.
#[derive(Debug)]
pub struct Unknown(());

/// A reset has begun, and the device has not confirmed it yet.
#[derive(Debug)]
pub struct Resetting {
    /// The device status as read last.
    status: DeviceStatus,
}

/// The device has confirmed a reset.
#[derive(Debug)]
pub struct Reset(());

/// The device was removed, or no longer answers.
#[derive(Debug)]
pub struct Removed(());

/// The driver has set `ACKNOWLEDGE` and `DRIVER`, and has read the features that the device
/// offers.
#[derive(Debug)]
pub struct Driver {
    offered: Features,
}

/// The device has confirmed the features (`FEATURES_OK`). Its queues can be set up.
#[derive(Debug)]
pub struct Negotiated {
    accepted: Features,
    failed: Option<Error>,
}

/// The driver has set `DRIVER_OK`, and the device processes requests.
#[derive(Debug)]
pub struct Live {
    accepted: Features,
}

/// A virtio PCI device at step `S` of its initialization.
#[derive(Debug)]
pub struct Device<R, S = Unknown> {
    windows: Windows<R>,
    notify_multiplier: u32,
    vectors: u16,
    step: S,
}

/// A step that failed: the device has `FAILED` set and must be reset before
/// anything else (V02, V14).
#[derive(Debug)]
pub struct Failed<R> {
    /// The device. The caller resets it or gives it up.
    pub device: Device<R, Unknown>,
    /// What went wrong.
    pub error: Error,
}

/// Why a reset was not confirmed.
#[derive(Debug)]
pub enum ResetFailure<R> {
    /// The device is gone, so it uses no queue: see [`Device::quiet`].
    Removed(Device<R, Removed>),
    /// The status did not become 0 in the given number of polls. The device may still use
    /// its queues. The caller can poll it further, or reset it again.
    Stuck {
        /// The device.
        device: Device<R, Resetting>,
        /// The device status as read last.
        status: DeviceStatus,
    },
}

/// The result of one poll of a device that is being reset.
#[derive(Debug)]
#[must_use = "it holds the device"]
pub enum ResetPoll<R> {
    /// The device has confirmed the reset.
    Done(Device<R, Reset>),
    /// The device has not confirmed the reset yet. The caller decides how often and how long
    /// to poll.
    Pending(Device<R, Resetting>),
    /// The device is gone, so it uses no queue: see [`Device::quiet`].
    Removed(Device<R, Removed>),
}

/// The state of a live device, from its status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It works.
    Working,
    /// It asks for a reset, or has lost `DRIVER_OK`. It completes no more requests (V03).
    NeedsReset,
    /// It was removed.
    Gone,
}

/// Proof that the device uses no queue: it has confirmed a reset and was not started since,
/// or it is gone. It borrows the device, so the device cannot be started while the proof
/// exists.
#[derive(Clone, Copy, Debug)]
pub struct Quiet<'device>(PhantomData<&'device ()>);

#[cfg(test)]
#[cfg(loom)]
impl Quiet<'static> {
    /// Makes a proof for models, which have no device.
    pub(crate) const fn assumed() -> Self {
        Self(PhantomData)
    }
}

/// A queue of the device that is not configured yet.
#[derive(Debug)]
pub struct FoundQueue {
    index: u16,
    size: QueueSize,
    notify_offset: usize,
}

impl FoundQueue {
    /// The queue's number.
    #[must_use]
    pub fn index(&self) -> u16 {
        self.index
    }

    /// The size for the queue's ring: at most the size that the device reports.
    #[must_use]
    pub fn size(&self) -> QueueSize {
        self.size
    }
}

/// The size and the physical addresses of a ring, for the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingPlacement {
    /// The number of descriptors of the ring.
    pub size: QueueSize,
    /// Physical address of the descriptor area, a multiple of 16: the descriptor table, or the
    /// descriptor ring of a packed ring.
    pub descriptors: u64,
    /// Physical address of the driver area, a multiple of 4: the available ring, or the
    /// driver's event suppression structure.
    pub driver: u64,
    /// Physical address of the device area, a multiple of 4: the used ring, or the device's
    /// event suppression structure.
    pub device: u64,
}

impl RingPlacement {
    fn is_aligned(&self) -> bool {
        // V30, V50. The available ring of a split ring could also be a multiple of 2.
        self.descriptors.is_multiple_of(16)
            && self.driver.is_multiple_of(4)
            && self.device.is_multiple_of(4)
    }
}

/// A configured queue. [`Device<R, Live>::notifier`](Device::notifier) returns its
/// notifier.
#[derive(Debug)]
pub struct EnabledQueue<D> {
    index: u16,
    doorbell: D,
}

/// Sends a queue's available buffer notifications. Only a live device returns one (V13).
#[derive(Clone, Debug)]
pub struct Notifier<D> {
    doorbell: D,
    queue: u16,
}

impl<D: Doorbell> Notifier<D> {
    /// Notifies the device of new buffers, by a 16-bit write of the queue's number (V71).
    /// Runs at any IRQL.
    #[inline]
    pub fn notify(&self) {
        self.doorbell.write(self.queue);
    }
}

/// The ISR status register, for the interrupt routine of a pin (INTx).
#[derive(Debug)]
pub struct Isr<R> {
    isr: R,
}

impl<R: Registers> Isr<R> {
    /// Reads the status. This clears it, and the device deasserts its pin. Both bits may be
    /// set at once (V72). An empty status means that another device interrupted. If the
    /// device is gone, the status is empty too. Not for MSI-X (V68).
    #[inline]
    #[must_use]
    pub fn take(&self) -> IsrStatus {
        let status = self.isr.read_u8(0);
        if status == GONE {
            IsrStatus::empty()
        } else {
            IsrStatus::from_bits_retain(status)
        }
    }
}

/// The device status register, for callbacks that can neither wait nor own the [`Device`].
/// Its methods run at any IRQL and at any step.
#[derive(Clone, Debug)]
pub struct StatusRegister<R> {
    common: R,
}

impl<R: Registers> StatusRegister<R> {
    /// Reads the status once. Returns whether it confirms a reset, or the device is gone.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        read_status(&self.common).map_or(true, |status| status.is_empty())
    }

    /// Writes 0, which begins a reset, and does not wait for it. From then on
    /// [`Device::health`] returns [`Health::NeedsReset`]. The device may still use its queues:
    /// only [`Device::poll`] and [`Device::reset`] return the proof that it does not.
    pub fn begin_reset(&self) {
        self.common.write_u8(common::DEVICE_STATUS, 0);
    }
}

/// The device-specific configuration, for the code of the device type.
#[derive(Clone, Copy, Debug)]
pub struct ConfigSpace<'device, R> {
    common: &'device R,
    device: &'device R,
}

impl<R: Registers> ConfigSpace<'_, R> {
    /// Calls `read`, and returns its result if the configuration did not change meanwhile.
    /// Otherwise calls `read` again (V08).
    ///
    /// # Errors
    ///
    /// [`Error::ConfigUnstable`] after a bounded number of attempts.
    pub fn consistent<T>(&self, mut read: impl FnMut(&Self) -> T) -> Result<T, Error> {
        for _ in 0..CONFIG_ATTEMPTS {
            let before = self.common.read_u8(common::CONFIG_GENERATION);
            let value = read(self);
            if self.common.read_u8(common::CONFIG_GENERATION) == before {
                return Ok(value);
            }
        }
        Err(Error::ConfigUnstable)
    }

    /// Reads the byte at `offset`. Returns `None` if the device's configuration ends before
    /// it. The configuration may be longer than the driver knows (V10).
    #[must_use]
    pub fn u8(&self, offset: usize) -> Option<u8> {
        self.holds(offset, 1).then(|| self.device.read_u8(offset))
    }

    /// Reads the 16 bits at `offset`, a multiple of 2. Returns `None` as [`Self::u8`] does.
    #[must_use]
    pub fn u16(&self, offset: usize) -> Option<u16> {
        self.holds(offset, 2).then(|| self.device.read_u16(offset))
    }

    /// Reads the 32 bits at `offset`, a multiple of 4. Returns `None` as [`Self::u8`] does.
    #[must_use]
    pub fn u32(&self, offset: usize) -> Option<u32> {
        self.holds(offset, 4).then(|| self.device.read_u32(offset))
    }

    /// Reads the 64 bits at `offset`, a multiple of 4, as two halves (V61). Returns `None` as
    /// [`Self::u8`] does.
    #[must_use]
    pub fn u64(&self, offset: usize) -> Option<u64> {
        let low = self.u32(offset)?;
        let high = self.u32(offset.checked_add(4)?)?;
        Some(u64::from(high) << 32 | u64::from(low))
    }

    fn holds(&self, offset: usize, width: usize) -> bool {
        offset
            .checked_add(width)
            .is_some_and(|end| end <= self.device.length())
    }
}

impl<R: Registers> Device<R, Unknown> {
    /// Makes the device with the structures of `layout`, which `windows` map.
    ///
    /// # Errors
    ///
    /// [`Error::WindowShort`].
    pub fn new(layout: &Layout, windows: Windows<R>) -> Result<Self, Error> {
        for (structure, window) in [
            (Structure::Common, &windows.common),
            (Structure::Notify, &windows.notify),
            (Structure::Isr, &windows.isr),
            (Structure::Device, &windows.device),
        ] {
            let length = window.length();
            if u32::try_from(length).is_ok_and(|length| length < structure.shortest()) {
                return Err(Error::WindowShort { structure, length });
            }
        }
        Ok(Self {
            windows,
            notify_multiplier: layout.notify_multiplier,
            vectors: layout.msix_vectors,
            step: Unknown(()),
        })
    }
}

impl<R: Registers, S> Device<R, S> {
    /// Begins a reset: writes 0 to the status once. [`Device::poll`] returns whether the
    /// device has confirmed it (V07).
    ///
    /// A reset is possible at any step, and `FAILED` need not be set before. The caller must
    /// send no more notifications.
    pub fn begin_reset(self) -> Device<R, Resetting> {
        self.write_status(DeviceStatus::empty());
        self.at(Resetting {
            status: DeviceStatus::empty(),
        })
    }

    /// Resets the device and waits for the confirmation: [`Self::begin_reset`] and
    /// [`Device::wait`].
    ///
    /// # Errors
    ///
    /// [`ResetFailure`] if the device is gone or has not confirmed the reset.
    pub fn reset(
        self,
        polls: u32,
        pause: impl FnMut(),
    ) -> Result<Device<R, Reset>, ResetFailure<R>> {
        self.begin_reset().wait(polls, pause)
    }

    /// Sets `FAILED`: the driver gives the device up.
    #[must_use]
    pub fn give_up(self) -> Device<R, Unknown> {
        self.set_failed();
        self.at(Unknown(()))
    }

    fn fail(self, error: Error) -> Failed<R> {
        Failed {
            device: self.give_up(),
            error,
        }
    }

    fn set_failed(&self) {
        // Only once, and not on a device that is gone.
        if let Ok(status) = self.read_status()
            && !status.contains(DeviceStatus::FAILED)
        {
            self.write_status(status.union(DeviceStatus::FAILED));
        }
    }

    fn at<T>(self, step: T) -> Device<R, T> {
        Device {
            windows: self.windows,
            notify_multiplier: self.notify_multiplier,
            vectors: self.vectors,
            step,
        }
    }

    fn read_status(&self) -> Result<DeviceStatus, Error> {
        read_status(&self.windows.common)
    }

    /// Sets a status bit, and keeps those that are set (V01).
    fn add_status(&self, bit: DeviceStatus) -> Result<(), Error> {
        self.write_status(self.read_status()?.union(bit));
        Ok(())
    }

    fn write_status(&self, status: DeviceStatus) {
        self.windows
            .common
            .write_u8(common::DEVICE_STATUS, status.bits());
    }
}

impl<R> Device<R, Resetting> {
    /// The device status as read last.
    #[must_use]
    pub fn status(&self) -> DeviceStatus {
        self.step.status
    }
}

impl<R: Registers> Device<R, Resetting> {
    /// Reads the status once: 0 confirms the reset (V07).
    pub fn poll(self) -> ResetPoll<R> {
        match self.read_status() {
            Err(_) => ResetPoll::Removed(self.at(Removed(()))),
            Ok(status) if status.is_empty() => ResetPoll::Done(self.at(Reset(()))),
            Ok(status) => ResetPoll::Pending(self.at(Resetting { status })),
        }
    }

    /// Waits for the confirmation of the reset: calls [`Self::poll`] up to `polls` times, and
    /// `pause` after each poll.
    ///
    /// # Errors
    ///
    /// [`ResetFailure`] if the device is gone or has not confirmed the reset.
    pub fn wait(
        self,
        polls: u32,
        mut pause: impl FnMut(),
    ) -> Result<Device<R, Reset>, ResetFailure<R>> {
        let mut device = self;
        for _ in 0..polls {
            device = match device.poll() {
                ResetPoll::Done(device) => return Ok(device),
                ResetPoll::Removed(device) => return Err(ResetFailure::Removed(device)),
                ResetPoll::Pending(device) => device,
            };
            pause();
        }
        Err(ResetFailure::Stuck {
            status: device.step.status,
            device,
        })
    }
}

impl<R: Registers + Clone, S> Device<R, S> {
    /// The ISR status register, as a handle that can be kept. It may be read at any step: the
    /// pin can interrupt before the device is set up and after a reset.
    #[must_use]
    pub fn isr(&self) -> Isr<R> {
        Isr {
            isr: self.windows.isr.clone(),
        }
    }

    /// The device status register, as a handle that can be cloned and kept.
    #[must_use]
    pub fn status_register(&self) -> StatusRegister<R> {
        StatusRegister {
            common: self.windows.common.clone(),
        }
    }
}

impl<R> Device<R, Removed> {
    /// Returns the proof that the device uses no queue: it is gone.
    #[must_use]
    pub fn quiet(&self) -> Quiet<'_> {
        Quiet(PhantomData)
    }
}

impl<R> Device<R, Reset> {
    /// Returns the proof that the device uses no queue: it has confirmed a reset.
    #[must_use]
    pub fn quiet(&self) -> Quiet<'_> {
        Quiet(PhantomData)
    }
}

impl<R: Registers> Device<R, Reset> {
    /// Sets `ACKNOWLEDGE` and `DRIVER`, and reads the features that the device offers.
    ///
    /// # Errors
    ///
    /// [`Error::Gone`].
    pub fn acknowledge(self) -> Result<Device<R, Driver>, Failed<R>> {
        match self.announce() {
            Ok(()) => {
                let offered = self.read_offered().into();
                Ok(self.at(Driver { offered }))
            }
            Err(error) => Err(self.fail(error)),
        }
    }

    fn announce(&self) -> Result<(), Error> {
        self.add_status(DeviceStatus::ACKNOWLEDGE)?;
        self.add_status(DeviceStatus::DRIVER)
    }

    /// Reads the first 64 feature bits. No others are defined (VIRTIO 1.3 §2.2).
    fn read_offered(&self) -> F {
        let half = |select| {
            let common = &self.windows.common;
            common.write_u32(common::DEVICE_FEATURE_SELECT, select);
            u128::from(common.read_u32(common::DEVICE_FEATURE))
        };
        let low = half(0);
        F::from_bits_retain(le128::from_ne(half(1) << 32 | low))
    }
}

impl<R: Registers> Device<R, Driver> {
    /// The features that the device offered when they were read.
    #[must_use]
    pub fn offered(&self) -> F {
        self.step.offered.get()
    }

    /// Accepts `features`, and checks that the device confirms them. They must include
    /// `VERSION_1`. Their device-independent bits must be among [`SUPPORTED`].
    ///
    /// # Errors
    ///
    /// [`Error::NotModern`], [`Error::NotAcceptable`],
    /// [`Error::FeaturesRefused`], [`Error::Gone`].
    pub fn accept(self, features: F) -> Result<Device<R, Negotiated>, Failed<R>> {
        match self.negotiate(features) {
            Ok(()) => Ok(self.at(Negotiated {
                accepted: features.into(),
                failed: None,
            })),
            Err(error) => Err(self.fail(error)),
        }
    }

    fn negotiate(&self, features: F) -> Result<(), Error> {
        let offered = self.step.offered.get();
        if !offered.contains(F::VERSION_1) {
            return Err(Error::NotModern);
        }
        let acceptable = offered.intersection(SUPPORTED.union(device_type_features()));
        let beyond = features.difference(acceptable);
        if !beyond.is_empty() || !features.contains(F::VERSION_1) {
            let features = beyond.union(F::VERSION_1.difference(features));
            return Err(Error::NotAcceptable { features });
        }

        let common = &self.windows.common;
        let bits = features.bits().to_ne();
        for (select, half) in [(0, bits as u32), (1, (bits >> 32) as u32)] {
            common.write_u32(common::DRIVER_FEATURE_SELECT, select);
            common.write_u32(common::DRIVER_FEATURE, half);
        }
        self.add_status(DeviceStatus::FEATURES_OK)?;
        if self.read_status()?.contains(DeviceStatus::FEATURES_OK) {
            Ok(())
        } else {
            Err(Error::FeaturesRefused { features })
        }
    }
}

/// The feature bits of the device type: 0 to 23, and from 50 on (VIRTIO 1.3 §2.2).
const fn device_type_features() -> F {
    F::from_bits_retain(le128::from_ne(!(((1 << 50) - 1) & !((1 << 24) - 1))))
}

impl<R: Registers> Device<R, Negotiated> {
    /// The negotiated features.
    #[must_use]
    pub fn accepted(&self) -> F {
        self.step.accepted.get()
    }

    /// The device-specific configuration.
    #[must_use]
    pub fn config(&self) -> ConfigSpace<'_, R> {
        self.windows.config()
    }

    /// The number of queues that the device has.
    #[must_use]
    pub fn queues(&self) -> u16 {
        self.windows.common.read_u16(common::NUM_QUEUES)
    }

    /// Finds queue `index`, for a ring of at most `largest` descriptors (V65).
    ///
    /// # Errors
    ///
    /// The device has no usable queue of this number. `FAILED` is set then, and
    /// [`Device::start`] fails.
    pub fn find_queue(&mut self, index: u16, largest: QueueSize) -> Result<FoundQueue, Error> {
        let found = self.look_up_queue(index, largest);
        self.record_failure(found)
    }

    /// As [`find_queue`](Self::find_queue), for a queue that the driver can do without. If it
    /// cannot be used, the device can be started nevertheless.
    ///
    /// # Errors
    ///
    /// The device has no usable queue of this number.
    pub fn probe_queue(&self, index: u16, largest: QueueSize) -> Result<FoundQueue, Error> {
        self.look_up_queue(index, largest)
    }

    fn look_up_queue(&self, index: u16, largest: QueueSize) -> Result<FoundQueue, Error> {
        let common = &self.windows.common;
        let queues = common.read_u16(common::NUM_QUEUES);
        if index >= queues {
            return Err(Error::NoQueue { index, queues });
        }
        common.write_u16(common::QUEUE_SELECT, index);
        let found = common.read_u16(common::QUEUE_SIZE);
        let size = match found {
            0 => return Err(Error::QueueUnavailable { index }),
            // A packed ring may have any size, and the driver may use a smaller one.
            size if self.step.accepted.get().contains(F::RING_PACKED) => QueueSize::at_most(size),
            size => QueueSize::new(size),
        };
        let size = size.ok_or(Error::QueueSize { index, size: found })?;
        if common.read_u16(common::QUEUE_ENABLE) != 0 {
            return Err(Error::QueueInUse { index });
        }
        Ok(FoundQueue {
            index,
            size: size.min(largest),
            notify_offset: self
                .notify_offset_of(index, common.read_u16(common::QUEUE_NOTIFY_OFF))?,
        })
    }

    /// The offset of the notification address, which must lie inside the window (VIRTIO 1.3
    /// §4.1.4.4).
    fn notify_offset_of(&self, index: u16, notify_off: u16) -> Result<usize, Error> {
        // 16 bits by 32 bits: fits 48.
        let offset = u64::from(notify_off).wrapping_mul(u64::from(self.notify_multiplier));
        let length = self.windows.notify.length();
        usize::try_from(offset)
            .ok()
            .filter(|at| at.checked_add(2).is_some_and(|end| end <= length))
            .filter(|at| at.is_multiple_of(2))
            .ok_or(Error::NotifyAddressOutside {
                index,
                offset,
                length,
            })
    }

    /// Routes configuration changes to MSI-X vector `vector`.
    ///
    /// # Errors
    ///
    /// [`Error`]; the device has no vector for them then.
    pub fn route_config(&mut self, vector: u16) -> Result<(), Error> {
        self.route(common::CONFIG_MSIX_VECTOR, vector)
    }

    /// Routes the interrupts of `queue` to MSI-X vector `vector`. A queue without a vector
    /// interrupts by INTx, or not at all if MSI-X is enabled.
    ///
    /// # Errors
    ///
    /// [`Error`]; the queue has no vector then.
    pub fn route_queue(&mut self, queue: &FoundQueue, vector: u16) -> Result<(), Error> {
        self.windows
            .common
            .write_u16(common::QUEUE_SELECT, queue.index);
        self.route(common::QUEUE_MSIX_VECTOR, vector)
    }

    fn route(&self, register: usize, vector: u16) -> Result<(), Error> {
        if vector >= self.vectors {
            return Err(Error::VectorBeyondTable {
                vector,
                table_size: self.vectors,
            });
        }
        let common = &self.windows.common;
        common.write_u16(register, vector);
        match common.read_u16(register) {
            found if found == vector => Ok(()),
            found => {
                common.write_u16(register, NO_VECTOR);
                Err(Error::VectorRefused { vector, found })
            }
        }
    }

    /// Configures `queue` with its ring, and then enables it. Never writes 0 to
    /// `queue_enable` (V66).
    ///
    /// # Errors
    ///
    /// [`Error::RingUnfit`], [`Error::QueueNotEnabled`].
    /// `FAILED` is set then, and [`Device::start`] fails.
    pub fn enable_queue(
        &mut self,
        queue: FoundQueue,
        ring: RingPlacement,
    ) -> Result<EnabledQueue<R::Doorbell>, Error> {
        let enabled = self.set_up_queue(queue, ring);
        self.record_failure(enabled)
    }

    fn set_up_queue(
        &self,
        queue: FoundQueue,
        ring: RingPlacement,
    ) -> Result<EnabledQueue<R::Doorbell>, Error> {
        let FoundQueue {
            index,
            notify_offset,
            ..
        } = queue;
        if ring.size > queue.size || !ring.is_aligned() {
            return Err(Error::RingUnfit { index });
        }
        let doorbell = self.windows.notify.doorbell(notify_offset);
        let doorbell = doorbell.ok_or(Error::NotifyAddressOutside {
            index,
            // Fits: a platform has pointers of 64 bits at most.
            offset: notify_offset as u64,
            length: self.windows.notify.length(),
        })?;
        let common = &self.windows.common;
        common.write_u16(common::QUEUE_SELECT, index);
        common.write_u16(common::QUEUE_SIZE, ring.size.get());
        write_u64(common, common::QUEUE_DESC, ring.descriptors);
        write_u64(common, common::QUEUE_DRIVER, ring.driver);
        write_u64(common, common::QUEUE_DEVICE, ring.device);
        common.write_u16(common::QUEUE_ENABLE, 1);
        if common.read_u16(common::QUEUE_ENABLE) == 1 {
            Ok(EnabledQueue { index, doorbell })
        } else {
            Err(Error::QueueNotEnabled { index })
        }
    }

    /// Sets `FAILED` with the first error, and remembers it.
    fn record_failure<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        if let Err(error) = &result
            && self.step.failed.is_none()
        {
            self.set_failed();
            self.step.failed = Some(*error);
        }
        result
    }

    /// Sets `DRIVER_OK`. From then on the device processes requests.
    ///
    /// # Errors
    ///
    /// The first error of the set-up, [`Error::Gone`] or
    /// [`Error::NeedsReset`].
    pub fn start(self) -> Result<Device<R, Live>, Failed<R>> {
        match self.set_driver_ok() {
            Ok(()) => {
                let accepted = self.step.accepted;
                Ok(self.at(Live { accepted }))
            }
            Err(error) => Err(self.fail(error)),
        }
    }

    fn set_driver_ok(&self) -> Result<(), Error> {
        if let Some(error) = self.step.failed {
            return Err(error);
        }
        self.add_status(DeviceStatus::DRIVER_OK)?;
        match health(self.read_status()) {
            Health::Working => Ok(()),
            Health::NeedsReset => Err(Error::NeedsReset),
            Health::Gone => Err(Error::Gone),
        }
    }
}

impl<R: Registers> Device<R, Live> {
    /// The negotiated features.
    #[must_use]
    pub fn accepted(&self) -> F {
        self.step.accepted.get()
    }

    /// The device-specific configuration. It may change while the device is live. The device
    /// then sends a configuration interrupt.
    #[must_use]
    pub fn config(&self) -> ConfigSpace<'_, R> {
        self.windows.config()
    }

    /// Reads the status once and returns the state of the device.
    #[must_use]
    pub fn health(&self) -> Health {
        health(self.read_status())
    }
}

impl<R> Device<R, Live> {
    /// The window of the device-specific configuration, for the device type's
    /// writable fields.
    pub(crate) fn config_window(&self) -> &R {
        &self.windows.device
    }
}

impl<R: Registers> Device<R, Live> {
    /// The notifier of a queue that was enabled before the start.
    #[must_use]
    pub fn notifier(&self, queue: EnabledQueue<R::Doorbell>) -> Notifier<R::Doorbell> {
        Notifier {
            doorbell: queue.doorbell,
            queue: queue.index,
        }
    }
}

impl<R> Windows<R> {
    fn config(&self) -> ConfigSpace<'_, R> {
        ConfigSpace {
            common: &self.common,
            device: &self.device,
        }
    }
}

fn read_status(common: &impl Registers) -> Result<DeviceStatus, Error> {
    match common.read_u8(common::DEVICE_STATUS) {
        GONE => Err(Error::Gone),
        status => Ok(DeviceStatus::from_bits_retain(status)),
    }
}

fn health(status: Result<DeviceStatus, Error>) -> Health {
    match status {
        Err(_) => Health::Gone,
        Ok(status)
            if status.contains(DeviceStatus::DRIVER_OK)
                && !status.contains(DeviceStatus::DEVICE_NEEDS_RESET) =>
        {
            Health::Working
        }
        Ok(_) => Health::NeedsReset,
    }
}

/// Writes a 64-bit register as its two halves, the low one first (V61).
fn write_u64(window: &impl Registers, offset: usize, value: u64) {
    // Each cast takes one half.
    window.write_u32(offset, value as u32);
    window.write_u32(offset.wrapping_add(4), (value >> 32) as u32);
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    #![expect(unsafe_code, reason = "virtio-spec names fields by pointers only")]

    use core::ptr::NonNull;

    use virtio_spec::pci::{CommonCfg, CommonCfgVolatileFieldAccess};
    use volatile::VolatilePtr;

    use super::*;

    #[test]
    fn the_common_configuration_has_the_layout_of_the_virtio_spec_crate() {
        let mut memory = [0_u32; size_of::<CommonCfg>() / 4];
        let start = NonNull::from(&mut memory).cast::<CommonCfg>();
        // SAFETY: The memory has this size and alignment, and is not read.
        let fields = unsafe { VolatilePtr::new(start) };
        let base = start.addr().get();
        let offset = |field: NonNull<()>| field.addr().get() - base;

        macro_rules! same {
            ($($field:ident: $ours:ident),* $(,)?) => {$(
                assert_eq!(
                    offset(fields.$field().as_raw_ptr().cast()),
                    common::$ours,
                    stringify!($field)
                );
            )*};
        }
        same! {
            device_feature_select: DEVICE_FEATURE_SELECT,
            device_feature: DEVICE_FEATURE,
            driver_feature_select: DRIVER_FEATURE_SELECT,
            driver_feature: DRIVER_FEATURE,
            config_msix_vector: CONFIG_MSIX_VECTOR,
            num_queues: NUM_QUEUES,
            device_status: DEVICE_STATUS,
            config_generation: CONFIG_GENERATION,
            queue_select: QUEUE_SELECT,
            queue_size: QUEUE_SIZE,
            queue_msix_vector: QUEUE_MSIX_VECTOR,
            queue_enable: QUEUE_ENABLE,
            queue_notify_off: QUEUE_NOTIFY_OFF,
            queue_desc_low: QUEUE_DESC,
            queue_driver_low: QUEUE_DRIVER,
            queue_device_low: QUEUE_DEVICE,
        }
    }

    #[test]
    fn features_are_stored_as_their_first_64_bits() {
        for bits in [0, 1, 1 << 63, 0x1234_5678_9ABC_DEF0] {
            let features = Features::from(F::from_bits_retain(le128::from_ne(bits)));

            assert_eq!(u128::from(features.bits()), bits);
            assert_eq!(features.get().bits().to_ne(), bits);
        }
    }

    /// V06.
    #[test]
    fn feature_bits_of_queue_and_negotiation_are_not_of_the_device_type() {
        let bits = device_type_features().bits().to_ne();

        for bit in 0..128 {
            assert_eq!(bits >> bit & 1 == 1, !(24..50).contains(&bit), "{bit}");
        }
    }
}
