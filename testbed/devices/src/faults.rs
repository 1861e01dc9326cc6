//! Faults of the disk that a test enables while a driver runs, and a record of what the disk
//! did.

use std::{
    ops::Range,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use testbed_virtio::lies::Lies;

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

impl Faults {
    /// The faults of the common configuration registers.
    pub(super) fn of_registers(&self) -> Lies {
        Lies {
            refuses_features: self.refuse_features,
            generation_runs: self.unstable_config,
            reads: self.common_reads.clone(),
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

    /// Counts a finished reset.
    pub(super) fn was_reset(&self) {
        self.lock().resets += 1;
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
