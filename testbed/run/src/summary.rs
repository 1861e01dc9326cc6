//! The report at the end of a run: callbacks, locks, interrupts, statuses, and the faults of
//! the driver.

use std::{
    collections::BTreeMap,
    fmt::{self, Display, Formatter},
    time::Duration,
};

use comfy_table::{CellAlignment, Table, presets};

use crate::status::{SrbStatus, srb};
use testbed_machine::pci::FunctionCounters;
use testbed_storport::report::{Report, RuleList, times};

/// The number of event log lines that are printed.
const SHOWN: usize = 10;

/// The counters and findings of a run.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Storport's report.
    pub report: Report,
    /// The device's counters.
    pub device: FunctionCounters,
    /// How many requests each queue of the disk has served.
    pub queues: Vec<u64>,
    /// Faults of the driver that the device found.
    pub driver_errors: Vec<String>,
    /// Register accesses that were wrong, but could be emulated.
    pub accesses: Vec<String>,
    /// The number of commands that the class driver retried.
    pub retries: u64,
    /// The failures that --keep-going ignored, with their counts.
    pub failed: BTreeMap<String, u64>,
    /// Whether broken house rules are faults.
    pub house_rules: bool,
}

impl Summary {
    /// The number of requests that the miniport completed.
    fn requests(&self) -> u64 {
        self.report.completed.values().sum()
    }

    /// The faults of the driver. A run with a fault fails. A violation has further, indented
    /// lines.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for violation in &self.report.violations {
            if self.house_rules || violation.list == RuleList::Windows {
                faults.push(violation.to_string());
            }
        }
        for error in &self.driver_errors {
            faults.push(format!("the device saw a driver error: {error}"));
        }
        for access in &self.accesses {
            faults.push(format!("wrong access to the device: {access}"));
        }
        for reset in &self.report.resets {
            faults.push(format!(
                "a request timed out and the bus was reset: {} ({} outstanding, HwResetBus \
                 returned {})",
                reset.cause,
                reset.outstanding,
                if reset.accepted { "TRUE" } else { "FALSE" }
            ));
        }
        if self.house_rules {
            faults.extend(self.leaks());
        }
        faults
    }

    /// Broken house rules, if they do not fail the run.
    #[must_use]
    pub fn advice(&self) -> Vec<String> {
        if self.house_rules {
            return Vec::new();
        }
        let house = self
            .report
            .violations
            .iter()
            .filter(|violation| violation.list == RuleList::House);
        house.map(ToString::to_string).chain(self.leaks()).collect()
    }

    /// Resources that were not freed. No page of Microsoft's documentation requires that a
    /// miniport frees everything when the adapter stops.
    fn leaks(&self) -> impl Iterator<Item = String> {
        let leaks = self.report.leaks.iter();
        leaks.map(|leak| format!("advice: not freed at the end: {leak}"))
    }

    fn callbacks(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let rows = self.report.callbacks.iter().map(|row| {
            vec![
                row.name.to_owned(),
                row.count.to_string(),
                format!("{:.2?}", row.total),
                mean(row.total, row.count),
                format!("{:.2?}", row.max),
            ]
        });
        table(out, &["callback", "calls", "total", "mean", "max"], rows)
    }

    fn locks(&self, out: &mut Formatter<'_>) -> fmt::Result {
        if self.report.locks.is_empty() {
            return writeln!(out, "no lock was acquired");
        }
        let rows = self.report.locks.iter().map(|row| {
            vec![
                row.name.clone(),
                row.acquisitions.to_string(),
                row.contended.to_string(),
                format!("{:.2?}", row.wait_total),
                format!("{:.2?}", row.held_total),
                mean(row.held_total, row.acquisitions),
                format!("{:.2?}", row.held_max),
            ]
        });
        let heading = [
            "lock",
            "acquired",
            "contended",
            "waited",
            "held",
            "mean",
            "max",
        ];
        table(out, &heading, rows)
    }

    fn rates(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let requests = self.requests();
        let rows = [
            ("interrupts", self.report.interrupts),
            ("DPCs", self.report.dpcs),
            ("notifications", self.device.notifications),
            ("device requests", self.device.requests),
        ];
        // A function of the host, or one without requests, does not count them.
        let counted = |(name, count): &(&str, u64)| *name != "device requests" || *count > 0;
        let rows = rows.into_iter().filter(counted).map(|(name, count)| {
            let each = if requests == 0 {
                "-".to_owned()
            } else {
                format!("{:.3}", count as f64 / requests as f64)
            };
            vec![name.to_owned(), count.to_string(), each]
        });
        table(out, &["event", "count", "per I/O"], rows)?;
        if self.queues.len() > 1 {
            let counts: Vec<String> = self.queues.iter().map(u64::to_string).collect();
            writeln!(out, "\ndevice requests by queue: {}", counts.join(", "))?;
        }
        Ok(())
    }

    fn remarks(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let statuses: Vec<String> = self
            .report
            .completed
            .iter()
            .map(|(&status, count)| format!("{} {count}", SrbStatus(status)))
            .collect();
        writeln!(
            out,
            "requests: {}, by status: {}",
            self.requests(),
            if statuses.is_empty() {
                "none".to_owned()
            } else {
                statuses.join(", ")
            }
        )?;
        if self.report.completed.contains_key(&srb::DATA_OVERRUN) {
            writeln!(
                out,
                "  (a miniport completes with DATA_OVERRUN if it returns less data than requested)"
            )?;
        }
        for (count, what) in [
            (
                self.report.retried,
                "requests completed as BUSY and restarted",
            ),
            (self.retries, "commands retried by the class driver"),
            (
                self.report.busy,
                "calls of StorPortBusy and StorPortDeviceBusy",
            ),
            (
                self.report.pauses,
                "calls of StorPortPause and StorPortPauseDevice",
            ),
            (
                self.report.unclaimed_interrupts,
                "interrupts that the driver did not claim",
            ),
            (
                self.report.stray_messages,
                "interrupt messages of the device without a granted vector",
            ),
        ] {
            if count > 0 {
                writeln!(out, "{what}: {count}")?;
            }
        }
        for (how, count) in &self.failed {
            writeln!(out, "transfers failed, {}: {how}", times(*count))?;
        }
        for (function, count) in &self.report.not_implemented {
            writeln!(
                out,
                "not emulated, returned STOR_STATUS_NOT_IMPLEMENTED: {function}, {}",
                times(*count)
            )?;
        }
        write!(out, "{}", self.event_log())
    }

    /// The first lines of the event log, and the number of the remaining ones.
    pub(crate) fn event_log(&self) -> String {
        let mut lines: String = self
            .report
            .events
            .iter()
            .take(SHOWN)
            .map(|event| format!("event log: {event}\n"))
            .collect();
        let hidden = self.report.events.len().saturating_sub(SHOWN);
        if hidden > 0 {
            lines += &format!("event log: {hidden} more\n");
        }
        lines
    }
}

impl Display for Summary {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        self.callbacks(out)?;
        writeln!(out)?;
        self.locks(out)?;
        writeln!(out)?;
        self.rates(out)?;
        writeln!(out)?;
        self.remarks(out)?;
        match self.faults().len() {
            0 => writeln!(
                out,
                "violations: none; driver errors seen by the device: none"
            )?,
            count => writeln!(out, "faults of the driver: {count}, listed below")?,
        }
        self.advice()
            .iter()
            .try_for_each(|advice| writeln!(out, "{advice}"))
    }
}

/// Prints a table of a text column and number columns.
pub(crate) fn table(
    out: &mut Formatter<'_>,
    heading: &[&str],
    rows: impl Iterator<Item = Vec<String>>,
) -> fmt::Result {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(heading);
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
        if column.index > 0 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for line in table.lines() {
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

fn mean(total: Duration, count: u64) -> String {
    match count {
        0 => "-".to_owned(),
        count => format!("{:.2?}", total.div_f64(count as f64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use testbed_storport::report::{CallbackRow, Circumstances, LockRow, ResetRow, Violation};

    fn summary() -> Summary {
        Summary {
            report: Report {
                callbacks: vec![
                    CallbackRow {
                        name: "HwFindAdapter",
                        count: 1,
                        total: Duration::from_micros(1500),
                        max: Duration::from_micros(1500),
                        max_stalled: Duration::ZERO,
                    },
                    CallbackRow {
                        name: "HwStartIo",
                        count: 4000,
                        total: Duration::from_millis(2),
                        max: Duration::from_nanos(900),
                        max_stalled: Duration::ZERO,
                    },
                ],
                locks: vec![LockRow {
                    name: "Dpc 0".to_owned(),
                    acquisitions: 8000,
                    contended: 12,
                    wait_total: Duration::from_micros(40),
                    held_total: Duration::from_millis(4),
                    held_max: Duration::from_micros(3),
                }],
                completed: [(0x01, 3999), (0x04, 1)].into(),
                interrupts: 2000,
                dpcs: 2000,
                ..Report::default()
            },
            device: FunctionCounters {
                notifications: 1000,
                interrupts: 2000,
                requests: 3999,
                driver_errors: 0,
            },
            queues: vec![1999, 2000],
            driver_errors: Vec::new(),
            accesses: Vec::new(),
            retries: 1,
            failed: BTreeMap::new(),
            house_rules: false,
        }
    }

    #[test]
    fn the_report_is_laid_out_in_three_tables_and_remarks() {
        let expected = "\
callback       calls   total      mean       max
HwFindAdapter      1  1.50ms    1.50ms    1.50ms
HwStartIo       4000  2.00ms  500.00ns  900.00ns

lock   acquired  contended   waited    held      mean     max
Dpc 0      8000         12  40.00µs  4.00ms  500.00ns  3.00µs

event            count  per I/O
interrupts        2000    0.500
DPCs              2000    0.500
notifications     1000    0.250
device requests   3999    1.000

device requests by queue: 1999, 2000

requests: 4000, by status: SRB_STATUS_SUCCESS (01h) 3999, SRB_STATUS_ERROR (04h) 1
commands retried by the class driver: 1
violations: none; driver errors seen by the device: none
";
        assert_eq!(summary().to_string(), expected);
        assert!(summary().faults().is_empty());
    }

    #[test]
    fn every_fault_is_reported_as_a_violation_with_its_details() {
        let mut summary = summary();
        summary.driver_errors.push("queue 0: a loop".to_owned());
        summary.accesses.push("2 bytes at 3".to_owned());
        summary.report.leaks.push("64 bytes of pool".to_owned());
        summary.report.resets.push(ResetRow {
            cause: "0:0:0 READ(10), 10 s".to_owned(),
            outstanding: 3,
            accepted: true,
        });
        summary.report.violations.push(Violation {
            rule: "lock-order",
            list: RuleList::Windows,
            source: "StorPortSpinLock3; storport-rules.md O1, O2",
            callback: "HwStartIo",
            detail: "StartIo taken under Dpc".to_owned(),
            driver_offset: Some(0x1234),
            circumstances: Circumstances {
                cpu: 1,
                thread: "cpu 1".to_owned(),
                irql: 2,
                lock: Some("StartIo".to_owned()),
                held: vec!["Channel 1 (by Storport)".to_owned(), "Dpc 0".to_owned()],
                stack: vec![
                    "test.sys+0x1234 (submit+0x34)".to_owned(),
                    "test.sys+0x1100 (HwStartIo+0x20)".to_owned(),
                ],
            },
            count: 2,
        });

        let faults = summary.faults();

        assert_eq!(
            faults,
            [
                "violation of lock-order in HwStartIo at driver offset 0x1234, 2 times: StartIo \
                 taken under Dpc\n\
                 \x20 rule: StorPortSpinLock3; storport-rules.md O1, O2\n\
                 \x20 on CPU 1, thread cpu 1, at IRQL 2 (DISPATCH_LEVEL)\n\
                 \x20 lock: StartIo\n\
                 \x20 locks held: Channel 1 (by Storport), Dpc 0\n\
                 \x20 at: test.sys+0x1234 (submit+0x34)\n\
                 \x20     test.sys+0x1100 (HwStartIo+0x20)",
                "the device saw a driver error: queue 0: a loop",
                "wrong access to the device: 2 bytes at 3",
                "a request timed out and the bus was reset: 0:0:0 READ(10), 10 s (3 outstanding, \
                 HwResetBus returned TRUE)",
            ]
        );
        assert!(
            summary
                .to_string()
                .contains("faults of the driver: 4, listed below\n")
        );
    }

    #[test]
    fn a_broken_house_rule_is_advice_without_the_option() {
        let mut summary = summary();
        summary.report.leaks.push("64 bytes of pool".to_owned());
        summary.report.violations.push(Violation {
            rule: "lock-in-dump-mode",
            list: RuleList::House,
            source: "storport-rules.md D8",
            callback: "HwStartIo",
            detail: "a lock in dump mode".to_owned(),
            driver_offset: None,
            circumstances: Circumstances::default(),
            count: 1,
        });
        let told = [
            "advice: lock-in-dump-mode in HwStartIo, once: a lock in dump mode",
            "advice: not freed at the end: 64 bytes of pool",
        ];

        let advice = summary.advice();
        let first_lines: Vec<_> = advice
            .iter()
            .filter_map(|text| text.lines().next())
            .collect();
        assert_eq!(first_lines, told);
        assert!(summary.faults().is_empty());
        assert!(summary.to_string().contains(told[1]), "{summary}");

        summary.house_rules = true;
        let faults = summary.faults();
        let first_lines: Vec<_> = faults
            .iter()
            .filter_map(|text| text.lines().next())
            .collect();
        assert_eq!(first_lines, told);
        assert!(summary.advice().is_empty());
    }

    #[test]
    fn the_event_log_is_printed_up_to_its_tenth_line() {
        let mut summary = summary();
        summary.report.events = (1..=12).map(|line| format!("line {line}")).collect();

        let text = summary.to_string();

        assert!(
            text.contains("event log: line 10\nevent log: 2 more\n"),
            "{text}"
        );
    }

    #[test]
    fn a_run_without_requests_divides_by_nothing() {
        let text = Summary::default().to_string();
        assert!(text.contains("requests: 0, by status: none"), "{text}");
        assert!(text.contains("no lock was acquired"), "{text}");
    }
}
