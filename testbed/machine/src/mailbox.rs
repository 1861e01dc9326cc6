//! A queue of messages between threads of the machine.

use std::{collections::VecDeque, sync::Mutex};

use crate::{lock, schedule::Condition};

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
        lock(&self.waiting).push_back(item);
        self.more.changed();
    }

    /// Waits for the next message. `what` describes it for reports, in a few words.
    pub fn receive(&self, what: &'static str) -> T {
        let mut waiting = lock(&self.waiting);
        loop {
            match waiting.pop_front() {
                Some(item) => return item,
                None => waiting = self.more.wait(&self.waiting, waiting, None, what),
            }
        }
    }
}
