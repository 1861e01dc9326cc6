//! Random sequences of steps of a driver and a device. No access is out of bounds, no request
//! completes twice or is lost, and every loop ends.

use std::collections::HashSet;

use proptest::prelude::*;
use proptest::sample::Index;
use testbed_virtio::chain::Chain;
use testbed_virtio::memory::{GuestMemory, Memory};
use testbed_virtio::packed_ring::PackedRingDevice;
use testbed_virtio::split_ring::RingDevice;
use virtio::blk::{Config, Refusal, Segment};
use virtio::queue::Rejection;
use virtio::queue::format::QueueFormat;
use virtio::slots::{Prepared, Slot, SlotSize};
use virtio::spec::F;

use crate::disk::{
    DeviceSide, FLAGS, Pair, ROOM, Tag, config, data, extent, formats, memory, queue_size,
};
use crate::proptest_config;

#[derive(Clone, Debug)]
enum Step {
    /// The driver reserves a slot.
    Reserve,
    /// The driver prepares a read in the slot that it reserved first.
    Prepare,
    /// The driver releases the slot that it reserved first.
    Release,
    /// The driver publishes a prepared request.
    Publish { which: Index },
    /// The driver loses a prepared request.
    Lose { which: Index },
    /// The driver cancels a prepared request.
    Cancel { which: Index },
    /// The driver drains the ring as its DPC does.
    Drain,
    /// The driver resets the device.
    Reset,
    /// The device takes the available requests.
    Take,
    /// The device finishes a request that it has taken.
    Finish {
        which: Index,
        status: u8,
        length: u32,
    },
    /// The device finishes a request again that it has finished before.
    Replay { which: Index },
    /// The device writes any used element, and advances its index.
    Lie { id: u32, length: u32 },
    /// The device writes any used index.
    Jump { index: u16 },
    /// The device writes any flags and any event index.
    Hints { flags: u16, event: u16 },
    /// The device overwrites descriptors and tables.
    Scribble { slot: u16, entry: u16, word: u64 },
}

/// The steps of a driver and an honest device.
fn honest() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Reserve),
        6 => Just(Step::Prepare),
        1 => Just(Step::Release),
        6 => any::<Index>().prop_map(|which| Step::Publish { which }),
        1 => any::<Index>().prop_map(|which| Step::Lose { which }),
        1 => any::<Index>().prop_map(|which| Step::Cancel { which }),
        4 => Just(Step::Drain),
        1 => Just(Step::Reset),
        4 => Just(Step::Take),
        8 => (any::<Index>(), 0..4_u8, 0..600_u32)
            .prop_map(|(which, status, length)| Step::Finish { which, status, length }),
        2 => any::<(u16, u16)>().prop_map(|(flags, event)| Step::Hints { flags, event }),
    ]
}

/// The steps that only a hostile device makes.
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

/// A driver and a device, and the expected state of the requests.
struct World<'m, D> {
    pair: Pair<'m, D>,
    /// The slots of requests that are being built.
    built: Vec<Slot>,
    /// Prepared requests, each with the number of resets before it was prepared.
    prepared: Vec<(Prepared, u32)>,
    /// The number of requests that were prepared after the last reset and were lost.
    lost: usize,
    resets: u32,
    taken: Vec<Chain>,
    finished: Vec<Chain>,
    in_flight: HashSet<Tag>,
    /// The device may have finished a request that it has not taken.
    lied: bool,
    /// The device has overwritten memory that the driver wrote.
    scribbled: bool,
}

impl<'m, D: DeviceSide<'m>> World<'m, D> {
    fn new(pair: Pair<'m, D>) -> Self {
        Self {
            pair,
            built: Vec::new(),
            prepared: Vec::new(),
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
        self.pair.limits.shape.slots().get().into()
    }

    /// How many slots must be free.
    fn free(&self) -> usize {
        let current = self.prepared.iter().filter(|it| it.1 == self.resets);
        self.size() - self.built.len() - current.count() - self.lost - self.in_flight.len()
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Reserve => {
                let slot = self.pair.slots.reserve(SlotSize::Small);
                assert_eq!(slot.is_some(), self.free() > 0);
                self.built.extend(slot);
            }
            Step::Prepare if !self.built.is_empty() => {
                let slot = self.built.remove(0);
                let segments = [data(0, 512)];
                let Pair {
                    requests, slots, ..
                } = &self.pair;
                let prepared = requests.read(slots, slot, extent(0, 1), &segments, |it| *it);
                self.prepared
                    .push((prepared.expect("a request"), self.resets));
            }
            Step::Release if !self.built.is_empty() => {
                let slot = self.built.remove(0);
                self.pair.release(slot);
            }
            Step::Publish { which } if !self.prepared.is_empty() => {
                let (prepared, resets) = self.take_prepared(which);
                self.publish(prepared, resets);
            }
            Step::Lose { which } if !self.prepared.is_empty() => {
                let (_prepared, resets) = self.take_prepared(which);
                self.lost += usize::from(resets == self.resets);
            }
            Step::Cancel { which } if !self.prepared.is_empty() => {
                let (prepared, _) = self.take_prepared(which);
                self.pair.queue.cancel(&self.pair.slots, prepared);
            }
            Step::Drain => self.drain(),
            Step::Reset => self.reset(),
            Step::Take if !self.scribbled => {
                while let Some(chain) = self.pair.device.take(!self.lied) {
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
                self.pair.device.finish(&chain, length);
                self.finished.push(chain);
            }
            Step::Replay { which } if !self.finished.is_empty() => {
                let chain = &self.finished[which.index(self.finished.len())];
                self.pair.device.finish(chain, 513);
                self.lied = true;
            }
            Step::Lie { id, length } => {
                self.pair.device.finish_any(id, length);
                self.lied = true;
            }
            Step::Jump { index } => {
                self.lied = true;
                self.pair.device.set_next_used(index);
            }
            Step::Hints { flags, event } => {
                self.pair.device.set_suppression(flags, event);
            }
            Step::Scribble { slot, entry, word } => {
                let table = self.finished.first().and_then(|chain| chain.table);
                let place = match table {
                    Some(table) if word & 1 == 1 => table + 16 * u64::from(entry),
                    _ => self.pair.device.ring().descriptors + 16 * u64::from(slot),
                };
                let memory = self.pair.device.memory();
                memory.store64(place, word);
                memory.store64(place + 8, word.rotate_left(32));
                // From now on the device may take requests that it wrote itself.
                self.scribbled = true;
            }
            _ => {}
        }
    }

    fn take_prepared(&mut self, which: Index) -> (Prepared, u32) {
        self.prepared.swap_remove(which.index(self.prepared.len()))
    }

    fn publish(&mut self, prepared: Prepared, resets: u32) {
        let tag = self.pair.tag();
        let expected = match self.pair.queue.fault() {
            _ if resets != self.resets => Err(Rejection::Stale),
            Some(fault) => Err(Rejection::Faulty(fault)),
            None => Ok(()),
        };
        let published = self
            .pair
            .queue
            .publish(&self.pair.slots, prepared, tag, |it| it);
        assert_eq!(published.map_err(|it| it.reason), expected);
        if expected.is_ok() {
            self.in_flight.insert(tag);
        }
        let _: bool = self.pair.queue.notification_needed();
    }

    fn back(&mut self, tag: Tag) {
        assert!(self.in_flight.remove(&tag), "{tag} completed twice");
    }

    fn drain(&mut self) {
        self.pair.queue.suppress_interrupts();
        let bound = self.pair.queue.in_flight();
        let mut drained = 0;
        loop {
            match self.pair.queue.pop_used() {
                Ok(Some(used)) => {
                    let _ = self.pair.requests.outcome(&used.slot);
                    drained += 1;
                    self.back(used.payload);
                    self.pair.release(used.slot);
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
        let rearmed = self.pair.queue.rearm_interrupts();
        assert_eq!(rearmed.err(), self.pair.queue.fault());
        assert_eq!(
            usize::from(self.pair.queue.in_flight()),
            self.in_flight.len()
        );
    }

    fn reset(&mut self) {
        for tag in self.pair.reset() {
            self.back(tag);
        }
        assert!(self.in_flight.is_empty(), "lost: {:?}", self.in_flight);
        self.taken.clear();
        self.finished.clear();
        self.lied = false;
        self.lost = 0;
        self.resets += 1;
        self.scribbled = false;
        assert_eq!(self.pair.free_slots(), self.free());
    }

    /// Checks that all slots are free, each once.
    fn finish(mut self) {
        self.reset();
        for slot in std::mem::take(&mut self.built) {
            self.pair.release(slot);
        }
        let free: HashSet<u16> = std::iter::from_fn(|| self.pair.slots.reserve(SlotSize::Small))
            .map(|slot| slot.index())
            .collect();
        assert_eq!(free.len(), self.size());
        assert!(self.pair.device.memory().strips_are_untouched());
    }
}

/// The data descriptors for `bytes` bytes of a list, one piece at a time.
fn pieces(
    segments: &[Segment],
    bytes: u32,
    size_max: u32,
    most: usize,
) -> Result<Vec<Segment>, Refusal> {
    let mut pieces = Vec::new();
    let mut missing = bytes;
    for segment in segments {
        let mut used = 0;
        while used < segment.length && missing > 0 {
            let length = size_max.min(segment.length - used).min(missing);
            let address = segment.address.wrapping_add(used.into());
            pieces.push(Segment { address, length });
            used += length;
            missing -= length;
        }
        if pieces.len() > most {
            return Err(Refusal::TooScattered);
        }
    }
    if missing > 0 {
        return Err(Refusal::BufferShort { missing });
    }
    Ok(pieces)
}

/// The buffers of a request between its header and its status.
fn data_of(chain: &Chain) -> Vec<Segment> {
    let [header, data @ .., status] = &chain.descriptors[..] else {
        panic!("{chain:?}");
    };
    assert_eq!((header.length, status.length), (16, 1));
    data.iter()
        .map(|it| Segment {
            address: it.address,
            length: it.length,
        })
        .collect()
}

/// A scatter/gather list as an initiator or Storport could give it: often one that fits
/// `sectors` sectors, and otherwise any list.
fn list(sectors: u32) -> impl Strategy<Value = Vec<Segment>> {
    let any_length = prop_oneof![
        4 => prop::sample::select(vec![512, 1024, 4096]),
        2 => 1..5000_u32,
        1 => Just(0),
        1 => prop::sample::select(vec![1 << 31, u32::MAX - 1, u32::MAX]),
    ];
    let segment = (any::<u64>(), any_length);
    let any_list = prop::collection::vec(segment, 0..if cfg!(miri) { 40 } else { 300 });
    let cuts = prop::collection::vec(0..=sectors * 512, 0..34);
    let fitting = (any::<u64>(), cuts).prop_map(move |(address, mut cuts)| {
        cuts.extend([0, sectors * 512]);
        cuts.sort_unstable();
        // Two equal cuts make an empty segment.
        let lengths = cuts.windows(2).map(|pair| pair[1] - pair[0]);
        lengths.map(|length| (address, length)).collect()
    });
    prop_oneof![any_list, fitting].prop_map(|list: Vec<(u64, u32)>| {
        let segments = list.into_iter();
        segments
            .map(|(address, length)| Segment { address, length })
            .collect()
    })
}

proptest! {
    #![proptest_config(proptest_config(2000))]

    #[test]
    fn a_list_of_segments_becomes_the_descriptors_of_its_pieces(
        (sectors, segments) in (1..=64_u32).prop_flat_map(|sectors| (Just(sectors), list(sectors))),
        size_max in prop_oneof![Just(None), (512..40_000_u32).prop_map(Some)],
        is_write in any::<bool>(),
    ) {
        let memory = memory();
        let disk = Config { size_max, ..config() };
        let mut pair = Pair::<RingDevice>::with_config(&memory, 32, FLAGS, disk);
        let most = usize::from(pair.limits.table_entries() - 2);
        let size_max = size_max.unwrap_or(u32::MAX);
        let prepare = |pair: &Pair<'_>, slot| match is_write {
            true => pair.requests.write(&pair.slots, slot, extent(0, sectors), &segments, |it| *it),
            false => pair.requests.read(&pair.slots, slot, extent(0, sectors), &segments, |it| *it),
        };

        let prepared = prepare(&pair, pair.slot());

        let expected = pieces(&segments, sectors * 512, size_max, most);
        let described = match prepared {
            Ok(prepared) => {
                let (_, chain) = pair.taken(prepared);
                let data = &chain.descriptors[1..chain.descriptors.len() - 1];
                prop_assert!(data.iter().all(|it| it.is_writable() != is_write));
                Ok(data_of(&chain))
            }
            Err(refused) => Err(refused.reason),
        };
        prop_assert_eq!(described, expected);
        prop_assert!(memory.strips_are_untouched());
    }

    /// A transfer within the limits is never refused in a slot of the size that it needs, whatever
    /// pages its buffer has.
    #[test]
    fn a_transfer_within_the_limits_is_described_completely(
        size_max in prop::option::of(512..9000_u32),
        seg_max in prop::option::of(2..40_u32),
        log in 5..=7_u32,
        offset in 0..4096_u64,
        length in 1..=u32::MAX,
        contiguous in any::<u64>(),
    ) {
        let memory = memory();
        let disk = Config { size_max, seg_max, ..config() };
        let (format, size) = (QueueFormat::of(FLAGS), queue_size(1 << log));
        prop_assume!(virtio::blk::limits(&disk, format, size, ROOM).is_ok());
        let mut pair = Pair::<RingDevice>::with_config(&memory, 1 << log, FLAGS, disk);
        let blocks = length % (pair.limits.max_transfer / 512) + 1;
        let extent = extent(5, blocks);
        // The pages of a buffer that begins at `offset` in the first page. Each page is either
        // adjacent to the previous one or elsewhere.
        let mut segments: Vec<Segment> = Vec::new();
        let mut left = extent.bytes();
        let mut page = 0x1_0000_0000_u64;
        let mut first = offset;
        for number in 0.. {
            if left == 0 {
                break;
            }
            let length = left.min(4096 - first as u32);
            match segments.last_mut() {
                Some(last) if contiguous >> (number % 64) & 1 == 1 => last.length += length,
                _ => segments.push(Segment { address: page + first, length }),
            }
            let together = contiguous >> ((number + 1) % 64) & 1 == 1;
            page += if together { 4096 } else { 0x1_0000_0000 };
            left -= length;
            first = 0;
        }
        prop_assert!(segments.len() <= usize::from(pair.limits.max_segments));

        let read = pair.read(extent, &segments).unwrap();
        let (_, chain) = pair.taken(read);

        let most = seg_max.unwrap_or(u32::MAX) as usize;
        let expected = pieces(&segments, extent.bytes(), size_max.unwrap_or(u32::MAX), most);
        prop_assert_eq!(Ok(data_of(&chain)), expected);
        prop_assert_eq!(memory.load64(chain.descriptors[0].address + 8), 5);
    }
}

/// Runs the steps with a device that may be hostile.
fn run<'m, D: DeviceSide<'m>>(
    memory: &'m GuestMemory,
    features: F,
    log: u32,
    steps: Vec<Step>,
    is_honest: bool,
) {
    let mut world = World::new(Pair::<D>::new(memory, 1 << log, features));
    for step in steps {
        world.step(step);
        assert!(!is_honest || world.pair.queue.fault().is_none());
    }
    world.finish();
}

/// As [`run`], with the device for the kind of ring that `features` decide.
fn run_any(features: F, log: u32, steps: Vec<Step>, is_honest: bool) {
    let memory = memory();
    if features.contains(F::RING_PACKED) {
        run::<PackedRingDevice<&GuestMemory>>(&memory, features, log, steps, is_honest);
    } else {
        run::<RingDevice<'_>>(&memory, features, log, steps, is_honest);
    }
}

proptest! {
    #![proptest_config(proptest_config(1000))]

    #[test]
    fn a_hostile_device_completes_nothing_twice_and_loses_nothing(
        steps in sequence(prop_oneof![8 => honest(), 1 => hostile()]),
        features in prop::sample::select(formats().collect::<Vec<_>>()),
        log in 2..=5_u32,
    ) {
        run_any(features, log, steps, false);
    }

    #[test]
    fn an_honest_device_is_never_reported_as_faulty(
        steps in sequence(honest()),
        features in prop::sample::select(formats().collect::<Vec<_>>()),
        log in 2..=5_u32,
    ) {
        run_any(features, log, steps, true);
    }
}
