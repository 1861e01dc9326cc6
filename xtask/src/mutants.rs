//! `cargo xtask mutants`: measures whether the tests notice faults.
//!
//! cargo-mutants changes the code of a crate in one place at a time, and runs the tests of the
//! crate. A mutant is such a change. It is caught if a test fails, and survives if none does.
//! The list xtask/mutants.toml names the mutants that no test can catch, with the reason.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use clap::ValueEnum;
use fs_err as fs;
use serde::Deserialize;

use crate::{
    setup::{self, Need, SetupError},
    tool::{self, ToolError},
    workspace,
};

const HELP: &str = "\
cargo-mutants copies the sources to a temporary folder and changes them there, in one place
at a time. Each change is a mutant. The tests of the package should fail for it. The tests
of storport are in cross/models, and need the nightly toolchain with Miri.

The command fails if a mutant survives, or its tests do not end, and xtask/mutants.toml
does not list it. Each entry of the list has its reason. The command also fails if the
tests catch a listed mutant. The reports are in target/mutants.

Examples:
  cargo xtask mutants
  cargo xtask mutants --package scsi --package block
  cargo xtask mutants --package virtio --jobs 4";

/// The list of mutants that no test can catch, from the project's root.
const LIST: &str = "xtask/mutants.toml";

/// The script that replaces cargo when cargo-mutants tests crates/storport.
const MODELS: &str = "xtask/mutants-of-storport.sh";

/// What the tests of storport need, besides the nightly toolchain.
pub const NEEDS: [Need; 2] = [Need::Miri, Need::Libclang];

/// The options of `cargo xtask mutants`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Options {
    /// Change only this package; can be repeated
    #[arg(long, value_enum, value_name = "PACKAGE")]
    package: Vec<Package>,

    /// Test this number of mutants at a time
    #[arg(long, value_name = "N", default_value_t = JOBS)]
    #[arg(value_parser = clap::value_parser!(u8).range(1..))]
    jobs: u8,
}

/// The default number of mutants that are tested at a time, each in a folder of its own.
pub const JOBS: u8 = 2;

/// A package whose code is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Package {
    /// crates/block
    Block,
    /// crates/scsi
    Scsi,
    /// crates/virtio
    Virtio,
    /// crates/storport/src/state.rs, which the tests in cross/models run on the host
    Storport,
}

impl Package {
    const fn name(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::Scsi => "scsi",
            Self::Virtio => "virtio",
            Self::Storport => "storport",
        }
    }
}

/// The tests were not measured, or they miss a mutant.
#[derive(Debug, thiserror::Error)]
pub enum MutantsError {
    /// cargo-mutants cannot be started.
    #[error("cargo-mutants is not installed: run `cargo install cargo-mutants --locked`")]
    NotInstalled,
    /// rustup has no nightly toolchain.
    #[error(
        "Miri, which tests storport, needs the nightly toolchain: run `rustup toolchain install \
         nightly`"
    )]
    NoNightly,
    /// Another tool is missing.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// cargo-mutants failed, and has printed the reason.
    #[error("the tests were not measured: {0}")]
    Tool(#[from] ToolError),
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] io::Error),
    /// The report of cargo-mutants has another form.
    #[error("{}: {source}; adapt xtask/src/mutants.rs to this version of cargo-mutants", path.display())]
    Report {
        /// The file.
        path: PathBuf,
        /// The error of the parser.
        source: serde_json::Error,
    },
    /// The list is malformed.
    #[error("{LIST}: {0}")]
    List(#[from] toml::de::Error),
    /// An entry of the list has no reason.
    #[error("{LIST}: the entry \"{0}\" has no reason: say why no test can catch the mutant")]
    NoReason(String),
    /// The outcome is not that of the list.
    #[error("{} differences from {LIST}:\n  {}", .0.len(), .0.join("\n  "))]
    Differs(Vec<String>),
}

/// Measures the tests of the packages, and prints a table.
///
/// # Errors
/// See [`MutantsError`].
pub fn command(options: &Options) -> Result<(), MutantsError> {
    match options.package.as_slice() {
        [] => check(options.jobs),
        packages => measure(packages, options.jobs),
    }
}

/// Measures the tests of all packages, with this number of mutants at a time.
///
/// # Errors
/// See [`MutantsError`].
pub fn check(jobs: u8) -> Result<(), MutantsError> {
    measure(Package::value_variants(), jobs)
}

/// Checks that the tools are installed for all packages.
///
/// # Errors
/// See [`MutantsError`].
pub fn check_tools() -> Result<(), MutantsError> {
    check_tools_for(Package::value_variants())
}

fn check_tools_for(packages: &[Package]) -> Result<(), MutantsError> {
    if !is_installed() {
        return Err(MutantsError::NotInstalled);
    }
    if packages.contains(&Package::Storport) {
        if !setup::has_nightly() {
            return Err(MutantsError::NoNightly);
        }
        setup::ensure(&NEEDS)?;
    }
    Ok(())
}

fn measure(packages: &[Package], jobs: u8) -> Result<(), MutantsError> {
    check_tools_for(packages)?;
    let list = List::parse(&fs::read_to_string(workspace::root().join(LIST))?)?;
    let mut table = String::from(TABLE_HEAD);
    let mut differences = Vec::new();
    for package in packages {
        let start = Instant::now();
        let report = run(*package, jobs)?;
        table += &report.row(package.name(), start.elapsed());
        differences.extend(list.differences(&format!("crates/{}/", package.name()), &report));
    }
    print!("\n{table}");
    if differences.is_empty() {
        return Ok(());
    }
    Err(MutantsError::Differs(differences))
}

fn is_installed() -> bool {
    let mut version = cargo_mutants();
    version.arg("--version");
    version.stdout(Stdio::null()).stderr(Stdio::null());
    tool::quiet_status(&mut version).is_ok_and(|status| status.success())
}

/// Runs cargo-mutants, which shows its progress on a terminal.
fn run(package: Package, jobs: u8) -> Result<Report, MutantsError> {
    let folder = workspace::target().join("mutants").join(package.name());
    fs::create_dir_all(&folder)?;
    let mut command = mutants(package, jobs, &folder);
    let status = tool::status(&mut command)?;
    if !matches!(status.code(), Some(0 | SURVIVED | TIMED_OUT)) {
        return Err(ToolError::failed(&command, status).into());
    }
    let path = folder.join("mutants.out/outcomes.json");
    serde_json::from_str(&fs::read_to_string(&path)?)
        .map_err(|source| MutantsError::Report { path, source })
}

/// Exit codes of cargo-mutants, which says what was found.
const SURVIVED: i32 = 2;
const TIMED_OUT: i32 = 3;

/// Not called through cargo, which would set `CARGO` for it.
fn cargo_mutants() -> Command {
    let mut command = tool::tool("cargo-mutants");
    command.arg("mutants");
    command
}

fn mutants(package: Package, jobs: u8, folder: &Path) -> Command {
    let mut command = cargo_mutants();
    command
        .args(["--no-config", "--package"])
        .arg(format!("ferrostor-{}", package.name()))
        .arg(format!("--jobs={jobs}"))
        .arg("--output")
        .arg(folder)
        // A test with threads gives up after 10 s. Other work may slow the machine down.
        .arg("--minimum-test-timeout=60")
        // Property tests spend most of their time in their library.
        .arg("--cargo-arg=--config=profile.dev.package.\"*\".opt-level=2")
        // Debug information would take a third of the time to compile.
        .env("CARGO_PROFILE_DEV_DEBUG", "0");
    match package {
        Package::Storport => command
            .args(["--file", "crates/storport/src/state.rs"])
            .env("CARGO", workspace::root().join(MODELS)),
        // The tests of the package, without the examples in its documentation.
        _ => command.args(["--cargo-test-arg=--lib", "--cargo-test-arg=--tests"]),
    };
    command
}

/// The fields of cargo-mutants' report on a package that are used.
#[derive(Deserialize)]
struct Report {
    total_mutants: usize,
    caught: usize,
    missed: usize,
    timeout: usize,
    unviable: usize,
    outcomes: Vec<Outcome>,
}

#[derive(Deserialize)]
struct Outcome {
    scenario: Scenario,
    summary: Summary,
}

#[derive(Deserialize)]
enum Scenario {
    Baseline,
    Mutant { name: String },
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
enum Summary {
    #[serde(rename = "MissedMutant")]
    Missed,
    Timeout,
    #[serde(other)]
    Other,
}

const TABLE_HEAD: &str = "\
| Package | Mutants | Caught | Survived | Do not compile | Do not end | Time |
|---|---:|---:|---:|---:|---:|---:|
";

impl Report {
    /// A row of the table.
    fn row(&self, package: &str, time: Duration) -> String {
        format!(
            "| {package} | {} | {} | {} | {} | {} | {} s |\n",
            self.total_mutants,
            self.caught,
            self.missed,
            self.unviable,
            self.timeout,
            time.as_secs()
        )
    }
}

/// The mutants that no test can catch.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    /// All tests pass.
    #[serde(default)]
    survives: Vec<Entry>,
    /// A test does not end.
    #[serde(default)]
    never_ends: Vec<Entry>,
}

/// A mutant, or several in one function that have the same description.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    file: String,
    /// What cargo-mutants prints, without the place.
    mutant: String,
    #[serde(default = "one")]
    count: usize,
    reason: String,
}

const fn one() -> usize {
    1
}

impl List {
    fn parse(text: &str) -> Result<Self, MutantsError> {
        let list: Self = toml::from_str(text)?;
        let mut entries = list.survives.iter().chain(&list.never_ends);
        match entries.find(|entry| entry.reason.trim().is_empty()) {
            Some(entry) => Err(MutantsError::NoReason(entry.mutant.clone())),
            None => Ok(list),
        }
    }

    /// Compares the report on the package in `folder` with the list.
    fn differences(&self, folder: &str, report: &Report) -> Vec<String> {
        let kinds = [
            (&self.survives, Summary::Missed, "survives"),
            (&self.never_ends, Summary::Timeout, "never ends"),
        ];
        let mut differences = Vec::new();
        for (entries, summary, verb) in kinds {
            let mut found = places(report, summary);
            for entry in entries.iter().filter(|it| it.file.starts_with(folder)) {
                let Entry { file, mutant, .. } = entry;
                let places = found.remove(&(file.as_str(), mutant.as_str()));
                let places = places.unwrap_or_default();
                if places.len() != entry.count {
                    differences.push(format!(
                        "{file}: {mutant}: listed {} times, {verb} {} times {}: correct the entry, \
                         or remove it",
                        entry.count,
                        places.len(),
                        places.join(" ")
                    ));
                }
            }
            for ((file, mutant), places) in found {
                for place in places {
                    differences.push(format!(
                        "{file}:{place}: {mutant}: {verb}: add a test that fails for it"
                    ));
                }
            }
        }
        differences
    }
}

/// The lines and columns of the mutants with this outcome, by file and description.
fn places(report: &Report, summary: Summary) -> BTreeMap<(&str, &str), Vec<&str>> {
    let mut found: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for outcome in &report.outcomes {
        if let Scenario::Mutant { name } = &outcome.scenario
            && outcome.summary == summary
            && let Some((place, mutant)) = name.split_once(": ")
            && let Some((file, place)) = place.split_once(':')
        {
            found.entry((file, mutant)).or_default().push(place);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A report on two mutants that survive, one that does not end, and one that is caught.
    fn report() -> Report {
        let outcome = |name: &str, summary: &str| json!({"scenario": {"Mutant": {"name": name}}, "summary": summary});
        serde_json::from_value(json!({
            "total_mutants": 4, "caught": 1, "missed": 2, "timeout": 1, "unviable": 0,
            "outcomes": [
                {"scenario": "Baseline", "summary": "Success"},
                outcome("crates/a/src/lib.rs:3:7: replace | with ^ in f", "MissedMutant"),
                outcome("crates/a/src/lib.rs:4:7: replace | with ^ in f", "MissedMutant"),
                outcome("crates/a/src/lib.rs:9:1: replace += with -= in g", "Timeout"),
                outcome("crates/a/src/lib.rs:9:1: replace += with *= in g", "CaughtMutant"),
            ],
        }))
        .unwrap()
    }

    const SURVIVES: &str = "[[survives]]\n\
                            file = 'crates/a/src/lib.rs'\n\
                            mutant = 'replace | with ^ in f'\n\
                            count = 2\n\
                            reason = 'the bits are disjoint'\n";
    const NEVER_ENDS: &str = "[[never_ends]]\n\
                              file = 'crates/a/src/lib.rs'\n\
                              mutant = 'replace += with -= in g'\n\
                              reason = 'the index leaves the loop'\n";

    #[test]
    fn only_what_differs_from_the_list_is_named() {
        let place = "crates/a/src/lib.rs";
        let unlisted = |what: &str| format!("{place}:{what}: add a test that fails for it");
        let wrong = |what: &str| format!("{place}: {what}: correct the entry, or remove it");
        let both = format!("{SURVIVES}{NEVER_ENDS}");
        let counted = |count| both.replace("count = 2", &format!("count = {count}"));
        let listed = |count| {
            wrong(&format!(
                "replace | with ^ in f: listed {count} times, survives 2 times 3:7 4:7"
            ))
        };
        for (case, list, expected) in [
            ("all are listed", both.clone(), vec![]),
            (
                "none is listed",
                String::new(),
                vec![
                    unlisted("3:7: replace | with ^ in f: survives"),
                    unlisted("4:7: replace | with ^ in f: survives"),
                    unlisted("9:1: replace += with -= in g: never ends"),
                ],
            ),
            ("too few are listed", counted(1), vec![listed(1)]),
            ("too many are listed", counted(3), vec![listed(3)]),
            (
                "a mutant that is caught is listed",
                both.clone() + &NEVER_ENDS.replace("-=", "*="),
                vec![wrong(
                    "replace += with *= in g: listed 1 times, never ends 0 times ",
                )],
            ),
            (
                "entries of other packages are not judged",
                both.clone() + &NEVER_ENDS.replace("crates/a", "crates/ab"),
                vec![],
            ),
        ] {
            let list = List::parse(&list).unwrap();
            assert_eq!(list.differences("crates/a/", &report()), expected, "{case}");
        }
    }

    #[test]
    fn an_entry_needs_a_reason() {
        let list = SURVIVES.replace("the bits are disjoint", " ");
        assert!(matches!(
            List::parse(&list),
            Err(MutantsError::NoReason(mutant)) if mutant == "replace | with ^ in f"
        ));
        let list = SURVIVES.replace("reason", "# reason");
        assert!(matches!(List::parse(&list), Err(MutantsError::List(_))));
    }

    #[test]
    fn the_list_in_the_repository_is_valid() {
        let list = List::parse(&fs::read_to_string(workspace::root().join(LIST)).unwrap()).unwrap();
        for entry in list.survives.iter().chain(&list.never_ends) {
            let file = workspace::root().join(&entry.file);
            assert!(file.is_file(), "{} does not exist", entry.file);
        }
    }

    #[test]
    fn the_table_has_a_row_for_a_package() {
        assert_eq!(
            report().row("a", Duration::from_millis(61_900)),
            "| a | 4 | 1 | 2 | 0 | 1 | 61 s |\n"
        );
    }
}
