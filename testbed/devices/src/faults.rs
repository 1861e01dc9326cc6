//! Faults of the disk that a test enables while a driver runs, and a record of what the disk
//! did.

use std::{ops::Range, time::Duration};

use testbed_virtio::common_config::RegisterFaults;

/// Faults that last until they are replaced, or until the next reset.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// The only queue whose requests have faults. `None`: those of every queue.
    pub queue: Option<u16>,
    /// All faults end with the next reset of the device.
    pub until_reset: bool,
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
    /// The length in each used element or used descriptor, in place of the bytes that were
    /// written.
    pub used_length: Option<u32>,
    /// The id in each used element or used descriptor, in place of the request's. A used
    /// descriptor has the low 16 bits of it.
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
    /// Whether requests in `queue` have faults.
    pub(super) fn are_in(&self, queue: u16) -> bool {
        self.queue.is_none_or(|faulty| faulty == queue)
    }

    /// The faults of the common configuration registers.
    pub(super) fn of_registers(&self) -> RegisterFaults {
        RegisterFaults {
            refuses_features: self.refuse_features,
            generation_runs: self.unstable_config,
            reads: self.common_reads.clone(),
        }
    }
}

/// A fault in the ring of a queue: the device marks one more request as used than it returns, and
/// does not advance its own position. In a split ring it increments `used.idx` without a used
/// element. In a packed ring it sets the flags of the next descriptor to used. A variant says when
/// this happens; `Twice` also returns a request a second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Glitch {
    /// At once, without an interrupt.
    Silent,
    /// At once, with an interrupt.
    Interrupt,
    /// When the device next marks a request used, with an interrupt for both.
    /// The device serves nothing more until it is reset.
    AtNextUsed,
    /// As `AtNextUsed`, but the device returns its last request again.
    Twice,
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

/// The maximum number of recorded requests.
const MOST: usize = 0x1_0000;

/// A glitch that waits for an opportunity: the event that its variant of [`Glitch`] names.
#[derive(Debug)]
pub(super) struct Armed {
    pub(super) queue: u16,
    pub(super) glitch: Glitch,
    /// How many opportunities pass before it comes.
    pub(super) skip: u32,
}

/// What the disk did, and the glitch that comes next.
#[derive(Debug, Default)]
pub(super) struct Activity {
    /// The glitch that comes next.
    pub(super) glitch: Option<Armed>,
    /// The requests served since the last look.
    pub(super) served: Vec<Served>,
    /// What the driver has written to the device status.
    pub(super) status_writes: Vec<u8>,
    /// The number of finished resets.
    pub(super) resets: u64,
}

impl Activity {
    /// Returns the glitch in `queue` that is due, if it is one of `glitches`, and disarms it.
    pub(super) fn take(&mut self, queue: u16, glitches: &[Glitch]) -> Option<Glitch> {
        let armed = self.glitch.as_mut()?;
        if armed.queue != queue || !glitches.contains(&armed.glitch) {
            return None;
        }
        if let Some(skip) = armed.skip.checked_sub(1) {
            armed.skip = skip;
            return None;
        }
        self.glitch.take().map(|armed| armed.glitch)
    }

    /// Records a request in `queue`. Returns the glitch that comes with it, and disarms it.
    /// `glitch_lasts` is whether a glitch would stay in the ring until the driver reads it.
    pub(super) fn record(
        &mut self,
        queue: u16,
        served: Served,
        glitch_lasts: bool,
    ) -> Option<Glitch> {
        if self.served.len() < MOST {
            self.served.push(served);
        }
        if !glitch_lasts {
            return None;
        }
        self.take(queue, &[Glitch::AtNextUsed, Glitch::Twice])
    }
}
