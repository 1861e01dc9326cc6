//! Tests with driver files that break a rule, and with their correct twins. They test what needs a
//! file: its imports and callbacks, the place in the file that a report names, and the exit code.
//! testbed/storport/src/tests/rules.rs tests each rule.
//!
//! The miniports, called fixtures, are in testbed/fixtures. FERROSTOR_FIXTURES names the folder of
//! their driver files: `correct`, `faulty` and `prohibited`. A fixture is named after its rule, as
//! `rule` or `rule_case`. A test runs a link to the driver file that has the name of the fixture,
//! by which the driver selects it.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Output},
    sync::Mutex,
    thread,
};

use testbed_machine::testing;
use testbed_storport::report::RuleList;

/// The options of every run: a short verify pass on two CPUs, and no workload.
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

/// With this option, a broken house rule fails the run.
const HOUSE_RULES: &str = "--house-rules";

/// Options for threads: one at a time in the same order each time, or as the host schedules
/// them.
const IN_ORDER: [&str; 4] = [HOUSE_RULES, "--verify", "--seed", "1"];
const AT_ONCE: [&str; 1] = [HOUSE_RULES];

/// The callbacks of the fixtures. A rule is broken in each.
const CALLBACKS: [&str; 16] = [
    "DriverEntry",
    "HwFindAdapter",
    "HwInitialize",
    "HwPassiveInitialize",
    "HwAdapterControl",
    "HwBuildIo",
    "HwStartIo",
    "HwInterrupt",
    "HwMSInterruptRoutine",
    "HwDpcRoutine",
    "HwTimer",
    "HwTimerEx",
    "HwResetBus",
    "HwStateChange",
    "HwWorkItem",
    "STOR_SYNCHRONIZED_ACCESS",
];

/// Those of [`CALLBACKS`] that the miniport does not register, but passes to a function of
/// Storport.
const ROUTINES: [&str; 5] = [
    "HwTimer",
    "HwTimerEx",
    "HwStateChange",
    "HwWorkItem",
    "STOR_SYNCHRONIZED_ACCESS",
];

/// The exit codes of the command.
const PASSED: i32 = 0;
const FAILED: i32 = 1;
const STOPPED: i32 = 3;

struct Fixture {
    name: &'static str,
    /// Further options of the command.
    options: &'static [&'static str],
    /// The beginning of a line that the run may print besides.
    remark: Option<&'static str>,
}

const fn fixture(
    name: &'static str,
    options: &'static [&'static str],
    remark: Option<&'static str>,
) -> Fixture {
    Fixture {
        name,
        options,
        remark,
    }
}

/// Options that wait for time-outs, in virtual time.
const TIME_OUT: &[&str] = &["--verify", "--seed", "1"];

const NOT_STARTED: Option<&str> = Some("the adapter did not start");
const INVERSION: Option<&str> = Some("before that: lock-inversion");
const RESET: Option<&str> = Some("a request timed out and the bus was reset");

/// The fixtures of testbed/fixtures/src/lib.rs.
const FIXTURES: [Fixture; 21] = [
    fixture("ddi-deprecated_log-error", &[], None),
    fixture("ddi-in-dump-mode", &["--dump"], None),
    fixture("ddi-irql_allocate-pool", &[], None),
    fixture("ddi-prohibited", &[], None),
    fixture("find-adapter_return-value", &[], NOT_STARTED),
    fixture("initialization-data_tagged-queuing", &[], None),
    fixture("irql-at-return", &[], None),
    fixture("lock-deadlock", &[], INVERSION),
    fixture("lock-held-at-return_work-item", &[], None),
    fixture("lock-order", &[], None),
    fixture("lock-order-start-io_level", &[], None),
    fixture("lock-recursion_initialize", &[], None),
    fixture("lock-recursion_interrupt", &["--interrupts", "intx"], None),
    fixture("lock-recursion_reset-bus", TIME_OUT, RESET),
    fixture("lock-recursion_state-change", &[], None),
    fixture("lock-recursion_synchronized", &[], None),
    fixture("lock-recursion_timer", &[], None),
    fixture("lock-recursion_timer-ex", &[], None),
    fixture("register-address", &[], None),
    fixture("srb-touched", TIME_OUT, None),
    fixture("stop-at-dirql", &[], None),
];

impl Fixture {
    fn rule(&self) -> &str {
        self.name.split('_').next().unwrap_or(self.name)
    }

    /// Its function for a callback, as the symbolizer prints it. A routine that it passes to a
    /// function of Storport is beside its type.
    fn function(&self, callback: &str) -> String {
        let (ty, method) = (types()[self.name], method_of(callback));
        if ROUTINES.contains(&callback) {
            let (module, _) = ty.split_once("::").expect("a module");
            format!("fixtures::{module}::{method}")
        } else {
            format!("<fixtures::{ty} as fixtures::miniport::Miniport>::{method}")
        }
    }

    /// Whether a line at the end of a run's output is expected.
    fn expects(&self, line: &str) -> bool {
        self.remark.is_some_and(|remark| line.starts_with(remark))
            || line.starts_with("to repeat this run: ")
    }

    /// How it is run. A run that waits for time-outs has the same order each time.
    fn ways(&self) -> &[&[&str]] {
        if self.options == TIME_OUT {
            &[&AT_ONCE]
        } else {
            &[&IN_ORDER, &AT_ONCE]
        }
    }

    fn run(&self, variant: &str, how: &[&str]) -> Output {
        let built = env::var_os("FERROSTOR_FIXTURES").expect("FERROSTOR_FIXTURES names a folder");
        let folder = tempfile::tempdir().expect("a folder");
        for extension in ["sys", "map"] {
            let file = Path::new(&built).join(variant).with_extension(extension);
            let link = folder.path().join(self.name).with_extension(extension);
            symlink(file, link).expect("a link");
        }
        Command::new(env!("CARGO_BIN_EXE_testbed"))
            .args(RUN)
            .args(how)
            .arg("--driver")
            .arg(folder.path().join(self.name).with_extension("sys"))
            .args(self.options)
            .output()
            .expect("the command starts")
    }

    fn run_faulty(&self, how: &[&str]) -> Output {
        let imports = self.name == "ddi-prohibited";
        self.run(if imports { "prohibited" } else { "faulty" }, how)
    }
}

/// Judges the fixtures on a thread of each CPU, and fails with all that is wrong.
fn each(judge: impl Fn(&Fixture) -> Result<(), String> + Sync) {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let wrong = testing::on_threads(threads, &FIXTURES, |_, fixture| {
        let wrong = judge(fixture).err();
        wrong
            .map(|what| format!("{}: {what}", fixture.name))
            .into_iter()
            .collect()
    });
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

/// A broken rule in a report: its name, the callback, and the driver's function at the reported
/// place, if there is one.
struct Broken {
    rule: String,
    callback: String,
    function: Option<String>,
}

impl Broken {
    /// Parses `violation of RULE in CALLBACK at driver offset 0x1234, once: ...`, or
    /// `advice: RULE in ...`, and the indented lines that follow it.
    fn of_reason(lines: &[&str]) -> Option<Self> {
        let line = lines.first()?;
        let line = line
            .strip_prefix("violation of ")
            .or_else(|| line.strip_prefix("advice: "))?;
        let (rule, rest) = line.split_once(" in ")?;
        let (callback, _) = rest.split_once(',')?;
        Some(Self::new(rule, callback, lines))
    }

    /// Parses `testbed: DRIVER, in CALLBACK at +0x1234: RULE: ...` and the lines that follow it.
    fn of_stop(lines: &[&str]) -> Option<Self> {
        let (_, rest) = lines.first()?.split_once(", in ")?;
        let (callback, rest) = rest.split_once(": ")?;
        let (rule, _) = rest.split_once(": ")?;
        Some(Self::new(rule, callback, lines))
    }

    fn new(rule: &str, callback: &str, lines: &[&str]) -> Self {
        let callback = callback.split(" at ").next().unwrap_or(callback);
        // `at: DRIVER+0x1234 (FUNCTION+0x12)`, the innermost first.
        let place = lines
            .iter()
            .map(|line| line.trim().trim_start_matches("waits "))
            .find_map(|line| line.strip_prefix("at: "));
        let function = place
            .and_then(|place| place.split_once(" (")?.1.split_once("+0x"))
            .map(|(function, _)| function.to_owned());
        // A report with an offset must also have the function's name.
        let has_place = lines[0].contains(" at driver offset ") || lines[0].contains(" at +0x");
        assert_eq!(function.is_some(), has_place, "{lines:#?}");
        Self {
            rule: rule.to_owned(),
            callback: callback.to_owned(),
            function,
        }
    }
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
            let lines: Vec<_> = reasons
                .lines()
                .map(|line| line.strip_prefix("  ").unwrap_or(line))
                .collect();
            lines
                .chunk_by(|_, line| line.starts_with(' '))
                .filter(|reason| !fixture.expects(reason[0]))
                .map(|reason| {
                    Broken::of_reason(reason).ok_or(format!("it also says: {}", reason[0]))
                })
                .collect()
        }
        Some(STOPPED) => {
            let lines: Vec<_> = errors.lines().collect();
            let before = lines.iter().map(|line| line.trim());
            let mut before = before.filter(|line| line.starts_with("before that: "));
            if let Some(line) = before.find(|line| !fixture.expects(line)) {
                return Err(format!("it also says: {line}"));
            }
            let broken = Broken::of_stop(&lines).ok_or(format!("it stopped with: {errors}"))?;
            Ok(vec![broken])
        }
        code => Err(format!("it ended with {code:?}: {errors}")),
    }
}

/// The types of the fixtures in the driver file, by name.
fn types() -> BTreeMap<&'static str, &'static str> {
    let source = include_str!("../../fixtures/src/lib.rs");
    let (_, list) = source.split_once("const FIXTURES: ").expect("the list");
    let (list, _) = list.split_once("\n];").expect("its end");
    // `("name", module::Type::driver_entry)`, in one line or in several.
    list.split("::driver_entry")
        .filter_map(|entry| {
            let (name, ty) = entry.rsplit_once("\",")?;
            Some((name.rsplit('"').next()?, ty.trim()))
        })
        .collect()
}

#[test]
fn each_fixture_of_the_driver_file_is_run() {
    let run: BTreeSet<_> = FIXTURES.iter().map(|fixture| fixture.name).collect();
    assert_eq!(types().into_keys().collect::<BTreeSet<_>>(), run);
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
fn each_faulty_fixture_breaks_its_rule_and_no_other_at_its_own_place() {
    let callbacks = Mutex::new(BTreeSet::new());
    each(|fixture| {
        let found = broken(fixture, &fixture.run_faulty(fixture.ways()[0]))?;
        if found.is_empty() {
            return Err("it breaks no rule".to_owned());
        }
        for broken in found {
            if broken.rule != fixture.rule() {
                return Err(format!("it breaks {} in {}", broken.rule, broken.callback));
            }
            // In its own function for that callback, not in a correct one; the driver's entry
            // keeps its exported name.
            let own = fixture.function(&broken.callback);
            let is_own = |function: &str| function == own || function == "DriverEntry";
            if let Some(function) = broken.function.filter(|function| !is_own(function)) {
                return Err(format!("it breaks the rule in {function}, not in {own}"));
            }
            let mut callbacks = callbacks.lock().expect("no thread panicked");
            callbacks.insert(broken.callback);
        }
        Ok(())
    });
    let callbacks = callbacks.into_inner().expect("no thread panicked");
    let missing: Vec<_> = CALLBACKS
        .into_iter()
        .filter(|callback| !callbacks.contains(*callback))
        .collect();
    assert!(
        missing.is_empty(),
        "no fixture breaks a rule in {missing:?}"
    );
}

#[test]
#[ignore = "needs the fixtures: cargo xtask test --only fixtures"]
fn a_broken_house_rule_is_advice_without_the_option() {
    let house: BTreeSet<_> = testbed_storport::rules()
        .filter(|rule| rule.list == RuleList::House)
        .map(|rule| rule.name)
        .collect();
    each(|fixture| {
        if !house.contains(fixture.rule()) {
            return Ok(());
        }
        let output = fixture.run_faulty(TIME_OUT);
        let text = String::from_utf8_lossy(&output.stdout);
        let advice = format!("\nadvice: {} in ", fixture.rule());
        if output.status.code() != Some(PASSED) || !text.contains(&advice) {
            return Err(format!("not advice, but: {text}"));
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs the fixtures: cargo xtask test --only fixtures"]
fn each_correct_twin_breaks_no_rule() {
    each(|fixture| {
        for how in fixture.ways() {
            let output = fixture.run("correct", how);
            let found = broken(fixture, &output)?;
            if let Some(broken) = found.first() {
                return Err(format!("it breaks {} in {}", broken.rule, broken.callback));
            }
        }
        Ok(())
    });
}
