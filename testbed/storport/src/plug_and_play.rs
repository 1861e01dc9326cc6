//! The PCI bus driver: enables a function for its miniport, connects its messages, and saves its
//! configuration while it has no power.

use std::sync::Arc;

use testbed_machine::{
    InterruptKind,
    pci::{self, Bar, PciFunction},
};

/// Command register (PCI 3.0, 6.2.2).
const COMMAND: u16 = 0x04;
/// I/O space, memory space and bus master enable.
const COMMAND_ON: u16 = 0x7;
/// Interrupt disable, for the pin.
const COMMAND_NO_PIN: u16 = 0x400;
const CAPABILITY_MSIX: u8 = 0x11;
/// Message control of the MSI-X capability. Bit 15 enables MSI-X, and bit 14 masks all messages
/// (PCI 3.0, 6.8.2).
const MSIX_CONTROL: u16 = 2;
const MSIX_ENABLE: u16 = 0x8000;
const MSIX_MASK_ALL: u16 = 0x4000;
/// The table's BAR and offset.
const MSIX_TABLE: u16 = 4;
/// The size of an entry: address, data and vector control.
const MSIX_ENTRY: u64 = 16;

/// The interrupt vector of message 0. The others follow.
pub(super) const FIRST_VECTOR: u32 = 0x50;

/// The local APIC address of a message for CPU `cpu`.
pub(super) fn message_address(cpu: u32) -> u64 {
    0xFEE0_0000 | u64::from(cpu) << 12
}

fn msix(function: &dyn PciFunction) -> Option<u16> {
    let all = pci::capabilities(function);
    let msix = all.into_iter().find(|(id, _)| *id == CAPABILITY_MSIX);
    msix.map(|(_, at)| at)
}

/// Enables the function's address decoding and bus mastering, and its interrupts: as `wanted`, or
/// the pin if it has no MSI-X. Returns the kind of interrupt.
pub(super) fn enable(function: &Arc<dyn PciFunction>, wanted: InterruptKind) -> InterruptKind {
    let command = pci::config_u16(function.as_ref(), COMMAND) | COMMAND_ON;
    let on = wanted == InterruptKind::Messages
        && function.msix_vectors() > 0
        && msix(function.as_ref()).is_some();
    if let Some(at) = msix(function.as_ref()) {
        let control = pci::config_u16(function.as_ref(), at + MSIX_CONTROL) & !MSIX_MASK_ALL;
        let control = if on {
            control | MSIX_ENABLE
        } else {
            control & !MSIX_ENABLE
        };
        function.config_write(at + MSIX_CONTROL, &control.to_le_bytes());
    }
    let command = if on {
        command | COMMAND_NO_PIN
    } else {
        command & !COMMAND_NO_PIN
    };
    function.config_write(COMMAND, &command.to_le_bytes());
    if on {
        InterruptKind::Messages
    } else {
        InterruptKind::Line
    }
}

/// Gives each of the first `count` messages an address and data, and unmasks it.
pub(super) fn unmask_messages(
    function: &Arc<dyn PciFunction>,
    count: u32,
    cpu_of: impl Fn(u32) -> u32,
) {
    let Some(at) = msix(function.as_ref()) else {
        return;
    };
    let mut table = [0; 4];
    function.config_read(at + MSIX_TABLE, &mut table);
    let table = u32::from_le_bytes(table);
    let (bar, offset) = (table as usize & 7, u64::from(table & !7));
    for message in 0..count {
        let entry = offset + u64::from(message) * MSIX_ENTRY;
        let address = message_address(cpu_of(message));
        let words = [
            address as u32,
            (address >> 32) as u32,
            FIRST_VECTOR + message,
            0,
        ];
        for (word, at) in words.iter().zip((entry..).step_by(4)) {
            function.bar_write(bar, at, &word.to_le_bytes());
        }
    }
}

pub(super) fn bars(function: &dyn PciFunction) -> Vec<(usize, Bar)> {
    (0..6)
        .filter_map(|index| Some((index, function.bar(index)?)))
        .collect()
}

/// The registers of a function's configuration space that the bus driver saves while the function
/// has no power. The table of messages is not among them, because connecting them writes it.
pub(super) struct Saved {
    command: u16,
    bars: [u8; 24],
    msix_control: Option<(u16, u16)>,
}

const BARS: u16 = 0x10;

impl Saved {
    pub(super) fn of(function: &dyn PciFunction) -> Self {
        let mut bars = [0; 24];
        function.config_read(BARS, &mut bars);
        Self {
            command: pci::config_u16(function, COMMAND),
            bars,
            msix_control: msix(function).map(|at| {
                (
                    at + MSIX_CONTROL,
                    pci::config_u16(function, at + MSIX_CONTROL),
                )
            }),
        }
    }

    /// Restores the registers, the command register last.
    pub(super) fn restore(&self, function: &dyn PciFunction) {
        for (at, register) in (BARS..).step_by(4).zip(self.bars.chunks(4)) {
            function.config_write(at, register);
        }
        if let Some((at, control)) = self.msix_control {
            function.config_write(at, &control.to_le_bytes());
        }
        function.config_write(COMMAND, &self.command.to_le_bytes());
    }
}
