//! Every rule that the testbed knows is broken by a miniport of its own, which
//! breaks no other, and kept by that miniport's correct twin.
//!
//! The miniports are testbed/fixtures, built twice: FERROSTOR_FIXTURES names the
//! folder. A fixture is named by its rule, or by `rule_facet`. In its source a
//! line `//! Run with: ...` gives options of the command that it needs, and
//! `//! Also says: ...` how a line begins that the fault and the twin both end
//! with.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Mutex, PoisonError},
    thread,
};

/// What every run is given: a short verify pass on two CPUs, and no workload.
const RUN: [&str; 10] = [
    "run",
    "--function",
    "bell",
    "--cpus",
    "2",
    "--memory",
    "64M",
    "--verify-bytes",
    "128K",
    "--no-workload",
];

/// How: one thread at a time in an order that is the same each time, or as the
/// host schedules them.
const IN_ORDER: [&str; 3] = ["--verify", "--seed", "1"];
const AT_ONCE: [&str; 0] = [];

/// The exit codes of the command.
const PASSED: i32 = 0;
const FAILED: i32 = 1;
const STOPPED: i32 = 3;

struct Fixture {
    name: String,
    /// The options that its source asks for.
    options: Vec<String>,
    /// What it says although no rule is broken.
    remark: Option<String>,
}

impl Fixture {
    fn rule(&self) -> &str {
        self.name.split('_').next().unwrap_or(&self.name)
    }

    /// Its driver file: of the faulty ones, or of the correct ones.
    fn driver(&self, variant: &str) -> PathBuf {
        let folder = env::var_os("FERROSTOR_FIXTURES").expect("FERROSTOR_FIXTURES names a folder");
        Path::new(&folder)
            .join(variant)
            .join(&self.name)
            .with_extension("sys")
    }

    fn run(&self, variant: &str, how: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_testbed"))
            .args(RUN)
            .args(how)
            .arg("--driver")
            .arg(self.driver(variant))
            .args(&self.options)
            .output()
            .expect("the command starts")
    }

    /// The function of the driver's at an offset.
    fn function_at(&self, offset: u64) -> String {
        let map = self.driver("faulty").with_extension("map");
        let map = fs::read_to_string(map).expect("a map lies beside the driver");
        let symbols = map.lines().filter_map(|line| {
            let mut fields = line.split_whitespace();
            let name = fields.nth(1)?;
            let address = u64::from_str_radix(fields.next()?, 16).ok()?;
            Some((address.checked_sub(0x1_8000_0000)?, name))
        });
        symbols
            .filter(|(start, _)| *start <= offset)
            .max()
            .map_or(String::new(), |(_, name)| name.to_owned())
    }
}

/// All of them, by their sources.
fn fixtures() -> Vec<Fixture> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/examples");
    let mut fixtures: Vec<_> = fs::read_dir(sources)
        .expect("the fixtures' folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| {
            let source = fs::read_to_string(&path).expect("a source");
            let line = |start| source.lines().find_map(|line| line.strip_prefix(start));
            Fixture {
                name: path.file_stem().expect("a name").display().to_string(),
                options: line("//! Run with: ")
                    .unwrap_or_default()
                    .split_whitespace()
                    .map(str::to_owned)
                    .collect(),
                remark: line("//! Also says: ").map(str::to_owned),
            }
        })
        .collect();
    fixtures.sort_by(|one, other| one.name.cmp(&other.name));
    fixtures
}

/// The rules that the testbed knows.
fn rules() -> BTreeSet<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_testbed"))
        .arg("rules")
        .output()
        .expect("the command starts");
    let text = String::from_utf8(output.stdout).expect("text");
    // What is below a rule is indented, and an empty line ends the list.
    text.lines()
        .take_while(|line| !line.is_empty())
        .filter(|line| !line.starts_with(' '))
        .map(str::to_owned)
        .collect()
}

/// Judges each fixture on a thread of each CPU, and fails with all that is
/// wrong.
fn each(judge: impl Fn(&Fixture) -> Result<(), String> + Sync) {
    let fixtures = fixtures();
    assert!(!fixtures.is_empty());
    let left = Mutex::new(fixtures.iter());
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
    let wrong = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(fixture) = next() {
                    if let Err(what) = judge(fixture) {
                        let mut wrong = wrong.lock().unwrap_or_else(PoisonError::into_inner);
                        wrong.push(format!("{}: {what}", fixture.name));
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

/// A rule that was broken: its name, in which callback, where in the driver.
struct Broken {
    rule: String,
    callback: String,
    offset: Option<u64>,
}

impl Broken {
    /// Of `violation of RULE in CALLBACK at driver offset 0x1234, once: ...`.
    fn of_reason(line: &str) -> Option<Self> {
        let (rule, rest) = line.strip_prefix("violation of ")?.split_once(" in ")?;
        let (head, _) = rest.split_once(", ")?;
        Some(match head.split_once(" at driver offset ") {
            Some((callback, offset)) => Self {
                rule: rule.to_owned(),
                callback: callback.to_owned(),
                offset: offset_of(offset),
            },
            None => Self {
                rule: rule.to_owned(),
                callback: head.to_owned(),
                offset: None,
            },
        })
    }

    /// Of `testbed: DRIVER, in CALLBACK at +0x1234: RULE: ...`.
    fn of_stop(line: &str) -> Option<Self> {
        let (_, rest) = line.split_once(", in ")?;
        let (head, rest) = rest.split_once(": ")?;
        let (rule, _) = rest.split_once(": ")?;
        let (callback, offset) = match head.split_once(" at +") {
            Some((callback, offset)) => (callback, offset_of(offset)),
            None => (head, None),
        };
        Some(Self {
            rule: rule.to_owned(),
            callback: callback.to_owned(),
            offset,
        })
    }
}

fn offset_of(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

/// The rules that a run reports: those in all its reasons, or the one that the
/// machine was stopped for.
fn broken(fixture: &Fixture, output: &Output) -> Result<Vec<Broken>, String> {
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(PASSED) => Ok(Vec::new()),
        Some(FAILED) => {
            let (_, reasons) = text.rsplit_once("\nFAIL\n").ok_or("it says no FAIL")?;
            let expected = |line: &&str| {
                let remark = fixture.remark.as_deref();
                !remark.is_some_and(|remark| line.starts_with(remark))
                    && !line.starts_with("the same run again: ")
            };
            reasons
                .lines()
                // What is further in belongs to the line before.
                .filter_map(|line| line.strip_prefix("  "))
                .filter(|line| !line.starts_with(' '))
                .filter(expected)
                .map(|line| Broken::of_reason(line).ok_or(format!("it also says: {line}")))
                .collect()
        }
        Some(STOPPED) => {
            let line = errors.lines().next().unwrap_or_default();
            let broken = Broken::of_stop(line).ok_or(format!("it stopped with: {line}"))?;
            Ok(vec![broken])
        }
        code => Err(format!("it ended with {code:?}: {errors}")),
    }
}

/// `HwMSInterruptRoutine` as the fixtures' sources call it:
/// `ms_interrupt_routine`.
fn method_of(callback: &str) -> String {
    let mut method = String::new();
    let callback = callback
        .trim_start_matches("STOR_")
        .trim_start_matches("Hw");
    let mut before = 'A';
    for letter in callback.replace("MSI", "MsI").chars() {
        if letter.is_uppercase() && before.is_lowercase() {
            method.push('_');
        }
        method.extend(letter.to_lowercase());
        before = letter;
    }
    method
}

#[test]
#[ignore = "needs the fixtures: cargo xtask test --only fixtures"]
fn every_rule_has_a_fixture_and_every_fixture_a_rule() {
    let with_fixture: BTreeSet<_> = fixtures()
        .iter()
        .map(|fixture| fixture.rule().to_owned())
        .collect();
    let rules = rules();
    let without: Vec<_> = rules.difference(&with_fixture).collect();
    let unknown: Vec<_> = with_fixture.difference(&rules).collect();
    assert!(
        without.is_empty() && unknown.is_empty(),
        "no fixture breaks {without:?}; no rules are {unknown:?}"
    );
}

#[test]
#[ignore = "needs the fixtures: cargo xtask test --only fixtures"]
fn each_faulty_fixture_breaks_its_rule_and_no_other_at_its_own_place() {
    each(|fixture| {
        let found = broken(fixture, &fixture.run("faulty", &IN_ORDER))?;
        if found.is_empty() {
            return Err("it breaks no rule".to_owned());
        }
        for broken in found {
            if broken.rule != fixture.rule() {
                return Err(format!("it breaks {} in {}", broken.rule, broken.callback));
            }
            let Some(offset) = broken.offset else {
                continue;
            };
            // Its own method of that callback, not one of the correct ones.
            let function = fixture.function_at(offset);
            let crate_name = fixture.name.replace('-', "_");
            let method = method_of(&broken.callback);
            let own = function.contains(&crate_name) && function.contains(&method);
            // The driver's entry keeps its exported name.
            if !own && function != broken.callback {
                return Err(format!(
                    "it breaks the rule in {function}, not in its own {method}"
                ));
            }
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs the fixtures: cargo xtask test --only fixtures"]
fn each_correct_twin_breaks_no_rule() {
    each(|fixture| {
        for how in [&IN_ORDER[..], &AT_ONCE] {
            let output = fixture.run("correct", how);
            let found = broken(fixture, &output)?;
            if let Some(broken) = found.first() {
                return Err(format!("it breaks {} in {}", broken.rule, broken.callback));
            }
        }
        Ok(())
    });
}
