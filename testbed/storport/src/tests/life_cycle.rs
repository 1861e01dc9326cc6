//! The order of a miniport's life, and what each callback finds.

use std::sync::{Mutex, atomic::Ordering};

use super::bench::*;
use crate::adapter::StrayMessages;
use testbed_machine::cpu::{current_irql, irql};

/// Writes down callbacks with their IRQL and the locks that Storport holds.
#[derive(Default)]
struct Diary(Mutex<Vec<(Callback, u8, bool, bool)>>);

impl Diary {
    fn note(&self, ext: Extension) {
        self.0.lock().unwrap().push((
            callbacks::current(),
            current_irql(),
            ext.holds(LockId::StartIo),
            ext.holds(LockId::Interrupt),
        ));
    }

    fn entries(&self) -> Vec<(Callback, u8, bool, bool)> {
        self.0.lock().unwrap().clone()
    }
}

#[derive(Default)]
struct Honest {
    diary: Diary,
    half_duplex: bool,
}

impl Miniport for Honest {
    fn find_adapter(&self, ext: Extension, info: Structure) -> u32 {
        if self.half_duplex {
            info.set(self::info::SynchronizationModel, 0);
        }
        self.diary.note(ext);
        config::SP_RETURN_FOUND
    }

    fn initialize(&self, ext: Extension) -> bool {
        self.diary.note(ext);
        ext.enable_passive_initialization()
    }

    fn passive_initialize(&self, ext: Extension) -> bool {
        self.diary.note(ext);
        true
    }

    fn build_io(&self, ext: Extension, _srb: usize) -> bool {
        self.diary.note(ext);
        true
    }

    fn start_io(&self, ext: Extension, srb: usize) -> bool {
        self.diary.note(ext);
        ext.complete(srb, SUCCESS);
        true
    }

    fn adapter_control(&self, ext: Extension, kind: u32, parameters: Structure) -> u32 {
        self.diary.note(ext);
        NOTHING.adapter_control(ext, kind, parameters)
    }
}

/// Does everything as a miniport's defaults do.
struct Nothing;
const NOTHING: Nothing = Nothing;
impl Miniport for Nothing {}

#[test]
fn callbacks_come_in_order_each_at_its_irql_with_its_locks() {
    let bench = start(Honest::default());

    let completion = bench.execute();
    bench.adapter.stop().unwrap();

    assert_eq!(completion.srb_status, SUCCESS);
    assert_eq!(
        bench.miniport.diary.entries(),
        [
            (Callback::HwFindAdapter, irql::PASSIVE, false, false),
            (Callback::HwInitialize, irql::DEVICE, false, true),
            (Callback::HwPassiveInitialize, irql::PASSIVE, false, false),
            (Callback::HwAdapterControl, irql::PASSIVE, false, false),
            (Callback::HwBuildIo, irql::DISPATCH, false, false),
            (Callback::HwStartIo, irql::DISPATCH, true, false),
            (Callback::HwAdapterControl, irql::DEVICE, false, false),
        ]
    );
    assert_eq!(bench.broken(), []);
    assert_eq!(bench.function.stops.load(Ordering::SeqCst), 1);
}

#[test]
fn half_duplex_start_io_runs_at_dirql_with_both_locks() {
    let bench = start(Honest {
        half_duplex: true,
        ..Honest::default()
    });

    let _ = bench.execute();

    let entries = bench.miniport.diary.entries();
    assert!(entries.contains(&(Callback::HwStartIo, irql::DEVICE, true, true)));
    assert_eq!(bench.broken(), [("half-duplex", "HwFindAdapter")]);
}

#[test]
fn a_second_stop_is_an_error() {
    let bench = start(Nothing);

    bench.adapter.stop().unwrap();

    assert!(bench.adapter.stop().is_err());
}

#[test]
fn messages_are_enabled_before_find_adapter_and_unmasked_after_it() {
    struct Looks(Mutex<Vec<u32>>);
    impl Miniport for Looks {
        fn find_adapter(&self, ext: Extension, info: Structure) -> u32 {
            // By way of configuration space, as drivers do: message control.
            let data = Scratch::new(256);
            let arguments = [ext.0, 4, 0, 0, data.address(), 256];
            let read = ddi("StorPortGetBusData", arguments);
            let mut seen = self.0.lock().unwrap();
            seen.push(read as u32);
            seen.push(u32::from(data.at(0x43).get(abi::value::<u8>()) & 0x80));
            seen.push(info.get(self::info::InterruptMode));
            config::SP_RETURN_FOUND
        }
    }

    let bench = start(Looks(Mutex::default()));

    assert_eq!(
        *bench.miniport.0.lock().unwrap(),
        [256, 0x80, config::Latched]
    );
    assert!(bench.function.is_msix_on());
    // Vector control and data of message 1.
    assert_eq!(bench.function.table_word(1, 3), 0);
    assert_eq!(bench.function.table_word(1, 2), 0x51);
    assert_eq!(bench.broken(), []);
}

#[test]
fn without_a_message_routine_the_pin_is_used() {
    struct Pin;
    impl Miniport for Pin {
        fn find_adapter(&self, _: Extension, info: Structure) -> u32 {
            info.set(self::info::HwMSInterruptRoutine, 0);
            config::SP_RETURN_FOUND
        }
    }

    let bench = start(Pin);

    assert!(!bench.function.is_msix_on());
    bench.function.line(true);
    bench.wait_until("HwInterrupt is called", |bench| {
        bench.adapter.report().interrupts > 0
    });
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
    #[derive(Default)]
    struct Notes(Mutex<Vec<u32>>);
    impl Miniport for Notes {
        fn message(&self, _: Extension, id: u32) -> bool {
            self.0.lock().unwrap().push(id);
            true
        }
    }

    let bench = start(Notes::default());
    bench.function.message(2);
    bench.function.message(1);
    bench.wait_until("message 1", |bench| bench.adapter.report().interrupts > 0);
    assert_eq!(*bench.miniport.0.lock().unwrap(), [1]);
    assert_eq!(bench.adapter.report().stray_messages, 1);

    let settings = AdapterSettings {
        stray_messages: StrayMessages::Delivered,
        ..quick()
    };
    let bench = start_with(Notes::default(), FakeFunction::new(2), settings);
    bench.function.message(0xFFFF);
    bench.wait_until("the stray message", |bench| {
        *bench.miniport.0.lock().unwrap() == [0xFFFF]
    });
    assert_eq!(bench.broken(), []);
}

#[test]
fn config_info_tells_the_adapters_resources_and_the_defaults() {
    #[derive(Default)]
    struct Reads(Mutex<Vec<u64>>);
    impl Miniport for Reads {
        fn find_adapter(&self, _: Extension, info: Structure) -> u32 {
            let ranges = structure(info.get(self::info::AccessRanges));
            *self.0.lock().unwrap() = vec![
                u64::from(info.get(self::info::Length)),
                u64::from(info.get(self::info::NumberOfAccessRanges)),
                ranges.get(abi::access_range::RangeStart),
                u64::from(ranges.get(abi::access_range::RangeLength)),
                u64::from(ranges.get(abi::access_range::RangeInMemory)),
                u64::from(info.get(self::info::SrbType)),
                u64::from(info.get(self::info::SrbExtensionSize)),
                u64::from(info.get(self::info::MaxNumberOfIO)),
                u64::from(info.get(self::info::MaxIOsPerLun)),
                u64::from(info.get(self::info::InitialLunQueueDepth)),
            ];
            config::SP_RETURN_FOUND
        }
    }

    let bench = start(Reads::default());

    let seen = bench.miniport.0.lock().unwrap().clone();
    assert_eq!(seen, [224, 2, 0xFE00_0000, 4096, 1, 1, 64, 1000, 255, 20]);
}

#[test]
fn a_find_adapter_that_finds_nothing_stops_the_function() {
    struct Absent;
    impl Miniport for Absent {
        fn find_adapter(&self, _: Extension, _: Structure) -> u32 {
            config::SP_RETURN_NOT_FOUND
        }
    }
    let function = FakeFunction::new(0);

    let refused = try_start(Absent, function.clone(), quick()).map(|_| ());

    let text = refused.unwrap_err().to_string();
    assert_eq!(text, "HwFindAdapter: returned SP_RETURN_NOT_FOUND");
    assert_eq!(function.stops.load(Ordering::SeqCst), 1);
}

#[test]
fn routines_that_are_missing_are_named_and_refused() {
    struct NoReset;
    impl Miniport for NoReset {
        fn registration(&self, data: Structure) {
            data.set(init::HwResetBus, 0);
            data.set(init::TaggedQueuing, 0);
        }
    }

    let refused = try_start(NoReset, FakeFunction::new(0), quick()).map(|_| ());

    // STATUS_INVALID_PARAMETER, as the driver returns what it was given.
    let refused = refused.unwrap_err();
    let text = refused.to_string();
    assert!(text.contains("0xc000000d"), "{text}");
    let told: Vec<_> = refused
        .report
        .violations
        .iter()
        .map(|violation| (violation.rule, violation.detail.as_str(), violation.count))
        .collect();
    // Both by one call.
    assert_eq!(told, [("initialization-data", "HwResetBus is NULL", 2)]);
}

#[test]
fn a_find_adapter_that_returns_any_number_breaks_its_rule() {
    struct Odd;
    impl Miniport for Odd {
        fn find_adapter(&self, _: Extension, _: Structure) -> u32 {
            77
        }
    }

    let refused = try_start(Odd, FakeFunction::new(0), quick()).map(|_| ());

    let refused = refused.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "HwFindAdapter: returned 77, which is no SP_RETURN value"
    );
    assert_eq!(refused.report.violations[0].rule, "find-adapter");
}

#[test]
fn a_structure_of_another_size_is_a_revision_mismatch() {
    struct Odd;
    impl Miniport for Odd {
        fn registration(&self, data: Structure) {
            data.set(init::HwInitializationDataSize, 1000);
        }
    }

    let refused = try_start(Odd, FakeFunction::new(0), quick()).map(|_| ());

    let text = refused.unwrap_err().to_string();
    assert!(text.contains("0xc0000059"), "{text}");
}

#[test]
fn the_uncached_extension_is_one_contiguous_block_of_find_adapter() {
    #[derive(Default)]
    struct Uncached(Mutex<Vec<usize>>);
    impl Miniport for Uncached {
        fn find_adapter(&self, ext: Extension, info: Structure) -> u32 {
            let get = |bytes| {
                let arguments = [ext.0, info.address(), bytes, 0, 0, 0];
                ddi("StorPortGetUncachedExtension", arguments)
            };
            *self.0.lock().unwrap() = vec![get(3 * 4096), get(10)];
            config::SP_RETURN_FOUND
        }

        fn start_io(&self, ext: Extension, srb: usize) -> bool {
            let arguments = [ext.0, 0, 10, 0, 0, 0];
            let again = ddi("StorPortGetUncachedExtension", arguments);
            self.0.lock().unwrap().push(again);
            ext.complete(srb, SUCCESS);
            true
        }
    }

    let bench = start(Uncached::default());
    let _ = bench.execute();

    let seen = bench.miniport.0.lock().unwrap().clone();
    assert!(seen[0] != 0 && seen.iter().all(|address| *address == seen[0]));
    let run = machine().memory().run(seen[0], 3 * 4096);
    assert_eq!(run.map(|(_, bytes)| bytes), Some(3 * 4096));
    assert_eq!(bench.broken(), [("ddi-callback", "HwStartIo")]);
}

#[test]
fn a_unit_control_is_asked_for_its_types_after_the_adapter_control() {
    #[derive(Default)]
    struct Units(Mutex<Vec<(Callback, u32, u32)>>);
    impl Miniport for Units {
        fn registration(&self, data: Structure) {
            data.set(init::HwUnitControl, unit_control());
        }

        fn adapter_control(&self, ext: Extension, kind: u32, parameters: Structure) -> u32 {
            let most = match kind {
                control::ScsiStopAdapter => 0,
                _ => parameters.get(abi::scsi_supported_control_type_list::MaxControlType),
            };
            let note = (callbacks::current(), kind, most);
            self.0.lock().unwrap().push(note);
            NOTHING.adapter_control(ext, kind, parameters)
        }
    }

    let bench = start(Units::default());

    let seen = bench.miniport.0.lock().unwrap().clone();
    assert_eq!(
        seen,
        [
            (Callback::HwAdapterControl, 0, 26),
            (Callback::HwUnitControl, 0, 15)
        ]
    );
    assert_eq!(bench.broken(), []);
}
