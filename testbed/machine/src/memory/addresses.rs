//! Allocates virtual pages of the driver's window. A new block is as far as possible from freed
//! ones, so that freed addresses stay unmapped for long and their use is noticed.

use std::collections::BTreeMap;

/// The pages in use: the first page and the length of each block.
#[derive(Debug)]
pub(super) struct Addresses {
    used: BTreeMap<usize, usize>,
    next: usize,
    pages: usize,
}

impl Addresses {
    /// A window of `pages` pages, none in use.
    pub(super) fn new(pages: usize) -> Self {
        Self {
            used: BTreeMap::new(),
            next: 0,
            pages,
        }
    }

    /// Allocates `count` adjacent pages, with a free page behind them. Returns the first.
    pub(super) fn take(&mut self, count: usize) -> Option<usize> {
        let first = match self.find(self.next, self.pages, count) {
            Some(first) => first,
            None => self.find(0, self.pages, count)?,
        };
        self.used.insert(first, count);
        self.next = first + count + 1;
        Some(first)
    }

    /// Frees the block that begins at page `first`.
    pub(super) fn give_back(&mut self, first: usize) {
        self.used.remove(&first);
    }

    fn find(&self, from: usize, to: usize, count: usize) -> Option<usize> {
        let mut first = from;
        loop {
            let end = first.checked_add(count)?.checked_add(1)?;
            if end > to {
                return None;
            }
            let before = self.used.range(..end).next_back();
            match before.map(|(start, count)| start + count + 1) {
                Some(free) if free > first => first = free,
                _ => return Some(first),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Addresses;

    #[test]
    fn freed_pages_come_again_only_after_all_others() {
        let mut addresses = Addresses::new(40);
        let first = addresses.take(9);
        addresses.give_back(0);

        let next = [
            addresses.take(9),
            addresses.take(9),
            addresses.take(9),
            addresses.take(9),
        ];

        assert_eq!(first, Some(0));
        assert_eq!(next, [Some(10), Some(20), Some(30), Some(0)]);
    }

    #[test]
    fn blocks_in_use_are_stepped_over_with_a_page_between() {
        let mut addresses = Addresses::new(20);
        assert_eq!(addresses.take(4), Some(0));
        assert_eq!(addresses.take(4), Some(5));
        assert_eq!(addresses.take(4), Some(10));
        addresses.give_back(5);

        assert_eq!(addresses.take(5), None);
        assert_eq!(addresses.take(4), Some(15));
        assert_eq!(addresses.take(4), Some(5));
        assert_eq!(addresses.take(1), None);
    }
}
