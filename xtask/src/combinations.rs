//! Runs the driver on every combination of the properties of a disk, and prints the results as
//! a table.

use std::{
    iter, panic,
    path::Path,
    process::{Command, Output},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use packaging::architecture::Architecture::X64;

use crate::{
    build::{self, BuildError},
    driver::Driver,
    tool::{self, ToolError},
};

const SWITCH: [&str; 2] = ["on", "off"];
const QUEUES: [u16; 3] = [1, 2, 4];
const SRBS: [&str; 2] = ["storage", "scsi"];

/// How many messages the disk has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Messages {
    /// One for each queue, and one for configuration changes.
    All,
    One,
    /// The disk interrupts by its pin.
    None,
}

const MESSAGES: [Messages; 3] = [Messages::All, Messages::One, Messages::None];

/// The properties of a row of the table.
#[derive(Clone, Copy, Debug)]
struct Disk {
    packed: &'static str,
    indirect: &'static str,
    event_idx: &'static str,
    queues: u16,
}

/// A combination: a cell of the table.
#[derive(Clone, Copy, Debug)]
struct Combination {
    disk: Disk,
    messages: Messages,
    srb: &'static str,
}

/// A combination failed, or could not be run.
#[derive(Debug, thiserror::Error)]
pub enum CombinationsError {
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error(transparent)]
    Tool(#[from] ToolError),
    #[error("{failed} of {runs} combinations failed: see their output above")]
    Failed { failed: usize, runs: usize },
}

impl Disk {
    fn all() -> Vec<Self> {
        let mut disks = Vec::new();
        for packed in SWITCH {
            for indirect in SWITCH {
                for event_idx in SWITCH {
                    disks.extend(QUEUES.map(|queues| Self {
                        packed,
                        indirect,
                        event_idx,
                        queues,
                    }));
                }
            }
        }
        disks
    }

    fn combinations(self) -> impl Iterator<Item = Combination> {
        MESSAGES.into_iter().flat_map(move |messages| {
            SRBS.into_iter().map(move |srb| Combination {
                disk: self,
                messages,
                srb,
            })
        })
    }
}

impl Combination {
    /// The disk's properties, as the testbed has them.
    fn properties(self) -> String {
        let Disk {
            packed,
            indirect,
            event_idx,
            queues,
        } = self.disk;
        let vectors = match self.messages {
            Messages::All => queues + 1,
            Messages::One => 1,
            Messages::None => 0,
        };
        format!(
            "packed={packed},indirect_desc={indirect},event_idx={event_idx},num-queues={queues},\
             vectors={vectors}"
        )
    }

    /// The text that a run prints if the driver uses the right number of queues: all of the disk
    /// if it has all messages, otherwise one.
    fn queues(self) -> String {
        match (self.messages, self.disk.queues) {
            (Messages::All, queues @ 2..) => format!("; {queues} queues, "),
            _ => "; 1 queue, ".to_owned(),
        }
    }

    /// A short run: verify pass, power cycle, workload and crash dump, with all checks.
    fn run(self, testbed: &Path, driver: &Path, seed: usize) -> Result<Output, ToolError> {
        let mut run = Command::new(testbed);
        run.args(["run", "--driver"]).arg(driver);
        run.args(Driver::Ferrostor.testbed_options());
        run.args(["--cpus", "4", "--size", "16M", "--verify-bytes", "1M"]);
        run.args(["--restart", "1", "--dump", "--verify"]);
        run.args(["--seed", &seed.to_string(), "--srb", self.srb]);
        run.args(["--device", &self.properties()]);
        run.args(["--", "-b4K", "-r", "-o4", "-t4", "-w30", "-d1", "-W0"]);
        run.output()
            .map_err(|source| tool::not_started(&run, source))
    }
}

/// Runs the driver on every combination, as many at a time as the host has processors, and prints
/// the table.
pub fn check() -> Result<(), CombinationsError> {
    let driver = build::driver(Driver::Ferrostor, X64)?;
    let testbed = tool::build_testbed()?;
    let disks = Disk::all();
    let all: Vec<_> = disks.iter().flat_map(|disk| disk.combinations()).collect();
    let begin = Instant::now();
    let next = AtomicUsize::new(0);
    let work = || {
        let numbers = iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed));
        let mine = numbers.map_while(|number| Some((number, *all.get(number)?)));
        mine.map(|(number, combination)| {
            let begin = Instant::now();
            let output = combination.run(&testbed, &driver, number)?;
            Ok((number, judge(combination, &output), begin.elapsed()))
        })
        .collect::<Result<Vec<_>, ToolError>>()
    };
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let done: Result<Vec<_>, ToolError> = thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|it| panic::resume_unwind(it)))
            .collect()
    });
    let mut cells: Vec<_> = done?.into_iter().flatten().collect();
    cells.sort_unstable_by_key(|(number, ..)| *number);
    let cells: Vec<_> = cells.iter().map(|(_, good, time)| (*good, *time)).collect();
    let (failed, runs) = (cells.iter().filter(|(good, _)| !good).count(), cells.len());
    print!("\n{}", table(&disks, &cells));
    let seconds = begin.elapsed().as_secs();
    println!("\n{runs} combinations in {seconds} s, of which {failed} failed");
    if failed > 0 {
        return Err(CombinationsError::Failed { failed, runs });
    }
    Ok(())
}

/// Whether a run passed with the right number of queues. Prints the output if not.
fn judge(combination: Combination, output: &Output) -> bool {
    let text = String::from_utf8_lossy(&output.stdout);
    let good = output.status.success() && text.contains(&combination.queues());
    if !good {
        let errors = String::from_utf8_lossy(&output.stderr);
        println!("{combination:?} failed:\n{text}{errors}");
    }
    good
}

/// The Markdown table of the runs: the seconds of those that passed.
fn table(disks: &[Disk], cells: &[(bool, Duration)]) -> String {
    let mut text = String::from("| Packed | Indirect | EVENT_IDX | Queues |");
    for messages in ["All messages", "One message", "No message"] {
        for srb in SRBS {
            text.push_str(&format!(" {messages}, {srb} |"));
        }
    }
    text.push_str("\n|---|---|---|---:|---:|---:|---:|---:|---:|---:|\n");
    for (disk, cells) in disks.iter().zip(cells.chunks(MESSAGES.len() * SRBS.len())) {
        let Disk {
            packed,
            indirect,
            event_idx,
            queues,
        } = disk;
        text.push_str(&format!(
            "| {packed} | {indirect} | {event_idx} | {queues} |"
        ));
        for (good, time) in cells {
            match good {
                true => text.push_str(&format!(" {:.1} |", time.as_secs_f32())),
                false => text.push_str(" FAILED |"),
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_is_run_once() {
        let all = Disk::all().into_iter().flat_map(Disk::combinations);
        let mut all: Vec<_> = all.map(|it| it.properties() + it.srb).collect();
        assert_eq!(all.len(), 144);
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 144);
    }

    #[test]
    fn a_failed_run_is_seen_in_the_table() {
        let disks = Disk::all();
        let mut cells = vec![(true, Duration::from_millis(1250)); 144];
        cells[1].0 = false;

        let table = table(&disks, &cells);

        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines.len(), 2 + 24);
        assert_eq!(
            lines[2],
            "| on | on | on | 1 | 1.2 | FAILED | 1.2 | 1.2 | 1.2 | 1.2 |"
        );
        let columns = lines.iter().map(|line| line.matches('|').count());
        assert!(columns.into_iter().all(|count| count == 11), "{table}");
    }
}
