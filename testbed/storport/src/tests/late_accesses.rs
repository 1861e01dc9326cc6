//! What a miniport does with a request that it has completed, where all is
//! checked.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use super::{
    super::{adapter::Checks, report::Violation, srb::state},
    bench::*,
};
use testbed_machine::memory::Placement;

fn watched() -> AdapterSettings {
    AdapterSettings {
        checks: Checks::All,
        ..quick()
    }
}

/// What is done with a completed SRB and its extension.
type Act = fn(Extension, usize, usize);

/// Completes a request in HwStartIo, and then does something with its SRB.
struct Then(Act);

impl Miniport for Then {
    fn start_io(&self, ext: Extension, srb: usize) -> bool {
        let extension = structure(srb).get(abi::storage_request_block::MiniportContext);
        ext.complete(srb, SUCCESS);
        (self.0)(ext, srb, extension);
        true
    }
}

fn violations_of(then: Act) -> Vec<Violation> {
    let bench = start_with(Then(then), FakeFunction::new(2), watched());
    let block = buffer(4096, Placement::Scattered);
    let completion = bench.adapter.execute(transfer(Data {
        block,
        offset: 0,
        bytes: 4096,
        direction: Direction::In,
    }));
    assert_eq!(completion.srb_status, SUCCESS);
    bench.adapter.report().violations
}

fn only(violations: &[Violation]) -> &Violation {
    let [violation] = violations else {
        panic!("{violations:?}");
    };
    assert_eq!(violation.rule, "srb-touched");
    assert_eq!(violation.callback, "HwStartIo");
    violation
}

#[test]
fn reading_a_completed_srb_is_a_violation_and_goes_on() {
    let violations = violations_of(|_, srb, _| {
        // The signature.
        let _: u32 = structure(srb).offset(8).get(abi::value());
    });

    assert_eq!(
        only(&violations).detail,
        "the SRB at offset 0x8 of a request (CDB 28) that was completed is read"
    );
}

#[test]
fn writing_to_the_extension_of_a_completed_srb_is_a_violation() {
    let violations = violations_of(|_, _, extension| {
        structure(extension).offset(16).set(abi::value(), 1u64);
    });

    assert_eq!(
        only(&violations).detail,
        "the SRB extension at offset 0x10 of a request (CDB 28) that was completed is written"
    );
}

#[test]
fn the_list_of_a_completed_srb_is_taken_too() {
    struct Keeps(Mutex<usize>);
    impl Miniport for Keeps {
        fn build_io(&self, ext: Extension, srb: usize) -> bool {
            let list = ddi("StorPortGetScatterGatherList", [ext.0, srb, 0, 0, 0, 0]);
            *self.0.lock().unwrap() = list;
            true
        }

        fn start_io(&self, ext: Extension, srb: usize) -> bool {
            ext.complete(srb, SUCCESS);
            let list = *self.0.lock().unwrap();
            let _: u32 = structure(list).get(abi::value());
            true
        }
    }
    let bench = start_with(Keeps(Mutex::new(0)), FakeFunction::new(2), watched());
    let block = buffer(4096, Placement::Scattered);
    let _ = bench.adapter.execute(transfer(Data {
        block,
        offset: 0,
        bytes: 4096,
        direction: Direction::In,
    }));

    let violations = bench.adapter.report().violations;

    assert!(
        only(&violations)
            .detail
            .starts_with("the scatter/gather list at offset 0x0 of a request"),
        "{violations:?}"
    );
}

#[test]
fn a_request_may_be_used_until_it_is_completed_and_comes_back_whole() {
    struct Uses;
    impl Miniport for Uses {
        fn build_io(&self, _: Extension, srb: usize) -> bool {
            assert_eq!(structure(srb).get(scsi::SrbStatus), 0);
            true
        }

        fn start_io(&self, ext: Extension, srb: usize) -> bool {
            assert_eq!(structure(srb).get(scsi::SrbStatus), 0);
            ext.complete(srb, ERROR);
            true
        }
    }
    let bench = start_with(Uses, FakeFunction::new(2), watched());

    let completions = bench.load(300, 40);

    assert_eq!(completions.len(), 600);
    assert!(completions.iter().all(|done| done.srb_status == ERROR));
    assert_eq!(bench.broken(), []);
}

#[test]
fn a_request_that_comes_back_busy_can_be_used_again() {
    struct BusyOnce(AtomicUsize);
    impl Miniport for BusyOnce {
        fn start_io(&self, ext: Extension, srb: usize) -> bool {
            let first = self.0.fetch_add(1, Ordering::SeqCst) == 0;
            assert_eq!(structure(srb).get(scsi::SrbStatus), 0);
            // SRB_STATUS_BUSY.
            ext.complete(srb, if first { 0x05 } else { SUCCESS });
            true
        }
    }
    let bench = start_with(
        BusyOnce(AtomicUsize::new(0)),
        FakeFunction::new(2),
        watched(),
    );

    assert_eq!(bench.execute().srb_status, SUCCESS);

    assert_eq!(bench.adapter.report().retried, 1);
    assert_eq!(bench.broken(), []);
}

#[test]
fn a_second_completion_is_reported_as_such() {
    let violations = violations_of(|ext, srb, _| {
        ext.notify(0, [srb, 0, 0, 0]);
    });

    let rules: Vec<_> = violations.iter().map(|violation| violation.rule).collect();
    assert_eq!(rules, ["srb-completed-twice"]);
}

#[test]
fn an_srb_rests_before_it_is_used_again() {
    static SEEN: Mutex<Vec<usize>> = Mutex::new(Vec::new());
    struct Notes;
    impl Miniport for Notes {
        fn start_io(&self, ext: Extension, srb: usize) -> bool {
            SEEN.lock().unwrap().push(srb);
            ext.complete(srb, SUCCESS);
            true
        }
    }
    let bench = start_with(Notes, FakeFunction::new(2), watched());

    for _ in 0..64 {
        let _ = bench.execute();
    }

    let mut seen = SEEN.lock().unwrap().clone();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 64);
    let slots = bench.port().srbs().slots();
    assert!(
        slots
            .iter()
            .all(|slot| slot.state.load(Ordering::SeqCst) == state::FREE)
    );
}
