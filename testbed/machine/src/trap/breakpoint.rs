//! The one breakpoint in the driver's code. A schedule sets it where the running thread shall
//! let others run, and the counter at a return address. It is removed when it is hit.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
    sync::{
        LazyLock,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
};

use super::read_memory;

const BREAKPOINT: u8 = 0xcc;

/// The address of the breakpoint, or 0.
static PLACE: AtomicUsize = AtomicUsize::new(0);
/// The byte that the breakpoint replaced.
static BYTE: AtomicU8 = AtomicU8::new(0);

/// The process's memory, including write-protected code. `None` if the host denies access:
/// there are no breakpoints then.
static MEMORY: LazyLock<Option<File>> = LazyLock::new(|| {
    let mut options = OpenOptions::new();
    options.read(true).write(true).open("/proc/self/mem").ok()
});

/// Moves the breakpoint to the instruction at `place`. No other thread may run meanwhile.
pub fn set(place: usize) {
    clear();
    let mut byte = [0];
    if read_memory(place, &mut byte).is_some() && byte[0] != BREAKPOINT && write(place, BREAKPOINT)
    {
        BYTE.store(byte[0], Ordering::Relaxed);
        PLACE.store(place, Ordering::Relaxed);
    }
}

/// Removes the breakpoint.
pub fn clear() {
    let place = PLACE.swap(0, Ordering::Relaxed);
    if place != 0 {
        write(place, BYTE.load(Ordering::Relaxed));
    }
}

/// Whether the breakpoint is at `place`. If so, removes it.
pub(super) fn hit(place: usize) -> bool {
    let hit = place != 0 && PLACE.load(Ordering::Relaxed) == place;
    if hit {
        clear();
    }
    hit
}

fn write(place: usize, byte: u8) -> bool {
    MEMORY
        .as_ref()
        .is_some_and(|memory| memory.write_all_at(&[byte], place as u64).is_ok())
}
