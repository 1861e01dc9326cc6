//! What Storport counted and what it found wrong.

use std::{collections::BTreeMap, time::Duration};

/// One of the miniport's callbacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallbackRow {
    /// `HwStartIo`.
    pub name: &'static str,
    /// Calls.
    pub count: u64,
    /// Time in it, all calls.
    pub total: Duration,
    /// The longest call.
    pub max: Duration,
}

/// One lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockRow {
    /// `StartIo`, `Dpc 0`, `Interrupt`, `MSI 1`.
    pub name: String,
    /// Times taken, by Storport or the miniport.
    pub acquisitions: u64,
    /// Times it was not free.
    pub contended: u64,
    /// Time spent waiting for it.
    pub wait_total: Duration,
    /// Time it was held.
    pub held_total: Duration,
    /// The longest time it was held.
    pub held_max: Duration,
}

/// A rule that the miniport broke, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The rule's short name: `lock-order`.
    pub rule: &'static str,
    /// The callback that it was in, or `none`.
    pub callback: &'static str,
    /// What happened, the first time.
    pub detail: String,
    /// The driver-relative return address of the call, if a call of the
    /// driver's was the cause.
    pub driver_offset: Option<u32>,
    /// How often, same rule, callback and place.
    pub count: u64,
}

/// A bus reset that Storport made because a request timed out, as event 129
/// tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResetRow {
    /// The request that timed out: unit, CDB, how long it was out.
    pub cause: String,
    /// Requests outstanding when the reset began.
    pub outstanding: u32,
    /// Whether HwResetBus returned TRUE.
    pub accepted: bool,
}

/// The report of an adapter, from its start to now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Callbacks that were called, in the order of a driver's life.
    pub callbacks: Vec<CallbackRow>,
    /// Locks that were taken.
    pub locks: Vec<LockRow>,
    /// Requests returned, by SRB status.
    pub completed: BTreeMap<u8, u64>,
    /// Requests that came back BUSY and were started again.
    pub retried: u64,
    /// Interrupts delivered to the miniport: calls of its routine.
    pub interrupts: u64,
    /// Interrupts whose routine said that they were not its device's.
    pub unclaimed_interrupts: u64,
    /// DPCs run.
    pub dpcs: u64,
    /// StorPortBusy and StorPortDeviceBusy.
    pub busy: u64,
    /// StorPortPause and StorPortPauseDevice.
    pub pauses: u64,
    /// Bus resets after a time-out.
    pub resets: Vec<ResetRow>,
    /// Functions of storport.sys that answered STOR_STATUS_NOT_IMPLEMENTED,
    /// with how often they were called.
    pub not_implemented: BTreeMap<&'static str, u64>,
    /// Lines for the event log: StorPortLogError and its successors.
    pub events: Vec<String>,
    /// What the miniport had not given back when it was stopped; empty
    /// before that.
    pub leaks: Vec<String>,
    /// Rules broken.
    pub violations: Vec<Violation>,
}
