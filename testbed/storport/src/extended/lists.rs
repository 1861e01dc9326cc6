//! The interlocked lists: SLIST_HEADER (last in, first out) and doubly linked lists. One mutex of
//! the adapter protects all lists, instead of Windows' atomic instructions and the caller's
//! STOR_KSPIN_LOCK.

use super::{
    super::{
        abi::{
            Status, Structure, calls::Call, stor_list_entry as list_entry,
            stor_slist_entry as slist_entry, stor_slist_header as slist,
            wdk::STOR_STATUS_INVALID_PARAMETER,
        },
        lock,
        port::Port,
    },
    output,
};

pub(super) fn initialize_slist_head(call: &mut Call, _: &'static Port) -> Status {
    let head = call.required()?;
    head.set(slist::Alignment, 0);
    // HeaderType on x64.
    head.set(slist::Region, 1);
    Ok(())
}

/// Sets first entry and depth, and increments the sequence number above the depth.
fn set_slist(head: Structure, first: usize, depth: u16) {
    let sequence = (head.get(slist::Alignment) >> 16).wrapping_add(1);
    head.set(slist::Alignment, sequence << 16 | usize::from(depth));
    head.set(slist::Region, first & !0xf | 1);
}

/// The first entry. The low bits of its address are HeaderType.
fn slist_first(head: Structure) -> Structure {
    let region = head.follow(slist::Region);
    region.offset((region.address() & 0xf).wrapping_neg())
}

fn slist_depth(head: Structure) -> u16 {
    head.get(slist::Alignment) as u16
}

pub(super) fn interlocked_flush_slist(call: &mut Call, port: &'static Port) -> Status {
    let (head, to) = (call.structure(), call.structure());
    let _lists = lock(&port.lists);
    let first = slist_first(head);
    set_slist(head, 0, 0);
    output(to, first.address())
}

pub(super) fn interlocked_pop_entry_slist(call: &mut Call, port: &'static Port) -> Status {
    let (head, to) = (call.structure(), call.structure());
    let _lists = lock(&port.lists);
    let first = slist_first(head);
    if !first.is_null() {
        let next = first.get(slist_entry::Next);
        set_slist(head, next, slist_depth(head).wrapping_sub(1));
    }
    output(to, first.address())
}

pub(super) fn interlocked_push_entry_slist(call: &mut Call, port: &'static Port) -> Status {
    let (head, entry, to) = (call.structure(), call.structure(), call.structure());
    if !entry.address().is_multiple_of(16) {
        return Err(STOR_STATUS_INVALID_PARAMETER);
    }
    let _lists = lock(&port.lists);
    let first = slist_first(head).address();
    entry.set(slist_entry::Next, first);
    set_slist(head, entry.address(), slist_depth(head).wrapping_add(1));
    output(to, first)
}

pub(super) fn query_depth_slist(call: &mut Call, port: &'static Port) -> Status {
    let (head, to) = (call.structure(), call.structure());
    let _lists = lock(&port.lists);
    output(to, slist_depth(head))
}

#[derive(Clone, Copy)]
pub(super) enum End {
    Head,
    Tail,
}

pub(super) fn interlocked_insert(call: &mut Call, port: &'static Port, end: End) -> Status {
    let (head, entry, to) = (call.structure(), call.structure(), call.structure());
    let _lists = lock(&port.lists);
    let (before, after) = match end {
        End::Head => (head, head.follow(list_entry::Flink)),
        End::Tail => (head.follow(list_entry::Blink), head),
    };
    let was = match end {
        End::Head => after.address(),
        End::Tail => before.address(),
    };
    entry.set(list_entry::Flink, after.address());
    entry.set(list_entry::Blink, before.address());
    before.set(list_entry::Flink, entry.address());
    after.set(list_entry::Blink, entry.address());
    output(to, if was == head.address() { 0 } else { was })
}

pub(super) fn interlocked_remove_head_list(call: &mut Call, port: &'static Port) -> Status {
    let (head, to) = (call.structure(), call.structure());
    let _lists = lock(&port.lists);
    let first = head.follow(list_entry::Flink);
    if first.address() == head.address() {
        return output(to, 0usize);
    }
    let second = first.follow(list_entry::Flink);
    head.set(list_entry::Flink, second.address());
    second.set(list_entry::Blink, head.address());
    output(to, first.address())
}
