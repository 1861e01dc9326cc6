//! Damaged driver files: the command must end with a clear message, and never hang. Each file is
//! the driver with a few bytes changed.
//!
//! The file is the one that FERROSTOR_DRIVER names.

use std::process::Command;

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
    let path = folder.path().join("broken.sys");
    std::fs::write(&path, bytes).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_testbed"))
        .args(["run", "--house-rules", "--size", "16M", "--driver"])
        .arg(&path)
        .output()
        .expect("the command starts");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().expect("it exits"), errors)
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

/// The driver with `what` replaced by `by`.
fn driver_with(what: &[u8], by: &[u8]) -> Vec<u8> {
    let mut bytes = driver();
    replace(&mut bytes, what, by);
    bytes
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn each_broken_file_ends_with_a_message() {
    let whole = driver();
    // mov dword ptr [0x1234], eax
    let store = [0x89, 0x04, 0x25, 0x34, 0x12, 0x00, 0x00];
    for (what, bytes, code, told) in [
        (
            "a missing import",
            driver_with(b"StorPortInitialize\0", b"StorPortInitialise\0"),
            2,
            &["storport.sys!StorPortInitialise"][..],
        ),
        ("half a file", whole[..whole.len() / 2].to_vec(), 2, &[]),
        // The machine of the COFF header follows the signature: AMD64 to I386.
        (
            "a file for a 32-bit machine",
            driver_with(b"PE\0\0\x64\x86", b"PE\0\0\x4C\x01"),
            2,
            &[],
        ),
        (
            "ud2",
            driver_that_does(&[0x0F, 0x0B]),
            3,
            &["at broken.sys+0x", "in DriverEntry"],
        ),
        (
            "a store to nowhere",
            driver_that_does(&store),
            3,
            &["0x1234"],
        ),
        // jmp $
        (
            "an endless loop",
            driver_that_does(&[0xEB, 0xFE]),
            3,
            &["DriverEntry"],
        ),
    ] {
        let (ended, errors) = run(&bytes);
        assert_eq!(ended, code, "{what}: {errors}");
        assert!(code == 3 || errors.lines().count() == 1, "{what}: {errors}");
        for part in told {
            assert!(errors.contains(part), "{what}: {errors}");
        }
    }
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
