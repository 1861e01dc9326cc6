//! Queue depth, busy and pause.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use super::bench::*;

/// Keeps requests until its timer, and notes how many it had at a time.
#[derive(Default)]
struct Holds {
    kept: Kept,
    most: AtomicU64,
    depth: AtomicU32,
}

impl Miniport for Holds {
    fn start_io(&self, ext: Extension, srb: usize) -> bool {
        let depth = self.depth.swap(0, Ordering::SeqCst);
        if depth > 0 {
            let arguments = [ext.0, 0, 0, 0, depth as usize, 0];
            assert_eq!(ddi("StorPortSetDeviceQueueDepth", arguments) as u8, 1);
        }
        self.kept.push(srb);
        self.most
            .fetch_max(self.kept.len() as u64, Ordering::SeqCst);
        ext.request_timer_call(2000);
        true
    }

    fn timer(&self, ext: Extension) {
        self.kept.complete_all(ext, SUCCESS);
    }
}

/// Sets this depth, and keeps the answer.
struct Sets(u32, AtomicU32);

impl Miniport for Sets {
    fn start_io(&self, ext: Extension, srb: usize) -> bool {
        let arguments = [ext.0, 0, 0, 0, self.0 as usize, 0];
        let answer = ddi("StorPortSetDeviceQueueDepth", arguments) as u8;
        self.1.store(answer.into(), Ordering::SeqCst);
        ext.complete(srb, SUCCESS);
        true
    }
}

#[test]
fn a_unit_has_no_more_requests_than_its_initial_depth() {
    let bench = start(Holds::default());

    let completions = bench.load(100, 50);

    assert_eq!(completions.len(), 200);
    assert_eq!(bench.miniport.most.load(Ordering::SeqCst), 20);
}

#[test]
fn the_depth_that_the_miniport_sets_holds() {
    let bench = start(Holds::default());
    bench.miniport.depth.store(7, Ordering::SeqCst);
    let _ = bench.execute();

    let _ = bench.load(100, 50);

    assert_eq!(bench.adapter.queue_depth(Address::default()), 7);
    assert_eq!(bench.miniport.most.load(Ordering::SeqCst), 7);
}

#[test]
fn the_depth_of_the_settings_is_not_exceeded() {
    let settings = AdapterSettings {
        unit_depth: Some(3),
        ..quick()
    };
    let bench = start_with(Holds::default(), FakeFunction::new(2), settings);
    bench.miniport.depth.store(100, Ordering::SeqCst);
    let _ = bench.execute();

    let _ = bench.load(50, 20);

    assert_eq!(bench.miniport.most.load(Ordering::SeqCst), 3);
}

#[test]
fn any_depth_above_0_is_accepted() {
    for depth in [1, 255, 256, 1000, u32::MAX] {
        let bench = start(Sets(depth, AtomicU32::new(2)));

        let _ = bench.execute();

        assert_eq!(bench.miniport.1.load(Ordering::SeqCst), 1, "{depth}");
        assert_eq!(bench.adapter.queue_depth(Address::default()), depth);
        assert_eq!(bench.broken(), []);
    }
}

#[test]
fn a_depth_of_0_is_refused_and_is_a_violation() {
    let bench = start(Sets(0, AtomicU32::new(2)));

    let _ = bench.execute();

    assert_eq!(bench.miniport.1.load(Ordering::SeqCst), 0);
    assert_eq!(bench.adapter.queue_depth(Address::default()), 20);
    assert_eq!(bench.broken(), [("queue-depth", "HwStartIo")]);
}

/// Returns the first `busy` requests as BUSY.
struct Busy {
    busy: AtomicU64,
    extensions_renewed: AtomicU64,
}

impl Miniport for Busy {
    fn build_io(&self, _: Extension, srb: usize) -> bool {
        let extension = structure(structure(srb).get(abi::storage_request_block::MiniportContext));
        if extension.bytes(64).iter().all(|byte| *byte == 0xC5) {
            self.extensions_renewed.fetch_add(1, Ordering::SeqCst);
        }
        extension.fill(64, 0);
        true
    }

    fn start_io(&self, ext: Extension, srb: usize) -> bool {
        let busy = self
            .busy
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                left.checked_sub(1)
            });
        let status = if busy.is_ok() { 0x05 } else { SUCCESS };
        ext.complete(srb, status);
        true
    }
}

#[test]
fn a_busy_request_is_started_again_with_a_new_extension() {
    let bench = start(Busy {
        busy: AtomicU64::new(3),
        extensions_renewed: AtomicU64::new(0),
    });

    assert_eq!(bench.execute().srb_status, SUCCESS);

    let report = bench.adapter.report();
    assert_eq!(report.retried, 3);
    assert_eq!(report.completed.values().sum::<u64>(), 1);
    let renewed = bench.miniport.extensions_renewed.load(Ordering::SeqCst);
    assert_eq!(renewed, 4);
    assert_eq!(bench.broken(), []);
}

#[test]
fn busy_requests_among_many_all_come_back() {
    let bench = start(Busy {
        busy: AtomicU64::new(100),
        extensions_renewed: AtomicU64::new(0),
    });

    let completions = bench.load(500, 30);

    assert_eq!(completions.len(), 1000);
    assert_eq!(bench.adapter.report().retried, 100);
}

#[test]
fn busy_with_another_length_is_a_violation() {
    struct Shrinks(AtomicU64);
    impl Miniport for Shrinks {
        fn start_io(&self, ext: Extension, srb: usize) -> bool {
            let first = self.0.fetch_add(1, Ordering::SeqCst) == 0;
            if first {
                structure(srb).set(abi::storage_request_block::DataTransferLength, 9);
            }
            ext.complete(srb, if first { 0x05 } else { SUCCESS });
            true
        }
    }
    let bench = start(Shrinks(AtomicU64::new(0)));

    assert_eq!(bench.execute().transferred, 0);

    assert_eq!(bench.broken(), [("srb-busy-length", "no callback")]);
}

/// Calls a function of Storport's at its first request.
struct AtFirst {
    requests: AtomicU64,
    call: fn(Extension),
}

impl AtFirst {
    fn new(call: fn(Extension)) -> Self {
        Self {
            requests: AtomicU64::new(0),
            call,
        }
    }
}

impl Miniport for AtFirst {
    fn start_io(&self, ext: Extension, srb: usize) -> bool {
        if self.requests.fetch_add(1, Ordering::SeqCst) == 0 {
            (self.call)(ext);
        }
        ext.complete(srb, SUCCESS);
        true
    }
}

#[test]
fn a_paused_adapter_gets_no_requests_until_its_time_is_over() {
    let bench = start(AtFirst::new(|ext| {
        ddi("StorPortPause", [ext.0, 1, 0, 0, 0, 0]);
    }));
    let _ = bench.execute();
    let start = Instant::now();

    let _ = bench.execute();

    assert!(start.elapsed() > Duration::from_millis(500));
    assert_eq!(bench.adapter.report().pauses, 1);
}

#[test]
fn a_paused_unit_goes_on_when_it_is_resumed() {
    struct Pauses;
    impl Miniport for Pauses {
        fn start_io(&self, ext: Extension, srb: usize) -> bool {
            ddi("StorPortPauseDevice", [ext.0, 0, 0, 0, 1000, 0]);
            ext.request_timer_call(1000);
            ext.complete(srb, SUCCESS);
            true
        }

        fn timer(&self, ext: Extension) {
            ddi("StorPortResumeDevice", [ext.0, 0, 0, 0, 0, 0]);
        }
    }
    let bench = start(Pauses);

    for _ in 0..3 {
        assert_eq!(bench.execute().srb_status, SUCCESS);
    }

    assert_eq!(bench.adapter.report().pauses, 3);
}

#[test]
fn a_link_that_is_down_holds_requests_until_it_is_up() {
    struct Link;
    impl Miniport for Link {
        fn start_io(&self, ext: Extension, srb: usize) -> bool {
            ext.notify(11, [0; 4]);
            ext.request_timer_call(1000);
            ext.complete(srb, SUCCESS);
            true
        }

        fn timer(&self, ext: Extension) {
            ext.notify(10, [0; 4]);
        }
    }
    let bench = start(Link);

    assert_eq!(bench.load(5, 2).len(), 10);
}

#[test]
fn a_busy_adapter_takes_requests_again_when_enough_have_left() {
    let bench = start(AtFirst::new(|ext| {
        ddi("StorPortBusy", [ext.0, 1, 0, 0, 0, 0]);
        ddi("StorPortDeviceBusy", [ext.0, 0, 0, 0, 50, 0]);
    }));

    assert_eq!(bench.load(100, 5).len(), 200);

    assert_eq!(bench.adapter.report().busy, 2);
}

#[test]
fn a_logical_unit_extension_is_zeroed_and_stays() {
    #[derive(Default)]
    struct PerUnit(AtomicU64);
    impl Miniport for PerUnit {
        fn registration(&self, data: Structure) {
            data.set(init::SpecificLuExtensionSize, 16);
        }

        fn start_io(&self, ext: Extension, srb: usize) -> bool {
            let unit = ddi("StorPortGetLogicalUnit", [ext.0, 0, 0, 0, 0, 0]);
            let counter = structure(unit);
            let count: u64 = counter.get(abi::value());
            counter.set(abi::value(), count + 1);
            self.0.store(count + 1, Ordering::SeqCst);
            let none = ddi("StorPortGetLogicalUnit", [ext.0, 3, 3, 3, 0, 0]);
            ext.complete(srb, if none == 0 { SUCCESS } else { ERROR });
            true
        }
    }
    let bench = start(PerUnit::default());

    for _ in 0..3 {
        assert_eq!(bench.execute().srb_status, SUCCESS);
    }

    assert_eq!(bench.miniport.0.load(Ordering::SeqCst), 3);
}
