//! `testbed run --seeds`: runs many seeds. Each run has its own process, because a process
//! has one machine, and as many runs at a time as the host has processors.

use std::{
    env,
    io::{self, Write},
    process::{Command, Output},
    sync::{
        atomic::{AtomicBool, AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use crate::{command_line, run};

/// The exit code of a command that could not be carried out: there is no verdict on the driver.
pub const UNUSABLE: u8 = 2;
/// The exit code if a signal ended a run.
const CRASHED: u8 = 3;

/// The result of a run.
struct Ended {
    seed: u64,
    output: io::Result<Output>,
    took: Duration,
}

/// Runs the command of this process for `count` seeds, starting at `first`. After a failed
/// run, it starts no other run, prints the output of the failed one, and returns its exit code.
///
/// # Errors
/// A process cannot be started, or the output cannot be written.
pub fn run(first: u64, count: u32, out: &mut dyn Write) -> io::Result<u8> {
    let begin = Instant::now();
    let next = AtomicU32::new(0);
    let stop = AtomicBool::new(false);
    let mut code = 0;
    let progress = run::progress("running {pos} of {len} seeds {wide_bar} {percent}%");
    progress.set_length(count.into());
    thread::scope(|scope| {
        let (send, ended) = mpsc::channel();
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            let (send, next, stop) = (send.clone(), &next, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        break;
                    }
                    // The receiver is gone if the output cannot be written.
                    let _ = send.send(one(first.wrapping_add(number.into())));
                }
            });
        }
        drop(send);
        let mut passed = 0;
        for ended in ended {
            let (seed, took) = (ended.seed, ended.took);
            let output = ended.output?;
            progress.inc(1);
            progress.suspend(|| {
                if output.status.success() {
                    passed += 1;
                    return writeln!(
                        out,
                        "seed {seed}: PASS in {took:.2?}  ({passed} of {count})"
                    );
                }
                stop.store(true, Ordering::Relaxed);
                out.write_all(&output.stdout)?;
                out.write_all(&output.stderr)?;
                let of_it = output.status.code().and_then(|code| code.try_into().ok());
                code = of_it.unwrap_or(CRASHED);
                let verdict = if code == UNUSABLE {
                    "NO VERDICT"
                } else {
                    "FAIL"
                };
                writeln!(out, "seed {seed}: {verdict} in {took:.2?}")
            })?;
        }
        Ok::<(), io::Error>(())
    })?;
    progress.finish_and_clear();
    if code == 0 {
        let took = begin.elapsed();
        writeln!(
            out,
            "PASS: {count} seeds, starting at {first}, in {took:.2?}"
        )?;
    }
    Ok(code)
}

/// Runs the command with this seed.
fn one(seed: u64) -> Ended {
    let begin = Instant::now();
    let words: Vec<String> = env::args().skip(1).collect();
    let words = command_line::with_seed(command_line::without_seeds(&words), seed);
    let output = env::current_exe().and_then(|this| Command::new(this).args(words).output());
    Ended {
        seed,
        output,
        took: begin.elapsed(),
    }
}
