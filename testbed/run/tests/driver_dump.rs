//! The driver file as a dump stack has it: after a crash under load a second
//! copy writes a dump through the same device, with no lock, no DPC, no
//! interrupt and little memory. And its answer to the removal of an adapter
//! that it never found.
//!
//! The file is the one that FERROSTOR_DRIVER names.

use std::{path::Path, process::Command, sync::Arc};

use testbed_devices::{BlkSettings, DiskImage, VirtioBlk};
use testbed_loader::Image;
use testbed_machine::{Machine, MachineSettings, pci::PciFunction, trap};
use testbed_storport::{
    self,
    adapter::{Adapter, AdapterSettings},
};

const SUCCESS: u8 = 0x01;

fn driver() -> String {
    std::env::var("FERROSTOR_DRIVER").expect("FERROSTOR_DRIVER names the driver file")
}

/// Crashes it with these options of the command, and gives what was printed.
fn dumped(options: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_testbed"))
        .args(["run", "--driver", &driver(), "--dump", "--house-rules"])
        .args(["--cpus", "2", "--size", "64M", "--verify-bytes", "1M"])
        .args(options)
        .args(["--", "-b4K", "-r", "-o16", "-t2", "-w30", "-d1", "-W0"])
        .output()
        .expect("the command starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    assert!(text.ends_with("PASS\n"), "{text}");
    text
}

/// The line of this name, behind the name.
fn line<'a>(text: &'a str, name: &str) -> &'a str {
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .unwrap_or_else(|| panic!("no line {name}: {text}"))
        .trim()
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_dump_is_written_after_a_crash_under_load() {
    let text = dumped(&[]);

    // Both CPUs had all their requests out, and the writes are as long as the
    // dump port makes them.
    assert_eq!(
        line(&text, "dump "),
        "crashed with 32 requests in flight; 16MiB in 256 writes of at most 64KiB, 0 mismatches"
    );
    assert!(
        text.contains("violations: none; driver errors seen by the device: none"),
        "{text}"
    );
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_dump_is_written_where_the_crash_left_the_pin_in_use() {
    let text = dumped(&["--interrupts", "intx"]);

    assert!(line(&text, "dump ").ends_with(" 0 mismatches"), "{text}");
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_dump_is_written_in_any_order_of_threads() {
    for seed in ["1", "2", "3"] {
        let text = dumped(&["--verify", "--seed", seed, "--restart", "1"]);

        assert!(line(&text, "dump ").ends_with(" 0 mismatches"), "{text}");
    }
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn the_dump_copy_leaves_most_of_the_memory_that_it_may_have() {
    let text = dumped(&[]);

    let memory = text
        .lines()
        .find(|line| line.contains("of device extension"))
        .expect("memory is told of");
    let numbers: Vec<u32> = memory
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    let [extension, uncached, most] = numbers[..] else {
        panic!("{memory}");
    };
    assert!(2 * (extension + uncached) < most, "{memory}");
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn the_removal_of_an_adapter_that_was_never_found_is_answered() {
    let folder = tempfile::tempdir().unwrap();
    let machine = Machine::new(&MachineSettings::default()).unwrap();
    let disk = DiskImage::create(&folder.path().join("disk.img"), 1 << 20).unwrap();
    let function: Arc<dyn PciFunction> = VirtioBlk::new(
        disk,
        machine.memory().guest().clone(),
        BlkSettings::default(),
    );
    let image = Arc::new(Image::load(Path::new(&driver()), &testbed_storport::resolve).unwrap());
    trap::watch(&image);

    let (status, report) =
        Adapter::remove_unstarted(&machine, &image, &function, AdapterSettings::default()).unwrap();

    assert_eq!(status, Some(SUCCESS));
    assert!(report.violations.is_empty(), "{:?}", report.violations);
}
