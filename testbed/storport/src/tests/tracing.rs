//! Tests of the calls that the kit's tracing template makes, and of undocumented notifications.

use super::bench::*;
use Callback::HwPassiveInitialize;

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

#[test]
fn the_calls_of_the_tracing_template_are_answered_in_driver_entry() {
    /// Makes a call with these arguments, in DriverEntry with a HwDeviceExtension of NULL.
    /// Returns the argument block.
    fn call(c: &Context, kind: usize, pointers: &[usize]) -> Structure {
        let block = structure(c.own(EMPTY));
        block.fill(64, 0);
        for (index, pointer) in pointers.iter().enumerate() {
            set(block, 8 * index, *pointer);
        }
        trace(0, kind, block);
        block
    }
    let bench = start(Miniport::new().on(Callback::DriverEntry, |c| {
        let info = structure(c.own(NOTE));
        info.fill(64, 0);
        set(info, 0, 56_u32);
        let initialized = call(c, 1000, &[info.address(), 0xC000_00BB]);
        assert_eq!(get::<u32>(initialized, 8), 0);
        assert_ne!(get::<usize>(info, 48), 0);
        let registered = call(c, 2002, &[0, 0xC000_00BB << 32]);
        assert_eq!(get::<u32>(registered, 12), 0);

        let (text, string) = (structure(c.own(NOTE) + 128), structure(c.own(NOTE) + 256));
        text.write(b"s\0t\0d\0\0\0");
        for (from, bytes) in [(text.address(), (6, 8)), (0, (0, 0))] {
            string.fill(16, 0xEE);
            call(c, 2004, &[string.address(), from]);
            let filled: (u16, u16) = (get(string, 0), get(string, 2));
            assert_eq!((filled, get(string, 8)), (bytes, from));
        }

        assert_eq!(get::<u32>(call(c, 2003, &[]), 40), 0xC000_0225);
        assert_eq!(get::<u32>(call(c, 2000, &[]), 40), 0xC000_0008);
        for kind in [3000, 4001] {
            let allocated = call(c, kind, &[0, 0, usize::MAX]);
            assert_eq!(get::<usize>(allocated, 16), 0);
        }
        // The types without a result, one that no kit has, and the cleanup.
        for kind in [2001, 2005, 3001, 4000, 4002, 9999, 1001] {
            call(c, kind, &[]);
        }
    }));
    let _ = bench.execute();

    assert_eq!(bench.broken(), []);
}

/// A miniport that sends these notification types.
fn sends(kinds: &'static [u32]) -> Bench {
    start(Miniport::new().on(HwPassiveInitialize, move |c| {
        for kind in kinds {
            c.notify(*kind, [0; 4]);
        }
    }))
}

#[test]
fn types_that_storport_does_not_document_are_violations() {
    const KINDS: [u32; 8] = [1, 2, 4, 5, 15, 16, 0xFFF, 0x1008];
    for kind in KINDS.chunks(1) {
        let broken = sends(kind).broken();
        assert_eq!(broken, [("notification-type", "HwPassiveInitialize")]);
    }
}

#[test]
fn types_of_inline_functions_that_are_not_modelled_are_counted_and_no_violation() {
    let bench = sends(&[0x100B, 0x100E, 0x1010, 0x1010]);

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
