//! HwFindAdapter, and what only it may do: look at the PCI function, map its
//! registers, take its memory, make locks and tables, and tell Storport what the
//! adapter can carry.
#![expect(unsafe_code, reason = "Storport's configuration is a C structure")]

use core::{fmt, marker::PhantomData, slice};

use wdk_sys::{
    _KINTERRUPT_MODE, _STOR_SYNCHRONIZATION_MODEL, ACCESS_RANGE, PORT_CONFIGURATION_INFORMATION,
};

use crate::{
    callback,
    context::{
        AdapterPower, BuildIo, Concurrent, Dpc, Initialize, Interrupt, MessageInterrupt, OfAdapter,
        OneProcessorOnly, PassiveInitialize, RegistryChange, ResetBus, Restart, Serial, StartIo,
        StateChange, Stop, SurpriseRemoval, ThreadedDpc, Timer, Tracing, UnitControl, UnitPower,
        Work,
    },
    dma::UncachedExtension,
    extension::{Brand, Header, Table, TableMemory},
    lock::{DpcLocked, InterruptLocked, Locked, MessageLocked, StartIoLocked},
    port,
    registers::MappedRegisters,
    routines::routines,
    state::DpcKind,
};

/// What the adapter can carry, for Storport (`PORT_CONFIGURATION_INFORMATION`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdapterLimits {
    /// MaximumTransferLength: the most bytes of a request, at least 512.
    pub transfer_bytes: u32,
    /// NumberOfPhysicalBreaks: the most elements of a scatter/gather list, at
    /// least 1.
    pub physical_breaks: u32,
    /// MaxNumberOfIO, MaxIOsPerLun, InitialLunQueueDepth: the most requests at a
    /// time, at least 1.
    pub requests: u32,
    /// AlignmentMask: bits that must be clear in a buffer's address. One less
    /// than a power of two.
    pub alignment_mask: u32,
    /// MaximumNumberOfTargets, at least 1.
    pub targets: u8,
    /// MaximumNumberOfLogicalUnits, at least 1.
    pub logical_units: u8,
    /// CachesData: a completed write may be in the device's cache, and Windows is
    /// to send flushes.
    pub caches_data: bool,
}

/// What a limit holds that was not set (SP_UNINITIALIZED_VALUE, `srb.h`).
const UNSET: u32 = u32::MAX;

/// The first of the [`AdapterLimits`] whose value no adapter can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitsError {
    /// `transfer_bytes` is below 512, the smallest block, or `u32::MAX`, by which
    /// Storport means that it was not set.
    TransferBytes(u32),
    /// `physical_breaks` is 0, or `u32::MAX`, by which Storport means that it was not
    /// set.
    PhysicalBreaks,
    /// `requests` is 0.
    Requests,
    /// `alignment_mask` is not one less than a power of two.
    AlignmentMask(u32),
    /// `targets` is 0.
    Targets,
    /// `logical_units` is 0.
    LogicalUnits,
}

impl fmt::Display for LimitsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TransferBytes(bytes) => {
                write!(
                    f,
                    "transfer_bytes is {bytes}; a block has at least 512 bytes, and {UNSET} is no limit"
                )
            }
            Self::PhysicalBreaks => write!(f, "physical_breaks is 0 or {UNSET}"),
            Self::Requests => f.write_str("requests is 0"),
            Self::AlignmentMask(mask) => write!(
                f,
                "alignment_mask is {mask:#x}, which is not one less than a power of two"
            ),
            Self::Targets => f.write_str("targets is 0"),
            Self::LogicalUnits => f.write_str("logical_units is 0"),
        }
    }
}

impl core::error::Error for LimitsError {}

impl AdapterLimits {
    /// # Errors
    /// The first limit that no adapter can have.
    fn check(&self) -> Result<(), LimitsError> {
        let mask = self.alignment_mask;
        if self.transfer_bytes < 512 || self.transfer_bytes == UNSET {
            Err(LimitsError::TransferBytes(self.transfer_bytes))
        } else if matches!(self.physical_breaks, 0 | UNSET) {
            Err(LimitsError::PhysicalBreaks)
        } else if self.requests == 0 {
            Err(LimitsError::Requests)
        } else if mask.checked_add(1).is_none_or(|next| mask & next != 0) {
            Err(LimitsError::AlignmentMask(mask))
        } else if self.targets == 0 {
            Err(LimitsError::Targets)
        } else if self.logical_units == 0 {
            Err(LimitsError::LogicalUnits)
        } else {
            Ok(())
        }
    }
}

/// Says that Storport was told what the adapter is
/// ([`configure`](FindAdapter::configure)). HwFindAdapter must do that before it
/// takes the uncached extension, and before it reports an adapter
/// (storport-rules.md Callbacks, Routines).
#[must_use = "it belongs to what `Miniport::find_adapter` returns"]
pub struct Configured<'adapter> {
    adapter: Brand<'adapter>,
}

/// The right to ask for the uncached extension: once, since Storport gives the
/// same memory again.
pub(crate) struct NotTaken;

/// HwFindAdapter: PASSIVE_LEVEL (HIGH_LEVEL in a dump stack), nothing held,
/// nothing takeable. It is alone: no other callback is admitted meanwhile.
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

impl FindAdapter<'_, '_> {
    pub(crate) fn header(&self) -> &Header {
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

/// The callback is HwFindAdapter.
#[diagnostic::on_unimplemented(
    message = "only HwFindAdapter may do this, not `{Self}`",
    label = "an adapter's limits, registers, memory, tables and cells are settled in HwFindAdapter \
             (storport-rules.md HwFindAdapter)",
    note = "call it in `Miniport::find_adapter`, and keep what it gives in the adapter's state"
)]
pub trait InFindAdapter<'a> {
    /// What HwFindAdapter was given.
    #[doc(hidden)]
    fn found(&mut self) -> Found<'_, 'a>;
}

#[diagnostic::do_not_recommend]
impl<'a> InFindAdapter<'a> for FindAdapter<'_, 'a> {
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

    fn configure(&mut self, limits: &AdapterLimits) -> Result<Configured<'a>, LimitsError> {
        limits.check()?;
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
        // Half duplex is the default and not for shipping drivers
        // (storport-rules.md SynchronizationModel): it is not offered.
        config.SynchronizationModel = _STOR_SYNCHRONIZATION_MODEL::StorSynchronizeFullDuplex;
        Ok(Configured {
            adapter: PhantomData,
        })
    }

    fn has_messages(&self) -> bool {
        self.config.InterruptMode == _KINTERRUPT_MODE::Latched && !self.adapter.state.is_dump()
    }

    fn pci_configuration(&self) -> Option<[u8; 256]> {
        let mut space = [0; 256];
        let bus = self.config.SystemIoBusNumber;
        let slot = self.config.SlotNumber;
        // SAFETY: this is HwFindAdapter.
        let read = unsafe { port::pci_configuration(self.adapter, bus, slot, &mut space) };
        (read == 256).then_some(space)
    }

    /// Maps the first memory range of which `which` is true, given its index
    /// and its bus address.
    fn map(&self, which: impl Fn(usize, u64) -> bool) -> Option<MappedRegisters<'a>> {
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

    fn uncached_extension(self, bytes: u32) -> Option<UncachedExtension<'a>> {
        let NotTaken = self.uncached.take()?;
        // SAFETY: this is HwFindAdapter, and the caller has a `Configured`.
        let first = unsafe { port::uncached_extension(self.adapter, self.config, bytes) }?;
        // SAFETY: the address is that of the uncached extension.
        let (physical, contiguous) = unsafe { port::physical_address(self.adapter, first) }?;
        if contiguous < bytes {
            return None;
        }
        let length = usize::try_from(bytes).ok()?;
        // SAFETY: Storport allocated `bytes` contiguous bytes there, until the
        // adapter is gone, and gives them out here once.
        Some(unsafe { UncachedExtension::new(first, physical, length) })
    }
}

routines! {
    for [FindAdapter]
    not [Initialize PassiveInitialize BuildIo StartIo Concurrent Serial Interrupt MessageInterrupt
        Dpc ThreadedDpc Timer StateChange ResetBus Stop Restart AdapterPower SurpriseRemoval
        UnitControl UnitPower Tracing Work RegistryChange]
    {
        /// The function's PCI configuration space (StorPortGetBusData).
        pub fn pci_configuration(&mut self) -> Option<[u8; 256]>
        where
            Self: InFindAdapter<'a>,
        {
            self.found().pci_configuration()
        }

        /// Maps the memory range that begins at bus address `start`
        /// (StorPortGetDeviceBase), whole. `None` if no such range was assigned,
        /// or it cannot be mapped.
        pub fn map(&mut self, start: u64) -> Option<MappedRegisters<'a>>
        where
            Self: InFindAdapter<'a>,
        {
            self.found().map(|_, address| address == start)
        }

        /// Maps the range with this index, in the order of the function's base
        /// address registers, likewise.
        pub fn map_range(&mut self, index: usize) -> Option<MappedRegisters<'a>>
        where
            Self: InFindAdapter<'a>,
        {
            self.found().map(|other, _| other == index)
        }

        /// Whether the adapter was given message-signalled interrupts.
        pub fn has_messages(&mut self) -> bool
        where
            Self: InFindAdapter<'a>,
        {
            self.found().has_messages()
        }

        /// Tells Storport what the adapter is: a bus master of 64-bit addresses,
        /// full duplex, with these limits.
        ///
        /// # Errors
        /// A limit that no adapter can have. Storport was told nothing then.
        pub fn configure(
            &mut self,
            limits: &AdapterLimits,
        ) -> Result<Configured<'a>, LimitsError>
        where
            Self: InFindAdapter<'a>,
        {
            self.found().configure(limits)
        }

        /// Takes memory to share with the device
        /// (StorPortGetUncachedExtension): `bytes` bytes, physically contiguous.
        /// `None` if there is none, or it was taken already.
        pub fn uncached_extension(
            &mut self,
            configured: &Configured<'a>,
            bytes: u32,
        ) -> Option<UncachedExtension<'a>>
        where
            Self: InFindAdapter<'a>,
        {
            let _: &Configured<'a> = configured;
            self.found().uncached_extension(bytes)
        }

        /// Makes a table of `length` elements in the device extension. `make`
        /// makes each from its index. `None` if [`TABLE_BYTES`] is too small, or if
        /// `make` returns `None`.
        ///
        /// [`TABLE_BYTES`]: crate::Miniport::TABLE_BYTES
        pub fn table<T>(
            &mut self,
            length: usize,
            mut make: impl FnMut(&mut Self, usize) -> Option<T>,
        ) -> Option<Table<'a, T>>
        where
            Self: InFindAdapter<'a>,
        {
            let place = self.found().tables.cut(length)?;
            place.fill(|index| make(self, index))
        }

        /// Puts data under the StartIo lock.
        pub fn start_io_locked<T>(&mut self, data: T) -> StartIoLocked<'a, T>
        where
            Self: InFindAdapter<'a>,
        {
            Locked::under_start_io(self.found().adapter, data)
        }

        /// Puts data under the lock of a DPC object made for it. `None` if the
        /// adapter has [`MAX_DPCS`](crate::MAX_DPCS) of them, or if the one in this
        /// place was a threaded one when the adapter was found before.
        pub fn dpc_locked<T>(&mut self, data: T) -> Option<DpcLocked<'a, T>>
        where
            Self: InFindAdapter<'a>,
        {
            Locked::under_dpc(self.found().adapter, DpcKind::Ordinary, data)
        }

        /// Puts data under the lock of a threaded DPC object made for it
        /// (StorPortInitializeThreadedDpc). When it is issued,
        /// [`callback::ThreadedDpc`] runs, in a thread if the system allows that.
        /// `None` if the adapter has [`MAX_DPCS`](crate::MAX_DPCS) of them, or if the
        /// one in this place was none when the adapter was found before.
        pub fn threaded_dpc_locked<M: callback::ThreadedDpc, T>(
            &mut self,
            data: T,
        ) -> Option<DpcLocked<'a, T>>
        where
            Self: InFindAdapter<'a>,
        {
            let adapter = self.found().adapter;
            // Without the callback, for example because `M` is another miniport
            // than this adapter's, the object would never be initialised.
            adapter.optional().threaded_dpc?;
            Locked::under_dpc(adapter, DpcKind::Threaded, data)
        }

        /// Puts data under the interrupt lock.
        pub fn interrupt_locked<T>(&mut self, data: T) -> InterruptLocked<'a, T>
        where
            Self: InFindAdapter<'a>,
        {
            Locked::under_interrupt(self.found().adapter, data)
        }

        /// Puts data under the lock of message `message`. If that message is not
        /// connected, or messages have no locks of their own, this is the
        /// interrupt lock.
        pub fn message_locked<T>(&mut self, message: u32, data: T) -> MessageLocked<'a, T>
        where
            Self: InFindAdapter<'a>,
        {
            Locked::under_message(self.found().adapter, message, data)
        }
    }
}
