//! The testbed's command line.

use std::{
    env,
    io::{self, ErrorKind, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{CommandFactory, Parser, Subcommand, error::ErrorKind as UsageErrorKind};
use testbed::{
    compare, cost, rules,
    run::{self, RunError, Verdict},
    seeds::{self, UNUSABLE},
    workload::options::one_line,
};

/// Data was wrong, the driver broke a rule, or the adapter did not start.
const FAILED: u8 = 1;

const EXAMPLES: &str = "\
Examples:
  testbed run --driver ferrostor.sys
      write and verify 64 MiB of a temporary disk, then run random I/O for 5 s
  testbed run --driver ferrostor.sys --disk scratch.img -- -b64K -o32 -t4 -w100 -d30 -L
      use an image file, WHOSE CONTENTS ARE OVERWRITTEN, and another workload
  testbed run --driver ferrostor.sys --verify --seed 7
      enable all checks, and run one thread at a time, in an order that the seed
      determines
  testbed run --driver ferrostor.sys --verify --seeds 20 -- -b8K -r -o16 -w30 -t4 -d60
      run 20 seeds, each with a workload of 60 s

Exit codes: 0 passed; 1 wrong data, a broken rule, or an adapter that does not start;
2 the command cannot be carried out, or the host failed; 3 the driver crashed or
stopped the machine.";

const COST: &str = "\
docs/cost.md describes the figures. A progress bar is shown if standard error is a
terminal.

Examples:
  testbed cost ferrostor.sys
  testbed cost ferrostor.sys --json
  testbed cost ferrostor.sys --depth 1
  testbed cost ferrostor.sys --device packed=on
  testbed cost ferrostor.sys --cpus 4
      count 4 CPUs with a queue each, and list the locks and cache lines that they share
  testbed cost ramdisk.sys --function bell";

const IMPORTS: &str = "\
Examples:
  testbed imports ferrostor.sys";

const COMPARE: &str = "\
For a disk that the run did not have as a file: a run with --function vfio:ADDRESS in a
virtual machine, whose image is compared on the host. The image was blank before.

Examples:
  testbed compare disk.img --seed 7 --verify-bytes 8M
      after: testbed run ... --seed 7 --verify-bytes 8M --no-workload";

const RULES: &str = "\
Examples:
  testbed rules
  testbed rules | grep -A2 lock-order";

const WORKLOAD: &str = "\
Workload: a few of diskspd's options, each at most once, with the value attached:
  -b<size> bytes of an I/O           -r random offsets, not sequential
  -o<n> I/Os in flight of a thread   -t<n> threads, distributed over the CPUs
  -w<percent> writes                 -Sw or -Sh write-through
  -d<s> measured seconds             -W<s> seconds of warm-up before them
  -L print latencies
--seed determines the random choices. The default is:";

/// Loads the .sys file of a Storport miniport, and emulates Windows and the hardware
/// under a load
#[derive(Parser)]
#[command(name = "testbed", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a driver: write and verify data, then run a workload
    #[command(after_help = format!("{WORKLOAD}\n  {} -t<cpus>\n\n{EXAMPLES}", run::DEFAULT_WORKLOAD))]
    Run(run::Settings),
    /// Count instructions, calls and memory accesses of one I/O, by callback
    #[command(after_help = COST)]
    Cost(cost::Settings),
    /// Print a driver's imports, by module
    #[command(after_help = IMPORTS)]
    Imports {
        /// Driver file
        #[arg(value_name = "FILE.sys")]
        driver: PathBuf,
    },
    /// Compare an image with what the verify pass of a run wrote
    #[command(after_help = COMPARE)]
    Compare(compare::Settings),
    /// Print the rules that the testbed checks, their sources, and what it cannot check
    #[command(after_help = RULES)]
    Rules,
}

/// Runs the command line. The help describes the exit codes.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let mut out = io::stdout();
    let result = match cli.command {
        Command::Run(settings) if settings.check => run::check(&settings).map(|()| Verdict::Pass),
        Command::Run(
            settings @ run::Settings {
                seed,
                seeds: Some(count),
                ..
            },
        ) => match run::check(&settings) {
            Err(error) => Err(error),
            Ok(()) => {
                let first = seed.unwrap_or_else(run::seed_of_the_clock);
                return match seeds::run(first, count, &mut out) {
                    Ok(code) => ExitCode::from(code),
                    Err(error) => {
                        eprintln!("testbed: {error}");
                        ExitCode::from(UNUSABLE)
                    }
                };
            }
        },
        Command::Run(settings) => run::run(&settings, &mut out),
        Command::Cost(settings) => {
            let cost = match cost::count(&settings) {
                Ok(cost) => cost,
                Err(error) => {
                    eprintln!("testbed: {error}");
                    return ExitCode::from(UNUSABLE);
                }
            };
            let text = if settings.json {
                cost.json()
            } else {
                cost.to_string()
            };
            out.write_all(text.as_bytes())
                .map(|()| Verdict::Pass)
                .map_err(RunError::Output)
        }
        Command::Compare(settings) => compare::compare(&settings, &mut out),
        Command::Rules => rules::print(&mut out)
            .map(|()| Verdict::Pass)
            .map_err(RunError::Output),
        Command::Imports { driver } => {
            run::print_imports(&driver, &mut out).map(|()| Verdict::Pass)
        }
    };
    match result {
        Ok(Verdict::Pass) => ExitCode::SUCCESS,
        Ok(Verdict::Fail) => ExitCode::from(FAILED),
        // The reader of the output has closed the pipe, like `head`.
        Err(RunError::Output(error)) if error.kind() == ErrorKind::BrokenPipe => {
            ExitCode::from(UNUSABLE)
        }
        Err(error) => {
            eprintln!("testbed: {error}");
            ExitCode::from(UNUSABLE)
        }
    }
}

/// `cargo xtask run` and `cargo xtask cost` set this variable to their names, so that errors
/// name the command that the user typed.
const CALLER: &str = "TESTBED_CALLER";

/// Prints help, or an error as one line that ends with the command whose help describes the
/// options.
fn usage(error: &clap::Error) -> ExitCode {
    if matches!(
        error.kind(),
        UsageErrorKind::DisplayHelp | UsageErrorKind::DisplayVersion
    ) {
        print!("{error}");
        return ExitCode::SUCCESS;
    }
    let message = one_line(error);
    let caller = env::var(CALLER).unwrap_or_else(|_| {
        let subcommand = env::args().nth(1).unwrap_or_default();
        match Cli::command().find_subcommand(&subcommand) {
            Some(_) => format!("testbed {subcommand}"),
            None => "testbed".to_owned(),
        }
    });
    eprintln!("testbed: {message} (see {caller} --help)");
    ExitCode::from(UNUSABLE)
}
