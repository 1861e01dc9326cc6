//! loom models of both kinds of ring: a driver and a device on one ring, which access the same
//! memory at the same time.
#![expect(unsafe_code, reason = "the memory is an allocation of the test's")]

use core::ptr::NonNull;
use std::boxed::Box;
use std::vec::Vec;

use loom::cell::UnsafeCell;
use loom::sync::{Arc, Mutex};
use loom::thread;
use virtio_spec::virtq::{AvailF, DescF, UsedElem, UsedF};
use virtio_spec::{le16, le32};

use super::format::{QueueFormat, RingShape};
use super::packed::{self, AVAIL, Descriptor, USED};
use super::table::{Access, PackedEntries, TableFormat};
use super::{Rejection, VirtQueue, split};
use crate::atomics::{Ordering, fence};
use crate::dma::{CACHE_LINE, DmaAreas, DmaMemory, word};
use crate::queue_size::QueueSize;
use crate::slots::{Prepared, SlotAllocator, SlotSize};
use crate::transport::Quiet;

const SIZE: QueueSize = QueueSize::power(2);
const SLOTS: QueueSize = QueueSize::power(1);

/// The number of preemptions that the model of three processors tries.
const PREEMPTIONS: usize = 3;

/// The slot that the models use. Its index is not 0, because memory that was never written
/// contains 0.
const SLOT: u16 = 1;
const TABLE: u64 = 0x1234_5670;
const BUFFERS: [u64; 2] = [0x5000, 0x6000];

/// Bytes of the ring, whose three parts have a cache line each, and of a table for each slot.
const BYTES: usize = 5 * CACHE_LINE;

#[repr(align(64))]
struct Page([u8; BYTES]);

impl Page {
    fn new() -> Box<Self> {
        let page = Box::new(Self([0; BYTES]));
        word::prepare(page.0.as_ptr().addr(), BYTES);
        page
    }

    fn memory(&mut self) -> DmaMemory<'static> {
        let start = NonNull::from(&mut self.0).cast();
        // SAFETY: the contract of `DmaMemory::new`: the page outlives the model, and all
        // accesses go to loom's cells in its place.
        unsafe { DmaMemory::new(start, start.addr().get() as u64, self.0.len()) }.unwrap()
    }
}

type Queue = VirtQueue<'static, Vec<Option<u32>>>;

fn format(is_packed: bool, is_indirect: bool, event_idx: bool) -> QueueFormat {
    QueueFormat {
        is_packed,
        is_indirect,
        event_idx,
    }
}

/// A queue with two slots, and the areas of their tables.
fn queue(page: &mut Page, number: u16, format: QueueFormat) -> (Queue, DmaAreas<'static, 0>) {
    let shape = RingShape::new(format, SIZE, SLOTS, 2);
    let mut behind_the_ring = page.memory();
    for _ in 0..3 {
        behind_the_ring.cell::<u8>().unwrap();
        behind_the_ring.next_line().unwrap();
    }
    let areas = behind_the_ring.areas(SLOTS, 2).unwrap();
    let (memory, requests) = (&mut page.memory(), Vec::from([None, None]));
    let queue = VirtQueue::new(memory, number, shape, areas.tables(), requests).unwrap();
    (queue, areas)
}

/// The device's view of the ring: the same addresses, carved in the same order.
enum Device {
    Split(split::Parts<'static>),
    Packed(packed::Parts<'static>),
}

impl Device {
    fn new(page: &mut Page, format: QueueFormat) -> Self {
        let memory = &mut page.memory();
        if format.is_packed {
            Self::Packed(packed::Parts::carve(memory, SIZE).unwrap())
        } else {
            Self::Split(split::Parts::carve(memory, SIZE).unwrap())
        }
    }

    /// Whether the request is available.
    fn is_available(&self) -> bool {
        match self {
            Self::Split(parts) => parts.avail_idx.read().to_ne() == 1,
            Self::Packed(parts) => parts.descriptors.read(0).flags & (AVAIL | USED) == AVAIL,
        }
    }

    /// The address, length and flags of each descriptor of the request in the ring.
    fn chain(&self, length: u16) -> Vec<(u64, u32, DescF)> {
        let descriptors = 0..length;
        match self {
            Self::Split(parts) => {
                let head = parts.avail_ring.read(0).to_ne();
                let chain = descriptors.map(|at| parts.descriptors.read(head + at));
                chain
                    .map(|it| (it.addr.to_ne(), it.len.to_ne(), it.flags))
                    .collect()
            }
            Self::Packed(parts) => {
                let chain = descriptors.map(|at| parts.descriptors.read(at));
                let flags = |flags| DescF::from_bits_truncate(le16::from_ne(flags));
                chain
                    .map(|it| {
                        assert_eq!(it.flags & (AVAIL | USED), AVAIL);
                        assert_eq!(it.id, SLOT);
                        (it.address, it.length, flags(it.flags & !(AVAIL | USED)))
                    })
                    .collect()
            }
        }
    }

    fn refuse_notifications(&self, event_idx: bool) {
        match self {
            Self::Split(parts) if event_idx => parts.avail_event.write(le16::from_ne(0x8000)),
            Self::Split(parts) => parts.used_flags.write(UsedF::NO_NOTIFY.bits()),
            Self::Packed(parts) => parts.device_events.write(packed::events(0, 1)),
        }
    }

    /// Asks for a notification of the first request, and looks once more. Returns whether it
    /// is available.
    fn ask_for_notification(&self, event_idx: bool) -> bool {
        match self {
            Self::Split(parts) if event_idx => parts.avail_event.write(le16::from_ne(0)),
            Self::Split(parts) => parts.used_flags.write(le16::from_ne(0)),
            Self::Packed(parts) if event_idx => {
                parts.device_events.write(packed::events(1 << 15, 2));
            }
            Self::Packed(parts) => parts.device_events.write(packed::events(0, 0)),
        }
        fence(Ordering::SeqCst);
        self.is_available()
    }

    /// Finishes the request. Returns whether the driver wants an interrupt.
    fn finish(&self, event_idx: bool) -> bool {
        match self {
            Self::Split(parts) => {
                let element = UsedElem {
                    id: le32::from_ne(SLOT.into()),
                    len: le32::from_ne(1),
                };
                parts.used_ring.write(0, element);
                fence(Ordering::Release);
                parts.used_idx.write(le16::from_ne(1));
                fence(Ordering::SeqCst);
                if event_idx {
                    parts.used_event.read().to_ne() == 0
                } else {
                    parts.avail_flags.read() != AvailF::NO_INTERRUPT.bits()
                }
            }
            Self::Packed(parts) => {
                parts.descriptors.publish(
                    0,
                    Descriptor {
                        address: 0,
                        length: 1,
                        id: SLOT,
                        flags: AVAIL | USED,
                    },
                );
                fence(Ordering::SeqCst);
                let events = parts.driver_events.read();
                if event_idx {
                    events == packed::events(1 << 15, 2)
                } else {
                    events == packed::events(0, 0)
                }
            }
        }
    }
}

/// A queue and a request for it.
struct Ready {
    queue: Queue,
    slots: SlotAllocator,
    prepared: Prepared,
    areas: DmaAreas<'static, 0>,
}

impl Ready {
    fn publish(self) -> Queue {
        self.publish_beside_areas().0
    }

    fn publish_beside_areas(mut self) -> (Queue, DmaAreas<'static, 0>) {
        self.queue
            .publish(&self.slots, self.prepared, 7, |payload| payload)
            .unwrap();
        (self.queue, self.areas)
    }
}

/// Runs a model for each kind of ring. `run` gets a queue, a request of two descriptors for it,
/// and the device's view of the ring, which it moves to another thread.
fn model(
    is_indirect: bool,
    event_idx: bool,
    run: impl Fn(Ready, Device) + Copy + Sync + Send + 'static,
) {
    for is_packed in [false, true] {
        let format = format(is_packed, is_indirect, event_idx);
        loom::model(move || {
            let mut page = Page::new();
            let device = Device::new(&mut page, format);
            let (queue, areas) = queue(&mut page, 0, format);
            let slots = SlotAllocator::new(0, SLOTS, 0);
            let _first = slots.reserve(SlotSize::Small).unwrap();
            let slot = slots.reserve(SlotSize::Small).unwrap();
            let area = areas.area(slot.index());
            let first = PackedEntries::entry(0, BUFFERS[0], 16, Access::DeviceReads);
            let last = PackedEntries::last(BUFFERS[1], 32, Access::DeviceWrites);
            area.table().write_entry(0, first).unwrap();
            area.table().write_entry(1, last).unwrap();
            let prepared = slots.stage(slot, TABLE, 2);
            assert_eq!(prepared.index(), SLOT);
            let ready = Ready {
                queue,
                slots,
                prepared,
                areas,
            };
            run(ready, device);
            word::forget();
        });
    }
}

/// V42, V55.
#[test]
fn a_device_that_sees_a_request_sees_its_table() {
    model(true, false, |ready, device| {
        let device = thread::spawn(move || {
            if device.is_available() {
                fence(Ordering::Acquire);
                assert_eq!(device.chain(1), [(TABLE, 32, DescF::INDIRECT)]);
            }
        });
        let _queue = ready.publish();
        device.join().unwrap();
    });
}

/// V42, V53, V55.
#[test]
fn a_device_that_sees_the_first_descriptor_sees_the_whole_chain() {
    model(false, false, |ready, device| {
        let device = thread::spawn(move || {
            if device.is_available() {
                fence(Ordering::Acquire);
                let expected = [
                    (BUFFERS[0], 16, DescF::NEXT),
                    (BUFFERS[1], 32, DescF::WRITE),
                ];
                assert_eq!(device.chain(2), expected);
            }
        });
        let _queue = ready.publish();
        device.join().unwrap();
    });
}

/// V43, V56.
#[test]
fn no_notification_is_lost() {
    for event_idx in [false, true] {
        model(true, event_idx, move |ready, device| {
            device.refuse_notifications(event_idx);
            // Before it sleeps, the device asks for notifications and looks once more.
            let device = thread::spawn(move || device.ask_for_notification(event_idx));
            let mut queue = ready.publish();
            let notified = queue.notification_needed();
            let seen = device.join().unwrap();
            assert!(notified || seen, "the device sleeps with a request unseen");
        });
    }
}

#[test]
fn no_interrupt_is_lost() {
    for event_idx in [false, true] {
        model(true, event_idx, move |ready, device| {
            let mut queue = ready.publish();
            queue.suppress_interrupts();
            let device = thread::spawn(move || device.finish(event_idx));
            let more = queue.rearm_interrupts().expect("the device is honest");
            let interrupted = device.join().unwrap();
            assert!(more || interrupted, "a finished request is never seen");
        });
    }
}

/// The device writes into the slot's area, as it writes a status, and returns the request.
#[test]
fn what_the_device_wrote_is_read_after_it_has_returned_the_request() {
    model(true, false, |ready, device| {
        let (mut queue, areas) = ready.publish_beside_areas();
        let (tables, marker) = (
            areas.tables(),
            PackedEntries::last(7, 7, Access::DeviceReads),
        );
        let device = thread::spawn(move || {
            areas.area(SLOT).table().write_entry(0, marker).unwrap();
            device.finish(false);
        });
        if let Some(used) = queue.pop_used().expect("the device is honest") {
            assert_eq!((used.payload, used.written), (7, 1));
            assert_eq!(tables.read(SLOT, 0), Some(marker));
        }
        device.join().unwrap();
    });
}

/// The queues of a device as three processors share them.
struct Shared {
    slots: [SlotAllocator; 2],
    queues: [Mutex<Queue>; 2],
    /// Storport, between HwBuildIo and HwStartIo.
    prepared: Mutex<Vec<Prepared>>,
    /// The area of each queue's one slot.
    areas: [UnsafeCell<u32>; 2],
}

impl Shared {
    /// HwBuildIo for a request of queue `number`. Does nothing if no slot is free.
    fn build(&self, number: u16) {
        let slots = &self.slots[usize::from(number)];
        if let Some(slot) = slots.reserve(SlotSize::Small) {
            // loom checks that no other processor accesses the area.
            self.areas[usize::from(number)].with_mut(|_| ());
            let prepared = slots.stage(slot, TABLE, 2);
            self.prepared.lock().unwrap().push(prepared);
        }
    }

    /// HwStartIo for the request that was built first. Returns false if there is none.
    fn start(&self) -> bool {
        let prepared = {
            let mut all = self.prepared.lock().unwrap();
            if all.is_empty() {
                return false;
            }
            all.remove(0)
        };
        let number = usize::from(prepared.queue());
        let mut queue = self.queues[number].lock().unwrap();
        let published = queue.publish(&self.slots[number], prepared, (), |()| {
            self.areas[number].with(|_| ());
            7
        });
        if let Err(rejected) = published {
            assert_eq!(rejected.reason, Rejection::Stale);
            assert_eq!(number, 0, "queue 1 was never reset");
        }
        true
    }

    /// A reset of queue 0.
    fn reset(&self) {
        let mut queue = self.queues[0].lock().unwrap();
        while let Some(payload) = queue.reclaim(Quiet::assumed(), &self.slots[0]) {
            assert_eq!(payload, 7);
        }
    }
}

/// One processor builds, one starts, and one resets and builds again. Each queue has
/// one slot. At the end the model checks that it was neither lost nor duplicated.
#[test]
fn a_reset_between_build_and_start_neither_loses_nor_duplicates_a_slot() {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS);
    builder.check(|| {
        let mut pages = [(); 2].map(|()| Page::new());
        let mut number = 0;
        let queues = pages.each_mut().map(|page| {
            let (queue, _areas) = queue(page, number, format(false, true, false));
            number += 1;
            Mutex::new(queue)
        });
        let shared = Arc::new(Shared {
            slots: [0, 1].map(|number| SlotAllocator::new(number, QueueSize::ONE, 0)),
            queues,
            prepared: Mutex::default(),
            areas: [UnsafeCell::new(0), UnsafeCell::new(0)],
        });

        let building = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                shared.build(0);
                shared.build(1);
            })
        };
        let starting = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                shared.start();
                shared.start();
            })
        };
        shared.reset();
        shared.build(0);
        building.join().unwrap();
        starting.join().unwrap();
        while shared.start() {}

        for (slots, queue) in shared.slots.iter().zip(&shared.queues) {
            let free = core::iter::from_fn(|| slots.reserve(SlotSize::Small)).count();
            let in_flight = usize::from(queue.lock().unwrap().in_flight());
            assert_eq!(free + in_flight, 1, "a slot was lost or doubled");
        }
        word::forget();
    });
}
