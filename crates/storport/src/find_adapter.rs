//! HwFindAdapter, and what only it may do: look at the function, map its
//! registers, take its memory, and say what it can carry.
//!
//! The routines are methods of [`Context`](crate::Context), where other
//! contexts say that they lack them; here is what they do.
#![expect(unsafe_code, reason = "Storport's configuration is a C structure")]

use core::{marker::PhantomData, slice};

use wdk_sys::{
    _KINTERRUPT_MODE, _STOR_SYNCHRONIZATION_MODEL, ACCESS_RANGE, PORT_CONFIGURATION_INFORMATION,
};

use crate::{
    context::{InCallback, OfAdapter, OneProcessorOnly},
    dma::UncachedExtension,
    extension::{Brand, Header, TableMemory},
    port,
    registers::MappedRegisters,
};

/// What the adapter can carry, for Storport (`PORT_CONFIGURATION_INFORMATION`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdapterLimits {
    /// MaximumTransferLength: bytes in one request.
    pub transfer_bytes: u32,
    /// NumberOfPhysicalBreaks: elements in a scatter/gather list.
    pub physical_breaks: u32,
    /// MaxNumberOfIO, MaxIOsPerLun, InitialLunQueueDepth: requests at a time.
    pub requests: u32,
    /// AlignmentMask: bits that must be clear in a buffer's address.
    pub alignment_mask: u32,
    /// MaximumNumberOfTargets.
    pub targets: u8,
    /// MaximumNumberOfLogicalUnits.
    pub logical_units: u8,
    /// CachesData: a write may be in the device's cache when it is done, and
    /// Windows is to send flushes.
    pub caches_data: bool,
}

/// Says that Storport was told what the adapter is
/// ([`configure`](crate::Context::configure)): what HwFindAdapter must have done
/// before it takes the uncached extension, and before it says that there is an
/// adapter (rule book 3.1, 3.5).
#[must_use = "it belongs to what `Miniport::find_adapter` returns"]
pub struct Configured<'adapter> {
    adapter: Brand<'adapter>,
}

/// The uncached extension can be asked for once: Storport gives the same memory
/// again.
pub(crate) struct NotTaken;

/// HwFindAdapter: PASSIVE_LEVEL (HIGH_LEVEL in dump mode), nothing held,
/// nothing takeable; it runs alone.
pub struct FindAdapter<'callback, 'adapter> {
    adapter: &'adapter Header,
    config: &'callback mut PORT_CONFIGURATION_INFORMATION,
    tables: TableMemory<'adapter>,
    uncached: Option<NotTaken>,
    _processor: OneProcessorOnly,
}

impl<'c, 'a> FindAdapter<'c, 'a> {
    pub(crate) fn new(
        adapter: &'a Header,
        config: &'c mut PORT_CONFIGURATION_INFORMATION,
        tables: TableMemory<'a>,
    ) -> Self {
        Self {
            adapter,
            config,
            tables,
            uncached: Some(NotTaken),
            _processor: OneProcessorOnly::new(),
        }
    }
}

#[diagnostic::do_not_recommend]
impl<'a> OfAdapter<'a> for FindAdapter<'_, 'a> {}

#[diagnostic::do_not_recommend]
impl<'a> InCallback<'a> for FindAdapter<'_, 'a> {
    fn header(&self) -> &Header {
        self.adapter
    }
}

/// What HwFindAdapter was given.
pub struct Found<'s, 'a> {
    pub(crate) adapter: &'a Header,
    pub(crate) tables: &'s mut TableMemory<'a>,
    config: &'s mut PORT_CONFIGURATION_INFORMATION,
    uncached: &'s mut Option<NotTaken>,
}

mod sealed {
    use super::Found;

    /// Is HwFindAdapter's context.
    #[diagnostic::on_unimplemented(
        message = "`{Self}` is not HwFindAdapter's context",
        note = "contexts are made by the framework, and lent to the miniport's methods"
    )]
    pub trait Finding<'a> {
        fn found(&mut self) -> Found<'_, 'a>;
    }
}

pub(crate) use sealed::Finding;

#[diagnostic::do_not_recommend]
impl<'a> Finding<'a> for FindAdapter<'_, 'a> {
    fn found(&mut self) -> Found<'_, 'a> {
        Found {
            adapter: self.adapter,
            tables: &mut self.tables,
            config: self.config,
            uncached: &mut self.uncached,
        }
    }
}

impl<'a> Found<'_, 'a> {
    /// The memory and I/O ranges that were assigned to the adapter, in the
    /// order of its base address registers.
    fn ranges(&self) -> &[ACCESS_RANGE] {
        let length = usize::try_from(self.config.NumberOfAccessRanges).unwrap_or(0);
        let first: *const ACCESS_RANGE = self.config.AccessRanges.cast();
        if first.is_null() {
            return &[];
        }
        // SAFETY: Storport's AccessRanges has NumberOfAccessRanges elements,
        // for the length of HwFindAdapter.
        unsafe { slice::from_raw_parts(first, length) }
    }

    pub(crate) fn configure(&mut self, limits: &AdapterLimits) -> Configured<'a> {
        let config = &mut *self.config;
        config.MaximumTransferLength = limits.transfer_bytes;
        config.NumberOfPhysicalBreaks = limits.physical_breaks;
        config.AlignmentMask = limits.alignment_mask;
        config.MaxNumberOfIO = limits.requests;
        config.MaxIOsPerLun = limits.requests;
        config.InitialLunQueueDepth = limits.requests;
        config.NumberOfBuses = 1;
        config.MaximumNumberOfTargets = limits.targets;
        config.MaximumNumberOfLogicalUnits = limits.logical_units;
        config.CachesData = u8::from(limits.caches_data);
        config.ScatterGather = 1;
        config.Master = 1;
        config.NeedPhysicalAddresses = 1;
        config.TaggedQueuing = 1;
        config.AutoRequestSense = 1;
        config.MultipleRequestPerLu = 1;
        config.Dma32BitAddresses = 1;
        config.Dma64BitAddresses = wdk_sys::SCSI_DMA64_MINIPORT_FULL64BIT_SUPPORTED as u8;
        config.MapBuffers = wdk_sys::STOR_MAP_NON_READ_WRITE_BUFFERS as u8;
        config.VirtualDevice = 0;
        // Half duplex is the default and not for shipping drivers (rule book
        // 4.1): it is not offered.
        config.SynchronizationModel = _STOR_SYNCHRONIZATION_MODEL::StorSynchronizeFullDuplex;
        Configured {
            adapter: PhantomData,
        }
    }

    pub(crate) fn has_messages(&self) -> bool {
        self.config.InterruptMode == _KINTERRUPT_MODE::Latched && !self.adapter.state.is_dump()
    }

    pub(crate) fn pci_configuration(&self) -> Option<[u8; 256]> {
        let mut space = [0; 256];
        let bus = self.config.SystemIoBusNumber;
        let slot = self.config.SlotNumber;
        // SAFETY: this is HwFindAdapter.
        let read = unsafe { port::pci_configuration(self.adapter, bus, slot, &mut space) };
        (read == 256).then_some(space)
    }

    /// Maps the first memory range of which `which` is true, given its index
    /// and its bus address.
    pub(crate) fn map(&self, which: impl Fn(usize, u64) -> bool) -> Option<MappedRegisters<'a>> {
        let (_, range) = self.ranges().iter().enumerate().find(|(index, range)| {
            // SAFETY: every bit pattern is an integer.
            let start = unsafe { range.RangeStart.QuadPart };
            range.RangeInMemory != 0 && which(*index, start.cast_unsigned())
        })?;
        let (address, length) = (range.RangeStart, range.RangeLength);
        let (bus_type, bus) = (
            self.config.AdapterInterfaceType,
            self.config.SystemIoBusNumber,
        );
        // SAFETY: the arguments are those of the ConfigInfo.
        let base = unsafe { port::device_base(self.adapter, bus_type, bus, address, length) }?;
        // SAFETY: Storport mapped `length` bytes of registers there, until
        // the adapter is gone.
        unsafe { MappedRegisters::new(base, usize::try_from(length).ok()?) }
    }

    pub(crate) fn uncached_extension(self, bytes: u32) -> Option<UncachedExtension<'a>> {
        let NotTaken = self.uncached.take()?;
        // SAFETY: this is HwFindAdapter, and who calls this has a `Configured`.
        let first = unsafe { port::uncached_extension(self.adapter, self.config, bytes) }?;
        // SAFETY: the address is that of the uncached extension.
        let (physical, contiguous) = unsafe { port::physical_address(self.adapter, first) }?;
        if contiguous < bytes {
            return None;
        }
        Some(UncachedExtension::new(
            first,
            physical,
            usize::try_from(bytes).ok()?,
        ))
    }
}
