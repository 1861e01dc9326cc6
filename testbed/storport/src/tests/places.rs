//! Functions that are called where they do not belong: outside their callback,
//! at another IRQL, in HwStartIo though they take time, or at all.

use super::bench::*;
use testbed_machine::cpu::{irql, set_irql};

/// What a miniport calls, given the SRB if there is one.
type Call = fn(Extension, usize);

/// Calls something in one of its callbacks.
struct Calls {
    callback: Callback,
    call: Call,
}

impl Calls {
    fn at(&self, ext: Extension, srb: usize) {
        if callbacks::current() == self.callback {
            (self.call)(ext, srb);
        }
    }
}

impl Miniport for Calls {
    fn initialize(&self, ext: Extension) -> bool {
        self.at(ext, 0);
        ext.enable_passive_initialization()
    }

    fn passive_initialize(&self, ext: Extension) -> bool {
        self.at(ext, 0);
        true
    }

    fn build_io(&self, ext: Extension, srb: usize) -> bool {
        self.at(ext, srb);
        true
    }

    fn start_io(&self, ext: Extension, srb: usize) -> bool {
        self.at(ext, srb);
        ext.complete(srb, SUCCESS);
        true
    }

    fn adapter_control(&self, ext: Extension, kind: u32, parameters: Structure) -> u32 {
        if kind == control::ScsiStopAdapter {
            self.at(ext, 0);
        }
        Idle.adapter_control(ext, kind, parameters)
    }
}

struct Idle;

impl Miniport for Idle {}

/// The rules that a miniport broke that calls this in that callback.
fn broken_by(callback: Callback, call: Call) -> Vec<&'static str> {
    let bench = start(Calls { callback, call });
    let _ = bench.execute();
    bench.adapter.stop().unwrap();
    bench.broken().into_iter().map(|(rule, _)| rule).collect()
}

/// A function of the kernel's, as the driver's import is bound to it.
fn kernel_function(name: &str, arguments: [usize; 3]) -> usize {
    type Function = extern "win64" fn(usize, usize, usize) -> usize;
    let address = super::super::resolve("ntoskrnl.exe", name).expect("an export");
    let [a, b, c] = arguments;
    exported::<Function>(address)(a, b, c)
}

#[test]
fn calls_from_a_wrong_place_are_refused_with_a_status() {
    // StorPortWaitForSingleObject, StorPortUpdateAdapterMaxIO, StorPortInitializePerfOpts.
    let calls: [(Callback, Call); 5] = [
        (Callback::HwStartIo, |ext, _| {
            let event = Scratch::new(64);
            assert_eq!(ext.extended(100, [event.address(), 0, 0]), 0xC100_0008);
        }),
        (Callback::HwBuildIo, |ext, _| {
            assert_eq!(ext.extended(80, [0]), 0xC100_0007);
        }),
        (Callback::HwInitialize, |ext, _| {
            assert_eq!(ext.extended(14, [0]), 0xC100_0006);
        }),
        (Callback::HwAdapterControl, |ext, _| {
            assert!(!ext.enable_passive_initialization());
        }),
        (Callback::HwStartIo, |ext, _| {
            let dpc = Scratch::new(128);
            assert!(!ext.issue_dpc(dpc.address(), 0, 0));
        }),
    ];
    for (callback, call) in calls {
        assert_eq!(broken_by(callback, call).len(), 1);
    }
}

#[test]
fn pool_may_be_allocated_in_start_io() {
    let broken = broken_by(Callback::HwStartIo, |ext, _| {
        let (address, _) = with_result::<usize>(|to| ext.extended(0, [64, 0, to, 0]) as usize);
        ext.extended(1, [address, 0, 0, 0]);
    });

    assert_eq!(broken, [] as [&str; 0]);
}

#[test]
fn the_kernels_functions_are_prohibited_and_work_all_the_same() {
    let broken = broken_by(Callback::HwBuildIo, |_, _| {
        let old = kernel_function("KfRaiseIrql", [usize::from(irql::DEVICE), 0, 0]);
        assert_eq!(old as u8, irql::DISPATCH);
        assert_eq!(set_irql(irql::DISPATCH), irql::DEVICE);
    });
    assert_eq!(broken, ["ddi-prohibited"]);

    let broken = broken_by(Callback::HwStartIo, |_, _| {
        let tag = 0x7457_7346;
        let address = kernel_function("ExAllocatePoolWithTag", [512, 64, tag]);
        assert_ne!(address, 0);
        kernel_function("ExFreePoolWithTag", [address, tag, 0]);
    });
    assert_eq!(broken, ["ddi-prohibited", "start-io-wait"]);
}
