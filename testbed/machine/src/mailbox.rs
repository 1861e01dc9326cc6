//! A queue of messages between threads of the machine.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::schedule::Condition;

/// Messages that were sent and not yet received, in order.
pub struct Mailbox<T> {
    waiting: Mutex<VecDeque<T>>,
    more: Condition,
}

impl<T> Default for Mailbox<T> {
    fn default() -> Self {
        Self {
            waiting: Mutex::default(),
            more: Condition::default(),
        }
    }
}

impl<T> Mailbox<T> {
    /// Sends `item`.
    pub fn send(&self, item: T) {
        self.lock().push_back(item);
        self.more.changed();
    }

    /// Waits for the next message. `what` describes it for reports, in a few words.
    pub fn receive(&self, what: &'static str) -> T {
        let mut waiting = self.lock();
        loop {
            match waiting.pop_front() {
                Some(item) => return item,
                None => waiting = self.more.wait(&self.waiting, waiting, None, what),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<T>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
