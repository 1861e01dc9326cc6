//! HwFindAdapter, and the routines that only it may call: they read the PCI configuration, map
//! registers, take memory, make cells and tables, and tell Storport the adapter's limits.
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

/// The adapter's limits, for Storport (`PORT_CONFIGURATION_INFORMATION`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdapterLimits {
    /// MaximumTransferLength: the maximum number of bytes of a request, at least 512.
    pub transfer_bytes: u32,
    /// NumberOfPhysicalBreaks: the maximum number of elements of a scatter/gather list, at least 1.
    pub physical_breaks: u32,
    /// MaxNumberOfIO, MaxIOsPerLun, InitialLunQueueDepth: the maximum number of outstanding
    /// requests, at least 1.
    pub requests: u32,
    /// AlignmentMask: bits that must be clear in a buffer's address. One less
    /// than a power of two.
    pub alignment_mask: u32,
    /// MaximumNumberOfTargets, at least 1.
    pub targets: u8,
    /// MaximumNumberOfLogicalUnits, at least 1.
    pub logical_units: u8,
    /// CachesData: completed writes may be in the device's cache, and Windows should send flushes.
    pub caches_data: bool,
}

/// The value of a limit that was not set (SP_UNINITIALIZED_VALUE, `srb.h`).
const UNSET: u32 = u32::MAX;

/// The first invalid value in [`AdapterLimits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitsError {
    /// `transfer_bytes` is below 512, the smallest block, or it is `u32::MAX`, which means "not
    /// set" to Storport.
    TransferBytes(u32),
    /// `physical_breaks` is 0, or it is `u32::MAX`, which means "not set" to Storport.
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
            Self::TransferBytes(bytes) => write!(
                f,
                "transfer_bytes is {bytes}: it must be at least 512, and less than {UNSET}"
            ),
            Self::PhysicalBreaks => write!(
                f,
                "physical_breaks must be at least 1, and less than {UNSET}"
            ),
            Self::Requests => f.write_str("requests must be at least 1"),
            Self::AlignmentMask(mask) => write!(
                f,
                "alignment_mask is {mask:#x}: it must be one less than a power of two"
            ),
            Self::Targets => f.write_str("targets must be at least 1"),
            Self::LogicalUnits => f.write_str("logical_units must be at least 1"),
        }
    }
}

impl core::error::Error for LimitsError {}

impl AdapterLimits {
    /// # Errors
    /// The first invalid limit.
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

/// Proof that HwFindAdapter has told Storport the adapter's limits
/// ([`configure`](FindAdapter::configure)). It must do so before it takes the uncached extension,
/// and before it returns an adapter (storport-rules.md Callbacks, Routines).
#[must_use = "it belongs to what `Miniport::find_adapter` returns"]
pub struct Configured<'adapter> {
    adapter: Brand<'adapter>,
}

/// The right to take the uncached extension. It exists once, because Storport would return the
/// same memory again.
pub(crate) struct AllocateOnce;

/// HwFindAdapter: PASSIVE_LEVEL (HIGH_LEVEL in a dump stack), no lock held, no lock may be taken.
/// No other callback is admitted at the same time.
pub struct FindAdapter<'callback, 'adapter> {
    adapter: &'adapter Header,
    config: &'callback mut PORT_CONFIGURATION_INFORMATION,
    tables: TableMemory<'adapter>,
    uncached: Option<AllocateOnce>,
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
            uncached: Some(AllocateOnce),
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

/// The parts of [`FindAdapter`] that its routines use.
pub struct Found<'s, 'a> {
    pub(crate) adapter: &'a Header,
    pub(crate) tables: &'s mut TableMemory<'a>,
    config: &'s mut PORT_CONFIGURATION_INFORMATION,
    uncached: &'s mut Option<AllocateOnce>,
}

/// The callback is HwFindAdapter.
#[diagnostic::on_unimplemented(
    message = "this may only be called in HwFindAdapter, not in `{Self}`",
    label = "an adapter's limits, registers, memory, tables and cells are set up in HwFindAdapter \
             (storport-rules.md HwFindAdapter)",
    note = "call it in `Miniport::find_adapter`, and store the result in the adapter's state"
)]
pub trait InFindAdapter<'a> {
    /// The parts of the context that the routines use.
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
    /// The memory and I/O ranges that are assigned to the adapter, in the order of its base address
    /// registers.
    fn ranges(&self) -> &[ACCESS_RANGE] {
        let length = usize::try_from(self.config.NumberOfAccessRanges).unwrap_or(0);
        let first: *const ACCESS_RANGE = self.config.AccessRanges.cast();
        if first.is_null() {
            return &[];
        }
        // SAFETY: Storport's AccessRanges has NumberOfAccessRanges elements, as long as
        // HwFindAdapter runs.
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
        // Half duplex is the default, but is not for shipping drivers
        // (storport-rules.md SynchronizationModel). So it is not supported.
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

    /// Maps the first memory range for which `which` returns true. `which` gets the index and the
    /// bus address of a range.
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
        // SAFETY: The arguments come from the ConfigInfo of HwFindAdapter.
        let base = unsafe { port::device_base(self.adapter, bus_type, bus, address, length) }?;
        // SAFETY: `MappedRegisters`' invariant: Storport mapped `length` bytes of registers there,
        // as long as the adapter exists.
        Some(unsafe { MappedRegisters::new(base, usize::try_from(length).ok()?) })
    }

    fn uncached_extension(self, bytes: u32) -> Option<UncachedExtension<'a>> {
        let AllocateOnce = self.uncached.take()?;
        // SAFETY: This is HwFindAdapter, and the caller has a `Configured`, so the ConfigInfo is
        // filled in.
        let first = unsafe { port::uncached_extension(self.adapter, self.config, bytes) }?;
        // SAFETY: The address is that of the uncached extension.
        let (physical, contiguous) = unsafe { port::physical_address(self.adapter, first) }?;
        if contiguous < bytes {
            return None;
        }
        let length = usize::try_from(bytes).ok()?;
        // SAFETY: `UncachedExtension`'s invariants: Storport allocated `bytes` contiguous bytes
        // there, as long as the adapter exists. `AllocateOnce` ensures that they are taken
        // once.
        Some(unsafe { UncachedExtension::new(first, physical, length) })
    }
}

routines! {
    for [FindAdapter]
    not [Initialize PassiveInitialize BuildIo StartIo Concurrent Serial Interrupt MessageInterrupt
        Dpc ThreadedDpc Timer StateChange ResetBus Stop Restart AdapterPower SurpriseRemoval
        UnitControl UnitPower Tracing Work RegistryChange]
    {
        /// Reads the function's PCI configuration space (StorPortGetBusData). Returns `None` if not
        /// all 256 bytes could be read.
        pub fn pci_configuration(&mut self) -> Option<[u8; 256]>
        where
            Self: InFindAdapter<'a>,
        {
            self.found().pci_configuration()
        }

        /// Maps the whole memory range that begins at bus address `start`
        /// (StorPortGetDeviceBase). Returns `None` if no such range is assigned, or if it cannot
        /// be mapped.
        pub fn map(&mut self, start: u64) -> Option<MappedRegisters<'a>>
        where
            Self: InFindAdapter<'a>,
        {
            self.found().map(|_, address| address == start)
        }

        /// As [`map`](Self::map), for the range with this index, in the order of the function's
        /// base address registers.
        pub fn map_range(&mut self, index: usize) -> Option<MappedRegisters<'a>>
        where
            Self: InFindAdapter<'a>,
        {
            self.found().map(|other, _| other == index)
        }

        /// Whether message-signalled interrupts are assigned to the adapter.
        pub fn has_messages(&mut self) -> bool
        where
            Self: InFindAdapter<'a>,
        {
            self.found().has_messages()
        }

        /// Tells Storport that the adapter is a bus master with 64-bit addresses, in full duplex,
        /// with these limits.
        ///
        /// # Errors
        /// An invalid limit. Nothing was changed then.
        pub fn configure(
            &mut self,
            limits: &AdapterLimits,
        ) -> Result<Configured<'a>, LimitsError>
        where
            Self: InFindAdapter<'a>,
        {
            self.found().configure(limits)
        }

        /// Takes the uncached extension: `bytes` bytes of physically contiguous memory that the
        /// device shares (StorPortGetUncachedExtension). Returns `None` if there is not enough
        /// memory, or if it was taken before.
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

        /// Makes a table of `length` elements in the device extension. `make` makes each element
        /// from its index. Returns `None` if [`TABLE_BYTES`] is too small, or if `make` returns
        /// `None`.
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

        /// Makes a cell under the StartIo lock.
        pub fn start_io_locked<T>(&mut self, data: T) -> StartIoLocked<'a, T>
        where
            Self: InFindAdapter<'a>,
        {
            Locked::under_start_io(self.found().adapter, data)
        }

        /// Makes a cell under the lock of a new DPC object. Returns `None` if the adapter has
        /// [`MAX_DPCS`](crate::MAX_DPCS) DPC objects already. Also returns `None` if this object
        /// was a threaded DPC when the adapter was found before.
        pub fn dpc_locked<T>(&mut self, data: T) -> Option<DpcLocked<'a, T>>
        where
            Self: InFindAdapter<'a>,
        {
            Locked::under_dpc(self.found().adapter, DpcKind::Ordinary, data)
        }

        /// Makes a cell under the lock of a new threaded DPC object
        /// (StorPortInitializeThreadedDpc). When the DPC is issued, [`callback::ThreadedDpc`] runs,
        /// in a thread if the system allows that. Returns `None` if the adapter has
        /// [`MAX_DPCS`](crate::MAX_DPCS) DPC objects already. Also returns `None` if this object
        /// was not a threaded DPC when the adapter was found before.
        pub fn threaded_dpc_locked<M: callback::ThreadedDpc, T>(
            &mut self,
            data: T,
        ) -> Option<DpcLocked<'a, T>>
        where
            Self: InFindAdapter<'a>,
        {
            let adapter = self.found().adapter;
            // Without the callback the object would never be initialised. It is absent if `M` is
            // another miniport than this adapter's.
            adapter.optional().threaded_dpc?;
            Locked::under_dpc(adapter, DpcKind::Threaded, data)
        }

        /// Makes a cell under the interrupt lock.
        pub fn interrupt_locked<T>(&mut self, data: T) -> InterruptLocked<'a, T>
        where
            Self: InFindAdapter<'a>,
        {
            Locked::under_interrupt(self.found().adapter, data)
        }

        /// Makes a cell under the lock of message `message`. If that message is not connected, or
        /// messages have no locks of their own, the cell is under the interrupt lock.
        pub fn message_locked<T>(&mut self, message: u32, data: T) -> MessageLocked<'a, T>
        where
            Self: InFindAdapter<'a>,
        {
            Locked::under_message(self.found().adapter, message, data)
        }
    }
}
