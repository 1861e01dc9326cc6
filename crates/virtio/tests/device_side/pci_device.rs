//! The registers of a virtio PCI device, which are those of `testbed-virtio`. By default the device
//! is honest. Each public field sets a property or a fault. Every access is recorded, and a
//! violation of the specification by the driver fails the test.

use std::cell::{Cell, RefCell};
use std::fmt;

use testbed_virtio::blk_config::BlkConfig;
use testbed_virtio::common_config::{self, CommonConfig, Ring, offset};
use testbed_virtio::driver_errors::DriverErrors;
use testbed_virtio::function::{Function, Structure};
use virtio::pci::{Layout, Location};
use virtio::registers::{Doorbell, Registers};
use virtio::spec::{F, le128};
use virtio::transport::{Device, Reset, Windows};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    pub structure: Structure,
    pub offset: u64,
    /// The value that was written, or `None` for a read.
    pub written: Option<u64>,
}

/// The device.
pub struct PciDevice {
    pub function: RefCell<Function>,
    driver_errors: DriverErrors,
    pub trace: RefCell<Vec<Access>>,
    msix_vectors: u16,
    /// All registers read as all ones.
    pub gone: Cell<bool>,
    pub notify_multiplier: Cell<u32>,
    pub notify_length: Cell<usize>,
    pub config_length: Cell<usize>,
    /// After how many reads the configuration changes, and its new contents.
    pub config_change: Cell<Option<(u32, BlkConfig)>>,
    pub config_reads: Cell<u32>,
}

pub const OFFERED: F = F::VERSION_1.union(F::INDIRECT_DESC).union(F::EVENT_IDX);

fn bits(features: F) -> u64 {
    features.bits().to_ne() as u64
}

impl PciDevice {
    /// A device with one queue and three vectors.
    pub fn new() -> Self {
        Self::of(1, 256, 3)
    }

    pub fn of(queues: u16, queue_size: u16, msix_vectors: u16) -> Self {
        let mut common = CommonConfig::new(bits(OFFERED), queues, queue_size, msix_vectors);
        common.left_with(common_config::ACKNOWLEDGE);
        Self {
            function: RefCell::new(Function::new(common, BlkConfig::default())),
            driver_errors: DriverErrors::default(),
            trace: RefCell::default(),
            msix_vectors,
            gone: Cell::new(false),
            notify_multiplier: Cell::new(4),
            notify_length: Cell::new(0x1000),
            config_length: Cell::new(64),
            config_change: Cell::new(None),
            config_reads: Cell::new(0),
        }
    }

    pub fn offer(&self, features: F) {
        self.function.borrow_mut().common.offered = bits(features);
    }

    /// Makes the register at `offset` read as `value`.
    pub fn lie(&self, offset: u64, value: u16) {
        let reads = &mut self.function.borrow_mut().common.faults.reads;
        reads.push((offset, value.into()));
    }

    /// Makes the next reset end only after `reads` reads of the status.
    pub fn slow_reset(&self, reads: u32) {
        self.function.borrow_mut().common.slow_reset(0, reads);
    }

    pub fn accepted(&self) -> F {
        F::from_bits_retain(le128::from_ne(
            self.function.borrow().common.agreed().into(),
        ))
    }

    pub fn status(&self) -> u8 {
        self.function.borrow().common.status()
    }

    pub fn needs_reset(&self) {
        self.function.borrow_mut().common.needs_reset();
    }

    /// The ring of queue 0, if it is enabled.
    pub fn ring(&self) -> Option<Ring> {
        self.function.borrow().common.ring(0)
    }

    pub fn vectors(&self) -> (u16, u16) {
        let common = &self.function.borrow().common;
        (common.config_vector(), common.queue_vector(0))
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
            msix_vectors: self.msix_vectors,
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
    pub fn common_writes(&self) -> Vec<(u64, u64)> {
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
            .filter(|(at, _)| *at == offset::STATUS)
            .map(|(_, status)| status as u8)
            .collect()
    }

    fn read(&self, structure: Structure, offset: u64, width: usize) -> u64 {
        self.note(structure, offset, None);
        if self.gone.get() {
            return u64::MAX;
        }
        let mut bytes = [0; 8];
        let mut function = self.function.borrow_mut();
        if function.read_ends_reset(structure, offset) {
            function.reset();
        }
        function.read(structure, offset, &mut bytes[..width], &self.driver_errors);
        if structure == Structure::Device {
            self.config_reads.update(|reads| reads + 1);
            if let Some((after, config)) = self.config_change.get()
                && after == self.config_reads.get()
            {
                function.config = config;
                function.common.configuration_changed();
            }
        }
        assert_eq!(self.driver_errors.list(), [""; 0]);
        u64::from_le_bytes(bytes)
    }

    fn write(&self, structure: Structure, offset: u64, width: usize, value: u64) {
        self.note(structure, offset, Some(value));
        if self.gone.get() {
            return;
        }
        let mut function = self.function.borrow_mut();
        if structure == Structure::Notify {
            assert_eq!(width, 2, "V71");
            assert_ne!(
                function.common.status() & common_config::DRIVER_OK,
                0,
                "V13"
            );
            return;
        }
        let data = &value.to_le_bytes()[..width];
        let msix = self.msix_vectors > 0;
        let effect = function.write(structure, offset, data, msix, &self.driver_errors);
        function.carry_out(effect);
        assert_eq!(self.driver_errors.list(), [""; 0]);
    }

    fn note(&self, structure: Structure, offset: u64, written: Option<u64>) {
        self.trace.borrow_mut().push(Access {
            structure,
            offset,
            written,
        });
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

macro_rules! accesses {
    ($($read:ident $write:ident $width:ty;)*) => {$(
        fn $read(&self, offset: usize) -> $width {
            let width = size_of::<$width>();
            self.device.read(self.structure, offset as u64, width) as $width
        }

        fn $write(&self, offset: usize, value: $width) {
            let width = size_of::<$width>();
            self.device.write(self.structure, offset as u64, width, value.into());
        }
    )*};
}

/// A notification register of the device.
#[derive(Clone, Debug)]
pub struct Bell<'d> {
    window: Window<'d>,
    offset: usize,
}

impl Doorbell for Bell<'_> {
    fn write(&self, value: u16) {
        self.window.write_u16(self.offset, value);
    }
}

impl<'d> Registers for Window<'d> {
    type Doorbell = Bell<'d>;

    fn doorbell(&self, offset: usize) -> Option<Bell<'d>> {
        let window = *self;
        (offset + 2 <= self.length() && offset.is_multiple_of(2)).then_some(Bell { window, offset })
    }

    fn length(&self) -> usize {
        match self.structure {
            Structure::Common => 0x38,
            Structure::Notify => self.device.notify_length.get(),
            Structure::Isr => 1,
            Structure::Device => self.device.config_length.get(),
        }
    }

    accesses! {
        read_u8 write_u8 u8;
        read_u16 write_u16 u16;
        read_u32 write_u32 u32;
    }
}
