//! What ends the machine: it says so and exits with code 3. Each scene is
//! played by a process of its own, this same test program.

use std::{
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::bench::*;
use testbed_machine::memory::Placement;

const SCENE: &str = "FERROSTOR_SCENE";

/// Plays `scene`; what the process said, which must have ended with code 3.
fn said(scene: &str) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "tests::fatal::the_scene",
            "--exact",
            "--ignored",
            "--nocapture",
        ])
        .env(SCENE, scene)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{text}");
    text
}

type Act = fn(Extension, &Scratch, usize);

/// Does something in HwStartIo.
struct Does(Act, Scratch);

impl Miniport for Does {
    fn passive_initialize(&self, ext: Extension) -> bool {
        ext.initialize_dpc(self.1.address() + 1024);
        true
    }

    fn start_io(&self, ext: Extension, srb: usize) -> bool {
        (self.0)(ext, &self.1, srb);
        ext.complete(srb, SUCCESS);
        true
    }
}

fn does(act: Act) {
    let bench = start(Does(act, Scratch::new(4096)));
    let _ = bench.execute();
}

/// Never completes a request.
struct Forgets;

impl Miniport for Forgets {
    fn start_io(&self, _: Extension, _: usize) -> bool {
        true
    }
}

/// Two CPUs take each other's lock.
struct Crosswise {
    scratch: Scratch,
    first: AtomicU64,
}

impl Miniport for Crosswise {
    fn passive_initialize(&self, ext: Extension) -> bool {
        ext.initialize_dpc(self.scratch.address());
        ext.initialize_dpc(self.scratch.address() + 128);
        true
    }

    fn build_io(&self, ext: Extension, _: usize) -> bool {
        let mine = self.first.fetch_add(1, Ordering::SeqCst) as usize % 2;
        let handles = Scratch::new(128);
        let dpcs = [self.scratch.address(), self.scratch.address() + 128];
        ext.acquire(1, dpcs[mine], handles.address());
        while self.first.load(Ordering::SeqCst) < 2 {
            std::thread::yield_now();
        }
        ext.acquire(1, dpcs[1 - mine], handles.address() + 64);
        true
    }
}

fn impatient() -> AdapterSettings {
    AdapterSettings {
        tick: Duration::from_millis(5),
        timeout: Some(Duration::from_millis(20)),
        callback_limit: Duration::from_millis(300),
        ..AdapterSettings::default()
    }
}

#[test]
#[ignore = "a scene of the other tests: it ends the process"]
fn the_scene() {
    match std::env::var(SCENE).as_deref() {
        Ok("start io twice") => does(|ext, scratch, _| ext.acquire(2, 0, scratch.address())),
        Ok("endless") => {
            let act: Act = |_, _, _| loop {
                std::thread::sleep(Duration::from_secs(1));
            };
            let bench = start_with(
                Does(act, Scratch::new(4096)),
                FakeFunction::new(0),
                impatient(),
            );
            let _ = bench.execute();
        }
        Ok("crosswise") => {
            let miniport = Crosswise {
                scratch: Scratch::new(256),
                first: AtomicU64::new(0),
            };
            // The circle is found, however long the time for callbacks is.
            let settings = AdapterSettings {
                callback_limit: Duration::from_secs(600),
                ..AdapterSettings::default()
            };
            let bench = start_with(miniport, FakeFunction::new(0), settings);
            let _ = bench.load(1, 1);
        }
        Ok("forgotten") => {
            let bench = start_with(Forgets, FakeFunction::new(0), impatient());
            let _ = bench.execute();
        }
        Ok("overrun") => does(|ext, _, _| {
            ext.notify(13, [0; 4]);
        }),
        Ok("too large") => {
            let bench = start(Forgets);
            let block = buffer(2 << 20, Placement::Contiguous);
            let _ = bench.adapter.execute(transfer(Data {
                block,
                offset: 0,
                bytes: 2 << 20,
                direction: Direction::In,
            }));
        }
        Ok("too many elements") => {
            struct Few;
            impl Miniport for Few {
                fn find_adapter(&self, _: Extension, info: Structure) -> u32 {
                    info.set(self::info::NumberOfPhysicalBreaks, 2);
                    config::SP_RETURN_FOUND
                }
            }
            let bench = start(Few);
            let block = buffer(3 * 4096, Placement::Scattered);
            let _ = bench.adapter.execute(transfer(Data {
                block,
                offset: 0,
                bytes: 3 * 4096,
                direction: Direction::In,
            }));
        }
        other => panic!("no scene: {other:?}"),
    }
    // Here only if nothing ended it.
    static KEEP: Mutex<()> = Mutex::new(());
    drop(KEEP.lock());
}

#[test]
fn taking_the_start_io_lock_in_start_io_ends_the_machine() {
    let text = said("start io twice");

    assert!(
        text.contains(
            "test.sys, in HwStartIo: lock-recursion: would wait forever: it takes StartIo while \
             Storport holds StartIo"
        ),
        "{text}"
    );
}

#[test]
fn a_callback_that_does_not_return_ends_the_machine() {
    let text = said("endless");

    assert!(
        text.contains("test.sys: HwStartIo on CPU 0 does not return"),
        "{text}"
    );
    assert!(text.contains("locks taken: StartIo"), "{text}");
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
    let text = said("forgotten");

    assert!(
        text.contains("after HwResetBus, the miniport still has request 00"),
        "{text}"
    );
}

#[test]
fn a_buffer_overrun_that_the_miniport_reports_ends_the_machine() {
    let text = said("overrun");

    assert!(text.contains("BufferOverrunDetected"), "{text}");
}

#[test]
fn requests_beyond_the_adapters_limits_are_the_testbeds_error() {
    let text = said("too large");
    assert!(
        text.contains("2097152 bytes, and it transfers 1048576 at most"),
        "{text}"
    );

    let text = said("too many elements");
    assert!(text.contains("more than the 2 elements"), "{text}");
}
