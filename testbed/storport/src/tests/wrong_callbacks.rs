//! Tests of functions that are called in a callback that may not call them: their results, and
//! that a prohibited function of the kernel works nevertheless.

use super::bench::*;
use Callback::{HwAdapterControl, HwBuildIo, HwInitialize, HwMSInterruptRoutine, HwStartIo};
use testbed_machine::cpu::{irql, set_irql};

/// The rules that a miniport breaks that does this in that callback.
fn broken_by(callback: Callback, action: Action) -> Vec<&'static str> {
    let bench = start(Miniport::new().on(callback, action));
    let _ = bench.execute();
    bench.function.message(0);
    bench.wait_for_interrupts(1);
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
fn calls_in_a_wrong_callback_return_an_error() {
    // StorPortWaitForSingleObject, StorPortUpdateAdapterMaxIO, StorPortInitializePerfOpts,
    // StorPortAllocatePool.
    let calls: [(Callback, Action); 6] = [
        (HwStartIo, |c| {
            assert_eq!(c.call(100, [c.own(EMPTY)]), 0xC100_0008)
        }),
        (HwBuildIo, |c| assert_eq!(c.call(80, [0]), 0xC100_0007)),
        (HwInitialize, |c| assert_eq!(c.call(14, [0]), 0xC100_0006)),
        (HwMSInterruptRoutine, |c| {
            assert_eq!(c.results(0, [64, 0]), (0, 0xC100_0008))
        }),
        (HwAdapterControl, |c| {
            assert!(!c.is_stop() || !c.enable_passive_initialization());
        }),
        (HwStartIo, |c| assert!(!c.issue_dpc(c.own(EMPTY), 0, 0))),
    ];
    for (callback, call) in calls {
        assert_eq!(broken_by(callback, call).len(), 1);
    }
}

#[test]
fn prohibited_functions_of_the_kernel_are_reported_and_work() {
    let broken = broken_by(HwBuildIo, |_| {
        let old = kernel_function("KfRaiseIrql", [usize::from(irql::DEVICE), 0, 0]);
        assert_eq!(old as u8, irql::DISPATCH);
        assert_eq!(set_irql(irql::DISPATCH), irql::DEVICE);
        let (mut lock, mut handle) = (0_usize, [0_usize; 3]);
        let (lock, handle) = (&raw mut lock as usize, &raw mut handle as usize);
        kernel_function("KeAcquireInStackQueuedSpinLock", [lock, handle, 0]);
        kernel_function("KeReleaseInStackQueuedSpinLock", [handle, 0, 0]);
    });
    assert_eq!(broken, ["ddi-prohibited"]);

    let broken = broken_by(HwStartIo, |_| {
        let tag = 0x7457_7346;
        let address = kernel_function("ExAllocatePoolWithTag", [512, 64, tag]);
        assert_ne!(address, 0);
        kernel_function("ExFreePoolWithTag", [address, tag, 0]);
    });
    assert_eq!(broken, ["ddi-prohibited", "start-io-wait"]);
}
