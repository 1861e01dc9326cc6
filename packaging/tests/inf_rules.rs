//! Each rule of the setup file's linter, by a file that breaks it and keeps all
//! others: `inf/good.inf`, changed as `inf/bad.txt` says. `inf/allowed.txt` has
//! changes that break none.

use std::{collections::BTreeSet, fs, path::Path};

use packaging::{
    architecture::Architecture,
    inf::{Inf, Report, Stamp, Version, lint, rules, stamp},
};
use time::{Date, Month};

const GOOD: &str = include_str!("inf/good.inf");
const BAD: &str = include_str!("inf/bad.txt");
const ALLOWED: &str = include_str!("inf/allowed.txt");

/// A change of the good file.
struct Change {
    /// The rule that it breaks, or what it is about.
    name: &'static str,
    parts: Vec<Part>,
}

/// Lines that are taken out, and those that come in their place.
#[derive(Default)]
struct Part {
    old: Vec<&'static str>,
    new: Vec<&'static str>,
}

/// What `text`, of the form of `inf/bad.txt`, holds.
fn changes(text: &'static str) -> Vec<Change> {
    let mut changes = Vec::<Change>::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('[') {
            changes.push(Change {
                name: name.strip_suffix(']').unwrap(),
                parts: vec![Part::default()],
            });
            continue;
        }
        let Some(change) = changes.last_mut() else {
            continue;
        };
        let Some(sign) = line.chars().next() else {
            change.parts.push(Part::default());
            continue;
        };
        let part = change.parts.last_mut().unwrap();
        if sign != '+' {
            part.old.push(&line[1..]);
        }
        if sign != '-' {
            part.new.push(&line[1..]);
        }
        assert!(" +-".contains(sign), "{line}");
    }
    changes
}

impl Change {
    /// The good file, changed.
    fn apply(&self) -> String {
        let mut text: Vec<&str> = GOOD.lines().collect();
        for part in self.parts.iter().filter(|part| !part.old.is_empty()) {
            let old = part.old.len();
            let places: Vec<usize> = text
                .windows(old)
                .enumerate()
                .filter_map(|(place, lines)| (lines == part.old).then_some(place))
                .collect();
            let [place] = places[..] else {
                panic!(
                    "{}: {:?} is there {} times",
                    self.name,
                    part.old,
                    places.len()
                );
            };
            text.splice(place..place + old, part.new.iter().copied());
        }
        text.join("\n")
    }
}

fn today() -> Date {
    Date::from_calendar_date(2026, Month::December, 24).unwrap()
}

fn judged(bytes: &[u8], architecture: Architecture) -> Report {
    lint(&Inf::parse(bytes).unwrap(), architecture, today())
}

/// The rules that found something.
fn broken(report: &Report) -> Vec<&'static str> {
    let verdicts = report.verdicts().iter();
    verdicts
        .filter(|verdict| !verdict.faults.is_empty())
        .map(|verdict| verdict.rule.id)
        .collect()
}

#[test]
fn the_good_file_keeps_all_rules() {
    let report = judged(GOOD.as_bytes(), Architecture::X64);
    assert!(report.holds(), "{report}");
}

#[test]
fn each_change_breaks_its_rule_and_no_other() {
    for change in changes(BAD) {
        let report = judged(change.apply().as_bytes(), Architecture::X64);
        assert_eq!(broken(&report), [change.name], "{report}");
        assert!(!report.holds());
    }
}

#[test]
fn what_is_allowed_breaks_no_rule() {
    for change in changes(ALLOWED) {
        assert_ne!(change.apply(), GOOD.trim_end(), "{}", change.name);
        let report = judged(change.apply().as_bytes(), Architecture::X64);
        assert!(report.holds(), "{}:\n{report}", change.name);
    }
}

#[test]
fn a_file_in_utf16_is_judged_as_one_in_ascii() {
    let text = GOOD.replace("Sample disk controller", "Sampel-Gerät");
    let units = text.encode_utf16().flat_map(u16::to_le_bytes);
    let bytes: Vec<u8> = [0xff, 0xfe].into_iter().chain(units).collect();
    let report = judged(&bytes, Architecture::X64);
    assert!(report.holds(), "{report}");
}

#[test]
fn each_rule_has_a_change_that_breaks_it() {
    let changes: BTreeSet<_> = changes(BAD).into_iter().map(|change| change.name).collect();
    let without: Vec<_> = rules().filter(|rule| !changes.contains(rule.id)).collect();
    assert!(without.is_empty(), "{without:?}");
}

#[test]
fn the_projects_own_files_keep_all_rules_on_both_architectures() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for inx in [
        "inf/ferrostor.inx",
        "examples/ramdisk/ramdisk.inx",
        "examples/locks/locks.inx",
    ] {
        let text = fs::read_to_string(root.join(inx)).unwrap();
        for architecture in [Architecture::X64, Architecture::Arm64] {
            let stamped = stamp(
                &text,
                &Stamp {
                    architecture,
                    date: today(),
                    version: Version([0, 1, 0, 0]),
                },
            );
            let report = judged(stamped.unwrap().as_bytes(), architecture);
            assert!(report.holds(), "{inx}: {report}");
        }
    }
}

#[test]
fn the_projects_own_file_is_for_qemus_modern_and_transitional_disks_and_their_like() {
    let inx = concat!(env!("CARGO_MANIFEST_DIR"), "/../inf/ferrostor.inx");
    let inx = fs::read_to_string(inx).unwrap().replace("$ARCH$", "arm64");
    let inf = Inf::parse(inx.as_bytes()).unwrap();
    assert_eq!(
        inf.hardware_ids(Architecture::Arm64),
        [
            r"PCI\VEN_1AF4&DEV_1042&SUBSYS_11001AF4&REV_01",
            r"PCI\VEN_1AF4&DEV_1042",
            r"PCI\VEN_1AF4&DEV_1001&SUBSYS_00021AF4&REV_00",
            r"PCI\VEN_1AF4&DEV_1001",
        ]
    );
    assert!(inf.hardware_ids(Architecture::X64).is_empty());
}

#[test]
fn an_inx_that_is_not_stamped_is_told_from_a_stamped_one() {
    let inx = concat!(env!("CARGO_MANIFEST_DIR"), "/../inf/ferrostor.inx");
    let report = judged(&fs::read(inx).unwrap(), Architecture::X64);
    assert!(broken(&report).contains(&"stamped"));
}

#[test]
fn the_report_says_what_was_asked_and_where_to_look() {
    let bad = GOOD.replace("PnpLockdown = 1", "PnpLockdown = 0");
    let report = judged(bad.as_bytes(), Architecture::X64).to_string();
    assert!(report.contains("  yes  [Version] has the signature $WINDOWS NT$\n"));
    assert!(report.contains(concat!(
        "  NO   The installed files are locked against other programs (PnpLockdown)\n",
        "         line 11: PnpLockdown is 0\n",
        "         (pnp-lockdown: InfVerif 1324)\n",
    )));
}

#[test]
fn rules_have_names_of_their_own() {
    let names: Vec<_> = rules().map(|rule| rule.id).collect();
    let different: BTreeSet<_> = names.iter().collect();
    assert_eq!(different.len(), names.len());
}
