//! The locking book keeps its word: its table has a row for each rule that
//! concerns a miniport, and each test that it names exists.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// What the table must have a row for, by the first words of a row's source.
///
/// L: a lock handle and the code between acquire and release. O: the order of
/// locks. S: completing SRBs. D: dump stacks. Then the callbacks, the routines
/// that belong to certain callbacks, and the rules of Microsoft's static and
/// run-time verifiers.
const SOURCES: &[&str] = &[
    // Handles and holding.
    "L1",
    "L2",
    "L3",
    "L4",
    "L5",
    "L6",
    "L7",
    "L8",
    "L9",
    // Order.
    "O1",
    "O2",
    "O3",
    "O4",
    "O5",
    "O6",
    "O7",
    "O8",
    "O9",
    "O10",
    // Callbacks.
    "DriverEntry",
    "HwFindAdapter",
    "HwInitialize",
    "HwPassiveInitialize",
    "HwBuildIo",
    "HwStartIo",
    "HwStartIo (virtual)",
    "HwInterrupt",
    "HwMSInterruptRoutine, SynchronizeAll",
    "HwMSInterruptRoutine, PerMessage",
    "HwDpcRoutine",
    "HwTimer",
    "HwResetBus",
    "HwStateChange",
    "HwAdapterControl",
    "HwUnitControl",
    "HwTracingEnabled",
    "STOR_SYNCHRONIZED_ACCESS",
    "HwWorkItem",
    "System thread",
    "HwRegistryNotification",
    "ExecutionRoutine",
    "Virtual miniports' callbacks",
    // Routines bound to callbacks.
    "StorPortInitialize",
    "StorPortGetUncachedExtension",
    "StorPortFreeDeviceBase",
    "StorPortGetDeviceBase",
    "StorPortGetBusData",
    "StorPortSetAdapterBusType",
    "StorPortMarkDumpMemory",
    "StorPortSetPowerSettingNotificationGuids",
    "StorPortInitializeTimer",
    "StorPortEnablePassiveInitialization",
    "StorPortInitializePerfOpts",
    "StorPortUpdateAdapterMaxIO",
    "StorPortInitializeDpc",
    "StorPortGetMSIInfo",
    "StorPortGetStartIoPerfParams",
    "StorPortSetDeviceQueueDepth",
    "StorPortSetUnitAttributes",
    "StorPortInitializePoFxPower",
    "StorPortQueryDpcWatchdogInformation",
    "PASSIVE_LEVEL",
    "DISPATCH_LEVEL at most",
    // SRBs.
    "S1",
    "S2",
    "S3",
    "S4",
    "S5",
    "S6",
    "S7",
    "S8",
    "S9",
    "S10",
    "S11",
    "S12",
    // Dump stacks.
    "D3",
    "D4",
    "D6",
    "D8",
    // Rules of Microsoft's static verifier.
    "StorPortSpinLock",
    "StorPortSpinLock3",
    "StorPortSpinLock4",
    "StorPortMSILock",
    "SpinLock",
    "StorPortIrql",
    "SpChangeIrql",
    "IrqlDispatch",
    "SpDuplex",
    "SpNoWait",
    "StorPortStartIo",
    "SpReturnValue",
    "StorPortFindAdapter",
    "StorPortAllocatePool",
    "StorPortAllocatePool2",
    "StorPortBuildIo",
    "StorPortCompleteRequest",
    "StorPortEnablePassive",
    "StorPortPassiveFromHwInit",
    "StorPortNotification2",
    "StorPortPerfOpts",
    "StorPortTimer",
    "StorPortStatusPending",
    "HwStorPortProhibitedDDIs",
    "StorPortDDIsPortOnly",
    "StorPortDeprecated",
    "NullCheck",
    "StorPortVirtualDevice",
    "PagedCode",
    "StorPortAdapterControl",
    "StorPortNotification",
    // Of its run-time verifier.
    "0xF1/0x2001",
    "0xF1/0x2002",
    "0xF1/0x2003",
    "0xF1/0x2004",
    "0xF1/0x2005",
];

struct Row {
    source: String,
    held: String,
    shown: Vec<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies in the workspace")
        .to_owned()
}

/// The words between backticks.
fn code(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(Into::into).collect()
}

/// The rows of all tables of rules.
fn rows() -> Vec<Row> {
    let book = fs::read_to_string(root().join("docs/locking.md")).expect("the book is there");
    let mut rows = Vec::new();
    let mut is_of_rules = false;
    for line in book.lines() {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        match cells[..] {
            ["", "Rule", "Source", "Held by", "Shown by", ""] => is_of_rules = true,
            ["", _, source, held, shown, ""] if is_of_rules && !source.starts_with("---") => {
                rows.push(Row {
                    source: source.to_owned(),
                    held: held.to_owned(),
                    shown: code(shown),
                });
            }
            [_] => is_of_rules = false,
            _ => {}
        }
    }
    rows
}

/// Whether the test of this name exists: `fixtures/NAME`, `PATH::FUNCTION`, or
/// `ROOM/NAME` of the rules that do not compile when broken.
fn exists(name: &str) -> bool {
    let root = root();
    if let Some((path, function)) = name.split_once("::") {
        let text = fs::read_to_string(root.join(path)).unwrap_or_default();
        return text.contains(&format!("fn {function}("));
    }
    let path = match name.strip_prefix("fixtures/") {
        Some(fixture) => format!("testbed/fixtures/examples/{fixture}.rs"),
        None => format!("crates/storport/tests/rules/{name}.rs"),
    };
    root.join(path).is_file()
}

#[test]
fn every_rule_has_a_row() {
    let rows = rows();
    let named: BTreeSet<_> = rows
        .iter()
        .flat_map(|row| row.source.split("; "))
        .map(str::trim)
        .collect();

    let missing: Vec<_> = SOURCES
        .iter()
        .filter(|rule| !named.contains(*rule))
        .collect();

    assert!(
        missing.is_empty(),
        "docs/locking.md has no row for {missing:?}"
    );
}

#[test]
fn every_test_that_is_named_exists() {
    let rows = rows();

    let missing: Vec<_> = rows
        .iter()
        .flat_map(|row| &row.shown)
        .filter(|name| !exists(name))
        .collect();

    assert!(missing.is_empty(), "docs/locking.md names {missing:?}");
}

#[test]
fn every_pair_shows_a_rule() {
    let shown: BTreeSet<_> = rows().into_iter().flat_map(|row| row.shown).collect();
    let rooms = fs::read_dir(root().join("crates/storport/tests/rules")).expect("rooms of pairs");
    let pairs: Vec<_> = rooms
        .map(|room| room.expect("a room").path())
        .flat_map(|room| fs::read_dir(&room).expect("pairs"))
        .map(|file| file.expect("a file").path())
        .filter(|file| file.extension() == Some("rs".as_ref()))
        .filter_map(|file| {
            let room = file.parent()?.file_name()?.to_str()?;
            Some(format!("{room}/{}", file.file_stem()?.to_str()?))
        })
        .collect();

    let missing: Vec<_> = pairs.iter().filter(|pair| !shown.contains(*pair)).collect();

    assert!(!pairs.is_empty());
    assert!(
        missing.is_empty(),
        "no row of docs/locking.md names {missing:?}"
    );
}

#[test]
fn a_rule_without_a_test_says_why_nothing_holds_it() {
    for row in rows() {
        assert!(
            !row.shown.is_empty() || row.held.starts_with("Not held"),
            "{}: {}",
            row.source,
            row.held
        );
    }
}
