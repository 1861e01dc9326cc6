//! Serves one block request, from its descriptor chain to its status byte (VIRTIO 1.3 §5.2.6),
//! and checks what the driver put into it.

use std::ops::Range;

use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_ID_BYTES,
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
};
use vm_memory::{GuestAddress, GuestMemory, GuestMemoryMmap, Permissions, VolatileSlice};

use testbed_virtio::{chain::Chain, common_config::Ring, driver_errors::DriverErrors};

use super::{
    disk_image::{DiskImage, SECTOR},
    faults::{Faults, Operation, Served},
    guest_io::{Direction, IoVectors},
};

/// The length of a request's header: type, reserved, sector.
const HEADER: usize = 16;

/// The limits for the driver's rings and requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// The negotiated features.
    pub(super) agreed: u64,
    /// The maximum number of data descriptors in a request, if SEG_MAX is offered.
    pub(super) seg_max: u32,
    /// The maximum length of a data descriptor, if SIZE_MAX is offered.
    pub(super) size_max: u32,
    /// The size and the addresses of the ring.
    pub(super) ring: Ring,
}

/// The result of serving a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It completes, with this many bytes written to its buffers.
    Done(u32),
    /// It never completes.
    Stalled,
    /// The device cannot answer it and stops, as QEMU does. The text says why.
    Unanswerable(String),
}

/// The disk behind the requests, and what was agreed with its driver.
#[derive(Clone, Copy)]
pub(super) struct Disk<'a> {
    pub(super) image: &'a DiskImage,
    pub(super) serial: &'a [u8; VIRTIO_BLK_ID_BYTES as usize],
    /// Whether a write is durable before it completes.
    pub(super) write_through: bool,
    pub(super) faults: &'a Faults,
    pub(super) terms: Terms,
    pub(super) driver_errors: &'a DriverErrors,
}

/// The buffers of a request. They are kept between requests for their allocations.
#[derive(Default)]
pub(super) struct Buffers<'m> {
    readable: Vec<VolatileSlice<'m>>,
    writable: Vec<VolatileSlice<'m>>,
    vectors: IoVectors,
    served: Option<Served>,
}

/// The properties of a chain that have limits.
#[derive(Clone, Copy, Debug, Default)]
struct Shape {
    descriptors: u32,
    readable_bytes: u64,
    writable_bytes: u64,
    /// Descriptors that hold data, besides header and status.
    segments: u32,
    longest_segment: u32,
}

impl<'m> Buffers<'m> {
    /// Serves the request of `chain`.
    pub(super) fn serve(
        &mut self,
        memory: &'m GuestMemoryMmap,
        chain: &Chain,
        disk: Disk<'_>,
    ) -> Outcome {
        let shape = match self.gather(memory, chain) {
            Ok(shape) => shape,
            Err(fault) => return Outcome::Unanswerable(fault),
        };
        let Some(header) = self.take_header() else {
            return Outcome::Unanswerable(format!(
                "a request has {} readable bytes, less than the {HEADER} of its header (VIRTIO \
                 1.3 §5.2.6)",
                shape.readable_bytes
            ));
        };
        let Some(status_byte) = self.take_status() else {
            return Outcome::Unanswerable(
                "a request has no writable byte for its status (VIRTIO 1.3 §5.2.6)".into(),
            );
        };
        check_limits(&shape, disk);

        let [kind, _reserved] = [0, 4].map(|at| u32_at(&header, at));
        let sector = u64::from(u32_at(&header, 12)) << 32 | u64::from(u32_at(&header, 8));
        let status = match kind {
            VIRTIO_BLK_T_IN => self.transfer(Direction::In, sector, &shape, disk),
            VIRTIO_BLK_T_OUT => self.transfer(Direction::Out, sector, &shape, disk),
            VIRTIO_BLK_T_FLUSH => self.flush(sector, disk),
            VIRTIO_BLK_T_GET_ID => self.id(&shape, disk),
            _ => Some(VIRTIO_BLK_S_UNSUPP),
        };
        let Some(status) = status else {
            return Outcome::Stalled;
        };
        if status != VIRTIO_BLK_S_OK {
            // The used length includes the data, so all of it must be written (VIRTIO 1.3
            // §2.7.8.2).
            self.fill_writable(&[]);
        }
        if !disk.faults.no_status {
            status_byte.copy_from(&[status as u8]);
        }
        let sectors = self.data_bytes() as u64 / SECTOR;
        self.served = Some(Served {
            operation: match kind {
                VIRTIO_BLK_T_IN => Operation::Read(sector, sectors),
                VIRTIO_BLK_T_OUT => Operation::Write(sector, sectors),
                VIRTIO_BLK_T_FLUSH => Operation::Flush,
                other => Operation::Other(other),
            },
            status: status as u8,
            waiting: 0,
        });
        Outcome::Done(shape.writable_bytes as u32)
    }

    /// The request that was served last. Returns it once.
    pub(super) fn take_served(&mut self) -> Option<Served> {
        self.served.take()
    }

    /// The number of data bytes in the request that was served last.
    pub(super) fn data_bytes(&self) -> usize {
        self.readable
            .iter()
            .chain(&self.writable)
            .map(|slice| slice.len())
            .sum()
    }

    /// Collects the buffers of the chain.
    fn gather(&mut self, memory: &'m GuestMemoryMmap, chain: &Chain) -> Result<Shape, String> {
        self.readable.clear();
        self.writable.clear();
        let mut shape = Shape::default();
        for descriptor in &chain.descriptors {
            shape.descriptors += 1;
            let is_last = shape.descriptors as usize == chain.descriptors.len();
            let bytes = descriptor.length;
            if bytes == 0 {
                return Err(
                    "a descriptor of length 0 was made available; QEMU stops a device that finds \
                     one"
                    .into(),
                );
            }
            let (buffers, total, access) = if descriptor.is_writable() {
                (
                    &mut self.writable,
                    &mut shape.writable_bytes,
                    Permissions::Write,
                )
            } else if self.writable.is_empty() {
                (
                    &mut self.readable,
                    &mut shape.readable_bytes,
                    Permissions::Read,
                )
            } else {
                return Err(
                    // V31.
                    "a readable descriptor follows a writable one (VIRTIO 1.3 §2.7.4.2, 2.8.17)"
                        .into(),
                );
            };
            // Header and status are not data, whatever the framing.
            let before = *total;
            *total += u64::from(bytes);
            let header = HEADER as u64;
            let data = match access {
                Permissions::Write => u64::from(bytes) - u64::from(is_last),
                _ => header.max(*total) - header.max(before),
            };
            shape.segments += u32::from(data > 0);
            shape.longest_segment = shape.longest_segment.max(data as u32);
            // V19.
            let foreign = || {
                format!(
                    "a descriptor refers to {bytes} bytes at {:#x}, which are not completely in memory",
                    descriptor.address
                )
            };
            let slices = memory
                .get_slices(GuestAddress(descriptor.address), bytes as usize, access)
                .map_err(|_| foreign())?;
            for slice in slices {
                buffers.push(slice.map_err(|_| foreign())?);
            }
        }
        Ok(shape)
    }

    /// Removes the header from the start of the readable buffers, whatever the framing.
    fn take_header(&mut self) -> Option<[u8; HEADER]> {
        let mut header = [0; HEADER];
        let mut filled = 0;
        let mut whole = 0;
        while filled < HEADER {
            let slice = self.readable.get_mut(whole)?;
            let taken = slice.copy_to(&mut header[filled..]);
            filled += taken;
            if taken < slice.len() {
                *slice = slice.offset(taken).ok()?;
            } else {
                whole += 1;
            }
        }
        self.readable.drain(..whole);
        Some(header)
    }

    /// Removes the status byte from the end of the writable buffers, whatever the framing.
    fn take_status(&mut self) -> Option<VolatileSlice<'m>> {
        let last = self.writable.pop()?;
        let (data, status) = last.split_at(last.len().checked_sub(1)?).ok()?;
        if !data.is_empty() {
            self.writable.push(data);
        }
        Some(status)
    }

    /// Reads or writes the image. Returns `None` if the request stalls.
    fn transfer(
        &mut self,
        direction: Direction,
        sector: u64,
        shape: &Shape,
        disk: Disk<'_>,
    ) -> Option<u32> {
        let (data, other) = match direction {
            Direction::In => (
                shape.writable_bytes - 1,
                shape.readable_bytes - HEADER as u64,
            ),
            Direction::Out => (
                shape.readable_bytes - HEADER as u64,
                shape.writable_bytes - 1,
            ),
        };
        if other > 0 {
            disk.driver_errors.add(format!(
                "{direction:?} request with {other} bytes of data in the other direction (VIRTIO \
                 1.3 §5.2.6)"
            ));
            self.fill_writable(&[]);
        }
        // V87.
        if data == 0 || !data.is_multiple_of(SECTOR) {
            disk.driver_errors.add(format!(
                "{direction:?} request with {data} bytes of data, no multiple of 512 (VIRTIO 1.3 \
                 §5.2.6.1)"
            ));
            return Some(VIRTIO_BLK_S_IOERR);
        }
        // V84.
        let sectors = data / SECTOR;
        let Some(end) = sector
            .checked_add(sectors)
            .filter(|end| *end <= disk.image.sectors())
        else {
            disk.driver_errors.add(format!(
                "{direction:?} request for {sectors} sectors at {sector}, beyond the capacity of \
                 {} (VIRTIO 1.3 §5.2.6.1)",
                disk.image.sectors()
            ));
            return Some(VIRTIO_BLK_S_IOERR);
        };
        let touches = |ranges: &[Range<u64>]| {
            ranges
                .iter()
                .any(|range| range.start < end && sector < range.end)
        };
        if touches(&disk.faults.stalled) {
            return None;
        }
        let (broken, pieces) = match direction {
            Direction::In => (&disk.faults.unreadable, &self.writable),
            Direction::Out => (&disk.faults.unwritable, &self.readable),
        };
        if touches(broken) {
            return Some(VIRTIO_BLK_S_IOERR);
        }
        let mut done = disk
            .image
            .transfer(direction, &mut self.vectors, sector * SECTOR, pieces);
        if matches!(direction, Direction::Out) && disk.write_through {
            done = done.and_then(|()| disk.image.flush());
        }
        Some(status_of(done.is_ok()))
    }

    fn flush(&self, sector: u64, disk: Disk<'_>) -> Option<u32> {
        // V80.
        if disk.terms.agreed & 1 << VIRTIO_BLK_F_FLUSH == 0 {
            disk.driver_errors
                .add("flush request without VIRTIO_BLK_F_FLUSH (VIRTIO 1.3 §5.2.3)");
            return Some(VIRTIO_BLK_S_UNSUPP);
        }
        // V86.
        if sector != 0 {
            disk.driver_errors.add(format!(
                "flush request with sector {sector}, which must be 0 (VIRTIO 1.3 §5.2.6.1)"
            ));
        }
        // Data is useless here, but allowed (VIRTIO 1.3 §5.2.6.1: SHOULD NOT). It is
        // overwritten, because the used length includes it.
        self.fill_writable(&[]);
        if disk.faults.flush_stalls {
            return None;
        }
        if disk.faults.flush_fails {
            return Some(VIRTIO_BLK_S_IOERR);
        }
        Some(status_of(disk.image.flush().is_ok()))
    }

    fn id(&self, shape: &Shape, disk: Disk<'_>) -> Option<u32> {
        let room = shape.writable_bytes - 1;
        // V89.
        if room != u64::from(VIRTIO_BLK_ID_BYTES) {
            disk.driver_errors.add(format!(
                "GET_ID request with room for {room} bytes; it must be {VIRTIO_BLK_ID_BYTES} \
                 (VIRTIO 1.3 §5.2.6.1)"
            ));
        }
        self.fill_writable(disk.serial);
        Some(VIRTIO_BLK_S_OK)
    }

    /// Fills the writable buffers with `data`, then with zeros.
    fn fill_writable(&self, data: &[u8]) {
        const ZEROS: [u8; 4096] = [0; 4096];
        let mut data = data;
        for slice in &self.writable {
            let mut at = 0;
            while at < slice.len() {
                let Ok(rest) = slice.offset(at) else { return };
                let source = if data.is_empty() { &ZEROS[..] } else { data };
                let count = source.len().min(rest.len());
                rest.copy_from(&source[..count]);
                data = data.get(count..).unwrap_or_default();
                at += count;
            }
        }
    }
}

fn status_of(done: bool) -> u32 {
    if done {
        VIRTIO_BLK_S_OK
    } else {
        VIRTIO_BLK_S_IOERR
    }
}

fn check_limits(shape: &Shape, disk: Disk<'_>) {
    // V33, V53.
    if shape.descriptors > disk.terms.ring.size.into() {
        disk.driver_errors.add(format!(
            "a chain of {} descriptors in a queue of {} (VIRTIO 1.3 §2.7.5.3.1)",
            shape.descriptors, disk.terms.ring.size
        ));
    }
    // V92.
    if disk.terms.agreed & 1 << VIRTIO_BLK_F_SEG_MAX != 0 && shape.segments > disk.terms.seg_max {
        disk.driver_errors.add(format!(
            "a request of {} data segments, more than the seg_max of {} (VIRTIO 1.3 §5.2.4)",
            shape.segments, disk.terms.seg_max
        ));
    }
    // V92.
    if disk.terms.agreed & 1 << VIRTIO_BLK_F_SIZE_MAX != 0
        && shape.longest_segment > disk.terms.size_max
    {
        disk.driver_errors.add(format!(
            "a data segment of {} bytes, more than the size_max of {} (VIRTIO 1.3 §5.2.4)",
            shape.longest_segment, disk.terms.size_max
        ));
    }
}

/// The little-endian word at `at` of the header.
fn u32_at(header: &[u8; HEADER], at: usize) -> u32 {
    header[at..at + 4].try_into().map_or(0, u32::from_le_bytes)
}
