//! One place in the driver's code at which a thread that comes there lets
//! others run: a breakpoint for a schedule, used up when it is hit.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
    sync::{
        LazyLock,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
};

use super::read_memory;

/// INT 3.
const BREAKPOINT: u8 = 0xcc;

/// Where it is; 0 without one.
static PLACE: AtomicUsize = AtomicUsize::new(0);
/// The byte that was there.
static BYTE: AtomicU8 = AtomicU8::new(0);

/// The process's memory, code that is write-protected included. Where the host
/// does not give it there are no breakpoints.
static MEMORY: LazyLock<Option<File>> = LazyLock::new(|| {
    let mut options = OpenOptions::new();
    options.read(true).write(true).open("/proc/self/mem").ok()
});

/// Sets it at the instruction at `place`, and nowhere else. Only while no other
/// thread runs.
pub fn set(place: usize) {
    clear();
    let mut byte = [0];
    if read_memory(place, &mut byte).is_some() && byte[0] != BREAKPOINT && write(place, BREAKPOINT)
    {
        BYTE.store(byte[0], Ordering::Relaxed);
        PLACE.store(place, Ordering::Relaxed);
    }
}

/// Takes it away.
pub fn clear() {
    let place = PLACE.swap(0, Ordering::Relaxed);
    if place != 0 {
        write(place, BYTE.load(Ordering::Relaxed));
    }
}

/// Whether a breakpoint at `place` is this one; it is used up then.
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
