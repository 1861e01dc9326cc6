//! Transfers that failed, where a run goes on after them.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use super::port::CommandError;

/// The failed transfers of a disk.
#[derive(Debug, Default)]
pub struct Failures {
    tolerated: AtomicBool,
    counts: Mutex<BTreeMap<String, u64>>,
}

impl Failures {
    /// From now on a failed transfer is counted and ends nothing.
    pub fn tolerate(&self) {
        self.tolerated.store(true, Ordering::Relaxed);
    }

    /// Counts a failed transfer, or gives its error back if it ends the run.
    pub(crate) fn pass_over(&self, error: CommandError) -> Option<CommandError> {
        if !self.tolerated.load(Ordering::Relaxed) {
            return Some(error);
        }
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(error.how.to_string()).or_default() += 1;
        None
    }

    /// How the transfers failed that were passed over, and how often.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<String, u64> {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.clone()
    }
}
