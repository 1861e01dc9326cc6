//! Tests of accesses to a request after its completion, with the checks of `--verify`.

use super::{super::srb::state, bench::*};
use Callback::{HwBuildIo, HwStartIo};
use std::sync::atomic::Ordering;

/// Accesses the memory of a completed request that is found by `part`. Returns what is reported.
fn reported(
    part: impl Fn(&Context) -> usize + Send + Sync + 'static,
    access: fn(Structure),
) -> String {
    let accesses = Miniport::new().on(HwStartIo, move |c| {
        let part = structure(part(c));
        c.completes(SUCCESS);
        access(part);
    });
    let bench = start_as(accesses, watched());
    let completion = bench.adapter.execute(read(4096, Placement::Scattered));
    assert_eq!(completion.srb_status, SUCCESS);
    assert_eq!(bench.broken(), [("srb-touched", "HwStartIo")]);
    bench.adapter.report().violations[0].detail.clone()
}

#[test]
fn accesses_to_a_completed_srb_its_extension_and_its_list_are_violations() {
    let reads = |part: Structure| {
        let _: u32 = part.get(abi::value());
    };
    // The signature.
    assert_eq!(
        reported(|c| c.about + 8, reads),
        "the SRB at offset 0x8 of a request (CDB 28) that was completed is read"
    );
    assert_eq!(
        reported(
            |c| c.structure().get(storage::MiniportContext) + 16,
            |part| part.set(abi::value(), 1u64)
        ),
        "the SRB extension at offset 0x10 of a request (CDB 28) that was completed is written"
    );
    assert_eq!(
        reported(Context::list, reads),
        "the scatter/gather list at offset 0x0 of a request (CDB 28) that was completed is read"
    );
}

#[test]
fn a_request_may_be_used_until_it_is_completed_and_comes_back_whole() {
    let uses = |c: &Context| assert_eq!(c.structure().get(scsi::SrbStatus), 0);
    let miniport = Miniport::new()
        .on(HwBuildIo, uses)
        .on(HwStartIo, uses)
        .on(HwStartIo, |c| c.completes(ERROR));
    let bench = start_as(miniport, watched());

    let completions = bench.load(300, 40);

    assert_eq!(completions.len(), 600);
    assert!(completions.iter().all(|done| done.srb_status == ERROR));
    assert_eq!(bench.broken(), []);
}

#[test]
fn a_request_that_comes_back_busy_can_be_used_again() {
    let busy_once = Miniport::new().on(HwStartIo, |c| {
        assert_eq!(c.structure().get(scsi::SrbStatus), 0);
        c.is_busy_once();
    });
    let bench = start_as(busy_once, watched());

    assert_eq!(bench.execute().srb_status, SUCCESS);

    assert_eq!(bench.adapter.report().retried, 1);
    assert_eq!(bench.broken(), []);
}

#[test]
fn a_second_completion_is_reported_as_such() {
    let twice = Miniport::new().on(HwStartIo, |c| {
        c.completes(SUCCESS);
        c.notify(0, [c.about]);
    });
    let bench = start_as(twice, watched());

    let _ = bench.execute();

    assert_eq!(bench.broken(), [("srb-completed-twice", "HwStartIo")]);
}

#[test]
fn an_srb_rests_before_it_is_used_again() {
    let seen = Notes::new();
    let notes = Miniport::new().on(HwStartIo, move |c| seen.push(c.about));
    let bench = start_as(notes, watched());

    for _ in 0..64 {
        let _ = bench.execute();
    }

    let mut seen = seen.take();
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
