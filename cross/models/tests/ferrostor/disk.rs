//! A virtio disk: the registers of a modern PCI device (VIRTIO 1.3 §4.1), one split queue
//! (VIRTIO 1.3 §2.7) and four blocks (VIRTIO 1.3 §5.2). A test can make it break the protocol.

use std::{
    mem,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU32, Ordering, fence},
    },
};

use ferrostor_models::port::{
    Device,
    device::{load8, load16, load64, store8, store16, store32},
};

/// The bus address of its registers.
const BAR: u32 = 0xFE00_0000;
/// The offsets of structures in the BAR. The common configuration is at 0.
const ISR: usize = 0x40;
const CONFIG: usize = 0x80;
const NOTIFY: usize = 0xC0;
const END: usize = 0x100;

const DRIVER_OK: u8 = 4;
const NEEDS_RESET: u8 = 64;

const QUEUE_SIZE: u16 = 4;
/// How many blocks the disk has.
pub const BLOCKS: usize = 4;
const NO_VECTOR: u16 = 0xFFFF;

/// VERSION_1, INDIRECT_DESC, CONFIG_WCE, FLUSH, SEG_MAX.
const FEATURES: u64 = 1 << 32 | 1 << 28 | 1 << 11 | 1 << 9 | 1 << 2;
const EVENT_IDX: u64 = 1 << 29;

/// A fault of the device, which happens once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The device asks for a reset.
    NeedsReset,
    /// The used index includes a request that the device has not finished.
    IndexAhead,
    /// The device finishes the next request without writing a status.
    NoStatus,
    /// The device finishes the next request with an error.
    Error,
}

#[derive(Default)]
struct State {
    status: u8,
    /// How many reads of the status are left until the device confirms a reset. Until then it
    /// continues to use the old rings.
    resetting: Option<usize>,
    isr: u8,
    select: [u32; 2],
    accepted: u64,
    queue_enabled: bool,
    queue_size: u16,
    /// The MSI-X vectors of configuration changes and of the queue.
    vectors: [u16; 2],
    ring: [u32; 6],
    taken: u16,
    used: u16,
    notified: bool,
}

/// The state that a reset does not change.
struct Plan {
    faults: bool,
    next: Option<Fault>,
    reset_reads: usize,
    writeback: u8,
    /// For each block, the value of all its bytes.
    blocks: [u8; BLOCKS],
}

/// The device.
pub struct Disk {
    state: Mutex<(State, Plan)>,
    /// A bit for each message that was sent and not delivered.
    messages: AtomicU32,
    msix: bool,
    features: u64,
}

impl State {
    fn new() -> Self {
        Self {
            queue_size: QUEUE_SIZE,
            vectors: [NO_VECTOR; 2],
            ..Self::default()
        }
    }

    fn runs(&self) -> bool {
        self.queue_enabled && self.status & DRIVER_OK != 0
    }

    /// The addresses of the descriptor table, the available ring and the used ring.
    fn ring(&self) -> [u64; 3] {
        let [a, b, c, d, e, f] = self.ring.map(u64::from);
        [b << 32 | a, d << 32 | c, f << 32 | e]
    }

    /// An index modulo the queue size.
    fn place(&self, index: u16) -> u64 {
        (index % self.queue_size).into()
    }
}

impl Disk {
    pub fn new(msix: bool, event_idx: bool) -> Self {
        let plan = Plan {
            faults: false,
            next: None,
            reset_reads: 0,
            writeback: 1,
            blocks: [0; BLOCKS],
        };
        Self {
            state: Mutex::new((State::new(), plan)),
            messages: AtomicU32::new(0),
            msix,
            features: if event_idx {
                FEATURES | EVENT_IDX
            } else {
                FEATURES
            },
        }
    }

    fn state(&self) -> MutexGuard<'_, (State, Plan)> {
        self.state.lock().expect("no panic")
    }

    /// Allows faults, or makes the device keep to the protocol from now on.
    pub fn allow_faults(&self, faults: bool) {
        let (_, plan) = &mut *self.state();
        plan.faults = faults;
        plan.next = None;
    }

    /// Sets how many reads of the status a reset takes.
    pub fn delay_resets(&self, reads: usize) {
        self.state().1.reset_reads = reads;
    }

    /// Makes the device break the protocol, if that is allowed and the device runs.
    pub fn break_protocol(&self, fault: Fault) {
        let (state, plan) = &mut *self.state();
        if !plan.faults || !state.runs() || state.resetting.is_some() {
            return;
        }
        match fault {
            Fault::NeedsReset => {
                state.status |= NEEDS_RESET;
                self.interrupt(state, 0);
            }
            Fault::IndexAhead => {
                let [_, _, used] = state.ring();
                store16(used + 2, state.used.wrapping_add(1));
                self.interrupt(state, 1);
            }
            Fault::NoStatus | Fault::Error => plan.next = Some(fault),
        }
    }

    /// Takes a message that was sent. Returns whether there was one.
    pub fn take_message(&self, message: u32) -> bool {
        let bit = 1 << message;
        self.messages.fetch_and(!bit, Ordering::Relaxed) & bit != 0
    }

    /// Whether the interrupt pin is asserted.
    pub fn is_asserted(&self) -> bool {
        self.state().0.isr != 0
    }

    /// Carries out requests if the device was notified.
    pub fn serve_notified(&self) {
        let (state, plan) = &mut *self.state();
        if mem::take(&mut state.notified) {
            self.serve(state, plan);
        }
    }

    /// Interrupts for a configuration change (0) or for the queue (1).
    fn interrupt(&self, state: &mut State, cause: usize) {
        if !self.msix {
            state.isr |= [2, 1][cause];
        } else if state.vectors[cause] != NO_VECTOR {
            let bit = 1 << state.vectors[cause];
            self.messages.fetch_or(bit, Ordering::Relaxed);
        }
    }

    /// Carries out the requests that are available.
    fn serve(&self, state: &mut State, plan: &mut Plan) {
        if !state.runs() {
            return;
        }
        let [_, available, used] = state.ring();
        let event_idx = state.accepted & EVENT_IDX != 0;
        let size = u64::from(state.queue_size);
        let before = state.used;
        loop {
            if event_idx {
                store16(used + 4 + 8 * size, state.taken);
                fence(Ordering::SeqCst);
            }
            let published = load16(available + 2);
            fence(Ordering::Acquire);
            let count = published.wrapping_sub(state.taken);
            assert!(count <= state.queue_size, "available index {published}");
            if count == 0 {
                break;
            }
            let head = load16(available + 4 + 2 * state.place(state.taken));
            state.taken = state.taken.wrapping_add(1);
            let written = execute(state, plan, head);
            let element = used + 4 + 8 * state.place(state.used);
            store32(element, head.into());
            store32(element + 4, written);
            fence(Ordering::Release);
            state.used = state.used.wrapping_add(1);
            store16(used + 2, state.used);
        }
        fence(Ordering::SeqCst);
        let finished = state.used.wrapping_sub(before);
        let wanted = if event_idx {
            let used_event = load16(available + 4 + 2 * size);
            used_event.wrapping_sub(before) < finished
        } else {
            finished != 0 && load16(available) & 1 == 0
        };
        if wanted {
            self.interrupt(state, 1);
        }
    }

    fn read_common(&self, state: &mut State, offset: usize) -> u64 {
        match offset {
            0x04 if state.select[0] == 0 => self.features & 0xFFFF_FFFF,
            0x04 => self.features >> 32,
            0x10 => state.vectors[0].into(),
            0x12 => 1,
            0x14 => {
                match state.resetting {
                    Some(0) => *state = State::new(),
                    Some(reads) => state.resetting = Some(reads - 1),
                    None => {}
                }
                state.status.into()
            }
            0x15 => 0,
            0x18 => state.queue_size.into(),
            0x1A => state.vectors[1].into(),
            0x1C => state.queue_enabled.into(),
            0x1E => 0,
            _ => panic!("a read of register {offset:#x}"),
        }
    }

    fn write_common(&self, state: &mut State, plan: &Plan, offset: usize, value: u64) {
        if (offset, value) == (0x14, 0) {
            if state.status == 0 || plan.reset_reads == 0 {
                *state = State::new();
            } else {
                state.resetting = Some(plan.reset_reads);
            }
            return;
        }
        assert_eq!(state.resetting, None, "{offset:#x} written during a reset");
        match offset {
            0x00 => state.select[0] = value as u32,
            0x08 => state.select[1] = value as u32,
            0x0C => state.accepted |= value << (32 * state.select[1]),
            0x10 => state.vectors[0] = value as u16,
            0x14 => state.status = value as u8 | state.status & NEEDS_RESET,
            0x16 => assert_eq!(value, 0, "the only queue"),
            0x18 => state.queue_size = value as u16,
            0x1A => state.vectors[1] = value as u16,
            0x1C => state.queue_enabled = true,
            0x20..0x38 => state.ring[(offset - 0x20) / 4] = value as u32,
            _ => panic!("a write to register {offset:#x}"),
        }
    }
}

/// A descriptor's address, length and flags.
fn descriptor(at: u64) -> (u64, u64, u16) {
    let rest = load64(at + 8);
    (load64(at), rest & 0xFFFF_FFFF, (rest >> 32) as u16)
}

/// Carries out a request. Returns how many bytes it wrote.
fn execute(state: &State, plan: &mut Plan, head: u16) -> u32 {
    let [descriptors, _, _] = state.ring();
    let (table, length, flags) = descriptor(descriptors + 16 * state.place(head));
    assert_eq!(flags, 4, "INDIRECT alone");
    let chain: Vec<_> = (0..length / 16)
        .map(|index| descriptor(table + 16 * index))
        .collect();
    let [(header, 16, _), data @ .., (status, 1, _)] = &*chain else {
        panic!("no request: {chain:?}");
    };
    let bytes = data
        .iter()
        .flat_map(|(address, length, _)| *address..address + length);
    let mut written = 1;
    // A request with a sector is for one block.
    let block = &mut plan.blocks[load64(header + 8) as usize];
    match load64(*header) {
        0 => written += bytes.map(|byte| store8(byte, *block)).count(),
        1 => *block = bytes.fold(0, |_, byte| load8(byte)),
        4 => {}
        8 => written += bytes.map(|byte| store8(byte, b'A')).count(),
        kind => panic!("a request of type {kind}"),
    }
    match plan.next.take() {
        Some(Fault::NoStatus) => {}
        Some(_) => store8(*status, 1),
        None => store8(*status, 0),
    }
    written as u32
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
        // Type, offset in the BAR, length.
        let structures = [(1, 0, 0x38), (3, ISR, 1), (4, CONFIG, 0x40), (2, NOTIFY, 4)];
        for (index, (kind, offset, length)) in structures.into_iter().enumerate() {
            let at = 0x40 + 0x14 * index;
            put(at, &[9, at as u8 + 0x14, 0x14, kind]);
            put(at + 8, &(offset as u32).to_le_bytes());
            put(at + 12, &(length as u32).to_le_bytes());
        }
        // MSI-X, enabled, with two messages; or another capability, which the driver ignores.
        let msix = if self.msix {
            [0x11, 0, 1, 0x80]
        } else {
            [1, 0, 0, 0]
        };
        put(0x90, &msix);
        space
    }

    fn length(&self) -> u32 {
        END as u32
    }

    fn read(&self, offset: usize, width: usize) -> u64 {
        let (state, plan) = &mut *self.state();
        match offset {
            0..ISR => self.read_common(state, offset),
            ISR => mem::take(&mut state.isr).into(),
            CONFIG..NOTIFY => {
                let mut config = [0; NOTIFY - CONFIG];
                config[0] = BLOCKS as u8;
                // seg_max
                config[0x0C] = 2;
                config[0x20] = plan.writeback;
                let mut value = [0; 8];
                let at = offset - CONFIG;
                value[..width].copy_from_slice(&config[at..at + width]);
                u64::from_le_bytes(value)
            }
            _ => panic!("a read of register {offset:#x}"),
        }
    }

    fn write(&self, offset: usize, _width: usize, value: u64) {
        let (state, plan) = &mut *self.state();
        match offset {
            0..ISR => self.write_common(state, plan, offset, value),
            NOTIFY => state.notified = true,
            _ => {
                assert_eq!(offset, CONFIG + 0x20, "only writeback is writable");
                plan.writeback = value as u8;
            }
        }
    }

    fn go_on(&self) {
        self.serve_notified();
    }
}
