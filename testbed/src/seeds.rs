//! A run by each of many seeds, each in a process of its own, because a process
//! has one machine; as many at a time as the host has processors.

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

use crate::{command, elapsed::Elapsed};

/// The exit code of a run that a signal ended.
const CRASHED: u8 = 3;

/// The end of a run.
struct Ended {
    seed: u64,
    output: io::Result<Output>,
    took: Duration,
}

/// Runs the command of this process once for each of `count` seeds from `first`
/// on, and gives an exit code. After one that does not end well none is begun;
/// what it printed is printed, and its code is given.
///
/// # Errors
/// The host's, and the output's.
pub fn run(first: u64, count: u32, out: &mut dyn Write) -> io::Result<u8> {
    let begin = Instant::now();
    let next = AtomicU32::new(0);
    let stop = AtomicBool::new(false);
    let mut code = 0;
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
                    // Who prints may have given up.
                    let _ = send.send(one(first.wrapping_add(number.into())));
                }
            });
        }
        drop(send);
        let mut passed = 0;
        for ended in ended {
            let (seed, took) = (ended.seed, Elapsed(ended.took));
            let output = ended.output?;
            if output.status.success() {
                passed += 1;
                writeln!(out, "seed {seed}: PASS in {took}  ({passed} of {count})")?;
            } else {
                stop.store(true, Ordering::Relaxed);
                out.write_all(&output.stdout)?;
                out.write_all(&output.stderr)?;
                writeln!(out, "seed {seed}: FAIL in {took}")?;
                let of_it = output.status.code().and_then(|code| code.try_into().ok());
                code = of_it.unwrap_or(CRASHED);
            }
        }
        Ok::<(), io::Error>(())
    })?;
    if code == 0 {
        let took = Elapsed(begin.elapsed());
        writeln!(out, "PASS: {count} seeds from {first} on, in {took}")?;
    }
    Ok(code)
}

/// Runs the command by this seed.
fn one(seed: u64) -> Ended {
    let begin = Instant::now();
    let words: Vec<String> = env::args().skip(1).collect();
    let words = command::with_seed(command::without_seeds(&words), seed);
    let output = env::current_exe().and_then(|this| Command::new(this).args(words).output());
    Ended {
        seed,
        output,
        took: begin.elapsed(),
    }
}
