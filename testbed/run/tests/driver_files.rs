//! Driver files with something wrong in them end in a clear message: never in
//! a hang, never in silence. Each is the driver with a few bytes changed.
//!
//! The file is the one that FERROSTOR_DRIVER names.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use object::{LittleEndian, read::pe::PeFile64};
use tempfile::TempDir;
use testbed_loader::Image;

#[path = "../../../src/events.rs"]
#[expect(dead_code, reason = "only codes and texts are in the file")]
mod events;

fn driver() -> Vec<u8> {
    let path = std::env::var("FERROSTOR_DRIVER").expect("FERROSTOR_DRIVER names the driver file");
    std::fs::read(path).expect("the driver file is there")
}

/// Puts `bytes` into a file, and runs it; the folder goes with the result.
fn run(bytes: &[u8]) -> (i32, String) {
    let folder = TempDir::new().unwrap();
    let path: PathBuf = folder.path().join("broken.sys");
    std::fs::write(&path, bytes).unwrap();
    let output = output(&path);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().expect("it exits"), errors)
}

fn output(path: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_testbed"))
        .args(["run", "--house-rules", "--size", "16M", "--driver"])
        .arg(path)
        .output()
        .expect("the command starts")
}

/// Where DriverEntry's first instruction lies in the file.
fn entry(bytes: &[u8]) -> usize {
    let file = PeFile64::parse(bytes).expect("the driver is a PE file");
    let entry = file
        .nt_headers()
        .optional_header
        .address_of_entry_point
        .get(LittleEndian);
    let (offset, _) = file
        .section_table()
        .pe_file_range_at(entry)
        .expect("the entry lies in a section");
    offset as usize
}

/// The driver with `code` at its entry.
fn driver_that_does(code: &[u8]) -> Vec<u8> {
    let mut bytes = driver();
    let entry = entry(&bytes);
    bytes[entry..entry + code.len()].copy_from_slice(code);
    bytes
}

fn replace(bytes: &mut [u8], what: &[u8], by: &[u8]) {
    assert_eq!(what.len(), by.len());
    let at = bytes
        .windows(what.len())
        .position(|window| window == what)
        .expect("the bytes are there");
    bytes[at..at + by.len()].copy_from_slice(by);
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_missing_import_is_named() {
    let mut bytes = driver();
    replace(&mut bytes, b"StorPortInitialize\0", b"StorPortInitialise\0");

    let (code, errors) = run(&bytes);

    assert_eq!(code, 2, "{errors}");
    assert!(
        errors.contains("storport.sys!StorPortInitialise"),
        "{errors}"
    );
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_crash_is_placed_in_the_driver() {
    // ud2
    let (code, errors) = run(&driver_that_does(&[0x0F, 0x0B]));

    assert_eq!(code, 3, "{errors}");
    assert!(errors.contains("at broken.sys+0x"), "{errors}");
    assert!(errors.contains("in DriverEntry"), "{errors}");
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_store_to_nowhere_says_where() {
    // mov dword ptr [0x1234], eax
    let (code, errors) = run(&driver_that_does(&[
        0x89, 0x04, 0x25, 0x34, 0x12, 0x00, 0x00,
    ]));

    assert_eq!(code, 3, "{errors}");
    assert!(errors.contains("0x1234"), "{errors}");
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn an_endless_loop_is_stopped() {
    // jmp $
    let (code, errors) = run(&driver_that_does(&[0xEB, 0xFE]));

    assert_eq!(code, 3, "{errors}");
    assert!(errors.contains("DriverEntry"), "{errors}");
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_truncated_file_is_refused() {
    let bytes = driver();

    let (code, errors) = run(&bytes[..bytes.len() / 2]);

    assert_eq!(code, 2, "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_file_for_a_32_bit_machine_is_refused() {
    let mut bytes = driver();
    // The machine of the COFF header follows the signature: AMD64 to I386.
    replace(&mut bytes, b"PE\0\0\x64\x86", b"PE\0\0\x4C\x01");

    let (code, errors) = run(&bytes);

    assert_eq!(code, 2, "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn the_driver_file_has_the_text_of_each_of_its_events() {
    let path = std::env::var("FERROSTOR_DRIVER").expect("FERROSTOR_DRIVER names the driver file");
    let image = Image::load(path.as_ref(), &|_, _| Some(1)).expect("the driver file is sound");

    for event in events::Event::ALL {
        let inserts = ["<1>", "<2>", "<3>", "<4>"];
        let sentence = image.sentence(event.code(), &inserts);
        let expected = (1..).zip(inserts).fold(
            format!("{} {}", event.text(), event.remedy()),
            |text, (number, insert)| text.replace(&format!("%{number}"), insert),
        );
        assert_eq!(sentence, Some(expected), "{event:?}");
    }
}
