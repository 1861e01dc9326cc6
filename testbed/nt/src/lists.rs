//! Interlocked lists. One lock protects all of them, because drivers change them only with
//! these functions.

use std::{
    ptr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{
    Export,
    spin_lock::{acquire, release},
};

pub(super) const EXPORTS: &[Export] = &[
    ("InitializeSListHead", initialize_slist_head as *const ()),
    ("ExpInterlockedPushEntrySList", push as *const ()),
    ("ExpInterlockedPopEntrySList", pop as *const ()),
    ("ExpInterlockedFlushSList", flush as *const ()),
    ("ExQueryDepthSList", depth as *const ()),
    ("ExInterlockedInsertHeadList", insert_head as *const ()),
    ("ExInterlockedInsertTailList", insert_tail as *const ()),
    ("ExInterlockedRemoveHeadList", remove_head as *const ()),
];

/// SLIST_HEADER of x64 (`ntdef.h`): depth in the lowest 16 bits, a sequence
/// number above, and the first entry with its lowest 4 bits reserved.
#[repr(C, align(16))]
#[derive(Clone, Copy, Debug, Default)]
struct SListHeader {
    depth_and_sequence: u64,
    first: u64,
}

/// SLIST_ENTRY, which begins with the pointer to the next entry.
#[repr(C, align(16))]
#[derive(Debug)]
struct SListEntry {
    next: *mut SListEntry,
}

/// LIST_ENTRY.
#[repr(C)]
#[derive(Debug)]
struct ListEntry {
    forward: *mut ListEntry,
    backward: *mut ListEntry,
}

/// The place of an entry's pointer to the next one.
fn forward(entry: *mut ListEntry) -> *mut *mut ListEntry {
    entry.cast()
}

/// The place of an entry's pointer to the previous one.
fn backward(entry: *mut ListEntry) -> *mut *mut ListEntry {
    entry.cast::<*mut ListEntry>().wrapping_add(1)
}

fn lock() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SListHeader {
    fn first(self) -> *mut SListEntry {
        (self.first & !0xf) as *mut SListEntry
    }

    /// The header with another first entry and depth, and the next sequence number.
    fn with(self, first: *mut SListEntry, depth: u16) -> Self {
        let sequence = (self.depth_and_sequence >> 16).wrapping_add(1);
        Self {
            depth_and_sequence: sequence << 16 | u64::from(depth),
            first: first as u64,
        }
    }

    fn depth(self) -> u16 {
        self.depth_and_sequence as u16
    }
}

unsafe extern "win64" fn initialize_slist_head(head: *mut SListHeader) {
    // SAFETY: trusts the driver's arguments, as the kernel does.
    unsafe { head.write(SListHeader::default()) };
}

/// Returns the previous first entry.
unsafe extern "win64" fn push(head: *mut SListHeader, entry: *mut SListEntry) -> *mut SListEntry {
    let _held = lock();
    // SAFETY: trusts the driver's arguments, as the kernel does.
    let before = unsafe { head.read() };
    // SAFETY: trusts the driver's arguments, as the kernel does.
    unsafe { entry.cast::<*mut SListEntry>().write(before.first()) };
    // SAFETY: trusts the driver's arguments, as the kernel does.
    unsafe { head.write(before.with(entry, before.depth().wrapping_add(1))) };
    before.first()
}

unsafe extern "win64" fn pop(head: *mut SListHeader) -> *mut SListEntry {
    let _held = lock();
    // SAFETY: trusts the driver's arguments, as the kernel does.
    let before = unsafe { head.read() };
    let entry = before.first();
    if entry.is_null() {
        return entry;
    }
    // SAFETY: entries of the list are valid while they are in it.
    let next = unsafe { entry.cast::<*mut SListEntry>().read() };
    // SAFETY: trusts the driver's arguments, as the kernel does.
    unsafe { head.write(before.with(next, before.depth().wrapping_sub(1))) };
    entry
}

/// Removes all entries and returns the first, which links to the others.
unsafe extern "win64" fn flush(head: *mut SListHeader) -> *mut SListEntry {
    let _held = lock();
    // SAFETY: trusts the driver's arguments, as the kernel does.
    let before = unsafe { head.read() };
    // SAFETY: trusts the driver's arguments, as the kernel does.
    unsafe { head.write(before.with(ptr::null_mut(), 0)) };
    before.first()
}

unsafe extern "win64" fn depth(head: *const SListHeader) -> u16 {
    let _held = lock();
    // SAFETY: trusts the driver's arguments, as the kernel does.
    unsafe { head.read() }.depth()
}

/// Links `entry` between two neighbours.
///
/// # Safety
/// All three must be list entries, and their list must be locked.
unsafe fn link(before: *mut ListEntry, entry: *mut ListEntry, after: *mut ListEntry) {
    let content = ListEntry {
        forward: after,
        backward: before,
    };
    // SAFETY: as the caller promises.
    unsafe { entry.write(content) };
    // SAFETY: as the caller promises.
    unsafe { forward(before).write(entry) };
    // SAFETY: as the caller promises.
    unsafe { backward(after).write(entry) };
}

/// `entry`, or null if it is the head, because the list was empty.
fn unless_head(entry: *mut ListEntry, head: *mut ListEntry) -> *mut ListEntry {
    if entry == head {
        ptr::null_mut()
    } else {
        entry
    }
}

unsafe extern "win64" fn insert_head(
    head: *mut ListEntry,
    entry: *mut ListEntry,
    spin_lock: *mut usize,
) -> *mut ListEntry {
    // SAFETY: trusts the driver's arguments, as the kernel does.
    unsafe { acquire(spin_lock) };
    // SAFETY: trusts the driver's arguments, as the kernel does.
    let first = unsafe { forward(head).read() };
    // SAFETY: trusts the driver's arguments. The list is locked.
    unsafe { link(head, entry, first) };
    // SAFETY: acquired above.
    unsafe { release(spin_lock) };
    unless_head(first, head)
}

unsafe extern "win64" fn insert_tail(
    head: *mut ListEntry,
    entry: *mut ListEntry,
    spin_lock: *mut usize,
) -> *mut ListEntry {
    // SAFETY: trusts the driver's arguments, as the kernel does.
    unsafe { acquire(spin_lock) };
    // SAFETY: trusts the driver's arguments, as the kernel does.
    let last = unsafe { backward(head).read() };
    // SAFETY: trusts the driver's arguments. The list is locked.
    unsafe { link(last, entry, head) };
    // SAFETY: acquired above.
    unsafe { release(spin_lock) };
    unless_head(last, head)
}

unsafe extern "win64" fn remove_head(
    head: *mut ListEntry,
    spin_lock: *mut usize,
) -> *mut ListEntry {
    // SAFETY: trusts the driver's arguments, as the kernel does.
    unsafe { acquire(spin_lock) };
    // SAFETY: trusts the driver's arguments, as the kernel does.
    let first = unsafe { forward(head).read() };
    if first != head {
        // SAFETY: entries of the list are valid while they are in it.
        let second = unsafe { forward(first).read() };
        // SAFETY: trusts the driver's arguments. The list is locked.
        unsafe { forward(head).write(second) };
        // SAFETY: an entry in the list is the list's, and so is the head.
        unsafe { backward(second).write(head) };
    }
    // SAFETY: acquired above.
    unsafe { release(spin_lock) };
    unless_head(first, head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_returns_the_last_entry_first() {
        let mut head = SListHeader {
            depth_and_sequence: 9,
            first: 9,
        };
        let mut entries = [0, 1].map(|_| SListEntry {
            next: ptr::null_mut(),
        });
        let head = &raw mut head;
        let [first, second] = entries.each_mut().map(|entry| &raw mut *entry);
        let mut outcomes = Vec::new();

        // SAFETY: variables of the test.
        unsafe { initialize_slist_head(head) };
        for entry in [first, second] {
            // SAFETY: variables of the test.
            outcomes.push(unsafe { push(head, entry) });
        }
        // SAFETY: variables of the test.
        assert_eq!(unsafe { depth(head) }, 2);
        for _ in 0..3 {
            // SAFETY: variables of the test.
            outcomes.push(unsafe { pop(head) });
        }
        for entry in [first, second] {
            // SAFETY: variables of the test.
            unsafe { push(head, entry) };
        }
        // SAFETY: variables of the test.
        outcomes.push(unsafe { flush(head) });

        let null = ptr::null_mut();
        assert_eq!(outcomes, [null, first, second, first, null, second]);
        // SAFETY: variables of the test.
        assert_eq!(unsafe { depth(head) }, 0);
    }

    #[test]
    fn a_queue_takes_entries_at_both_ends() {
        let null = ptr::null_mut();
        let mut entries = [0; 4].map(|_| ListEntry {
            forward: null,
            backward: null,
        });
        let [head, a, b, c] = entries.each_mut().map(|entry| &raw mut *entry);
        let mut spin_lock = 0;
        let spin_lock = &raw mut spin_lock;
        // SAFETY: a variable of the test.
        unsafe {
            head.write(ListEntry {
                forward: head,
                backward: head,
            })
        };

        // SAFETY: variables of the test.
        assert_eq!(unsafe { insert_tail(head, b, spin_lock) }, null);
        // SAFETY: variables of the test.
        assert_eq!(unsafe { insert_tail(head, c, spin_lock) }, b);
        // SAFETY: variables of the test.
        assert_eq!(unsafe { insert_head(head, a, spin_lock) }, b);
        for expected in [a, b, c, null] {
            // SAFETY: variables of the test.
            assert_eq!(unsafe { remove_head(head, spin_lock) }, expected);
        }
    }
}
