//! Faults of the driver that a PCI function found, without duplicates.

use std::sync::Mutex;

/// The number of driver errors that are kept, so that the list does not grow without limit.
const KEPT: usize = 1000;

/// The driver errors so far, in the order in which they were first found.
#[derive(Debug, Default)]
pub(super) struct DriverErrors(Mutex<Vec<String>>);

impl DriverErrors {
    /// Adds `error`, unless it is in the list already.
    pub(super) fn add(&self, error: impl Into<String>) {
        let error = error.into();
        let mut list = self.0.lock().expect("no holder panics");
        if list.len() < KEPT && !list.contains(&error) {
            list.push(error);
        }
    }

    /// The number of driver errors.
    pub(super) fn count(&self) -> u64 {
        self.0.lock().expect("no holder panics").len() as u64
    }

    /// All of them.
    pub(super) fn list(&self) -> Vec<String> {
        self.0.lock().expect("no holder panics").clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_error_counts_once() {
        let driver_errors = DriverErrors::default();

        driver_errors.add("a");
        driver_errors.add("b");
        driver_errors.add("a");

        assert_eq!(driver_errors.count(), 2);
        assert_eq!(driver_errors.list(), ["a", "b"]);
    }

    #[test]
    fn the_list_does_not_grow_for_ever() {
        let driver_errors = DriverErrors::default();

        for number in 0..2 * KEPT {
            driver_errors.add(number.to_string());
        }

        assert_eq!(driver_errors.count(), KEPT as u64);
    }
}
