//! The ring of a queue. The crate `virtio-queue` implements the split ring, and
//! `testbed_virtio` the packed ring.

use std::sync::atomic::Ordering;

use virtio_bindings::bindings::{
    virtio_config::VIRTIO_F_RING_PACKED,
    virtio_ring::{
        VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC, VRING_AVAIL_F_NO_INTERRUPT,
    },
};
use virtio_queue::{DescriptorChain, Error, Queue, QueueOwnedT, QueueT, desc::split};
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryError, GuestMemoryMmap, Permissions};

use testbed_virtio::{
    chain::{Chain, Descriptor},
    driver_errors::DriverErrors,
    memory::Memory,
    packed_ring::{PackedRingDevice, Place},
};

use super::blk_request::Terms;

/// Why the device cannot go on.
#[derive(Debug)]
pub(super) struct Broken(pub(super) String);

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        Self(match error {
            // V35.
            Error::InvalidAvailRingIndex => {
                "the available index went back, or on by more than the queue holds (VIRTIO 1.3 \
                 §2.7.6.1)"
                    .into()
            }
            other => format!("the virtqueue cannot be used: {other}"),
        })
    }
}

impl From<GuestMemoryError> for Broken {
    fn from(error: GuestMemoryError) -> Self {
        Self(error.to_string())
    }
}

impl From<String> for Broken {
    fn from(error: String) -> Self {
        Self(error)
    }
}

/// The guest's memory for a packed ring. An access outside of it reads zeros or does nothing.
#[derive(Debug)]
pub(super) struct Guest(GuestMemoryMmap);

impl Memory for Guest {
    fn contains(&self, physical: u64, length: u64) -> bool {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        self.0
            .check_range(GuestAddress(physical), length, Permissions::ReadWrite)
    }

    fn load8(&self, physical: u64) -> u8 {
        self.0.read_obj(GuestAddress(physical)).unwrap_or(0)
    }

    fn load16(&self, physical: u64) -> u16 {
        u16::from_le(self.0.read_obj(GuestAddress(physical)).unwrap_or(0))
    }

    fn load32(&self, physical: u64) -> u32 {
        u32::from_le(self.0.read_obj(GuestAddress(physical)).unwrap_or(0))
    }

    fn load64(&self, physical: u64) -> u64 {
        u64::from_le(self.0.read_obj(GuestAddress(physical)).unwrap_or(0))
    }

    fn store8(&self, physical: u64, value: u8) {
        let _ = self.0.write_obj(value, GuestAddress(physical));
    }

    fn store16(&self, physical: u64, value: u16) {
        let _ = self.0.write_obj(value.to_le(), GuestAddress(physical));
    }

    fn store32(&self, physical: u64, value: u32) {
        let _ = self.0.write_obj(value.to_le(), GuestAddress(physical));
    }

    fn store64(&self, physical: u64, value: u64) {
        let _ = self.0.write_obj(value.to_le(), GuestAddress(physical));
    }
}

/// The ring of an enabled queue.
#[derive(Debug)]
pub(super) enum Ring {
    Split(Queue),
    Packed {
        device: PackedRingDevice<Box<Guest>>,
        event_idx: bool,
        /// The place of the first descriptor that was used since the last interrupt.
        signalled: Place,
        /// How many descriptors were used since then.
        used_since: u32,
    },
}

impl Ring {
    /// The ring that the driver set up, of at most `most` descriptors, if it is valid.
    pub(super) fn new(most: u16, terms: &Terms, memory: &GuestMemoryMmap) -> Result<Self, String> {
        if terms.agreed & 1 << VIRTIO_F_RING_PACKED == 0 {
            return split_ring(most, terms, memory).map(Self::Split);
        }
        let ring = terms.ring;
        let guest = Guest(memory.clone());
        for (what, at, bytes, alignment) in [
            (
                "descriptors",
                ring.descriptors,
                16 * u64::from(ring.size),
                16,
            ),
            ("driver area", ring.driver, 4, 4),
            ("device area", ring.device, 4, 4),
        ] {
            if !at.is_multiple_of(alignment) || !guest.contains(at, bytes) {
                return Err(format!(
                    "{what} of {bytes} bytes at {at:#x}, which are not aligned to {alignment} or \
                     not completely in memory"
                ));
            }
        }
        if ring.size == 0 || ring.size > most {
            return Err(format!("{} descriptors, of at most {most}", ring.size));
        }
        let device = PackedRingDevice::new(Box::new(guest), ring);
        Ok(Self::Packed {
            signalled: device.next_used,
            used_since: 0,
            device,
            event_idx: terms.agreed & 1 << VIRTIO_RING_F_EVENT_IDX != 0,
        })
    }

    pub(super) fn is_packed(&self) -> bool {
        matches!(self, Self::Packed { .. })
    }

    /// Whether the driver has zeroed the fields with which the device marks requests as used.
    pub(super) fn is_fresh(&self, memory: &GuestMemoryMmap) -> bool {
        match self {
            Self::Split(queue) => {
                let flags: Result<u16, _> =
                    memory.load(GuestAddress(queue.used_ring()), Ordering::Acquire);
                let index = queue.used_idx(memory, Ordering::Acquire);
                flags.is_ok_and(|flags| flags == 0) && index.is_ok_and(|index| index.0 == 0)
            }
            Self::Packed { device, .. } => device.is_zeroed(),
        }
    }

    /// How many requests are available and not taken. In a packed ring, at most 1 is counted.
    pub(super) fn available(&self, memory: &GuestMemoryMmap) -> Result<u16, Broken> {
        match self {
            Self::Split(queue) => {
                let available = queue.avail_idx(memory, Ordering::Acquire)?;
                Ok(available.0.wrapping_sub(queue.next_avail()))
            }
            Self::Packed { device, .. } => Ok(device.is_available().into()),
        }
    }

    /// Takes at most `most` available requests.
    pub(super) fn take(
        &mut self,
        memory: &GuestMemoryMmap,
        most: usize,
        terms: &Terms,
        driver_errors: &DriverErrors,
        chains: &mut Vec<Chain>,
    ) -> Result<(), Broken> {
        match self {
            Self::Split(queue) => {
                for chain in queue.iter(memory)?.take(most) {
                    chains.push(split_chain(memory, chain, terms, driver_errors)?);
                }
            }
            Self::Packed { device, .. } => {
                for _ in 0..most {
                    let Some(chain) = device.take()? else {
                        break;
                    };
                    // V54.
                    let agreed = terms.agreed & 1 << VIRTIO_RING_F_INDIRECT_DESC != 0;
                    if chain.table.is_some() && !agreed {
                        driver_errors.add(NOT_AGREED);
                    }
                    chains.push(chain);
                }
            }
        }
        Ok(())
    }

    /// Returns a request to the driver. With `wrong`, under this id.
    pub(super) fn finish(
        &mut self,
        memory: &GuestMemoryMmap,
        chain: &Chain,
        written: u32,
        wrong: Option<u32>,
    ) -> Result<(), Broken> {
        match (self, wrong) {
            (Self::Split(queue), None) => Ok(queue.add_used(memory, chain.id, written)?),
            (Self::Split(queue), Some(id)) => add_wrong_used(queue, memory, id, written),
            (
                Self::Packed {
                    device, used_since, ..
                },
                wrong,
            ) => {
                if wrong.is_none() {
                    device.check_unchanged(chain)?;
                }
                *used_since += u32::from(chain.in_ring);
                let id = wrong.map_or(chain.id, |id| id as u16);
                device.finish_as(id, chain.in_ring, written);
                Ok(())
            }
        }
    }

    /// Marks one more request as used, and does not count that. In a split ring this increments
    /// `used.idx` without a used element. In a packed ring it sets the flags of the next
    /// descriptor, whatever that contains.
    pub(super) fn glitch(&mut self, memory: &GuestMemoryMmap) -> Result<(), Broken> {
        match self {
            Self::Split(queue) => publish_used(queue, memory, queue.next_used().wrapping_add(1)),
            Self::Packed { device, .. } => {
                device.mark_used();
                Ok(())
            }
        }
    }

    pub(super) fn disable_notifications(&mut self, memory: &GuestMemoryMmap) -> Result<(), Broken> {
        match self {
            Self::Split(queue) => Ok(queue.disable_notification(memory)?),
            Self::Packed { device, .. } => {
                device.disable_notifications();
                Ok(())
            }
        }
    }

    /// Asks for a notification. Returns whether a request is available already.
    pub(super) fn enable_notifications(
        &mut self,
        memory: &GuestMemoryMmap,
    ) -> Result<bool, Broken> {
        match self {
            Self::Split(queue) => Ok(queue.enable_notification(memory)?),
            Self::Packed {
                device, event_idx, ..
            } => Ok(device.enable_notifications(*event_idx)),
        }
    }

    /// Whether the driver wants an interrupt for the requests that were used since the last
    /// call.
    pub(super) fn interrupt_wanted(
        &mut self,
        memory: &GuestMemoryMmap,
        driver_errors: &DriverErrors,
    ) -> Result<bool, Broken> {
        match self {
            Self::Split(queue) => split_interrupt_wanted(queue, memory, driver_errors),
            Self::Packed {
                device,
                event_idx,
                signalled,
                used_since,
            } => {
                let before = std::mem::replace(signalled, device.next_used);
                if std::mem::take(used_since) >= device.ring.size.into() {
                    // Every place of the ring was passed.
                    return Ok(!device.are_interrupts_disabled());
                }
                match device.interrupt_wanted(*event_idx, before) {
                    Ok(wanted) => Ok(wanted),
                    Err(error) => {
                        driver_errors.add(error);
                        Ok(true)
                    }
                }
            }
        }
    }
}

const NOT_AGREED: &str =
    "an indirect descriptor without VIRTIO_F_INDIRECT_DESC (VIRTIO 1.3 §2.7.5.3.1, 2.8.19)";

/// The queue that the driver set up, if it is valid.
fn split_ring(most: u16, terms: &Terms, memory: &GuestMemoryMmap) -> Result<Queue, String> {
    let ring = terms.ring;
    let why = |error: Error| error.to_string();
    let mut queue = Queue::new(most).map_err(why)?;
    queue.try_set_size(ring.size).map_err(why)?;
    let [desc, driver, device] = [ring.descriptors, ring.driver, ring.device].map(GuestAddress);
    queue.try_set_desc_table_address(desc).map_err(why)?;
    queue.try_set_avail_ring_address(driver).map_err(why)?;
    queue.try_set_used_ring_address(device).map_err(why)?;
    queue.set_event_idx(terms.agreed & 1 << VIRTIO_RING_F_EVENT_IDX != 0);
    queue.set_ready(true);
    if !queue.is_valid(memory) {
        return Err(format!(
            "rings that are not completely in memory: descriptors at {:#x}, available ring at \
             {:#x}, used ring at {:#x}",
            ring.descriptors, ring.driver, ring.device
        ));
    }
    Ok(queue)
}

/// Adds a used element with an id that may be invalid.
fn add_wrong_used(
    queue: &mut Queue,
    memory: &GuestMemoryMmap,
    id: u32,
    length: u32,
) -> Result<(), Broken> {
    let next = queue.next_used();
    let at = queue.used_ring() + 4 + 8 * u64::from(next % queue.size());
    memory.write_slice(
        &[id.to_le_bytes(), length.to_le_bytes()].concat(),
        GuestAddress(at),
    )?;
    queue.set_next_used(next.wrapping_add(1));
    publish_used(queue, memory, queue.next_used())
}

/// Stores `used.idx`.
fn publish_used(queue: &Queue, memory: &GuestMemoryMmap, index: u16) -> Result<(), Broken> {
    let at = GuestAddress(queue.used_ring() + 2);
    Ok(memory.store(index.to_le(), at, Ordering::Release)?)
}

/// Whether the driver wants an interrupt for the used elements.
///
/// `virtio-queue` decides by `used_event`. It ignores the flag that replaces it without
/// EVENT_IDX (VIRTIO 1.3 §2.7.7).
fn split_interrupt_wanted(
    queue: &mut Queue,
    memory: &GuestMemoryMmap,
    driver_errors: &DriverErrors,
) -> Result<bool, Broken> {
    let wanted = queue.needs_notification(memory)?;
    let flags: u16 = memory.load(GuestAddress(queue.avail_ring()), Ordering::Relaxed)?;
    let no_interrupt = VRING_AVAIL_F_NO_INTERRUPT as u16;
    let event_idx = queue.event_idx_enabled();
    let allowed = if event_idx { 0 } else { no_interrupt };
    let flags = u16::from_le(flags);
    // V36.
    if flags & !allowed != 0 {
        driver_errors.add(format!(
            "the available ring's flags are {flags:#x} {} EVENT_IDX (VIRTIO 1.3 §2.7.7.1)",
            if event_idx { "with" } else { "without" }
        ));
    }
    Ok(wanted && (event_idx || flags & no_interrupt == 0))
}

/// Reads the chain of a request.
///
/// `DescriptorChain` ends without an error. So a last descriptor with NEXT set shows that
/// the chain ended too early.
fn split_chain(
    memory: &GuestMemoryMmap,
    mut chain: DescriptorChain<&GuestMemoryMmap>,
    terms: &Terms,
    driver_errors: &DriverErrors,
) -> Result<Chain, Broken> {
    let id = chain.head_index();
    let mut descriptors = Vec::new();
    let mut direct = Some(id);
    let mut complete = false;
    loop {
        if let Some(index) = direct
            && enters_indirect_table(memory, index, terms, driver_errors)
        {
            direct = None;
        }
        let Some(descriptor) = chain.next() else {
            break;
        };
        complete = !descriptor.has_next();
        direct = direct.and(descriptor.has_next().then(|| descriptor.next()));
        descriptors.push(Descriptor {
            address: descriptor.addr().0,
            length: descriptor.len(),
            flags: descriptor.flags(),
            next: descriptor.next(),
        });
    }
    // V32, V33.
    if !complete {
        return Err(Broken(format!(
            "a descriptor chain breaks off after {} descriptors: it loops, is longer than its \
             table or than 4 GiB, nests indirect tables, or names a descriptor that is not \
             there (VIRTIO 1.3 §2.7.5)",
            descriptors.len()
        )));
    }
    Ok(Chain {
        id,
        // Only a packed ring needs the number.
        in_ring: 0,
        table: None,
        descriptors,
    })
}

/// Whether descriptor `index` of the queue's table refers to an indirect table.
/// `DescriptorChain` follows the reference, but does not report it.
fn enters_indirect_table(
    memory: &GuestMemoryMmap,
    index: u16,
    terms: &Terms,
    driver_errors: &DriverErrors,
) -> bool {
    let bytes = size_of::<split::Descriptor>() as u64;
    let at = terms.ring.descriptors + bytes * u64::from(index);
    // `DescriptorChain` does not follow an unreadable one either.
    let Ok(descriptor) = memory.read_obj::<split::Descriptor>(GuestAddress(at)) else {
        return false;
    };
    if !descriptor.refers_to_indirect_table() {
        return false;
    }
    // V33.
    if terms.agreed & 1 << VIRTIO_RING_F_INDIRECT_DESC == 0 {
        driver_errors.add(NOT_AGREED);
    }
    // V33.
    if descriptor.has_next() {
        driver_errors.add("a descriptor with both INDIRECT and NEXT (VIRTIO 1.3 §2.7.5.3.1)");
    }
    true
}
