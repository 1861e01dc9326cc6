//! Tests of each rule: a case that breaks it is reported as that rule and no other. Its correct
//! twin does the same correctly, and is not reported.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use testbed_machine::{
    cpu::{current_number, irql, set_irql},
    testing,
};

use super::{
    super::{
        abi::wdk::{DpcLevelLock, DpcLock, InterruptLock, StartIoLock, ThreadedDpcLock},
        violations::Rule,
    },
    bench::*,
    routines::event_details,
};

/// How a miniport is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Run {
    /// One request, and a message of each number.
    Plain,
    /// One request, with the checks of `--verify`.
    Watched,
    /// A request on each CPU.
    BothCpus,
    /// One request and an interrupt by the pin. There are no messages.
    Pin,
    /// The first request times out, and the bus is reset.
    Reset,
    /// The request, and the requests of a sleep.
    Sleep,
    /// One request in a dump stack.
    Dump,
    /// One request in a dump stack, and a bus reset.
    DumpReset,
}

/// A breach of a rule and its correct twin.
struct Case {
    rule: Rule,
    name: &'static str,
    run: Run,
    /// The breach, and its callback. `None` means all callbacks.
    wrong: (Option<Callback>, Action),
    /// The twin.
    right: (Option<Callback>, Action),
    /// The locks under which the breach is committed.
    under: &'static [u32],
    /// Other rules that the breach must break too: a deadlock also breaks rules of order.
    also: &'static [Rule],
}

/// The cases of rules. Each has a name and then, in brackets, the callback of the breach and of
/// the twin:
///
/// * `[HwBuildIo]: breach => twin`: both in the same callback.
/// * `[HwStartIo => HwBuildIo]: action`: a breach in the first callback, correct in the second.
/// * `[HwBuildIo] under [InterruptLock]: action`: a breach under the lock, correct without it.
/// * `[]: breach => twin`: both are called in all callbacks.
macro_rules! cases {
    (@ [$at:ident] $breach:expr, $twin:expr) => {
        [(Some(Callback::$at), action!($breach)), (Some(Callback::$at), action!($twin))]
    };
    (@ [$at:ident] $action:expr) => { cases!(@ [$at] $action, $action) };
    (@ [$wrong:ident => $right:ident] $action:expr) => {
        [(Some(Callback::$wrong), action!($action)), (Some(Callback::$right), action!($action))]
    };
    (@ [] $breach:expr, $twin:expr) => { [(None, action!($breach)), (None, action!($twin))] };
    (@list) => { &[] };
    (@list $list:tt) => { &$list };
    (@run) => { Run::Plain };
    (@run $run:ident) => { Run::$run };
    ($(
        $rule:ident $name:literal $at:tt $(under $under:tt)? $(on $run:ident)? $(also $also:tt)?:
        $action:expr $(=> $twin:expr)?;
    )*) => {
        vec![$({
            let [wrong, right]: [(Option<Callback>, Action); 2] = cases!(@ $at $action $(, $twin)?);
            Case {
                rule: Rule::$rule,
                name: $name,
                run: cases!(@run $($run)?),
                wrong,
                right,
                under: cases!(@list $($under)?),
                also: cases!(@list $($also)?),
            }
        }),*]
    };
}

/// A function whose result does not matter, as an [`Action`].
macro_rules! action {
    ($action:expr) => {
        |c| discard($action, c)
    };
}

fn discard<T>(action: fn(&Context) -> T, c: &Context) {
    action(c);
}

const NOTHING: Action = |_| {};
const INTERRUPT: Action = |c| c.take(&[InterruptLock]);
const START_IO: Action = |c| c.take(&[StartIoLock]);
const DPC: Action = |c| c.take(&[DpcLock]);
const MESSAGE: Action = |c| c.take_messages(&[0]);
const POOL: Action = |c| c.free_pool(c.allocate_pool());
const CONTIGUOUS: Action = |c| c.free_contiguous(c.allocate_contiguous());
/// StorPortLogSystemEvent.
const LOG: Action = |c| {
    let [details, _memory] = event_details();
    c.call(16, [details.address()]);
};
const STALL: Action = |c| c.stall(1);
/// Waits for an event that is set.
const WAIT: Action = |c| {
    c.call(99, [c.own(EMPTY), 1, 1]);
    c.call(100, [c.own(EMPTY), 0, 0]);
};
const SUPPORTS_BOTH: Action = |c| c.supports(&[wdk::ScsiStopAdapter, wdk::ScsiRestartAdapter]);
const SUCCEEDS: Action = |c| c.completes(SUCCESS);

const GET_BUS_DATA: Action = |c| {
    let buffer = c.own(EMPTY);
    c.ddi("StorPortGetBusData", [4, 0, 0, buffer, 4]);
};
/// StorPortSetBusDataByOffset of the cache line size.
const SET_BUS_DATA: Action = |c| {
    let arguments = [c.ext, 4, 0, 0, c.own(EMPTY), 0x0c, 1];
    ddi("StorPortSetBusDataByOffset", arguments);
};
const START_IO_PARAMETERS: Action = |c| {
    use abi::startio_performance_parameters as parameters;
    let to = structure(c.own(EMPTY));
    to.set(parameters::Version, 1);
    to.set(parameters::Size, parameters::SIZE as u32);
    c.call(15, [c.about, to.address()]);
};
const REGISTRY_BUFFER: Action = |c| {
    let length = c.own(NOTE);
    let buffer = ddi("StorPortAllocateRegistryBuffer", [c.ext, length]);
    ddi("StorPortFreeRegistryBuffer", [c.ext, buffer]);
};
const REGISTRY_READ: Action = |c| {
    let arguments = [c.ext, c.own(EMPTY), 1, 4, 0, c.own(NOTE)];
    ddi("StorPortRegistryRead", arguments);
};
const REGISTRY_WRITE: Action = |c| {
    let arguments = [c.ext, c.own(EMPTY), 1, 4, c.own(NOTE), 4];
    ddi("StorPortRegistryWrite", arguments);
};

/// Completes a control request.
fn complete_control(c: &Context, status: u8) {
    if c.function() != 0 {
        c.completes(status);
    }
}

/// StorPortInitializePerfOpts, which asks for the options.
fn query_options(c: &Context) {
    use abi::perf_configuration_data as data;
    let options = structure(c.own(EMPTY));
    options.set(data::Version, 4);
    options.set(data::Size, data::SIZE as u32);
    c.call(14, [1, options.address()]);
}

/// StorPortReadRegisterUlong without HwDeviceExtension, which the macros for x64 omit.
fn read_register(address: usize) {
    ddi("StorPortReadRegisterUlong", [0, address]);
}

fn write_register(address: usize) {
    ddi("StorPortWriteRegisterUlong", [0, address, 0]);
}

fn set_srb_extension(c: &Context) {
    c.structure().set(info::SrbExtensionSize, 128);
}

/// StorPortNotification with an address to write to.
fn notify(c: &Context, kind: u32) {
    c.notify(kind, [c.own(NOTE)]);
}

/// Keeps the request. HwTimer completes it.
fn keep(c: &Context) {
    c.keeps();
    c.request_timer_call(1);
}

/// HwFindAdapter: one lock for all messages.
fn share_interrupt_lock(c: &Context) {
    c.structure().set(
        info::InterruptSynchronizationMode,
        wdk::InterruptSynchronizeAll,
    );
}

/// HwFindAdapter.
fn choose_half_duplex(c: &Context) {
    c.structure().set(info::SynchronizationModel, 0);
}

/// DriverEntry: SCSI_REQUEST_BLOCKs only.
fn take_old_requests(c: &Context) {
    let types = abi::wdk::SRB_TYPE_FLAG_SCSI_REQUEST_BLOCK;
    c.structure().set(init::SrbTypeFlags, types);
}

fn cases() -> Vec<Case> {
    use Callback::{
        DriverEntry, HwAdapterControl, HwBuildIo, HwDpcRoutine, HwFindAdapter,
        HwMSInterruptRoutine, HwPassiveInitialize, HwStartIo,
    };
    cases! {
        LockRecursion "StartIo" [HwStartIo]: START_IO => INTERRUPT;
        LockRecursion "StartIo by StorPortAcquireSpinLockEx" [HwStartIo]:
            |c| c.take_ex(&[StartIoLock]) => |c| c.take_ex(&[InterruptLock]);
        LockRecursion "a DPC's lock twice" [HwBuildIo]:
            |c| c.take(&[DpcLock, DpcLock]) => |c| { c.take(&[DpcLock]); c.take(&[DpcLock]); };
        LockRecursion "Interrupt" [HwInitialize => HwBuildIo]: INTERRUPT;
        LockRecursion "Interrupt" [HwInterrupt => HwBuildIo] on Pin: INTERRUPT;
        LockRecursion "its own message's lock" [HwMSInterruptRoutine => HwDpcRoutine]:
            |c| match c.callback {
                HwMSInterruptRoutine => c.take_messages(&[c.about as u32]),
                _ => c.take_messages(&[0]),
            };
        LockRecursion "all messages' locks in a message's routine" [HwMSInterruptRoutine]:
            INTERRUPT => |c| { if c.about == 1 { c.take_messages(&[0]); } };
        LockRecursion "all messages' locks under one of them" [HwBuildIo]:
            |c| {
                let (_, old) = c.acquire_message(0);
                c.take(&[InterruptLock]);
                c.release_message(0, old);
            } => |c| { c.take_messages(&[0]); c.take(&[InterruptLock]); };
        LockRecursion "StartIo" [HwResetBus] on Reset: START_IO => INTERRUPT;
        LockRecursion "StartIo" [HwStateChange]: START_IO => INTERRUPT;
        LockRecursion "StartIo" [HwTimer]: START_IO => |c| c.take(&[DpcLock, InterruptLock]);
        LockRecursion "StartIo" [HwTimerEx]: START_IO => INTERRUPT;
        LockRecursion "StorPortSynchronizeAccess" [HwMSInterruptRoutine => HwDpcRoutine]:
            |c| c.synchronize(0);
        LockRecursion "Interrupt" [SynchronizedAccess => HwBuildIo]: INTERRUPT;
        LockOrder "a DPC's lock under Interrupt" [HwBuildIo]:
            |c| c.take(&[InterruptLock, DpcLock]) => |c| c.take(&[DpcLock, InterruptLock]);
        LockOrder "StartIo under Interrupt" [HwBuildIo]:
            |c| c.take(&[InterruptLock, StartIoLock]) => |c| c.take(&[StartIoLock, InterruptLock]);
        LockInversion "routines that take each other's locks" [HwMSInterruptRoutine]:
            |c| c.take_messages(&[1 - c.about as u32]) =>
            |c| { if c.about == 0 { c.take_messages(&[1]); } };
        LockInversion "two DPCs' locks" [HwDpcRoutine] also [Rule::LockNested]:
            |c| for [outer, inner] in [[FIRST_DPC, SECOND_DPC], [SECOND_DPC, FIRST_DPC]] {
                c.acquire_at(DpcLock, c.own(outer), c.handle(0));
                c.acquire_at(DpcLock, c.own(inner), c.handle(1));
                c.release(1);
                c.release(0);
            } => DPC;
        LockInversion "StartIo and a DPC's lock" [HwDpcRoutine] also [Rule::LockOrderStartIo]:
            |c| { c.take(&[DpcLock, StartIoLock]); c.take(&[StartIoLock, DpcLock]); } =>
            |c| { c.take(&[StartIoLock, DpcLock]); c.take(&[StartIoLock, DpcLock]); };
        LockDeadlock "two processors with each other's DPC lock" [HwBuildIo] on BothCpus
            also [Rule::LockNested, Rule::LockInversion]:
            |c| {
                let own = current_number() as usize;
                let dpcs = [FIRST_DPC, SECOND_DPC].map(|dpc| c.own(dpc));
                c.acquire_at(DpcLock, dpcs[own], c.handle(2 * own));
                c.turn();
                c.wait_for(2);
                c.acquire_at(DpcLock, dpcs[1 - own], c.handle(2 * own + 1));
            } =>
            |c| {
                c.turn();
                c.wait_for(2);
                for dpc in [FIRST_DPC, SECOND_DPC] {
                    let handle = c.handle(current_number() as usize);
                    c.acquire_at(DpcLock, c.own(dpc), handle);
                    c.release_at(handle);
                }
            };
        LockNotAllowed "StartIo" [HwPassiveInitialize => HwBuildIo]: START_IO;
        LockNotAllowed "StartIo" [HwInitialize => HwBuildIo]: START_IO;
        LockNotAllowed "Interrupt" [HwFindAdapter => HwBuildIo]: INTERRUPT;
        LockNotAllowed "a DPC's lock" [HwInterrupt => HwBuildIo] on Pin: DPC;
        LockNotAllowed "a DPC's lock in half duplex" [] also [Rule::HalfDuplex]:
            |c| { c.at(HwFindAdapter, choose_half_duplex); c.at(HwStartIo, DPC); } =>
            |c| c.at(HwStartIo, DPC);
        LockNotAllowed "a DPC's lock" [HwMSInterruptRoutine => HwDpcRoutine]: DPC;
        LockNotAllowed "a message's lock" [HwPassiveInitialize => HwBuildIo]: MESSAGE;
        LockNotAllowed "StorPortSynchronizeAccess" [HwPassiveInitialize => HwBuildIo]:
            |c| c.synchronize(0);
        LockNotAllowed "StartIo" [SynchronizedAccess => HwBuildIo]: START_IO;
        LockKind "no STOR_SPINLOCK" [HwBuildIo]: |c| c.acquire(0, 0) => INTERRUPT;
        LockKind "a value above STOR_SPINLOCK" [HwBuildIo]: |c| c.acquire(6, 0) => INTERRUPT;
        LockKind "ThreadedDpcLock by StorPortAcquireSpinLock" [HwBuildIo]:
            |c| c.acquire(ThreadedDpcLock, 0) => DPC;
        LockKind "DpcLevelLock by StorPortAcquireSpinLock" [HwBuildIo]:
            |c| c.acquire(DpcLevelLock, 0) => DPC;
        LockDpc "memory that is not a DPC" [HwBuildIo]:
            |c| c.acquire_at(DpcLock, c.own(EMPTY), c.handle(0)) => DPC;
        LockDpc "NULL by StorPortAcquireSpinLockEx" [HwBuildIo]:
            |c| c.acquire_ex(DpcLock, 0, 0) => |c| c.take_ex(&[DpcLock]);
        LockMsiMode "taken" []:
            |c| {
                c.at(HwFindAdapter, share_interrupt_lock);
                c.at(HwBuildIo, |c| c.take_messages(&[0]));
            } =>
            |c| {
                c.at(HwFindAdapter, share_interrupt_lock);
                c.at(HwBuildIo, |c| c.take(&[InterruptLock]));
            };
        LockMsiMode "released" []:
            |c| {
                c.at(HwFindAdapter, share_interrupt_lock);
                c.at(HwBuildIo, |c| { c.release_message(0, irql::DISPATCH.into()); });
            } => |c| c.at(HwBuildIo, |c| c.take_messages(&[0]));
        LockMsiMessage "a message that the adapter does not have" [HwBuildIo]:
            |c| c.take_messages(&[2]) => |c| c.take_messages(&[1]);
        LockIrql "DpcLevelLock at PASSIVE_LEVEL" [HwAdapterControl => HwDpcRoutine]:
            |c| c.take_ex(&[DpcLevelLock]);
        LockIrql "StartIo at DIRQL" [HwBuildIo]:
            |c| {
                let before = set_irql(irql::DEVICE);
                c.take_ex(&[StartIoLock]);
                set_irql(before);
            } => |c| c.take_ex(&[StartIoLock]);
        LockIrql "Interrupt above DIRQL" [HwBuildIo]:
            |c| {
                let before = set_irql(irql::HIGH);
                c.take_ex(&[InterruptLock]);
                set_irql(before);
            } => |c| c.take_ex(&[InterruptLock]);
        LockHandleInUse "a second lock by a handle that was saved" [HwBuildIo]:
            |c| {
                c.acquire(DpcLock, 0);
                let saved = structure(c.handle(0)).bytes(stor_lock_handle::SIZE);
                c.acquire(InterruptLock, 0);
                c.release(0);
                structure(c.handle(0)).write(&saved);
                c.release(0);
            } => |c| c.take(&[DpcLock, InterruptLock]);
        LockHandleInUse "a second lock by the same handle" [HwBuildIo]:
            |c| {
                c.acquire(StartIoLock, 0);
                c.acquire(InterruptLock, 0);
                c.release(0);
                c.release(0);
            } => |c| c.take(&[StartIoLock, InterruptLock]);
        LockHandleInUse "by the other processor" [HwBuildIo] on BothCpus:
            |c| {
                if current_number() == 0 {
                    c.acquire(DpcLock, 0);
                    c.turn();
                    c.wait_for(2);
                    c.release(0);
                } else {
                    c.wait_for(1);
                    c.take(&[InterruptLock]);
                    c.turn();
                }
            } =>
            |c| {
                let handle = current_number() as usize;
                c.acquire(DpcLock, handle);
                c.release(handle);
            };
        LockHandleMoved "released by a copy of the handle" [HwBuildIo]:
            |c| {
                c.acquire(DpcLock, 0);
                let handle = structure(c.handle(0)).bytes(stor_lock_handle::SIZE);
                structure(c.handle(1)).write(&handle);
                c.release(1);
            } => DPC;
        LockHandleChanged "its IRQL is written" [HwBuildIo]:
            |c| {
                c.under(&[InterruptLock], |c| {
                    structure(c.handle(0)).set(stor_lock_handle::Context_OldIrql, 0);
                });
            } => INTERRUPT;
        LockHandleChanged "its lock is written" [HwBuildIo]:
            |c| {
                c.under(&[InterruptLock], |c| {
                    structure(c.handle(0)).set(stor_lock_handle::Context_LockQueue_Lock, 0);
                });
            } => INTERRUPT;
        LockHandleChanged "another IRQL of a message's lock, but not bits beyond a KIRQL"
            [HwBuildIo]:
            |c| { c.acquire_message(0); c.release_message(0, irql::PASSIVE.into()); } =>
            |c| { let (_, old) = c.acquire_message(0); c.release_message(0, old | 0x100); };
        LockNotHeld "never taken" [HwBuildIo]: |c| c.release(0) => INTERRUPT;
        LockNotHeld "released twice" [HwBuildIo]:
            |c| { c.take(&[InterruptLock]); c.release(0); } => INTERRUPT;
        LockNotHeld "Storport's own" [HwStartIo]:
            |c| {
                structure(c.handle(0)).set(stor_lock_handle::Lock, StartIoLock);
                c.release(0);
            } => INTERRUPT;
        LockNotHeld "a message's lock" [HwBuildIo]:
            |c| c.release_message(0, irql::DISPATCH.into()) => MESSAGE;
        LockNotHeld "Storport's own message's lock" [HwMSInterruptRoutine]:
            |c| c.release_message(c.about as u32, irql::DEVICE.into()) => NOTHING;
        LockAtReturn "Interrupt" [HwBuildIo]: |c| c.acquire(InterruptLock, 0) => INTERRUPT;
        LockAtReturn "Interrupt" [HwAdapterControl]: |c| c.acquire(InterruptLock, 0) => INTERRUPT;
        LockAtReturn "Interrupt" [HwResetBus] on Reset:
            |c| c.acquire(InterruptLock, 0) => INTERRUPT;
        LockAtReturn "its lock" [HwDpcRoutine]: |c| c.acquire(DpcLock, 0) => DPC;
        LockAtReturn "StartIo" [HwWorkItem]: |c| c.acquire(StartIoLock, 0) => START_IO;
        LockAtReturn "a message's lock" [HwBuildIo]: |c| c.acquire_message(0) => MESSAGE;
        IrqlAtReturn "another IRQL" [HwBuildIo]:
            |_| set_irql(irql::DEVICE) => |_| set_irql(set_irql(irql::DEVICE));
        IrqlAtReturn "a lower IRQL" [HwBuildIo]: |_| set_irql(irql::PASSIVE) => NOTHING;
        LockOrderStartIo "under a DPC's lock" [HwBuildIo]:
            |c| c.take(&[DpcLock, StartIoLock]) => |c| c.take(&[StartIoLock, DpcLock]);
        LockOrderStartIo "under a DPC's lock, by StorPortAcquireSpinLockEx" [HwBuildIo]:
            |c| c.take_ex(&[DpcLock, StartIoLock]) => |c| c.take_ex(&[StartIoLock, DpcLock]);
        LockOrderStartIo "under a DPC's lock, taken as DpcLevelLock" [HwDpcRoutine]:
            |c| c.take_ex(&[DpcLevelLock, StartIoLock]) =>
            |c| c.take_ex(&[StartIoLock, DpcLevelLock]);
        LockNested "DPCs' locks" [HwBuildIo]:
            |c| {
                c.under(&[DpcLock], |c| {
                    c.acquire_at(DpcLock, c.own(SECOND_DPC), c.handle(1));
                    c.release(1);
                });
            } => DPC;
        LockNested "messages' locks" [HwBuildIo]:
            |c| c.take_messages(&[0, 1]) => |c| { c.take_messages(&[0]); c.take_messages(&[1]); };
        LockThreadedDpc "in an ordinary DPC" []:
            |c| {
                c.at(HwStartIo, |c| { c.issue_dpc(c.own(FIRST_DPC), 0, 0); });
                c.at(HwDpcRoutine, |c| c.take_ex(&[ThreadedDpcLock]));
            } =>
            |c| {
                c.at(HwStartIo, |c| { c.issue_dpc(c.own(THREADED_DPC), 0, 0); });
                c.at(HwDpcRoutine, |c| c.take_ex(&[ThreadedDpcLock]));
            };
        LockReleaseOrder "a DPC's lock before Interrupt" [HwBuildIo]:
            |c| {
                c.acquire(DpcLock, 0);
                c.acquire(InterruptLock, 1);
                c.release(0);
                c.release(1);
            } => |c| c.take(&[DpcLock, InterruptLock]);
        LockReleaseOrder "a DPC's lock before a message's" [HwBuildIo]:
            |c| {
                c.acquire(DpcLock, 0);
                let (_, old) = c.acquire_message(0);
                c.release(0);
                c.release_message(0, old);
            } => |c| c.under(&[DpcLock], |c| c.take_messages(&[0]));
        LockReleaseOrder "a message's lock before another's" [HwBuildIo] also [Rule::LockNested]:
            |c| {
                let [(_, first), (_, second)] = [0, 1].map(|message| c.acquire_message(message));
                c.release_message(0, first);
                c.release_message(1, second);
            } => MESSAGE;
        LockOtherThread "released by the other processor" [HwBuildIo] on BothCpus:
            |c| {
                if current_number() == 0 {
                    c.acquire(DpcLock, 0);
                    c.turn();
                    c.wait_for(2);
                } else {
                    c.wait_for(1);
                    c.turn();
                }
                c.release(0);
            } =>
            |c| {
                let handle = current_number() as usize;
                c.acquire(DpcLock, handle);
                c.release(handle);
            };
        StopAtDirql "a lock" []:
            |c| { if c.is_stop() { c.take(&[InterruptLock]); } } =>
            |c| c.at(HwBuildIo, |c| c.take(&[InterruptLock]));
        StopAtDirql "a lock in ScsiRestartAdapter" [] on Sleep:
            |c| { if c.is_control(wdk::ScsiRestartAdapter) { c.take(&[StartIoLock]); } } =>
            NOTHING;
        StopAtDirql "pool in ScsiRestartAdapter" [] on Sleep:
            |c| { if c.is_control(wdk::ScsiRestartAdapter) { c.allocate_pool(); } } =>
            NOTHING;
        StopAtDirql "pool is freed" []:
            |c| match c.callback {
                HwPassiveInitialize => c.note(c.allocate_pool()),
                HwAdapterControl if c.is_stop() => c.free_pool(c.noted()),
                _ => {}
            } =>
            |c| {
                c.at(HwPassiveInitialize, |c| c.note(c.allocate_pool()));
                c.at(HwBuildIo, |c| c.free_pool(c.noted()));
            };
        LockInDumpMode "Interrupt" [HwStartIo] on Dump: INTERRUPT => NOTHING;
        LockInDumpMode "StorPortSynchronizeAccess" [HwStartIo] on Dump:
            |c| c.synchronize(0) => NOTHING;
        DdiCallback "StorPortEnablePassiveInitialization" [HwPassiveInitialize => HwInitialize]:
            |c| c.enable_passive_initialization();
        DdiCallback "StorPortFreeDeviceBase" []:
            |c| {
                c.at(HwFindAdapter, |c| c.note(c.map(0xFE00_0000, 4096)));
                c.at(HwPassiveInitialize, |c| c.unmap(c.noted()));
            } => |c| c.at(HwFindAdapter, |c| c.unmap(c.map(0xFE00_0000, 4096)));
        DdiCallback "StorPortGetBusData" [HwPassiveInitialize => HwFindAdapter]: GET_BUS_DATA;
        DdiCallback "StorPortSetBusDataByOffset" [HwAdapterControl => HwFindAdapter]: SET_BUS_DATA;
        DdiCallback "StorPortGetMSIInfo" [HwMSInterruptRoutine => HwInitialize]:
            |c| c.call(13, [0, c.own(EMPTY)]);
        DdiCallback "StorPortGetUncachedExtension" [HwPassiveInitialize => HwFindAdapter]:
            |c| c.uncached(4096);
        DdiCallback "StorPortInitializeDpc" [HwInitialize => HwPassiveInitialize]:
            |c| c.initialize_dpc(c.own(FIRST_DPC));
        DdiCallback "StorPortInitializePerfOpts" [HwFindAdapter => HwInitialize]:
            query_options;
        DdiCallback "StorPortInitialize" [HwPassiveInitialize]:
            |_| ddi("StorPortInitialize", [1, 1, 1]) => NOTHING;
        DdiCallback "StorPortMarkDumpMemory" [HwPassiveInitialize => HwFindAdapter]:
            |c| c.call(45, [c.ext, 4096, 0]);
        DdiCallback "StorPortSetAdapterBusType" [HwPassiveInitialize => HwFindAdapter]:
            |c| c.call(64, [1]);
        DdiCallback "StorPortSetFeatureList" [HwPassiveInitialize => HwFindAdapter]:
            |c| c.call(103, [0, c.own(EMPTY)]);
        DdiCallback "StorPortSetPowerSettingNotificationGuids"
            [HwPassiveInitialize => HwFindAdapter]:
            |c| c.call(26, [0, 0]);
        DdiCallback "StorPortUpdateAdapterMaxIO" [HwBuildIo => HwPassiveInitialize]:
            |c| c.call(80, [0]);
        DdiCallback "StorPortGetStartIoPerfParams" [HwBuildIo => HwStartIo]: START_IO_PARAMETERS;
        DdiCallback "StorPortSetUnitAttributes without INQUIRY" [HwStartIo]:
            |c| {
                let address = structure(c.own(EMPTY));
                address.set(abi::stor_addr_btl8::Type, 1);
                c.call(46, [address.address(), 0]);
            } => NOTHING;
        DdiIrql "StorPortFreePool" [HwBuildIo] under [InterruptLock]: |c| c.free_pool(0) => POOL;
        DdiIrql "StorPortAllocateRegistryBuffer" [HwBuildIo => HwFindAdapter]: REGISTRY_BUFFER;
        DdiIrql "StorPortRegistryRead" [HwBuildIo => HwFindAdapter]: REGISTRY_READ;
        DdiIrql "StorPortRegistryWrite" [HwDpcRoutine => HwFindAdapter]: REGISTRY_WRITE;
        DdiIrql "StorPortWaitForSingleObject with a time-out" [HwDpcRoutine => HwPassiveInitialize]:
            WAIT;
        DdiIrql "StorPortPutScatterGatherList below DISPATCH_LEVEL"
            [HwPassiveInitialize => HwBuildIo]:
            |c| c.call(10, [0, 0]);
        DdiIrql "StorPortBuildScatterGatherList below DISPATCH_LEVEL"
            [HwPassiveInitialize => HwBuildIo]:
            |c| c.call(9, [0, 0]);
        DdiIrql "StorPortQueryDpcWatchdogInformation below DISPATCH_LEVEL"
            [HwPassiveInitialize => HwBuildIo]:
            |c| c.call(106, [c.own(EMPTY)]);
        DdiDeprecated "StorPortLogError" [HwPassiveInitialize]:
            |c| ddi("StorPortLogError", [c.ext, 0, 0, 0, 0, 7, 1]) => LOG;
        DdiDeprecated "StorPortValidateRange" [HwFindAdapter]:
            |c| {
                let arguments = [c.ext, 5, 0, 0xFE00_0000, 4096, 0];
                ddi("StorPortValidateRange", arguments);
            } => |c| c.map(0xFE00_0000, 4096);
        DdiPortOnly "StorPortCompleteRequest" [HwStartIo]:
            |c| {
                let arguments = [c.ext, 0, 0, 0, BUS_RESET.into()];
                ddi("StorPortCompleteRequest", arguments);
            } => |c| c.completes(BUS_RESET);
        DdiProhibited "KeGetCurrentIrql" [HwBuildIo]:
            |_| {
                let function = super::super::resolve("ntoskrnl.exe", "KeGetCurrentIrql");
                exported::<extern "win64" fn() -> u8>(function.expect("an export"))();
            } => |c| c.result(109, []);
        DdiExtension "another address" [HwBuildIo]:
            |c| ddi("StorPortReady", [c.ext + 8]) => |c| ddi("StorPortReady", [c.ext]);
        DdiArgument "StorPortInitializeDpc of NULL" [HwPassiveInitialize]:
            |c| c.initialize_dpc(0) => |c| c.initialize_dpc(c.own(EMPTY));
        DdiArgument "StorPortLogSystemEvent with too much data" [HwPassiveInitialize]:
            |c| {
                use abi::stor_log_event_details::DumpDataSize;
                let [details, _memory] = event_details();
                details.at(0).set(DumpDataSize, 129);
                c.call(16, [details.address()]);
            } => LOG;
        DdiArgument "a context for StartIo" [HwBuildIo]:
            |c| {
                let context = c.own(FIRST_DPC);
                c.acquire_at(StartIoLock, context, c.handle(0));
                c.release(0);
            } => START_IO;
        DdiArgument "a context for Interrupt" [HwBuildIo]:
            |c| {
                c.acquire_at(InterruptLock, c.own(FIRST_DPC), c.handle(0));
                c.release(0);
            } => INTERRUPT;
        DdiArgument "StorPortInitialize of NULL" [DriverEntry]:
            |_| ddi("StorPortInitialize", [1, 1, 0]) => NOTHING;
        DdiArgument "StorPortInitialize without the objects" [DriverEntry]:
            |c| ddi("StorPortInitialize", [0, 1, c.structure().address()]) => NOTHING;
        DdiArgument "no handle" [HwBuildIo]:
            |c| { c.acquire_at(StartIoLock, 0, 0); c.release_at(0); } => START_IO;
        NotificationType "NextRequest" [HwPassiveInitialize]: |c| notify(c, 1) => |c| notify(c, 12);
        NotificationType "an obsolete one" [HwPassiveInitialize]:
            |c| notify(c, 4) => |c| notify(c, 12);
        NotificationType "GetExtendedFunctionTable" [HwPassiveInitialize]:
            |c| notify(c, 15) => |c| notify(c, 12);
        NotificationType "RequestDirectComplete" [HwPassiveInitialize]:
            |c| notify(c, 0x1008) => |c| notify(c, 12);
        PerfOpts "without PERF_CONFIGURATION_DATA" [HwInitialize]:
            |c| c.call(14, [1, 0]) => query_options;
        Stall "more than 0.1 s" [HwBuildIo]: |c| c.stall(100_001) => |c| c.stall(100_000);
        StartIoWait "a stall" [HwStartIo => HwBuildIo]: STALL;
        StartIoWait "contiguous memory" [HwStartIo => HwPassiveInitialize]: CONTIGUOUS;
        StartIoWait "contiguous memory, unlike pool" [HwStartIo]: CONTIGUOUS => POOL;
        StartIoWait "StorPortDelayExecution" [HwStartIo => HwPassiveInitialize]:
            |c| c.call(81, [1]);
        StartIoWait "StorPortWaitForSingleObject" [HwStartIo => HwPassiveInitialize]: WAIT;
        DeviceBase "more bytes than assigned" [HwFindAdapter]:
            |c| c.map(0xFE00_0000, 4097) => |c| c.map(0xFE00_0000, 4096);
        DeviceBase "an address that is not mapped is freed" [HwFindAdapter]:
            |c| c.unmap(c.map(0xFE00_0000, 4096) + 64) => |c| c.unmap(c.map(0xFE00_0000, 4096));
        RegisterAddress "read" [HwFindAdapter]:
            |c| read_register(c.map(0xFE00_0000, 4096) + 4096) =>
            |c| read_register(c.map(0xFE00_0000, 4096));
        RegisterAddress "written" [HwFindAdapter]:
            |c| write_register(c.map(0xFE00_0000, 4096) + 4096) =>
            |c| write_register(c.map(0xFE00_0000, 4096));
        RegisterAddress "a port is read" [HwFindAdapter]:
            |_| ddi("StorPortReadPortUlong", [0, 0xFE00_0000]) => NOTHING;
        RegisterAddress "a port is written" [HwFindAdapter]:
            |_| ddi("StorPortWritePortUlong", [0, 0xFE00_0000, 0]) => NOTHING;
        QueueDepth "before the first INQUIRY" [HwPassiveInitialize => HwStartIo]:
            |c| c.set_depth(8);
        QueueDepth "0" [HwStartIo]: |c| c.set_depth(0) => |c| c.set_depth(256);
        Dpc "issued" [HwBuildIo]:
            |c| c.issue_dpc(c.own(EMPTY), 0, 0) => |c| c.issue_dpc(c.own(FIRST_DPC), 0, 0);
        Dpc "cancelled" [HwPassiveInitialize]:
            |c| c.result(95, [c.own(EMPTY)]) => |c| c.result(95, [c.own(FIRST_DPC)]);
        Timer "no HwTimer" [HwPassiveInitialize]:
            |c| c.notify(6, [0, 1]) => |c| c.request_timer_call(1);
        Pool "freed twice" [HwPassiveInitialize]:
            |c| { let pool = c.allocate_pool(); c.free_pool(pool); c.free_pool(pool); } => POOL;
        Pool "freed as contiguous memory" [HwPassiveInitialize]:
            |c| c.free_contiguous(c.allocate_pool()) => CONTIGUOUS;
        Pool "freed by an address inside" [HwPassiveInitialize]:
            |c| c.free_pool(c.allocate_pool() + 16) => POOL;
        DdiInDumpMode "a DPC" [HwInitialize] on Dump:
            |c| c.initialize_dpc(c.own(EMPTY)) => NOTHING;
        DdiDumpStack "StorPortEnablePassiveInitialization" [HwInitialize] on Dump:
            |c| c.enable_passive_initialization() => NOTHING;
        DdiInDumpMode "the registry" [HwInitialize] on Dump: REGISTRY_READ => NOTHING;
        DdiDumpStack "a timer" [HwInitialize] on Dump: |c| c.request_timer_call(10) => NOTHING;
        DdiDumpStack "pool" [HwInitialize] on Dump: |c| c.allocate_pool() => NOTHING;
        InitializationData "NeedPhysicalAddresses" [DriverEntry]:
            |c| c.structure().set(init::NeedPhysicalAddresses, 0) => NOTHING;
        InitializationData "TaggedQueuing" [DriverEntry]:
            |c| c.structure().set(init::TaggedQueuing, 0) => NOTHING;
        InitializationData "AutoRequestSense" [DriverEntry]:
            |c| c.structure().set(init::AutoRequestSense, 0) => NOTHING;
        InitializationData "MultipleRequestPerLu" [DriverEntry]:
            |c| c.structure().set(init::MultipleRequestPerLu, 0) => NOTHING;
        InitializationData "HwDmaStarted" [DriverEntry]:
            |c| c.structure().set(init::HwDmaStarted, 1) => NOTHING;
        InitializationData "HwAdapterState" [DriverEntry]:
            |c| c.structure().set(init::HwAdapterState, 1) => NOTHING;
        InitializationData "another size" [DriverEntry]:
            |c| c.structure().set(init::HwInitializationDataSize, 216) => NOTHING;
        InitializationData "another address type than BTL8" [DriverEntry]:
            |c| c.structure().set(init::AddressTypeFlags, 2) =>
            |c| c.structure().set(init::AddressTypeFlags, 0);
        FindAdapter "MaxIOsPerLun above 255 for SCSI_REQUEST_BLOCKs" []:
            |c| {
                c.at(DriverEntry, take_old_requests);
                c.at(HwFindAdapter, |c| c.structure().set(info::MaxIOsPerLun, 256));
            } =>
            |c| {
                c.at(DriverEntry, take_old_requests);
                c.at(HwFindAdapter, |c| c.structure().set(info::MaxIOsPerLun, 255));
            };
        FindAdapter "NumberOfPhysicalBreaks is 0" [HwFindAdapter]:
            |c| c.structure().set(info::NumberOfPhysicalBreaks, 0) => NOTHING;
        FindAdapter "NumberOfPhysicalBreaks is not set" [HwFindAdapter]:
            |c| c.structure().set(info::NumberOfPhysicalBreaks, u32::MAX) => NOTHING;
        FindAdapter "MaximumTransferLength is not set" [HwFindAdapter]:
            |c| c.structure().set(info::MaximumTransferLength, u32::MAX) => NOTHING;
        FindAdapter "not an SP_RETURN value" [HwFindAdapter]:
            |c| c.answer(7) => |c| c.answer(wdk::SP_RETURN_FOUND);
        VirtualDevice "set" [HwFindAdapter]:
            |c| c.structure().set(info::VirtualDevice, 1) => NOTHING;
        HalfDuplex "chosen" [HwFindAdapter]: choose_half_duplex => NOTHING;
        SrbExtensionSize "set after the uncached extension was taken" [HwFindAdapter]:
            |c| { c.uncached(4096); set_srb_extension(c); } =>
            |c| { set_srb_extension(c); c.uncached(4096); };
        AdapterControl "no ScsiStopAdapter" [HwAdapterControl]:
            |c| c.supports(&[wdk::ScsiRestartAdapter]) => SUPPORTS_BOTH;
        AdapterControl "no ScsiRestartAdapter" [HwAdapterControl]:
            |c| c.supports(&[wdk::ScsiStopAdapter]) => SUPPORTS_BOTH;
        AdapterControl "the query fails" [HwAdapterControl]:
            |c| { SUPPORTS_BOTH(c); c.answer(1); } => SUPPORTS_BOTH;
        SrbUnknown "memory that is not an SRB is completed" [HwPassiveInitialize]:
            |c| c.complete_srb(c.own(EMPTY), SUCCESS) => NOTHING;
        SrbUnknown "the list of a completed request" [HwStartIo]:
            |c| { c.complete(SUCCESS); c.list(); c.answer(1); } =>
            |c| { c.list(); c.complete(SUCCESS); c.answer(1); };
        SrbTwice "in HwStartIo" [HwStartIo]:
            |c| { c.complete(SUCCESS); c.complete(SUCCESS); c.answer(1); } => SUCCEEDS;
        SrbTwice "in HwBuildIo" [HwBuildIo]:
            |c| { c.complete(SUCCESS); c.complete(SUCCESS); c.answer(0); } =>
            |c| { keep(c); c.answer(0); };
        SrbStatus "SRB_STATUS_PENDING" [HwStartIo]: |c| c.completes(0) => SUCCEEDS;
        SrbStatus "SRB_STATUS_QUEUE_FROZEN" [HwStartIo]:
            |c| c.completes(SUCCESS | 0x40) => SUCCEEDS;
        SrbTouched "read" [HwStartIo] on Watched:
            |c| { c.complete(SUCCESS); c.structure().get(scsi::SrbStatus); c.answer(1); } =>
            |c| { c.structure().get(scsi::SrbStatus); c.complete(SUCCESS); c.answer(1); };
        SrbTouched "written" [HwStartIo] on Watched:
            |c| { c.complete(SUCCESS); c.structure().set(scsi::ScsiStatus, 0); c.answer(1); } =>
            |c| { c.structure().set(scsi::ScsiStatus, 0); c.complete(SUCCESS); c.answer(1); };
        SrbBuildIo "completed, and TRUE" [HwBuildIo]:
            |c| { c.complete(ERROR); c.answer(1); } => |c| { c.complete(ERROR); c.answer(0); };
        SrbBusyLength "BUSY with another length" [HwStartIo]:
            |c| { c.structure().set(storage::DataTransferLength, 0); c.is_busy_once(); } =>
            |c| c.is_busy_once();
        SrbAfterReset "a request stays" [HwResetBus] on Reset:
            |c| { c.request_timer_call(50_000); c.answer(1); } => NOTHING;
        SrbStartIo "FALSE for a request that is kept" [HwStartIo]:
            |c| { keep(c); c.answer(0); } => |c| { keep(c); c.answer(1); };
        SrbControl "an error" [HwStartIo] on Sleep:
            |c| complete_control(c, ERROR) => |c| complete_control(c, INVALID_REQUEST);
        InterruptLevel "the pin stays asserted" [HwInterrupt] on Pin: |c| c.answer(1) => NOTHING;
        DumpMemory "more than 32 KiB with the device extension's 256 bytes" [HwFindAdapter] on Dump:
            |c| c.uncached((32 << 10) - 255) => |c| c.uncached((32 << 10) - 256);
        DumpResetBus "the request is completed" [HwResetBus] on DumpReset:
            |c| { c.complete_kept(BUS_RESET); c.answer(1); } => |c| c.complete_kept(SUCCESS);
    }
}

/// The breaches of these rules end the machine.
const FATAL: [Rule; 4] = [
    Rule::LockRecursion,
    Rule::LockDeadlock,
    Rule::DdiExtension,
    Rule::InterruptLevel,
];

#[test]
#[ignore = "a part of the test of all breaches: it ends the process"]
fn the_fatal_breach() {
    let number = testing::asked().parse().expect("a number");
    let Case {
        run, wrong, under, ..
    } = cases().remove(number);
    broken(run, wrong, under);
    // Another thread may be about to end the process.
    thread::sleep(Duration::from_secs(2));
}

/// The rules that a breach breaks that ends the machine. It runs in another process of this
/// test program.
fn broken_at_the_end(number: usize) -> BTreeSet<String> {
    let output = testing::run("tests::rules::the_fatal_breach", &number.to_string());
    let said = String::from_utf8_lossy(&output.stderr);
    let rule = |line: &str| {
        let line = line.trim();
        match line.strip_prefix("before that: ") {
            Some(before) => before.split_once(" in ").map(|(rule, _)| rule.to_owned()),
            None => {
                let rest = line.strip_prefix("testbed: test.sys, in ")?;
                rest.split(": ").nth(1).map(str::to_owned)
            }
        }
    };
    let rules: BTreeSet<_> = said.lines().filter_map(rule).collect();
    if output.status.code() == Some(3) && !rules.is_empty() {
        rules
    } else {
        BTreeSet::from([format!("{}: {said}", output.status)])
    }
}

/// Makes Storport call a callback that it does not call of its own accord.
fn cause(c: &Context, callback: Option<Callback>) {
    match callback {
        Some(Callback::HwDpcRoutine) => {
            c.issue_dpc(c.own(FIRST_DPC), 0, 0);
        }
        Some(Callback::HwTimer) => c.request_timer_call(1),
        Some(Callback::HwTimerEx) => {
            c.request_timer(c.result(32, []), 0, 1);
        }
        Some(Callback::HwWorkItem) => {
            c.queue_new_work(0);
        }
        Some(Callback::HwStateChange) => c.report_state_change(c.own(EMPTY)),
        _ => {}
    }
}

/// The rules that a miniport breaks by an action.
fn broken(
    run: Run,
    (callback, action): (Option<Callback>, Action),
    under: &'static [u32],
) -> BTreeSet<String> {
    let function = FakeFunction::new(if run == Run::Pin { 0 } else { 2 });
    let is_done: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
    let act = move |c: &Context| {
        // An action in HwAdapterControl alone is taken for the query.
        if callback != Some(Callback::HwAdapterControl) || c.is_query() {
            c.under(under, action);
            is_done.store(true, Ordering::SeqCst);
        }
    };
    let of_build_io = move |c: &Context| {
        if callback == Some(Callback::SynchronizedAccess) {
            c.synchronize(0);
        }
    };
    let of_start_io = move |c: &Context| {
        cause(c, callback);
        if matches!(run, Run::Reset | Run::DumpReset) {
            c.keeps();
        }
    };
    let pin = Arc::clone(&function);
    let of_interrupt = move |c: &Context| {
        c.complete_kept(SUCCESS);
        if run == Run::Pin {
            pin.line(false);
            c.turn();
        }
    };
    let miniport = Miniport::new()
        .on_any(callback, act)
        .on(Callback::HwBuildIo, of_build_io)
        .on(Callback::HwStartIo, of_start_io)
        .on(Callback::HwInterrupt, of_interrupt)
        .on(Callback::HwTimer, |c| c.complete_kept(ERROR));
    let violations = if matches!(run, Run::Dump | Run::DumpReset) {
        let stack = start_dump(miniport).expect("the dump stack starts");
        let _ = match run {
            Run::DumpReset => stack.execute_through_reset(&request(0)),
            _ => stack.execute(&request(0)),
        };
        stack.report().violations
    } else {
        let settings = match run {
            Run::Watched => watched(),
            Run::Reset => soon(),
            _ => quick(),
        };
        match try_start(miniport, function, settings) {
            Ok(bench) => play(&bench, run, callback, is_done),
            Err(failed) => failed.report.violations,
        }
    };
    violations
        .into_iter()
        .map(|violation| violation.rule.to_owned())
        .collect()
}

fn play(
    bench: &Bench,
    run: Run,
    callback: Option<Callback>,
    is_done: &AtomicBool,
) -> Vec<Violation> {
    match run {
        Run::BothCpus => drop(bench.load(1, 1)),
        _ => drop(bench.adapter.execute(read(512, Placement::Contiguous))),
    }
    match run {
        Run::Plain => {
            for message in [0, 1] {
                bench.function.message(message);
                bench.wait_for_interrupts(u64::from(message) + 1);
            }
        }
        Run::Pin => {
            bench.function.line(true);
            bench.wait_until("the pin is released", |bench| bench.miniport.turns() > 0);
        }
        Run::Sleep => bench.adapter.restart().expect("it sleeps and wakes"),
        _ => {}
    }
    use Callback::{HwDpcRoutine, HwStateChange, HwTimer, HwTimerEx, HwWorkItem};
    if let Some(HwTimer | HwTimerEx | HwStateChange | HwDpcRoutine | HwWorkItem) = callback {
        bench.wait_until("the action", |_| is_done.load(Ordering::SeqCst));
    }
    if callback == Some(HwWorkItem) {
        bench.wait_until("the end of the work item", |bench| {
            !bench.port().later.leaks().is_empty()
        });
    }
    // The stop waits for the other callbacks, whose ends are checked.
    let _ = bench.adapter.stop();
    bench.adapter.report().violations
}

/// The failures of a case.
fn judge(number: usize, case: &Case) -> Vec<String> {
    let expected: BTreeSet<_> = [&[case.rule], case.also]
        .into_iter()
        .flatten()
        .map(|rule| rule.name().to_owned())
        .collect();
    let by_breach = if FATAL.contains(&case.rule) {
        broken_at_the_end(number)
    } else {
        broken(case.run, case.wrong, case.under)
    };
    let by_twin = broken(case.run, case.right, &[]);
    [
        ("breach", by_breach, expected),
        ("twin", by_twin, BTreeSet::new()),
    ]
    .into_iter()
    .filter(|(_, found, expected)| found != expected)
    .map(|(what, found, expected)| {
        let (rule, name) = (case.rule.name(), case.name);
        format!("{rule}, {name}: the {what} breaks {found:?}, not {expected:?}")
    })
    .collect()
}

#[test]
fn each_breach_breaks_its_rule_and_no_other_and_its_twin_none() {
    let wrong = testing::on_threads(4, &cases(), judge);
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn each_rule_has_a_breach_and_a_twin() {
    let cases = cases();

    let without: Vec<_> = Rule::ALL
        .iter()
        .filter(|rule| cases.iter().all(|case| case.rule != **rule))
        .collect();

    assert!(without.is_empty(), "{without:?}");
}
