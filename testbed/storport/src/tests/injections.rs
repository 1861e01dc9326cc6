//! Tests of rare behaviour of Storport. Each injects one case and checks what the miniport gets.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use super::bench::*;
use crate::{
    adapter::{
        Escalation, FailingExport, FailingFunction, OptionalCallback, OptionalCallbacks,
        PausedTimeOuts, SrbChange, StartIoCpu,
    },
    control_request::ControlRequest,
};
use Callback::{
    HwAdapterControl, HwBuildIo, HwFindAdapter, HwInitialize, HwPassiveInitialize, HwResetBus,
    HwStartIo, HwTracingEnabled, HwUnitControl,
};
use testbed_machine::cpu::{self, current_irql, irql};

#[test]
fn one_srb_has_the_fields_that_a_test_changes() {
    let seen = Notes::new();
    let bench = start(Miniport::new().on(HwBuildIo, move |c| {
        let offset = c.structure().get(storage::AddressOffset);
        seen.push((offset, c.structure().get(storage::SrbFlags) & 0xC0));
    }));
    let both = SrbChange::Direction {
        data_in: true,
        data_out: true,
    };
    let read = || read(512, Placement::Scattered);

    let changes = vec![SrbChange::AddressOffset(7), both];
    let _ = bench.adapter.execute_changed(read(), changes);
    let _ = bench.adapter.execute(read());

    assert_eq!(seen.take(), [(7, 0xC0), (128, 0x40)]);
}

#[test]
fn a_device_extension_begins_where_the_settings_say() {
    let settings = AdapterSettings {
        extension_offset: 8,
        ..quick()
    };
    let bench = start_as(Miniport::new(), settings);

    assert_eq!(bench.port().extension() % 4096, 8);
    assert_eq!(bench.execute().srb_status, SUCCESS);
}

#[test]
fn a_function_fails_from_the_call_on_that_the_settings_name() {
    let seen = Notes::new();
    // Asks for its SRB's request information.
    let asks = Miniport::new().on(HwBuildIo, move |c| {
        seen.push(c.call(28, [c.about, c.own(EMPTY)]));
    });
    let failing_function = Some(FailingFunction {
        code: 28,
        after: 1,
        status: 0xC100_0003,
    });
    let bench = start_as(
        asks,
        AdapterSettings {
            failing_function,
            ..quick()
        },
    );

    for _ in 0..3 {
        let _ = bench.execute();
    }

    assert_eq!(seen.take(), [0, 0xC100_0003, 0xC100_0003]);
}

#[test]
fn an_export_fails_if_the_settings_say_so() {
    for (failing_export, expected) in [
        (None, [256, 1, 1]),
        (Some(FailingExport::GetBusData), [64, 1, 1]),
        (Some(FailingExport::GetDeviceBase), [256, 0, 1]),
        (Some(FailingExport::GetUncachedExtension), [256, 1, 0]),
    ] {
        let seen = Notes::new();
        let asks = Miniport::new().on(HwFindAdapter, move |c| {
            seen.push([
                c.ddi("StorPortGetBusData", [4, 0, 0, c.own(EMPTY), 256]),
                c.map(0xFE00_0000, 4096).min(1),
                c.uncached(4096).min(1),
            ]);
        });
        let settings = AdapterSettings {
            failing_export,
            ..quick()
        };
        let _bench = start_as(asks, settings);

        assert_eq!(seen.take(), [expected], "{failing_export:?}");
    }
}

#[test]
fn start_io_runs_on_the_next_processor_if_the_settings_say_so() {
    let places = Notes::new();
    let note = move |_: &Context| places.push(cpu::current_number());
    let settings = AdapterSettings {
        start_io_cpu: StartIoCpu::Next,
        ..quick()
    };
    let miniport = Miniport::new().on(HwBuildIo, note).on(HwStartIo, note);
    let bench = start_as(miniport, settings);

    assert_eq!(bench.execute().srb_status, SUCCESS);

    assert_eq!(places.take(), [0, 1]);
    assert_eq!(bench.broken(), []);
}

#[test]
fn requests_that_are_held_are_built_and_end_with_a_bus_reset() {
    let seen = Notes::new();
    let note = move |c: &Context| seen.push(c.callback);
    let bench = start(
        Miniport::new()
            .on(HwBuildIo, note)
            .on(HwStartIo, note)
            .on(HwResetBus, note),
    );
    bench.adapter.hold_built(1);

    let held = thread::scope(|scope| {
        let request = scope.spawn(|| bench.execute());
        bench.wait_until("the request is held", |bench| bench.adapter.held() == 1);
        bench.adapter.reset_bus();
        request.join().unwrap()
    });

    assert_eq!(held.srb_status, BUS_RESET);
    assert_eq!(seen.take(), [HwBuildIo, HwResetBus]);
    assert_eq!(bench.execute().srb_status, SUCCESS);
    assert_eq!(bench.broken(), []);
}

const RESET_DEVICE: u32 = wdk::SRB_FUNCTION_RESET_DEVICE;
const RESET_UNIT: u32 = wdk::SRB_FUNCTION_RESET_LOGICAL_UNIT;
/// No function: HwResetBus.
const BUS: u32 = 0xFF;

/// Keeps commands. The reset that it obeys completes them; others fail. Also the resets that it
/// gets.
fn keeps(obeys: u32) -> (Miniport, &'static Notes<u32>) {
    let resets = Notes::new();
    let miniport = Miniport::new()
        .on(HwStartIo, move |c| match c.function() {
            0 => {
                c.keeps();
            }
            function => {
                resets.push(function);
                if function == obeys {
                    c.complete_kept(BUS_RESET);
                }
                c.completes(if function == obeys {
                    SUCCESS
                } else {
                    INVALID_REQUEST
                });
            }
        })
        .on(HwResetBus, move |_| resets.push(BUS));
    (miniport, resets)
}

#[test]
fn a_time_out_resets_the_unit_then_the_target_then_the_bus() {
    for (obeys, functions) in [
        (RESET_UNIT, &[RESET_UNIT][..]),
        (RESET_DEVICE, &[RESET_UNIT, RESET_DEVICE]),
        (BUS, &[RESET_UNIT, RESET_DEVICE, BUS]),
    ] {
        let tiers = AdapterSettings {
            escalation: Escalation::Tiers,
            ..soon()
        };
        let (miniport, resets) = keeps(obeys);
        let bench = start_as(miniport, tiers);

        assert_eq!(bench.execute().srb_status, BUS_RESET);

        bench.wait_until("the last reset", |_| resets.len() == functions.len());
        assert_eq!(resets.take(), functions);
        assert_eq!(bench.broken(), []);
    }
}

#[test]
fn a_test_can_send_the_resets_of_units_and_targets() {
    let (miniport, resets) = keeps(RESET_UNIT);
    let bench = start(miniport);
    let unit = Address::default();

    let statuses = [
        bench.adapter.control(ControlRequest::ResetUnit(unit)),
        bench.adapter.control(ControlRequest::ResetDevice(unit)),
    ];

    assert_eq!(statuses, [SUCCESS, INVALID_REQUEST]);
    assert_eq!(resets.take(), [RESET_UNIT, RESET_DEVICE]);
}

#[test]
fn a_bus_reset_that_fails_may_leave_requests_and_comes_again() {
    let (miniport, _) = keeps(BUS);
    let fails_once = miniport.on(HwResetBus, |c| {
        if c.turn() == 0 {
            c.answer(0);
        }
    });
    let bench = start_as(fails_once, soon());

    assert_eq!(bench.execute().srb_status, BUS_RESET);

    let resets = bench.adapter.report().resets;
    let accepted: Vec<_> = resets.iter().map(|reset| reset.accepted).collect();
    assert_eq!(accepted, [false, true]);
    assert_eq!(bench.broken(), []);
}

#[test]
fn time_outs_run_on_or_stand_still_in_a_pause() {
    for (paused_time_outs, least) in [
        (PausedTimeOuts::Run, Duration::ZERO),
        (PausedTimeOuts::Stop, Duration::from_secs(1)),
    ] {
        let pauses = Miniport::new().on(HwStartIo, |c| {
            c.keeps();
            c.ddi("StorPortPause", [1]);
        });
        // Longer than the host may keep the processor from HwStartIo before it pauses.
        let settings = AdapterSettings {
            paused_time_outs,
            timeout: Some(Duration::from_millis(200)),
            ..soon()
        };
        let bench = start_as(pauses, settings);
        let begin = Instant::now();

        assert_eq!(bench.execute().srb_status, BUS_RESET);

        let took = begin.elapsed();
        let most = least + Duration::from_millis(900);
        assert!(
            (least..most).contains(&took),
            "{paused_time_outs:?}: {took:?}"
        );
    }
}

#[test]
fn stalls_are_counted_where_they_keep_others_from_the_processor() {
    let bench = start(
        Miniport::new()
            .on(HwPassiveInitialize, |c| c.stall(500))
            .on(HwBuildIo, |c| {
                c.stall(300);
                c.call(81, [400]);
            }),
    );

    let _ = bench.execute();
    let _ = bench.execute();

    let rows = bench.adapter.report().callbacks;
    let stalled = |name| {
        let row = rows.iter().find(|row| row.name == name);
        row.map(|row| row.max_stalled)
    };
    assert_eq!(stalled("HwPassiveInitialize"), Some(Duration::ZERO));
    assert_eq!(stalled("HwBuildIo"), Some(Duration::from_micros(700)));
}

#[test]
fn optional_callbacks_come_to_a_miniport_that_has_them() {
    let traced: &'static AtomicU32 = Box::leak(Box::default());
    let is_traced_beside = Notes::new();
    let traces = Miniport::new()
        .on(Callback::DriverEntry, |c| {
            c.structure().set(init::HwTracingEnabled, routine());
        })
        .on(HwTracingEnabled, |_| {
            traced.fetch_add(1, Ordering::SeqCst);
        })
        .on(HwInitialize, move |_| {
            let before = traced.load(Ordering::SeqCst);
            let begin = Instant::now();
            let is_traced = || traced.load(Ordering::SeqCst) > before;
            while !is_traced() && begin.elapsed() < Duration::from_secs(1) {}
            is_traced_beside.push(is_traced());
        });
    let settings = AdapterSettings {
        optional_callbacks: OptionalCallbacks::BesideStart,
        ..quick()
    };
    let bench = start_as(traces, settings);

    assert_eq!(is_traced_beside.take(), [true]);
    let call = |callback| bench.adapter.call_optional(callback);
    assert_eq!(call(OptionalCallback::Tracing(true)), Some(0));
    assert_eq!(call(OptionalCallback::SurpriseRemoval), None);
    assert_eq!(call(OptionalCallback::UnitStart(Address::default())), None);
    assert_eq!(bench.broken(), []);
}

#[test]
fn start_and_removal_come_with_their_parameters_at_their_levels() {
    let seen = Notes::new();
    let note = move |c: &Context| {
        let kind = c.arguments[1] as u32;
        match c.callback {
            HwUnitControl if c.is_query() => c.supports(&[2]),
            _ if c.is_query() => c.supports(&[1, 2, 16]),
            HwUnitControl => {
                let parameters = structure(c.arguments[2]);
                let target = parameters.get(abi::stor_addr_btl8::Target);
                seen.push((c.callback, kind, current_irql(), target));
            }
            _ => seen.push((c.callback, kind, current_irql(), 0)),
        }
    };
    let bench = start(
        Miniport::new()
            .on(Callback::DriverEntry, |c| {
                c.structure().set(init::HwUnitControl, routine());
            })
            .on(HwUnitControl, note)
            .on(HwAdapterControl, note),
    );
    let unit = Address {
        target: 1,
        ..Address::default()
    };

    for call in [
        OptionalCallback::UnitStart(unit),
        OptionalCallback::SurpriseRemoval,
    ] {
        assert_eq!(bench.adapter.call_optional(call), Some(0));
    }

    assert_eq!(
        seen.take(),
        [
            (HwUnitControl, 2, irql::PASSIVE, 1),
            (HwAdapterControl, 16, irql::PASSIVE, 0),
        ]
    );
    assert_eq!(bench.broken(), []);
}
