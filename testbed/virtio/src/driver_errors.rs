//! Violations of a specification by the driver, without duplicates. The function carries them
//! out as far as a real device would.

use std::sync::Mutex;

/// The maximum number of errors, so that the list does not grow without limit.
const KEPT: usize = 1000;

/// The errors so far, in the order of discovery.
#[derive(Debug, Default)]
pub struct DriverErrors(Mutex<Vec<String>>);

impl DriverErrors {
    /// Adds `error` unless it is in the list.
    pub fn add(&self, error: impl Into<String>) {
        let error = error.into();
        let mut list = self.0.lock().expect("no holder panics");
        if list.len() < KEPT && !list.contains(&error) {
            list.push(error);
        }
    }

    /// The number of errors.
    pub fn count(&self) -> u64 {
        self.0.lock().expect("no holder panics").len() as u64
    }

    /// All errors.
    pub fn list(&self) -> Vec<String> {
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
