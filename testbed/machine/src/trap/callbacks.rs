//! Records which threads are in driver code, in which callback and since when. Crash messages
//! and the watchdog, which runs on another thread, read this.

use std::{
    cell::{Cell, OnceCell},
    ffi::c_void,
    io,
    num::NonZero,
    ptr::{self, NonNull},
    sync::{Arc, Mutex, Weak},
    time::{Duration, Instant},
};

use nix::{
    sys::{
        mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect, munmap},
        pthread::pthread_self,
    },
    time::ClockId,
};

use super::stack;
use crate::{clock, cpu, lock, memory::PAGE, schedule};

/// The size of a thread's signal stack. It is large because device models run on it.
const TRAP_STACK: usize = 256 << 10;

/// What a thread in driver code does: the callback, when the thread entered it in milliseconds,
/// and the CPU that the thread acts for.
type Record = Mutex<Option<(&'static str, u64, u32)>>;

/// The records of all threads that were in driver code.
static RECORDS: Mutex<Vec<Weak<Record>>> = Mutex::new(Vec::new());

/// A thread in driver code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunningCallback {
    /// The innermost callback.
    pub callback: &'static str,
    /// When the thread entered that callback, to a few milliseconds.
    pub since: Instant,
    /// The virtual CPU that the thread acts for.
    pub cpu: u32,
}

/// The callbacks that run now, on all threads.
#[must_use]
pub fn running_callbacks() -> Vec<RunningCallback> {
    let now = clock::instant();
    let milliseconds = coarse_milliseconds();
    let records = lock(&RECORDS);
    records
        .iter()
        .filter_map(|record| *lock(&*record.upgrade()?))
        .map(|(callback, entered, cpu)| RunningCallback {
            callback,
            since: now
                .checked_sub(Duration::from_millis(milliseconds.saturating_sub(entered)))
                .unwrap_or(now),
            cpu,
        })
        .collect()
}

thread_local! {
    /// The callback, and when it was entered in milliseconds. Signal handlers read this, so it
    /// has no destructor.
    static CALLBACK: Cell<Option<(&'static str, u64)>> = const { Cell::new(None) };
    static STACK_END: Cell<usize> = const { Cell::new(0) };
    static THREAD: OnceCell<Thread> = const { OnceCell::new() };
}

/// Runs driver code. A crash in it is reported as the driver's, in `callback`.
pub fn in_driver<R>(callback: &'static str, run: impl FnOnce() -> R) -> R {
    let before = Before(CALLBACK.get());
    enter(Some((callback, coarse_milliseconds())));
    stack::enter();
    let result = run();
    drop(before);
    result
}

/// The callback that this thread is in.
pub fn current_callback() -> Option<&'static str> {
    CALLBACK.get().map(|(callback, _)| callback)
}

/// The lowest address of this thread's stack; 0 if the thread was never in driver code.
pub(super) fn stack_end() -> usize {
    STACK_END.get()
}

/// Restores the outer callback, also when a test's driver code panics.
struct Before(Option<(&'static str, u64)>);

impl Drop for Before {
    fn drop(&mut self) {
        stack::leave();
        enter(self.0);
    }
}

fn enter(callback: Option<(&'static str, u64)>) {
    CALLBACK.set(callback);
    // Fails only while the thread ends, when there is nothing to record.
    let _ = THREAD.try_with(|thread| {
        let record = &thread.get_or_init(Thread::new).record;
        *lock(record) = callback.map(|(callback, since)| (callback, since, cpu::current_number()));
    });
}

/// What a thread owns until it ends.
#[derive(Debug)]
struct Thread {
    record: Arc<Record>,
    trap_stack: Option<NonNull<c_void>>,
}

impl Thread {
    fn new() -> Self {
        STACK_END.set(find_stack_end().unwrap_or(0));
        let record = Arc::default();
        let mut records = lock(&RECORDS);
        records.retain(|record| record.strong_count() > 0);
        records.push(Arc::downgrade(&record));
        Self {
            record,
            // Without it, handlers run on the smaller signal stack of Rust's threads.
            trap_stack: install_trap_stack().ok(),
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        if let Some(stack) = self.trap_stack {
            let none = libc::stack_t {
                ss_sp: ptr::null_mut(),
                ss_flags: libc::SS_DISABLE,
                ss_size: 0,
            };
            // SAFETY: this thread is not in a signal handler.
            unsafe { libc::sigaltstack(&raw const none, ptr::null_mut()) };
            // SAFETY: `install_trap_stack` mapped it for this thread, and it is no longer a
            // signal stack.
            let _ = unsafe { munmap(stack, PAGE + TRAP_STACK) };
        }
    }
}

/// The monotonic clock at the resolution of a tick, which is cheap enough for each callback.
fn coarse_milliseconds() -> u64 {
    if schedule::is_on() {
        return schedule::now() / 1_000_000;
    }
    time(ClockId::CLOCK_MONOTONIC_COARSE).as_millis() as u64
}

/// The CPU time that the process has used. Waiting threads use none.
pub fn processor_time() -> Duration {
    time(ClockId::CLOCK_PROCESS_CPUTIME_ID)
}

fn time(clock: ClockId) -> Duration {
    clock.now().map_or(Duration::ZERO, Duration::from)
}

fn install_trap_stack() -> io::Result<NonNull<c_void>> {
    const BYTES: NonZero<usize> = NonZero::new(PAGE + TRAP_STACK).expect("a guard page at least");
    let (access, flags) = (
        ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
        MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE,
    );
    // SAFETY: makes a new mapping at an address that the host chooses.
    let mapped = unsafe { mmap_anonymous(None, BYTES, access, flags) }?;
    // SAFETY: the first page of the new mapping becomes its guard.
    unsafe { mprotect(mapped, PAGE, ProtFlags::PROT_NONE) }?;
    let stack = libc::stack_t {
        ss_sp: mapped.as_ptr().wrapping_byte_add(PAGE),
        ss_flags: 0,
        ss_size: TRAP_STACK,
    };
    // SAFETY: the stack stays mapped until the thread ends and disables it.
    match unsafe { libc::sigaltstack(&raw const stack, ptr::null_mut()) } {
        0 => Ok(mapped),
        _ => Err(io::Error::last_os_error()),
    }
}

fn find_stack_end() -> Option<usize> {
    let mut attributes = std::mem::MaybeUninit::uninit();
    // SAFETY: initialises the attributes if it succeeds.
    if unsafe { libc::pthread_getattr_np(pthread_self(), attributes.as_mut_ptr()) } != 0 {
        return None;
    }
    let mut address = ptr::null_mut();
    let mut bytes = 0;
    // SAFETY: the attributes were initialised above.
    let found = unsafe {
        libc::pthread_attr_getstack(attributes.as_ptr(), &raw mut address, &raw mut bytes)
    };
    // SAFETY: as above; they are not used again.
    unsafe { libc::pthread_attr_destroy(attributes.as_mut_ptr()) };
    (found == 0).then_some(address as usize)
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Instant};

    use super::{in_driver, running_callbacks};

    fn seen(name: &str) -> bool {
        running_callbacks()
            .iter()
            .any(|running| running.callback == name)
    }

    #[test]
    fn another_thread_sees_the_innermost_callback_while_it_runs() {
        let (say, hear) = mpsc::channel();
        let (go, wait) = mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            in_driver("outer of a test", || {
                in_driver("inner of a test", || {
                    say.send(()).expect("a listener");
                    wait.recv().expect("a sender");
                });
                say.send(()).expect("a listener");
                wait.recv().expect("a sender");
            });
        });

        hear.recv().expect("a sender");
        assert!(seen("inner of a test"));
        assert!(!seen("outer of a test"));
        go.send(()).expect("a listener");
        hear.recv().expect("a sender");
        assert!(seen("outer of a test"));
        assert!(
            running_callbacks()
                .iter()
                .all(|running| running.since <= Instant::now())
        );
        go.send(()).expect("a listener");
        thread.join().expect("no panic");
        assert!(!seen("outer of a test"));
    }

    #[test]
    fn a_panic_leaves_no_callback_running() {
        let result =
            std::panic::catch_unwind(|| in_driver("panics in a test", || panic!("on purpose")));

        assert!(result.is_err());
        assert!(!seen("panics in a test"));
    }
}
