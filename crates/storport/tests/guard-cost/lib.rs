//! Each of Storport's locks, taken by a guard and by the calls that a C
//! miniport makes: pairs of functions that do the same.
//!
//! `cargo xtask guard-cost` counts the instructions of each pair, in a file
//! that is compiled and linked as a driver is.
#![no_std]
#![expect(unsafe_code, reason = "half of it is what a C miniport does")]

use core::{mem::MaybeUninit, ptr};

use storport::{
    BuildIo, Configured, Dpc, DpcLocked, FindAdapter, Initialize, InterruptLocked, MessageLocked,
    Miniport, NotFound, ResetBus, Restart, Srb, StartIo, StartIoLocked, Stop, ThreadedDpc,
};
use wdk_panic as _;
use wdk_sys::{
    _SCSI_NOTIFICATION_TYPE as notification, _STOR_SPINLOCK as kind,
    _STORPORT_FUNCTION_CODE as extended, PVOID, STOR_DPC, STOR_LOCK_HANDLE, STOR_SPINLOCK, ULONG,
    storage::{StorPortExtendedFunction, StorPortNotification},
};

storport::driver_entry!(Nothing);

/// A miniport without an adapter: it keeps the crate's callbacks in the file,
/// so that nothing of it is compiled for the pairs alone.
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

    fn reset_bus<'a>(_: &(), _: &mut ResetBus<'_, 'a>) -> bool {
        false
    }

    fn stop<'a>(_: &(), _: &mut Stop<'_, 'a>) {}

    fn restart<'a>(_: &(), _: &mut Restart<'_, 'a>) -> bool {
        false
    }
}

/// What a miniport on the crate has: a counter under each lock.
pub struct Cells<'a> {
    start_io: StartIoLocked<'a, u64>,
    dpc: DpcLocked<'a, u64>,
    interrupt: InterruptLocked<'a, u64>,
    message: MessageLocked<'a, u64>,
}

/// What a C miniport has: its device extension.
#[repr(C)]
pub struct Extension {
    dpcs: [STOR_DPC; 2],
    count: u64,
    message: ULONG,
}

/// StorPortAcquireSpinLock, a counter, StorPortReleaseSpinLock.
#[inline(always)]
unsafe fn count_with(extension: *mut Extension, kind: STOR_SPINLOCK, dpc: *mut STOR_DPC) {
    let mut handle = MaybeUninit::<STOR_LOCK_HANDLE>::uninit();
    let (device_extension, handle): (PVOID, _) = (extension.cast(), handle.as_mut_ptr());
    // SAFETY: the arguments are those of the inline function.
    unsafe {
        StorPortNotification(
            notification::AcquireSpinLock,
            device_extension,
            kind,
            dpc,
            handle,
        );
    }
    // SAFETY: the lock is held.
    unsafe { count(extension) };
    // SAFETY: as above.
    unsafe { StorPortNotification(notification::ReleaseSpinLock, device_extension, handle) };
}

/// StorPortAcquireSpinLockEx, a counter, StorPortReleaseSpinLock.
#[inline(always)]
unsafe fn count_with_ex(
    extension: *mut Extension,
    kind: STOR_SPINLOCK,
    dpc: *mut STOR_DPC,
) -> ULONG {
    let mut handle = MaybeUninit::<STOR_LOCK_HANDLE>::uninit();
    let (device_extension, handle): (PVOID, _) = (extension.cast(), handle.as_mut_ptr());
    // SAFETY: the arguments are those of the inline function.
    let status = unsafe {
        StorPortExtendedFunction(
            extended::ExtFunctionAcquireSpinLock,
            device_extension,
            kind,
            dpc,
            handle,
        )
    };
    if status != wdk_sys::STOR_STATUS_SUCCESS {
        return status;
    }
    // SAFETY: the lock is held.
    unsafe { count(extension) };
    // SAFETY: as above.
    unsafe { StorPortNotification(notification::ReleaseSpinLock, device_extension, handle) };
    status
}

#[inline(always)]
unsafe fn count(extension: *mut Extension) {
    // SAFETY: the caller has the extension for itself.
    let count = unsafe { &mut (*extension).count };
    *count = count.wrapping_add(1);
}

/// The first of the DPC objects.
fn dpc_of(extension: *mut Extension) -> *mut STOR_DPC {
    // SAFETY: it takes an address in the extension.
    unsafe { (&raw mut (*extension).dpcs).cast() }
}

/// StartIoLock, in HwBuildIo.
#[unsafe(no_mangle)]
pub extern "C" fn guard_start_io_lock<'a>(cells: &Cells<'a>, cx: &mut BuildIo<'_, 'a>) {
    cells
        .start_io
        .with(cx, |count| **count = count.wrapping_add(1));
}

/// The same in C's way.
///
/// # Safety
/// As for HwBuildIo; so are all that follow.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn calls_start_io_lock(extension: *mut Extension) {
    // SAFETY: the caller's promise.
    unsafe { count_with(extension, kind::StartIoLock, ptr::null_mut()) };
}

/// DpcLock, in HwStartIo.
#[unsafe(no_mangle)]
pub extern "C" fn guard_dpc_lock<'a>(cells: &Cells<'a>, cx: &mut StartIo<'_, 'a>) {
    cells.dpc.with(cx, |count| **count = count.wrapping_add(1));
}

/// The same in C's way.
///
/// # Safety
/// See [`calls_start_io_lock`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn calls_dpc_lock(extension: *mut Extension) {
    // SAFETY: the caller's promise.
    unsafe { count_with(extension, kind::DpcLock, dpc_of(extension)) };
}

/// InterruptLock, in HwDpcRoutine.
#[unsafe(no_mangle)]
pub extern "C" fn guard_interrupt_lock<'a>(cells: &Cells<'a>, cx: &mut Dpc<'_, 'a>) {
    cells
        .interrupt
        .with(cx, |count| **count = count.wrapping_add(1));
}

/// The same in C's way.
///
/// # Safety
/// See [`calls_start_io_lock`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn calls_interrupt_lock(extension: *mut Extension) {
    // SAFETY: the caller's promise.
    unsafe { count_with(extension, kind::InterruptLock, ptr::null_mut()) };
}

/// DpcLevelLock, in HwDpcRoutine. Whether it was taken.
#[unsafe(no_mangle)]
pub extern "C" fn guard_dpc_level_lock<'a>(cells: &Cells<'a>, cx: &mut Dpc<'_, 'a>) -> bool {
    let counted = cells
        .dpc
        .with_at_dpc_level(cx, |count| **count = count.wrapping_add(1));
    counted.is_ok()
}

/// The same in C's way.
///
/// # Safety
/// See [`calls_start_io_lock`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn calls_dpc_level_lock(extension: *mut Extension) -> bool {
    // SAFETY: the caller's promise.
    let status = unsafe { count_with_ex(extension, kind::DpcLevelLock, dpc_of(extension)) };
    status == wdk_sys::STOR_STATUS_SUCCESS
}

/// ThreadedDpcLock, in the routine of a threaded DPC. Whether it was taken.
#[unsafe(no_mangle)]
pub extern "C" fn guard_threaded_dpc_lock<'a>(
    cells: &Cells<'a>,
    cx: &mut ThreadedDpc<'_, 'a>,
) -> bool {
    let counted = cells
        .dpc
        .with_in_threaded_dpc(cx, |count| **count = count.wrapping_add(1));
    counted.is_ok()
}

/// The same in C's way.
///
/// # Safety
/// See [`calls_start_io_lock`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn calls_threaded_dpc_lock(extension: *mut Extension) -> bool {
    // SAFETY: the caller's promise.
    let status = unsafe { count_with_ex(extension, kind::ThreadedDpcLock, dpc_of(extension)) };
    status == wdk_sys::STOR_STATUS_SUCCESS
}

/// A message's lock, in HwDpcRoutine.
#[unsafe(no_mangle)]
pub extern "C" fn guard_message_lock<'a>(cells: &Cells<'a>, cx: &mut Dpc<'_, 'a>) {
    cells
        .message
        .with(cx, |count| **count = count.wrapping_add(1));
}

/// The same in C's way: the status is not looked at, as in Microsoft's sample
/// of an AHCI miniport (rule book 9).
///
/// # Safety
/// See [`calls_start_io_lock`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn calls_message_lock(extension: *mut Extension) {
    let device_extension: PVOID = extension.cast();
    let mut irql: ULONG = 0;
    // SAFETY: the caller's promise.
    let message = unsafe { (*extension).message };
    // SAFETY: the arguments are those of the inline function.
    unsafe {
        StorPortExtendedFunction(
            extended::ExtFunctionAcquireMSISpinLock,
            device_extension,
            message,
            &raw mut irql,
        )
    };
    // SAFETY: the lock is held.
    unsafe { count(extension) };
    // SAFETY: as above.
    unsafe {
        StorPortExtendedFunction(
            extended::ExtFunctionReleaseMSISpinLock,
            device_extension,
            message,
            irql,
        )
    };
}
