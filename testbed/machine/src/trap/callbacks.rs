//! Records which threads are in driver code, in which callback and since when. Crash messages
//! and the watchdog, which runs on another thread, read this.

use std::{
    cell::{Cell, OnceCell},
    io, ptr,
    sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
    time::{Duration, Instant},
};

use super::stack;
use crate::{clock, cpu, memory::PAGE, schedule};

/// The maximum number of threads that are recorded. More threads run unrecorded.
const MOST_THREADS: usize = 256;

/// The size of a thread's signal stack. It is large because device models run on it.
const TRAP_STACK: usize = 256 << 10;

static SLOTS: [Slot; MOST_THREADS] = [const { Slot::new() }; MOST_THREADS];

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
    SLOTS
        .iter()
        .filter_map(Slot::read)
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
    /// Signal handlers read this, so it has no destructor.
    static CALLBACK: Cell<Option<&'static str>> = const { Cell::new(None) };
    static STACK_END: Cell<usize> = const { Cell::new(0) };
    static SINCE: Cell<u64> = const { Cell::new(0) };
    static THREAD: OnceCell<Thread> = const { OnceCell::new() };
}

/// Runs driver code. A crash in it is reported as the driver's, in `callback`.
pub fn in_driver<R>(callback: &'static str, run: impl FnOnce() -> R) -> R {
    let before = Before {
        callback: CALLBACK.get(),
        since: SINCE.get(),
    };
    enter(Some(callback), coarse_milliseconds());
    stack::enter();
    let result = run();
    drop(before);
    result
}

/// The callback that this thread is in.
pub fn current_callback() -> Option<&'static str> {
    CALLBACK.get()
}

/// The lowest address of this thread's stack; 0 if the thread was never in driver code.
pub(super) fn stack_end() -> usize {
    STACK_END.get()
}

/// Restores the outer callback, also when a test's driver code panics.
struct Before {
    callback: Option<&'static str>,
    since: u64,
}

impl Drop for Before {
    fn drop(&mut self) {
        stack::leave();
        enter(self.callback, self.since);
    }
}

fn enter(callback: Option<&'static str>, since: u64) {
    CALLBACK.set(callback);
    SINCE.set(since);
    // Fails only while the thread ends, when there is nothing to record.
    let _ = THREAD.try_with(|thread| {
        let slot = thread.get_or_init(Thread::new).slot;
        if let Some(slot) = slot {
            slot.write(callback.unwrap_or_default(), since, cpu::current_number());
        }
    });
}

/// What a thread owns until it ends.
#[derive(Debug)]
struct Thread {
    slot: Option<&'static Slot>,
    trap_stack: Option<usize>,
}

impl Thread {
    fn new() -> Self {
        STACK_END.set(find_stack_end().unwrap_or(0));
        Self {
            slot: SLOTS.iter().find(|slot| slot.claim()),
            // Without it, handlers run on the smaller signal stack of Rust's threads.
            trap_stack: install_trap_stack().ok(),
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            slot.write("", 0, 0);
            slot.claimed.store(false, Ordering::Release);
        }
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
            unsafe { libc::munmap(stack as *mut libc::c_void, PAGE + TRAP_STACK) };
        }
    }
}

/// One thread's record, a seqlock: the version is odd during a write.
#[derive(Debug)]
struct Slot {
    claimed: AtomicBool,
    version: AtomicU32,
    name: AtomicPtr<u8>,
    length: AtomicUsize,
    since: AtomicU64,
    cpu: AtomicU32,
}

impl Slot {
    const fn new() -> Self {
        Self {
            claimed: AtomicBool::new(false),
            version: AtomicU32::new(0),
            name: AtomicPtr::new(ptr::null_mut()),
            length: AtomicUsize::new(0),
            since: AtomicU64::new(0),
            cpu: AtomicU32::new(0),
        }
    }

    fn claim(&self) -> bool {
        !self.claimed.swap(true, Ordering::Acquire)
    }

    /// Writes the record. Only the thread that claimed the slot may call this.
    fn write(&self, name: &'static str, since: u64, cpu: u32) {
        let version = self.version.load(Ordering::Relaxed);
        self.version
            .store(version.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        self.name.store(name.as_ptr().cast_mut(), Ordering::Relaxed);
        self.length.store(name.len(), Ordering::Relaxed);
        self.since.store(since, Ordering::Relaxed);
        self.cpu.store(cpu, Ordering::Relaxed);
        self.version
            .store(version.wrapping_add(2), Ordering::Release);
    }

    /// The name, the time and the CPU. `None` if the thread is in no callback, or if it changes
    /// the record during every attempt to read it.
    fn read(&self) -> Option<(&'static str, u64, u32)> {
        for _ in 0..100 {
            let version = self.version.load(Ordering::Acquire);
            let name = self.name.load(Ordering::Relaxed);
            let length = self.length.load(Ordering::Relaxed);
            let since = self.since.load(Ordering::Relaxed);
            let cpu = self.cpu.load(Ordering::Relaxed);
            fence(Ordering::Acquire);
            if version % 2 == 1 || version != self.version.load(Ordering::Relaxed) {
                continue;
            }
            if length == 0 {
                return None;
            }
            // SAFETY: the version is unchanged, so pointer and length come from one `write`,
            // and so from one `&'static str`.
            let bytes = unsafe { std::slice::from_raw_parts(name, length) };
            return Some((std::str::from_utf8(bytes).unwrap_or_default(), since, cpu));
        }
        None
    }
}

/// The monotonic clock at the resolution of a tick, which is cheap enough for each callback.
fn coarse_milliseconds() -> u64 {
    if schedule::is_on() {
        return schedule::now() / 1_000_000;
    }
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: fills the structure.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    time.tv_sec as u64 * 1000 + time.tv_nsec as u64 / 1_000_000
}

/// The CPU time that the process has used. Waiting threads use none.
pub fn processor_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: fills the structure.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn install_trap_stack() -> io::Result<usize> {
    // SAFETY: makes a new mapping at an address that the host chooses.
    let mapped = unsafe {
        libc::mmap(
            ptr::null_mut(),
            PAGE + TRAP_STACK,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if mapped == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the first page of the new mapping becomes its guard.
    unsafe { libc::mprotect(mapped, PAGE, libc::PROT_NONE) };
    let stack = libc::stack_t {
        ss_sp: (mapped as usize + PAGE) as *mut libc::c_void,
        ss_flags: 0,
        ss_size: TRAP_STACK,
    };
    // SAFETY: the stack stays mapped until the thread ends and disables it.
    match unsafe { libc::sigaltstack(&raw const stack, ptr::null_mut()) } {
        0 => Ok(mapped as usize),
        _ => Err(io::Error::last_os_error()),
    }
}

fn find_stack_end() -> Option<usize> {
    let mut attributes = std::mem::MaybeUninit::uninit();
    // SAFETY: has no precondition.
    let this = unsafe { libc::pthread_self() };
    // SAFETY: initialises the attributes if it succeeds.
    if unsafe { libc::pthread_getattr_np(this, attributes.as_mut_ptr()) } != 0 {
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
