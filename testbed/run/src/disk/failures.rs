//! Failed transfers of a run with --keep-going.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use testbed_machine::lock;

use super::port::CommandError;

/// The failed transfers of a disk.
#[derive(Debug, Default)]
pub struct Failures {
    tolerated: AtomicBool,
    counts: Mutex<BTreeMap<String, u64>>,
}

impl Failures {
    /// From now on, failed transfers are only counted.
    pub fn tolerate(&self) {
        self.tolerated.store(true, Ordering::Relaxed);
    }

    /// Counts a failed transfer, or returns its error if it aborts the run.
    pub(crate) fn pass_over(&self, error: CommandError) -> Option<CommandError> {
        if !self.tolerated.load(Ordering::Relaxed) {
            return Some(error);
        }
        let mut counts = lock(&self.counts);
        *counts.entry(error.how.to_string()).or_default() += 1;
        None
    }

    /// The ignored failures, with their counts.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<String, u64> {
        let counts = lock(&self.counts);
        counts.clone()
    }
}
