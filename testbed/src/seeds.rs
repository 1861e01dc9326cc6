//! A run by each of many seeds, each in a process of its own: a process has one
//! machine.

use std::{
    env,
    io::{self, Write},
    process::Command,
    time::Instant,
};

use crate::{command, elapsed::Elapsed};

/// The exit code of a run that a signal ended.
const CRASHED: u8 = 3;

/// Runs the command of this process once for each of `count` seeds from `first`
/// on, and gives an exit code. Stops at the first that does not end well: prints
/// what it printed, and gives its code.
///
/// # Errors
/// The host's, and the output's.
pub fn run(first: u64, count: u32, out: &mut dyn Write) -> io::Result<u8> {
    let program = env::current_exe()?;
    let words: Vec<String> = env::args().skip(1).collect();
    let begin = Instant::now();
    for number in 0..count {
        let seed = first.wrapping_add(u64::from(number));
        let started = Instant::now();
        let one = command::without_seeds(&words);
        let output = Command::new(&program)
            .args(command::with_seed(one, seed))
            .output()?;
        if !output.status.success() {
            out.write_all(&output.stdout)?;
            writeln!(out, "seed {seed}: FAIL")?;
            out.flush()?;
            io::stderr().write_all(&output.stderr)?;
            let code = output.status.code().and_then(|code| code.try_into().ok());
            return Ok(code.unwrap_or(CRASHED));
        }
        let took = Elapsed(started.elapsed());
        writeln!(
            out,
            "seed {seed}: PASS in {took}  ({} of {count})",
            number + 1
        )?;
    }
    writeln!(
        out,
        "PASS: {count} seeds from {first} on, in {}",
        Elapsed(begin.elapsed())
    )?;
    Ok(0)
}
