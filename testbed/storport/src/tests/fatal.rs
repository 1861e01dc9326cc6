//! Tests of errors that stop the machine with a message and exit code 3. Each scene runs in a
//! child process: this test program.

use std::{thread, time::Duration};

use super::{
    super::abi::wdk::{DpcLock, StartIoLock},
    bench::*,
};
use Callback::{HwBuildIo, HwFindAdapter, HwStartIo};
use testbed_machine::{cpu, testing};

fn said(scene: &str) -> String {
    testing::stop_message("tests::fatal::the_scene", scene)
}

fn says(scene: &str, texts: &[&str]) {
    let said = said(scene);
    for text in texts {
        assert!(said.contains(text), "{said}");
    }
}

fn impatient() -> AdapterSettings {
    AdapterSettings {
        callback_limit: Duration::from_millis(300),
        ..soon()
    }
}

#[test]
#[ignore = "a scene of the other tests: it ends the process"]
fn the_scene() {
    let large = read(2 << 20, Placement::Contiguous);
    let scattered = read(3 * 4096, Placement::Scattered);
    let does = |action: Action| Miniport::new().on(HwStartIo, action);
    let (miniport, settings, request) = match testing::asked().as_str() {
        "start io twice" => (does(|c| c.take(&[StartIoLock])), quick(), request(0)),
        "endless" => {
            let sleeps: Action = |_| thread::sleep(Duration::from_secs(1000));
            (does(sleeps), impatient(), request(0))
        }
        "crosswise" => {
            let crosses = Miniport::new().on(HwBuildIo, |c| {
                let own = cpu::current_number() as usize;
                let dpcs = [FIRST_DPC, SECOND_DPC].map(|dpc| c.own(dpc));
                c.acquire_at(DpcLock, dpcs[own], c.handle(2 * own));
                c.turn();
                c.wait_for(2);
                c.acquire_at(DpcLock, dpcs[1 - own], c.handle(2 * own + 1));
            });
            // The cycle is found, however long the time for callbacks is.
            let settings = AdapterSettings {
                callback_limit: Duration::from_secs(600),
                ..quick()
            };
            let _ = start_as(crosses, settings).load(1, 1);
            return;
        }
        "forgotten" => (does(|c| c.answer(1)), impatient(), request(0)),
        "overrun" => (does(|c| c.notify(13, [])), quick(), request(0)),
        "too early" => {
            let detected = Miniport::new().on(HwFindAdapter, |c| c.notify(3, [0]));
            (detected, quick(), request(0))
        }
        "too large" => (Miniport::new(), quick(), large),
        "too many elements" => {
            let few = Miniport::new().on(HwFindAdapter, |c| {
                c.structure().set(info::NumberOfPhysicalBreaks, 2);
            });
            (few, quick(), scattered)
        }
        other => panic!("no scene: {other:?}"),
    };
    // HwResetBus leaves all requests.
    let miniport = miniport.on(Callback::HwResetBus, |c| c.answer(1));
    let _ = start_with(miniport, FakeFunction::new(0), settings)
        .adapter
        .execute(request);
}

#[test]
fn taking_the_start_io_lock_in_start_io_ends_the_machine() {
    says(
        "start io twice",
        &[
            "test.sys, in HwStartIo: lock-recursion: would wait forever: it takes StartIo while \
             Storport holds StartIo",
        ],
    );
}

#[test]
fn a_callback_that_does_not_return_ends_the_machine() {
    let stuck = "test.sys: HwStartIo on CPU 0 does not return";
    says("endless", &[stuck, "locks taken: StartIo"]);
}

#[test]
fn two_cpus_that_wait_for_each_other_end_the_machine() {
    let text = said("crosswise");

    assert!(
        text.contains(
            "in HwBuildIo: lock-deadlock: 2 threads wait for each other's locks without end"
        ),
        "{text}"
    );
    for (cpu, other) in [(0, 1), (1, 0)] {
        let waits = format!(
            "CPU {cpu}, thread cpu {cpu}, in HwBuildIo at IRQL 2 (DISPATCH_LEVEL): waits for Dpc "
        );
        assert!(text.contains(&waits), "{text}");
        let by = format!("which CPU {other} (thread cpu {other}) holds");
        assert!(text.contains(&by), "{text}");
    }
    assert!(
        text.contains("before that: lock-nested in HwBuildIo: "),
        "{text}"
    );
}

#[test]
fn a_request_that_survives_its_reset_ends_the_machine() {
    let lost = "after HwResetBus, the miniport still has request 00";
    says("forgotten", &[lost]);
}

#[test]
fn a_buffer_overrun_that_the_miniport_reports_ends_the_machine() {
    says("overrun", &["BufferOverrunDetected"]);
}

#[test]
fn a_call_that_needs_a_later_result_ends_the_machine() {
    let needs = "in HwFindAdapter: ddi-callback: a call needs the results of HwFindAdapter";
    says("too early", &[needs]);
}

#[test]
fn requests_beyond_the_adapters_limits_are_the_testbeds_error() {
    let limit = "2097152 bytes, and it transfers 1048576 at most";
    says("too large", &[limit]);
    says("too many elements", &["more than the 2 elements"]);
}
