//! Time-outs and the bus reset that follows.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::bench::*;
use testbed_machine::cpu::{current_irql, irql};

fn soon() -> AdapterSettings {
    AdapterSettings {
        tick: Duration::from_millis(5),
        timeout: Some(Duration::from_millis(40)),
        ..AdapterSettings::default()
    }
}

/// Keeps its first request until it is reset.
#[derive(Default)]
struct Hangs {
    kept: Kept,
    was_reset: AtomicBool,
    seen: Mutex<Vec<(u8, bool, u32)>>,
    channels: bool,
}

impl Miniport for Hangs {
    fn initialize(&self, _: Extension) -> bool {
        if self.channels {
            let ext = callbacks::current_port().unwrap().extension();
            let data = Scratch::new(64);
            let data = data.at(0);
            data.fill(64, 0);
            data.set(abi::perf_configuration_data::Version, 4);
            data.set(abi::perf_configuration_data::Size, 40);
            data.set(abi::perf_configuration_data::Flags, 2);
            data.set(abi::perf_configuration_data::ConcurrentChannels, 2);
            return Extension(ext).extended(14, [0, data.address(), 0, 0]) == 0;
        }
        true
    }

    fn start_io(&self, ext: Extension, srb: usize) -> bool {
        if self.was_reset.load(Ordering::SeqCst) {
            ext.complete(srb, SUCCESS);
        } else {
            self.kept.push(srb);
        }
        true
    }

    fn reset_bus(&self, ext: Extension, path: u32) -> bool {
        let all_channels = ext.holds(LockId::StartIo) && ext.holds(LockId::AllChannels);
        self.seen
            .lock()
            .unwrap()
            .push((current_irql(), all_channels, path));
        self.was_reset.store(true, Ordering::SeqCst);
        self.kept.complete_all(ext, BUS_RESET);
        true
    }
}

#[test]
fn a_request_that_takes_too_long_is_reset_and_comes_back() {
    let bench = start_with(Hangs::default(), FakeFunction::new(0), soon());

    assert_eq!(bench.execute().srb_status, BUS_RESET);
    assert_eq!(bench.execute().srb_status, SUCCESS);

    let report = bench.adapter.report();
    assert_eq!(report.resets.len(), 1);
    assert_eq!(report.resets[0].outstanding, 1);
    assert!(report.resets[0].accepted);
    assert!(report.resets[0].cause.starts_with("request 00 to path 0"));
    assert!(report.events.iter().any(|line| line.contains("129")));
    let seen = bench.miniport.seen.lock().unwrap().clone();
    assert_eq!(seen, [(irql::DISPATCH, true, 0)]);
    assert_eq!(bench.broken(), []);
}

#[test]
fn a_reset_holds_all_channels() {
    let bench = start_with(
        Hangs {
            channels: true,
            ..Hangs::default()
        },
        FakeFunction::new(2),
        soon(),
    );

    assert_eq!(bench.execute().srb_status, BUS_RESET);

    let seen = bench.miniport.seen.lock().unwrap().clone();
    assert_eq!(seen, [(irql::DISPATCH, true, 0)]);
}

#[test]
fn all_outstanding_requests_are_part_of_a_reset() {
    let bench = start_with(Hangs::default(), FakeFunction::new(0), soon());

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
