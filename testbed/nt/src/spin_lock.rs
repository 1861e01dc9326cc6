//! Executive spin locks, which some miniports use beside those of Storport.

use std::{
    cell::Cell,
    sync::atomic::{AtomicUsize, Ordering},
};

use super::processor::{lower, raise};
use testbed_machine::{
    cpu::irql,
    schedule::{self, Point},
    trap::{current_callback, record_driver_error, stop_machine},
};

exports! {
    "KeInitializeSpinLock" => ke_initialize_spin_lock,
    "KeAcquireSpinLockRaiseToDpc" => ke_acquire_spin_lock_raise_to_dpc,
    "KeReleaseSpinLock" => ke_release_spin_lock,
    "KeAcquireSpinLockAtDpcLevel" => ke_acquire_spin_lock_at_dpc_level,
    "KeReleaseSpinLockFromDpcLevel" => ke_release_spin_lock_from_dpc_level,
    "KeAcquireInStackQueuedSpinLock" => ke_acquire_in_stack_queued_spin_lock,
    "KeReleaseInStackQueuedSpinLock" => ke_release_in_stack_queued_spin_lock,
}

/// KLOCK_QUEUE_HANDLE (`wdm.h`): the next entry of the queue, the lock, and the old IRQL.
type LockQueueHandle = [usize; 3];

thread_local! {
    /// Its address identifies the thread.
    static THREAD: Cell<u8> = const { Cell::new(0) };
}

fn this_thread() -> usize {
    THREAD.with(|cell| std::ptr::from_ref(cell) as usize)
}

/// Acquires the lock. It is 0 when free, and identifies its holder's thread when held.
///
/// # Safety
/// `lock` must be a KSPIN_LOCK that only these functions access.
pub(super) unsafe fn acquire(lock: *mut usize) {
    // SAFETY: as the caller promises.
    let lock = unsafe { AtomicUsize::from_ptr(lock) };
    let this = this_thread();
    schedule::point(Point::Acquire);
    while let Err(holder) = lock.compare_exchange(0, this, Ordering::Acquire, Ordering::Relaxed) {
        if holder == this {
            stop_machine(format_args!(
                "the driver took a spin lock in {} that this processor already holds, which would \
                 deadlock",
                current_callback().unwrap_or("no callback")
            ));
        }
        if schedule::is_on() {
            schedule::wait_for_lock(std::ptr::from_ref(lock).addr());
        } else {
            // More threads than processors may spin.
            std::thread::yield_now();
        }
    }
}

/// # Safety
/// As for `acquire`.
pub(super) unsafe fn release(lock: *mut usize) {
    // SAFETY: as the caller promises.
    let lock = unsafe { AtomicUsize::from_ptr(lock) };
    if lock.swap(0, Ordering::Release) != this_thread() {
        stop_machine(format_args!(
            "the driver released a spin lock in {} that this processor does not hold",
            current_callback().unwrap_or("no callback")
        ));
    }
    schedule::free(std::ptr::from_ref(lock).addr());
    schedule::point(Point::Release);
}

unsafe extern "win64" fn ke_initialize_spin_lock(lock: *mut usize) {
    // SAFETY: trusts the driver's arguments, as the kernel does.
    unsafe { lock.write(0) };
}

unsafe extern "win64" fn ke_acquire_spin_lock_raise_to_dpc(lock: *mut usize) -> u8 {
    let before = raise("KeAcquireSpinLock", irql::DISPATCH);
    // SAFETY: trusts the driver's arguments, as the kernel does.
    unsafe { acquire(lock) };
    before
}

unsafe extern "win64" fn ke_release_spin_lock(lock: *mut usize, level: u8) {
    // SAFETY: trusts the driver's arguments, as the kernel does.
    unsafe { release(lock) };
    lower("KeReleaseSpinLock", level);
}

unsafe extern "win64" fn ke_acquire_spin_lock_at_dpc_level(lock: *mut usize) {
    let level = testbed_machine::cpu::current_irql();
    if level < irql::DISPATCH {
        record_driver_error(format!(
            "KeAcquireSpinLockAtDpcLevel was called at IRQL {level} in {}",
            current_callback().unwrap_or("no callback")
        ));
    }
    // SAFETY: trusts the driver's arguments, as the kernel does.
    unsafe { acquire(lock) };
}

unsafe extern "win64" fn ke_release_spin_lock_from_dpc_level(lock: *mut usize) {
    // SAFETY: trusts the driver's arguments, as the kernel does.
    unsafe { release(lock) };
}

unsafe extern "win64" fn ke_acquire_in_stack_queued_spin_lock(
    lock: *mut usize,
    handle: *mut LockQueueHandle,
) {
    // SAFETY: trusts the driver's arguments, as the kernel does.
    let old_irql = unsafe { ke_acquire_spin_lock_raise_to_dpc(lock) };
    // SAFETY: as above.
    unsafe { handle.write([0, lock.expose_provenance(), old_irql.into()]) };
}

unsafe extern "win64" fn ke_release_in_stack_queued_spin_lock(handle: *const LockQueueHandle) {
    // SAFETY: trusts the driver's arguments, as the kernel does.
    let [_, lock, old_irql] = unsafe { handle.read() };
    // SAFETY: the lock was acquired with this handle.
    unsafe { ke_release_spin_lock(lock as *mut usize, old_irql as u8) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use testbed_machine::cpu;

    #[test]
    fn a_lock_excludes_other_threads_and_raises_the_irql() {
        let mut lock = 0_usize;
        let mut counter = 0_u64;
        let (lock, counter) = (&raw mut lock as usize, &raw mut counter as usize);

        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(move || {
                    for _ in 0..1000 {
                        // SAFETY: the lock lives, and only these functions access it.
                        let before = unsafe { ke_acquire_spin_lock_raise_to_dpc(lock as *mut _) };
                        assert_eq!((before, cpu::current_irql()), (0, irql::DISPATCH));
                        // SAFETY: the lock excludes the other threads.
                        unsafe { *(counter as *mut u64) += 1 };
                        // SAFETY: as above.
                        unsafe { ke_release_spin_lock(lock as *mut _, before) };
                        assert_eq!(cpu::current_irql(), 0);
                    }
                });
            }
        });

        // SAFETY: the threads are gone.
        assert_eq!(unsafe { *(counter as *const u64) }, 4000);
    }

    #[test]
    fn a_queued_lock_keeps_lock_and_irql_in_its_handle() {
        let mut lock = 0_usize;
        let lock = &raw mut lock;
        let mut handle = [9; 3];

        // SAFETY: variables of the test.
        unsafe { ke_acquire_in_stack_queued_spin_lock(lock, &raw mut handle) };
        // SAFETY: as above.
        assert_eq!(unsafe { lock.read() }, this_thread());
        assert_eq!((handle[1], handle[2] as u8), (lock.addr(), 0));
        assert_eq!(cpu::current_irql(), irql::DISPATCH);
        // SAFETY: acquired above.
        unsafe { ke_release_in_stack_queued_spin_lock(&raw const handle) };
        // SAFETY: a variable of the test.
        assert_eq!((unsafe { lock.read() }, cpu::current_irql()), (0, 0));
    }
}
