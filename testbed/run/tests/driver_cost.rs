//! Tests of `testbed cost`: it counts the driver's requests, and each run gives the same figures.
//!
//! The files are those that FERROSTOR_DRIVER and FERROSTOR_RAMDISK name.

use std::process::Command;

fn cost(variable: &str, options: &[&str]) -> String {
    let driver = std::env::var(variable).unwrap_or_else(|_| panic!("{variable} names the file"));
    let output = Command::new(env!("CARGO_BIN_EXE_testbed"))
        .args(["cost", &driver, "--json", "--depth", "1,4"])
        .args(options)
        .output()
        .expect("the command starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
#[ignore = "needs built drivers: cargo xtask test"]
fn two_runs_give_the_same_figures() {
    for (variable, options) in [
        ("FERROSTOR_DRIVER", &[][..]),
        ("FERROSTOR_RAMDISK", &["--function", "bell"]),
    ] {
        assert_eq!(cost(variable, options), cost(variable, options));
    }
}

#[test]
#[ignore = "needs built drivers: cargo xtask test"]
fn a_read_passes_each_callback_once_and_notifies_the_device_once() {
    let cost: serde_json::Value = serde_json::from_str(&cost("FERROSTOR_DRIVER", &[])).unwrap();

    let read = &cost["rows"][0];
    assert_eq!(read["request"], "READ 4 KiB");
    assert_eq!(read["depth"], 1);
    for callback in ["HwBuildIo", "HwStartIo", "interrupt", "HwDpcRoutine"] {
        assert_eq!(read["callbacks"][callback], 1, "{callback}");
        assert!(read["instructions"][callback].as_f64() > Some(0.0));
    }
    assert_eq!(read["register_writes"]["HwStartIo"], 1);
    let calls = &read["calls_by_name"]["HwDpcRoutine"];
    assert_eq!(calls["StorPortNotification(RequestComplete)"], 1);
    assert_eq!(cost["left_out"].as_array().map(Vec::len), Some(0));
}
