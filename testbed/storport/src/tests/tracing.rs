//! The calls of the kit's tracing template, and notifications that are not
//! documented.

use std::sync::Mutex;

use super::bench::*;

/// TraceNotification.
const TRACE: usize = 14;

/// StorPortNotification(TraceNotification, extension, kind, arguments).
fn trace(extension: usize, kind: usize, arguments: Structure) {
    let arguments = arguments.address();
    ddi(
        "StorPortNotification",
        [TRACE, extension, kind, arguments, 0, 0],
    );
}

fn set<T: abi::Plain>(to: Structure, offset: usize, value: T) {
    to.offset(offset).set(abi::value(), value);
}

fn get<T: abi::Plain>(from: Structure, offset: usize) -> T {
    from.offset(offset).get(abi::value())
}

/// What the calls of the template answered.
#[derive(Debug, Default, PartialEq, Eq)]
struct Answers {
    initialized: u32,
    has_context: bool,
    registered: u32,
    text: (u16, u16, bool),
    no_text: (u16, u16, usize),
    queried: u32,
    message: u32,
    records: [usize; 2],
}

/// Makes the template's calls in DriverEntry, with a HwDeviceExtension of NULL.
#[derive(Default)]
struct Traces(Mutex<Answers>);

impl Miniport for Traces {
    fn registration(&self, _: Structure) {
        let scratch = Scratch::new(4096);
        let arguments = || {
            let place = scratch.at(0);
            place.fill(64, 0);
            place
        };
        let mut answers = Answers::default();

        let info = scratch.at(256);
        info.fill(64, 0);
        set(info, 0, 56_u32);
        let block = arguments();
        set(block, 0, info.address());
        set(block, 8, 0xC000_00BB_u32);
        trace(0, 1000, block);
        answers.initialized = get(block, 8);
        answers.has_context = get::<usize>(info, 48) != 0;

        let block = arguments();
        set(block, 8, 1_u32);
        set(block, 12, 0xC000_00BB_u32);
        trace(0, 2002, block);
        answers.registered = get(block, 12);

        let text = scratch.at(512);
        text.write(b"s\0t\0d\0\0\0");
        let string = scratch.at(600);
        for (from, is_text) in [(text.address(), true), (0, false)] {
            let block = arguments();
            string.fill(16, 0xEE);
            set(block, 0, string.address());
            set(block, 8, from);
            trace(0, 2004, block);
            let buffer: usize = get(string, 8);
            if is_text {
                answers.text = (get(string, 0), get(string, 2), buffer == from);
            } else {
                answers.no_text = (get(string, 0), get(string, 2), buffer);
            }
        }

        let block = arguments();
        trace(0, 2003, block);
        answers.queried = get(block, 40);
        let block = arguments();
        trace(0, 2000, block);
        answers.message = get(block, 40);
        for (number, kind) in [3000, 4001].into_iter().enumerate() {
            let block = arguments();
            set(block, 16, usize::MAX);
            trace(0, kind, block);
            answers.records[number] = get(block, 16);
        }
        // Those without a result, one that is in no kit, and cleaning up.
        for kind in [2001, 2005, 3001, 4000, 4002, 9999, 1001] {
            trace(0, kind, arguments());
        }
        *self.0.lock().unwrap() = answers;
    }
}

#[test]
fn the_calls_of_the_tracing_template_are_answered_in_driver_entry() {
    let bench = start(Traces::default());
    let _ = bench.execute();

    assert_eq!(
        *bench.miniport.0.lock().unwrap(),
        Answers {
            initialized: 0,
            has_context: true,
            registered: 0,
            text: (6, 8, true),
            no_text: (0, 0, 0),
            queried: 0xC000_0225,
            message: 0xC000_0008,
            records: [0, 0],
        }
    );
    assert_eq!(bench.broken(), []);
}

/// Sends each of these notification types, and calls an unknown function.
struct Sends(&'static [u32]);

impl Miniport for Sends {
    fn passive_initialize(&self, ext: Extension) -> bool {
        for kind in self.0 {
            ext.notify(*kind, [0; 4]);
        }
        true
    }
}

#[test]
fn types_that_storport_does_not_document_are_violations() {
    for kind in [1, 2, 4, 5, 15, 16, 0xFFF, 0x1008] {
        let bench = start(Sends(Box::leak(Box::new([kind]))));
        let broken = bench.broken();
        assert_eq!(broken, [("notification-type", "HwPassiveInitialize")]);
    }
}

#[test]
fn types_of_inline_functions_that_are_not_modelled_are_counted_and_no_violation() {
    let bench = start(Sends(&[0x100B, 0x100E, 0x1010, 0x1010]));

    assert_eq!(bench.broken(), []);
    let counted: Vec<_> = bench.adapter.report().not_implemented.into_iter().collect();
    assert_eq!(
        counted,
        [
            ("StorPortNotification of type 0x1010".to_owned(), 2),
            ("StorPortNotification(SetTargetProcessorDpc)".to_owned(), 1),
            ("StorPortTerminateSystemThread".to_owned(), 1),
        ]
    );
}

/// Calls StorPortExtendedFunction with a code that no known kit has.
#[derive(Default)]
struct Newer(Mutex<u32>);

impl Miniport for Newer {
    fn passive_initialize(&self, ext: Extension) -> bool {
        *self.0.lock().unwrap() = ext.extended(10_000, [0; 4]);
        true
    }
}

#[test]
fn an_extended_function_of_a_newer_kit_is_not_implemented_and_no_violation() {
    let bench = start(Newer::default());

    assert_eq!(*bench.miniport.0.lock().unwrap(), 0xC100_0002);
    assert_eq!(bench.broken(), []);
    let counted: Vec<_> = bench.adapter.report().not_implemented.into_keys().collect();
    assert_eq!(counted, ["StorPortExtendedFunction with code 10000"]);
}
