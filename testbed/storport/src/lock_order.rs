//! Records the orders in which locks are nested. If two locks are nested in both orders, two CPUs
//! can deadlock, even if they did not in this run.
//!
//! Rule `lock-order` covers interrupt locks. No page demands an order for other pairs of locks,
//! so a miniport is only wrong if it uses both orders.

use std::sync::Mutex;

use super::{lock, spin_locks::LockId};

/// A lock that was taken while another was held.
#[derive(Clone, Debug)]
struct Nesting {
    outer: LockId,
    inner: LockId,
    /// The place of the first such acquisition.
    place: String,
}

#[derive(Debug, Default)]
pub(super) struct LockOrder(Mutex<Vec<Nesting>>);

impl LockOrder {
    /// Records that `inner` is taken at `place` while `outer` is held. Returns how the opposite
    /// order came about earlier, if it did.
    pub(super) fn note(
        &self,
        outer: LockId,
        inner: LockId,
        place: impl FnOnce() -> String,
    ) -> Option<String> {
        let mut known = lock(&self.0);
        let is_known = known
            .iter()
            .any(|nesting| (nesting.outer, nesting.inner) == (outer, inner));
        if !is_known {
            known.push(Nesting {
                outer,
                inner,
                place: place(),
            });
        }
        // The usual case: nothing was ever taken under `inner`.
        known.iter().find(|nesting| nesting.outer == inner)?;
        let steps = shortest_chain(&known, inner, outer)?;
        let told: Vec<_> = steps
            .iter()
            .map(|step| format!("{} under {} {}", step.inner, step.outer, step.place))
            .collect();
        Some(told.join(", "))
    }
}

fn shortest_chain(known: &[Nesting], from: LockId, to: LockId) -> Option<Vec<&Nesting>> {
    let mut chains: Vec<(LockId, Vec<&Nesting>)> = vec![(from, Vec::new())];
    let mut at = 0;
    while let Some((lock, steps)) = chains.get(at).cloned() {
        if lock == to {
            return Some(steps);
        }
        for nesting in known.iter().filter(|nesting| nesting.outer == lock) {
            if chains.iter().all(|(reached, _)| *reached != nesting.inner) {
                let mut steps = steps.clone();
                steps.push(nesting);
                chains.push((nesting.inner, steps));
            }
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(orders: &LockOrder, outer: u32, inner: u32) -> Option<String> {
        let place = || format!("at {outer}{inner}");
        orders.note(LockId::Dpc(outer), LockId::Dpc(inner), place)
    }

    #[test]
    fn only_a_cycle_is_reported_with_the_place_of_each_of_its_steps() {
        let [first, second] = ["Dpc 1 under Dpc 0 at 01", "Dpc 2 under Dpc 1 at 12"];
        for (before, last, cycle) in [
            (&[(0, 1), (0, 1), (1, 2)][..], (0, 2), None),
            (&[(0, 1)], (1, 0), Some(first.to_owned())),
            (
                &[(0, 1), (1, 2)],
                (2, 0),
                Some(format!("{first}, {second}")),
            ),
        ] {
            let orders = LockOrder::default();
            for (outer, inner) in before {
                assert_eq!(note(&orders, *outer, *inner), None);
            }
            assert_eq!(note(&orders, last.0, last.1), cycle);
        }
    }
}
