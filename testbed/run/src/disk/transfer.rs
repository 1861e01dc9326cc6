//! Transfers of any length. Divides them at the adapter's limits, retries what a class driver
//! would retry, and flushes after writes with write-through.

use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    buffer::{Buffer, SECTOR},
    cdb::{Command, Medium, Operation},
    port::{CommandError, Failure, RETRIES},
};
use testbed_machine::{clock, memory::PAGE};
use testbed_storport::request::{Address, Completion, Data, Program, Request};

/// When a write counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// When the disk has it, in its cache or not.
    Cached,
    /// When it is on the medium.
    Through,
}

/// A read or a write of whole blocks.
#[derive(Clone, Debug)]
pub struct Transfer {
    /// Identifies the transfer in its [`Done`].
    pub token: u64,
    /// Read or write.
    pub operation: Operation,
    /// The first block.
    pub lba: u64,
    /// The data, whose length is a multiple of the disk's block size.
    pub buffer: Buffer,
    /// Whether a write goes through the cache. Reads ignore it.
    pub durability: Durability,
}

/// The end of a transfer.
#[derive(Debug)]
pub struct Done {
    /// The transfer's token.
    pub token: u64,
    /// The first error, if there was one.
    pub result: Result<(), CommandError>,
    /// When it ended.
    pub at: Instant,
    /// The time from its issue to its end, with all its commands.
    pub latency: Duration,
}

/// A program that keeps transfers in flight. It runs on a virtual CPU, and may issue more
/// when one ends. It ends when none is in flight.
pub trait Initiator: Send {
    /// Issues the first transfers.
    fn start(&mut self, issue: &mut dyn FnMut(Transfer));
    /// Handles the end of a transfer. May issue more.
    fn done(&mut self, done: Done, issue: &mut dyn FnMut(Transfer));
    /// Returns the program, so that the caller can read its results.
    fn into_any(self: Box<Self>) -> Box<dyn Any>;
}

/// The commands with which the disk implements `Durability::Through`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteThrough {
    /// FUA in each write.
    ForceUnitAccess,
    /// A SYNCHRONIZE CACHE after each write.
    FlushAfter,
    /// None: its write cache is off.
    Always,
}

impl WriteThrough {
    /// A description for the printed parameters of a workload.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::ForceUnitAccess => "on, with FUA in each write (the disk reports DPOFUA)",
            Self::FlushAfter => {
                "on, with SYNCHRONIZE CACHE after each write (the disk reports a write cache and \
                 no DPOFUA)"
            }
            Self::Always => "on, without extra commands (the disk's write cache is off)",
        }
    }
}

/// The limits that divide a transfer into commands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub address: Address,
    pub block_bytes: u32,
    /// The maximum number of bytes of a command.
    pub max_transfer_bytes: u32,
    /// The maximum number of pages that a command's data may touch.
    pub max_physical_breaks: u32,
    pub write_through: WriteThrough,
}

impl Limits {
    /// The length of the next command, for data at `offset` in its memory of which `left` bytes
    /// are left: as many whole blocks as the adapter accepts.
    fn piece_bytes(&self, offset: usize, left: u32) -> u32 {
        let pages = self.max_physical_breaks as usize * PAGE - offset % PAGE;
        let most = u32::try_from(pages)
            .unwrap_or(u32::MAX)
            .min(self.max_transfer_bytes);
        left.min(most - most % self.block_bytes)
    }

    /// Whether a command can be as long as a block, wherever its data begin.
    pub(crate) fn fits_a_block(&self) -> bool {
        // A buffer that begins in the middle of a page touches one page more;
        // but it begins at a sector, and a sector lies in one page.
        let pages = match self.block_bytes {
            ..=SECTOR => 1,
            bytes => bytes.div_ceil(PAGE as u32) + 1,
        };
        self.max_transfer_bytes >= self.block_bytes && self.max_physical_breaks >= pages
    }

    /// The command that moves the bytes of `transfer` from `from` on, and how
    /// many it moves.
    fn piece(&self, transfer: &Transfer, from: u32) -> (Command, Data) {
        let buffer = &transfer.buffer;
        let offset = buffer.offset + from as usize;
        let bytes = self.piece_bytes(offset, buffer.bytes - from);
        let medium = match (transfer.operation, transfer.durability, self.write_through) {
            (Operation::Write, Durability::Through, WriteThrough::ForceUnitAccess) => {
                Medium::ForceUnitAccess
            }
            _ => Medium::Cached,
        };
        let command = Command::transfer(
            transfer.operation,
            transfer.lba + u64::from(from / self.block_bytes),
            bytes / self.block_bytes,
            medium,
        );
        let data = Data {
            block: Arc::clone(&buffer.block),
            offset,
            bytes,
            direction: transfer.operation.direction(),
        };
        (command, data)
    }

    fn request(&self, slot: u32, from: u32, command: Command, data: Option<Data>) -> Request {
        let token = u64::from(slot) << 32 | u64::from(from);
        command.request(token, self.address, data)
    }
}

/// The token's low half for the flush after a write: no piece begins there.
const FLUSH: u32 = u32::MAX;

/// A transfer under way.
struct Open {
    transfer: Transfer,
    since: Instant,
    /// Commands out.
    out: u32,
    retries: u32,
    flush_due: bool,
    error: Option<CommandError>,
}

/// The transfers under way of one initiator.
struct Table {
    limits: Limits,
    open: Vec<Option<Open>>,
    free: Vec<u32>,
    retries: Arc<AtomicU64>,
}

impl Table {
    fn begin(&mut self, transfer: Transfer, issue: &mut dyn FnMut(Request)) {
        let bytes = transfer.buffer.bytes;
        let flush_due = transfer.operation == Operation::Write
            && transfer.durability == Durability::Through
            && self.limits.write_through == WriteThrough::FlushAfter;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.open.push(None);
            self.open.len() as u32 - 1
        });
        let mut out = 0;
        let mut from = 0;
        // Issued only after the slot is filled: completions look there.
        let mut requests = Vec::with_capacity(1);
        while from < bytes {
            let (command, data) = self.limits.piece(&transfer, from);
            let moved = data.bytes;
            requests.push(self.limits.request(slot, from, command, Some(data)));
            out += 1;
            from += moved;
        }
        self.open[slot as usize] = Some(Open {
            transfer,
            since: clock::instant(),
            out,
            retries: 0,
            flush_due,
            error: None,
        });
        for request in requests {
            issue(request);
        }
    }

    /// Takes the end of a command; the end of its transfer, if it was the last.
    fn end(&mut self, completion: &Completion, issue: &mut dyn FnMut(Request)) -> Option<Done> {
        let slot = (completion.token >> 32) as u32;
        let from = completion.token as u32;
        let entry = self.open.get_mut(slot as usize)?;
        let open = entry.as_mut()?;
        let (command, data) = if from == FLUSH {
            (Command::synchronize_cache(), None)
        } else {
            let (command, data) = self.limits.piece(&open.transfer, from);
            (command, Some(data))
        };
        let expected = data.as_ref().map_or(0, |data| data.bytes);
        let failure = match data {
            Some(_) => Failure::transfer_of(completion, expected),
            None => Failure::status_of(completion),
        };
        if let Some(how) = failure {
            if how.is_worth_a_retry() && open.retries < RETRIES {
                open.retries += 1;
                self.retries.fetch_add(1, Ordering::Relaxed);
                issue(self.limits.request(slot, from, command, data));
                return None;
            }
            open.error.get_or_insert(CommandError { command, how });
        }
        open.out -= 1;
        if open.out > 0 {
            return None;
        }
        if std::mem::take(&mut open.flush_due) && open.error.is_none() {
            open.out = 1;
            let flush = Command::synchronize_cache();
            issue(self.limits.request(slot, FLUSH, flush, None));
            return None;
        }
        let at = clock::instant();
        let open = entry.take()?;
        self.free.push(slot);
        Some(Done {
            token: open.transfer.token,
            result: open.error.map_or(Ok(()), Err),
            at,
            latency: at - open.since,
        })
    }
}

/// An initiator as a program of the port driver.
pub(crate) struct InitiatorProgram {
    initiator: Box<dyn Initiator>,
    table: Table,
}

impl InitiatorProgram {
    pub(crate) fn new(
        initiator: Box<dyn Initiator>,
        limits: Limits,
        retries: Arc<AtomicU64>,
    ) -> Self {
        Self {
            initiator,
            table: Table {
                limits,
                open: Vec::new(),
                free: Vec::new(),
                retries,
            },
        }
    }

    pub(crate) fn into_initiator(self) -> Box<dyn Initiator> {
        self.initiator
    }
}

impl Program for InitiatorProgram {
    fn start(&mut self, issue: &mut dyn FnMut(Request)) {
        let Self { initiator, table } = self;
        initiator.start(&mut |transfer| table.begin(transfer, issue));
    }

    fn completed(&mut self, completion: Completion, issue: &mut dyn FnMut(Request)) {
        let Self { initiator, table } = self;
        if let Some(done) = table.end(&completion, issue) {
            initiator.done(done, &mut |transfer| table.begin(transfer, issue));
        }
    }

    fn finished(&self) -> bool {
        true
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
