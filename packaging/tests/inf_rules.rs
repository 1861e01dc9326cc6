//! Each rule of the setup file's linter, by a file that breaks it and keeps all
//! others. The files are in `inf/`, named by the rules, with `.what` behind for
//! a second file of a rule; `good.inf` keeps all.

use std::{collections::BTreeSet, fs, path::Path};

use packaging::{
    architecture::Architecture,
    inf::{Inf, Report, Stamp, Version, lint, rules, stamp},
};
use time::{Date, Month};

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

/// The name and bytes of each file in `inf/`.
fn files() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/inf");
    let files = fs::read_dir(folder).unwrap().map(|file| {
        let path = file.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        (name, fs::read(path).unwrap())
    });
    files.collect()
}

#[test]
fn each_file_breaks_the_rule_of_its_name_and_no_other() {
    for (name, bytes) in files() {
        let report = judged(&bytes, Architecture::X64);
        let rule = name.split('.').next().unwrap();
        let expected = if rule == "good" { vec![] } else { vec![rule] };
        assert_eq!(broken(&report), expected, "{name}.inf:\n{report}");
        assert_eq!(report.holds(), rule == "good");
    }
}

#[test]
fn each_rule_has_a_file_that_breaks_it() {
    let names: BTreeSet<String> = files().into_iter().map(|(name, _)| name).collect();
    let without: Vec<_> = rules().filter(|rule| !names.contains(rule.id)).collect();
    assert!(without.is_empty(), "{without:?}");
}

#[test]
fn each_file_differs_from_the_good_one_in_little() {
    let lines = |bytes: &[u8]| -> Vec<String> {
        let text = String::from_utf8_lossy(bytes);
        text.lines().map(str::to_owned).collect()
    };
    let files = files();
    let good = &files.iter().find(|(name, _)| name == "good").unwrap().1;
    let good = lines(good);
    for (name, bytes) in &files {
        let bad = lines(bytes);
        let only = |here: &[String], there: &[String]| {
            here.iter().filter(|line| !there.contains(line)).count()
        };
        assert!(only(&good, &bad) <= 2, "{name}");
        assert!(only(&bad, &good) <= 4, "{name}");
    }
}

#[test]
fn the_projects_own_file_keeps_all_rules_on_both_architectures() {
    let inx = concat!(env!("CARGO_MANIFEST_DIR"), "/../inf/ferrostor.inx");
    let inx = fs::read_to_string(inx).unwrap();
    for architecture in [Architecture::X64, Architecture::Arm64] {
        let text = stamp(
            &inx,
            &Stamp {
                architecture,
                date: today(),
                version: Version([0, 1, 0, 0]),
            },
        );
        let report = judged(text.unwrap().as_bytes(), architecture);
        assert!(report.holds(), "{report}");
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
    let (_, bytes) = files()
        .into_iter()
        .find(|(name, _)| name == "pnp-lockdown")
        .unwrap();
    let report = judged(&bytes, Architecture::X64).to_string();
    assert!(report.contains("yes [Version] has the signature $WINDOWS NT$ (signature)\n"));
    assert!(report.contains(
        "NO  The installed files are locked against other programs (PnpLockdown) (pnp-lockdown)\n      \
         line 11: PnpLockdown is 0\n      asked for by InfVerif 1324\n"
    ));
}

#[test]
fn rules_have_names_of_their_own() {
    let names: Vec<_> = rules().map(|rule| rule.id).collect();
    let different: BTreeSet<_> = names.iter().collect();
    assert_eq!(different.len(), names.len());
}
