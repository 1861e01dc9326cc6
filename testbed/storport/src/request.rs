//! The interface above Storport: requests, completions, and the programs that issue requests.

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

/// The direction of a transfer.
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
    /// The block that contains the buffer.
    pub block: Arc<Block>,
    /// The offset in the block.
    pub offset: usize,
    /// The length in bytes.
    pub bytes: u32,
    /// The direction.
    pub direction: Direction,
}

/// A SCSI command for a logical unit.
#[derive(Clone, Debug)]
pub struct Request {
    /// A value for the completion, which Storport does not interpret.
    pub token: u64,
    /// The unit.
    pub address: Address,
    /// The command; bytes after `cdb_length` are zero.
    pub cdb: [u8; 16],
    /// The length of the command: 6, 10, 12 or 16.
    pub cdb_length: u8,
    /// The data buffer, if there is one.
    pub data: Option<Data>,
    /// The time-out. An SRB has it in seconds, rounded up.
    pub timeout: Duration,
}

/// The result of a request.
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
    /// The sense data; empty without `sense_valid`.
    pub sense: Vec<u8>,
    /// DataTransferLength after completion, in bytes.
    pub transferred: u32,
    /// The time from the arrival at Storport to the return, including the wait for the unit's
    /// queue.
    pub latency: Duration,
}

/// A program that runs on a virtual CPU at PASSIVE_LEVEL and issues requests. It ends when it has
/// finished or has no request in flight.
pub trait Program: Send {
    /// Issues the first requests.
    fn start(&mut self, issue: &mut dyn FnMut(Request));
    /// Handles a completion, and may issue requests.
    fn completed(&mut self, completion: Completion, issue: &mut dyn FnMut(Request));
    /// Whether it has finished. Called when it has no request in flight.
    fn finished(&self) -> bool;
    /// Converts the program for a downcast, to read its results.
    fn into_any(self: Box<Self>) -> Box<dyn Any>;
}
