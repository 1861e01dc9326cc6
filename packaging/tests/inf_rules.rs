//! Tests each rule of the INF file's linter. `inf/good.inf` keeps all rules. Each change in
//! `inf/bad.txt` breaks one rule, and no change in `inf/allowed.txt` breaks any.

use std::{collections::BTreeSet, fs, path::Path};

use packaging::{
    architecture::Architecture,
    check::Report,
    inf::{Inf, Stamp, Version, lint, rules, stamp},
};
use time::{Date, macros::date};

const GOOD: &str = include_str!("inf/good.inf");
const BAD: &str = include_str!("inf/bad.txt");
const ALLOWED: &str = include_str!("inf/allowed.txt");

/// What the name of a change begins with if its rule is a house rule.
const ADVICE: &str = "advice: ";

/// The changed good files, each with the rule that it breaks, or with what it is about.
fn changed(changes: &'static str) -> impl Iterator<Item = (&'static str, String)> {
    let (_, changes) = changes.split_once("\n[").unwrap();
    changes.split("\n[").map(|change| {
        let (name, parts) = change.split_once("]\n").unwrap();
        let parts = parts.split("\n\n").filter(|part| !part.is_empty());
        let text = parts.fold(format!("\n{GOOD}"), |text, part| {
            let side = |other| {
                let lines = part.lines().filter(|line| !line.starts_with(other));
                lines.fold("\n".into(), |side: String, line| side + &line[1..] + "\n")
            };
            let (old, new) = (side('+'), side('-'));
            assert!(part.lines().all(|line| line.starts_with([' ', '+', '-'])));
            assert_eq!(text.matches(&old).count(), 1, "{name}:{old}");
            text.replace(&old, &new)
        });
        (name, text)
    })
}

const TODAY: Date = date!(2026 - 12 - 24);

/// Checks all rules, and counts advice like requirements.
fn judged(bytes: &[u8], architecture: Architecture) -> Report {
    Report {
        subject: "a.inf".into(),
        checks: lint(&Inf::parse(bytes).unwrap(), architecture, TODAY),
        beyond: Vec::new(),
        not_judged: None,
        advice_decides: true,
    }
}

/// The rules that found something.
fn broken(report: &Report) -> Vec<&'static str> {
    let checks = report.checks.iter();
    checks
        .filter(|check| check.fault().is_some())
        .filter_map(|check| check.rule)
        .collect()
}

#[test]
fn the_good_file_keeps_all_rules() {
    let report = judged(GOOD.as_bytes(), Architecture::X64);
    assert_eq!(broken(&report), [""; 0], "{report}");
}

#[test]
fn each_change_breaks_its_rule_and_no_other() {
    for (name, text) in changed(BAD) {
        let mut report = judged(text.as_bytes(), Architecture::X64);
        let rule = name.trim_start_matches(ADVICE);
        assert_eq!(broken(&report), [rule], "{report}");

        report.checks.retain(|check| !check.is_advice());
        assert_eq!(broken(&report).is_empty(), rule != name, "{report}");
    }
}

#[test]
fn what_is_allowed_breaks_no_rule() {
    for (name, text) in changed(ALLOWED) {
        let report = judged(text.as_bytes(), Architecture::X64);
        assert_eq!(broken(&report), [""; 0], "{name}:\n{report}");
    }
}

#[test]
fn a_file_in_utf16_is_judged_as_one_in_ascii() {
    let text = GOOD.replace("Sample disk controller", "Sampel-Gerät");
    let units = text.encode_utf16().flat_map(u16::to_le_bytes);
    let bytes: Vec<u8> = [0xff, 0xfe].into_iter().chain(units).collect();
    let report = judged(&bytes, Architecture::X64);
    assert_eq!(broken(&report), [""; 0], "{report}");
}

#[test]
fn each_rule_has_a_change_that_breaks_it() {
    let changes = changed(BAD).map(|(name, _)| name.trim_start_matches(ADVICE));
    let changes: BTreeSet<_> = changes.collect();
    let rules: BTreeSet<_> = rules().map(|rule| rule.id).collect();
    assert_eq!(changes, rules);
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
                    date: TODAY,
                    version: Version([0, 1, 0, 0]),
                },
            );
            let report = judged(stamped.unwrap().as_bytes(), architecture);
            assert_eq!(broken(&report), [""; 0], "{inx}: {report}");
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
fn an_unstamped_inx_is_distinguished_from_a_stamped_one() {
    let inx = concat!(env!("CARGO_MANIFEST_DIR"), "/../inf/ferrostor.inx");
    let report = judged(&fs::read(inx).unwrap(), Architecture::X64);
    assert!(broken(&report).contains(&"stamped"));
}

#[test]
fn the_report_says_what_was_asked_and_where_to_look() {
    let bad = GOOD.replace("PnpLockdown = 1", "PnpLockdown = 0");
    let report = judged(bad.as_bytes(), Architecture::X64).to_string();
    assert!(report.contains("    yes  [Version] has the signature $WINDOWS NT$ or $CHICAGO$\n"));
    assert!(report.contains(concat!(
        "    NO   The installed files are locked against other programs (PnpLockdown)\n",
        "           line 11: PnpLockdown is 0\n",
        "           (pnp-lockdown: InfVerif 1324)\n",
    )));
}

#[test]
fn rules_have_names_of_their_own() {
    let names: Vec<_> = rules().map(|rule| rule.id).collect();
    let different: BTreeSet<_> = names.iter().collect();
    assert_eq!(different.len(), names.len());
}

/// A file system filter, as Microsoft's samples install them: by [DefaultInstall].
const FILTER: &str = r#"[Version]
Signature   = "$WINDOWS NT$"
Class       = ActivityMonitor
ClassGuid   = {b86dff51-a31e-4bac-b3cf-e8cfe75c9fc2}
Provider    = %Provider%
CatalogFile = sample.cat
DriverVer   = 05/04/2026,1.2.3.0
PnpLockdown = 1
[SourceDisksNames]
1 = %Disk%
[SourceDisksFiles]
sample.sys = 1
[DestinationDirs]
DefaultDestDir = 13
Files = 13
[DefaultInstall.NTamd64]
OptionDesc = %Disk%
CopyFiles = Files
[DefaultInstall.NTamd64.Services]
AddService = sample,, Service
[DefaultUninstall.NTamd64]
LegacyUninstall = 1
DelFiles = Files
[DefaultUninstall.NTamd64.Services]
DelService = sample, 0x200
[Files]
sample.sys
[Service]
DisplayName    = %Disk%
ServiceType    = 2
StartType      = 3
ErrorControl   = 1
ServiceBinary  = %13%\sample.sys
LoadOrderGroup = "FSFilter Activity Monitor"
AddReg         = Parameters
[Parameters]
HKR, Parameters, SupportedFeatures, 0x00010001, 3
[Strings]
Provider = "Sample"
Disk     = "Sample disk"
"#;

#[test]
fn a_filter_by_default_install_keeps_all_rules() {
    let report = judged(FILTER.as_bytes(), Architecture::X64);
    assert_eq!(broken(&report), [""; 0], "{report}");
}

#[test]
fn default_install_and_uninstall_are_followed() {
    let bad = FILTER
        .replace("StartType      = 3", "StartType      = 7")
        .replace("LegacyUninstall = 1", "LegacyUninstal = 1")
        .replace("DelFiles = Files", "DelFiles = Nothing");
    let report = judged(bad.as_bytes(), Architecture::X64);
    assert_eq!(
        broken(&report),
        [
            "service-start-known",
            "sections-defined",
            "directives-known"
        ],
        "{report}"
    );
}

#[test]
fn the_processors_are_those_of_the_decorations() {
    let of = |models: &str| {
        let text = format!("[Version]\n[Manufacturer]\n\"Sample\" = Disks{models}\n");
        Inf::parse(text.as_bytes()).unwrap().architectures()
    };
    let (x64, arm64) = (Architecture::X64, Architecture::Arm64);
    assert_eq!(of(", NTamd64.10.0...17134, NTarm64, NTx86"), [x64, arm64]);
    assert_eq!(of(", NTarm64"), [arm64]);
    assert_eq!(of(", NTx86, NTia64"), []);
    assert_eq!(of(""), [x64]);
    assert_eq!(
        Inf::parse(FILTER.as_bytes()).unwrap().architectures(),
        [x64]
    );
}

#[test]
fn the_catalog_and_the_files_are_those_of_the_processor() {
    let text = "[Version]\nCatalogFile.NTx86 = a.cat\nCatalogFile.NTamd64 = b.cat\n\
                [SourceDisksNames]\n1 = %Disk%,,,\\drivers\n\
                [SourceDisksFiles]\na.sys = 1\n[SourceDisksFiles.amd64]\nb.dll = 1, x64\n";
    let inf = Inf::parse(text.as_bytes()).unwrap();
    assert_eq!(inf.catalog_file(Architecture::X64).unwrap(), "b.cat");
    assert_eq!(inf.catalog_file(Architecture::Arm64), None);
    assert_eq!(
        inf.source_files(Architecture::X64),
        [r"drivers\x64\b.dll", r"drivers\a.sys"]
    );
    assert!(inf.installs(Architecture::X64, "B.DLL"));
    assert!(!inf.installs(Architecture::Arm64, "b.dll"));
}
