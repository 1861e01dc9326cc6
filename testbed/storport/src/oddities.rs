//! What Storport does seldom and a test asks for: functions that fail, SRBs with
//! odd fields, requests that are built and never started.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use super::{
    abi::srb_status,
    adapter::{FailingFunction, SrbChange},
    port::Port,
    srb::{Slot, Srb, owner},
};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a test has asked for.
#[derive(Debug, Default)]
pub(super) struct Oddities {
    /// Whether `changes` holds something: requests look at this alone.
    changing: AtomicBool,
    changes: Mutex<Vec<SrbChange>>,
    /// How many more requests are built and not started.
    holding: AtomicU32,
    /// The SRBs of those that were.
    held: Mutex<Vec<u32>>,
    /// The calls of [`FailingFunction`]s so far.
    calls: AtomicU32,
}

impl Oddities {
    /// Changes the next SRB that is filled.
    pub(super) fn change_next(&self, changes: Vec<SrbChange>) {
        *lock(&self.changes) = changes;
        self.changing.store(true, Ordering::Release);
    }

    /// Makes the changes that were asked for.
    pub(super) fn change(&self, srb: Srb) {
        if self.changing.swap(false, Ordering::Acquire) {
            for change in std::mem::take(&mut *lock(&self.changes)) {
                srb.change(change);
            }
        }
    }

    /// Holds the next `count` requests that are built.
    pub(super) fn hold(&self, count: u32) {
        self.holding.store(count, Ordering::Release);
    }

    /// Takes a request that was built away from the miniport, if it is to be
    /// held.
    pub(super) fn take_built(&self, number: u32, slot: &Slot) -> bool {
        if self.holding.load(Ordering::Acquire) == 0 {
            return false;
        }
        let takes = self
            .holding
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |left| {
                left.checked_sub(1)
            })
            .is_ok();
        if takes {
            slot.owner.store(owner::HELD, Ordering::Release);
            lock(&self.held).push(number);
        }
        takes
    }

    /// How many requests are held.
    pub(super) fn held(&self) -> usize {
        lock(&self.held).len()
    }

    /// The status of a call of extended function `code` that is to fail.
    pub(super) fn failure(&self, failing: Option<FailingFunction>, code: u32) -> Option<u32> {
        let failing = failing.filter(|failing| failing.code == code)?;
        let calls = self.calls.fetch_add(1, Ordering::Relaxed);
        (calls >= failing.after).then_some(failing.status)
    }
}

impl Port {
    /// Completes the requests that are held with SRB_STATUS_BUS_RESET, as a bus reset does: the
    /// miniport never got them by HwStartIo.
    pub(super) fn complete_held(&self) {
        for number in std::mem::take(&mut *lock(&self.oddities.held)) {
            let slot = self.srbs().slot(number);
            self.srbs()
                .view(slot)
                .set_status(srb_status::SRB_STATUS_BUS_RESET);
            slot.owner.store(owner::COMPLETED, Ordering::Release);
            self.srbs().revoke(number);
            self.cpu_queue(self.srbs().cpu_of(number)).completed(number);
        }
    }
}
