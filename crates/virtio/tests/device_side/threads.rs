//! Driver and device on different threads. Each sleeps until the other one notifies it. If a
//! notification or an interrupt is lost, the test fails.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use testbed_virtio::memory::Memory;
use testbed_virtio::ring::RingDevice;
use virtio::blk::Requests;
use virtio::slots::SlotAllocator;
use virtio::spec::F;

use crate::disk::{EVENT_IDX, FLAGS, OK, Pair, Queue, data, extent, memory};

/// How long a thread waits before the test fails. Only a lost wake-up takes so long. Miri's clock
/// counts instructions.
const PATIENCE: Duration = Duration::from_secs(if cfg!(miri) { 60 } else { 10 });

/// A notification or an interrupt. If it is sent several times before it is received, it is
/// received once.
struct Signal(SyncSender<()>);

impl Signal {
    fn new() -> (Self, Receiver<()>) {
        let (sender, receiver) = sync_channel(1);
        (Self(sender), receiver)
    }

    fn send(&self) {
        match self.0.try_send(()) {
            Ok(()) | Err(TrySendError::Full(())) => {}
            // The receiver has all that it waited for.
            Err(TrySendError::Disconnected(())) => {}
        }
    }
}

/// Serves `count` requests, and sleeps while there are none.
fn serve(
    mut device: RingDevice<'_>,
    features: F,
    count: u32,
    notification: Receiver<()>,
    interrupt: &Signal,
) {
    let event_idx = features.contains(F::EVENT_IDX);
    let mut served = 0;
    while served < count {
        // While the device is awake it suppresses notifications.
        if event_idx {
            let far = device.avail_event().wrapping_add(0x8000);
            device.set_avail_event(far);
        } else {
            device.set_used_flags(1);
        }
        let before = device.used;
        while let Some(chain) = device.take() {
            let status = chain.descriptors.last().expect("a status").address;
            device.memory.store8(status, OK);
            device.finish(chain.head, chain.writable_bytes());
            served += 1;
        }
        if device.interrupt_wanted(event_idx, before) {
            interrupt.send();
        }
        // Before it sleeps, it enables notifications and checks the ring once more.
        if !device.enable_notifications(event_idx) && served < count {
            notification
                .recv_timeout(PATIENCE)
                .expect("a notification was lost");
        }
    }
}

/// Prepares and publishes `count` requests. Only the publication takes the lock of the queue.
fn submit(
    slots: &SlotAllocator,
    requests: &Requests<'_>,
    queue: &Mutex<Queue<'_>>,
    next: &AtomicU32,
    count: u32,
    notification: &Signal,
) {
    let mut last = Instant::now();
    loop {
        let Some(slot) = slots.reserve() else {
            assert!(last.elapsed() < PATIENCE, "no slot was released");
            thread::yield_now();
            continue;
        };
        last = Instant::now();
        let tag = next.fetch_add(1, Ordering::Relaxed);
        if tag >= count {
            queue.lock().expect("no panic").release(slots, slot);
            return;
        }
        let prepared = requests
            .read(slots, slot, extent(0, 1), &[data(0, 512)], |it| *it)
            .expect("a request");
        let mut queue = queue.lock().expect("no panic");
        queue
            .publish(slots, prepared, tag, |it| it)
            .expect("published");
        if queue.notification_needed() {
            notification.send();
        }
    }
}

/// Drains the ring at each interrupt until `count` requests are completed.
fn complete(
    slots: &SlotAllocator,
    requests: &Requests<'_>,
    queue: &Mutex<Queue<'_>>,
    count: u32,
    interrupt: &Receiver<()>,
) -> Vec<u32> {
    let mut back = Vec::new();
    while back.len() < count as usize {
        interrupt
            .recv_timeout(PATIENCE)
            .expect("an interrupt was lost");
        let mut queue = queue.lock().expect("no panic");
        loop {
            queue.suppress_interrupts();
            while let Some(used) = queue.pop_used().expect("an honest device") {
                assert_eq!(requests.outcome(&used.slot), Ok(()));
                back.push(used.payload);
                queue.release(slots, used.slot);
            }
            if !queue.rearm_interrupts().expect("no fault") {
                break;
            }
        }
    }
    back
}

fn run(features: F) {
    let count = if cfg!(miri) { 24 } else { 20_000 };
    let memory = memory();
    let Pair {
        slots,
        requests,
        queue,
        device,
        ..
    } = Pair::new(&memory, 8, features);
    let queue = Mutex::new(queue);
    let next = AtomicU32::new(0);
    let (notification, notified) = Signal::new();
    let (interrupt, raised) = Signal::new();

    let mut back = thread::scope(|threads| {
        let interrupt = &interrupt;
        threads.spawn(move || serve(device, features, count, notified, interrupt));
        for _ in 0..2 {
            threads.spawn(|| submit(&slots, &requests, &queue, &next, count, &notification));
        }
        complete(&slots, &requests, &queue, count, &raised)
    });

    back.sort_unstable();
    assert_eq!(back, (0..count).collect::<Vec<_>>());
    assert!(memory.strips_are_untouched());
}

#[test]
fn with_flags_every_request_of_two_processors_is_completed() {
    run(FLAGS);
}

#[test]
fn with_event_idx_every_request_of_two_processors_is_completed() {
    run(EVENT_IDX);
}
