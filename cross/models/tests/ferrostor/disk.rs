//! A virtio disk of four blocks, with the registers and the rings of `testbed-virtio`. A test can
//! make it break the protocol.

use std::{
    mem,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU32, Ordering},
    },
};

use ferrostor_models::port::{Device, device::PhysicalMemory};
use testbed_virtio::{
    blk_config::BlkConfig,
    chain::Chain,
    common_config::{CommonConfig, DRIVER_OK, NO_VECTOR, offset},
    driver_errors::DriverErrors,
    function::{Function, Structure},
    memory::Memory as _,
    packed_ring::PackedRingDevice,
    split_ring::RingDevice,
};

/// The bus address of its registers.
const BAR: u32 = 0xFE00_0000;
/// The distance between two structures in the BAR.
const STRIDE: usize = 0x40;
/// The structures in the order of the BAR: each with its type and its length.
const STRUCTURES: [(Structure, u8, u32); 4] = [
    (Structure::Common, 1, 0x38),
    (Structure::Isr, 3, 1),
    (Structure::Device, 4, 0x40),
    (Structure::Notify, 2, 4),
];

/// How many blocks the disk has.
pub const BLOCKS: usize = 4;

/// VERSION_1, INDIRECT_DESC, CONFIG_WCE, FLUSH, SEG_MAX.
const FEATURES: u64 = 1 << 32 | 1 << 28 | 1 << 11 | 1 << 9 | 1 << 2;
const EVENT_IDX: u64 = 1 << 29;
const RING_PACKED: u64 = 1 << 34;
const MQ: u64 = 1 << 12;

/// The properties of a disk.
#[derive(Clone, Copy, Debug)]
pub struct Properties {
    pub packed: bool,
    pub event_idx: bool,
    pub queues: u16,
    pub queue_size: u16,
}

/// A fault of the device, which happens once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The device asks for a reset.
    NeedsReset,
    /// The ring of a queue says that a request is finished which the device has not finished.
    UsedAhead,
    /// The device finishes the next request without writing a status.
    NoStatus,
    /// The device finishes the next request with an error.
    Error,
}

/// The device's side of a ring.
enum Ring {
    Split(RingDevice<'static, PhysicalMemory>),
    Packed(PackedRingDevice<&'static PhysicalMemory>),
}

#[derive(Default)]
struct Queue {
    /// The ring, from DRIVER_OK to the reset.
    ring: Option<Ring>,
    notified: bool,
    /// Whether requests were served since the start.
    has_served: bool,
}

struct State {
    function: Function,
    driver_errors: DriverErrors,
    queues: Vec<Queue>,
    /// Whether faults are allowed.
    faults: bool,
    next: Option<Fault>,
    /// How many reads of the status a reset takes. Until then the device continues to use the old
    /// rings.
    reset_reads: u32,
    /// For each block, the value of all its bytes.
    blocks: [u8; BLOCKS],
}

/// The device.
pub struct Disk {
    state: Mutex<State>,
    /// A bit for each message that was sent and not delivered.
    messages: AtomicU32,
    msix: bool,
}

impl Disk {
    pub fn new(msix: bool, properties: Properties) -> Self {
        let Properties {
            packed,
            event_idx,
            queues,
            queue_size,
        } = properties;
        let optional = [
            (packed, RING_PACKED),
            (event_idx, EVENT_IDX),
            (queues > 1, MQ),
        ];
        let offered = optional.into_iter().filter(|(is_offered, _)| *is_offered);
        let features = offered.fold(FEATURES, |all, (_, feature)| all | feature);
        let vectors = if msix { queues + 1 } else { 0 };
        let common = CommonConfig::new(features, queues, queue_size, vectors);
        let config = BlkConfig {
            num_queues: queues,
            capacity: BLOCKS as u64,
            seg_max: u32::from(queue_size - 2),
            writeback: true,
            ..BlkConfig::default()
        };
        Self {
            state: Mutex::new(State {
                function: Function::new(common, config),
                driver_errors: DriverErrors::default(),
                queues: (0..queues).map(|_| Queue::default()).collect(),
                faults: false,
                next: None,
                reset_reads: 0,
                blocks: [0; BLOCKS],
            }),
            messages: AtomicU32::new(0),
            msix,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic")
    }

    /// Allows faults, or makes the device keep to the protocol from now on.
    pub fn allow_faults(&self, faults: bool) {
        let mut state = self.state();
        state.faults = faults;
        state.next = None;
    }

    /// How many queues have served requests since the start.
    pub fn served_queues(&self) -> usize {
        let state = self.state();
        state.queues.iter().filter(|queue| queue.has_served).count()
    }

    /// Sets how many reads of the status a reset takes.
    pub fn delay_resets(&self, reads: u32) {
        self.state().reset_reads = reads;
    }

    /// Makes the device break the protocol, if that is allowed and the queue is in use.
    pub fn break_protocol(&self, fault: Fault, queue: u16) {
        let state = &mut *self.state();
        let Some(ring) = &mut state.queues[usize::from(queue)].ring else {
            return;
        };
        if !state.faults || state.function.common.is_resetting() {
            return;
        }
        match fault {
            Fault::NeedsReset => {
                state.function.common.needs_reset();
                let vector = state.function.common.config_vector();
                self.interrupt(&mut state.function, 2, vector);
            }
            Fault::UsedAhead => {
                match ring {
                    Ring::Split(ring) => ring.set_used_idx(ring.used.wrapping_add(1)),
                    Ring::Packed(ring) => ring.mark_used(),
                }
                self.interrupt_of_queue(&mut state.function, queue);
            }
            Fault::NoStatus | Fault::Error => state.next = Some(fault),
        }
    }

    /// Takes a message that was sent. Returns whether there was one, or without messages whether
    /// the interrupt pin is asserted.
    pub fn take_interrupt(&self, message: u32) -> bool {
        if !self.msix {
            return self.state().function.isr != 0;
        }
        let bit = 1 << message;
        self.messages.fetch_and(!bit, Ordering::Relaxed) & bit != 0
    }

    /// Carries out the requests in the queues that were notified.
    pub fn serve_notified(&self) {
        let state = &mut *self.state();
        let event_idx = state.function.common.agreed() & EVENT_IDX != 0;
        for (number, queue) in (0..).zip(&mut state.queues) {
            if let (true, Some(ring)) = (mem::take(&mut queue.notified), &mut queue.ring)
                && ring.serve(event_idx, |chain| {
                    queue.has_served = true;
                    execute(&mut state.blocks, state.next.take(), chain);
                })
            {
                self.interrupt_of_queue(&mut state.function, number);
            }
        }
    }

    fn interrupt_of_queue(&self, function: &mut Function, queue: u16) {
        let vector = function.common.queue_vector(queue);
        self.interrupt(function, 1, vector);
    }

    /// Sends the message `vector`, or sets the bits `isr` of the ISR status.
    fn interrupt(&self, function: &mut Function, isr: u8, vector: u16) {
        if !self.msix {
            function.isr |= isr;
        } else if vector != NO_VECTOR {
            self.messages.fetch_or(1 << vector, Ordering::Relaxed);
        }
    }
}

impl Ring {
    /// Carries out the requests that are available. Returns whether to interrupt.
    fn serve(&mut self, event_idx: bool, mut execute: impl FnMut(&Chain)) -> bool {
        match self {
            Self::Split(ring) => {
                let before = ring.used;
                while ring.enable_notifications(event_idx) {
                    let chain = ring.take().expect("available");
                    execute(&chain);
                    ring.finish(&chain, chain.writable_bytes());
                }
                ring.interrupt_wanted(event_idx, before)
            }
            Self::Packed(ring) => {
                let before = ring.next_used;
                while ring.enable_notifications(event_idx) {
                    let chain = ring.take().expect("valid").expect("available");
                    execute(&chain);
                    ring.finish(&chain, chain.writable_bytes());
                }
                ring.interrupt_wanted(event_idx, before).expect("valid")
            }
        }
    }
}

impl State {
    /// Compares the rings with the registers, and checks the driver.
    fn accessed(&mut self) {
        assert_eq!(self.driver_errors.list(), [""; 0]);
        let common = &self.function.common;
        let is_running = common.status() & DRIVER_OK != 0;
        for (number, queue) in (0..).zip(&mut self.queues) {
            let Some(ring) = common.ring(number).filter(|_| is_running) else {
                *queue = Queue::default();
                continue;
            };
            queue.ring.get_or_insert_with(|| {
                if common.agreed() & RING_PACKED == 0 {
                    Ring::Split(RingDevice::new(&PhysicalMemory, ring))
                } else {
                    Ring::Packed(PackedRingDevice::new(&PhysicalMemory, ring))
                }
            });
        }
    }
}

/// Carries out a request.
fn execute(blocks: &mut [u8; BLOCKS], fault: Option<Fault>, chain: &Chain) {
    let memory = &PhysicalMemory;
    let [header, data @ .., status] = &*chain.descriptors else {
        panic!("no request: {chain:?}");
    };
    assert_eq!((header.length, status.length), (16, 1));
    let mut bytes = data
        .iter()
        .flat_map(|it| it.address..it.address + u64::from(it.length));
    // A request with a sector is for one block.
    let block = &mut blocks[memory.load64(header.address + 8) as usize];
    match memory.load64(header.address) {
        0 => bytes.for_each(|at| memory.store8(at, *block)),
        1 => *block = bytes.fold(0, |_, at| memory.load8(at)),
        4 => assert_eq!(bytes.next(), None, "a flush with data"),
        8 => bytes.for_each(|at| memory.store8(at, b'A')),
        kind => panic!("a request of type {kind}"),
    }
    match fault {
        Some(Fault::NoStatus) => {}
        Some(_) => memory.store8(status.address, 1),
        None => memory.store8(status.address, 0),
    }
}

/// The structure at `at` of the BAR, and the offset in it.
fn place(at: usize) -> (Structure, u64) {
    (STRUCTURES[at / STRIDE].0, (at % STRIDE) as u64)
}

impl Device for Disk {
    fn configuration(&self) -> [u8; 256] {
        let mut space = [0; 256];
        let mut put = |at: usize, bytes: &[u8]| space[at..at + bytes.len()].copy_from_slice(bytes);
        put(0x00, &0x1042_1AF4_u32.to_le_bytes());
        // Status: there is a capability list.
        put(0x06, &[1 << 4]);
        put(0x10, &BAR.to_le_bytes());
        put(0x34, &[0x40]);
        for (index, (_, kind, length)) in STRUCTURES.into_iter().enumerate() {
            let at = 0x40 + 0x14 * index;
            put(at, &[9, at as u8 + 0x14, 0x14, kind]);
            put(at + 8, &((STRIDE * index) as u32).to_le_bytes());
            put(at + 12, &length.to_le_bytes());
        }
        // MSI-X, enabled, with a message for each queue and one more; or another capability, which
        // the driver ignores.
        let msix = if self.msix {
            [0x11, 0, self.state().queues.len() as u8, 0x80]
        } else {
            [1, 0, 0, 0]
        };
        put(0x90, &msix);
        space
    }

    fn length(&self) -> u32 {
        (STRIDE * STRUCTURES.len()) as u32
    }

    fn read(&self, at: usize, width: usize) -> u64 {
        let state = &mut *self.state();
        let (structure, at) = place(at);
        let mut bytes = [0; 8];
        if state.function.read_ends_reset(structure, at) {
            state.function.reset();
        }
        let data = &mut bytes[..width];
        state
            .function
            .read(structure, at, data, &state.driver_errors);
        state.accessed();
        u64::from_le_bytes(bytes)
    }

    fn write(&self, at: usize, width: usize, value: u64) {
        let state = &mut *self.state();
        let (structure, at) = place(at);
        let common = &mut state.function.common;
        match structure {
            // All queues have one address.
            Structure::Notify => {
                state.queues[value as usize].notified = true;
                return;
            }
            Structure::Common if (at, value) == (offset::STATUS, 0) => {
                if state.reset_reads == 0 {
                    common.finish_reset();
                } else if common.status() != 0 && !common.is_resetting() {
                    common.slow_reset(0, state.reset_reads);
                }
            }
            Structure::Common => {
                assert!(!common.is_resetting(), "{at:#x} written during a reset");
            }
            Structure::Device | Structure::Isr => {}
        }
        let (data, errors) = (&value.to_le_bytes()[..width], &state.driver_errors);
        let effect = state.function.write(structure, at, data, self.msix, errors);
        state.function.carry_out(effect);
        state.accessed();
    }

    fn go_on(&self) {
        self.serve_notified();
    }
}
