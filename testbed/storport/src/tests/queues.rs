//! Tests of queue depth, busy and pause.

use std::time::{Duration, Instant};

use super::bench::*;
use Callback::{HwBuildIo, HwFindAdapter, HwStartIo, HwTimer};

/// A miniport that keeps requests until its timer and sets this depth. Also how many it kept at a
/// time.
fn holds(depth: usize) -> (Miniport, &'static Notes<usize>) {
    let kept = Notes::new();
    let miniport = Miniport::new()
        .on(HwStartIo, move |c| {
            if depth > 0 && c.turn() == 0 {
                assert!(c.set_depth(depth));
            }
            kept.push(c.keeps());
            c.request_timer_call(2000);
        })
        .on(HwTimer, |c| c.complete_kept(SUCCESS));
    (miniport, kept)
}

#[test]
fn a_unit_has_no_more_requests_than_its_initial_depth() {
    let (miniport, kept) = holds(0);
    let bench = start(miniport);

    let completions = bench.load(100, 50);

    assert_eq!(completions.len(), 200);
    assert_eq!(kept.take().into_iter().max(), Some(20));
}

#[test]
fn the_depth_that_the_miniport_sets_holds() {
    let (miniport, kept) = holds(7);
    let bench = start(miniport);
    let _ = bench.execute();

    let _ = bench.load(100, 50);

    assert_eq!(bench.adapter.queue_depth(Address::default()), 7);
    assert_eq!(kept.take().into_iter().max(), Some(7));
}

#[test]
fn any_depth_above_0_is_accepted() {
    for (depth, is_set, set) in [
        (0, false, 20),
        (1, true, 1),
        (255, true, 255),
        (256, true, 256),
        (1000, true, 1000),
        (u32::MAX, true, u32::MAX),
    ] {
        let bench = start(Miniport::new().on(HwStartIo, move |c| {
            assert_eq!(c.set_depth(depth as usize), is_set, "{depth}");
        }));

        let _ = bench.execute();

        assert_eq!(bench.adapter.queue_depth(Address::default()), set);
        assert_eq!(bench.broken().is_empty(), is_set);
    }
}

/// A miniport that completes the first `busy` requests as BUSY, with another length.
fn busy(busy: usize) -> Miniport {
    Miniport::new().on(HwStartIo, move |c| {
        if c.turn() < busy {
            c.structure().set(storage::DataTransferLength, 9);
            c.completes(BUSY);
        }
    })
}

#[test]
fn a_busy_request_is_started_again_with_its_length_and_a_new_extension() {
    let are_new = Notes::new();
    let bench = start(busy(3).on(HwBuildIo, move |c| {
        let extension = structure(c.structure().get(storage::MiniportContext));
        are_new.push(extension.bytes(64).iter().all(|byte| *byte == 0xC5));
        extension.fill(64, 0);
    }));

    let completion = bench.execute();

    assert_eq!(completion.srb_status, SUCCESS);
    assert_eq!(completion.transferred, 0);
    let report = bench.adapter.report();
    assert_eq!(report.retried, 3);
    assert_eq!(report.completed.values().sum::<u64>(), 1);
    assert_eq!(are_new.take(), [true; 4]);
    assert_eq!(bench.broken(), [("srb-busy-length", "no callback")]);
}

#[test]
fn busy_requests_among_many_all_come_back() {
    let bench = start(busy(100));

    let completions = bench.load(500, 30);

    assert_eq!(completions.len(), 1000);
    assert_eq!(bench.adapter.report().retried, 100);
}

/// Otherwise further requests would take the places, and need more SRBs than there are.
#[test]
fn a_busy_request_keeps_its_place() {
    let bench = start(busy(500).on(HwFindAdapter, |c| {
        c.structure().set(info::MaxNumberOfIO, 20);
    }));

    let completions = bench.load(500, 300);

    assert_eq!(completions.len(), 1000);
    assert_eq!(bench.adapter.report().retried, 500);
}

#[test]
fn a_busy_request_waits_until_a_closed_gate_is_open() {
    let bench = start(Miniport::new().on(HwStartIo, |c| {
        let turn = c.turn();
        match turn {
            5 => _ = c.ddi("StorPortPause", [1]),
            // All requests in flight come back as BUSY. The last of them ends this, too.
            25 => _ = c.ddi("StorPortBusy", [1000]),
            _ => {}
        }
        if turn < 60 {
            c.completes(BUSY);
        }
    }));

    let completions = bench.load(100, 50);

    assert_eq!(completions.len(), 200);
    assert_eq!(bench.adapter.report().retried, 60);
}

#[test]
fn a_paused_adapter_gets_no_requests_until_its_time_is_over() {
    let bench = start(Miniport::new().on(HwStartIo, |c| {
        if c.turn() == 0 {
            c.ddi("StorPortPause", [1]);
        }
    }));
    let _ = bench.execute();
    let start = Instant::now();

    let _ = bench.execute();

    assert!(start.elapsed() > Duration::from_millis(500));
    assert_eq!(bench.adapter.report().pauses, 1);
}

#[test]
fn a_paused_unit_goes_on_when_it_is_resumed() {
    let pauses = Miniport::new()
        .on(HwStartIo, |c| {
            c.ddi("StorPortPauseDevice", [0, 0, 0, 1000]);
            c.request_timer_call(1000);
        })
        .on(HwTimer, |c| {
            c.ddi("StorPortResumeDevice", [0, 0, 0]);
        });
    let bench = start(pauses);

    for _ in 0..3 {
        assert_eq!(bench.execute().srb_status, SUCCESS);
    }

    assert_eq!(bench.adapter.report().pauses, 3);
}

#[test]
fn a_link_that_is_down_holds_requests_until_it_is_up() {
    let link = Miniport::new()
        .on(HwStartIo, |c| {
            c.notify(11, []);
            c.request_timer_call(1000);
        })
        .on(HwTimer, |c| c.notify(10, []));
    let bench = start(link);

    assert_eq!(bench.load(5, 2).len(), 10);
}

#[test]
fn a_busy_adapter_takes_requests_again_when_enough_have_left() {
    let bench = start(Miniport::new().on(HwStartIo, |c| {
        if c.turn() == 0 {
            c.ddi("StorPortBusy", [1]);
            c.ddi("StorPortDeviceBusy", [0, 0, 0, 50]);
        }
    }));

    assert_eq!(bench.load(100, 5).len(), 200);

    assert_eq!(bench.adapter.report().busy, 2);
}

#[test]
fn a_logical_unit_extension_is_zeroed_and_stays() {
    let counts = Notes::new();
    let bench = start(
        Miniport::new()
            .on(Callback::DriverEntry, |c| {
                c.structure().set(init::SpecificLuExtensionSize, 16);
            })
            .on(HwStartIo, move |c| {
                let counter = structure(c.ddi("StorPortGetLogicalUnit", [0, 0, 0]));
                let count: u64 = counter.get(abi::value());
                counter.set(abi::value(), count + 1);
                counts.push((count, c.ddi("StorPortGetLogicalUnit", [3, 3, 3])));
            }),
    );

    for _ in 0..3 {
        let _ = bench.execute();
    }

    assert_eq!(counts.take(), [(0, 0), (1, 0), (2, 0)]);
}
