//! A type for each callback: what Storport holds when it calls, and what may
//! be done from there.
//!
//! A context is made by the framework's entry for the callback and lent to the
//! miniport. It is neither `Send` nor `'static`, so it can't outlive the call.
//! Its methods are the routines allowed at the callback's IRQL and place (rule
//! book 3.5, 3.6); its level says which locks may be taken (rule book 2).
#![expect(unsafe_code, reason = "a context's methods call storport.sys")]

use core::{marker::PhantomData, slice};

use wdk_sys::{
    _KINTERRUPT_MODE, _STOR_SYNCHRONIZATION_MODEL, ACCESS_RANGE, PORT_CONFIGURATION_INFORMATION,
};

use crate::{
    dma::UncachedExtension,
    extension::{Brand, DpcNumber, Header, Table, TableMemory},
    level::{self, Level},
    lock::{DpcLocked, InterruptLocked, Locked, MessageLocked, StartIoLocked},
    port,
    registers::MappedRegisters,
    srb::{ScatterGather, Srb},
};

mod sealed {
    /// Belongs to the adapter that `'a` names.
    pub trait OfAdapter<'a> {}
}

pub(crate) use sealed::OfAdapter;

/// From here locks may be taken: a callback's context, or a guard.
pub trait Scope<'a>: OfAdapter<'a> {
    /// What may already be held.
    type Level: Level;
}

/// Nobody else is inside a cell of level `L`: the callback holds the lock, or
/// nothing else of the adapter runs.
pub trait Proves<'a, L: Level>: OfAdapter<'a> {}

/// DPCs may be issued from here (StorPortIssueDpc).
pub trait IssuesDpcs<'a>: OfAdapter<'a> {}

macro_rules! contexts {
    ($($(#[$doc:meta])* $name:ident $({ $($field:ident: $type:ty),* })?;)*) => {$(
        $(#[$doc])*
        pub struct $name<'c, 'a> {
            pub(crate) adapter: &'c Header,
            $($(pub(crate) $field: $type,)*)?
            pub(crate) brand: Brand<'a>,
            pub(crate) not_send: PhantomData<*mut ()>,
        }

        impl<'a> OfAdapter<'a> for $name<'_, 'a> {}

        impl $name<'_, '_> {
            /// Whether this is the copy of the driver that writes a crash
            /// dump or a hibernation file: no interrupts, no DPCs, no locks
            /// (rule book 6).
            #[must_use]
            pub fn is_dump(&self) -> bool {
                self.adapter.is_dump()
            }
        }
    )*};
}

contexts! {
    /// HwInitialize: DIRQL, the interrupt lock held (rule book 2).
    ///
    /// No request was sent yet and no DPC object is initialised, so nothing
    /// else of the adapter runs, and every cell opens.
    Initialize;
    /// HwPassiveInitialize: PASSIVE_LEVEL, nothing held, nothing takeable.
    PassiveInitialize;
    /// HwBuildIo: DISPATCH_LEVEL, nothing held; many run at once.
    BuildIo;
    /// HwStartIo: DISPATCH_LEVEL; the StartIo lock may be held.
    StartIo;
    /// HwInterrupt: DIRQL, the interrupt lock held, nothing takeable.
    Interrupt;
    /// HwMSInterruptRoutine: DIRQL, the message's lock or the interrupt lock
    /// held, nothing takeable.
    MessageInterrupt { message: u32 };
    /// HwDpcRoutine: DISPATCH_LEVEL, nothing held.
    Dpc { dpc: DpcNumber, argument: usize };
    /// HwResetBus: DISPATCH_LEVEL, the StartIo lock held, requests paused.
    ResetBus { path: u32 };
    /// HwAdapterControl(ScsiStopAdapter): DIRQL at worst, nothing known to be
    /// held, nothing takeable (rule book 8, row 1). No request is
    /// outstanding.
    Stop;
    /// HwAdapterControl(ScsiRestartAdapter): as [`Stop`]. Since then the
    /// miniport was not called, so every cell opens.
    Restart;
}

macro_rules! scopes {
    ($($name:ident at $level:ident;)*) => {$(
        impl<'a> Scope<'a> for $name<'_, 'a> {
            type Level = level::$level;
        }
    )*};
}

scopes! {
    BuildIo at Nothing;
    StartIo at MaybeStartIo;
    Dpc at Nothing;
    ResetBus at StartIo;
}

macro_rules! proofs {
    ($($name:ident of $($level:ident)*;)*) => {$($(
        impl<'a> Proves<'a, level::$level> for $name<'_, 'a> {}
    )*)*};
}

proofs! {
    Initialize of StartIo Dpc Interrupt;
    Restart of StartIo Dpc Interrupt;
    Interrupt of Interrupt;
    ResetBus of StartIo;
}

impl<'a> IssuesDpcs<'a> for Interrupt<'_, 'a> {}
impl<'a> IssuesDpcs<'a> for MessageInterrupt<'_, 'a> {}
impl<'a> IssuesDpcs<'a> for Dpc<'_, 'a> {}

macro_rules! at_or_below_dispatch {
    ($($name:ident)*) => {$(
        impl $name<'_, '_> {
            /// The request's data in system memory (StorPortGetSystemAddress,
            /// at or below DISPATCH_LEVEL), as long as the SRB says; nothing
            /// if it has none or it can't be mapped.
            pub fn data<'s>(&self, srb: &'s mut Srb<'_>) -> Option<&'s mut [u8]> {
                let length = usize::try_from(srb.data_length()).ok()?;
                if length == 0 {
                    return None;
                }
                // SAFETY: this context runs at DISPATCH_LEVEL; the SRB is
                // owned, so it is not completed.
                let first = unsafe { port::system_address(self.adapter, srb.as_ptr()) }?;
                // SAFETY: Storport maps as many bytes as the SRB's
                // DataTransferLength; they stay mapped until it is completed,
                // which needs the SRB that is borrowed here.
                Some(unsafe { slice::from_raw_parts_mut(first.as_ptr(), length) })
            }

            /// The request's data as the device reaches it
            /// (StorPortGetScatterGatherList); nothing if there is none.
            pub fn scatter_gather<'s>(&self, srb: &'s Srb<'_>) -> Option<ScatterGather<'s>> {
                // SAFETY: the SRB is owned, so it is not completed.
                let list = unsafe { port::scatter_gather_list(self.adapter, srb.as_ptr()) }?;
                // SAFETY: Storport's list is good until the SRB is completed,
                // which needs the SRB that is borrowed here.
                Some(unsafe { ScatterGather::new(list) })
            }
        }
    )*};
}

at_or_below_dispatch!(BuildIo StartIo Dpc);

macro_rules! stalls {
    ($($name:ident)*) => {$(
        impl $name<'_, '_> {
            /// Waits on the processor (StorPortStallExecution): at most 100
            /// 000 microseconds at a time, as Storport's verifier accepts.
            /// HwStartIo has no such method: it may not wait (rule book 3.1).
            pub fn stall(&self, microseconds: u32) {
                port::stall(microseconds);
            }
        }
    )*};
}

stalls!(Initialize ResetBus Stop Restart);

impl Initialize<'_, '_> {
    /// Whether message `message` of MSI or MSI-X is connected
    /// (StorPortGetMSIInfo).
    #[must_use]
    pub fn has_message(&self, message: u32) -> bool {
        !self.adapter.is_dump() && port::message_information(self.adapter, message).is_some()
    }
}

impl MessageInterrupt<'_, '_> {
    /// The message that was sent.
    #[must_use]
    pub fn message(&self) -> u32 {
        self.message
    }
}

impl Dpc<'_, '_> {
    /// The DPC object that runs.
    #[must_use]
    pub fn number(&self) -> DpcNumber {
        self.dpc
    }

    /// What was given to [`DpcLocked::issue`].
    #[must_use]
    pub fn argument(&self) -> usize {
        self.argument
    }
}

impl ResetBus<'_, '_> {
    /// The bus to reset.
    #[must_use]
    pub fn path(&self) -> u32 {
        self.path
    }
}

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
}

/// HwFindAdapter: PASSIVE_LEVEL (HIGH_LEVEL in dump mode), nothing held,
/// nothing takeable; it runs alone.
pub struct FindAdapter<'c, 'a> {
    pub(crate) adapter: &'a Header,
    pub(crate) config: &'c mut PORT_CONFIGURATION_INFORMATION,
    pub(crate) tables: TableMemory<'a>,
    pub(crate) not_send: PhantomData<*mut ()>,
}

impl<'a> FindAdapter<'_, 'a> {
    /// Whether this is the copy of the driver that writes a crash dump or a
    /// hibernation file.
    #[must_use]
    pub fn is_dump(&self) -> bool {
        self.adapter.is_dump()
    }

    /// Waits on the processor, at most 100 000 microseconds at a time
    /// (StorPortStallExecution).
    pub fn stall(&self, microseconds: u32) {
        port::stall(microseconds);
    }

    /// The function's PCI configuration space (StorPortGetBusData).
    #[must_use]
    pub fn pci_configuration(&self) -> Option<[u8; 256]> {
        let mut space = [0; 256];
        let bus = self.config.SystemIoBusNumber;
        let slot = self.config.SlotNumber;
        // SAFETY: this is HwFindAdapter.
        let read = unsafe { port::pci_configuration(self.adapter, bus, slot, &mut space) };
        (read == 256).then_some(space)
    }

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

    /// Maps the memory range that begins at bus address `start`
    /// (StorPortGetDeviceBase), whole. Nothing if no such range was assigned,
    /// or it can't be mapped.
    #[must_use]
    pub fn map(&mut self, start: u64) -> Option<MappedRegisters<'a>> {
        let range = self.ranges().iter().find(|range| {
            // SAFETY: every bit pattern is an integer.
            let address = unsafe { range.RangeStart.QuadPart };
            range.RangeInMemory != 0 && address.cast_unsigned() == start
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

    /// Tells Storport what the adapter is: a bus master of 64-bit addresses,
    /// full duplex, with these limits. Comes before
    /// [`uncached_extension`](Self::uncached_extension).
    pub fn configure(&mut self, limits: &AdapterLimits) {
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
    }

    /// Whether the adapter was given message-signalled interrupts.
    #[must_use]
    pub fn has_messages(&self) -> bool {
        self.config.InterruptMode == _KINTERRUPT_MODE::Latched
    }

    /// Memory to share with the device (StorPortGetUncachedExtension):
    /// `bytes` of it, physically contiguous, or nothing.
    #[must_use]
    pub fn uncached_extension(&mut self, bytes: u32) -> Option<UncachedExtension<'a>> {
        // SAFETY: this is HwFindAdapter; `configure` filled what must be.
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

    /// A table in the device extension, of `length` elements that `make`
    /// makes from their index. Nothing if [`TABLE_BYTES`] do not suffice.
    ///
    /// [`TABLE_BYTES`]: crate::Miniport::TABLE_BYTES
    #[must_use]
    pub fn table<T>(
        &mut self,
        length: usize,
        make: impl FnMut(usize) -> T,
    ) -> Option<Table<'a, T>> {
        self.tables.cut(length, make)
    }

    /// Puts data under the StartIo lock.
    #[must_use]
    pub fn start_io_locked<T>(&mut self, data: T) -> StartIoLocked<'a, T> {
        Locked::under_start_io(self.adapter, data)
    }

    /// Puts data under the lock of a DPC object made for it. Nothing if the
    /// adapter has [`MAX_DPCS`](crate::MAX_DPCS) of them.
    #[must_use]
    pub fn dpc_locked<T>(&mut self, data: T) -> Option<DpcLocked<'a, T>> {
        let dpc = self.adapter.take_dpc()?;
        Some(Locked::under_dpc(self.adapter, dpc, data))
    }

    /// Puts data under the interrupt lock.
    #[must_use]
    pub fn interrupt_locked<T>(&mut self, data: T) -> InterruptLocked<'a, T> {
        Locked::under_interrupt(self.adapter, data)
    }

    /// Puts data under the lock of message `message`.
    #[must_use]
    pub fn message_locked<T>(&mut self, message: u32, data: T) -> MessageLocked<'a, T> {
        Locked::under_message(self.adapter, message, data)
    }
}
