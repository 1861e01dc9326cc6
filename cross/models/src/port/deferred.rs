//! Deferred calls to the miniport: DPCs, work items and state changes.

use wdk_sys::{HW_DPC_ROUTINE, PVOID, STOR_DPC};

use super::queued_lock::Word;

/// The types that the kernel writes into DPC objects (`wdm.h`, DpcObject and ThreadedDpcObject).
pub(super) const DPC_OBJECT: i16 = 19;
pub(super) const THREADED_DPC_OBJECT: i16 = 24;

/// Initialises a DPC object.
///
/// # Safety
/// `dpc` is memory for a DPC object, and nothing else uses it.
pub(super) unsafe fn initialise(dpc: *mut STOR_DPC, kind: i16, routine: PVOID) {
    let mut object = STOR_DPC::default();
    object.Dpc.Type = kind;
    object.Dpc.DeferredRoutine = routine;
    // SAFETY: The caller's promise.
    unsafe { dpc.write(object) };
}

/// The lock in a DPC object, which must be initialised. The miniport must order this access after
/// the initialisation, which another processor may have done: the functions here do not.
///
/// # Safety
/// `dpc` is the memory of a DPC object.
pub(super) unsafe fn initialised<'d>(dpc: *mut STOR_DPC) -> &'d Word {
    // SAFETY: The caller's promise.
    let kind = unsafe { (*dpc).Dpc.Type };
    assert!(
        matches!(kind, DPC_OBJECT | THREADED_DPC_OBJECT),
        "Storport: a DPC object is used before its initialisation"
    );
    // SAFETY: The caller's promise. This only takes an address.
    let word = unsafe { &raw mut (*dpc).Lock };
    // SAFETY: All accesses to the word are atomic.
    unsafe { Word::from_ptr(word.cast()) }
}

/// A queued DPC.
pub(super) struct QueuedDpc {
    pub(super) dpc: *mut STOR_DPC,
    pub(super) arguments: [PVOID; 2],
}

// SAFETY: Windows may run a DPC on any processor, so the pointers are valid on every thread.
unsafe impl Send for QueuedDpc {}

impl QueuedDpc {
    pub(super) fn run(self, extension: PVOID) {
        // SAFETY: `StorPortIssueDpc` has checked the object.
        let routine = unsafe { (*self.dpc).Dpc.DeferredRoutine };
        // SAFETY: `StorPortInitializeDpc` stored a function of this type.
        let routine = unsafe { std::mem::transmute::<PVOID, HW_DPC_ROUTINE>(routine) };
        let routine = routine.expect("a DPC's routine");
        let [first, second] = self.arguments;
        // SAFETY: The arguments are those that `storport.h` requires.
        unsafe { routine(self.dpc, extension, first, second) };
    }
}

/// A queued call of the miniport, which gets the device extension.
pub(super) struct Deferred(pub(super) Box<dyn FnOnce(PVOID)>);

// SAFETY: As above.
unsafe impl Send for Deferred {}

/// HwRegistryNotification.
pub(super) type RegistryRoutine = Option<unsafe extern "C" fn(PVOID)>;
