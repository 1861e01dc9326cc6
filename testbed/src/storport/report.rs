//! What Storport counted and what it found wrong.

use std::{collections::BTreeMap, fmt, time::Duration};

use crate::cpu::irql;

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
    /// The longest that one call stalled the processor at DISPATCH_LEVEL or
    /// above: the sum of its StorPortStallExecution and StorPortDelayExecution.
    pub max_stalled: Duration,
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

/// Where and how a rule was broken: what the thread was, had and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Circumstances {
    /// The virtual CPU that the thread acted for.
    pub cpu: u32,
    /// The thread's name: `cpu 0`, `message 1`.
    pub thread: String,
    /// Its IRQL.
    pub irql: u8,
    /// The lock concerned, if one is.
    pub lock: Option<String>,
    /// The locks that the thread held, by whom, in the order of their
    /// acquisition.
    pub held: Vec<String>,
    /// The return addresses in the driver, newest first, with the symbols that
    /// are known: `ferrostor.sys+0x1234 (submit+0x34)`. An instruction's own
    /// address comes first if an access to memory was the cause. Empty if
    /// neither that nor a call of the driver's was.
    pub stack: Vec<String>,
}

impl Circumstances {
    /// All of it, a line each.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let none = || "none".to_owned();
        let held = match self.held.as_slice() {
            [] => none(),
            held => held.join(", "),
        };
        let mut lines = vec![format!(
            "on CPU {}, thread {}, at IRQL {}{}",
            self.cpu,
            self.thread,
            self.irql,
            irql::name(self.irql)
        )];
        if let Some(lock) = &self.lock {
            lines.push(format!("lock: {lock}"));
        }
        lines.push(format!("locks held: {held}"));
        if let Some((first, others)) = self.stack.split_first() {
            lines.push(format!("at: {first}"));
            lines.extend(others.iter().map(|place| format!("    {place}")));
        }
        lines
    }
}

/// Whose rule it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RuleList {
    /// Windows demands it: a page of Microsoft's documentation or a header of the
    /// kit says so.
    #[default]
    Windows,
    /// A choice of this project, where the documentation is silent or contradicts
    /// itself. Another driver may do otherwise and be right.
    House,
}

/// A rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleRow {
    /// Its short name, which stays: `lock-order`.
    pub name: &'static str,
    /// Whose rule it is.
    pub list: RuleList,
    /// Where it comes from.
    pub source: &'static str,
    /// What it demands.
    pub summary: &'static str,
}

/// A rule that the miniport broke, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The rule's short name: `lock-order`.
    pub rule: &'static str,
    /// Whose rule it is.
    pub list: RuleList,
    /// Where the rule comes from: Microsoft's DDI compliance rule, bug check or
    /// page, and the row of docs/reference/storport-rules.md.
    pub source: &'static str,
    /// The callback that it was in, or `none`.
    pub callback: &'static str,
    /// What happened, the first time.
    pub detail: String,
    /// The driver-relative return address of the call, if a call of the
    /// driver's was the cause.
    pub driver_offset: Option<u32>,
    /// How it was, the first time.
    pub circumstances: Circumstances,
    /// How often, same rule, callback and place.
    pub count: u64,
}

/// What was broken where and how often, and below it, indented, the rest.
impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.list {
            RuleList::Windows => write!(f, "violation of {}", self.rule)?,
            RuleList::House => write!(f, "advice: {}", self.rule)?,
        }
        write!(f, " in {}", self.callback)?;
        if let Some(offset) = self.driver_offset {
            write!(f, " at driver offset {offset:#x}")?;
        }
        write!(f, ", {}: {}", times(self.count), self.detail)?;
        write!(f, "\n  rule: {}", self.source)?;
        let lines = self.circumstances.lines();
        lines.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

/// `once`, `2 times`.
pub(crate) fn times(count: u64) -> String {
    match count {
        1 => "once".to_owned(),
        count => format!("{count} times"),
    }
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

/// An event that the miniport logged by StorPortLogSystemEvent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SystemEvent {
    /// Severity, facility and number.
    pub error_code: u32,
    /// The miniport's own number for the place that logged it.
    pub unique_id: u32,
    /// The strings, for `%2` and following.
    pub strings: Vec<String>,
    /// The bytes that Event Viewer shows as data.
    pub dump_data: Vec<u8>,
    /// The text of the driver file's message table with the strings in place; none
    /// if the table has no message for the code.
    pub sentence: Option<String>,
}

impl SystemEvent {
    /// The number that Event Viewer shows as the event's id.
    #[must_use]
    pub fn id(&self) -> u16 {
        self.error_code as u16
    }
}

/// Number and severity as Event Viewer shows them, and the sentence or, without one,
/// all that there is.
impl fmt::Display for SystemEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = ["success", "information", "warning", "error"];
        let severity = severity[(self.error_code >> 30) as usize];
        write!(f, "event {} ({severity}): ", self.id())?;
        match &self.sentence {
            Some(sentence) => write!(f, "{sentence}"),
            None => write!(
                f,
                "code {:#010x}, unique id {:#x}, strings {:?}; the driver file has no message for it",
                self.error_code, self.unique_id, self.strings
            ),
        }
    }
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
    /// Messages of the device that no vector was granted for: the device's fault.
    pub stray_messages: u64,
    /// DPCs run.
    pub dpcs: u64,
    /// StorPortBusy and StorPortDeviceBusy.
    pub busy: u64,
    /// StorPortPause and StorPortPauseDevice.
    pub pauses: u64,
    /// Bus resets after a time-out.
    pub resets: Vec<ResetRow>,
    /// Functions of storport.sys that the testbed does not model, with how often
    /// they were called. Those with a status answered
    /// STOR_STATUS_NOT_IMPLEMENTED.
    pub not_implemented: BTreeMap<String, u64>,
    /// Lines for the event log: StorPortLogError and its successors.
    pub events: Vec<String>,
    /// What StorPortLogSystemEvent logged. `events` has a line for each, too.
    pub system_events: Vec<SystemEvent>,
    /// What the miniport had not given back when it was stopped or its start had
    /// failed; empty before that.
    pub leaks: Vec<String>,
    /// Rules broken.
    pub violations: Vec<Violation>,
}
