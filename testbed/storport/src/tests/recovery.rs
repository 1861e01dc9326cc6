//! Tests of time-outs, and of the bus reset that follows.

use std::sync::atomic::{AtomicBool, Ordering};

use super::bench::*;
use Callback::{HwInitialize, HwResetBus, HwStartIo};
use testbed_machine::cpu::{current_irql, irql};

/// A miniport that keeps its requests until it is reset. Also the IRQL, whether all channels and
/// the StartIo lock are held, and the path.
fn hangs() -> (Miniport, &'static Notes<(u8, bool, usize)>) {
    let was_reset: &'static AtomicBool = Box::leak(Box::default());
    let resets = Notes::new();
    let miniport = Miniport::new()
        .on(HwStartIo, |c| {
            if !was_reset.load(Ordering::SeqCst) {
                c.keeps();
            }
        })
        .on(HwResetBus, move |c| {
            let all_channels = c.holds(LockId::StartIo) && c.holds(LockId::AllChannels);
            resets.push((current_irql(), all_channels, c.about));
            was_reset.store(true, Ordering::SeqCst);
        });
    (miniport, resets)
}

#[test]
fn a_request_that_takes_too_long_is_reset_and_comes_back() {
    let (miniport, resets) = hangs();
    let bench = start_as(miniport, soon());

    assert_eq!(bench.execute().srb_status, BUS_RESET);
    assert_eq!(bench.execute().srb_status, SUCCESS);

    let report = bench.adapter.report();
    assert_eq!(report.resets.len(), 1);
    assert_eq!(report.resets[0].outstanding, 1);
    assert!(report.resets[0].accepted);
    assert!(report.resets[0].cause.starts_with("request 00 to path 0"));
    assert!(report.events.iter().any(|line| line.contains("129")));
    assert_eq!(resets.take(), [(irql::DISPATCH, true, 0)]);
    assert_eq!(bench.broken(), []);
}

#[test]
fn a_reset_holds_all_channels() {
    let (miniport, resets) = hangs();
    let channels = miniport.on(HwInitialize, |c| {
        use abi::perf_configuration_data as field;
        let data = structure(c.own(EMPTY));
        data.set(field::Version, 4);
        data.set(field::Size, 40);
        data.set(field::Flags, 2);
        data.set(field::ConcurrentChannels, 2);
        assert_eq!(c.call(14, [0, data.address()]), 0);
    });
    let bench = start_as(channels, soon());

    assert_eq!(bench.execute().srb_status, BUS_RESET);

    assert_eq!(resets.take(), [(irql::DISPATCH, true, 0)]);
}

#[test]
fn all_outstanding_requests_are_part_of_a_reset() {
    let (miniport, _) = hangs();
    let bench = start_as(miniport, soon());

    let completions = bench.load(20, 5);

    let reset = completions
        .iter()
        .filter(|done| done.srb_status == BUS_RESET);
    assert_eq!(reset.count(), 10);
    let report = bench.adapter.report();
    assert_eq!(report.resets.len(), 1);
    assert_eq!(report.resets[0].outstanding, 10);
    assert_eq!(completions.len(), 40);
}
