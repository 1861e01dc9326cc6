//! Rare behaviour of Storport: each test injects one case and checks what the miniport sees.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use super::bench::*;
use crate::{
    adapter::{
        Escalation, FailingExport, FailingFunction, OptionalCallback, OptionalCallbacks,
        PausedTimeOuts, SrbChange, StartIoCpu,
    },
    control_request::{ControlRequest, PowerState},
    report::CallbackRow,
};
use testbed_machine::{
    cpu::{self, current_irql, irql},
    memory::Placement,
};

fn settings(change: impl FnOnce(&mut AdapterSettings)) -> AdapterSettings {
    let mut settings = quick();
    change(&mut settings);
    settings
}

/// Time-outs after 40 ms.
fn soon(change: impl FnOnce(&mut AdapterSettings)) -> AdapterSettings {
    settings(|settings| {
        settings.tick = Duration::from_millis(5);
        settings.timeout = Some(Duration::from_millis(40));
        change(settings);
    })
}

fn with<M: Miniport + 'static>(miniport: M, settings: AdapterSettings) -> Bench<M> {
    start_with(miniport, FakeFunction::new(2), settings)
}

/// Notes what `look` makes of each SRB.
struct Notes<T: Send>(fn(Structure) -> T, Mutex<Vec<T>>);

impl<T: Send> Miniport for Notes<T> {
    fn build_io(&self, _: Extension, srb: usize) -> bool {
        self.1.lock().unwrap().push((self.0)(structure(srb)));
        true
    }
}

#[test]
fn one_srb_has_the_fields_that_a_test_changes() {
    let bench = start(Notes(
        |srb| {
            (
                srb.get(abi::storage_request_block::AddressOffset),
                srb.get(abi::storage_request_block::SrbFlags) & 0xC0,
            )
        },
        Mutex::default(),
    ));
    let read = || {
        transfer(Data {
            block: buffer(512, Placement::Scattered),
            offset: 0,
            bytes: 512,
            direction: Direction::In,
        })
    };

    let _ = bench.adapter.execute_changed(
        read(),
        vec![
            SrbChange::AddressOffset(7),
            SrbChange::Direction {
                data_in: true,
                data_out: true,
            },
        ],
    );
    let _ = bench.adapter.execute(read());

    let seen = bench.miniport.1.lock().unwrap().clone();
    assert_eq!(seen, [(7, 0xC0), (128, 0x40)]);
}

#[test]
fn a_device_extension_begins_where_the_settings_say() {
    struct Nothing;
    impl Miniport for Nothing {}
    let bench = with(Nothing, settings(|settings| settings.extension_offset = 8));

    assert_eq!(bench.port().extension() % 4096, 8);
    assert_eq!(bench.execute().srb_status, SUCCESS);
}

#[test]
fn a_function_fails_from_the_call_on_that_the_settings_name() {
    /// Asks for its SRB's request information.
    struct Asks(Mutex<Vec<u32>>);
    impl Miniport for Asks {
        fn build_io(&self, ext: Extension, srb: usize) -> bool {
            let info = Scratch::new(64);
            let status = ext.extended(28, [srb, info.address(), 0, 0]);
            self.0.lock().unwrap().push(status);
            true
        }
    }
    let bench = with(
        Asks(Mutex::default()),
        settings(|settings| {
            settings.failing_function = Some(FailingFunction {
                code: 28,
                after: 1,
                status: 0xC100_0003,
            });
        }),
    );

    for _ in 0..3 {
        let _ = bench.execute();
    }

    let seen = bench.miniport.0.lock().unwrap().clone();
    assert_eq!(seen, [0, 0xC100_0003, 0xC100_0003]);
}

#[test]
fn an_export_fails_if_the_settings_say_so() {
    #[derive(Default)]
    struct Asks(Mutex<[usize; 3]>);
    impl Miniport for Asks {
        fn find_adapter(&self, ext: Extension, info: Structure) -> u32 {
            let data = Scratch::new(256);
            let read = [ext.0, 4, 0, 0, data.address(), 256];
            let base = [ext.0, 5, 0, 0xFE00_0000, 4096, 0];
            let memory = [ext.0, info.address(), 4096, 0, 0, 0];
            *self.0.lock().unwrap() = [
                ddi("StorPortGetBusData", read),
                ddi("StorPortGetDeviceBase", base).min(1),
                ddi("StorPortGetUncachedExtension", memory).min(1),
            ];
            config::SP_RETURN_FOUND
        }
    }
    for (export, expected) in [
        (None, [256, 1, 1]),
        (Some(FailingExport::GetBusData), [64, 1, 1]),
        (Some(FailingExport::GetDeviceBase), [256, 0, 1]),
        (Some(FailingExport::GetUncachedExtension), [256, 1, 0]),
    ] {
        let bench = with(
            Asks::default(),
            settings(|settings| settings.failing_export = export),
        );

        assert_eq!(*bench.miniport.0.lock().unwrap(), expected, "{export:?}");
    }
}

#[test]
fn start_io_runs_on_the_next_processor_if_the_settings_say_so() {
    #[derive(Default)]
    struct Places(Mutex<Vec<u32>>);
    impl Miniport for Places {
        fn build_io(&self, _: Extension, _: usize) -> bool {
            self.0.lock().unwrap().push(cpu::current_number());
            true
        }

        fn start_io(&self, ext: Extension, srb: usize) -> bool {
            self.0.lock().unwrap().push(cpu::current_number());
            ext.complete(srb, SUCCESS);
            true
        }
    }
    let bench = with(
        Places::default(),
        settings(|settings| settings.start_io_cpu = StartIoCpu::Next),
    );

    assert_eq!(bench.execute().srb_status, SUCCESS);

    assert_eq!(*bench.miniport.0.lock().unwrap(), [0, 1]);
    assert_eq!(bench.broken(), []);
}

#[test]
fn requests_that_are_held_are_built_and_end_with_a_bus_reset() {
    #[derive(Default)]
    struct Counts {
        built: AtomicU32,
        started: AtomicU32,
        resets: AtomicU32,
    }
    impl Miniport for Counts {
        fn build_io(&self, _: Extension, _: usize) -> bool {
            self.built.fetch_add(1, Ordering::SeqCst);
            true
        }

        fn start_io(&self, ext: Extension, srb: usize) -> bool {
            self.started.fetch_add(1, Ordering::SeqCst);
            ext.complete(srb, SUCCESS);
            true
        }

        fn reset_bus(&self, _: Extension, _: u32) -> bool {
            self.resets.fetch_add(1, Ordering::SeqCst);
            true
        }
    }
    let bench = start(Counts::default());
    bench.adapter.hold_built(1);

    let held = std::thread::scope(|scope| {
        let request = scope.spawn(|| bench.execute());
        bench.wait_until("the request is held", |bench| bench.adapter.held() == 1);
        bench.adapter.reset_bus();
        request.join().unwrap()
    });

    assert_eq!(held.srb_status, BUS_RESET);
    let counts = bench.miniport;
    let seen = [&counts.built, &counts.started, &counts.resets];
    assert_eq!(seen.map(|count| count.load(Ordering::SeqCst)), [1, 0, 1]);
    assert_eq!(bench.execute().srb_status, SUCCESS);
    assert_eq!(bench.broken(), []);
}

/// Keeps commands; answers the resets of units and targets as it is told.
struct Keeps {
    kept: Kept,
    functions: Mutex<Vec<u32>>,
    /// The function whose reset completes what is kept.
    obeys: u32,
    pauses: u32,
    accepts: AtomicBool,
}

impl Keeps {
    fn new(obeys: u32) -> Self {
        Self {
            kept: Kept::default(),
            functions: Mutex::default(),
            obeys,
            pauses: 0,
            accepts: AtomicBool::new(true),
        }
    }
}

const RESET_DEVICE: u32 = 0x13;
const RESET_UNIT: u32 = 0x20;
/// No function: HwResetBus.
const BUS: u32 = 0xFF;

impl Miniport for Keeps {
    fn start_io(&self, ext: Extension, srb: usize) -> bool {
        let function = structure(srb).get(abi::storage_request_block::SrbFunction);
        if function == 0 {
            self.kept.push(srb);
            if self.pauses > 0 {
                let arguments = [ext.0, self.pauses as usize, 0, 0, 0, 0];
                ddi("StorPortPause", arguments);
            }
            return true;
        }
        self.functions.lock().unwrap().push(function);
        if function == self.obeys {
            self.kept.complete_all(ext, BUS_RESET);
            ext.complete(srb, SUCCESS);
        } else {
            ext.complete(srb, 0x06);
        }
        true
    }

    fn reset_bus(&self, ext: Extension, _: u32) -> bool {
        self.functions.lock().unwrap().push(BUS);
        if self.accepts.load(Ordering::SeqCst) {
            self.kept.complete_all(ext, BUS_RESET);
            return true;
        }
        self.accepts.store(true, Ordering::SeqCst);
        false
    }
}

#[test]
fn a_time_out_resets_the_unit_then_the_target_then_the_bus() {
    for (obeys, functions) in [
        (RESET_UNIT, &[RESET_UNIT][..]),
        (RESET_DEVICE, &[RESET_UNIT, RESET_DEVICE]),
        (BUS, &[RESET_UNIT, RESET_DEVICE, BUS]),
    ] {
        let tiers = soon(|settings| settings.escalation = Escalation::Tiers);
        let bench = with(Keeps::new(obeys), tiers);

        assert_eq!(bench.execute().srb_status, BUS_RESET);

        bench.wait_until("the last reset", |bench| {
            bench.miniport.functions.lock().unwrap().len() == functions.len()
        });
        assert_eq!(*bench.miniport.functions.lock().unwrap(), functions);
        assert_eq!(bench.broken(), []);
    }
}

#[test]
fn a_test_can_send_the_resets_of_units_and_targets() {
    let bench = start(Keeps::new(RESET_UNIT));
    let unit = Address::default();

    let statuses = [
        bench.adapter.control(ControlRequest::ResetUnit(unit)),
        bench.adapter.control(ControlRequest::ResetDevice(unit)),
    ];

    assert_eq!(statuses, [SUCCESS, 0x06]);
    assert_eq!(
        *bench.miniport.functions.lock().unwrap(),
        [RESET_UNIT, RESET_DEVICE]
    );
}

#[test]
fn a_bus_reset_that_fails_may_leave_requests_and_comes_again() {
    let bench = with(Keeps::new(BUS), soon(|_| {}));
    bench.miniport.accepts.store(false, Ordering::SeqCst);

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
        let miniport = Keeps {
            pauses: 1,
            ..Keeps::new(BUS)
        };
        let settings = soon(|settings| settings.paused_time_outs = paused_time_outs);
        let bench = with(miniport, settings);
        let begin = Instant::now();

        assert_eq!(bench.execute().srb_status, BUS_RESET);

        let took = begin.elapsed();
        let most = least + Duration::from_millis(500);
        assert!(
            (least..most).contains(&took),
            "{paused_time_outs:?}: {took:?}"
        );
    }
}

#[test]
fn stalls_are_counted_where_they_keep_others_from_the_processor() {
    struct Stalls;
    impl Miniport for Stalls {
        fn passive_initialize(&self, _: Extension) -> bool {
            ddi("StorPortStallExecution", [500, 0, 0, 0, 0, 0]);
            true
        }

        fn build_io(&self, ext: Extension, _: usize) -> bool {
            ddi("StorPortStallExecution", [300, 0, 0, 0, 0, 0]);
            ext.extended(81, [400, 0, 0, 0]);
            true
        }
    }
    let bench = start(Stalls);

    let _ = bench.execute();
    let _ = bench.execute();

    let stalled = |name| {
        let rows: Vec<CallbackRow> = bench.adapter.report().callbacks;
        rows.into_iter()
            .find(|row| row.name == name)
            .map(|row| row.max_stalled)
    };
    assert_eq!(stalled("HwPassiveInitialize"), Some(Duration::ZERO));
    assert_eq!(stalled("HwBuildIo"), Some(Duration::from_micros(700)));
}

#[test]
fn optional_callbacks_come_to_a_miniport_that_has_them() {
    static TRACED: AtomicU32 = AtomicU32::new(0);
    static BESIDE: AtomicBool = AtomicBool::new(false);
    extern "win64" fn tracing(_: usize, _: u8) {
        TRACED.fetch_add(1, Ordering::SeqCst);
    }
    struct Traces;
    impl Miniport for Traces {
        fn registration(&self, data: Structure) {
            data.set(init::HwTracingEnabled, tracing as *const () as usize);
        }

        fn initialize(&self, ext: Extension) -> bool {
            let before = TRACED.load(Ordering::SeqCst);
            let begin = Instant::now();
            while TRACED.load(Ordering::SeqCst) == before && begin.elapsed() < quick().tick * 100 {}
            BESIDE.store(TRACED.load(Ordering::SeqCst) > before, Ordering::SeqCst);
            ext.enable_passive_initialization()
        }
    }
    let bench = with(
        Traces,
        settings(|settings| settings.optional_callbacks = OptionalCallbacks::BesideStart),
    );

    assert!(BESIDE.load(Ordering::SeqCst));
    let call = |callback| bench.adapter.call_optional(callback);
    assert_eq!(call(OptionalCallback::Tracing(true)), Some(0));
    assert_eq!(call(OptionalCallback::SurpriseRemoval), None);
    assert_eq!(call(OptionalCallback::UnitStart(Address::default())), None);
    assert_eq!(bench.broken(), []);
}

#[test]
fn power_start_and_removal_come_with_their_parameters_at_their_levels() {
    type Seen = (Callback, u32, u8, u32);
    #[derive(Default)]
    struct Notes(Mutex<Vec<Seen>>);
    impl Miniport for Notes {
        fn registration(&self, data: Structure) {
            data.set(init::HwUnitControl, unit_control());
        }

        fn adapter_control(&self, _: Extension, kind: u32, parameters: Structure) -> u32 {
            let callback = callbacks::current();
            let supported: &[u32] = match callback {
                Callback::HwUnitControl => &[2, 3, 10],
                _ => &[1, 2, 6, 16],
            };
            let state = match (callback, kind) {
                (_, 0) => {
                    let list = parameters.offset(abi::SUPPORTED_TYPE_LIST);
                    for kind in supported {
                        list.offset(*kind as usize).set(abi::value(), 1u8);
                    }
                    return 0;
                }
                (Callback::HwUnitControl, 3) => {
                    parameters.get(abi::stor_unit_control_power::PowerState)
                }
                (Callback::HwUnitControl, _) => parameters.get(abi::stor_addr_btl8::Target).into(),
                (_, 6) => parameters.get(abi::stor_adapter_control_power::PowerState),
                _ => 0,
            };
            let seen = (callback, kind, current_irql(), state);
            self.0.lock().unwrap().push(seen);
            0
        }
    }
    let bench = start(Notes::default());
    let unit = Address {
        target: 1,
        ..Address::default()
    };

    for call in [
        OptionalCallback::UnitStart(unit),
        OptionalCallback::UnitPower(unit, PowerState::D3),
        OptionalCallback::AdapterPower(PowerState::D3),
        OptionalCallback::UnitSurpriseRemoval(unit),
        OptionalCallback::SurpriseRemoval,
    ] {
        assert_eq!(bench.adapter.call_optional(call), Some(0));
    }

    let (of_unit, of_adapter) = (Callback::HwUnitControl, Callback::HwAdapterControl);
    assert_eq!(
        *bench.miniport.0.lock().unwrap(),
        [
            (of_unit, 2, irql::PASSIVE, 1),
            (of_unit, 3, irql::DISPATCH, 4),
            (of_adapter, 6, irql::DISPATCH, 4),
            (of_unit, 10, irql::PASSIVE, 1),
            (of_adapter, 16, irql::PASSIVE, 0),
        ]
    );
    assert_eq!(bench.broken(), []);
}
