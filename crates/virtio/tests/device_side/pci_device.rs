//! The registers of a virtio PCI device. By default the device is honest. Each public field sets a
//! property or a fault. Every access is recorded.

use std::cell::{Cell, RefCell};
use std::fmt;

use virtio::pci::{Layout, Location, Structure};
use virtio::registers::Registers;
use virtio::spec::{F, le128};
use virtio::transport::{Device, Reset, Windows};

pub const ACKNOWLEDGE: u8 = 1;
pub const DRIVER: u8 = 2;
pub const DRIVER_OK: u8 = 4;
pub const FEATURES_OK: u8 = 8;
pub const NEEDS_RESET: u8 = 64;
pub const FAILED: u8 = 128;

/// Registers of the common configuration (VIRTIO 1.3 §4.1.4.3).
pub mod common {
    pub const DEVICE_FEATURE_SELECT: usize = 0x00;
    pub const DEVICE_FEATURE: usize = 0x04;
    pub const DRIVER_FEATURE_SELECT: usize = 0x08;
    pub const DRIVER_FEATURE: usize = 0x0C;
    pub const CONFIG_MSIX_VECTOR: usize = 0x10;
    pub const NUM_QUEUES: usize = 0x12;
    pub const DEVICE_STATUS: usize = 0x14;
    pub const CONFIG_GENERATION: usize = 0x15;
    pub const QUEUE_SELECT: usize = 0x16;
    pub const QUEUE_SIZE: usize = 0x18;
    pub const QUEUE_MSIX_VECTOR: usize = 0x1A;
    pub const QUEUE_ENABLE: usize = 0x1C;
    pub const QUEUE_NOTIFY_OFF: usize = 0x1E;
    pub const QUEUE_DESC: usize = 0x20;
    pub const QUEUE_DEVICE_HIGH: usize = 0x34;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    pub structure: Structure,
    pub offset: usize,
    /// The value that was written, or `None` for a read.
    pub written: Option<u64>,
}

#[derive(Debug, Default)]
struct State {
    status: u8,
    resets_pending: u32,
    driver_features: u64,
    device_select: u32,
    driver_select: u32,
    queue_select: u16,
    queue_size: Option<u16>,
    queue_enabled: u16,
    queue_vector: u16,
    config_vector: u16,
    ring: [u32; 6],
    generation: u8,
    isr: u8,
}

/// The device.
pub struct PciDevice {
    state: RefCell<State>,
    pub trace: RefCell<Vec<Access>>,

    pub offered: Cell<u64>,
    /// How many times the status reads as not 0 after a reset.
    pub reset_takes: Cell<u32>,
    pub keeps_features_ok: Cell<bool>,
    /// All registers read as all ones.
    pub gone: Cell<bool>,
    /// Sets DEVICE_NEEDS_RESET as soon as `DRIVER_OK` is set.
    pub breaks_at_start: Cell<bool>,
    pub queues: Cell<u16>,
    pub queue_size: Cell<u16>,
    pub queue_enabled_at_reset: Cell<bool>,
    pub queue_enable_sticks: Cell<bool>,
    pub notify_off: Cell<u16>,
    pub notify_multiplier: Cell<u32>,
    pub notify_length: Cell<usize>,
    /// The value that vector registers read as, or `None` for the value that was written.
    pub vector_answer: Cell<Option<u16>>,
    pub msix_vectors: Cell<u16>,
    pub config: RefCell<Vec<u8>>,
    /// Writes to `writeback` take effect.
    pub writeback_sticks: Cell<bool>,
    /// After how many reads the configuration changes, and its new contents. The last change comes
    /// first.
    pub config_changes: RefCell<Vec<(u32, Vec<u8>)>>,
    pub config_reads: Cell<u32>,
    /// The configuration changes with each read of the generation.
    pub generation_runs: Cell<bool>,
}

pub const OFFERED: F = F::VERSION_1.union(F::INDIRECT_DESC).union(F::EVENT_IDX);

impl PciDevice {
    pub fn new() -> Self {
        Self {
            state: RefCell::new(State {
                config_vector: 0xFFFF,
                queue_vector: 0xFFFF,
                ..State::default()
            }),
            trace: RefCell::default(),
            offered: Cell::new(OFFERED.bits().to_ne() as u64),
            reset_takes: Cell::new(0),
            keeps_features_ok: Cell::new(true),
            gone: Cell::new(false),
            breaks_at_start: Cell::new(false),
            queues: Cell::new(1),
            queue_size: Cell::new(256),
            queue_enabled_at_reset: Cell::new(false),
            queue_enable_sticks: Cell::new(true),
            notify_off: Cell::new(0),
            notify_multiplier: Cell::new(4),
            notify_length: Cell::new(0x1000),
            vector_answer: Cell::new(None),
            msix_vectors: Cell::new(3),
            config: RefCell::new(vec![0; 64]),
            writeback_sticks: Cell::new(true),
            config_changes: RefCell::default(),
            config_reads: Cell::new(0),
            generation_runs: Cell::new(false),
        }
    }

    pub fn offer(&self, features: F) {
        self.offered.set(features.bits().to_ne() as u64);
    }

    pub fn accepted(&self) -> F {
        F::from_bits_retain(le128::from_ne(self.state.borrow().driver_features.into()))
    }

    pub fn status(&self) -> u8 {
        self.state.borrow().status
    }

    pub fn set_status(&self, bits: u8) {
        self.state.borrow_mut().status |= bits;
    }

    pub fn set_isr(&self, bits: u8) {
        self.state.borrow_mut().isr = bits;
    }

    pub fn queue_is_enabled(&self) -> bool {
        self.state.borrow().queue_enabled == 1
    }

    /// The size of the queue and the addresses of its parts, as the driver wrote them.
    pub fn ring(&self) -> (Option<u16>, [u64; 3]) {
        let state = self.state.borrow();
        let [a, b, c, d, e, f] = state.ring.map(u64::from);
        (state.queue_size, [b << 32 | a, d << 32 | c, f << 32 | e])
    }

    pub fn vectors(&self) -> (u16, u16) {
        let state = self.state.borrow();
        (state.config_vector, state.queue_vector)
    }

    pub fn layout(&self) -> Layout {
        let at = |offset| Location {
            bar: 4,
            offset,
            length: 0x1000,
        };
        Layout {
            common: at(0),
            isr: at(0x1000),
            device: at(0x2000),
            notify: at(0x3000),
            notify_multiplier: self.notify_multiplier.get(),
            msix_vectors: self.msix_vectors.get(),
        }
    }

    pub fn windows(&self) -> Windows<Window<'_>> {
        let window = |structure| Window {
            device: self,
            structure,
        };
        Windows {
            common: window(Structure::Common),
            notify: window(Structure::Notify),
            isr: window(Structure::Isr),
            device: window(Structure::Device),
        }
    }

    pub fn device(&self) -> Device<Window<'_>> {
        Device::new(&self.layout(), self.windows()).expect("windows of full length")
    }

    pub fn reset_device(&self) -> Device<Window<'_>, Reset> {
        self.device().reset(10, || ()).expect("a reset")
    }

    /// All writes to the common configuration, in order.
    pub fn common_writes(&self) -> Vec<(usize, u64)> {
        let trace = self.trace.borrow();
        let common = trace.iter().filter(|it| it.structure == Structure::Common);
        common
            .filter_map(|it| Some((it.offset, it.written?)))
            .collect()
    }

    /// All writes to the status, in order.
    pub fn status_writes(&self) -> Vec<u8> {
        let writes = self.common_writes().into_iter();
        writes
            .filter(|(offset, _)| *offset == common::DEVICE_STATUS)
            .map(|(_, status)| status as u8)
            .collect()
    }

    fn read(&self, structure: Structure, offset: usize, width: usize) -> u64 {
        self.note(structure, offset, width, None);
        if self.gone.get() {
            return u64::MAX;
        }
        match structure {
            Structure::Common => self.read_common(offset, width),
            Structure::Notify => panic!("a notification address is not read"),
            Structure::Isr => {
                assert_eq!(width, 1);
                std::mem::take(&mut self.state.borrow_mut().isr).into()
            }
            Structure::Device => self.read_config(offset, width),
        }
    }

    fn write(&self, structure: Structure, offset: usize, width: usize, value: u64) {
        self.note(structure, offset, width, Some(value));
        if self.gone.get() {
            return;
        }
        match structure {
            Structure::Common => self.write_common(offset, width, value),
            Structure::Notify => {
                assert_eq!(width, 2, "V71");
                assert_ne!(self.status() & DRIVER_OK, 0, "V13");
            }
            Structure::Device => {
                assert_eq!((offset, width), (0x20, 1), "only writeback is writable");
                let wce = F::from(virtio::spec::blk::F::CONFIG_WCE);
                assert!(self.accepted().contains(wce), "5.2.5, 5.2.6");
                if self.writeback_sticks.get() {
                    self.config.borrow_mut()[offset] = value as u8;
                }
            }
            Structure::Isr => panic!("a write to {structure}"),
        }
    }

    fn note(&self, structure: Structure, offset: usize, width: usize, written: Option<u64>) {
        assert!(offset.is_multiple_of(width), "V61: {structure} {offset:#x}");
        self.trace.borrow_mut().push(Access {
            structure,
            offset,
            written,
        });
    }

    fn read_common(&self, offset: usize, width: usize) -> u64 {
        assert_eq!(width, width_of(offset), "V61: {offset:#x}");
        let mut state = self.state.borrow_mut();
        match offset {
            common::DEVICE_FEATURE => match state.device_select {
                0 => self.offered.get() & 0xFFFF_FFFF,
                1 => self.offered.get() >> 32,
                _ => 0,
            },
            common::CONFIG_MSIX_VECTOR => self
                .vector_answer
                .get()
                .unwrap_or(state.config_vector)
                .into(),
            common::QUEUE_MSIX_VECTOR => self
                .vector_answer
                .get()
                .unwrap_or(state.queue_vector)
                .into(),
            common::NUM_QUEUES => self.queues.get().into(),
            common::DEVICE_STATUS => {
                if state.resets_pending > 0 {
                    state.resets_pending -= 1;
                    if state.resets_pending == 0 {
                        state.status = 0;
                    }
                    return (state.status | DRIVER).into();
                }
                state.status.into()
            }
            common::CONFIG_GENERATION => {
                if self.generation_runs.get() {
                    state.generation = state.generation.wrapping_add(1);
                }
                state.generation.into()
            }
            common::QUEUE_SIZE => state.queue_size.unwrap_or(self.queue_size.get()).into(),
            common::QUEUE_ENABLE => state.queue_enabled.into(),
            common::QUEUE_NOTIFY_OFF => self.notify_off.get().into(),
            _ => panic!("a read of {offset:#x}"),
        }
    }

    fn write_common(&self, offset: usize, width: usize, value: u64) {
        assert_eq!(width, width_of(offset), "V61: {offset:#x}");
        let mut state = self.state.borrow_mut();
        match offset {
            common::DEVICE_FEATURE_SELECT => state.device_select = value as u32,
            common::DRIVER_FEATURE_SELECT => state.driver_select = value as u32,
            common::DRIVER_FEATURE => {
                assert_eq!(state.status & FEATURES_OK, 0, "V12");
                let shift = 32 * state.driver_select;
                state.driver_features &= !(0xFFFF_FFFF << shift);
                state.driver_features |= value << shift;
            }
            common::CONFIG_MSIX_VECTOR => state.config_vector = value as u16,
            common::QUEUE_MSIX_VECTOR => state.queue_vector = value as u16,
            common::DEVICE_STATUS => self.write_status(&mut state, value as u8),
            common::QUEUE_SELECT => state.queue_select = value as u16,
            common::QUEUE_SIZE => {
                assert!(value.is_power_of_two(), "V65");
                state.queue_size = Some(value as u16);
            }
            common::QUEUE_ENABLE => {
                assert_eq!(value, 1, "V66");
                assert_ne!(state.status & FEATURES_OK, 0, "V11");
                assert_eq!(state.status & DRIVER_OK, 0, "V11");
                state.queue_enabled = self.queue_enable_sticks.get().into();
            }
            common::QUEUE_DESC..=common::QUEUE_DEVICE_HIGH => {
                assert_eq!(state.queue_enabled, 0, "V66");
                state.ring[(offset - common::QUEUE_DESC) / 4] = value as u32;
            }
            _ => panic!("V64: a write to {offset:#x}"),
        }
    }

    fn write_status(&self, state: &mut State, status: u8) {
        if status == 0 {
            let old = state.status;
            *state = State {
                config_vector: 0xFFFF,
                queue_vector: 0xFFFF,
                queue_enabled: self.queue_enabled_at_reset.get().into(),
                resets_pending: self.reset_takes.get(),
                status: if self.reset_takes.get() > 0 { old } else { 0 },
                ..State::default()
            };
            return;
        }
        assert_eq!(
            status & state.status,
            state.status,
            "V01: a bit was cleared"
        );
        assert_eq!(state.status & FAILED, 0, "V02: on after FAILED");
        state.status = status;
        if !self.keeps_features_ok.get() {
            state.status &= !FEATURES_OK;
        }
        if self.breaks_at_start.get() && status & DRIVER_OK != 0 {
            state.status |= NEEDS_RESET;
        }
    }

    fn read_config(&self, offset: usize, width: usize) -> u64 {
        let reads = self.config_reads.get() + 1;
        self.config_reads.set(reads);
        let mut bytes = [0; 8];
        bytes[..width].copy_from_slice(&self.config.borrow()[offset..offset + width]);
        let mut changes = self.config_changes.borrow_mut();
        if let Some((_, config)) = changes.pop_if(|(after, _)| *after <= reads) {
            *self.config.borrow_mut() = config;
            self.state.borrow_mut().generation += 1;
        }
        u64::from_le_bytes(bytes)
    }
}

/// The width of the field that begins at `offset` (V61).
fn width_of(offset: usize) -> usize {
    match offset {
        0x00..0x10 | 0x20..0x38 => 4,
        common::DEVICE_STATUS | common::CONFIG_GENERATION => 1,
        _ => 2,
    }
}

/// The mapped window of one structure of the device.
#[derive(Clone, Copy)]
pub struct Window<'d> {
    device: &'d PciDevice,
    structure: Structure,
}

impl fmt::Debug for Window<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.structure.fmt(f)
    }
}

impl Registers for Window<'_> {
    fn length(&self) -> usize {
        match self.structure {
            Structure::Common => 0x38,
            Structure::Notify => self.device.notify_length.get(),
            Structure::Isr => 1,
            Structure::Device => self.device.config.borrow().len(),
        }
    }

    fn read_u8(&self, offset: usize) -> u8 {
        self.device.read(self.structure, offset, 1) as u8
    }

    fn read_u16(&self, offset: usize) -> u16 {
        self.device.read(self.structure, offset, 2) as u16
    }

    fn read_u32(&self, offset: usize) -> u32 {
        self.device.read(self.structure, offset, 4) as u32
    }

    fn write_u8(&self, offset: usize, value: u8) {
        self.device.write(self.structure, offset, 1, value.into());
    }

    fn write_u16(&self, offset: usize, value: u16) {
        self.device.write(self.structure, offset, 2, value.into());
    }

    fn write_u32(&self, offset: usize, value: u32) {
        self.device.write(self.structure, offset, 4, value.into());
    }
}
