//! Tests of `testbed cost`: it counts the driver's requests, each run gives the same figures, and
//! queues that are used by a CPU each have nothing in common.
//!
//! The files are those that FERROSTOR_DRIVER, FERROSTOR_RAMDISK and FERROSTOR_LOCKS name.

use std::{collections::BTreeSet, process::Command};

use serde_json::Value;

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

/// The figures of ferrostor.sys.
fn figures(options: &[&str]) -> Value {
    serde_json::from_str(&cost("FERROSTOR_DRIVER", options)).expect("JSON")
}

fn rows(cost: &Value) -> &[Value] {
    cost["rows"].as_array().expect("rows")
}

/// The names of the locks that the driver acquired.
fn locks(row: &Value) -> Vec<&str> {
    let locks = row["locks"].as_object().into_iter();
    locks.flatten().map(|(lock, _)| lock.as_str()).collect()
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
    let cost = figures(&[]);

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

#[test]
#[ignore = "needs built drivers: cargo xtask test"]
fn queues_of_different_cpus_share_no_lock_and_no_cache_line() {
    for ring in ["packed=off", "packed=on"] {
        for cpus in [1, 2, 4] {
            let cost = figures(&["--device", ring, "--cpus", &cpus.to_string()]);

            assert_eq!(cost["adapter"]["queues"], cpus, "{ring}");
            assert_eq!(cost["contended_lines"], Value::Array(Vec::new()), "{ring}");
            let counted: BTreeSet<_> = rows(&cost).iter().map(|row| row["cpu"].as_u64()).collect();
            assert_eq!(counted, (0..cpus).map(Some).collect(), "{ring}");
            for row in rows(&cost) {
                // DPC objects have the numbers of their queues.
                let own = format!("Dpc {}", row["cpu"]);
                assert_eq!(locks(row), [own], "{ring}, {cpus} CPUs");
            }
        }
    }
}

#[test]
#[ignore = "needs built drivers: cargo xtask test"]
fn a_request_costs_the_same_on_each_cpu_and_with_each_number_of_queues() {
    for ring in ["packed=off", "packed=on"] {
        let costs = ["1", "2", "4"].map(|cpus| figures(&["--device", ring, "--cpus", cpus]));
        let [one, two, four] = &costs;
        for row in rows(two).iter().chain(rows(four)) {
            let same = |other: &&Value| ["request", "depth"].iter().all(|it| other[it] == row[it]);
            let figures = |row: &Value| {
                ["instructions", "calls", "locked", "register_writes"].map(|it| row[it].clone())
            };
            let first = rows(two).iter().find(same).expect("CPU 0 with two queues");
            assert_eq!(figures(row), figures(first), "{ring}");

            let single = rows(one).iter().find(same).expect("CPU 0 with one queue");
            let more = |figure: &str, callback: &str| {
                let [row, single] = [row, single].map(|row| row[figure][callback].as_f64());
                Some(row? - single?)
            };
            for callback in ["HwStartIo", "interrupt", "HwDpcRoutine", "others"] {
                assert_eq!(
                    more("instructions", callback),
                    Some(0.0),
                    "{ring}, {callback}"
                );
            }
            assert_eq!(more("locked", "total"), Some(0.0), "{ring}");
            // The number of the processor, which selects the queue. A flush costs the most.
            assert_eq!(more("calls", "HwBuildIo"), Some(1.0), "{ring}");
            let more = more("instructions", "HwBuildIo");
            assert!(more <= Some(31.0), "{ring}, {}: {more:?}", row["request"]);
        }
    }
}

#[test]
#[ignore = "needs built drivers: cargo xtask test"]
fn the_lock_and_the_cache_lines_of_a_queue_that_two_cpus_share_are_found() {
    let cost = figures(&["--cpus", "2", "--device", "num-queues=1"]);

    for row in rows(&cost) {
        assert_eq!(locks(row), ["Dpc 0"]);
    }
    let lines = cost["contended_lines"].as_array().expect("lines");
    let place = |region| {
        let is_in = |line: &&Value| {
            line["place"]
                .as_str()
                .is_some_and(|it| it.starts_with(region))
        };
        lines.iter().find(is_in).expect(region)
    };
    for line in [place("device extension+"), place("uncached extension+")] {
        assert_eq!(line["written_by"], serde_json::json!([0, 1]), "{line}");
    }
}

/// The interrupt of this driver's device reaches one CPU, and its work items run on other threads.
#[test]
#[ignore = "needs built drivers: cargo xtask test"]
fn callbacks_on_other_threads_do_not_disturb_the_count() {
    let options = ["--function", "bell", "--cpus", "2"];
    let cost: Value = serde_json::from_str(&cost("FERROSTOR_LOCKS", &options)).expect("JSON");

    assert!(!rows(&cost).is_empty());
    for row in rows(&cost) {
        assert_eq!(row["callbacks"]["HwBuildIo"], 1, "{row}");
    }
}
