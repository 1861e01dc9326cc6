//! Rare behaviour of Storport, injected by a test: failing functions, SRBs with unusual
//! fields, and requests that are built but never started.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use super::{
    abi::wdk,
    adapter::{FailingFunction, SrbChange},
    lock,
    port::Port,
    srb::{Slot, Srb, state},
};

#[derive(Debug, Default)]
pub(super) struct Injections {
    /// Whether `changes` is not empty: the only check on the path of a request.
    changing: AtomicBool,
    changes: Mutex<Vec<SrbChange>>,
    /// How many more requests to hold after HwBuildIo.
    holding: AtomicU32,
    held: Mutex<Vec<u32>>,
    /// The number of calls of the [`FailingFunction`].
    calls: AtomicU32,
}

impl Injections {
    pub(super) fn change_next(&self, changes: Vec<SrbChange>) {
        *lock(&self.changes) = changes;
        self.changing.store(true, Ordering::Release);
    }

    pub(super) fn change(&self, srb: Srb) {
        if self.changing.swap(false, Ordering::Acquire) {
            for change in std::mem::take(&mut *lock(&self.changes)) {
                srb.change(change);
            }
        }
    }

    pub(super) fn hold(&self, count: u32) {
        self.holding.store(count, Ordering::Release);
    }

    /// Holds a built request, if a test asked for it. Returns whether it did.
    pub(super) fn hold_built(&self, number: u32, slot: &Slot) -> bool {
        if self.holding.load(Ordering::Acquire) == 0 {
            return false;
        }
        let holds = self
            .holding
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |left| {
                left.checked_sub(1)
            })
            .is_ok();
        if holds {
            slot.state.store(state::HELD, Ordering::Release);
            lock(&self.held).push(number);
        }
        holds
    }

    pub(super) fn held(&self) -> usize {
        lock(&self.held).len()
    }

    /// The status of this call of extended function `code`, if it must fail.
    pub(super) fn failure(&self, failing: Option<FailingFunction>, code: u32) -> Option<u32> {
        let failing = failing.filter(|failing| failing.code == code)?;
        let calls = self.calls.fetch_add(1, Ordering::Relaxed);
        (calls >= failing.after).then_some(failing.status)
    }
}

impl Port {
    /// Completes the held requests with SRB_STATUS_BUS_RESET, as a bus reset does. The miniport
    /// does not learn of it: HwStartIo never got them.
    pub(super) fn complete_held(&self) {
        for number in std::mem::take(&mut *lock(&self.injections.held)) {
            let slot = self.srbs().slot(number);
            self.srbs().view(slot).set_status(wdk::SRB_STATUS_BUS_RESET);
            slot.state.store(state::COMPLETED, Ordering::Release);
            self.srbs().revoke(number);
            self.cpu_queue(self.srbs().cpu_of(number)).completed(number);
        }
    }
}
