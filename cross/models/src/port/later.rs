//! What a miniport has called later: DPCs, work items, state changes.

use wdk_sys::{HW_DPC_ROUTINE, HW_STATE_CHANGE, HW_WORKITEM, PVOID, STOR_ADDR_BTL8, STOR_DPC};

use super::queued_lock::Word;

/// What the kernel writes into a DPC object's type (`wdm.h`, DpcObject and
/// ThreadedDpcObject).
pub(super) const DPC_OBJECT: i16 = 19;
pub(super) const THREADED_DPC_OBJECT: i16 = 24;

/// Makes a DPC object.
///
/// # Safety
/// `dpc` is memory for one that nobody uses.
pub(super) unsafe fn initialise(dpc: *mut STOR_DPC, kind: i16, routine: PVOID) {
    let mut object = STOR_DPC::default();
    object.Dpc.Type = kind;
    object.Dpc.DeferredRoutine = routine;
    // SAFETY: the caller's promise.
    unsafe { dpc.write(object) };
}

/// The lock in a DPC object, which must be initialised: the processor that
/// did it and this one are not known to each other, so the miniport must have
/// ordered its memory.
///
/// # Safety
/// `dpc` is a DPC object's memory.
pub(super) unsafe fn initialised<'d>(dpc: *mut STOR_DPC) -> &'d Word {
    // SAFETY: the caller's promise.
    let kind = unsafe { (*dpc).Dpc.Type };
    assert!(
        matches!(kind, DPC_OBJECT | THREADED_DPC_OBJECT),
        "Storport: a DPC before its initialisation"
    );
    // SAFETY: the caller's promise; this takes an address.
    let word = unsafe { &raw mut (*dpc).Lock };
    // SAFETY: the word is used in no other way.
    unsafe { Word::from_ptr(word.cast()) }
}

/// A DPC that waits to be run.
pub(super) struct QueuedDpc {
    pub(super) dpc: *mut STOR_DPC,
    pub(super) arguments: [PVOID; 2],
}

// SAFETY: the kernel takes these from one processor to another.
unsafe impl Send for QueuedDpc {}

impl QueuedDpc {
    pub(super) fn run(self, extension: PVOID) {
        // SAFETY: StorPortIssueDpc checked the object.
        let routine = unsafe { (*self.dpc).Dpc.DeferredRoutine };
        // SAFETY: StorPortInitializeDpc put a function of this type there.
        let routine = unsafe { std::mem::transmute::<PVOID, HW_DPC_ROUTINE>(routine) };
        let routine = routine.expect("a DPC's routine");
        let [first, second] = self.arguments;
        // SAFETY: called as the header says.
        unsafe { routine(self.dpc, extension, first, second) };
    }
}

/// A work item that waits to be run.
pub(super) struct WorkItem {
    pub(super) routine: HW_WORKITEM,
    pub(super) argument: PVOID,
    pub(super) worker: PVOID,
}

// SAFETY: as above.
unsafe impl Send for WorkItem {}

impl WorkItem {
    pub(super) fn run(self, extension: PVOID) {
        let routine = self.routine.expect("a work item's routine");
        // SAFETY: called as the header says.
        unsafe { routine(extension, self.argument, self.worker) };
    }
}

/// HwRegistryNotification.
pub(super) type RegistryRoutine = Option<unsafe extern "C" fn(PVOID)>;

/// A state change that was reported.
pub(super) struct StateChange {
    pub(super) address: *mut STOR_ADDR_BTL8,
    pub(super) routine: HW_STATE_CHANGE,
    pub(super) context: PVOID,
}

// SAFETY: as above.
unsafe impl Send for StateChange {}

impl StateChange {
    /// Looks at the address, which stays the miniport's, and tells it.
    pub(super) fn run(self, extension: PVOID) {
        // SAFETY: the miniport keeps it until its callback.
        let address = unsafe { self.address.read() };
        assert_eq!(address.Type, wdk_sys::STOR_ADDRESS_TYPE_BTL8 as u16);
        let routine = self.routine.expect("a state change's routine");
        let kind = address.Type.cast_signed();
        // SAFETY: called as the header says.
        unsafe { routine(extension, self.context, kind, self.address.cast(), 0) };
    }
}
