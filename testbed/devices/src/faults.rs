//! Faults of the disk that a test enables while a driver runs, and a record of what the disk
//! did.

use std::{
    ops::Range,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Faults that last until they are replaced.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Sectors of 512 bytes that cannot be read. A read that touches one fails with
    /// VIRTIO_BLK_S_IOERR.
    pub unreadable: Vec<Range<u64>>,
    /// Sectors that cannot be written.
    pub unwritable: Vec<Range<u64>>,
    /// A read or write that touches one of these sectors never completes: the
    /// device keeps it until it is reset.
    pub stalled: Vec<Range<u64>>,
    /// The delay before the device serves a notification.
    pub latency: Duration,
    /// Flush requests fail with VIRTIO_BLK_S_IOERR.
    pub flush_fails: bool,
    /// Flush requests never complete: the device keeps them until it is reset.
    pub flush_stalls: bool,
    /// `len` of each used element, in place of the bytes that were written.
    pub used_length: Option<u32>,
    /// `id` of each used element, in place of the request's.
    pub used_id: Option<u32>,
    /// The device writes no status byte.
    pub no_status: bool,
    /// The device clears FEATURES_OK when the driver sets it.
    pub refuse_features: bool,
    /// The device sets DEVICE_NEEDS_RESET when the driver sets DRIVER_OK after this many resets, or
    /// more.
    pub driver_ok_fails: Option<u64>,
    /// `config_generation` changes after each read of it.
    pub unstable_config: bool,
    /// Bytes of PCI configuration space that read as another value, by offset.
    pub pci_reads: Vec<(u16, u8)>,
    /// Registers of the common configuration that read as another value, by offset.
    /// The device works with the right values, here and in `device_reads`.
    pub common_reads: Vec<(u64, u32)>,
    /// Fields of the device-specific configuration that read as another value. A field of 64
    /// bits is two of 32.
    pub device_reads: Vec<(u64, u32)>,
}

/// Replaces the data of a read at `offset` if a fault requires it.
pub(super) fn replace(reads: &[(u64, u32)], offset: u64, data: &mut [u8]) {
    if let Some((_, value)) = reads.iter().find(|(at, _)| *at == offset) {
        for (byte, wrong) in data.iter_mut().zip(value.to_le_bytes()) {
            *byte = wrong;
        }
    }
}

/// When the device increments `used.idx` once without a used element. The
/// device's own count stays as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Glitch {
    /// At once, without an interrupt.
    Silent,
    /// At once, with an interrupt.
    Interrupt,
    /// When the device next marks a request used, with an interrupt for both.
    /// The device serves nothing more until it is reset.
    AtNextUsed,
    /// When the driver next enables the queue, before DRIVER_OK.
    AtQueueEnable,
    /// When the driver next sets DRIVER_OK, with an interrupt.
    AtDriverOk,
}

/// The operation of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// VIRTIO_BLK_T_IN: first sector and number of sectors.
    Read(u64, u64),
    /// VIRTIO_BLK_T_OUT.
    Write(u64, u64),
    /// VIRTIO_BLK_T_FLUSH.
    Flush,
    /// Any other type.
    Other(u32),
}

/// A request that the disk served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// The operation.
    pub operation: Operation,
    /// The status byte.
    pub status: u8,
    /// How many other requests the driver had made available before the disk
    /// marked this one used.
    pub waiting: u16,
}

/// The maximum number of entries in a record.
const MOST: usize = 0x1_0000;

/// One-shot faults, and the records.
#[derive(Debug, Default)]
struct State {
    glitch: Option<Glitch>,
    /// How often the armed glitch is skipped.
    skip: u32,
    /// The number of normal resets before the slow one, and the number of status reads that the
    /// slow one takes.
    slow_reset: Option<(u32, u32)>,
    /// The number of status reads until the current reset ends.
    resetting: Option<u32>,
    served: Vec<Served>,
    status_writes: Vec<u8>,
    resets: u64,
}

/// The state of the one-shot faults and the records, behind a lock.
#[derive(Debug, Default)]
pub(super) struct Oddities(Mutex<State>);

impl Oddities {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Arms a glitch, which happens after `skip` opportunities.
    pub(super) fn arm(&self, glitch: Glitch, skip: u32) {
        let mut state = self.lock();
        state.glitch = Some(glitch);
        state.skip = skip;
    }

    /// Whether `glitch` is due. Disarms it then.
    pub(super) fn take(&self, glitch: Glitch) -> bool {
        let mut state = self.lock();
        if state.glitch != Some(glitch) {
            return false;
        }
        match state.skip.checked_sub(1) {
            Some(left) => state.skip = left,
            None => state.glitch = None,
        }
        state.glitch.is_none()
    }

    /// Makes a later reset slow.
    pub(super) fn slow_reset(&self, after: u32, reads: u32) {
        self.lock().slow_reset = Some((after, reads));
    }

    /// Begins a reset by the driver. Returns whether it ends at once.
    pub(super) fn reset_ends(&self) -> bool {
        let mut state = self.lock();
        if state.resetting.is_some() {
            return false;
        }
        match &mut state.slow_reset {
            Some((0, reads)) => {
                state.resetting = Some(*reads);
                state.slow_reset = None;
                false
            }
            Some((after, _)) => {
                *after -= 1;
                true
            }
            None => true,
        }
    }

    /// Notes a read of the status. Returns whether it ends a slow reset.
    pub(super) fn reset_ends_now(&self) -> bool {
        let mut state = self.lock();
        match &mut state.resetting {
            Some(0) => {
                state.resetting = None;
                true
            }
            Some(u32::MAX) | None => false,
            Some(reads) => {
                *reads -= 1;
                false
            }
        }
    }

    /// Counts a finished reset.
    pub(super) fn was_reset(&self) {
        let mut state = self.lock();
        state.resetting = None;
        state.resets += 1;
    }

    /// Ends a reset that is under way, because the function loses power.
    pub(super) fn power_cycled(&self) {
        self.lock().resetting = None;
    }

    /// Lets a reset end that would never end.
    pub(super) fn finish_reset(&self) {
        if let Some(reads) = &mut self.lock().resetting {
            *reads = 0;
        }
    }

    /// The number of finished resets.
    pub(super) fn resets(&self) -> u64 {
        self.lock().resets
    }

    /// Records a request. Returns whether [`Glitch::AtNextUsed`] is due, and disarms it then.
    pub(super) fn record(&self, served: Served) -> bool {
        let mut state = self.lock();
        if state.served.len() < MOST {
            state.served.push(served);
        }
        let armed = |glitch: &mut Glitch| *glitch == Glitch::AtNextUsed;
        state.glitch.take_if(armed).is_some()
    }

    pub(super) fn record_status(&self, status: u8) {
        let record = &mut self.lock().status_writes;
        if record.len() < MOST {
            record.push(status);
        }
    }

    /// The requests served since the last call.
    pub(super) fn take_served(&self) -> Vec<Served> {
        std::mem::take(&mut self.lock().served)
    }

    /// What the driver has written to the device status, from the start.
    pub(super) fn status_writes(&self) -> Vec<u8> {
        self.lock().status_writes.clone()
    }
}
