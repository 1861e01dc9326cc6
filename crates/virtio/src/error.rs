//! Why a device cannot be used: the one error of finding, negotiating and setting up.
//!
//! Errors of a running device have types of their own:
//! [`RingFault`](crate::queue::RingFault) and
//! [`RequestError`](crate::blk::RequestError).

use thiserror::Error;
use virtio_spec::F;

use crate::pci::{Structure, StructureFault};

/// Why a device cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// PCI configuration space reads all ones: there is no device, or it was removed.
    #[error("PCI configuration space reads all ones: no device")]
    Absent,
    /// The function has no capability list: a legacy virtio device, which this
    /// crate does not serve.
    #[error("no PCI capability list: a legacy virtio device; enable its modern interface")]
    NoCapabilityList,
    /// A capability's link points into the header, which ends at 40h.
    #[error("the PCI capability list points into the header, to {link:#04x}")]
    LinkIntoHeader {
        /// The link.
        link: u8,
    },
    /// The capability list comes back to a capability that it has passed.
    #[error("the PCI capability list loops at {at:#04x}")]
    CapabilityLoop {
        /// Offset of that capability.
        at: u8,
    },
    /// No capability names a structure. A device without any of them is a legacy
    /// device.
    #[error("no PCI capability for the {structure} structure")]
    StructureMissing {
        /// Which structure.
        structure: Structure,
    },
    /// No capability for a structure is usable.
    #[error("no usable PCI capability for the {structure} structure: {fault}")]
    StructureUnusable {
        /// Which structure.
        structure: Structure,
        /// What is wrong with the last capability that names it.
        fault: StructureFault,
    },
    /// A mapped structure is shorter than what is read of it.
    #[error("the {structure} structure is too short: {length} bytes are mapped")]
    WindowShort {
        /// Which structure.
        structure: Structure,
        /// Bytes that are mapped.
        length: usize,
    },
    /// The device status reads all ones: the device was removed.
    #[error("the device status reads all ones: the device was removed")]
    Gone,
    /// The device asks for a reset (`DEVICE_NEEDS_RESET`).
    #[error("the device asks for a reset")]
    NeedsReset,
    /// The device does not offer `VERSION_1`: a legacy device.
    #[error("the device does not offer VIRTIO_F_VERSION_1")]
    NotModern,
    /// The caller wants to accept features that the device does not offer, or that this
    /// crate does not support.
    #[error("features {features:#x} cannot be accepted")]
    NotAcceptable {
        /// Those features.
        features: F,
    },
    /// The device did not keep `FEATURES_OK`: it refuses the features.
    #[error("the device refuses the features {features:#x}")]
    FeaturesRefused {
        /// The features that the driver wrote.
        features: F,
    },
    /// The configuration changed during each attempt to read it.
    #[error("the configuration changed during each attempt to read it")]
    ConfigUnstable,
    /// The configuration ends before a field that an accepted feature includes.
    #[error("the configuration ends before offset {offset:#x}")]
    FieldMissing {
        /// The field's offset.
        offset: usize,
    },
    /// The capacity in bytes does not fit 64 bits.
    #[error("a capacity of {sectors} sectors is impossible")]
    Capacity {
        /// The capacity that the device reports, in sectors.
        sectors: u64,
    },
    /// The block size is not a power of two in 512..=4096.
    #[error("a block size of {bytes} bytes is not a power of two in 512..=4096")]
    BlockSize {
        /// The block size that the device reports, in bytes.
        bytes: u32,
    },
    /// No sector fits a segment.
    #[error("the longest segment has {bytes} bytes: no sector fits")]
    SegmentSize {
        /// The longest segment that the device reports, in bytes.
        bytes: u32,
    },
    /// A limit leaves a request too few data descriptors for two pages.
    #[error("{limit} is {value}, but {needed} is needed for a request of two pages")]
    LimitTooSmall {
        /// The limit: `seg_max` or `queue_size`.
        limit: &'static str,
        /// Its value.
        value: u16,
        /// The least value that works.
        needed: u16,
    },
    /// The device has no such queue.
    #[error("no queue {index}: the device has {queues}")]
    NoQueue {
        /// The queue that was asked for.
        index: u16,
        /// Queues that it has.
        queues: u16,
    },
    /// The queue's size is 0: it is not available.
    #[error("queue {index} is not available")]
    QueueUnavailable {
        /// The queue.
        index: u16,
    },
    /// The queue's size is not possible: a split ring's is a power of two, and a packed ring's
    /// is from 1 to 32768.
    #[error(
        "queue {index} has size {size}: a split ring needs a power of two, a packed ring 1 to 32768"
    )]
    QueueSize {
        /// The queue.
        index: u16,
        /// The size that the device reports.
        size: u16,
    },
    /// The queue is enabled already, right after a reset.
    #[error("queue {index} is enabled after a reset")]
    QueueInUse {
        /// The queue.
        index: u16,
    },
    /// The queue's notification address is odd or outside the notification
    /// structure.
    #[error(
        "queue {index} has its notification address at {offset:#x}, in a structure of {length:#x} bytes"
    )]
    NotifyAddressOutside {
        /// The queue.
        index: u16,
        /// Bytes from the structure's start.
        offset: u64,
        /// Bytes that are mapped.
        length: usize,
    },
    /// A ring is larger than its queue, or not aligned.
    #[error("the ring for queue {index} is too large or not aligned")]
    RingUnfit {
        /// The queue.
        index: u16,
    },
    /// `queue_enable` did not stay 1.
    #[error("queue {index} does not stay enabled")]
    QueueNotEnabled {
        /// The queue.
        index: u16,
    },
    /// A vector is not in the device's MSI-X table. The device works without it: with
    /// fewer vectors, or INTx (VIRTIO 1.3 §4.1.5.1.2.2).
    #[error("MSI-X vector {vector} is beyond the table of {table_size}")]
    VectorBeyondTable {
        /// The vector.
        vector: u16,
        /// Entries of the table; 0 without MSI-X.
        table_size: u16,
    },
    /// The device read back another vector than was written. It works without it, as
    /// above.
    #[error("the device refuses MSI-X vector {vector}: it reads back {found:#x}")]
    VectorRefused {
        /// The vector.
        vector: u16,
        /// The vector that was read back; FFFFh is the specified refusal.
        found: u16,
    },
    /// Shared memory ends above 2^64.
    #[error("the shared memory ends above 2^64")]
    MemoryOverflow,
    /// The virtual and the physical address of shared memory differ in their offset
    /// within a cache line, so nothing can be aligned in both.
    #[error("the shared memory's virtual and physical addresses differ within a cache line")]
    MemorySkewed,
    /// The rest of shared memory begins where no value of this kind may begin.
    #[error("the shared memory is not aligned to {alignment} bytes here")]
    MemoryMisaligned {
        /// The alignment that is needed, in bytes.
        alignment: usize,
    },
    /// Shared memory is too short.
    #[error("the shared memory is too short: {needed} bytes needed, {left} left")]
    MemoryShort {
        /// Bytes that were asked for, alignment included.
        needed: usize,
        /// Bytes that are left.
        left: usize,
    },
    /// The table of requests in flight is not empty.
    #[error("the table of requests in flight is not empty")]
    TableInUse,
}
