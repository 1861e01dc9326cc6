//! Tests of sleep and resume, and of requests that are not SCSI commands.

use std::sync::atomic::Ordering;

use super::{
    super::{
        abi::{
            scsi_pnp_request_block as scsi_pnp, scsi_power_request_block as scsi_power,
            srbex_data_pnp as pnp, srbex_data_power as power, stor_addr_btl8 as btl8,
        },
        adapter::{ControlCalls, RestartError, Resume},
        control_request::{ControlRequest, PnpAction, PowerAction, PowerState, Recipient},
    },
    bench::*,
};
use Callback::{HwAdapterControl, HwFindAdapter, HwInitialize, HwPassiveInitialize, HwStartIo};
use testbed_machine::cpu::{current_irql, irql};

/// A callback, what it is about (a control type, or an SRB's function), its IRQL, and whether
/// Storport holds the interrupt lock.
type Entry = (Callback, u32, u8, bool);

const FLUSH: u32 = wdk::SRB_FUNCTION_FLUSH;
const POWER: u32 = wdk::SRB_FUNCTION_POWER;
const STOP: u32 = wdk::ScsiStopAdapter;
const RESTART: u32 = wdk::ScsiRestartAdapter;

/// A miniport that writes down its callbacks.
fn diary() -> (Miniport, &'static Notes<Entry>) {
    let entries = Notes::new();
    let note = move |c: &Context| {
        let about = match c.callback {
            HwStartIo => c.function(),
            HwAdapterControl => c.arguments[1] as u32,
            _ => 0,
        };
        let has_lock = c.holds(LockId::Interrupt);
        entries.push((c.callback, about, current_irql(), has_lock));
    };
    let miniport = Miniport::new()
        .on(HwFindAdapter, note)
        .on(HwInitialize, note)
        .on(HwPassiveInitialize, note)
        .on(HwStartIo, note)
        .on(HwAdapterControl, note);
    (miniport, entries)
}

fn settings(control_calls: ControlCalls) -> AdapterSettings {
    AdapterSettings {
        control_calls,
        ..quick()
    }
}

/// A miniport that is known to have one unit.
fn with_unit(miniport: Miniport, settings: AdapterSettings) -> Bench {
    let bench = start_as(miniport, settings);
    assert_eq!(bench.execute().srb_status, SUCCESS);
    bench
}

#[test]
fn a_sleep_flushes_powers_down_stops_restarts_and_powers_up() {
    let (miniport, entries) = diary();
    let bench = with_unit(miniport, settings(ControlCalls::Strict));
    entries.take();

    bench.adapter.restart().unwrap();

    let started_io = |about| (HwStartIo, about, irql::DISPATCH, false);
    assert_eq!(
        entries.take(),
        [
            started_io(FLUSH),
            started_io(POWER),
            started_io(POWER),
            (HwAdapterControl, STOP, irql::DEVICE, false),
            (HwAdapterControl, RESTART, irql::DEVICE, false),
            started_io(POWER),
            started_io(POWER),
        ]
    );
    assert_eq!(bench.execute().srb_status, SUCCESS);
    assert_eq!(bench.broken(), []);
}

#[test]
fn a_sleep_takes_the_functions_power_and_restores_its_messages() {
    let bench = with_unit(Miniport::new(), quick());

    bench.adapter.restart().unwrap();

    assert_eq!(bench.function.power_cycles.load(Ordering::SeqCst), 1);
    bench.function.check_messages();
    bench.function.message(0);
    bench.wait_for_interrupts(1);
}

#[test]
fn stop_and_restart_run_under_the_interrupt_lock_where_their_page_holds() {
    let (miniport, entries) = diary();
    let bench = with_unit(miniport, settings(ControlCalls::UnderInterruptLock));

    bench.adapter.restart().unwrap();

    let entries = entries.take();
    for kind in [STOP, RESTART] {
        assert!(entries.contains(&(HwAdapterControl, kind, irql::DEVICE, true)));
    }
    assert_eq!(bench.broken(), []);
}

#[test]
fn without_restart_the_adapter_is_found_at_dispatch_and_initialized_again() {
    let (miniport, entries) = diary();
    let no_restart = miniport.on(HwAdapterControl, |c| {
        if c.is_query() {
            c.supports(&[STOP]);
        }
    });
    let bench = with_unit(no_restart, quick());
    entries.take();

    bench.adapter.restart().unwrap();

    assert_eq!(
        entries.take()[3..7],
        [
            (HwAdapterControl, STOP, irql::DEVICE, false),
            (HwFindAdapter, 0, irql::DISPATCH, false),
            (HwInitialize, 0, irql::DEVICE, true),
            (HwPassiveInitialize, 0, irql::PASSIVE, false),
        ]
    );
    assert_eq!(bench.execute().srb_status, SUCCESS);
    // The start has reported that it does not support a required control type.
    assert_eq!(bench.broken(), [("adapter-control", "HwAdapterControl")]);
}

#[test]
fn an_adapter_that_is_found_another_one_after_its_sleep_is_a_violation() {
    let shrinks = Miniport::new().on(HwFindAdapter, |c| {
        let bytes = 0x1_0000 >> c.turn();
        c.structure().set(info::MaximumTransferLength, bytes);
    });
    let settings = AdapterSettings {
        resume: Resume::FindAdapter,
        ..quick()
    };
    let bench = with_unit(shrinks, settings);

    bench.adapter.restart().unwrap();

    assert_eq!(bench.broken(), [("find-adapter", "HwFindAdapter")]);
}

#[test]
fn where_the_other_page_holds_restart_may_take_locks_and_memory() {
    let takes = Miniport::new().on(HwAdapterControl, |c| {
        if c.is_control(RESTART) {
            c.take(&[super::super::abi::wdk::StartIoLock]);
            c.free_pool(c.allocate_pool());
        }
    });
    let bench = with_unit(takes, settings(ControlCalls::Passive));

    bench.adapter.restart().unwrap();

    assert_eq!(bench.broken(), []);
}

#[test]
fn a_restart_that_fails_is_an_error() {
    let fails = Miniport::new().on(HwAdapterControl, |c| {
        if c.is_control(RESTART) {
            c.answer(1);
        }
    });
    let bench = with_unit(fails, quick());

    let refused = bench.adapter.restart();

    assert!(matches!(
        refused,
        Err(RestartError::Refused("ScsiRestartAdapter", 1))
    ));
}

#[test]
fn a_disk_that_can_not_flush_its_cache_keeps_its_power() {
    let dirty = Miniport::new()
        .on(HwFindAdapter, |c| c.structure().set(info::CachesData, 1))
        .on(HwStartIo, |c| {
            if c.function() == FLUSH {
                c.completes(ERROR);
            }
        });
    let bench = with_unit(dirty, quick());

    let refused = bench.adapter.restart();

    assert!(matches!(refused, Err(RestartError::Cache(ERROR))));
    assert_eq!(bench.function.power_cycles.load(Ordering::SeqCst), 0);
    assert_eq!(bench.broken(), [("srb-control", "HwStartIo")]);
}

/// What a miniport reads of a control request: function, target, flags, power state
/// or plug-and-play action, power action.
type Seen = (u32, u8, u32, u32, u32);

fn fields(c: &Context) -> Seen {
    let base = c.structure();
    let function = c.function();
    if base.get(scsi::Function) == 0x28 {
        let address = base.offset(base.get(storage::AddressOffset) as usize);
        let data = base.offset(base.get(storage::SrbExDataOffset) as usize);
        let (flags, state_or_action, power_action) = match data.get(power::Type) {
            _ if base.get(storage::NumSrbExData) == 0 => (0, 0, 0),
            97 => (
                data.get(power::SrbPowerFlags).into(),
                data.get(power::DevicePowerState),
                data.get(power::PowerAction),
            ),
            98 => (data.get(pnp::SrbPnPFlags), data.get(pnp::PnPAction), 0),
            other => panic!("extended data of type {other}"),
        };
        let target = address.get(btl8::Target);
        return (function, target, flags, state_or_action, power_action);
    }
    let (flags, state_or_action, power_action) = match function {
        POWER => (
            base.get(scsi_power::SrbPowerFlags).into(),
            base.get(scsi_power::DevicePowerState),
            base.get(scsi_power::PowerAction),
        ),
        wdk::SRB_FUNCTION_PNP => {
            let action = base.get(scsi_pnp::PnPAction);
            (base.get(scsi_pnp::SrbPnPFlags), action, 0)
        }
        _ => (0, 0, 0),
    };
    let target = base.get(scsi::TargetId);
    (function, target, flags, state_or_action, power_action)
}

#[test]
fn control_requests_have_the_fields_of_their_function_in_both_layouts() {
    let unit = Address {
        target: 1,
        ..Address::default()
    };
    for srb in [SrbShape::Scsi, SrbShape::Storage] {
        let seen = Notes::new();
        // Each comes back once as BUSY, and has the same fields again.
        let reads = Miniport::new().on(HwStartIo, move |c| {
            seen.push(fields(c));
            c.completes(if seen.len() % 2 == 1 { BUSY } else { SUCCESS });
        });
        let bench = start_as(reads, AdapterSettings { srb, ..quick() });

        for (request, expected) in [
            (ControlRequest::Flush(unit), (0x08, 1, 0, 0, 0)),
            (ControlRequest::Shutdown(unit), (0x07, 1, 0, 0, 0)),
            (
                ControlRequest::Power(Recipient::Unit(unit), PowerState::D3, PowerAction::Sleep),
                (0x24, 1, 0, 4, 2),
            ),
            (
                ControlRequest::Power(Recipient::Adapter, PowerState::D0, PowerAction::None),
                (0x24, 0, 1, 1, 0),
            ),
            (
                ControlRequest::Pnp(Recipient::Unit(unit), PnpAction::Stop),
                (0x25, 1, 0, 4, 0),
            ),
            (
                ControlRequest::Pnp(Recipient::Adapter, PnpAction::Remove),
                (0x25, 0, 1, 2, 0),
            ),
        ] {
            assert_eq!(bench.adapter.control(request), SUCCESS);
            assert_eq!(seen.take(), [expected; 2], "{srb:?}");
        }
        assert_eq!(bench.broken(), []);
    }
}
