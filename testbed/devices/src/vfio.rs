//! A PCI function of the host, which VFIO gives to this process: a device that this project did
//! not write.
//!
//! Its registers and its configuration space are the device's own. Its DMA reaches the machine's
//! memory through the host's IOMMU. Three things are in between:
//! - The kernel programs the device's MSI-X table, and each vector comes as an event. The table
//!   that the driver's side sees is emulated: its masks hold messages back.
//! - The kernel masks the pin when it is asserted. The next access to a BAR deasserts the pin here
//!   and unmasks it there. If the device still asserts it, it is asserted again.
//! - The base addresses are those that the host assigned, whatever the driver's side writes.

use std::{
    io,
    ops::Range,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use testbed_machine::{
    dma::Mapping,
    memory::Memory,
    pci::{self, Bar, BarKind, FunctionCounters, Interrupts, PciFunction},
};
use testbed_virtio::{common_config::NO_VECTOR, driver_errors::DriverErrors};
use vfio_bindings::bindings::vfio::{
    VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_INTX_IRQ_INDEX, VFIO_PCI_MSIX_IRQ_INDEX,
};
use vfio_ioctls::{VfioContainer, VfioDevice};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EventFd};

use super::interrupt_sender::InterruptSender;

/// Offsets in the header (PCI 3.0, 6.1), and bits of its registers.
const COMMAND: u16 = 0x04;
const INTX_DISABLE: u16 = 1 << 10;
const BARS: u16 = 0x10;

/// The ids of capabilities.
const VENDOR_SPECIFIC: u8 = 0x09;
const MSI_X: u8 = 0x11;

/// The bits of MSI-X message control that software writes: enable, and mask all.
const MSIX_CONTROL: u16 = 1 << 15 | 1 << 14;
const MSIX_ENABLE: u16 = 1 << 15;
/// The length of an entry of the MSI-X table.
const MSIX_ENTRY: u64 = 16;

/// `cfg_type` of the notification structure (VIRTIO 1.3 §4.1.4).
const NOTIFY: u8 = 2;
/// Queue Notify of the legacy interface (VIRTIO 1.3 §4.1.4.10).
const LEGACY_NOTIFY: Range<u64> = 16..18;

/// A function cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "{address}: {why}; bind the function to vfio-pci, and run as a user who may open its group in \
     /dev/vfio"
)]
pub struct VfioError {
    address: String,
    why: String,
}

/// The MSI-X table.
#[derive(Clone, Copy, Debug)]
struct Table {
    /// The offset of the capability's message control register.
    control_at: u16,
    vectors: u16,
    bar: usize,
    offset: u64,
}

/// What the driver's side has set.
#[derive(Debug, Default)]
struct State {
    /// [`MSIX_CONTROL`] bits of message control.
    control: u16,
    /// Whether the events of the messages are connected.
    messages: bool,
}

/// A function of the host.
pub struct Vfio {
    device: VfioDevice,
    table: Option<Table>,
    /// Where notifications are written: a BAR, and a range in it.
    notify: Vec<(usize, Range<u64>)>,
    state: Mutex<State>,
    messages: Vec<EventFd>,
    pin: Option<EventFd>,
    interrupts: Arc<InterruptSender>,
    notifications: AtomicU64,
    stopping: Arc<AtomicBool>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    driver_errors: DriverErrors,
    // Dropped after the device.
    _mapping: Mapping,
}

impl Vfio {
    /// Opens the function at `address`, such as `0000:01:00.0`. Its DMA reaches all of `memory`,
    /// and nothing else.
    ///
    /// # Errors
    /// The function does not exist, is not bound to vfio-pci, or is not accessible.
    pub fn open(address: &str, memory: &Arc<Memory>) -> Result<Arc<Self>, VfioError> {
        Self::open_device(address, memory).map_err(|why| VfioError {
            address: address.to_owned(),
            why,
        })
    }

    fn open_device(address: &str, memory: &Arc<Memory>) -> Result<Arc<Self>, String> {
        let kernel = |error: vfio_ioctls::VfioError| error.to_string();
        let host = |error: io::Error| error.to_string();
        let folder = PathBuf::from("/sys/bus/pci/devices").join(address);
        if !folder.exists() {
            return Err("the host has no such PCI function".to_owned());
        }
        let container = Arc::new(VfioContainer::new(None).map_err(kernel)?);
        let device = VfioDevice::new(&folder, container.clone(), false).map_err(kernel)?;
        let mapping = Mapping::new(container, Arc::clone(memory)).map_err(kernel)?;
        device.reset();

        let mut function = Self {
            device,
            table: None,
            notify: Vec::new(),
            state: Mutex::default(),
            messages: Vec::new(),
            pin: None,
            interrupts: Arc::new(InterruptSender::new(0)),
            notifications: AtomicU64::new(0),
            stopping: Arc::default(),
            threads: Mutex::default(),
            driver_errors: DriverErrors::default(),
            _mapping: mapping,
        };
        function.find_capabilities();
        let vectors = function.table.map_or(0, |table| table.vectors);
        function.interrupts = Arc::new(InterruptSender::new(vectors));
        for vector in 0..vectors {
            let event = EventFd::new(EFD_CLOEXEC).map_err(host)?;
            function.listen(&event, vector).map_err(host)?;
            function.messages.push(event);
        }
        let has_pin = function.device.get_irq_info(VFIO_PCI_INTX_IRQ_INDEX);
        if has_pin.is_some_and(|irq| irq.count > 0) {
            let event = EventFd::new(EFD_CLOEXEC).map_err(host)?;
            function.listen(&event, NO_VECTOR).map_err(host)?;
            function.pin = Some(event);
        }
        function.connect_pin();
        Ok(Arc::new(function))
    }

    /// Finds the MSI-X table, and the registers for notifications.
    fn find_capabilities(&mut self) {
        for (id, at) in pci::capabilities(self) {
            match id {
                MSI_X => {
                    let table = self.config_long(at + 4);
                    self.table = Some(Table {
                        control_at: at + 2,
                        vectors: (pci::config_u16(self, at + 2) & 0x7ff) + 1,
                        bar: table as usize & 7,
                        offset: u64::from(table & !7),
                    });
                }
                VENDOR_SPECIFIC if pci::config_u16(self, at + 2).to_le_bytes()[1] == NOTIFY => {
                    let bar = usize::from(pci::config_u16(self, at + 4) & 0xff);
                    let first = u64::from(self.config_long(at + 8));
                    let bytes = u64::from(self.config_long(at + 12));
                    self.notify.push((bar, first..first + bytes));
                }
                _ => {}
            }
        }
        if self.bar(0).is_some_and(|bar| bar.kind == BarKind::Io) {
            self.notify.push((0, LEGACY_NOTIFY));
        }
    }

    /// Signals `vector` at each event, on a thread of its own.
    fn listen(&self, event: &EventFd, vector: u16) -> io::Result<()> {
        let event = event.try_clone()?;
        let interrupts = Arc::clone(&self.interrupts);
        let stopping = Arc::clone(&self.stopping);
        let run = move || {
            while event.read().is_ok() && !stopping.load(Ordering::Acquire) {
                interrupts.queue_used(vector);
            }
        };
        let thread = thread::Builder::new()
            .name(format!("event {vector}"))
            .spawn(run)?;
        self.threads.lock().expect("no holder panics").push(thread);
        Ok(())
    }

    /// Lets the kernel signal the pin.
    fn connect_pin(&self) {
        if let Some(pin) = &self.pin {
            self.check(
                self.device.enable_irq(VFIO_PCI_INTX_IRQ_INDEX, vec![pin]),
                "the pin was not connected",
            );
        }
    }

    /// Connects the messages in place of the pin, or the pin in place of the messages.
    fn connect_interrupts(&self, state: &mut State) {
        let wanted = state.control & MSIX_ENABLE != 0;
        if wanted == state.messages {
            return;
        }
        state.messages = wanted;
        if wanted {
            if self.pin.is_some() {
                let disabled = self.device.disable_irq(VFIO_PCI_INTX_IRQ_INDEX);
                self.check(disabled, "the pin was not disconnected");
            }
            let events = self.messages.iter().collect();
            self.check(
                self.device.enable_msix(events),
                "the messages were not connected",
            );
        } else {
            let disabled = self.device.disable_irq(VFIO_PCI_MSIX_IRQ_INDEX);
            self.check(disabled, "the messages were not disconnected");
            self.connect_pin();
        }
    }

    /// Records a failure of the host, which the run must not pass over.
    fn check(&self, result: Result<(), vfio_ioctls::VfioError>, what: &str) {
        if let Err(error) = result {
            self.driver_errors.add(format!("VFIO: {what}: {error}"));
        }
    }

    /// Ends an assertion of the pin.
    fn deassert(&self) {
        if self.interrupts.take_isr() != 0 && !self.state().messages {
            self.check(
                self.device.unmask_irq(VFIO_PCI_INTX_IRQ_INDEX),
                "the pin was not unmasked",
            );
        }
    }

    /// The place in the table of an access to a BAR.
    fn in_table(&self, index: usize, offset: u64) -> Option<u64> {
        let table = self.table.filter(|table| table.bar == index)?;
        let place = offset.checked_sub(table.offset)?;
        (place < u64::from(table.vectors) * MSIX_ENTRY).then_some(place)
    }

    fn command(&self) -> u16 {
        let mut bytes = [0; 2];
        self.read_config(COMMAND, &mut bytes);
        u16::from_le_bytes(bytes)
    }

    fn config_long(&self, offset: u16) -> u32 {
        let mut bytes = [0; 4];
        self.read_config(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn read_config(&self, offset: u16, data: &mut [u8]) {
        data.fill(0xff);
        self.device
            .region_read(VFIO_PCI_CONFIG_REGION_INDEX, data, offset.into());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }
}

/// The bytes of `data`, which is at `offset`, that are in the register at `register`: each with
/// its place in the register.
fn overlap(
    offset: u16,
    data: &mut [u8],
    register: u16,
) -> impl Iterator<Item = (usize, &mut u8)> + '_ {
    let places = data.iter_mut().zip(offset..);
    places.filter_map(move |(byte, at)| match at.checked_sub(register) {
        Some(place @ (0 | 1)) => Some((place.into(), byte)),
        _ => None,
    })
}

impl PciFunction for Vfio {
    fn config_read(&self, offset: u16, data: &mut [u8]) {
        self.read_config(offset, data);
        if let Some(table) = self.table {
            let control = (table.vectors - 1) | self.state().control;
            for (place, byte) in overlap(offset, data, table.control_at) {
                *byte = control.to_le_bytes()[place];
            }
        }
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        let mut state = self.state();
        if let Some(table) = self.table {
            let mut control = state.control.to_le_bytes();
            for (place, byte) in overlap(offset, &mut data.to_vec(), table.control_at) {
                control[place] = *byte;
            }
            state.control = u16::from_le_bytes(control) & MSIX_CONTROL;
        }
        self.device
            .region_write(VFIO_PCI_CONFIG_REGION_INDEX, data, offset.into());
        let pin_disabled = self.command() & INTX_DISABLE != 0;
        // A message that comes at once is sent, and none is taken for the pin.
        self.interrupts.configure(state.control, pin_disabled);
        self.connect_interrupts(&mut state);
    }

    fn bar(&self, index: usize) -> Option<Bar> {
        let bytes = self.device.get_region_size(u32::try_from(index).ok()?);
        let at = BARS + 4 * u16::try_from(index).ok().filter(|index| *index < 6)?;
        let low = self.config_long(at);
        let (kind, address) = match (low & 1, low >> 1 & 3) {
            (1, _) => (BarKind::Io, u64::from(low & !3)),
            (_, 2) => {
                let high = u64::from(self.config_long(at + 4));
                (BarKind::Memory, high << 32 | u64::from(low & !0xf))
            }
            _ => (BarKind::Memory, u64::from(low & !0xf)),
        };
        (bytes > 0).then_some(Bar {
            kind,
            address,
            bytes,
        })
    }

    fn bar_read(&self, index: usize, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let Some(place) = self.in_table(index, offset) {
            return self.interrupts.read_table(place, data, &self.driver_errors);
        }
        self.device.region_read(index as u32, data, offset);
        self.deassert();
    }

    fn bar_write(&self, index: usize, offset: u64, data: &[u8]) {
        if let Some(place) = self.in_table(index, offset) {
            return self
                .interrupts
                .write_table(place, data, &self.driver_errors);
        }
        let mut notify = self.notify.iter();
        if notify.any(|(bar, range)| *bar == index && range.contains(&offset)) {
            self.notifications.fetch_add(1, Ordering::Relaxed);
        }
        self.device.region_write(index as u32, data, offset);
        self.deassert();
    }

    fn msix_vectors(&self) -> u16 {
        self.interrupts.vectors()
    }

    fn connect(&self, interrupts: Arc<dyn Interrupts>) {
        self.interrupts.connect(interrupts);
    }

    fn counters(&self) -> FunctionCounters {
        FunctionCounters {
            notifications: self.notifications.load(Ordering::Relaxed),
            interrupts: self.interrupts.sent(),
            // Only the device knows.
            requests: 0,
            driver_errors: self.driver_errors.count(),
        }
    }

    fn power_cycle(&self) {
        self.device.reset();
        // The kernel keeps the pin masked after an assertion that nothing ends.
        self.deassert();
        let mut state = self.state();
        state.control = 0;
        self.connect_interrupts(&mut state);
        // As after power-on. The kernel keeps the real base addresses.
        for register in (BARS..BARS + 24).step_by(4) {
            self.device
                .region_write(VFIO_PCI_CONFIG_REGION_INDEX, &[0; 4], register.into());
        }
        self.device
            .region_write(VFIO_PCI_CONFIG_REGION_INDEX, &[0; 2], COMMAND.into());
        self.interrupts.power_cycle();
    }

    fn driver_errors(&self) -> Vec<String> {
        self.driver_errors.list()
    }

    fn stop(&self) {
        self.device.reset();
        self.stopping.store(true, Ordering::Release);
        for event in self.messages.iter().chain(&self.pin) {
            // A thread that is not woken is left to the end of the process.
            if event.write(1).is_err() {
                return;
            }
        }
        for thread in std::mem::take(&mut *self.threads.lock().expect("no holder panics")) {
            thread.join().expect("an event's thread does not panic");
        }
    }
}
