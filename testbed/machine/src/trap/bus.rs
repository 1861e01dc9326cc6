//! Everything outside the processor: the register windows and ports of PCI functions, the pages
//! that Windows shares with drivers, and memory.
//!
//! Signal handlers read the tables on every access. So the entries are atomic pointers to
//! values that never change and are never freed.

use std::{
    collections::BTreeSet,
    io,
    ops::Range,
    ptr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicPtr, Ordering},
    },
};

use super::{
    emulate::{Bus, CONTROL_REGION, Refusal},
    process_memory,
};
use crate::{
    cpu, lock,
    memory::{PAGE, reserve},
    pci::{BarKind, PciFunction},
    schedule::{self, Point},
    time,
};

/// The maximum number of windows, and of port ranges.
const MOST: usize = 64;

/// Where Windows maps KUSER_SHARED_DATA for drivers (`ntddk.h`).
const SHARED_DATA: u64 = 0xffff_f780_0000_0000;

/// The processor's number in its control region: KeGetCurrentProcessorNumber
/// of older headers reads it there (`ntddk.h`).
const CONTROL_REGION_NUMBER: u64 = 0x184;

/// A range of addresses or ports, and the part of a BAR behind it.
struct Decoded {
    /// The addresses that reach the function.
    valid: Range<u64>,
    /// The addresses that trap: all pages of a window.
    whole: Range<u64>,
    function: Arc<dyn PciFunction>,
    bar: usize,
    /// The offset in the BAR of the start of `valid`.
    offset: u64,
}

/// A table that signal handlers search.
struct Table([AtomicPtr<Decoded>; MOST]);

static WINDOWS: Table = Table::new();
static PORTS: Table = Table::new();

/// What drivers did wrong, without duplicates.
static DRIVER_ERRORS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

impl Table {
    const fn new() -> Self {
        Self([const { AtomicPtr::new(ptr::null_mut()) }; MOST])
    }

    /// Adds an entry. Returns `None` if the table is full.
    fn add(&self, entry: Decoded) -> Option<&'static Decoded> {
        let entry = Box::leak(Box::new(entry));
        let place = self.0.iter().find(|place| {
            place
                .compare_exchange(ptr::null_mut(), entry, Ordering::Release, Ordering::Relaxed)
                .is_ok()
        });
        place.map(|_| &*entry)
    }

    fn remove(&self, entry: &'static Decoded) {
        for place in &self.0 {
            // The entry is leaked, because a handler may be reading it.
            let _ = place.compare_exchange(
                ptr::from_ref(entry).cast_mut(),
                ptr::null_mut(),
                Ordering::Release,
                Ordering::Relaxed,
            );
        }
    }

    fn find(&self, address: u64) -> Option<&'static Decoded> {
        self.0
            .iter()
            .filter_map(|place| {
                let entry = place.load(Ordering::Acquire);
                // SAFETY: `add` leaked every entry of the table, and entries are never written
                // again.
                unsafe { entry.as_ref() }
            })
            .find(|entry| entry.whole.contains(&address))
    }
}

impl Decoded {
    /// Begins an access. Returns its offset in the BAR.
    fn begin(&self, address: u64, bytes: usize) -> Result<u64, Refusal> {
        let offset = address
            .wrapping_sub(self.valid.start)
            .wrapping_add(self.offset);
        let end = address.checked_add(bytes as u64);
        if address < self.valid.start || end.is_none_or(|end| end > self.valid.end) {
            return Err(Refusal::Beyond {
                bar: self.bar,
                offset,
                bytes,
            });
        }
        if bytes > 8 {
            record_driver_error(format!(
                "an access of {bytes} bytes to the registers at {offset:#x} of BAR {}: it was \
                 split into two of 8, and other machines may split it differently",
                self.bar
            ));
        }
        schedule::point(Point::Register);
        Ok(offset)
    }

    fn read(&self, address: u64, data: &mut [u8]) -> Result<(), Refusal> {
        let offset = self.begin(address, data.len())?;
        for (offset, part) in (offset..).step_by(8).zip(data.chunks_mut(8)) {
            self.function.bar_read(self.bar, offset, part);
        }
        schedule::point(Point::Register);
        Ok(())
    }

    fn write(&self, address: u64, data: &[u8]) -> Result<(), Refusal> {
        let offset = self.begin(address, data.len())?;
        for (offset, part) in (offset..).step_by(8).zip(data.chunks(8)) {
            self.function.bar_write(self.bar, offset, part);
        }
        schedule::point(Point::Register);
        Ok(())
    }
}

/// An address range that is mapped to a function's BAR. After the drop accesses to it crash.
/// Its addresses are not reused.
pub struct RegisterWindow {
    entry: &'static Decoded,
}

impl RegisterWindow {
    /// Maps `bytes` from `offset` of BAR `bar`.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for a range that is not in a memory BAR,
    /// [`io::ErrorKind::QuotaExceeded`] if 64 windows are open, and errors of the host.
    pub fn map(
        function: &Arc<dyn PciFunction>,
        bar: usize,
        offset: u64,
        bytes: u64,
    ) -> io::Result<Self> {
        let exists = function.bar(bar).is_some_and(|found| {
            found.kind == BarKind::Memory
                && bytes > 0
                && offset
                    .checked_add(bytes)
                    .is_some_and(|end| end <= found.bytes)
        });
        if !exists {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{bytes} bytes from {offset:#x} on are not in a memory BAR {bar}"),
            ));
        }
        let in_page = offset % PAGE as u64;
        let whole = (in_page + bytes).next_multiple_of(PAGE as u64);
        let first = reserve(whole as usize)? as u64;
        let entry = Decoded {
            valid: first + in_page..first + in_page + bytes,
            whole: first..first + whole,
            function: Arc::clone(function),
            bar,
            offset,
        };
        match WINDOWS.add(entry) {
            Some(entry) => Ok(Self { entry }),
            None => Err(io::Error::new(
                io::ErrorKind::QuotaExceeded,
                format!("{MOST} register windows are open already; does the driver unmap them?"),
            )),
        }
    }

    /// The first address. It is page-aligned if `offset` is.
    #[must_use]
    pub fn address(&self) -> usize {
        self.entry.valid.start as usize
    }
}

impl Drop for RegisterWindow {
    fn drop(&mut self) {
        WINDOWS.remove(self.entry);
    }
}

/// Connects the port instructions at the addresses of `function`'s I/O BARs to it.
///
/// # Panics
/// With more than 64 I/O BARs in the machine.
pub fn connect_ports(function: &Arc<dyn PciFunction>) {
    for index in 0..6 {
        let Some(bar) = function.bar(index).filter(|bar| bar.kind == BarKind::Io) else {
            continue;
        };
        let range = bar.address..bar.address.saturating_add(bar.bytes);
        let entry = Decoded {
            valid: range.clone(),
            whole: range,
            function: Arc::clone(function),
            bar: index,
            offset: 0,
        };
        assert!(
            PORTS.add(entry).is_some(),
            "{MOST} I/O BARs are connected already"
        );
    }
}

/// What drivers did wrong that the testbed carried out nevertheless, one sentence each.
#[must_use]
pub fn driver_errors() -> Vec<String> {
    let driver_errors = lock(&DRIVER_ERRORS);
    driver_errors.iter().cloned().collect()
}

/// Records that the driver did something wrong that the testbed carries out nevertheless.
/// Duplicates are dropped.
pub fn record_driver_error(what: String) {
    let mut driver_errors = lock(&DRIVER_ERRORS);
    driver_errors.insert(what);
}

/// Whether an access at `address` is emulated. Otherwise it is a fault.
pub(super) fn decodes(address: u64) -> bool {
    WINDOWS.find(address).is_some()
        || (SHARED_DATA..SHARED_DATA + PAGE as u64).contains(&address)
        || (CONTROL_REGION..CONTROL_REGION + PAGE as u64).contains(&address)
}

/// The bus of this process's machine.
#[derive(Debug)]
pub(super) struct MachineBus;

impl Bus for MachineBus {
    fn read(&self, address: u64, data: &mut [u8]) -> Result<(), Refusal> {
        if let Some(window) = WINDOWS.find(address) {
            return window.read(address, data);
        }
        let fault = Refusal::Fault {
            address,
            write: false,
        };
        if let Some(offset @ 0..0x1000) = address.checked_sub(CONTROL_REGION) {
            if offset != CONTROL_REGION_NUMBER {
                return Err(Refusal::ControlRegion { offset });
            }
            let number = cpu::current_number().to_le_bytes();
            let length = data.len().min(number.len());
            data.fill(0);
            data[..length].copy_from_slice(&number[..length]);
            return Ok(());
        }
        if let Some(offset @ 0..0x1000) = address.checked_sub(SHARED_DATA) {
            let page = time::shared_data();
            let end = offset as usize + data.len();
            data.copy_from_slice(page.get(offset as usize..end).ok_or(fault)?);
            return Ok(());
        }
        process_memory::read(address as usize, data).ok_or(fault)
    }

    fn write(&self, address: u64, data: &[u8]) -> Result<(), Refusal> {
        if let Some(window) = WINDOWS.find(address) {
            return window.write(address, data);
        }
        if let Some(offset @ 0..0x1000) = address.checked_sub(CONTROL_REGION) {
            return Err(Refusal::ControlRegion { offset });
        }
        process_memory::write(address as usize, data).ok_or(Refusal::Fault {
            address,
            write: true,
        })
    }

    fn input(&self, port: u16, data: &mut [u8]) {
        // As on a PC, ports without a device read as ones.
        data.fill(0xff);
        let address = port.into();
        let range = PORTS.find(address);
        if range.is_none_or(|range| range.read(address, data).is_err()) {
            record_driver_error(format!(
                "a read of {} bytes from port {port:#x}, which no function has",
                data.len()
            ));
        }
    }

    fn output(&self, port: u16, data: &[u8]) {
        let address = port.into();
        let range = PORTS.find(address);
        if range.is_none_or(|range| range.write(address, data).is_err()) {
            record_driver_error(format!(
                "a write of {} bytes to port {port:#x}, which no function has",
                data.len()
            ));
        }
    }

    fn irql(&self) -> u8 {
        cpu::current_irql()
    }

    fn set_irql(&self, level: u8) {
        cpu::set_irql(level);
    }
}
