//! What files of one folder must say of one another.

mod sample;

use packaging::{
    architecture::Architecture,
    authenticode,
    catalog::Catalog,
    lint,
    package::File,
    signer::{Signer, SigningTime},
};
use time::macros::date;

const INF: &str = "[Version]\nDriverVer = 01/01/2026,1.0.0.0\n";

/// A folder's driver, signed, with its setup file and the catalog of both.
fn folder() -> Vec<File> {
    let key = tempfile::tempdir().unwrap();
    let signer = Signer::test(key.path()).unwrap();
    let time = SigningTime::from(1_790_812_800);
    let image = authenticode::sign(&sample::driver(), &signer, time).unwrap();
    let catalog = Catalog::new(Architecture::X64, [r"PCI\VEN_1AF4&DEV_1042"])
        .image("a.sys", &image)
        .unwrap()
        .file("a.inf", INF.as_bytes())
        .sign(&signer, time)
        .unwrap();
    vec![
        File::new("x64/a.cat", catalog),
        File::new("x64/a.inf", INF),
        File::new("x64/a.sys", image),
    ]
}

/// Whether the lint of `files` prints this line.
fn says(files: &[File], line: &str) -> bool {
    let reports = lint::files(files, date!(2026 - 05 - 04)).unwrap();
    let mut lines = reports.iter().flat_map(|report| {
        let text = report.to_string();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    });
    lines.any(|said| said == line)
}

#[test]
fn a_driver_beside_its_setup_file_has_to_be_signed() {
    let mut files = folder();
    assert!(says(
        &files,
        "  yes  it is signed, as what is installed has to be"
    ));

    files[2].bytes = sample::driver();

    assert!(says(
        &files,
        "  NO   it is signed, as what is installed has to be: there is no signature"
    ));
}

#[test]
fn a_driver_has_to_have_the_version_of_its_setup_file() {
    assert!(says(
        &folder(),
        "  NO   its version is the one that was asked for: it has none"
    ));
}

#[test]
fn a_driver_alone_is_not_asked_for_signature_and_version() {
    let files = [File::new("a.sys", sample::driver())];

    let [report] = lint::files(&files, date!(2026 - 05 - 04))
        .unwrap()
        .try_into()
        .unwrap();

    let text = report.to_string();
    assert!(!text.contains("it is signed") && !text.contains("its version"));
}

#[test]
fn a_catalog_has_to_list_what_lies_beside_it() {
    let listed = "every .sys and .inf beside it is listed with its hash";
    let mut files = folder();
    assert!(says(&files, &format!("  yes  {listed}")));

    files[1].bytes.push(b'\n');
    files[2].bytes[0x400] ^= 1;

    assert!(says(&files, &format!("  NO   {listed}: a.inf, a.sys")));
}

#[test]
fn a_catalog_must_not_list_what_does_not_lie_beside_it() {
    let mut files = folder();
    assert!(says(&files, "  yes  no other file is listed"));

    files[1].path = "arm64/a.inf".into();

    assert!(says(&files, "  NO   no other file is listed: a.inf"));
}

#[test]
fn other_files_are_not_looked_at() {
    let files = [File::new("README.txt", "not a driver")];

    assert!(
        lint::files(&files, date!(2026 - 05 - 04))
            .unwrap()
            .is_empty()
    );
}
