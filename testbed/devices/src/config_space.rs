//! PCI configuration space of a function: identity, base address registers, and the
//! capabilities that locate the registers.
//!
//! A virtio function has the layout of QEMU's `virtio-blk-pci`, because drivers meet that
//! layout. The registers have the state of a started function: BARs placed, memory decoding and
//! bus mastering on.

use testbed_machine::pci::{Bar, BarKind};

use testbed_virtio::{driver_errors::DriverErrors, function::Structure};

use super::msix;

/// The length of conventional configuration space.
const BYTES: usize = 256;

/// The BAR of the MSI-X table.
pub(super) const MSIX_BAR: usize = 1;
/// The BAR of the virtio structures.
const VIRTIO_BAR: usize = 4;
/// The I/O BAR of a transitional function's legacy interface.
pub(super) const LEGACY_BAR: usize = 0;
/// The BAR of a bell's registers, and its length: a page, the smallest unit that Windows maps.
pub(super) const BELL_BAR: usize = 0;
const BELL_BYTES: u64 = 0x1000;

/// The length of each virtio structure in [`VIRTIO_BAR`].
const STRUCTURE_BYTES: u64 = 0x1000;
/// The distance between the notification addresses of adjacent queues.
pub(super) const NOTIFY_MULTIPLIER: u32 = 4;

/// Bits of the command register.
const MEMORY_SPACE: u16 = 1 << 1;
const BUS_MASTER: u16 = 1 << 2;
const INTX_DISABLE: u16 = 1 << 10;
/// Bits of the status register.
const CAPABILITIES_LIST: u16 = 1 << 4;
const INTERRUPT_STATUS: u8 = 1 << 3;

/// Offsets in the header (PCI 3.0, 6.1).
const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const BARS: usize = 0x10;
const CAPABILITY_POINTER: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
const INTERRUPT_PIN: usize = 0x3d;
/// The end of the header, where capabilities begin.
const HEADER_END: usize = 0x40;

/// The offsets of the capabilities.
const COMMON: usize = 0x40;
const ISR: usize = 0x50;
const DEVICE: usize = 0x60;
const NOTIFY: usize = 0x70;
const PCI_CFG: usize = 0x84;
const MSIX: usize = 0x98;

/// The PCI capability ids.
const VENDOR_SPECIFIC: u8 = 0x09;
const MSI_X: u8 = 0x11;

/// The structures in [`VIRTIO_BAR`], in its order.
const STRUCTURES: [Structure; 4] = [
    Structure::Common,
    Structure::Isr,
    Structure::Device,
    Structure::Notify,
];

/// The structure at `offset` of [`VIRTIO_BAR`], and the offset in it.
pub(super) fn structure_at(offset: u64) -> Option<(Structure, u64)> {
    let index = usize::try_from(offset / STRUCTURE_BYTES).ok()?;
    Some((*STRUCTURES.get(index)?, offset % STRUCTURE_BYTES))
}

/// The `cfg_type` of a structure (VIRTIO 1.3 §4.1.4), and the offset of its capability.
fn capability(structure: Structure) -> (u8, usize) {
    match structure {
        Structure::Common => (1, COMMON),
        Structure::Notify => (2, NOTIFY),
        Structure::Isr => (3, ISR),
        Structure::Device => (4, DEVICE),
    }
}

/// The PCI identity of the disk (VIRTIO 1.3 §4.1.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceId {
    /// 1AF4:1042, revision 1.
    #[default]
    Modern,
    /// 1AF4:1001, revision 0: a transitional function with an I/O BAR 0. Only its modern
    /// interface works. The legacy registers in BAR 0 read as ones, and their use is a driver
    /// error.
    Transitional,
}

/// The 256 bytes, and a mask of their writable bits.
#[derive(Debug)]
pub(super) struct ConfigSpace {
    bytes: [u8; BYTES],
    writable: [u8; BYTES],
    /// The length of each BAR; 0 if it does not exist.
    bar_bytes: [u64; 6],
}

impl ConfigSpace {
    /// The configuration space of the virtio function in `slot` with `vectors` MSI-X vectors
    /// (0: no MSI-X capability).
    pub(super) fn new(id: DeviceId, slot: u8, vectors: u16) -> Self {
        let mut space = match id {
            DeviceId::Modern => Self::header(0x1af4, 0x1042, 1, 0x1100),
            DeviceId::Transitional => Self::header(0x1af4, 0x1001, 0, 2),
        };
        let slot = u64::from(slot);
        if id == DeviceId::Transitional {
            space.put(COMMAND, &[space.bytes[COMMAND] | 1]);
            space.place(LEGACY_BAR, 0x1, 0xc000 + slot * 0x80, 0x80);
        }
        if vectors > 0 {
            let bytes = msix::Layout::of(vectors).bytes;
            space.place(MSIX_BAR, 0x0, 0xe000_0000 + slot * 0x1_0000, bytes);
        }
        // Prefetchable, 64 bits wide, and above 4 GiB: a driver that drops the upper half reads
        // no register.
        let bytes = STRUCTURES.len() as u64 * STRUCTURE_BYTES;
        space.place(VIRTIO_BAR, 0xc, 0xc0_0000_0000 + slot * bytes, bytes);

        space.chain(vectors);
        space
    }

    /// The same space after power-on, before firmware or a bus driver has written to it.
    pub(super) fn unplaced(mut self) -> Self {
        self.put(COMMAND, &[0; 2]);
        self.put(INTERRUPT_LINE, &[0]);
        for at in BARS..BARS + 4 * self.bar_bytes.len() {
            // Read-only bits give the kind of BAR.
            self.bytes[at] &= !self.writable[at];
        }
        self
    }

    /// The configuration space of a bell with `vectors` MSI-X vectors, at least one.
    pub(super) fn of_bell(vectors: u16) -> Self {
        // The vendor number of QEMU's own devices.
        let mut space = Self::header(0x1234, 0xbe11, 0, 0);
        space.place(BELL_BAR, 0x0, 0xfe00_0000, BELL_BYTES);
        let bytes = msix::Layout::of(vectors).bytes;
        space.place(MSIX_BAR, 0x0, 0xe000_0000, bytes);
        space.put_msix(vectors, 0);
        space.put(CAPABILITY_POINTER, &[MSIX as u8]);
        space
    }

    /// A header without BARs or capabilities. The subsystem vendor is the vendor.
    fn header(vendor: u16, device: u16, revision: u8, subsystem: u16) -> Self {
        let mut space = Self {
            bytes: [0; BYTES],
            writable: [0; BYTES],
            bar_bytes: [0; 6],
        };
        space.put(0x00, &vendor.to_le_bytes());
        space.put(0x02, &device.to_le_bytes());
        // Class: mass storage, SCSI controller, like QEMU's virtio-blk.
        space.put(0x08, &[revision, 0x00, 0x00, 0x01]);
        space.put(0x2c, &vendor.to_le_bytes());
        space.put(0x2e, &subsystem.to_le_bytes());
        space.put(COMMAND, &(MEMORY_SPACE | BUS_MASTER).to_le_bytes());
        // I/O, memory, bus master, parity, SERR#, INTx disable.
        space.allow(COMMAND, &0x0547_u16.to_le_bytes());
        space.put(STATUS, &CAPABILITIES_LIST.to_le_bytes());
        space.put(INTERRUPT_LINE, &[11]);
        space.allow(INTERRUPT_LINE, &[0xff]);
        space.put(INTERRUPT_PIN, &[1]);
        // Cache line size and latency timer: writable, without effect.
        space.allow(0x0c, &[0xff, 0xff]);
        space
    }

    /// Writes the capability list.
    fn chain(&mut self, vectors: u16) {
        // Like QEMU, which links the last added capability first.
        let mut next = 0;
        for (index, structure) in (0_u32..).zip(STRUCTURES) {
            let offset = index * STRUCTURE_BYTES as u32;
            let (cfg_type, at) = capability(structure);
            let extra = if structure == Structure::Notify { 4 } else { 0 };
            self.put(
                at,
                &[
                    VENDOR_SPECIFIC,
                    next,
                    16 + extra,
                    cfg_type,
                    VIRTIO_BAR as u8,
                ],
            );
            self.put(at + 8, &offset.to_le_bytes());
            self.put(at + 12, &(STRUCTURE_BYTES as u32).to_le_bytes());
            next = at as u8;
        }
        self.put(NOTIFY + 16, &NOTIFY_MULTIPLIER.to_le_bytes());

        // Drivers must skip it: the access that it describes is not carried out.
        self.put(PCI_CFG, &[VENDOR_SPECIFIC, next, 20, 5]);
        next = PCI_CFG as u8;

        if vectors > 0 {
            self.put_msix(vectors, next);
            next = MSIX as u8;
        }
        self.put(CAPABILITY_POINTER, &[next]);
    }

    /// Writes the MSI-X capability of `vectors` vectors, at least one, which links to the
    /// capability at `next`.
    fn put_msix(&mut self, vectors: u16, next: u8) {
        let pending = msix::Layout::of(vectors).pending as u32;
        self.put(MSIX, &[MSI_X, next]);
        self.put(MSIX + 2, &(vectors - 1).to_le_bytes());
        self.allow(MSIX + 2, &0xc000_u16.to_le_bytes());
        self.put(MSIX + 4, &(MSIX_BAR as u32).to_le_bytes());
        self.put(MSIX + 8, &(pending | MSIX_BAR as u32).to_le_bytes());
    }

    fn put(&mut self, at: usize, data: &[u8]) {
        self.bytes[at..at + data.len()].copy_from_slice(data);
    }

    fn allow(&mut self, at: usize, bits: &[u8]) {
        self.writable[at..at + bits.len()].copy_from_slice(bits);
    }

    /// Places BAR `index`, of `bytes` bytes and the low bits `kind`, at
    /// `address`.
    fn place(&mut self, index: usize, kind: u64, address: u64, bytes: u64) {
        self.bar_bytes[index] = bytes;
        let at = BARS + 4 * index;
        let wide = if kind & 0x4 != 0 { 8 } else { 4 };
        self.put(at, &(address | kind).to_le_bytes()[..wide]);
        self.allow(at, &(!(bytes - 1)).to_le_bytes()[..wide]);
    }

    /// The current address of BAR `index`.
    pub(super) fn bar(&self, index: usize) -> Option<Bar> {
        let bytes = *self.bar_bytes.get(index).filter(|bytes| **bytes > 0)?;
        let at = BARS + 4 * index;
        let low = self.dword(at);
        if low & 1 != 0 {
            return Some(Bar {
                kind: BarKind::Io,
                address: u64::from(low & !0x3),
                bytes,
            });
        }
        let high = if low & 0x4 != 0 {
            self.dword(at + 4)
        } else {
            0
        };
        let address = u64::from(high) << 32 | u64::from(low & !0xf);
        Some(Bar {
            kind: BarKind::Memory,
            address,
            bytes,
        })
    }

    fn word(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    fn dword(&self, at: usize) -> u32 {
        u32::from(self.word(at + 2)) << 16 | u32::from(self.word(at))
    }

    /// Whether the memory BARs decode.
    pub(super) fn decodes_memory(&self) -> bool {
        self.word(COMMAND) & MEMORY_SPACE != 0
    }

    /// Whether the function may reach memory and send messages.
    pub(super) fn is_bus_master(&self) -> bool {
        self.word(COMMAND) & BUS_MASTER != 0
    }

    /// Whether the command register disables the pin.
    pub(super) fn pin_disabled(&self) -> bool {
        self.word(COMMAND) & INTX_DISABLE != 0
    }

    /// The message control register of the MSI-X capability; 0 without the capability.
    pub(super) fn msix_control(&self) -> u16 {
        if self.bar_bytes[MSIX_BAR] > 0 {
            self.word(MSIX + 2)
        } else {
            0
        }
    }

    /// Reads at `offset`. Bytes beyond the space are ones. `interrupt` is the interrupt bit of
    /// the status register.
    pub(super) fn read(&self, offset: u16, data: &mut [u8], interrupt: bool) {
        for (byte, at) in data.iter_mut().zip(usize::from(offset)..) {
            *byte = match self.bytes.get(at) {
                Some(value) if at == STATUS && interrupt => value | INTERRUPT_STATUS,
                Some(value) => *value,
                None => 0xff,
            };
        }
    }

    /// Writes at `offset`. Read-only bits keep their value.
    pub(super) fn write(&mut self, offset: u16, data: &[u8], driver_errors: &DriverErrors) {
        for (new, at) in data.iter().zip(usize::from(offset)..) {
            let (Some(byte), Some(writable)) = (self.bytes.get_mut(at), self.writable.get(at))
            else {
                driver_errors.add(format!(
                    "PCI configuration: a write beyond byte {BYTES}, at {at:#x}"
                ));
                return;
            };
            // Drivers write whole header registers, some to find their size. There is no such
            // reason for a capability.
            // V62.
            if at >= HEADER_END && (*byte ^ new) & !writable != 0 {
                driver_errors.add(format!(
                    "PCI configuration: a write of {new:#04x} to read-only bits of a capability, \
                     at {at:#x} (VIRTIO 1.3 §4.1.4.1)"
                ));
            }
            *byte = *byte & !writable | new & writable;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modern() -> ConfigSpace {
        ConfigSpace::new(DeviceId::Modern, 0, 2)
    }

    fn read<const N: usize>(space: &ConfigSpace, offset: u16) -> [u8; N] {
        let mut data = [0; N];
        space.read(offset, &mut data, false);
        data
    }

    /// The offsets and ids of the capability list.
    fn capabilities(space: &ConfigSpace) -> Vec<(u16, u8)> {
        let mut list = Vec::new();
        let [mut at] = read(space, 0x34);
        while at != 0 && list.len() < 48 {
            let [id, next] = read(space, at.into());
            list.push((at.into(), id));
            at = next;
        }
        list
    }

    #[test]
    fn a_disk_has_the_identity_of_the_specification_and_only_a_transitional_one_a_legacy_bar() {
        let legacy = Some((BarKind::Io, 0x80));
        for (id, device, revision, subsystem, bar) in [
            (DeviceId::Modern, 0x1042_1af4, 1, 0x1100_1af4, None),
            (DeviceId::Transitional, 0x1001_1af4, 0, 0x0002_1af4, legacy),
        ] {
            let space = ConfigSpace::new(id, 0, 2);

            assert_eq!(space.dword(0x00), device);
            assert_eq!(read(&space, 0x08), [revision, 0x00, 0x00, 0x01]);
            assert_eq!(space.dword(0x2c), subsystem);
            let found = space.bar(LEGACY_BAR).map(|bar| (bar.kind, bar.bytes));
            assert_eq!(found, bar);
        }
    }

    #[test]
    fn a_disk_without_vectors_has_no_msix_capability_and_no_bar_for_it() {
        let space = ConfigSpace::new(DeviceId::Modern, 0, 0);

        assert!(capabilities(&space).iter().all(|(_, id)| *id == 0x09));
        assert_eq!(space.bar(MSIX_BAR), None);
        assert_eq!(space.msix_control(), 0);
    }

    #[test]
    fn a_bar_is_sized_by_writing_ones() {
        let mut space = modern();
        let driver_errors = DriverErrors::default();
        let before: [u8; 8] = read(&space, 0x20);

        space.write(0x20, &[0xff; 8], &driver_errors);
        let sized = u64::from_le_bytes(read(&space, 0x20));
        space.write(0x20, &before, &driver_errors);

        assert_eq!(sized, 0xffff_ffff_ffff_c00c);
        assert_eq!(
            space.bar(VIRTIO_BAR).expect("a BAR").address,
            0xc0_0000_0000
        );
        assert_eq!(driver_errors.list(), [""; 0]);
    }

    #[test]
    fn functions_in_different_slots_do_not_overlap() {
        let spaces = [0, 1, 31].map(|slot| ConfigSpace::new(DeviceId::Transitional, slot, 2048));
        let mut bars: Vec<_> = spaces
            .iter()
            .flat_map(|space| (0..6).filter_map(|index| space.bar(index)))
            .map(|bar| (bar.kind == BarKind::Io, bar.address, bar.bytes))
            .collect();
        bars.sort_unstable();

        assert_eq!(bars.len(), 9);
        for pair in bars.windows(2) {
            let [(io, address, bytes), (next_io, next, _)] = pair else {
                unreachable!()
            };
            assert!(io != next_io || address + bytes <= *next, "{pair:x?}");
        }
    }

    #[test]
    fn read_only_bits_keep_their_value() {
        let mut space = modern();
        let driver_errors = DriverErrors::default();

        space.write(0x00, &[0; 4], &driver_errors);
        space.write(0x06, &[0xff; 2], &driver_errors);
        space.write(0x9a, &0xffff_u16.to_le_bytes(), &driver_errors);

        assert_eq!(read(&space, 0x00), [0xf4, 0x1a, 0x42, 0x10]);
        assert_eq!(read(&space, 0x06), [0x10, 0x00]);
        assert_eq!(space.msix_control(), 0xc001);
    }

    /// V62.
    #[test]
    fn a_write_to_a_capability_is_a_driver_error_unless_it_changes_nothing() {
        let mut space = modern();
        let driver_errors = DriverErrors::default();

        space.write(0x9a, &0x8001_u16.to_le_bytes(), &driver_errors);
        assert_eq!(driver_errors.list(), [""; 0]);
        space.write(0x44, &[0], &driver_errors);

        assert_eq!(driver_errors.count(), 1);
        assert_eq!(read(&space, 0x44), [4]);
    }

    #[test]
    fn beyond_the_space_reads_are_ones_and_writes_are_driver_errors() {
        let mut space = modern();
        let driver_errors = DriverErrors::default();

        assert_eq!(read(&space, 0xfe), [0, 0, 0xff, 0xff]);
        assert_eq!(read(&space, 0x100), [0xff; 4]);
        space.write(0x100, &[0], &driver_errors);

        assert_eq!(driver_errors.count(), 1);
    }

    #[test]
    fn the_status_register_shows_the_interrupt() {
        let mut data = [0; 2];

        modern().read(0x06, &mut data, true);

        assert_eq!(data, [0x18, 0x00]);
    }
}
