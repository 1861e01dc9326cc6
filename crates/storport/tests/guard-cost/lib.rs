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
    Stop, ThreadedDpc,
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
    unsafe fn count_with(&mut self, kind: STOR_SPINLOCK) {
        let dpc = match kind {
            kind::DpcLock => self.dpc,
            _ => ptr::null_mut(),
        };
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

    /// Calls StorPortAcquireMSISpinLock, increments the counter, and calls
    /// StorPortReleaseMSISpinLock. The status is not checked, as in storahci, Microsoft's sample
    /// of an AHCI miniport (storport-rules.md StorAhci).
    #[inline(always)]
    unsafe fn count_with_message(&mut self) {
        let mut irql: ULONG = 0;
        // SAFETY: The arguments are those of the inline function.
        unsafe {
            StorPortExtendedFunction(
                extended::ExtFunctionAcquireMSISpinLock,
                self.device_extension,
                self.message,
                &raw mut irql,
            )
        };
        self.count();
        // SAFETY: As above.
        unsafe {
            StorPortExtendedFunction(
                extended::ExtFunctionReleaseMSISpinLock,
                self.device_extension,
                self.message,
                irql,
            )
        };
    }
}

/// Makes the pairs. Each name is the symbol that `cargo xtask guard-cost` looks for.
macro_rules! pairs {
    ($(
        $(#[$doc:meta])*
        $guard:ident: $cell:ident.$with:ident in $context:ident;
        $calls:ident: $count:ident($($kind:expr)?);
    )*) => {$(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        pub extern "C" fn $guard<'a>(cells: &Cells<'a>, cx: &mut $context<'_, 'a>) {
            _ = cells.$cell.$with(cx, |count| **count = count.wrapping_add(1));
        }

        /// The same with the calls of a C miniport.
        ///
        /// # Safety
        /// The caller may take the lock, and `queue` is valid.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $calls(queue: &mut Queue) {
            // SAFETY: The caller's promise.
            unsafe { queue.$count($($kind)?) };
        }
    )*};
}

pairs! {
    /// StartIoLock, in HwBuildIo.
    guard_start_io_lock: start_io.with in BuildIo;
    calls_start_io_lock: count_with(kind::StartIoLock);

    /// DpcLock, in HwStartIo.
    guard_dpc_lock: dpc.with in StartIo;
    calls_dpc_lock: count_with(kind::DpcLock);

    /// InterruptLock, in HwDpcRoutine.
    guard_interrupt_lock: interrupt.with in Dpc;
    calls_interrupt_lock: count_with(kind::InterruptLock);

    /// DpcLevelLock, in HwDpcRoutine.
    guard_dpc_level_lock: dpc.with_at_dpc_level in Dpc;
    calls_dpc_level_lock: count_with_ex(kind::DpcLevelLock);

    /// ThreadedDpcLock, in the routine of a threaded DPC.
    guard_threaded_dpc_lock: dpc.with_in_threaded_dpc in ThreadedDpc;
    calls_threaded_dpc_lock: count_with_ex(kind::ThreadedDpcLock);

    /// A message's lock, in HwDpcRoutine.
    guard_message_lock: message.with in Dpc;
    calls_message_lock: count_with_message();
}
