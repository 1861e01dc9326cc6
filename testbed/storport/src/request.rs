//! What goes into Storport from above and comes back: requests, completions,
//! and the programs that make them.

use std::{any::Any, sync::Arc, time::Duration};

use testbed_machine::memory::Block;

/// A logical unit's address: bus (path), target, LUN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Address {
    /// Bus.
    pub path: u8,
    /// Target on the bus.
    pub target: u8,
    /// Unit of the target.
    pub lun: u8,
}

/// Which way the data go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the device.
    In,
    /// To the device.
    Out,
}

/// A request's data buffer.
#[derive(Clone, Debug)]
pub struct Data {
    /// The memory it lies in.
    pub block: Arc<Block>,
    /// Where in the block, in bytes.
    pub offset: usize,
    /// How many bytes.
    pub bytes: u32,
    /// Which way.
    pub direction: Direction,
}

/// A SCSI command for a logical unit.
#[derive(Clone, Debug)]
pub struct Request {
    /// Comes back in the completion; Storport does not look at it.
    pub token: u64,
    /// The unit.
    pub address: Address,
    /// The command; bytes after `cdb_length` are zero.
    pub cdb: [u8; 16],
    /// Length of the command: 6, 10, 12 or 16.
    pub cdb_length: u8,
    /// Its data, if any.
    pub data: Option<Data>,
    /// How long the miniport may take, rounded up to seconds as an SRB has it.
    pub timeout: Duration,
}

/// How a request ended.
#[derive(Clone, Debug)]
pub struct Completion {
    /// The request's token.
    pub token: u64,
    /// SRB_STATUS without its flag bits (`srb.h`).
    pub srb_status: u8,
    /// Whether SRB_STATUS_AUTOSENSE_VALID was set.
    pub sense_valid: bool,
    /// SCSI status byte.
    pub scsi_status: u8,
    /// Sense data, empty without `sense_valid`.
    pub sense: Vec<u8>,
    /// DataTransferLength as the miniport left it, in bytes.
    pub transferred: u32,
    /// From the request's arrival at Storport to its return, waiting for the
    /// unit's queue included.
    pub latency: Duration,
}

/// What runs on a virtual CPU at PASSIVE_LEVEL: makes requests and gets their
/// completions. It ends when it says so or when nothing of it is outstanding.
pub trait Program: Send {
    /// Makes the first requests.
    fn start(&mut self, issue: &mut dyn FnMut(Request));
    /// Takes a completion and may make further requests.
    fn completed(&mut self, completion: Completion, issue: &mut dyn FnMut(Request));
    /// Whether it needs no more completions. Asked when nothing of it is
    /// outstanding any more.
    fn finished(&self) -> bool;
    /// The program itself, for its results.
    fn into_any(self: Box<Self>) -> Box<dyn Any>;
}
