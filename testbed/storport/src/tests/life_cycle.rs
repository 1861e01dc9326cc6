//! Tests of the order of a miniport's callbacks, and of the state in which each is called.

use std::sync::atomic::Ordering;

use super::bench::*;
use crate::adapter::StrayMessages;
use Callback::{
    DriverEntry, HwAdapterControl, HwBuildIo, HwFindAdapter, HwInitialize, HwMSInterruptRoutine,
    HwPassiveInitialize, HwStartIo, HwUnitControl,
};
use testbed_machine::cpu::{current_irql, irql};

/// A miniport that writes down its callbacks, with their IRQL and whether Storport holds the
/// StartIo lock and the interrupt lock.
fn diary() -> (Miniport, &'static Notes<(Callback, u8, bool, bool)>) {
    let entries = Notes::new();
    let miniport = Miniport::new().on_any(None, move |c| {
        let locks = [LockId::StartIo, LockId::Interrupt].map(|lock| c.holds(lock));
        entries.push((c.callback, current_irql(), locks[0], locks[1]));
    });
    (miniport, entries)
}

#[test]
fn callbacks_come_in_order_each_at_its_irql_with_its_locks() {
    let (miniport, entries) = diary();
    let bench = start(miniport);

    let completion = bench.execute();
    bench.adapter.stop().unwrap();

    assert_eq!(completion.srb_status, SUCCESS);
    assert_eq!(
        entries.take(),
        [
            (DriverEntry, irql::PASSIVE, false, false),
            (HwFindAdapter, irql::PASSIVE, false, false),
            (HwInitialize, irql::DEVICE, false, true),
            (HwPassiveInitialize, irql::PASSIVE, false, false),
            (HwAdapterControl, irql::PASSIVE, false, false),
            (HwBuildIo, irql::DISPATCH, false, false),
            (HwStartIo, irql::DISPATCH, true, false),
            (HwAdapterControl, irql::DEVICE, false, false),
        ]
    );
    assert_eq!(bench.broken(), []);
    assert_eq!(bench.function.stops.load(Ordering::SeqCst), 1);
    // A second stop is an error.
    assert!(bench.adapter.stop().is_err());
}

#[test]
fn half_duplex_start_io_runs_at_dirql_with_both_locks() {
    let (miniport, entries) = diary();
    let bench = start(miniport.on(HwFindAdapter, |c| {
        c.structure().set(info::SynchronizationModel, 0);
    }));

    let _ = bench.execute();

    let entries = entries.take();
    assert!(entries.contains(&(HwStartIo, irql::DEVICE, true, true)));
    assert_eq!(bench.broken(), [("half-duplex", "HwFindAdapter")]);
}

#[test]
fn messages_are_enabled_before_find_adapter_and_unmasked_after_it() {
    let seen = Notes::new();
    let bench = start(Miniport::new().on(HwFindAdapter, move |c| {
        // By way of configuration space, as drivers do: message control.
        let buffer = c.own(EMPTY);
        let bytes = c.ddi("StorPortGetBusData", [4, 0, 0, buffer, 256]);
        let enabled = structure(buffer + 0x43).get(abi::value::<u8>()) & 0x80;
        seen.push((bytes, enabled, c.structure().get(info::InterruptMode)));
    }));

    assert_eq!(seen.take(), [(256, 0x80, wdk::Latched)]);
    bench.function.check_messages();
    assert_eq!(bench.broken(), []);
}

#[test]
fn without_a_message_routine_the_pin_is_used() {
    let bench = start(Miniport::new().on(HwFindAdapter, |c| {
        c.structure().set(info::HwMSInterruptRoutine, 0);
    }));

    assert!(!bench.function.is_msix_on());
    bench.function.line(true);
    bench.wait_for_interrupts(1);
    bench.function.line(false);

    // A faulty device: there is no routine for its messages.
    bench.function.message(0);
    bench.function.message(7);
    bench.wait_until("the messages are dropped", |bench| {
        bench.adapter.report().stray_messages == 2
    });
    assert_eq!(bench.broken(), []);
}

#[test]
fn a_message_beyond_the_table_is_dropped_unless_a_test_asks_for_it() {
    let messages = Notes::new();
    let notes = || Miniport::new().on(HwMSInterruptRoutine, move |c| messages.push(c.about as u32));

    let bench = start(notes());
    bench.function.message(2);
    bench.function.message(1);
    bench.wait_for_interrupts(1);
    assert_eq!(messages.take(), [1]);
    assert_eq!(bench.adapter.report().stray_messages, 1);

    let settings = AdapterSettings {
        stray_messages: StrayMessages::Delivered,
        ..quick()
    };
    let bench = start_as(notes(), settings);
    bench.function.message(0xFFFF);
    bench.wait_for_interrupts(1);
    assert_eq!(messages.take(), [0xFFFF]);
    assert_eq!(bench.broken(), []);
}

#[test]
fn config_info_has_the_adapters_resources_and_the_defaults() {
    let seen = Notes::new();
    let _bench = start(Miniport::new().on(HwFindAdapter, move |c| {
        let info = c.structure();
        let ranges = structure(info.get(info::AccessRanges));
        seen.push([
            u64::from(info.get(info::Length)),
            u64::from(info.get(info::NumberOfAccessRanges)),
            ranges.get(abi::access_range::RangeStart) as u64,
            u64::from(ranges.get(abi::access_range::RangeLength)),
            u64::from(ranges.get(abi::access_range::RangeInMemory)),
            u64::from(info.get(info::SrbType)),
            u64::from(info.get(info::SrbExtensionSize)),
            u64::from(info.get(info::MaxNumberOfIO)),
            u64::from(info.get(info::MaxIOsPerLun)),
            u64::from(info.get(info::InitialLunQueueDepth)),
        ]);
    }));

    let expected = [224, 2, 0xFE00_0000, 4096, 1, 1, 64, 1000, 255, 20];
    assert_eq!(seen.take(), [expected]);
}

#[test]
fn a_find_adapter_that_finds_nothing_stops_the_function() {
    let function = FakeFunction::new(0);
    let absent = Miniport::new().on(HwFindAdapter, |c| c.answer(wdk::SP_RETURN_NOT_FOUND));

    let refused = try_start(absent, function.clone(), quick()).map(|_| ());

    let text = refused.unwrap_err().to_string();
    assert_eq!(text, "HwFindAdapter: returned SP_RETURN_NOT_FOUND");
    assert_eq!(function.stops.load(Ordering::SeqCst), 1);
}

#[test]
fn invalid_registrations_and_results_are_named_and_refused() {
    let odd = refused(Miniport::new().on(HwFindAdapter, |c| c.answer(77)));
    assert_eq!(
        odd.to_string(),
        "HwFindAdapter: returned 77, which is not an SP_RETURN value"
    );

    let newer = refused(Miniport::new().on(DriverEntry, |c| {
        c.structure().set(init::HwInitializationDataSize, 1000);
    }));
    // STATUS_REVISION_MISMATCH.
    let text = newer.to_string();
    assert!(text.contains("0xc0000059"), "{text}");

    let incomplete = refused(Miniport::new().on(DriverEntry, |c| {
        for routine in [
            init::HwInitialize,
            init::HwStartIo,
            init::HwInterrupt,
            init::HwFindAdapter,
            init::HwResetBus,
            init::HwAdapterControl,
        ] {
            c.structure().set(routine, 0);
        }
        c.structure().set(init::TaggedQueuing, 0);
    }));
    // STATUS_INVALID_PARAMETER, as the driver returns what it was given.
    let text = incomplete.to_string();
    assert!(text.contains("0xc000000d"), "{text}");
    let violations = incomplete.report.violations;
    let told = violations
        .iter()
        .map(|violation| (violation.rule, violation.detail.as_str(), violation.count));
    // All by one call.
    assert!(told.eq([("initialization-data", "HwInitialize is NULL", 7)]));
}

#[test]
fn the_uncached_extension_is_one_contiguous_block_of_find_adapter() {
    let seen = Notes::new();
    let bench = start(
        Miniport::new()
            .on(HwFindAdapter, move |c| {
                seen.push(c.uncached(3 * 4096));
                seen.push(c.uncached(10));
            })
            .on(HwStartIo, move |c| seen.push(c.uncached(10))),
    );
    let _ = bench.execute();

    let seen = seen.take();
    assert!(seen[0] != 0);
    assert_eq!(seen, [seen[0]; 3]);
    let run = machine().memory().run(seen[0], 3 * 4096);
    assert_eq!(run.map(|(_, bytes)| bytes), Some(3 * 4096));
    assert_eq!(bench.broken(), [("ddi-callback", "HwStartIo")]);
}

#[test]
fn a_unit_control_is_asked_for_its_types_after_the_adapter_control() {
    let seen = Notes::new();
    let note = move |c: &Context| {
        use abi::scsi_supported_control_type_list::MaxControlType;
        assert!(c.is_query() || c.is_stop());
        if c.is_query() {
            seen.push((c.callback, c.structure().get(MaxControlType)));
        }
    };
    let bench = start(
        Miniport::new()
            .on(DriverEntry, |c| {
                c.structure().set(init::HwUnitControl, routine());
            })
            .on(HwAdapterControl, note)
            .on(HwUnitControl, note),
    );

    assert_eq!(seen.take(), [(HwAdapterControl, 26), (HwUnitControl, 15)]);
    assert_eq!(bench.broken(), []);
}
