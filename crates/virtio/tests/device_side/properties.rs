//! Any sequence of what a driver and a device can do: nothing is accessed out
//! of bounds, nothing completes twice, nothing is lost, every loop ends.

use std::collections::HashSet;

use proptest::prelude::*;
use proptest::sample::Index;
use virtio::slots::{Prepared, Slot, Staged, Stale};

use crate::disk::{EVENT_IDX, FLAGS, Pair, Tag, memory};
use crate::pci_device::PciDevice;
use crate::proptest_config;
use crate::ring_device::{Chain, Descriptor, RingDevice};

#[derive(Clone, Debug)]
enum Step {
    /// The driver prepares a read.
    Prepare,
    /// The driver publishes the oldest prepared request.
    Publish,
    /// The driver stages the oldest prepared request.
    Stage,
    /// The driver starts a staged request.
    Start { which: Index },
    /// The driver loses a staged request.
    Lose { which: Index },
    /// The driver gives the oldest prepared request up.
    Abandon,
    /// The driver drains the ring as its DPC does.
    Drain,
    /// The driver resets the device.
    Reset,
    /// The device takes what is available.
    Take,
    /// The device finishes a request that it has taken.
    Finish {
        which: Index,
        status: u8,
        length: u32,
    },
    /// The device finishes a request again that it has finished before.
    Replay { which: Index },
    /// The device writes any used element, and moves on.
    Lie { id: u32, length: u32 },
    /// The device writes any index.
    Jump { index: u16 },
    /// The device writes any hints.
    Hints { flags: u16, event: u16 },
    /// The device writes over descriptors and tables.
    Scribble { slot: u16, entry: u16, word: u64 },
}

/// What an honest device and its driver do.
fn honest() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Prepare),
        4 => Just(Step::Publish),
        4 => Just(Step::Stage),
        4 => any::<Index>().prop_map(|which| Step::Start { which }),
        1 => any::<Index>().prop_map(|which| Step::Lose { which }),
        1 => Just(Step::Abandon),
        4 => Just(Step::Drain),
        1 => Just(Step::Reset),
        4 => Just(Step::Take),
        8 => (any::<Index>(), 0..4_u8, 0..600_u32)
            .prop_map(|(which, status, length)| Step::Finish { which, status, length }),
        2 => any::<(u16, u16)>().prop_map(|(flags, event)| Step::Hints { flags, event }),
    ]
}

/// What only a hostile device does.
fn hostile() -> impl Strategy<Value = Step> {
    prop_oneof![
        any::<Index>().prop_map(|which| Step::Replay { which }),
        (prop_oneof![0..9_u32, any::<u32>()], any::<u32>())
            .prop_map(|(id, length)| Step::Lie { id, length }),
        prop_oneof![0..9_u16, any::<u16>()].prop_map(|index| Step::Jump { index }),
        (0..8_u16, 0..8_u16, any::<u64>()).prop_map(|(slot, entry, word)| Step::Scribble {
            slot,
            entry,
            word
        }),
    ]
}

fn sequence(step: impl Strategy<Value = Step>) -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step, 0..if cfg!(miri) { 30 } else { 250 })
}

/// What the test knows of the driver's requests.
struct World<'m> {
    pair: Pair<'m>,
    prepared: Vec<Prepared>,
    /// With the number of resets before each was staged.
    staged: Vec<(Staged, u32)>,
    /// Staged requests since the last reset that were lost.
    lost: usize,
    resets: u32,
    taken: Vec<Chain>,
    finished: Vec<Chain>,
    in_flight: HashSet<Tag>,
    /// The device has finished what it may not have taken.
    lied: bool,
    /// The device has written over what the driver wrote.
    scribbled: bool,
}

impl<'m> World<'m> {
    fn new(pair: Pair<'m>) -> Self {
        Self {
            pair,
            prepared: Vec::new(),
            staged: Vec::new(),
            lost: 0,
            resets: 0,
            taken: Vec::new(),
            finished: Vec::new(),
            in_flight: HashSet::new(),
            lied: false,
            scribbled: false,
        }
    }

    fn size(&self) -> usize {
        self.pair.device.ring.size.get().into()
    }

    fn back(&mut self, slot: Slot, tag: Tag) {
        assert!(self.in_flight.remove(&tag), "{tag} completed twice");
        self.pair.slots.release(slot);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Prepare => {
                let current = self.staged.iter().filter(|it| it.1 == self.resets);
                let held = self.prepared.len() + self.in_flight.len() + self.lost + current.count();
                if held < self.size() {
                    self.prepared.push(self.pair.prepare_read(0, 1));
                } else {
                    assert!(self.pair.slots.reserve().is_none(), "a slot too many");
                }
            }
            Step::Publish if !self.prepared.is_empty() => {
                let prepared = self.prepared.remove(0);
                self.publish(prepared);
            }
            Step::Stage if !self.prepared.is_empty() => {
                let staged = self.pair.slots.stage(self.prepared.remove(0));
                self.staged.push((staged, self.resets));
            }
            Step::Start { which } if !self.staged.is_empty() => {
                let which = which.index(self.staged.len());
                let (staged, resets) = self.staged.swap_remove(which);
                match self.pair.queue.unstage(&self.pair.slots, staged) {
                    Ok(prepared) => {
                        assert_eq!(resets, self.resets, "a stale request was started");
                        self.publish(prepared);
                    }
                    Err(Stale) => assert_ne!(resets, self.resets, "nothing made it stale"),
                }
            }
            Step::Lose { which } if !self.staged.is_empty() => {
                let which = which.index(self.staged.len());
                let (_staged, resets) = self.staged.swap_remove(which);
                self.lost += usize::from(resets == self.resets);
            }
            Step::Abandon if !self.prepared.is_empty() => {
                let slot = self.prepared.remove(0).into_slot();
                self.pair.slots.release(slot);
            }
            Step::Drain => self.drain(),
            Step::Reset => self.reset(),
            Step::Take if !self.scribbled => {
                if self.lied {
                    self.pair.device.catch_up();
                }
                while let Some(chain) = self.pair.device.take() {
                    self.taken.push(chain);
                }
            }
            Step::Finish {
                which,
                status,
                length,
            } if !self.taken.is_empty() => {
                let chain = self.taken.swap_remove(which.index(self.taken.len()));
                self.pair.write_status(&chain, status);
                self.pair.device.finish(chain.head, length);
                self.finished.push(chain);
            }
            Step::Replay { which } if !self.finished.is_empty() => {
                let head = self.finished[which.index(self.finished.len())].head;
                self.pair.device.finish(head, 513);
                self.lied = true;
            }
            Step::Lie { id, length } => {
                self.pair.device.finish_as(id, length);
                self.lied = true;
            }
            Step::Jump { index } => {
                self.lied = true;
                self.pair.device.used = index;
                self.pair.device.set_used_idx(index);
            }
            Step::Hints { flags, event } => {
                self.pair.device.set_used_flags(flags);
                self.pair.device.set_avail_event(event);
            }
            Step::Scribble { slot, entry, word } => {
                let ring = self.pair.device.ring;
                let garbage = Descriptor {
                    address: word,
                    length: word as u32,
                    flags: (word >> 32) as u16,
                    next: (word >> 48) as u16,
                };
                let place = match self.finished.first() {
                    Some(chain) if word & 1 == 1 => chain.table + 16 * u64::from(entry),
                    _ => ring.descriptors + 16 * u64::from(slot),
                };
                self.pair.device.write_descriptor(place, garbage);
                // What it takes from now on is its own work.
                self.scribbled = true;
            }
            _ => {}
        }
    }

    fn publish(&mut self, prepared: Prepared) {
        let tag = self.pair.tag();
        match self.pair.queue.publish(prepared, tag, |it| it) {
            Ok(()) => assert!(self.in_flight.insert(tag)),
            Err(rejected) => {
                assert!(self.pair.queue.fault().is_some(), "{:?}", rejected.reason);
                assert_eq!(rejected.given, tag);
                self.pair.slots.release(rejected.prepared.into_slot());
            }
        }
        let _: bool = self.pair.queue.notification_needed();
    }

    fn drain(&mut self) {
        self.pair.queue.suppress_interrupts();
        let bound = self.pair.queue.in_flight();
        let mut drained = 0;
        loop {
            match self.pair.queue.pop_used() {
                Ok(Some(used)) => {
                    assert!(used.written <= used.writable);
                    let _ = self.pair.requests.outcome(&used);
                    drained += 1;
                    self.back(used.slot, used.payload);
                }
                Ok(None) => break,
                Err(fault) => {
                    assert_eq!(self.pair.queue.fault(), Some(fault));
                    assert_eq!(self.pair.queue.pop_used(), Err(fault), "not latched");
                    break;
                }
            }
        }
        assert!(drained <= bound, "more came back than was in flight");
        let _: bool = self.pair.queue.rearm_interrupts();
        assert_eq!(
            usize::from(self.pair.queue.in_flight()),
            self.in_flight.len()
        );
    }

    fn reset(&mut self) {
        let pci = PciDevice::new();
        let reset = pci.reset_device();
        let mut back = Vec::new();
        self.pair
            .queue
            .reclaim(reset.quiet(), &self.pair.slots, |slot, tag| {
                back.push((slot, tag))
            });
        for (slot, tag) in back {
            self.back(slot, tag);
        }
        assert!(self.in_flight.is_empty(), "lost: {:?}", self.in_flight);
        self.pair.device = RingDevice::new(self.pair.device.memory, self.pair.device.ring);
        self.taken.clear();
        self.finished.clear();
        self.lied = false;
        self.lost = 0;
        self.resets += 1;
        if std::mem::take(&mut self.scribbled) {
            // They may lie in what it wrote over: its own work if it reads it.
            for prepared in self.prepared.drain(..) {
                self.pair.slots.release(prepared.into_slot());
            }
        }
    }

    /// All slots are there, each once.
    fn finish(mut self) {
        self.reset();
        for prepared in self.prepared {
            self.pair.slots.release(prepared.into_slot());
        }
        let free: HashSet<u16> = std::iter::from_fn(|| self.pair.slots.reserve())
            .map(|slot| slot.index())
            .collect();
        assert_eq!(free.len(), usize::from(self.pair.device.ring.size.get()));
        assert!(self.pair.device.memory.strips_are_untouched());
    }
}

proptest! {
    #![proptest_config(proptest_config(500))]

    #[test]
    fn a_hostile_device_completes_nothing_twice_and_loses_nothing(
        steps in sequence(prop_oneof![8 => honest(), 1 => hostile()]),
        event_idx in any::<bool>(),
        log in 2..=4_u32,
    ) {
        let memory = memory();
        let features = if event_idx { EVENT_IDX } else { FLAGS };
        let mut world = World::new(Pair::new(&memory, 1 << log, features));
        for step in steps {
            world.step(step);
        }
        world.finish();
    }

    #[test]
    fn an_honest_device_is_never_found_at_fault(
        steps in sequence(honest()),
        event_idx in any::<bool>(),
        log in 2..=4_u32,
    ) {
        let memory = memory();
        let features = if event_idx { EVENT_IDX } else { FLAGS };
        let mut world = World::new(Pair::new(&memory, 1 << log, features));
        for step in steps {
            world.step(step);
            prop_assert_eq!(world.pair.queue.fault(), None);
        }
        world.finish();
    }
}
