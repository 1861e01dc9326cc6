//! Faults of the driver that a PCI function found, without duplicates.

use std::sync::Mutex;

/// The number of complaints that are kept, so that the list does not grow without limit.
const KEPT: usize = 1000;

/// The complaints so far, in the order in which they were first found.
#[derive(Debug, Default)]
pub(super) struct Complaints(Mutex<Vec<String>>);

impl Complaints {
    /// Adds `complaint`, unless it is in the list already.
    pub(super) fn add(&self, complaint: impl Into<String>) {
        let complaint = complaint.into();
        let mut list = self.0.lock().expect("no holder panics");
        if list.len() < KEPT && !list.contains(&complaint) {
            list.push(complaint);
        }
    }

    /// The number of complaints.
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
    fn the_same_complaint_counts_once() {
        let complaints = Complaints::default();

        complaints.add("a");
        complaints.add("b");
        complaints.add("a");

        assert_eq!(complaints.count(), 2);
        assert_eq!(complaints.list(), ["a", "b"]);
    }

    #[test]
    fn the_list_does_not_grow_for_ever() {
        let complaints = Complaints::default();

        for number in 0..2 * KEPT {
            complaints.add(number.to_string());
        }

        assert_eq!(complaints.count(), KEPT as u64);
    }
}
