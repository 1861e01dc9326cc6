//! Tests of the checks that compare the files of a folder: driver, INF file and catalog.

use crate::{
    architecture::Architecture,
    catalog::Catalog,
    check::{Report, Verdict},
    lint,
    package::File,
    test_data::{self, CODE, SIGNED, SIGNERS, TIME, TODAY, driver},
};

/// It installs a driver that starts at boot, and a library.
const INF: &str = r"[Version]
CatalogFile = a.cat
DriverVer = 01/01/2026,1.2.3.4
[Manufacturer]
Sample = Disks, NTamd64
[Disks.NTamd64]
Disk = Install, PCI\VEN_1AF4&DEV_1042
[Install]
CopyFiles = Files
[Files]
a.sys
[Install.Services]
AddService = a, 2, Service
[Service]
StartType = 0
ServiceBinary = %13%\a.sys
[SourceDisksNames]
1 = Disk
[SourceDisksFiles]
a.sys = 1
x.dll = 1, lib
";

fn library() -> Vec<u8> {
    let mut library = driver();
    library[CODE] ^= 0xff;
    library
}

/// A folder's driver, signed, with its INF file, a library and the catalog of all.
fn folder() -> Vec<File> {
    let catalog = Catalog::new(Architecture::X64, &[r"PCI\VEN_1AF4&DEV_1042"], None)
        .file("a.sys", &SIGNED)
        .file("x.dll", &library())
        .file("a.inf", INF.as_bytes());
    vec![
        File::new("x64/a.cat", catalog.sign(&SIGNERS[0], TIME).unwrap()),
        File::new("x64/a.inf", INF),
        File::new("x64/a.sys", &SIGNED[..]),
        File::new("x64/lib/x.dll", library()),
    ]
}

fn reports(files: &[File]) -> Vec<Report> {
    test_data::lint(files, &[], TODAY)
}

/// What the lint of `files` prints.
fn lint(files: &[File]) -> String {
    reports(files).iter().map(ToString::to_string).collect()
}

#[track_caller]
fn says(files: &[File], line: &str) {
    let text = lint(files);
    assert!(
        text.lines().any(|said| said.trim() == line),
        "{line}\n{text}"
    );
}

#[test]
fn a_driver_that_starts_at_boot_has_to_be_signed_itself() {
    let claim = "the driver is signed, because its INF file starts it at boot";
    let mut files = folder();
    says(&files, &format!("yes  {claim}"));

    files[2].bytes = driver();
    says(&files, &format!("NO   {claim}: it has no signature"));

    files[1].bytes = INF.replace("StartType = 0", "StartType = 3").into_bytes();
    assert!(!lint(&files).contains(claim));
}

#[test]
fn a_driver_should_have_the_version_of_its_inf_file() {
    let line = "advice: the version matches the INF file: it is 1.2.3.0 and not 1.2.3.4";
    says(&folder(), line);

    // A second INF file that installs the driver adds no second line.
    let mut files = folder();
    files.push(File::new("x64/b.inf", INF));
    assert_eq!(lint(&files).matches(line).count(), 1);
}

#[test]
fn a_driver_alone_is_not_asked_for_signature_and_version() {
    let text = lint(&[File::new("a.sys", driver())]);
    assert!(!text.contains("it is signed") && !text.contains("its version is"));
}

const LISTED: &str = "the INF file and each file that it installs are listed with their digests";

#[test]
fn a_catalog_has_to_list_what_its_inf_file_installs() {
    let mut files = folder();
    says(&files, &format!("yes  {LISTED}"));

    files[1].bytes.push(b'\n');
    files[2].bytes[CODE] ^= 1;
    files[3].bytes[CODE] ^= 1;

    says(&files, &format!("NO   {LISTED}: a.inf, a.sys, x.dll"));
}

#[test]
fn a_catalog_is_not_asked_for_files_of_another_inf_file() {
    let mut files = folder();
    let other = INF.replace("a.cat", "b.cat").replace("a.sys", "b.sys");
    files.push(File::new("x64/b.inf", other));
    files.push(File::new("x64/b.sys", library()));
    files.push(File::new("x64/autorun.inf", "[autorun]\nicon = a.ico\n"));
    says(&files, &format!("yes  {LISTED}"));
}

#[test]
fn a_catalog_that_no_inf_file_names_has_to_list_drivers_and_inf_files() {
    let mut files = folder();
    files[0].path = "x64/other.cat".into();
    says(&files, &format!("yes  {LISTED}"));
    files[2].bytes[CODE] ^= 1;
    says(&files, &format!("NO   {LISTED}: a.sys"));
}

#[test]
fn a_catalog_should_not_list_missing_files() {
    let claim = "the catalog lists no other file";
    let mut files = folder();
    says(&files, &format!("yes  {claim}"));

    files[3].path = "arm64/x.dll".into();

    says(&files, &format!("advice: {claim}: x.dll"));
}

#[test]
fn files_beside_are_compared_with_and_not_judged() {
    let files = folder();
    let reports = test_data::lint(&files[..1], &files[1..], TODAY);
    let [report] = &reports[..] else {
        panic!("{reports:?}");
    };
    assert_eq!(report.verdict(), Verdict::Holds, "{report}");
    let mentioned: Vec<_> = lint::mentioned(&files).into_iter().collect();
    assert_eq!(mentioned, ["a.inf", "a.sys", "x.dll"]);
}

#[test]
fn other_files_are_not_looked_at() {
    assert_eq!(lint(&[File::new("README.txt", "not a driver")]), "");
}

/// The offset of the NT headers in the driver file.
const PE: usize = 0x40;

/// The driver file, with another machine type in its header.
fn driver_for(machine: u16) -> Vec<u8> {
    let mut file = driver();
    file[PE + 4..PE + 6].copy_from_slice(&machine.to_le_bytes());
    file
}

/// The driver file with the headers of a 32-bit file.
fn driver_of_32_bits() -> Vec<u8> {
    let mut file = driver_for(0x14c);
    file[PE + 24..PE + 26].copy_from_slice(&0x10b_u16.to_le_bytes());
    file
}

#[test]
fn parts_that_cannot_be_judged_are_named_and_the_rest_is_judged() {
    let x86 = "[Version]\n[Manufacturer]\nSample = Disks, NTx86\n";
    for (name, bytes, why) in [
        ("x86/any.sys", driver_of_32_bits(), "a 32-bit driver"),
        (
            "arm/any.sys",
            driver_for(0x1c4),
            "a driver for machine type 0x01c4",
        ),
        (
            "x64/autorun.inf",
            b"[autorun]\nicon = a.ico\n".to_vec(),
            "not a driver's INF file: it has no [Version] section",
        ),
        (
            "x64/autorun2.inf",
            b"[autorun]\nopen = \"a\n".to_vec(),
            "not a driver's INF file: it has no [Version] section",
        ),
        ("x86/any.inf", x86.into(), "it is for neither x64 nor ARM64"),
    ] {
        let mut files = folder();
        files.push(File::new(name, bytes));
        let reports = reports(&files);
        assert!(reports.len() >= 4, "{reports:?}");
        let report = reports
            .iter()
            .find(|report| report.subject == name)
            .unwrap();
        assert_eq!(report.verdict(), Verdict::NotJudged);
        let text = report.to_string();
        assert!(
            text.starts_with(&format!("{name}:\n  not judged: {why}")),
            "{text}"
        );
    }
}

#[test]
fn a_file_that_does_not_match_its_extension_is_a_fault() {
    for (name, bytes) in [
        ("a.sys", &b"MZ"[..]),
        ("a.sys", b""),
        ("a.inf", b"[Version\n"),
        ("a.cat", b"text"),
    ] {
        let reports = reports(&[File::new(name, bytes)]);
        let [report] = &reports[..] else {
            panic!("{reports:?}");
        };
        assert_eq!(report.verdict(), Verdict::Wrong, "{report}");
    }
}

#[test]
fn two_processors_have_no_line_twice_and_are_named() {
    let both = INF.replace("NTamd64\n", "NTamd64, NTarm64\n")
        + "[Disks.NTarm64]\nDisk = Install, PCI\\VEN_1AF4&DEV_1042\n";
    let both = both.replace("CatalogFile =", "CatalogFile.NTamd64 =");
    let text = lint(&[File::new("a.inf", both)]);

    assert!(text.contains("a.inf (x64, arm64):\n"), "{text}");
    let claim = "[Version] names a catalog for the architecture";
    let of = |processor: &str| {
        let (_, rest) = text.split_once(&format!("a.inf ({processor}):\n")).unwrap();
        rest.to_owned()
    };
    assert!(of("x64").contains(&format!("    yes  {claim}\n")), "{text}");
    assert!(of("arm64").contains(&format!("    NO   {claim}")), "{text}");
    let mut lines: Vec<_> = text.lines().filter(|line| line.contains("yes  ")).collect();
    let all = lines.len();
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines.len(), all, "{text}");
}
