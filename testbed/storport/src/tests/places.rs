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

fn stall(microseconds: usize) {
    ddi("StorPortStallExecution", [microseconds, 0, 0, 0, 0, 0]);
}

/// A function of the kernel's, as the driver's import is bound to it.
fn kernel_function(name: &str, arguments: [usize; 3]) -> usize {
    type Function = extern "win64" fn(usize, usize, usize) -> usize;
    let address = super::super::resolve("ntoskrnl.exe", name).expect("an export");
    let [a, b, c] = arguments;
    exported::<Function>(address)(a, b, c)
}

#[test]
fn nothing_in_start_io_waits_stalls_or_allocates() {
    let wait: Call = |ext, _| {
        let event = Scratch::new(64);
        let status = ext.extended(100, [event.address(), 0, 0, 0]);
        assert_eq!(status, 0xC100_0008);
    };
    // StorPortAllocateContiguousMemorySpecifyCacheNode, below address 1.
    let contiguous: Call = |ext, _| {
        type Export = extern "win64" fn(u32, usize, usize, u64, u64, u64, u32, u32, usize) -> u32;
        let address = super::super::resolve("storport.sys", "StorPortExtendedFunction").unwrap();
        let export = exported::<Export>(address);
        let (_, status) =
            with_result::<usize>(|to| export(24, ext.0, 4096, 0, 1, 0, 1, 0, to) as usize);
        assert_eq!(status, 0xC100_0003);
    };
    let calls: [Call; 4] = [
        |_, _| stall(1),
        |ext, _| {
            ext.extended(81, [1, 0, 0, 0]);
        },
        wait,
        contiguous,
    ];
    for call in calls {
        assert_eq!(broken_by(Callback::HwStartIo, call), ["start-io-wait"]);
    }
    assert_eq!(
        broken_by(Callback::HwBuildIo, |_, _| stall(1)),
        [] as [&str; 0]
    );
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
fn functions_of_other_callbacks_are_violations() {
    let calls: [(Callback, Call); 6] = [
        // StorPortUpdateAdapterMaxIO.
        (Callback::HwBuildIo, |ext, _| {
            assert_eq!(ext.extended(80, [0; 4]), 0xC100_0007);
        }),
        // StorPortGetStartIoPerfParams.
        (Callback::HwBuildIo, |ext, srb| {
            let to = Scratch::new(64);
            ext.extended(15, [srb, to.address(), 0, 0]);
        }),
        // StorPortSetUnitAttributes, for TEST UNIT READY.
        (Callback::HwStartIo, |ext, _| {
            let address = Scratch::new(64);
            address.at(0).set(abi::stor_addr_btl8::Type, 1);
            ext.extended(46, [address.address(), 0, 0, 0]);
        }),
        // StorPortInitializePerfOpts.
        (Callback::HwBuildIo, |ext, _| {
            let data = Scratch::new(64);
            ext.extended(14, [1, data.address(), 0, 0]);
        }),
        // StorPortEnablePassiveInitialization, where a stop can lead to it.
        (Callback::HwAdapterControl, |ext, _| {
            assert!(!ext.enable_passive_initialization());
        }),
        (Callback::HwStartIo, |ext, _| {
            let arguments = [ext.0, 0, 64, 0, 0, 0];
            ddi("StorPortGetUncachedExtension", arguments);
        }),
    ];
    for (index, (callback, call)) in calls.into_iter().enumerate() {
        assert_eq!(broken_by(callback, call), ["ddi-callback"], "{index}");
    }
}

#[test]
fn functions_that_need_dispatch_level_are_violations_below() {
    for call in [
        // StorPortPutScatterGatherList, StorPortQueryDpcWatchdogInformation.
        (|ext: Extension, _| {
            ext.extended(10, [0; 4]);
        }) as Call,
        |ext, _| {
            ext.extended(106, [0; 4]);
        },
    ] {
        let broken = broken_by(Callback::HwPassiveInitialize, call);
        assert_eq!(broken, ["ddi-irql"]);
    }
    let at_dispatch = broken_by(Callback::HwStartIo, |ext, _| {
        ext.extended(10, [0; 4]);
    });
    assert_eq!(at_dispatch, [] as [&str; 0]);
}

#[test]
fn performance_options_need_their_data() {
    let broken = broken_by(Callback::HwInitialize, |ext, _| {
        assert_eq!(ext.extended(14, [0; 4]), 0xC100_0006);
    });

    assert_eq!(broken, ["perf-opts"]);
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
