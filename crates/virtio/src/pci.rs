//! The location of a virtio device's registers, from the PCI capability list in an image of
//! configuration space. No field of the list is trusted.
//!
//! A capability can be at 48 offsets, and the walk visits each at most once. The first usable
//! capability of a structure counts. An error names the structure that has none. The
//! `PCI_CFG` window is not used, and no capability is ever written.

use core::fmt;
use core::mem::offset_of;
use core::ops::Range;

use virtio_spec::pci::{Cap, CapCfgType, NotifyCap};

use crate::error::Error;

// PCI Local Bus Specification 3.0, 6.1 and 6.7.
const STATUS: usize = 0x06;
const STATUS_CAPABILITIES: u16 = 1 << 4;
const FIRST_BAR: usize = 0x10;
const BARS: u8 = 6;
const CAPABILITIES: usize = 0x34;
const FIRST_CAPABILITY: u8 = 0x40;
const CAP_ID_VENDOR: u8 = 0x09;
const CAP_ID_MSIX: u8 = 0x11;
const ABSENT_VENDOR: u16 = 0xFFFF;

// PCI Local Bus Specification 3.0, 6.2.5.1.
const BAR_IO: u32 = 1;
const BAR_TYPE: u32 = 0b110;
const BAR_TYPE_64: u32 = 0b100;
const BAR_ADDRESS: u32 = !0xF;

// PCI Local Bus Specification 3.0, 6.8.2.3.
const MSIX_CONTROL: usize = 2;
const MSIX_TABLE_SIZE: u16 = 0x7FF;

/// The first 256 bytes of a PCI function's configuration space.
pub type ConfigImage = [u8; 256];

/// A structure that a virtio device places in one of its BARs (VIRTIO 1.3
/// §4.1.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Structure {
    /// Features, status and queue set-up.
    Common,
    /// The notification addresses of the queues.
    Notify,
    /// The interrupt status byte.
    Isr,
    /// The device-specific configuration.
    Device,
}

impl Structure {
    /// The minimum length in bytes that the driver can use. For [`Structure::Common`] it is
    /// the structure of VIRTIO 1.0, up to `queue_device`. The reader of
    /// [`Structure::Device`] checks the length for each field.
    pub(crate) const fn shortest(self) -> u32 {
        match self {
            Self::Common => 0x38,
            Self::Notify => 2,
            Self::Isr | Self::Device => 1,
        }
    }

    /// The required alignment of its offset, in bytes (VIRTIO 1.3 §4.1.4.3.1, 4.1.4.4.1,
    /// 4.1.4.6.1).
    const fn alignment(self) -> u32 {
        match self {
            Self::Common | Self::Device => 4,
            Self::Notify => 2,
            Self::Isr => 1,
        }
    }
}

impl fmt::Display for Structure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Common => "common configuration",
            Self::Notify => "notification",
            Self::Isr => "ISR status",
            Self::Device => "device configuration",
        })
    }
}

/// The location of a structure in a BAR. The BAR is an assigned memory BAR, and
/// `offset + length` fits 32 bits. Only [`Location::within`] compares them with the BAR's
/// length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// The BAR's number, 0..=5.
    pub bar: u8,
    /// The offset from the BAR's start, in bytes.
    pub offset: u32,
    /// The structure's length in bytes, as the device reports it.
    pub length: u32,
}

impl Location {
    /// Returns the bytes of a BAR of `bar_length` bytes that contain the structure. A device may
    /// report a longer structure than it has. Returns `None` if no byte of the structure lies
    /// inside the BAR.
    #[must_use]
    pub fn within(self, bar_length: u64) -> Option<Range<u64>> {
        let start = u64::from(self.offset);
        let length = u64::from(self.length).min(bar_length.checked_sub(start)?);
        let end = start.checked_add(length)?;
        (length > 0).then_some(start..end)
    }
}

/// A virtio PCI device's structures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Features, status and queue set-up.
    pub common: Location,
    /// The notification addresses of the queues.
    pub notify: Location,
    /// The number of bytes that `queue_notify_off` counts in. 0 is legal: all queues then
    /// share one notification address.
    pub notify_multiplier: u32,
    /// The interrupt status byte.
    pub isr: Location,
    /// The device-specific configuration.
    pub device: Location,
    /// The number of entries of the MSI-X vector table, at most 2048. 0 if the function has no
    /// MSI-X.
    pub msix_vectors: u16,
}

/// What is wrong with a capability that names a structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StructureFault {
    /// `cap_len` is smaller than the capability's fields, or the fields end beyond
    /// configuration space.
    #[error("the capability is too short")]
    CapabilityShort,
    /// `bar` is above 5: reserved (VIRTIO 1.3 §4.1.4).
    #[error("its BAR number is reserved")]
    BarReserved,
    /// `bar` is the upper half of a 64-bit BAR.
    #[error("its BAR is the upper half of another")]
    BarUpperHalf,
    /// `bar` maps I/O ports; this driver uses memory.
    #[error("its BAR maps I/O ports")]
    BarIsIo,
    /// `bar` has no address: not implemented, or not assigned.
    #[error("its BAR has no address")]
    BarUnassigned,
    /// `offset + length` does not fit 32 bits.
    #[error("it ends beyond 2^32")]
    Overflow,
    /// The structure is shorter than its fields.
    #[error("it is too short")]
    StructureShort,
    /// `offset` is not aligned as the structure demands.
    #[error("its offset is not aligned")]
    Misaligned,
}

/// What the walk has found so far for one structure.
#[derive(Clone, Copy)]
struct Search<T> {
    found: Option<T>,
    fault: Option<StructureFault>,
}

impl<T: Copy> Search<T> {
    const NOTHING: Self = Self {
        found: None,
        fault: None,
    };

    /// Takes a candidate unless an earlier one was usable: the order of the
    /// list is the device's order of preference (VIRTIO 1.3 §4.1.4).
    fn offer(&mut self, candidate: Result<T, StructureFault>) {
        if self.found.is_none() {
            match candidate {
                Ok(found) => self.found = Some(found),
                Err(fault) => self.fault = Some(fault),
            }
        }
    }

    fn result(self, structure: Structure) -> Result<T, Error> {
        self.found.ok_or(match self.fault {
            None => Error::StructureMissing { structure },
            Some(fault) => Error::StructureUnusable { structure, fault },
        })
    }
}

impl Layout {
    /// Finds the structures in the capability list of `image`.
    ///
    /// # Errors
    ///
    /// The list is absent, points into the header or loops, or no usable capability names a
    /// structure.
    pub fn parse(image: &ConfigImage) -> Result<Self, Error> {
        if u16_at(image, 0) == ABSENT_VENDOR {
            return Err(Error::Absent);
        }
        if u16_at(image, STATUS) & STATUS_CAPABILITIES == 0 {
            return Err(Error::NoCapabilityList);
        }

        let mut common = Search::NOTHING;
        let mut notify = Search::NOTHING;
        let mut isr = Search::NOTHING;
        let mut device = Search::NOTHING;
        let mut msix_vectors = 0;

        // One bit for each 32-bit word of configuration space.
        let mut visited = 0_u64;
        let mut link = u8_at(image, CAPABILITIES) & !0b11;
        while link != 0 {
            if link < FIRST_CAPABILITY {
                return Err(Error::LinkIntoHeader { link });
            }
            let place = 1_u64 << (link >> 2);
            if visited & place != 0 {
                return Err(Error::CapabilityLoop { at: link });
            }
            visited |= place;

            let at = usize::from(link);
            match u8_at(image, at) {
                CAP_ID_VENDOR => {
                    let kind = u8_at(image, field(at, offset_of!(Cap, cfg_type)));
                    match CapCfgType::from(kind) {
                        CapCfgType::Common => common.offer(location(image, at, Structure::Common)),
                        CapCfgType::Notify => notify.offer(notification(image, at)),
                        CapCfgType::Isr => isr.offer(location(image, at, Structure::Isr)),
                        CapCfgType::Device => device.offer(location(image, at, Structure::Device)),
                        // Not used by this driver, or reserved (V62).
                        _ => {}
                    }
                }
                CAP_ID_MSIX if msix_vectors == 0 => msix_vectors = vectors_at(image, at),
                _ => {}
            }
            link = u8_at(image, field(at, offset_of!(Cap, cap_next))) & !0b11;
        }

        let (notify, notify_multiplier) = notify.result(Structure::Notify)?;
        Ok(Self {
            common: common.result(Structure::Common)?,
            notify,
            notify_multiplier,
            isr: isr.result(Structure::Isr)?,
            device: device.result(Structure::Device)?,
            msix_vectors,
        })
    }
}

/// Reads the location of `structure` from the capability at `at`.
fn location(
    image: &ConfigImage,
    at: usize,
    structure: Structure,
) -> Result<Location, StructureFault> {
    capability_holds(image, at, size_of::<Cap>())?;
    let bar = u8_at(image, field(at, offset_of!(Cap, bar)));
    let offset = u32_at(image, field(at, offset_of!(Cap, offset)));
    let length = u32_at(image, field(at, offset_of!(Cap, length)));

    memory_bar(image, bar)?;
    if offset.checked_add(length).is_none() {
        return Err(StructureFault::Overflow);
    }
    if length < structure.shortest() {
        return Err(StructureFault::StructureShort);
    }
    if !offset.is_multiple_of(structure.alignment()) {
        return Err(StructureFault::Misaligned);
    }
    Ok(Location {
        bar,
        offset,
        length,
    })
}

/// Reads the location of the notification addresses, and their multiplier, from the capability
/// at `at`.
fn notification(image: &ConfigImage, at: usize) -> Result<(Location, u32), StructureFault> {
    capability_holds(image, at, size_of::<NotifyCap>())?;
    let multiplier = u32_at(
        image,
        field(at, offset_of!(NotifyCap, notify_off_multiplier)),
    );
    Ok((location(image, at, Structure::Notify)?, multiplier))
}

fn capability_holds(image: &ConfigImage, at: usize, bytes: usize) -> Result<(), StructureFault> {
    let claimed = u8_at(image, field(at, offset_of!(Cap, cap_len)));
    if usize::from(claimed) < bytes || field(at, bytes) > image.len() {
        return Err(StructureFault::CapabilityShort);
    }
    Ok(())
}

/// The bus address of memory BAR `bar`, as the system assigned it.
///
/// # Errors
///
/// Why `bar` names no assigned memory BAR.
pub fn memory_bar(image: &ConfigImage, bar: u8) -> Result<u64, StructureFault> {
    if bar >= BARS {
        return Err(StructureFault::BarReserved);
    }
    let mut upper_half = false;
    for number in 0..BARS {
        let low = u32_at(image, bar_register(number));
        let wide = !upper_half && low & (BAR_IO | BAR_TYPE) == BAR_TYPE_64;
        if number == bar {
            if upper_half {
                return Err(StructureFault::BarUpperHalf);
            }
            if low & BAR_IO != 0 {
                return Err(StructureFault::BarIsIo);
            }
            let high = if wide {
                u32_at(image, bar_register(number.wrapping_add(1)))
            } else {
                0
            };
            if low & BAR_ADDRESS == 0 && high == 0 {
                return Err(StructureFault::BarUnassigned);
            }
            return Ok(u64::from(high) << 32 | u64::from(low & BAR_ADDRESS));
        }
        upper_half = wide;
    }
    Err(StructureFault::BarReserved)
}

fn bar_register(number: u8) -> usize {
    field(
        FIRST_BAR,
        usize::from(number).saturating_mul(size_of::<u32>()),
    )
}

/// The size of the vector table of the MSI-X capability at `at`.
fn vectors_at(image: &ConfigImage, at: usize) -> u16 {
    let control = u16_at(image, field(at, MSIX_CONTROL));
    // The register contains the size less one.
    (control & MSIX_TABLE_SIZE).saturating_add(1)
}

/// The offset in configuration space of a field at `offset` in a structure at `base`. Both
/// are below 256.
const fn field(base: usize, offset: usize) -> usize {
    base.saturating_add(offset)
}

/// The bytes at `at`. Beyond the image they are all ones, as PCI returns for registers that
/// do not exist.
fn bytes_at<const N: usize>(image: &ConfigImage, at: usize) -> [u8; N] {
    image
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .copied()
        .unwrap_or([0xFF; N])
}

fn u8_at(image: &ConfigImage, at: usize) -> u8 {
    let [byte] = bytes_at(image, at);
    byte
}

fn u16_at(image: &ConfigImage, at: usize) -> u16 {
    u16::from_le_bytes(bytes_at(image, at))
}

fn u32_at(image: &ConfigImage, at: usize) -> u32 {
    u32::from_le_bytes(bytes_at(image, at))
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::string::ToString;
    use std::vec;

    use proptest::prelude::*;

    use super::*;

    const COMMON: u8 = 1;
    const NOTIFY: u8 = 2;
    const ISR: u8 = 3;
    const DEVICE: u8 = 4;
    const PCI_CFG: u8 = 5;

    /// A configuration space to which a test adds capabilities.
    struct Image {
        bytes: ConfigImage,
        last_link: usize,
        next: u8,
    }

    impl Image {
        /// A function whose BAR 4 is 64-bit memory and BAR 0 is I/O ports.
        fn new() -> Self {
            let mut bytes = [0; 256];
            bytes[0..4].copy_from_slice(&[0xF4, 0x1A, 0x42, 0x10]);
            bytes[STATUS] = 0x10;
            bytes[0x10..0x14].copy_from_slice(&0xC001_u32.to_le_bytes());
            bytes[0x20..0x24].copy_from_slice(&0xFE00_000C_u32.to_le_bytes());
            bytes[0x24..0x28].copy_from_slice(&0x80_u32.to_le_bytes());
            Self {
                bytes,
                last_link: CAPABILITIES,
                next: FIRST_CAPABILITY,
            }
        }

        fn capability(mut self, id: u8, body: &[u8]) -> Self {
            let at = usize::from(self.next);
            self.bytes[self.last_link] = self.next;
            self.bytes[at] = id;
            self.bytes[at + 2..at + 2 + body.len()].copy_from_slice(body);
            self.last_link = at + 1;
            let length = u8::try_from((2 + body.len()).next_multiple_of(4)).unwrap();
            self.next = self.next.wrapping_add(length);
            self
        }

        fn structure(self, kind: u8, bar: u8, offset: u32, length: u32) -> Self {
            let long = kind == NOTIFY || kind == PCI_CFG;
            let mut body = vec![if long { 20 } else { 16 }, kind, bar, 0, 0, 0];
            body.extend(offset.to_le_bytes());
            body.extend(length.to_le_bytes());
            if long {
                body.extend(4_u32.to_le_bytes());
            }
            self.capability(CAP_ID_VENDOR, &body)
        }

        /// The capabilities of a QEMU device, in QEMU's order.
        fn complete() -> Self {
            Self::new()
                .capability(CAP_ID_MSIX, &[0x02, 0x80, 1, 0, 0, 0, 1, 8, 0, 0])
                .structure(PCI_CFG, 0, 0, 0)
                .structure(NOTIFY, 4, 0x3000, 0x1000)
                .structure(DEVICE, 4, 0x2000, 0x1000)
                .structure(ISR, 4, 0x1000, 0x1000)
                .structure(COMMON, 4, 0, 0x1000)
        }

        fn parse(&self) -> Result<Layout, Error> {
            Layout::parse(&self.bytes)
        }
    }

    fn unusable(structure: Structure, fault: StructureFault) -> Result<Layout, Error> {
        Err(Error::StructureUnusable { structure, fault })
    }

    #[test]
    fn the_layout_of_a_modern_device_follows_its_capabilities() {
        let layout = Image::complete().parse().unwrap();

        let at = |offset| Location {
            bar: 4,
            offset,
            length: 0x1000,
        };
        assert_eq!(
            layout,
            Layout {
                common: at(0),
                notify: at(0x3000),
                notify_multiplier: 4,
                isr: at(0x1000),
                device: at(0x2000),
                msix_vectors: 3,
            }
        );
    }

    /// V63.
    #[test]
    fn the_first_usable_capability_of_a_structure_is_used() {
        let layout = Image::new()
            .structure(NOTIFY, 0, 0, 0x10)
            .structure(NOTIFY, 4, 0x100, 0x10)
            .structure(NOTIFY, 4, 0x200, 0x10)
            .structure(DEVICE, 4, 0x300, 0x40)
            .structure(ISR, 4, 0x400, 1)
            .structure(COMMON, 4, 0, 0x38)
            .parse()
            .unwrap();

        assert_eq!(layout.notify.offset, 0x100);
        assert_eq!(layout.msix_vectors, 0);
    }

    #[test]
    fn the_first_msix_capability_is_used() {
        let layout = Image::complete()
            .capability(CAP_ID_MSIX, &[0x07, 0x80, 1, 0, 0, 0, 1, 8, 0, 0])
            .parse()
            .unwrap();

        assert_eq!(layout.msix_vectors, 3);
    }

    #[test]
    fn the_two_low_bits_of_a_link_are_ignored() {
        let expected = Image::complete().parse();
        let mut image = Image::complete();
        image.bytes[CAPABILITIES] |= 0b11;
        let second = usize::from(FIRST_CAPABILITY) + 12 + 1;
        image.bytes[second] |= 0b11;

        assert_eq!(image.parse(), expected);
    }

    #[test]
    fn a_structure_is_named_in_an_error() {
        for (structure, name) in [
            (Structure::Common, "common configuration"),
            (Structure::Notify, "notification"),
            (Structure::Isr, "ISR status"),
            (Structure::Device, "device configuration"),
        ] {
            let error = Error::StructureMissing { structure }.to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    /// V62.
    #[test]
    fn reserved_types_and_bars_are_ignored_and_longer_capabilities_accepted() {
        let mut image = Image::complete()
            .structure(6, 4, 0, 0x1000)
            .structure(0xEE, 9, u32::MAX, u32::MAX)
            .structure(COMMON, 6, 0, 0x1000);
        let common = usize::from(FIRST_CAPABILITY) + 12 + 20 + 20 + 16 + 16;
        assert_eq!(image.bytes[common + 3], COMMON);
        image.bytes[common + 2] = 60;

        assert!(image.parse().is_ok());
    }

    /// A34.
    #[test]
    fn a_capability_loop_is_an_error_with_its_offset() {
        let mut image = Image::complete();
        image.bytes[image.last_link] = FIRST_CAPABILITY;

        assert_eq!(
            image.parse(),
            Err(Error::CapabilityLoop {
                at: FIRST_CAPABILITY
            })
        );
    }

    /// A34.
    #[test]
    fn a_link_into_the_header_is_an_error() {
        let mut image = Image::complete();
        image.bytes[image.last_link] = 0x10;

        assert_eq!(image.parse(), Err(Error::LinkIntoHeader { link: 0x10 }));
    }

    /// A34.
    #[test]
    fn a_capability_is_not_read_beyond_a_short_cap_len() {
        let mut image = Image::new().structure(COMMON, 4, 0, 0x1000);
        image.bytes[usize::from(FIRST_CAPABILITY) + 2] = 15;
        let image = image
            .structure(NOTIFY, 4, 0, 0x10)
            .structure(ISR, 4, 0, 1)
            .structure(DEVICE, 4, 0, 0x40);

        assert_eq!(
            image.parse(),
            unusable(Structure::Common, StructureFault::CapabilityShort)
        );
    }

    /// A34.
    #[test]
    fn a_capability_that_ends_beyond_the_configuration_space_is_refused() {
        let mut image = Image::complete();
        // A notification capability whose multiplier would lie at 100h.
        image.bytes[CAPABILITIES] = 0xF0;
        image.bytes[0xF0..].copy_from_slice(&[
            CAP_ID_VENDOR,
            0,
            20,
            NOTIFY,
            4,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            16,
            0,
            0,
        ]);

        assert_eq!(
            image.parse(),
            unusable(Structure::Notify, StructureFault::CapabilityShort)
        );
    }

    #[test]
    fn a_capability_may_end_where_the_configuration_space_ends() {
        let mut image = Image::new()
            .structure(COMMON, 4, 0, 0x38)
            .structure(ISR, 4, 0x40, 1)
            .structure(DEVICE, 4, 0x80, 0x40);
        image.next = 0xEC;
        let layout = image.structure(NOTIFY, 4, 0xC0, 2).parse().unwrap();

        assert_eq!((layout.notify.offset, layout.notify_multiplier), (0xC0, 4));
    }

    /// A34.
    #[test]
    fn unusable_locations_are_refused_with_their_reason() {
        for (bar, offset, length, why) in [
            (6, 0, 0x1000, StructureFault::BarReserved),
            (255, 0, 0x1000, StructureFault::BarReserved),
            (0, 0, 0x1000, StructureFault::BarIsIo),
            (1, 0, 0x1000, StructureFault::BarUnassigned),
            (5, 0, 0x1000, StructureFault::BarUpperHalf),
            (4, u32::MAX, 0x1000, StructureFault::Overflow),
            (4, 0, 0x37, StructureFault::StructureShort),
            (4, 2, 0x1000, StructureFault::Misaligned),
        ] {
            let image = Image::new()
                .structure(COMMON, bar, offset, length)
                .structure(NOTIFY, 4, 0, 0x10)
                .structure(ISR, 4, 0, 1)
                .structure(DEVICE, 4, 0, 0x40);

            assert_eq!(image.parse(), unusable(Structure::Common, why));
        }
    }

    #[test]
    fn the_address_of_a_memory_bar_has_both_halves_and_no_type_bits() {
        let mut image = Image::new().bytes;
        image[0x14..0x18].copy_from_slice(&0xFEBF_1008_u32.to_le_bytes());

        assert_eq!(memory_bar(&image, 1), Ok(0xFEBF_1000));
        assert_eq!(memory_bar(&image, 4), Ok(0x80_FE00_0000));
        assert_eq!(memory_bar(&image, 0), Err(StructureFault::BarIsIo));
        assert_eq!(memory_bar(&image, 2), Err(StructureFault::BarUnassigned));
        assert_eq!(memory_bar(&image, 5), Err(StructureFault::BarUpperHalf));
        assert_eq!(memory_bar(&image, 6), Err(StructureFault::BarReserved));

        // At a multiple of 4 GiB.
        image[0x20..0x24].copy_from_slice(&0xC_u32.to_le_bytes());
        assert_eq!(memory_bar(&image, 4), Ok(0x80_0000_0000));
    }

    /// A34.
    #[test]
    fn each_missing_structure_is_named() {
        for (kind, structure) in [
            (COMMON, Structure::Common),
            (NOTIFY, Structure::Notify),
            (ISR, Structure::Isr),
            (DEVICE, Structure::Device),
        ] {
            let mut image = Image::new();
            for other in [COMMON, NOTIFY, ISR, DEVICE] {
                if other != kind {
                    image = image.structure(other, 4, 0, 0x1000);
                }
            }

            assert_eq!(image.parse(), Err(Error::StructureMissing { structure }));
        }
    }

    /// A33.
    #[test]
    fn a_removed_device_is_absent_and_a_legacy_device_has_no_capability_list() {
        assert_eq!(Layout::parse(&[0xFF; 256]), Err(Error::Absent));
        assert_eq!(Layout::parse(&[0; 256]), Err(Error::NoCapabilityList));
    }

    #[test]
    fn a_location_is_clipped_to_its_bar() {
        let location = Location {
            bar: 4,
            offset: 0x1000,
            length: u32::MAX - 0x1000,
        };

        assert_eq!(location.within(0x4000), Some(0x1000..0x4000));
        assert_eq!(location.within(1 << 33), Some(0x1000..0xFFFF_FFFF));
        assert_eq!(location.within(0x1000), None);
        assert_eq!(location.within(0x10), None);
    }

    proptest! {
        #![proptest_config(crate::proptest_config(4096))]

        #[test]
        fn any_image_is_parsed_or_refused(
            mut image in proptest::array::uniform32(any::<[u8; 8]>()),
            links in proptest::collection::vec((0_u8..64, 0_u8..64, 1_u8..6), 0..48),
        ) {
            // Mostly plausible capabilities with links anywhere.
            let bytes = image.as_flattened_mut();
            bytes[STATUS] |= 0x10;
            for (at, next, kind) in links {
                let at = usize::from(at) * 4;
                for (byte, value) in [CAP_ID_VENDOR, next * 4, 20, kind, 4].into_iter().enumerate() {
                    if let Some(place) = bytes.get_mut(at + byte) {
                        *place = value;
                    }
                }
            }
            let image: &ConfigImage = (&*bytes).try_into().unwrap();

            if let Ok(layout) = Layout::parse(image) {
                for (place, structure) in [
                    (layout.common, Structure::Common),
                    (layout.notify, Structure::Notify),
                    (layout.isr, Structure::Isr),
                    (layout.device, Structure::Device),
                ] {
                    prop_assert!(place.bar < BARS);
                    prop_assert!(place.offset.checked_add(place.length).is_some());
                    prop_assert!(place.length >= structure.shortest());
                    prop_assert_eq!(place.offset % structure.alignment(), 0);
                }
            }
        }
    }
}
