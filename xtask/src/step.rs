//! Runs the steps of `cargo xtask test` and summarises them. A failed step does not stop the
//! following ones.

use std::{fmt::Display, io, path::PathBuf, time::Duration, time::Instant};

use fs_err as fs;

/// The outcome of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All checks passed.
    Passed,
    /// A check failed, for this reason. The step's output has the details.
    Failed(String),
    /// The step was not run, for this reason.
    Skipped(String),
}

impl<E: Display> From<Result<(), E>> for Outcome {
    fn from(result: Result<(), E>) -> Self {
        match result {
            Ok(()) => Self::Passed,
            Err(error) => Self::Failed(error.to_string()),
        }
    }
}

/// The steps that have run so far.
#[derive(Debug, Default)]
pub struct Report {
    rows: Vec<Row>,
    record: Option<PathBuf>,
}

#[derive(Debug)]
struct Row {
    step: String,
    outcome: Outcome,
    time: Duration,
}

impl Report {
    /// An empty report, whose table is written to the file `record` now and after each step. So a
    /// file that cannot be written is refused before the first step, and an interruption loses
    /// no finished step.
    pub fn new(record: Option<PathBuf>) -> io::Result<Self> {
        let report = Self {
            record,
            ..Self::default()
        };
        report.write().map(|()| report)
    }

    /// Writes the table to the file.
    pub fn write(&self) -> io::Result<()> {
        match &self.record {
            Some(file) => fs::write(file, self.table()),
            None => Ok(()),
        }
    }

    /// Runs one step, and prints a line before and after it.
    pub fn step(&mut self, step: &str, about: &str, run: impl FnOnce() -> Outcome) {
        println!("\n== {step}: {about}");
        let start = Instant::now();
        let outcome = run();
        let row = Row {
            step: step.to_owned(),
            outcome,
            time: start.elapsed(),
        };
        println!("== {}", row.text(0));
        self.rows.push(row);
        // The write after the last step reports an error.
        let _ = self.write();
    }

    /// Whether no step failed.
    #[must_use]
    pub fn is_good(&self) -> bool {
        !self
            .rows
            .iter()
            .any(|row| matches!(row.outcome, Outcome::Failed(_)))
    }

    /// The outcomes and times as a page with a Markdown table.
    fn table(&self) -> String {
        let mut text = String::from("| Step | Outcome | Seconds |\n|---|---|---|\n");
        for row in &self.rows {
            let outcome = match &row.outcome {
                Outcome::Passed => "passed".to_owned(),
                Outcome::Failed(why) => format!("FAILED: {why}"),
                Outcome::Skipped(why) => format!("skipped: {why}"),
            };
            let outcome = outcome.replace('|', r"\|").replace('\n', " ");
            let seconds = row.time.as_secs_f32();
            text.push_str(&format!("| {} | {outcome} | {seconds:.1} |\n", row.step));
        }
        text
    }

    /// A line for each step, then the counts, and the time of all.
    #[must_use]
    pub fn summary(&self) -> String {
        let width = self.rows.iter().map(|row| row.step.len()).max();
        let mut text = String::new();
        let (mut passed, mut failed, mut skipped) = (0, 0, 0);
        for row in &self.rows {
            match row.outcome {
                Outcome::Passed => passed += 1,
                Outcome::Failed(_) => failed += 1,
                Outcome::Skipped(_) => skipped += 1,
            }
            text.push_str(&row.text(width.unwrap_or_default()));
            text.push('\n');
        }
        let seconds: f32 = self.rows.iter().map(|row| row.time.as_secs_f32()).sum();
        text + &format!("{passed} passed, {failed} failed, {skipped} skipped, in {seconds:.0} s\n")
    }
}

impl Row {
    fn text(&self, width: usize) -> String {
        let Self {
            step,
            outcome,
            time,
        } = self;
        let (word, why) = match outcome {
            Outcome::Passed => ("passed ", ""),
            Outcome::Failed(why) => ("FAILED ", why.as_str()),
            Outcome::Skipped(why) => ("skipped", why.as_str()),
        };
        format!("{step:width$} {word} {:6.1} s  {why}", time.as_secs_f32())
            .trim_end()
            .to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(outcomes: &[(&str, Outcome)]) -> Report {
        let rows = outcomes.iter().map(|(step, outcome)| Row {
            step: (*step).to_owned(),
            outcome: outcome.clone(),
            time: Duration::from_millis(61_250),
        });
        Report {
            rows: rows.collect(),
            record: None,
        }
    }

    #[test]
    fn the_summary_has_a_line_for_each_step_and_ends_with_the_counts() {
        let report = report(&[
            ("fmt", Outcome::Passed),
            ("driver", Outcome::Failed("2 differ:\n| and ^".into())),
            ("miri", Outcome::Skipped("no nightly".into())),
            ("doc", Outcome::Passed),
        ]);
        assert_eq!(
            report.summary(),
            "fmt    passed    61.2 s\n\
             driver FAILED    61.2 s  2 differ:\n| and ^\n\
             miri   skipped   61.2 s  no nightly\n\
             doc    passed    61.2 s\n\
             2 passed, 1 failed, 1 skipped, in 245 s\n"
        );
        assert_eq!(
            report.table(),
            "| Step | Outcome | Seconds |\n|---|---|---|\n\
             | fmt | passed | 61.2 |\n\
             | driver | FAILED: 2 differ: \\| and ^ | 61.2 |\n\
             | miri | skipped: no nightly | 61.2 |\n\
             | doc | passed | 61.2 |\n"
        );
    }

    #[test]
    fn a_failed_step_makes_the_report_bad() {
        assert!(
            !report(&[
                ("a", Outcome::Failed(String::new())),
                ("b", Outcome::Passed)
            ])
            .is_good()
        );
    }

    #[test]
    fn a_skipped_step_does_not() {
        assert!(report(&[("a", Outcome::Skipped(String::new()))]).is_good());
    }

    #[test]
    fn a_step_after_a_failed_one_is_run_and_the_file_has_each_at_once() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let table = || fs::read_to_string(file.path()).unwrap();
        let mut report = Report::new(Some(file.path().into())).unwrap();
        report.step("a", "", || Err("broken").into());
        assert!(table().contains("| a | FAILED: broken |"));
        report.step("b", "", || Ok::<_, String>(()).into());
        assert!(table().contains("| b | passed |"));
        let outcomes: Vec<_> = report.rows.iter().map(|row| &row.outcome).collect();
        assert_eq!(
            outcomes,
            [&Outcome::Failed("broken".into()), &Outcome::Passed]
        );
    }
}
