//! `cargo xtask test`: runs the tests, in steps. The tier selects the steps, and the number of
//! seeds in steps that run seeds.

use std::{
    io,
    path::PathBuf,
    process::{Command, ExitCode},
};

use clap::ValueEnum;
use packaging::{
    architecture::Architecture::{self, Arm64, X64},
    check,
    image::Image,
    inf::VersionError,
};

use crate::{
    barriers::{self, BarrierError},
    build::{self, BuildError, cross},
    combinations, cost, docs,
    driver::Driver,
    fixtures, guard_cost,
    mutants::{self, MutantsError},
    package,
    qemu::{self, QemuError},
    reproducible,
    setup::{self, Need, SetupError},
    step::{Outcome, Report},
    tool::{self, ToolError, cargo},
    workspace,
};

const HELP: &str = "\
A failed step does not stop the following ones. The last line counts the steps that
passed, failed and were skipped. The exit code is 0 if no step failed.

--quick is for every change: formatting, Clippy, unit tests, the lock rules, and one run
of the driver. --full takes hours: it adds mutation testing, all combinations of a
disk's properties, ten times as many thread schedules, and more seeds for Miri.

Examples:
  cargo xtask test
  cargo xtask test --quick
  cargo xtask test --full --record full-test.md
  cargo xtask test --list
  cargo xtask test --only fmt --only clippy";

/// The options of `cargo xtask test`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Options {
    /// Run only this step; can be repeated
    #[arg(long, value_enum, value_name = "STEP")]
    only: Vec<Step>,

    /// Run only the quick steps
    #[arg(long, conflicts_with_all = ["only", "full"])]
    quick: bool,

    /// Also run the steps that take hours
    #[arg(long)]
    full: bool,

    /// Write the outcome and the time of each step to this file, as a Markdown table
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,

    /// List the steps without running them
    #[arg(long, conflicts_with = "record")]
    list: bool,
}

/// A step of the tests, in the order in which they are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Step {
    /// rustfmt: all sources are formatted
    Fmt,
    /// Clippy has no warnings in code for the host
    Clippy,
    /// Clippy has no warnings in driver code for x64
    ClippyX64,
    /// Clippy has no warnings in driver code for ARM64
    ClippyArm64,
    /// The other workspace members, which `cargo wdk build` builds too, compile for Windows
    WindowsHost,
    /// The headers in cross/ have the layouts, values and types of the WDK, on x64
    AbiX64,
    /// The headers in cross/ have the layouts, values and types of the WDK, on ARM64
    AbiArm64,
    /// The tests of the workspace cross/ pass, for example that the driver's manifests agree
    Cross,
    /// Code that breaks a rule of Storport's locks, callbacks or SRBs does not compile
    LockRules,
    /// The unit tests of the root workspace pass on the host
    Unit,
    /// The other tests of the root workspace, and the examples in its documentation, pass
    Test,
    /// Miri finds no undefined behaviour in crates/virtio, crates/storport and the driver
    Miri,
    /// loom: small models are correct in every interleaving of two processors
    Loom,
    /// The x64 driver files build and meet the requirements of Windows
    BuildX64,
    /// The ARM64 driver files build and meet the requirements of Windows
    BuildArm64,
    /// A build in another folder gives the same driver and symbol files, byte for byte
    Reproducible,
    /// One run of the driver in the testbed verifies its data and breaks no rule
    Run,
    /// The testbed's tests of the driver files pass (--full: more resets under load)
    Driver,
    /// The drivers pass the testbed's checks in 20 thread schedules per workload (--full: 200)
    Schedules,
    /// The driver passes runs on disks that QEMU emulates, through VFIO in a guest
    Qemu,
    /// The driver passes short runs on all combinations of ring, queues, messages and SRBs
    Combinations,
    /// The testbed finds the faults of miniports that break a rule, and none in their correct twins
    Fixtures,
    /// docs/locking.md has the measured instruction counts of the lock guards
    GuardCost,
    /// One I/O costs the driver no more than the budget in xtask/cost-budget.toml
    Cost,
    /// Two builds of the package are identical; osslsigncode accepts it, and rejects a changed byte
    Package,
    /// rustdoc has no warnings
    Doc,
    /// The commands in the documentation succeed
    DocCommands,
    /// QEMU and libvirt accept the virtual machines in the documentation
    DocMachines,
    /// The tests catch every mutant of crates/{block,scsi,virtio} and storport's state but the listed ones
    Mutants,
}

/// How much is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Tier {
    /// For every change: a few minutes.
    Quick,
    /// For every day, and for continuous integration.
    Daily,
    /// Before a release.
    Full,
}

/// The tests were not run, or their outcome not recorded.
#[derive(Debug, thiserror::Error)]
pub enum TestError {
    /// A tool that a step needs is missing.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The mutants cannot be tested on this machine.
    #[error(transparent)]
    Mutants(#[from] MutantsError),
    /// The file for the outcome cannot be written.
    #[error("--record: {0}")]
    Record(#[from] io::Error),
}

/// Runs the steps. The exit code is 0 if none failed.
///
/// # Errors
/// See [`TestError`].
pub fn command(options: &Options) -> Result<ExitCode, TestError> {
    let tier = match (options.quick, options.full) {
        (true, _) => Tier::Quick,
        (false, true) => Tier::Full,
        (false, false) => Tier::Daily,
    };
    let all = Step::value_variants().iter().copied();
    let steps: Vec<_> = match options.only.as_slice() {
        [] => all.filter(|step| step.tier() <= tier).collect(),
        only => only.to_vec(),
    };
    if options.list {
        for step in steps {
            println!("{:12} {}", step.name(), step.about());
        }
        return Ok(ExitCode::SUCCESS);
    }
    setup::ensure(&needs(&steps))?;
    if steps.contains(&Step::Mutants) {
        mutants::check_tools()?;
    }

    let mut report = Report::new(options.record.clone())?;
    for step in steps {
        report.step(&step.name(), &step.about(), || step.run(tier));
    }
    print!("\n{}", report.summary());
    report.write()?;
    Ok(if report.is_good() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The needs of a driver build.
const fn to_build(architecture: Architecture) -> [Need; 2] {
    [Need::Target(architecture), Need::Libclang]
}

/// The needs of all `steps`, without duplicates.
fn needs(steps: &[Step]) -> Vec<Need> {
    let mut needs = Vec::new();
    for need in steps.iter().flat_map(|step| step.needs()) {
        if !needs.contains(&need) {
            needs.push(need);
        }
    }
    needs
}

impl Step {
    fn name(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }

    fn about(self) -> String {
        self.to_possible_value()
            .and_then(|value| value.get_help().map(ToString::to_string))
            .unwrap_or_default()
    }

    /// The lowest tier that runs it.
    const fn tier(self) -> Tier {
        match self {
            Self::Fmt | Self::Clippy | Self::LockRules | Self::Unit | Self::Run => Tier::Quick,
            Self::Combinations | Self::Mutants => Tier::Full,
            _ => Tier::Daily,
        }
    }

    fn needs(self) -> Vec<Need> {
        match self {
            Self::Fmt => vec![Need::Rustfmt],
            Self::Clippy => vec![Need::Clippy],
            Self::ClippyX64 => [to_build(X64).as_slice(), &[Need::Clippy]].concat(),
            Self::ClippyArm64 => [to_build(Arm64).as_slice(), &[Need::Clippy]].concat(),
            Self::WindowsHost => vec![Need::Target(X64)],
            Self::Package | Self::DocCommands => [
                to_build(X64).as_slice(),
                &to_build(Arm64),
                &[Need::Xorriso, Need::Osslsigncode],
            ]
            .concat(),
            Self::Reproducible => [to_build(X64), to_build(Arm64)].concat(),
            Self::AbiX64
            | Self::BuildX64
            | Self::Run
            | Self::Driver
            | Self::Schedules
            | Self::Combinations
            | Self::Fixtures
            | Self::GuardCost
            | Self::Cost
            | Self::LockRules
            | Self::Doc => to_build(X64).to_vec(),
            Self::AbiArm64 | Self::BuildArm64 => to_build(Arm64).to_vec(),
            // The steps for Miri, QEMU and virtual machines are skipped without their tools.
            Self::Cross | Self::Unit | Self::Test | Self::Miri | Self::Loom | Self::DocMachines => {
                Vec::new()
            }
            Self::Mutants => mutants::NEEDS.to_vec(),
            Self::Qemu if qemu::is_possible() => [to_build(X64).as_slice(), &[Need::Qemu]].concat(),
            Self::Qemu => to_build(X64).to_vec(),
        }
    }

    fn run(self, tier: Tier) -> Outcome {
        match self {
            Self::Fmt => fmt().into(),
            Self::Clippy => clippy().into(),
            Self::ClippyX64 => clippy_of_driver(X64).into(),
            Self::ClippyArm64 => clippy_of_driver(Arm64).into(),
            Self::WindowsHost => windows_host().into(),
            Self::AbiX64 => abi(X64).into(),
            Self::AbiArm64 => abi(Arm64).into(),
            Self::Cross => cross_tests().into(),
            Self::LockRules => lock_rules().into(),
            Self::Unit => tool::run(cargo("test").args(["--lib", "--bins"])).into(),
            Self::Test => integration().into(),
            Self::Miri => miri(tier),
            Self::Loom => loom().into(),
            Self::BuildX64 => build(X64).into(),
            Self::BuildArm64 => build(Arm64).into(),
            Self::Reproducible => reproducible::check(Driver::Ferrostor).into(),
            Self::Run => run().into(),
            Self::Driver => drivers(tier).into(),
            Self::Schedules => schedules(tier).into(),
            Self::Qemu => on_qemu(),
            Self::Combinations => combinations::check().into(),
            Self::Fixtures => fixture_rules().into(),
            Self::GuardCost => guard_cost::check().into(),
            Self::Cost => cost::check().into(),
            Self::Package => packages().into(),
            Self::Doc => doc().into(),
            Self::DocCommands => docs::run_commands().into(),
            Self::DocMachines => docs::machines(),
            Self::Mutants => mutants::check(mutants::JOBS).into(),
        }
    }
}

/// Builds the documentation of the root workspace and of crates/storport.
fn doc() -> Result<(), ToolError> {
    let mut of_the_crate = cross("doc", X64);
    of_the_crate.args(["--package", "ferrostor-storport"]);
    for mut command in [cargo("doc"), of_the_crate] {
        command
            .arg("--no-deps")
            .env("RUSTDOCFLAGS", "--deny warnings");
        tool::run(&mut command)?;
    }
    Ok(())
}

/// Runs the tests of the root workspace that are not unit tests, and each benchmark once.
fn integration() -> Result<(), ToolError> {
    tool::run(cargo("test").args(["--test", "*", "--examples", "--bench", "*"]))?;
    tool::run(cargo("test").arg("--doc"))
}

fn fmt() -> Result<(), ToolError> {
    tool::run(cargo("fmt").args(["--all", "--check"]))?;
    tool::run(cargo("fmt").args(["--all", "--check", "--manifest-path", "cross/Cargo.toml"]))
}

/// Runs Clippy on all code for the host.
fn clippy() -> Result<(), ToolError> {
    let deny = ["--all-targets", "--", "--deny", "warnings"];
    tool::run(cargo("clippy").args(deny))?;
    tool::run(on_host("clippy").args(deny))
}

/// Runs Clippy on all driver code.
///
/// `cargo clippy` checks only the members of a workspace. The driver's crates are members of
/// the root workspace, which does not build for Windows without the WDK. So cargo calls Clippy
/// instead of rustc for every crate. Clippy ignores lints in crates from the registry.
fn clippy_of_driver(architecture: Architecture) -> Result<(), ToolError> {
    tool::run(with_clippy(
        cross("check", architecture).args(for_windows("--package")),
    ))?;
    // The fixtures exist only for x64, like the testbed.
    if architecture == X64 {
        let fixtures = ["--package", fixtures::PACKAGE];
        tool::run(with_clippy(cross("check", X64).args(fixtures)))?;
    }
    Ok(())
}

fn with_clippy(command: &mut Command) -> &mut Command {
    command
        .env("RUSTC_WRAPPER", "clippy-driver")
        // What `cargo clippy -- --deny warnings` sets.
        .env(
            "CLIPPY_ARGS",
            "--deny__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__",
        )
}

/// Checks the members that `cargo wdk build` builds for Windows. Excludes those that need the
/// published wdk-build, which runs on Windows only.
fn windows_host() -> Result<(), ToolError> {
    let of_the_wdk = Driver::value_variants()
        .iter()
        .map(|driver| driver.name())
        .chain(["ferrostor-storport"])
        .flat_map(|package| ["--exclude", package]);
    tool::run(
        cargo("check")
            .args(["--workspace", "--target", X64.target()])
            .args(of_the_wdk),
    )
}

/// Compares the headers with the WDK, by compile-time assertions.
fn abi(architecture: Architecture) -> Result<(), ToolError> {
    tool::run(cross("check", architecture).args(["--package", "ferrostor-abi"]))
}

fn cross_tests() -> Result<(), ToolError> {
    // The step lock-rules runs these.
    tool::run(on_host("test").args(["--exclude", "ferrostor-rules"]))
}

/// Compiles the cases in crates/storport/tests/rules, and the tables of rights in docs/locking.md.
fn lock_rules() -> Result<(), ToolError> {
    tool::run(build::on_cross("test").args(["--package", "ferrostor-rules"]))
}

/// A cargo command on the packages of cross/ that run on the host.
fn on_host(subcommand: &str) -> Command {
    let mut command = build::on_cross(subcommand);
    command.arg("--workspace").args(for_windows("--exclude"));
    command
}

/// `option` with each package that is built only for Windows.
fn for_windows(option: &'static str) -> impl Iterator<Item = &'static str> {
    Driver::value_variants()
        .iter()
        .map(|driver| driver.name())
        .chain([fixtures::PACKAGE, guard_cost::PACKAGE])
        .flat_map(move |package| [option, package])
}

fn miri(tier: Tier) -> Outcome {
    if !setup::has_nightly() {
        return Outcome::Skipped(
            "Miri needs the nightly toolchain: rustup toolchain install nightly".into(),
        );
    }
    match setup::ensure(&[Need::Miri, Need::Libclang]) {
        Ok(()) => {
            // Miri runs the tests of a program on one processor.
            let mut of_virtio = setup::nightly(&["cargo", "miri", "test"]);
            of_virtio.args(["--package", "ferrostor-virtio"]);
            tool::run_beside(&mut of_virtio, || miri_of_storport(tier)).into()
        }
        Err(error) => Outcome::Skipped(error.to_string()),
    }
}

/// Miri interprets code for Windows on any host. Each seed is a thread schedule. Both aliasing
/// models are checked, with different seeds. The modelled disk accesses memory by physical
/// address, which needs permissive provenance.
fn miri_of_storport(tier: Tier) -> Result<(), ToolError> {
    let seeds = match tier {
        Tier::Quick | Tier::Daily => 1,
        Tier::Full => 16,
    };
    for (model, first) in [("", 0), ("-Zmiri-tree-borrows", seeds)] {
        let end = first + seeds;
        let flags =
            format!("-Zmiri-permissive-provenance {model} -Zmiri-many-seeds={first}..{end}");
        tool::run(
            setup::nightly(&["cargo", "miri", "test"])
                .args(["--manifest-path", "cross/Cargo.toml", "--target-dir"])
                .arg(build::target())
                .args(["--target", X64.target(), "--package", "ferrostor-models"])
                .env("MIRIFLAGS", flags),
        )?;
    }
    Ok(())
}

/// Uses a separate target folder, because `--cfg loom` would rebuild everything.
fn loom() -> Result<(), ToolError> {
    let of_virtio = ["--package", "ferrostor-virtio", "--lib"];
    let of_storport = [
        "--manifest-path",
        "cross/Cargo.toml",
        "--package",
        "ferrostor-models",
    ];
    for packages in [of_virtio.as_slice(), &of_storport] {
        tool::run(
            cargo("test")
                .args(packages)
                .arg("--target-dir")
                .arg(workspace::target().join("loom"))
                .env("RUSTFLAGS", "--cfg loom"),
        )?;
    }
    Ok(())
}

/// A driver file failed a check.
#[derive(Debug, thiserror::Error)]
enum DriverError {
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error("failed checks of the driver file: {0}")]
    Image(String),
    #[error("ARM64 driver file: {0}")]
    Barriers(#[from] BarrierError),
    #[error("version in Cargo.toml: {0}")]
    Version(#[from] VersionError),
    #[error(transparent)]
    Tests(#[from] ToolError),
    #[error("no test is named {0}: correct the name in xtask/src/test.rs")]
    NoTest(&'static str),
    #[error(transparent)]
    Qemu(#[from] QemuError),
}

fn build(architecture: Architecture) -> Result<(), DriverError> {
    let mut faults = Vec::new();
    for driver in Driver::value_variants() {
        let path = build::driver(*driver, architecture)?;
        let image = Image::read(&path).map_err(BuildError::from)?;
        let mut checks = image.checks(architecture);
        checks.push(image.check_of_version(package::version()?));
        // This project's drivers must pass the house rules too.
        let report = check::Report {
            subject: path.display().to_string(),
            checks,
            beyond: Vec::new(),
            not_judged: None,
            advice_decides: true,
        };
        print!("{report}");
        faults.extend(report.checks.iter().filter_map(|check| {
            Some(format!(
                "{}: failed: {}: {}",
                driver.name(),
                check.claim,
                check.fault()?
            ))
        }));
    }
    if !faults.is_empty() {
        return Err(DriverError::Image(faults.join("; ")));
    }
    if architecture == Arm64 {
        let driver = build::driver(Driver::Ferrostor, architecture)?;
        let accesses = barriers::check(&driver)?;
        println!("all {accesses} register accesses have memory barriers");
    }
    Ok(())
}

/// Runs the testbed's tests that need driver files.
fn drivers(tier: Tier) -> Result<(), DriverError> {
    let mut files = Vec::new();
    for driver in Driver::value_variants() {
        files.push((driver.variable(), build::driver(*driver, X64)?));
    }
    let run = |test: &str, filter: Option<&str>, variable: Option<(&str, &str)>| {
        tool::run(
            cargo("test")
                .args(["--package", "testbed", "--test", test])
                .args(["--", "--include-ignored"])
                .args(filter)
                .envs(files.clone())
                .envs(variable),
        )
    };
    run("driver_*", None, None)?;
    // The faults again, on a disk with two queues and packed rings.
    let device = ("FERROSTOR_DEVICE", "packed=on,num-queues=2");
    run("driver_faults", None, Some(device))?;
    if tier == Tier::Full {
        let resets = ("FERROSTOR_RESETS", "200");
        run("driver_faults", Some("resets_under_load"), Some(resets))?;
    }
    Ok(())
}

/// Runs the testbed's tests that need the fixtures.
fn fixture_rules() -> Result<(), DriverError> {
    let fixtures = fixtures::fixtures()?;
    tool::run(
        cargo("test")
            .args(["--package", "testbed"])
            .args(["--test", "rules", "--", "--include-ignored"])
            .env("FERROSTOR_FIXTURES", fixtures),
    )?;
    Ok(())
}

/// Runs the tests that need driver files, xorriso and osslsigncode.
fn packages() -> Result<(), DriverError> {
    // The only test of the library that needs osslsigncode.
    let test = "verify::tests::what_osslsigncode_signed_is_accepted";
    let printed = tool::output(
        cargo("test")
            .args(["--package", "ferrostor-packaging", "--lib", test, "--"])
            // The reason of a failure goes to the terminal.
            .args(["--exact", "--include-ignored", "--nocapture"]),
    )?;
    if !printed.contains("test result: ok. 1 passed") {
        return Err(DriverError::NoTest(test));
    }
    tool::run(
        cargo("test")
            .args(["--package", "xtask", "--test", "package"])
            // One at a time: a build removes the driver file that another test reads.
            .args(["--", "--include-ignored", "--test-threads=1"]),
    )?;
    Ok(())
}

/// The workloads: small random and large sequential transfers. They take 3 s of virtual time
/// for each seed.
const LOADS: [&[&str]; 2] = [
    &["-b8K", "-r", "-o16", "-t4", "-w30", "-d2", "-W0"],
    &["-b64K", "-o8", "-t4", "-w50", "-d1", "-W0"],
];

/// Runs the driver once, as `cargo xtask run` does, with all checks.
fn run() -> Result<(), DriverError> {
    let file = build::driver(Driver::Ferrostor, X64)?;
    let mut testbed = Command::new(tool::build_testbed()?);
    testbed.args(["run", "--driver"]).arg(&file);
    testbed.args(Driver::Ferrostor.testbed_options());
    testbed.args(["--verify", "--verify-bytes", "2M", "--seed", "1", "--"]);
    tool::run(testbed.args(LOADS[0]))?;
    Ok(())
}

/// Runs the driver on QEMU's disks.
fn on_qemu() -> Outcome {
    if !qemu::is_possible() {
        let why =
            "the kernel of QEMU's guest comes from Debian's packages, and there is no apt-get";
        return Outcome::Skipped(why.into());
    }
    let run = || -> Result<(), DriverError> {
        let file = build::driver(Driver::Ferrostor, X64)?;
        Ok(qemu::check(&tool::build_testbed()?, &file)?)
    };
    run().into()
}

/// Runs each driver with `--verify` on four virtual CPUs, each workload in many thread
/// schedules.
fn schedules(tier: Tier) -> Result<(), DriverError> {
    let seeds = match tier {
        Tier::Quick | Tier::Daily => "20",
        Tier::Full => "200",
    };
    let path = tool::build_testbed()?;
    for driver in Driver::value_variants() {
        let file = build::driver(*driver, X64)?;
        for load in LOADS {
            let mut testbed = Command::new(&path);
            testbed.args(["run", "--driver"]).arg(&file);
            let options = driver.testbed_options();
            testbed.args(options).args(["--cpus", "4", "--verify"]);
            if !options.contains(&"--verify-bytes") {
                testbed.args(["--verify-bytes", "2M"]);
            }
            testbed
                .args(["--seed", "1", "--seeds", seeds, "--"])
                .args(load);
            tool::run(&mut testbed)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_says_what_it_shows() {
        for step in Step::value_variants() {
            assert!(
                !step.name().is_empty() && !step.about().is_empty(),
                "{step:?}"
            );
        }
    }

    #[test]
    fn a_greater_tier_runs_all_steps_of_a_smaller_one() {
        let steps = |tier: Tier| {
            let all = Step::value_variants().iter();
            all.filter(|step| step.tier() <= tier).count()
        };
        assert!(0 < steps(Tier::Quick) && steps(Tier::Quick) < steps(Tier::Daily));
        assert!(steps(Tier::Daily) < steps(Tier::Full));
        assert_eq!(steps(Tier::Full), Step::value_variants().len());
    }

    #[test]
    fn the_bootstrap_installs_what_all_steps_need() {
        let mut script = tool::tool("sh");
        script.args(["bootstrap/setup.sh", "--needs", "test"]);
        let installed = tool::output(&mut script).unwrap();
        let mut installed: Vec<_> = installed.split_whitespace().collect();
        let mut needed: Vec<_> = needs(Step::value_variants())
            .iter()
            .map(|need| need.name())
            // For xtask itself.
            .chain(["cc"])
            .collect();
        installed.sort_unstable();
        needed.sort_unstable();
        assert_eq!(installed, needed);
    }

    #[test]
    fn a_need_of_several_steps_is_met_once() {
        let needs = needs(Step::value_variants());
        assert_eq!(
            needs.iter().filter(|need| **need == Need::Libclang).count(),
            1
        );
        assert!(needs.contains(&Need::Target(X64)) && needs.contains(&Need::Target(Arm64)));
    }

    #[test]
    fn the_step_fmt_needs_only_rustfmt() {
        assert_eq!(needs(&[Step::Fmt]), [Need::Rustfmt]);
    }
}
