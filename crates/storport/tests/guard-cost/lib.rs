//! Pairs of functions that take one of Storport's locks: one with a guard, the other with the calls
//! that a C miniport makes.
//!
//! `cargo xtask guard-cost` counts the instructions of each pair in a file that is compiled and
//! linked as a driver is.
#![no_std]
#![expect(unsafe_code, reason = "half of it calls Storport as C does")]

use core::{mem::MaybeUninit, ptr};

use storport::{
    BuildIo, Configured, Dpc, DpcLocked, FindAdapter, Initialize, Interrupt, InterruptLocked,
    Interrupted, MessageLocked, Miniport, NotFound, ResetBus, Restart, Srb, StartIo, StartIoLocked,
    Stop, StorStatus, ThreadedDpc,
};
use wdk_panic as _;
use wdk_sys::{
    _SCSI_NOTIFICATION_TYPE as notification, _STOR_SPINLOCK as kind,
    _STORPORT_FUNCTION_CODE as extended, PVOID, STOR_DPC, STOR_LOCK_HANDLE, STOR_SPINLOCK, ULONG,
    storage::{StorPortExtendedFunction, StorPortNotification},
};

storport::driver_entry!(Nothing);

/// A miniport that finds no adapter. It keeps the crate's entry functions in the file, so that the
/// crate is compiled as for a driver.
enum Nothing {}

impl Miniport for Nothing {
    type Adapter<'a> = ();
    type Request<'a> = ();

    fn find_adapter<'a>(_: &mut FindAdapter<'_, 'a>) -> Result<(Configured<'a>, ()), NotFound> {
        Err(NotFound::Absent)
    }

    fn initialize<'a>(_: &(), _: &mut Initialize<'_, 'a>) -> bool {
        false
    }

    fn build_io<'a>(_: &(), _: &mut BuildIo<'_, 'a>, srb: Srb<'a>) -> Option<(Srb<'a>, ())> {
        Some((srb, ()))
    }

    fn start_io<'a>(_: &(), _: &mut StartIo<'_, 'a>, srb: Srb<'a>, (): ()) {
        srb.busy();
    }

    fn interrupt<'a>(_: &(), _: &mut Interrupt<'_, 'a>) -> Interrupted {
        Interrupted::NotOurs
    }

    fn dpc<'a>(_: &(), _: &mut Dpc<'_, 'a>) {}

    fn reset_bus<'a>(_: &(), _: &mut ResetBus<'_, 'a>) -> bool {
        false
    }

    fn stop<'a>(_: &(), _: &mut Stop<'_, 'a>) {}

    fn restart<'a>(_: &(), _: &mut Restart<'_, 'a>) -> bool {
        false
    }
}

/// The state of a miniport on the crate: a counter under each lock.
pub struct Cells<'a> {
    start_io: StartIoLocked<'a, u64>,
    dpc: DpcLocked<'a, u64>,
    interrupt: InterruptLocked<'a, u64>,
    message: MessageLocked<'a, u64>,
}

/// The state of a C miniport: a counter, and the adapter, the DPC object and the message that a
/// cell also has.
#[repr(C)]
pub struct Queue {
    device_extension: PVOID,
    dpc: *mut STOR_DPC,
    count: u64,
    message: ULONG,
}

impl Queue {
    fn count(&mut self) {
        self.count = self.count.wrapping_add(1);
    }

    /// Calls StorPortAcquireSpinLock, increments the counter, and calls StorPortReleaseSpinLock.
    #[inline(always)]
    unsafe fn count_with(&mut self, kind: STOR_SPINLOCK, dpc: *mut STOR_DPC) {
        let mut handle = MaybeUninit::<STOR_LOCK_HANDLE>::uninit();
        let handle = handle.as_mut_ptr();
        // SAFETY: The arguments are those of the inline function.
        unsafe {
            StorPortNotification(
                notification::AcquireSpinLock,
                self.device_extension,
                kind,
                dpc,
                handle,
            );
        }
        self.count();
        // SAFETY: As above.
        unsafe {
            StorPortNotification(notification::ReleaseSpinLock, self.device_extension, handle);
        }
    }

    /// Calls StorPortAcquireSpinLockEx, increments the counter, and calls StorPortReleaseSpinLock.
    #[inline(always)]
    unsafe fn count_with_ex(&mut self, kind: STOR_SPINLOCK) {
        let mut handle = MaybeUninit::<STOR_LOCK_HANDLE>::uninit();
        let handle = handle.as_mut_ptr();
        // SAFETY: The arguments are those of the inline function.
        let status = unsafe {
            StorPortExtendedFunction(
                extended::ExtFunctionAcquireSpinLock,
                self.device_extension,
                kind,
                self.dpc,
                handle,
            )
        };
        if status != wdk_sys::STOR_STATUS_SUCCESS {
            return;
        }
        self.count();
        // SAFETY: As above.
        unsafe {
            StorPortNotification(notification::ReleaseSpinLock, self.device_extension, handle);
        }
    }
}

/// StartIoLock, in HwBuildIo.
#[unsafe(no_mangle)]
pub extern "C" fn guard_start_io_lock<'a>(cells: &Cells<'a>, cx: &mut BuildIo<'_, 'a>) {
    cells
        .start_io
        .with(cx, |count| **count = count.wrapping_add(1));
}

/// The same with the calls of a C miniport.
///
/// # Safety
/// The caller may take the lock, and `queue` is valid. The other functions require the same.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn calls_start_io_lock(queue: &mut Queue) {
    // SAFETY: The caller's promise.
    unsafe { queue.count_with(kind::StartIoLock, ptr::null_mut()) };
}

/// DpcLock, in HwStartIo.
#[unsafe(no_mangle)]
pub extern "C" fn guard_dpc_lock<'a>(cells: &Cells<'a>, cx: &mut StartIo<'_, 'a>) {
    cells.dpc.with(cx, |count| **count = count.wrapping_add(1));
}

/// The same with the calls of a C miniport.
///
/// # Safety
/// See [`calls_start_io_lock`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn calls_dpc_lock(queue: &mut Queue) {
    // SAFETY: The caller's promise.
    unsafe { queue.count_with(kind::DpcLock, queue.dpc) };
}

/// InterruptLock, in HwDpcRoutine.
#[unsafe(no_mangle)]
pub extern "C" fn guard_interrupt_lock<'a>(cells: &Cells<'a>, cx: &mut Dpc<'_, 'a>) {
    cells
        .interrupt
        .with(cx, |count| **count = count.wrapping_add(1));
}

/// The same with the calls of a C miniport.
///
/// # Safety
/// See [`calls_start_io_lock`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn calls_interrupt_lock(queue: &mut Queue) {
    // SAFETY: The caller's promise.
    unsafe { queue.count_with(kind::InterruptLock, ptr::null_mut()) };
}

/// DpcLevelLock, in HwDpcRoutine.
#[unsafe(no_mangle)]
pub extern "C" fn guard_dpc_level_lock<'a>(cells: &Cells<'a>, cx: &mut Dpc<'_, 'a>) {
    let _: Result<(), StorStatus> = cells
        .dpc
        .with_at_dpc_level(cx, |count| **count = count.wrapping_add(1));
}

/// The same with the calls of a C miniport.
///
/// # Safety
/// See [`calls_start_io_lock`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn calls_dpc_level_lock(queue: &mut Queue) {
    // SAFETY: The caller's promise.
    unsafe { queue.count_with_ex(kind::DpcLevelLock) };
}

/// ThreadedDpcLock, in the routine of a threaded DPC.
#[unsafe(no_mangle)]
pub extern "C" fn guard_threaded_dpc_lock<'a>(cells: &Cells<'a>, cx: &mut ThreadedDpc<'_, 'a>) {
    let _: Result<(), StorStatus> = cells
        .dpc
        .with_in_threaded_dpc(cx, |count| **count = count.wrapping_add(1));
}

/// The same with the calls of a C miniport.
///
/// # Safety
/// See [`calls_start_io_lock`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn calls_threaded_dpc_lock(queue: &mut Queue) {
    // SAFETY: The caller's promise.
    unsafe { queue.count_with_ex(kind::ThreadedDpcLock) };
}

/// A message's lock, in HwDpcRoutine.
#[unsafe(no_mangle)]
pub extern "C" fn guard_message_lock<'a>(cells: &Cells<'a>, cx: &mut Dpc<'_, 'a>) {
    cells
        .message
        .with(cx, |count| **count = count.wrapping_add(1));
}

/// The same with the calls of a C miniport. The status is not checked, as in storahci, Microsoft's
/// sample of an AHCI miniport (storport-rules.md StorAhci).
///
/// # Safety
/// See [`calls_start_io_lock`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn calls_message_lock(queue: &mut Queue) {
    let mut irql: ULONG = 0;
    // SAFETY: The arguments are those of the inline function.
    unsafe {
        StorPortExtendedFunction(
            extended::ExtFunctionAcquireMSISpinLock,
            queue.device_extension,
            queue.message,
            &raw mut irql,
        )
    };
    queue.count();
    // SAFETY: As above.
    unsafe {
        StorPortExtendedFunction(
            extended::ExtFunctionReleaseMSISpinLock,
            queue.device_extension,
            queue.message,
            irql,
        )
    };
}
