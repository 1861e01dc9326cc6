//! DPC objects: initialised STOR_DPCs, and the queueing of them.

use std::sync::{
    Mutex, OnceLock,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use super::{
    abi::{Routine, Structure, dpc_buffer, stor_dpc},
    callbacks::Callback,
    lock,
    port::Port,
    spin_locks::SpinLock,
    violations::Rule,
};
use testbed_machine::{
    cpu::{Deferred, irql},
    trap::count,
};

/// The most DPC objects of an adapter, far more than one per message and CPU.
const MOST: usize = 4096;

/// The upper half of `STOR_DPC.Lock` in initialised objects: "FDPC".
const MARK: usize = 0x4644_5043 << 32;

/// The argument of HwDpcRoutine for `Port::call_about`: threaded or ordinary.
pub(super) const THREADED: u32 = 1;
pub(super) const ORDINARY: u32 = 0;

/// An initialised STOR_DPC.
pub(super) struct DpcObject {
    port: &'static Port,
    /// The STOR_DPC.
    address: usize,
    routine: Mutex<Routine>,
    /// [`THREADED`] or [`ORDINARY`].
    kind: AtomicU32,
    queued: AtomicBool,
    /// The CPU in whose queue it was put last.
    last: AtomicU32,
    pub(super) lock: SpinLock,
}

impl Deferred for DpcObject {
    fn run(&self, first: usize, second: usize) {
        // The object can be queued again before its routine runs, and then run on two CPUs at the
        // same time (storport-rules.md X6).
        self.queued.store(false, Ordering::Release);
        if !self.port.is_awake() {
            return;
        }
        let routine = *lock(&self.routine);
        self.port.call_about(
            Callback::HwDpcRoutine,
            self.kind.load(Ordering::Relaxed),
            irql::DISPATCH,
            routine,
            [self.address, self.port.extension(), first, second],
        );
    }
}

pub(super) struct Dpcs {
    objects: Box<[OnceLock<&'static DpcObject>]>,
    count: Mutex<u32>,
}

impl Default for Dpcs {
    fn default() -> Self {
        Self {
            objects: (0..MOST).map(|_| OnceLock::new()).collect(),
            count: Mutex::new(0),
        }
    }
}

impl Dpcs {
    pub(super) fn count(&self) -> u32 {
        *lock(&self.count)
    }

    pub(super) fn get(&self, number: u32) -> Option<&'static DpcObject> {
        self.objects.get(number as usize)?.get().copied()
    }

    /// The number of a STOR_DPC, if it was initialised.
    pub(super) fn number(&self, dpc: Structure) -> Option<u32> {
        if dpc.is_null() {
            return None;
        }
        let lock = dpc.get(stor_dpc::Lock);
        let number = lock as u32;
        (lock & !(u32::MAX as usize) == MARK && self.get(number)?.address == dpc.address())
            .then_some(number)
    }
}

impl Port {
    /// StorPortInitializeDpc and its variants. `kind` is [`THREADED`] or [`ORDINARY`].
    pub(super) fn initialize_dpc(
        &'static self,
        kind: u32,
        dpc: Structure,
        routine: Routine,
        context: usize,
    ) {
        let address = dpc.address();
        if dpc.is_null() || routine.is_none() {
            return self.violation(
                Rule::DdiArgument,
                format_args!(
                    "StorPortInitializeDpc({address:#x}, {:#x})",
                    routine.address()
                ),
            );
        }
        let mut count = lock(&self.dpcs.count);
        let known = (0..*count).find(|number| {
            self.dpcs
                .get(*number)
                .is_some_and(|dpc| dpc.address == address)
        });
        let number = known.unwrap_or(*count);
        let Some(place) = self.dpcs.objects.get(number as usize) else {
            self.stop_machine(
                Rule::Dpc,
                None,
                format_args!("more than {MOST} DPC objects"),
            )
        };
        let object = place.get_or_init(|| {
            Box::leak(Box::new(DpcObject {
                port: self,
                address,
                routine: Mutex::new(routine),
                kind: AtomicU32::new(kind),
                queued: AtomicBool::new(false),
                last: AtomicU32::new(0),
                lock: SpinLock::default(),
            }))
        });
        *lock(&object.routine) = routine;
        object.kind.store(kind, Ordering::Relaxed);
        *count = (*count).max(number + 1);
        drop(count);
        dpc.fill(stor_dpc::SIZE, 0);
        dpc.set(dpc_buffer::DeferredRoutine, routine.address());
        dpc.set(dpc_buffer::DeferredContext, context);
        dpc.set(stor_dpc::Lock, MARK | number as usize);
    }

    fn dpc_object(&self, dpc: Structure) -> Option<&'static DpcObject> {
        let object = self
            .dpcs
            .number(dpc)
            .and_then(|number| self.dpcs.get(number));
        if object.is_none() {
            self.violation(
                Rule::Dpc,
                format_args!("{:#x} is not an initialised STOR_DPC", dpc.address()),
            );
        }
        object
    }

    /// StorPortIssueDpc. Returns FALSE if the DPC is in a queue already.
    pub(super) fn issue_dpc(&self, dpc: Structure, first: usize, second: usize) -> bool {
        let Some(object) = self.dpc_object(dpc) else {
            return false;
        };
        if object.queued.swap(true, Ordering::AcqRel) {
            return false;
        }
        count::wrote(object.address, stor_dpc::SIZE);
        let cpu = self.machine.current_cpu();
        object.last.store(cpu.number(), Ordering::Relaxed);
        cpu.queue_dpc(object, first, second);
        true
    }

    /// StorPortCancelDpc. Returns whether the DPC was in a queue.
    pub(super) fn cancel_dpc(&self, dpc: Structure) -> bool {
        let Some(object) = self.dpc_object(dpc) else {
            return false;
        };
        let last = object.last.load(Ordering::Relaxed) as usize;
        let was_queued = self
            .machine
            .cpus()
            .get(last)
            .is_some_and(|cpu| cpu.cancel_dpc(object));
        if was_queued {
            object.queued.store(false, Ordering::Release);
        }
        was_queued
    }
}
