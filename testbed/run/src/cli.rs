//! The testbed's command line.

use std::{
    env,
    io::{self, ErrorKind},
    path::PathBuf,
    process::ExitCode,
};

use clap::{
    Args, CommandFactory, Parser, Subcommand, ValueEnum, error::ErrorKind as UsageErrorKind,
    value_parser,
};
use testbed::{
    cost, rules,
    run::{self, Ending, FunctionKind, Load, RunError, Settings, UsedImage, Verdict},
    seeds::{self, UNUSABLE},
    size::Size,
    workload::options::one_line,
};
use testbed_devices::DeviceId;
use testbed_machine::InterruptKind;
use testbed_storport::adapter::{Checks, SrbShape};

/// Data was wrong, or the driver broke a rule.
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

Exit codes: 0 passed; 1 wrong data, or the driver broke a rule; 2 the command cannot
be carried out, or the host failed; 3 the driver crashed or stopped the machine.";

const COST: &str = "\
docs/cost.md describes the figures. A progress bar is shown if standard error is a
terminal.

Examples:
  testbed cost ferrostor.sys
  testbed cost ferrostor.sys --json
  testbed cost ferrostor.sys --depth 1
  testbed cost ramdisk.sys --function bell";

const IMPORTS: &str = "\
Examples:
  testbed imports ferrostor.sys";

const RULES: &str = "\
Examples:
  testbed rules
  testbed rules | grep -A2 lock-order";

const WORKLOAD: &str = "\
Workload: a few of diskspd's options, each once, with the values attached:
  -b<size> bytes of an I/O        -r random, else sequential
  -o<n> outstanding of a thread   -t<n> threads, which run on the CPUs in turn
  -w<percent> writes              -Sw -Sh each write through the cache
  -d<s> -W<s> duration, warm-up   -L latencies
--seed determines the offsets. The default is:";

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
    Run(RunArgs),
    /// Count instructions, calls and memory accesses of one I/O, by callback
    #[command(after_help = COST)]
    Cost(CostArgs),
    /// Print a driver's imports, by module
    #[command(after_help = IMPORTS)]
    Imports {
        /// Driver file
        #[arg(value_name = "FILE.sys")]
        driver: PathBuf,
    },
    /// Print the rules that the testbed checks, their sources, and what it cannot check
    #[command(after_help = RULES)]
    Rules,
}

#[derive(Args)]
struct RunArgs {
    /// Driver file: an x64 Storport miniport for the PCI function
    #[arg(long, value_name = "FILE.sys")]
    driver: PathBuf,

    /// PCI function
    #[arg(long, value_enum, default_value = "virtio-blk")]
    function: Function,

    /// Raw disk image. ITS CONTENTS ARE OVERWRITTEN. The testbed refuses an image
    /// with data that no earlier run wrote [default: a temporary image]
    #[arg(long, value_name = "IMAGE")]
    disk: Option<PathBuf>,

    /// Overwrite the image even if it contains other data
    #[arg(long, requires = "disk")]
    overwrite: bool,

    /// Size of the temporary image, in bytes or with K, M, G or T
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "256M",
        conflicts_with = "disk"
    )]
    size: Size,

    /// Number of virtual CPUs
    #[arg(long, value_name = "COUNT", default_value = "4", value_parser = value_parser!(u32).range(1..=64))]
    cpus: u32,

    /// Memory of the machine
    #[arg(long, value_name = "SIZE", default_value = "512M")]
    memory: Size,

    /// Interrupt type of the device
    #[arg(long, value_enum, default_value = "msix")]
    interrupts: Interrupts,

    /// Type of the SRBs
    #[arg(long, value_enum, default_value = "storage")]
    srb: Srb,

    /// PCI device id of the disk
    #[arg(long, value_enum, default_value = "modern")]
    device_id: Identity,

    /// Enable all checks, such as for accesses to completed requests. Run one
    /// thread at a time, in virtual time, in an order that the seed determines.
    /// This is slow
    #[arg(long)]
    verify: bool,

    /// Treat broken house rules as failures, not as advice ('testbed rules' lists them)
    #[arg(long)]
    house_rules: bool,

    /// How much to write and read back before the workload; 0 for nothing
    /// [default: 64M, or the whole disk if it is smaller]
    #[arg(long, value_name = "SIZE")]
    verify_bytes: Option<Size>,

    /// Seed of the data and, with --verify, of the order of threads. With --verify,
    /// the same seed gives the same run [default: from the clock; the run prints it]
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,

    /// Stop after the verify pass
    #[arg(long, conflicts_with = "workload")]
    no_workload: bool,

    /// Count failed transfers, without failing the run: for a disk that reports
    /// errors on purpose
    #[arg(long)]
    keep_going: bool,

    /// Power the adapter down and up this many times between the verify pass and the
    /// workload, and read the verified data again each time
    #[arg(long, value_name = "TIMES", default_value = "0")]
    restart: u32,

    /// Crash the machine under load after the workload; a second copy of the driver
    /// writes a crash dump
    #[arg(long)]
    dump: bool,

    /// Run this many seeds, starting at --seed. Each runs in its own process, as many
    /// at a time as the host has processors. Stop at the first failure. Needs --verify
    #[arg(long, value_name = "COUNT", requires = "verify")]
    seeds: Option<u32>,

    /// Check the options without loading the driver
    #[arg(long, hide = true)]
    check: bool,

    /// Workload: -b8K -r -o32 -w30 -d10 -L
    #[arg(last = true, value_name = "WORKLOAD OPTIONS")]
    workload: Vec<String>,
}

#[derive(Args)]
struct CostArgs {
    /// Driver file: an x64 Storport miniport for the PCI function
    #[arg(value_name = "FILE.sys")]
    driver: PathBuf,

    /// PCI function
    #[arg(long, value_enum, default_value = "virtio-blk")]
    function: Function,

    /// Requests in flight at a time, 1 to 256
    #[arg(long, value_name = "DEPTH,...", value_delimiter = ',', default_values_t = [1, 32, 256],
          value_parser = value_parser!(u32).range(1..=256))]
    depth: Vec<u32>,

    /// Print the figures as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Function {
    /// Virtio disk
    VirtioBlk,
    /// Only interrupts, for a driver with its own RAM disk: PCI 1234:BE11, see
    /// testbed/devices/src/bell.rs
    Bell,
}

#[derive(Clone, Copy, ValueEnum)]
enum Interrupts {
    /// Message-signaled interrupts
    Msix,
    /// Line-based interrupts
    Intx,
}

#[derive(Clone, Copy, ValueEnum)]
enum Srb {
    /// SCSI_REQUEST_BLOCK
    Scsi,
    /// STORAGE_REQUEST_BLOCK, which Windows uses
    Storage,
}

#[derive(Clone, Copy, ValueEnum)]
enum Identity {
    /// 1AF4:1042
    Modern,
    /// 1AF4:1001
    Transitional,
}

impl From<Function> for FunctionKind {
    fn from(function: Function) -> Self {
        match function {
            Function::VirtioBlk => Self::VirtioBlk,
            Function::Bell => Self::Bell,
        }
    }
}

impl From<RunArgs> for Settings {
    fn from(args: RunArgs) -> Self {
        Self {
            driver: args.driver,
            function: args.function.into(),
            disk: args.disk,
            size: args.size,
            cpus: args.cpus,
            memory: args.memory,
            interrupts: match args.interrupts {
                Interrupts::Msix => InterruptKind::Messages,
                Interrupts::Intx => InterruptKind::Line,
            },
            srb: match args.srb {
                Srb::Scsi => SrbShape::Scsi,
                Srb::Storage => SrbShape::Storage,
            },
            device_id: match args.device_id {
                Identity::Modern => DeviceId::Modern,
                Identity::Transitional => DeviceId::Transitional,
            },
            checks: if args.verify {
                Checks::All
            } else {
                Checks::Cheap
            },
            house_rules: args.house_rules,
            keep_going: args.keep_going,
            verify_bytes: args.verify_bytes,
            seed: args.seed,
            restarts: args.restart,
            ending: if args.dump {
                Ending::Crash
            } else {
                Ending::ShutDown
            },
            used: if args.overwrite {
                UsedImage::Overwrite
            } else {
                UsedImage::Refuse
            },
            load: if args.no_workload {
                Load::Nothing
            } else if args.workload.is_empty() {
                Load::Default
            } else {
                Load::Given(args.workload)
            },
        }
    }
}

/// Runs the command line. The help describes the exit codes.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let mut out = io::stdout();
    let result = match cli.command {
        Command::Run(args) if args.check => run::check(&args.into()).map(|()| Verdict::Pass),
        Command::Run(RunArgs {
            seed,
            seeds: Some(count),
            ..
        }) => {
            let first = seed.unwrap_or_else(run::seed_of_the_clock);
            return match seeds::run(first, count, &mut out) {
                Ok(code) => ExitCode::from(code),
                Err(error) => {
                    eprintln!("testbed: {error}");
                    ExitCode::from(UNUSABLE)
                }
            };
        }
        Command::Run(args) => run::run(&args.into(), &mut out),
        Command::Cost(args) => {
            let settings = cost::Settings {
                driver: args.driver,
                function: args.function.into(),
                depths: args.depth,
            };
            return match cost::count(&settings) {
                Ok(cost) => {
                    if args.json {
                        print!("{}", cost.json());
                    } else {
                        print!("{cost}");
                    }
                    ExitCode::SUCCESS
                }
                Err(error) => {
                    eprintln!("testbed: {error}");
                    ExitCode::from(UNUSABLE)
                }
            };
        }
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
