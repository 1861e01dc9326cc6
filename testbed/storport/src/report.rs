//! Storport's report: counters, events and violations.

use std::{collections::BTreeMap, fmt, time::Duration};

use testbed_machine::cpu::irql;

/// The counters of a callback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallbackRow {
    /// Its name, such as `HwStartIo`.
    pub name: &'static str,
    /// The number of calls.
    pub count: u64,
    /// The duration of all calls.
    pub total: Duration,
    /// The duration of the longest call.
    pub max: Duration,
    /// The longest stall of the processor at DISPATCH_LEVEL or above in one call: the sum of
    /// its StorPortStallExecution and StorPortDelayExecution.
    pub max_stalled: Duration,
}

/// The counters of a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockRow {
    /// `StartIo`, `Dpc 0`, `Interrupt`, `MSI 1`.
    pub name: String,
    /// The number of acquisitions by Storport and the miniport.
    pub acquisitions: u64,
    /// The number of acquisitions that had to wait.
    pub contended: u64,
    /// The time spent waiting.
    pub wait_total: Duration,
    /// The time it was held.
    pub held_total: Duration,
    /// The longest time it was held.
    pub held_max: Duration,
}

/// The state of the thread that broke a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Circumstances {
    /// The thread's virtual CPU.
    pub cpu: u32,
    /// The thread's name: `cpu 0`, `message 1`.
    pub thread: String,
    /// Its IRQL.
    pub irql: u8,
    /// The lock that the rule is about, if any.
    pub lock: Option<String>,
    /// The locks that the thread held, with their holders, in the order of acquisition.
    pub held: Vec<String>,
    /// Return addresses in the driver, newest first, with known symbols:
    /// `ferrostor.sys+0x1234 (submit+0x34)`. If a memory access was the cause, the address of
    /// its instruction comes first. Empty if the driver did not cause it.
    pub stack: Vec<String>,
}

impl Circumstances {
    /// Describes the state, one line for each part.
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

/// The list that a rule belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RuleList {
    /// A rule of Windows: Microsoft's documentation or a header of the WDK states it.
    #[default]
    Windows,
    /// A house rule of this project, where the documentation is silent or contradicts itself.
    /// Another driver can break it and be correct.
    House,
}

/// A rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleRow {
    /// Its short name, which does not change: `lock-order`.
    pub name: &'static str,
    /// Its list.
    pub list: RuleList,
    /// Its source.
    pub source: &'static str,
    /// Its text.
    pub summary: &'static str,
}

/// A broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The rule's short name: `lock-order`.
    pub rule: &'static str,
    /// The rule's list.
    pub list: RuleList,
    /// The rule's source: Microsoft's DDI compliance rule, bug check or page, and the row of
    /// docs/reference/storport-rules.md.
    pub source: &'static str,
    /// The callback, or `none`.
    pub callback: &'static str,
    /// What happened, the first time.
    pub detail: String,
    /// The offset in the driver of the return address, if a call of the driver was the cause.
    pub driver_offset: Option<u32>,
    /// The state of the thread, the first time.
    pub circumstances: Circumstances,
    /// How often the rule was broken in this callback at this place.
    pub count: u64,
}

/// Prints a line with rule, place and count, then indented lines with the details.
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
pub fn times(count: u64) -> String {
    match count {
        1 => "once".to_owned(),
        count => format!("{count} times"),
    }
}

/// A bus reset after a time-out, for which Storport logs event 129.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResetRow {
    /// The request that timed out: unit, CDB, age.
    pub cause: String,
    /// Requests outstanding when the reset began.
    pub outstanding: u32,
    /// Whether HwResetBus returned TRUE.
    pub accepted: bool,
}

/// An event that the miniport logged with StorPortLogSystemEvent.
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
    /// The text from the driver file's message table, with the strings inserted; `None` if the
    /// table has no message for the code.
    pub sentence: Option<String>,
}

impl SystemEvent {
    /// The number that Event Viewer shows as the event's id.
    #[must_use]
    pub fn id(&self) -> u16 {
        self.error_code as u16
    }
}

/// Prints number and severity, as Event Viewer does, then the text, or the fields if there is
/// no text.
impl fmt::Display for SystemEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = ["success", "information", "warning", "error"];
        let severity = severity[(self.error_code >> 30) as usize];
        write!(f, "event {} ({severity}): ", self.id())?;
        match &self.sentence {
            Some(sentence) => write!(f, "{sentence}"),
            None => write!(
                f,
                "code {:#010x}, unique id {:#x}, strings {:?} (no message in the driver file)",
                self.error_code, self.unique_id, self.strings
            ),
        }
    }
}

/// The report of an adapter, from its start to now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Called callbacks, in the order of a driver's life.
    pub callbacks: Vec<CallbackRow>,
    /// Acquired locks.
    pub locks: Vec<LockRow>,
    /// Completed requests, by SRB status.
    pub completed: BTreeMap<u8, u64>,
    /// Requests that were completed as BUSY and restarted.
    pub retried: u64,
    /// Interrupts: calls of the miniport's interrupt routines.
    pub interrupts: u64,
    /// Interrupts that the routine did not claim.
    pub unclaimed_interrupts: u64,
    /// Messages of the device without a granted vector: a fault of the device.
    pub stray_messages: u64,
    /// DPCs run.
    pub dpcs: u64,
    /// Calls of StorPortBusy and StorPortDeviceBusy.
    pub busy: u64,
    /// Calls of StorPortPause and StorPortPauseDevice.
    pub pauses: u64,
    /// Bus resets after a time-out.
    pub resets: Vec<ResetRow>,
    /// Functions of storport.sys that the testbed does not emulate, with the number of calls.
    /// Those with a status returned STOR_STATUS_NOT_IMPLEMENTED.
    pub not_implemented: BTreeMap<String, u64>,
    /// Lines of the event log, from StorPortLogError and its successors.
    pub events: Vec<String>,
    /// Events of StorPortLogSystemEvent. `events` has a line for each, too.
    pub system_events: Vec<SystemEvent>,
    /// What the miniport had not freed when it was stopped or its start had failed; empty
    /// before that.
    pub leaks: Vec<String>,
    /// Broken rules.
    pub violations: Vec<Violation>,
}
