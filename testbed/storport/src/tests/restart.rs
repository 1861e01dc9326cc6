//! An adapter's sleep, and the requests that are no commands.

use std::sync::{Mutex, atomic::Ordering};

use super::{
    super::{
        abi::{
            scsi_pnp_request_block as scsi_pnp, scsi_power_request_block as scsi_power, spin_lock,
            srbex_data_pnp as pnp, srbex_data_power as power, stor_addr_btl8 as btl8,
            storage_request_block as storage,
        },
        adapter::{ControlCalls, RestartError, Resume, SrbShape},
        control_request::{ControlRequest, PnpAction, PowerAction, PowerState, Recipient},
    },
    bench::*,
};
use testbed_machine::cpu::{current_irql, irql};

/// A callback, what it is about (a control type, or an SRB's function), its
/// IRQL, and whether Storport holds the interrupt lock.
type Entry = (Callback, u32, u8, bool);

/// Writes down what it is called for.
#[derive(Default)]
struct Diary {
    entries: Mutex<Vec<Entry>>,
    /// Does not support ScsiRestartAdapter.
    no_restart: bool,
}

/// The function of an SRB of either shape.
fn function(srb: usize) -> u32 {
    match structure(srb).get(scsi::Function) {
        0x28 => structure(srb).get(storage::SrbFunction),
        function => function.into(),
    }
}

impl Diary {
    fn note(&self, ext: Extension, about: u32) {
        self.entries.lock().unwrap().push((
            callbacks::current(),
            about,
            current_irql(),
            ext.holds(LockId::Interrupt),
        ));
    }

    fn take(&self) -> Vec<Entry> {
        std::mem::take(&mut *self.entries.lock().unwrap())
    }
}

impl Miniport for Diary {
    fn find_adapter(&self, ext: Extension, _: Structure) -> u32 {
        self.note(ext, 0);
        config::SP_RETURN_FOUND
    }

    fn initialize(&self, ext: Extension) -> bool {
        self.note(ext, 0);
        ext.enable_passive_initialization()
    }

    fn passive_initialize(&self, ext: Extension) -> bool {
        self.note(ext, 0);
        true
    }

    fn start_io(&self, ext: Extension, srb: usize) -> bool {
        self.note(ext, function(srb));
        ext.complete(srb, SUCCESS);
        true
    }

    fn adapter_control(&self, ext: Extension, kind: u32, parameters: Structure) -> u32 {
        self.note(ext, kind);
        if kind == control::ScsiQuerySupportedControlTypes {
            let list = parameters.offset(abi::SUPPORTED_TYPE_LIST);
            list.offset(control::ScsiStopAdapter as usize)
                .set(abi::value(), 1u8);
            list.offset(control::ScsiRestartAdapter as usize)
                .set(abi::value(), u8::from(!self.no_restart));
        }
        control::ScsiAdapterControlSuccess
    }
}

const FLUSH: u32 = srb::SRB_FUNCTION_FLUSH;
const POWER: u32 = srb::SRB_FUNCTION_POWER;
const STOP: u32 = control::ScsiStopAdapter;
const RESTART: u32 = control::ScsiRestartAdapter;

fn started_io(about: u32) -> Entry {
    (Callback::HwStartIo, about, irql::DISPATCH, false)
}

fn settings(control_calls: ControlCalls) -> AdapterSettings {
    AdapterSettings {
        control_calls,
        ..quick()
    }
}

/// A miniport that is known to have one unit.
fn with_unit<M: Miniport + 'static>(miniport: M, settings: AdapterSettings) -> Bench<M> {
    let bench = start_with(miniport, FakeFunction::new(2), settings);
    assert_eq!(bench.execute().srb_status, SUCCESS);
    bench
}

#[test]
fn a_sleep_flushes_powers_down_stops_restarts_and_powers_up() {
    let bench = with_unit(Diary::default(), settings(ControlCalls::Strict));
    bench.miniport.take();

    bench.adapter.restart().unwrap();

    assert_eq!(
        bench.miniport.take(),
        [
            started_io(FLUSH),
            started_io(POWER),
            started_io(POWER),
            (Callback::HwAdapterControl, STOP, irql::DEVICE, false),
            (Callback::HwAdapterControl, RESTART, irql::DEVICE, false),
            started_io(POWER),
            started_io(POWER),
        ]
    );
    assert_eq!(bench.execute().srb_status, SUCCESS);
    assert_eq!(bench.broken(), []);
}

#[test]
fn a_sleep_takes_the_functions_power_and_restores_its_messages() {
    let bench = with_unit(Diary::default(), quick());

    bench.adapter.restart().unwrap();

    assert_eq!(bench.function.power_cycles.load(Ordering::SeqCst), 1);
    assert!(bench.function.is_msix_on());
    // Vector control and data of message 1.
    assert_eq!(bench.function.table_word(1, 3), 0);
    assert_eq!(bench.function.table_word(1, 2), 0x51);
    bench.function.message(0);
    bench.wait_until("the message arrives", |bench| {
        bench.adapter.report().interrupts == 1
    });
}

#[test]
fn stop_and_restart_run_under_the_interrupt_lock_where_their_page_holds() {
    let bench = with_unit(Diary::default(), settings(ControlCalls::UnderInterruptLock));
    bench.miniport.take();

    bench.adapter.restart().unwrap();

    let entries = bench.miniport.take();
    for kind in [STOP, RESTART] {
        assert!(entries.contains(&(Callback::HwAdapterControl, kind, irql::DEVICE, true)));
    }
    assert_eq!(bench.broken(), []);
}

#[test]
fn without_restart_the_adapter_is_found_at_dispatch_and_initialized_again() {
    let bench = with_unit(
        Diary {
            no_restart: true,
            ..Diary::default()
        },
        quick(),
    );
    bench.miniport.take();

    bench.adapter.restart().unwrap();

    assert_eq!(
        bench.miniport.take()[3..7],
        [
            (Callback::HwAdapterControl, STOP, irql::DEVICE, false),
            (Callback::HwFindAdapter, 0, irql::DISPATCH, false),
            (Callback::HwInitialize, 0, irql::DEVICE, true),
            (Callback::HwPassiveInitialize, 0, irql::PASSIVE, false),
        ]
    );
    assert_eq!(bench.execute().srb_status, SUCCESS);
    // That it does not support what it must was seen when it started.
    assert_eq!(bench.broken(), [("adapter-control", "HwAdapterControl")]);
}

#[test]
fn an_adapter_that_is_found_another_one_after_its_sleep_is_a_violation() {
    #[derive(Default)]
    struct Shrinks(Mutex<u32>);
    impl Miniport for Shrinks {
        fn find_adapter(&self, _: Extension, info: Structure) -> u32 {
            let mut times = self.0.lock().unwrap();
            *times += 1;
            info.set(self::info::MaximumTransferLength, 0x1_0000 / *times);
            config::SP_RETURN_FOUND
        }
    }
    let bench = with_unit(
        Shrinks::default(),
        AdapterSettings {
            resume: Resume::FindAdapter,
            ..quick()
        },
    );

    bench.adapter.restart().unwrap();

    assert_eq!(bench.broken(), [("find-adapter", "HwFindAdapter")]);
}

/// Takes the StartIo lock and allocates in ScsiRestartAdapter.
struct Careless;

impl Miniport for Careless {
    fn adapter_control(&self, ext: Extension, kind: u32, parameters: Structure) -> u32 {
        if kind == RESTART {
            let handle = Scratch::new(stor_lock_handle::SIZE);
            ext.acquire(spin_lock::StartIoLock, 0, handle.address());
            ext.release(handle.address());
            let (block, status) =
                with_result::<usize>(|to| ext.extended(0, [16, 0, to, 0]) as usize);
            if status == 0 {
                ext.extended(1, [block, 0, 0, 0]);
            }
            return control::ScsiAdapterControlSuccess;
        }
        Diary::default().adapter_control(ext, kind, parameters)
    }
}

#[test]
fn nothing_may_be_taken_or_allocated_in_restart() {
    let bench = with_unit(Careless, settings(ControlCalls::Strict));

    bench.adapter.restart().unwrap();

    let broken = bench.broken();
    assert!(!broken.is_empty());
    for rule in broken {
        assert_eq!(rule, ("stop-at-dirql", "HwAdapterControl"));
    }
}

#[test]
fn where_the_other_page_holds_restart_may_take_locks_and_memory() {
    let bench = with_unit(Careless, settings(ControlCalls::Passive));

    bench.adapter.restart().unwrap();

    assert_eq!(bench.broken(), []);
}

#[test]
fn a_restart_that_fails_is_an_error() {
    struct Fails;
    impl Miniport for Fails {
        fn adapter_control(&self, ext: Extension, kind: u32, parameters: Structure) -> u32 {
            match kind {
                RESTART => 1,
                _ => Diary::default().adapter_control(ext, kind, parameters),
            }
        }
    }
    let bench = with_unit(Fails, quick());

    let refused = bench.adapter.restart();

    assert!(matches!(
        refused,
        Err(RestartError::Refused("ScsiRestartAdapter", 1))
    ));
}

#[test]
fn a_disk_that_can_not_flush_its_cache_keeps_its_power() {
    struct Dirty;
    impl Miniport for Dirty {
        fn find_adapter(&self, _: Extension, info: Structure) -> u32 {
            info.set(self::info::CachesData, 1);
            config::SP_RETURN_FOUND
        }

        fn start_io(&self, ext: Extension, srb: usize) -> bool {
            let status = if function(srb) == FLUSH {
                ERROR
            } else {
                SUCCESS
            };
            ext.complete(srb, status);
            true
        }
    }
    let bench = with_unit(Dirty, quick());

    let refused = bench.adapter.restart();

    assert!(matches!(refused, Err(RestartError::Cache(ERROR))));
    assert_eq!(bench.function.power_cycles.load(Ordering::SeqCst), 0);
    assert_eq!(bench.broken(), [("srb-control", "HwStartIo")]);
}

/// What a miniport reads of a request that is no command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    function: u32,
    target: u8,
    flags: u32,
    state_or_action: u32,
    power_action: u32,
}

/// Reads them, and sends each back once as BUSY.
#[derive(Default)]
struct Reads(Mutex<Vec<Seen>>);

impl Miniport for Reads {
    fn start_io(&self, ext: Extension, srb: usize) -> bool {
        let mut seen = self.0.lock().unwrap();
        let now = read(srb);
        let again = seen.last() == Some(&now);
        if !again {
            seen.push(now);
        }
        drop(seen);
        ext.complete(srb, if again { SUCCESS } else { 0x05 });
        true
    }
}

fn read(srb: usize) -> Seen {
    let base = structure(srb);
    let function = function(srb);
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
        return Seen {
            function,
            target: address.get(btl8::Target),
            flags,
            state_or_action,
            power_action,
        };
    }
    let (flags, state_or_action, power_action) = match function {
        POWER => (
            base.get(scsi_power::SrbPowerFlags).into(),
            base.get(scsi_power::DevicePowerState),
            base.get(scsi_power::PowerAction),
        ),
        0x25 => (
            base.get(scsi_pnp::SrbPnPFlags),
            base.get(scsi_pnp::PnPAction),
            0,
        ),
        _ => (0, 0, 0),
    };
    Seen {
        function,
        target: base.get(scsi::TargetId),
        flags,
        state_or_action,
        power_action,
    }
}

#[test]
fn requests_that_are_no_commands_have_their_functions_fields_in_both_shapes() {
    let unit = Address {
        target: 1,
        ..Address::default()
    };
    for srb in [SrbShape::Scsi, SrbShape::Storage] {
        let bench = start_with(
            Reads::default(),
            FakeFunction::new(2),
            AdapterSettings { srb, ..quick() },
        );

        for request in [
            ControlRequest::Flush(unit),
            ControlRequest::Shutdown(unit),
            ControlRequest::Power(Recipient::Unit(unit), PowerState::D3, PowerAction::Sleep),
            ControlRequest::Power(Recipient::Adapter, PowerState::D0, PowerAction::None),
            ControlRequest::Pnp(Recipient::Unit(unit), PnpAction::Stop),
            ControlRequest::Pnp(Recipient::Adapter, PnpAction::Remove),
        ] {
            assert_eq!(bench.adapter.control(request), SUCCESS);
        }

        let seen = |function, target, flags, state_or_action, power_action| Seen {
            function,
            target,
            flags,
            state_or_action,
            power_action,
        };
        assert_eq!(
            *bench.miniport.0.lock().unwrap(),
            [
                seen(0x08, 1, 0, 0, 0),
                seen(0x07, 1, 0, 0, 0),
                seen(0x24, 1, 0, 4, 2),
                seen(0x24, 0, 1, 1, 0),
                seen(0x25, 1, 0, 4, 0),
                seen(0x25, 0, 1, 2, 0),
            ],
            "{srb:?}"
        );
        assert_eq!(bench.broken(), []);
    }
}
