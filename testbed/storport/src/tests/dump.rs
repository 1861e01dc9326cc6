//! Tests of a dump stack: its parameters, its requests, and the routines that it lacks. One test
//! removes an adapter that never started.

use std::{ffi::CStr, time::Duration};

use super::{
    super::{abi::wdk, control_request::ControlRequest, dump::DumpError},
    bench::*,
};
use Callback::{
    DriverEntry, HwBuildIo, HwFindAdapter, HwInitialize, HwInterrupt, HwStartIo, SynchronizedAccess,
};
use testbed_machine::cpu::{current_irql, irql};

/// A dump stack with this miniport, started.
fn started(miniport: Miniport) -> DumpStack {
    start_dump(miniport).expect("the dump stack starts")
}

#[test]
fn dump_requests_are_polled_and_all_callbacks_run_at_high_level() {
    let calls = Notes::new();
    let stack = started(
        Miniport::new()
            .on_any(None, move |c| calls.push((c.callback, current_irql())))
            .on(HwStartIo, |c| {
                c.keeps();
            })
            .on(HwInterrupt, |c| {
                if c.turn() == 2 {
                    c.complete_kept(SUCCESS);
                }
            }),
    );

    let completion = stack.execute(&request(7)).unwrap();

    assert_eq!((completion.token, completion.srb_status), (7, SUCCESS));
    let callbacks = [
        DriverEntry,
        HwFindAdapter,
        HwInitialize,
        HwBuildIo,
        HwStartIo,
        HwInterrupt,
        HwInterrupt,
        HwInterrupt,
    ];
    assert_eq!(
        calls.take(),
        callbacks.map(|callback| (callback, irql::HIGH))
    );
    assert_eq!(stack.report().violations, []);
}

/// The string that lies behind the access ranges.
fn argument_behind(ranges: usize, count: usize) -> String {
    let at = structure(ranges).offset(count * abi::access_range::SIZE);
    let bytes = at.bytes(8);
    CStr::from_bytes_until_nul(&bytes)
        .map(|text| text.to_string_lossy().into_owned())
        .unwrap_or_default()
}

#[test]
fn a_dump_stack_is_recognised_and_promises_the_alignment_that_was_asked_for() {
    for (features, alignment) in [(0, 8), (wdk::STOR_FEATURE_DUMP_16_BYTE_ALIGNMENT, 16)] {
        let seen = Notes::new();
        let stack = started(
            Miniport::new()
                .on(DriverEntry, move |c| {
                    c.structure().set(init::FeatureSupport, features);
                })
                .on(HwFindAdapter, move |c| {
                    let info = c.structure();
                    let count = info.get(info::NumberOfAccessRanges) as usize;
                    seen.push((
                        argument_behind(info.get(info::AccessRanges), count),
                        info.get(info::DumpMode),
                        info.get(info::InterruptMode),
                        [c.ext % 32, c.uncached(4096) % 32],
                    ));
                }),
        );

        let addresses = [alignment, 16];
        assert_eq!(
            seen.take(),
            [("dump=1".to_owned(), 1, wdk::LevelSensitive, addresses)]
        );
        assert_eq!(stack.memory(), (256, 4096));
        assert_eq!(stack.report().violations, []);
    }
}

/// The rules that HwInitialize breaks in a dump stack by doing this.
fn initialize_that(does: Action) -> Vec<(&'static str, &'static str)> {
    let stack = started(Miniport::new().on(HwInitialize, does));
    rules_of(&stack.report().violations)
}

#[test]
fn unavailable_routines_return_an_error() {
    let does: [Action; 3] = [
        |c| assert!(!c.enable_passive_initialization()),
        |c| {
            let (block, status) = c.results(0, [16, 0]);
            assert!(block == 0 && status != 0);
        },
        |c| assert_eq!(c.ddi("StorPortRegistryRead", []) as u8, 0),
    ];
    for does in does {
        assert_eq!(initialize_that(does).len(), 1);
    }
    // Messages can be asked for and are none.
    let asks = |c: &Context| assert_ne!(c.call(13, [0, c.own(EMPTY)]), 0);
    assert_eq!(initialize_that(asks), []);
}

#[test]
fn a_lock_is_not_taken() {
    initialize_that(|c| {
        c.under(&[wdk::StartIoLock], |c| {
            assert!(!c.holds(LockId::StartIo));
        });
        assert_eq!(current_irql(), irql::HIGH);
    });
    let calls = Notes::new();
    started(
        Miniport::new()
            .on(HwInitialize, |c| assert!(c.synchronize(0)))
            .on(SynchronizedAccess, move |_| calls.push(current_irql())),
    );
    assert_eq!(calls.take(), [irql::HIGH]);
}

#[test]
fn the_system_time_stands_still() {
    let broken = initialize_that(|_| {
        let time = || with_result::<u64>(|to| ddi("StorPortQuerySystemTime", [to])).0;
        let first = time();
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(time(), first);
    });
    assert_eq!(broken, []);
}

#[test]
fn a_request_that_comes_back_busy_is_started_again() {
    let stack = started(Miniport::new().on(HwStartIo, |c| {
        let is_busy = c.turn() < 2;
        c.completes(if is_busy { BUSY } else { SUCCESS });
    }));

    let flush = ControlRequest::Flush(Address::default());

    assert_eq!(stack.control(flush).unwrap(), SUCCESS);
    assert_eq!(stack.report().violations, []);
}

#[test]
fn a_request_that_is_never_completed_is_an_error() {
    let stack = started(Miniport::new().on(HwStartIo, |c| c.answer(1)));

    let lost = stack.execute(&Request {
        timeout: Duration::from_millis(20),
        ..request(0)
    });

    assert!(matches!(lost, Err(DumpError::TimedOut { .. })), "{lost:?}");
}

#[test]
fn a_dump_stack_whose_miniport_does_not_initialize_is_not_started() {
    let refused = start_dump(Miniport::new().on(HwInitialize, |c| c.answer(0)));

    let text = refused.unwrap_err().to_string();
    assert_eq!(text, "HwInitialize: returned FALSE");
}

#[test]
fn an_adapter_that_never_started_is_removed_by_its_first_request() {
    let calls = Notes::new();
    let (status, violations) = remove_unstarted(Miniport::new().on(HwStartIo, move |c| {
        let extension = structure(c.ext).bytes(256);
        let has_lock = c.holds(LockId::StartIo);
        calls.push((c.callback, current_irql(), has_lock, extension));
    }));

    assert_eq!(status, Some(SUCCESS));
    assert_eq!(
        calls.take(),
        [(HwStartIo, irql::DISPATCH, true, vec![0; 256])]
    );
    assert_eq!(violations, []);
}
