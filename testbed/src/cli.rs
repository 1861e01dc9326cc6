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
    cost,
    device::DeviceId,
    machine::InterruptKind,
    rules,
    run::{self, Ending, FunctionKind, Load, RunError, Settings, UsedImage, Verdict},
    seeds,
    size::Size,
    storport::adapter::{Checks, SrbShape},
};

/// Something was wrong with data or driver.
const FAILED: u8 = 1;
/// Something was wrong with the command.
const UNUSABLE: u8 = 2;

const EXAMPLES: &str = "\
Examples:
  testbed run --driver ferrostor.sys
      verify 64 MiB of a temporary disk, then run random I/O for five seconds
  testbed run --driver ferrostor.sys --disk scratch.img -- -b64K -o32 -t4 -w100 -d30 -L
      use your own image, WHOSE CONTENTS ARE OVERWRITTEN, and a workload that is
      described in diskspd's options
  testbed run --driver ferrostor.sys --verify --seed 7
      watch the driver closely and run one thread at a time, in the order that
      seed 7 chooses: the same order each time
  testbed run --driver ferrostor.sys --verify --seeds 20 -- -b8K -r -o16 -w30 -t4 -d60
      do this for 20 seeds, each with a workload of 60 s
  testbed imports ferrostor.sys
      print what the driver imports, by module

Exit codes: 0 passed; 1 wrong data, or the driver broke a rule of Windows; 2 the
command cannot be carried out, or the host failed; 3 the driver crashed or stopped
the machine.";

const COST: &str = "\
Examples:
  testbed cost ferrostor.sys
  testbed cost ferrostor.sys --json
  testbed cost ferrostor.sys --depth 1
  testbed cost ramdisk.sys --function bell";

const WORKLOAD: &str = "\
Workload: the options of diskspd 2.2. Sizes take K, M, G, T or b (blocks):
  -b<size> block         -d<s> -W<s> -C<s> duration, warm-up, cool-down
  -o<n> outstanding      -t<n> threads (or -F<n> -O<n>)   -a<cpu>,<cpu> affinity
  -r[align] random       -rs<percent> mixed   -s[i][stride] sequential   -p
  -T<size> apart         -B<base>[:length] range          -f<size> its end
  -w<percent> writes     -Z zeros  -Zr  -Z<size>[,file] write data
  -Sb -Su -Sw -Sh caching  -z[seed]  -L latencies         -D[ms] IOPS deviation
Other options are refused, with a reason. The default is:";

/// Loads the .sys file of a Storport miniport and plays Windows, the hardware and
/// the workload for it
#[derive(Parser)]
#[command(name = "testbed", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a driver: verify data through it, then run a workload
    #[command(after_help = format!("{WORKLOAD}\n  {} -t<cpus>\n\n{EXAMPLES}", run::DEFAULT_WORKLOAD))]
    Run(RunArgs),
    /// Count what one I/O costs a driver: instructions, calls, memory, by callback
    #[command(after_help = COST)]
    Cost(CostArgs),
    /// Print what a driver imports, by module
    Imports {
        /// The driver's file
        driver: PathBuf,
    },
    /// Print the rules that a driver is held to: what Windows demands, what this
    /// project chose, and what the testbed cannot see
    Rules,
}

#[derive(Args)]
struct RunArgs {
    /// The driver's file: an x64 Storport miniport for the PCI function
    #[arg(long, value_name = "PATH.sys")]
    driver: PathBuf,

    /// The PCI function
    #[arg(long, value_enum, default_value = "virtio-blk")]
    function: Function,

    /// A raw disk image. ITS CONTENTS ARE OVERWRITTEN. An image is refused if it
    /// holds data that no earlier run left. The default is a temporary image
    #[arg(long, value_name = "IMAGE")]
    disk: Option<PathBuf>,

    /// Overwrite the image whatever it holds
    #[arg(long, requires = "disk")]
    overwrite: bool,

    /// Length of the temporary image, with K, M, G or T
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "256M",
        conflicts_with = "disk"
    )]
    size: Size,

    /// Virtual CPUs
    #[arg(long, value_name = "COUNT", default_value = "4", value_parser = value_parser!(u32).range(1..=64))]
    cpus: u32,

    /// The machine's memory
    #[arg(long, value_name = "SIZE", default_value = "512M")]
    memory: Size,

    /// How the device interrupts
    #[arg(long, value_enum, default_value = "msix")]
    interrupts: Interrupts,

    /// The kind of SRBs
    #[arg(long, value_enum, default_value = "storage")]
    srb: Srb,

    /// The disk's PCI identity: 1AF4:1042 or 1AF4:1001
    #[arg(long, value_enum, default_value = "modern")]
    device_id: Identity,

    /// Watch the driver closely, which is slow: for example, whether it touches
    /// completed requests. Run one thread at a time, in virtual time, in an order
    /// that the seed chooses
    #[arg(long)]
    verify: bool,

    /// Fail the run also for broken rules that this project chose. Without this
    /// option they are advice (see testbed rules)
    #[arg(long)]
    house_rules: bool,

    /// How much to write and read back before the workload; 0 for nothing
    /// [default: 64M, or the whole disk if it is shorter]
    #[arg(long, value_name = "SIZE")]
    verify_bytes: Option<Size>,

    /// Chooses the data and, with --verify, the order in which threads run. The
    /// same seed gives the same run [default: one from the clock, which is printed]
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,

    /// Stop after the verify pass
    #[arg(long, conflicts_with = "workload")]
    no_workload: bool,

    /// Count transfers that fail, and go on: for a disk that reports errors on
    /// purpose. Failed transfers do not fail the run
    #[arg(long)]
    keep_going: bool,

    /// How often to put the adapter to sleep, without power, between the verify
    /// pass and the workload. The verified data is read again each time
    #[arg(long, value_name = "TIMES", default_value = "0")]
    restart: u32,

    /// Crash under load after the workload, and let a second copy of the driver
    /// write a dump
    #[arg(long)]
    dump: bool,

    /// Run this many seeds, from --seed on. Each runs in its own process, as many
    /// at a time as there are processors. Stop at the first that does not pass
    #[arg(long, value_name = "COUNT", requires = "verify")]
    seeds: Option<u32>,

    /// Check the options, and stop before the driver is loaded
    #[arg(long, hide = true)]
    check: bool,

    /// The workload in diskspd's options, values attached: -b8K -r -o32 -w30
    /// -d10 -L
    #[arg(last = true, value_name = "DISKSPD OPTIONS")]
    workload: Vec<String>,
}

#[derive(Args)]
struct CostArgs {
    /// The driver's file: an x64 Storport miniport for the function
    #[arg(value_name = "FILE.sys")]
    driver: PathBuf,

    /// The PCI function that it drives
    #[arg(long, value_enum, default_value = "virtio-blk")]
    function: Function,

    /// How many requests are in flight at a time
    #[arg(long, value_name = "DEPTH,...", value_delimiter = ',', default_values_t = [1, 32, 256],
          value_parser = value_parser!(u32).range(1..=256))]
    depth: Vec<u32>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Function {
    /// A virtio disk
    VirtioBlk,
    /// No disk but interrupts, for a driver that keeps a disk in memory of its
    /// own: PCI 1234:BE11, see testbed/src/device/bell.rs
    Bell,
}

#[derive(Clone, Copy, ValueEnum)]
enum Interrupts {
    /// Messages
    Msix,
    /// The pin
    Intx,
}

#[derive(Clone, Copy, ValueEnum)]
enum Srb {
    /// SCSI_REQUEST_BLOCK
    Scsi,
    /// STORAGE_REQUEST_BLOCK, as Windows chooses
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

/// Carries out the command line; the exit code says how that went.
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
        // Who reads the output has seen enough.
        Err(RunError::Output(error)) if error.kind() == ErrorKind::BrokenPipe => {
            ExitCode::from(UNUSABLE)
        }
        Err(error) => {
            eprintln!("testbed: {error}");
            ExitCode::from(UNUSABLE)
        }
    }
}

/// The command that the user typed, if it was not the testbed itself. `cargo xtask run` and
/// `cargo xtask cost` set this variable.
const CALLER: &str = "TESTBED_CALLER";

/// Prints help as it is, and an error as one line that names the command with the right help.
fn usage(error: &clap::Error) -> ExitCode {
    if matches!(
        error.kind(),
        UsageErrorKind::DisplayHelp | UsageErrorKind::DisplayVersion
    ) {
        print!("{error}");
        return ExitCode::SUCCESS;
    }
    let text = error.to_string();
    let message: Vec<&str> = text
        .lines()
        .take_while(|line| !line.is_empty())
        .map(str::trim)
        .collect();
    let message = message.join(" ");
    let message = message.strip_prefix("error: ").unwrap_or(&message);
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
