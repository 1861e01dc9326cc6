//! What the queue's lock protects: the ring with the requests that the device
//! has, and the doorbell.

use storport::{StartedSrb, Table};
use virtio::{
    slots::Slot,
    split_queue::{Flight, Prepared, SplitQueue, Used},
    transport::{Doorbell, Quiet},
};

use crate::platform::Window;

/// How many requests one turn under the lock takes off the ring.
pub const BATCH: usize = 16;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Data from this LBA on.
    Read(scsi::Lba),
    /// Data to be stored from this LBA on.
    Write(scsi::Lba),
    /// Stored data to be made durable.
    Flush,
}

/// An initiator's request, while the device has it.
pub struct Parked<'a> {
    /// Its SRB.
    pub srb: StartedSrb<'a>,
    /// What it asks for.
    pub kind: Kind,
    /// Bytes of data.
    pub bytes: u32,
}

/// Who waits for a request.
pub enum Owner<'a> {
    /// The driver itself, for the disk's id.
    Driver,
    /// An initiator.
    Initiator(Parked<'a>),
}

/// The table of requests that the device has.
pub type Flights<'a> = Table<'a, Option<Flight<Owner<'a>>>>;

/// A place for each of the requests that one turn takes off the ring.
pub type Batch<'a> = [Option<Used<Owner<'a>>>; BATCH];

/// The ring, and where to ring for it.
pub struct Queue<'a> {
    ring: SplitQueue<'a, Flights<'a>>,
    /// Nothing while the device does not run.
    doorbell: Option<Doorbell<Window<'a>>>,
}

impl<'a> Queue<'a> {
    /// A queue whose device does not run yet.
    pub fn new(ring: SplitQueue<'a, Flights<'a>>) -> Self {
        Self {
            ring,
            doorbell: None,
        }
    }

    /// The ring, for the device to be given.
    pub fn ring(&self) -> &SplitQueue<'a, Flights<'a>> {
        &self.ring
    }

    /// The device runs. Nothing can have been used yet, so no interrupt is
    /// missed.
    pub fn run(&mut self, doorbell: Doorbell<Window<'a>>) {
        let _: bool = self.ring.rearm_interrupts();
        self.doorbell = Some(doorbell);
    }

    /// Publishes a request. The doorbell, if the device wants to be told: it
    /// is rung without the lock, since that may take long.
    ///
    /// # Errors
    /// The request's slot and owner, if the device can't have it.
    pub fn publish(
        &mut self,
        prepared: Prepared,
        owner: Owner<'a>,
    ) -> Result<Option<Doorbell<Window<'a>>>, (Slot, Owner<'a>)> {
        let Some(doorbell) = &self.doorbell else {
            return Err((prepared.into_slot(), owner));
        };
        match self.ring.publish(prepared, owner) {
            Ok(()) => Ok(self.ring.doorbell_needed().then(|| doorbell.clone())),
            Err(rejected) => Err((rejected.prepared.into_slot(), rejected.payload)),
        }
    }

    /// Takes what the device is done with off the ring, until `batch` is full
    /// or nothing is left; whether something may be left.
    ///
    /// A device that said what can't be is not asked again: its requests time
    /// out, and HwResetBus resets it.
    pub fn take_used(&mut self, batch: &mut Batch<'a>) -> bool {
        for place in batch.iter_mut() {
            match self.ring.pop_used() {
                Ok(Some(used)) => *place = Some(used),
                Ok(None) => return self.ring.rearm_interrupts(),
                Err(_) => return false,
            }
        }
        true
    }

    /// Takes one request that the device is done with off the ring.
    pub fn take_one(&mut self) -> Option<Used<Owner<'a>>> {
        self.ring.pop_used().ok().flatten()
    }

    /// Takes all requests back from a device that is quiet: `each` gets them.
    /// Nothing is published until the device [runs](Self::run) again.
    pub fn reclaim(&mut self, quiet: Quiet<'_>, each: impl FnMut(Slot, Owner<'a>)) {
        self.doorbell = None;
        self.ring.reclaim(quiet, each);
    }
}
