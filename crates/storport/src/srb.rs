//! An SRB as a value that must be completed.
//!
//! The [`Srb`] value owns the request. While the request is in flight, the driver stores the
//! value. Completing the request consumes the value. So a request is completed at most once,
//! and is not accessed afterwards (storport-rules.md S1 to S3). It cannot be completed as
//! pending.
//!
//! Requests that the driver does not complete:
//!
//! - An `Srb` that is dropped is completed as failed. That is a bug in the driver, but the
//!   request is not lost.
//! - An `Srb` that is forgotten is never completed: by `mem::forget`, in a `ManuallyDrop`, or
//!   in an adapter's state that HwFindAdapter overwrites. The request times out, and Storport
//!   calls HwResetBus.
//! - If Storport never starts a request, the value that HwBuildIo made for it is forgotten,
//!   not dropped. The driver must free what that value owns by other means, for example at a
//!   reset.
//!
//! A request is in one of two states. A [`Fresh`] request was not given to the device. It may
//! be completed as BUSY ([`Srb::busy`]), and its data may be accessed. Before the miniport
//! gives the request to the device, it makes it a [`StartedSrb`], which allows neither
//! (storport-rules.md S5). The types do not ensure that the miniport does this before the device
//! gets the request. A miniport that stores every request in flight as a `StartedSrb` does.
//!
//! An SRB has one of two layouts, SCSI_REQUEST_BLOCK and STORAGE_REQUEST_BLOCK
//! (storport-rules.md STORAGE_REQUEST_BLOCK). Only this module accesses them.
#![expect(unsafe_code, reason = "SRBs are Storport's structures")]

use core::{fmt, marker::PhantomData, ptr::NonNull, slice};

use wdk_sys::{
    _SRBEXDATATYPE, PSCSI_REQUEST_BLOCK, SCSI_PNP_REQUEST_BLOCK, SCSI_REQUEST_BLOCK, SRBEX_DATA,
    SRBEX_DATA_PNP, SRBEX_DATA_SCSI_CDB16, SRBEX_DATA_SCSI_CDB32, STOR_ADDR_BTL8,
    STOR_SCATTER_GATHER_ELEMENT, STOR_SCATTER_GATHER_LIST, STORAGE_REQUEST_BLOCK,
};

use crate::{
    data::{Bytes, DataError},
    extension::{Brand, Header},
    port,
    status::StorStatus,
};

/// The maximum length of a CDB: that of an SRBEX_DATA_SCSI_CDB32.
const LONGEST_CDB: usize = 32;

/// The address of a request's logical unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The bus.
    pub path: u8,
    /// The target on the bus.
    pub target: u8,
    /// The logical unit of the target.
    pub lun: u8,
}

/// The direction of a request's data (SRB_FLAGS_DATA_IN, SRB_FLAGS_DATA_OUT).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// There is no data.
    None,
    /// To the initiator: a Data-In Buffer.
    In,
    /// From the initiator: a Data-Out Buffer.
    Out,
    /// Both flags are set, and the CDB decides (SRB_FLAGS_UNSPECIFIED_DIRECTION).
    Unspecified,
}

impl Direction {
    /// Whether an SRB of this direction allows data in the direction `data`. Every SRB allows
    /// [`Direction::None`].
    #[inline]
    #[must_use]
    pub fn allows(self, data: Self) -> bool {
        data == Self::None || self == Self::Unspecified || self == data
    }
}

/// The function of an SRB (`SRB_FUNCTION_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// Execute a CDB on a logical unit.
    ExecuteScsi,
    /// A Plug and Play action.
    Pnp {
        /// The action.
        action: PnpAction,
        /// Its target: the adapter (`SRB_PNP_FLAGS_ADAPTER_REQUEST`) or a logical unit.
        of: PnpTarget,
    },
    /// A power action.
    Power,
    /// Write cached data to the medium.
    Flush,
    /// Write cached data to the medium before the system shuts down.
    Shutdown,
    /// Reset a bus.
    ResetBus,
    /// Reset a target.
    ResetDevice,
    /// Reset a logical unit.
    ResetLogicalUnit,
    /// Anything else, by its number.
    Other(u32),
}

/// A Plug and Play action (`STOR_PNP_ACTION`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PnpAction {
    /// The device is removed: free the memory that was allocated for it.
    Remove,
    /// The device is stopped, and will be found again with other resources (StorStopDevice):
    /// free the memory that was allocated for it.
    Rebalance,
    /// The device was removed without notice.
    SurpriseRemoval,
    /// Anything else, by its number.
    Other(i32),
}

/// The target of a Plug and Play action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PnpTarget {
    /// The adapter.
    Adapter,
    /// A logical unit.
    Unit,
}

/// Why a request failed: a final status other than success (`SRB_STATUS_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The request is not supported.
    InvalidRequest,
    /// No such bus.
    InvalidPathId,
    /// No such target.
    InvalidTargetId,
    /// No such logical unit.
    InvalidLun,
    /// The device is gone.
    NoDevice,
    /// The adapter does not work.
    NoHba,
    /// The bus was reset while the device had the request.
    BusReset,
    /// The request was aborted.
    Aborted,
    /// Another error occurred.
    Error,
}

impl Failure {
    fn status(self) -> u8 {
        let status = match self {
            Self::InvalidRequest => wdk_sys::SRB_STATUS_INVALID_REQUEST,
            Self::InvalidPathId => wdk_sys::SRB_STATUS_INVALID_PATH_ID,
            Self::InvalidTargetId => wdk_sys::SRB_STATUS_INVALID_TARGET_ID,
            Self::InvalidLun => wdk_sys::SRB_STATUS_INVALID_LUN,
            Self::NoDevice => wdk_sys::SRB_STATUS_NO_DEVICE,
            Self::NoHba => wdk_sys::SRB_STATUS_NO_HBA,
            Self::BusReset => wdk_sys::SRB_STATUS_BUS_RESET,
            Self::Aborted => wdk_sys::SRB_STATUS_ABORTED,
            Self::Error => wdk_sys::SRB_STATUS_ERROR,
        };
        status as u8
    }
}

/// The state of a request that was not given to the device.
#[derive(Debug)]
pub enum Fresh {}

/// The state of a request that was given to the device.
#[derive(Debug)]
pub enum Started {}

/// A state in which the request was not given to the device.
#[diagnostic::on_unimplemented(
    message = "this request was started, so the device may be using it",
    label = "a started request may not be completed as BUSY, and its data may not be accessed \
             (storport-rules.md S5)",
    note = "do this before `Srb::started`; complete a started request by `succeed`, \
            `check_condition` or `fail`"
)]
pub trait NotStarted {}

#[diagnostic::do_not_recommend]
impl NotStarted for Fresh {}

/// A request that Storport passed to the miniport. `S` is its state: [`Fresh`] or [`Started`].
///
/// # Invariants
///
/// - `block` is an SRB that Storport gave to the miniport of `adapter`, and that is not
///   completed. No other `Srb` has it, so nothing else writes to it. Its memory, its
///   extension, its sense buffer and its scatter/gather list stay valid until it is completed,
///   which consumes this value.
/// - If it is a STORAGE_REQUEST_BLOCK, its address and the offsets of its extended data lie
///   inside it. `Srb::accept` has checked that.
#[must_use = "an SRB must be completed, or stored while the device has it"]
pub struct Srb<'adapter, S = Fresh> {
    block: NonNull<SCSI_REQUEST_BLOCK>,
    adapter: &'adapter Header,
    brand: Brand<'adapter>,
    state: PhantomData<fn() -> S>,
}

/// A request that was given to the device.
pub type StartedSrb<'adapter> = Srb<'adapter, Started>;

// SAFETY: `Srb`'s invariant: the SRB is owned by this value, on whichever thread it is.
unsafe impl<S> Send for Srb<'_, S> {}

/// The two layouts of an SRB. These are pointers and not references, because extended data lies
/// behind the block, and a reference to the block must not be used to access it.
enum Shape {
    Scsi(NonNull<SCSI_REQUEST_BLOCK>),
    Storage(NonNull<STORAGE_REQUEST_BLOCK>),
}

/// Pointers to the fields of a SCSI request, for both layouts.
struct ScsiParts {
    scsi_status: *mut u8,
    sense: *mut u8,
    sense_length: *mut u8,
    cdb: *const u8,
    cdb_length: usize,
}

impl<'a> Srb<'a> {
    /// Takes over an SRB that Storport passes to HwBuildIo or HwStartIo. If the SRB is
    /// inconsistent, completes it as SRB_STATUS_INVALID_REQUEST and returns `None`.
    ///
    /// # Safety
    /// `block` was just passed to HwBuildIo or HwStartIo of `adapter`.
    #[inline]
    pub(crate) unsafe fn accept(
        adapter: &'a Header,
        block: NonNull<SCSI_REQUEST_BLOCK>,
    ) -> Option<Self> {
        // SAFETY: The caller's promise: the SRB is owned. The second of `Srb`'s invariants is
        // checked below, before anything relies on it.
        let srb = unsafe { Self::new(adapter, block) };
        let valid = match srb.shape() {
            Shape::Scsi(_) => true,
            Shape::Storage(block) => is_consistent(block),
        };
        if valid {
            return Some(srb);
        }
        srb.finish(wdk_sys::SRB_STATUS_INVALID_REQUEST as u8);
        None
    }

    /// Marks the request as started. Call this before the device gets the request. From then on
    /// it cannot be completed as BUSY.
    #[inline]
    pub fn started(self) -> StartedSrb<'a> {
        let (adapter, block) = (self.adapter, self.into_block());
        // SAFETY: `Srb`'s invariants pass to the new value.
        unsafe { Srb::new(adapter, block) }
    }
}

impl<'a, S> Srb<'a, S> {
    /// Makes a value that owns the SRB.
    ///
    /// # Safety
    /// `Srb`'s invariants hold for the new value.
    #[inline]
    pub(crate) unsafe fn new(adapter: &'a Header, block: NonNull<SCSI_REQUEST_BLOCK>) -> Self {
        Self {
            block,
            adapter,
            brand: PhantomData,
            state: PhantomData,
        }
    }

    #[inline]
    pub(crate) fn as_ptr(&self) -> PSCSI_REQUEST_BLOCK {
        self.block.as_ptr()
    }

    /// Returns the SRB without completing it.
    #[inline]
    pub(crate) fn into_block(self) -> NonNull<SCSI_REQUEST_BLOCK> {
        core::mem::ManuallyDrop::new(self).block
    }

    #[inline]
    fn shape(&self) -> Shape {
        // SAFETY: `Srb`'s invariant: the SRB is owned. Both layouts have the field at the same
        // offset.
        let function = unsafe { (*self.block.as_ptr()).Function };
        if u32::from(function) == wdk_sys::SRB_FUNCTION_STORAGE_REQUEST_BLOCK {
            Shape::Storage(self.block.cast())
        } else {
            Shape::Scsi(self.block)
        }
    }

    /// Reads the block itself. Nothing writes to it meanwhile, because every method that writes
    /// takes the SRB by value or by `&mut`.
    #[inline]
    fn read<R>(
        &self,
        scsi: impl FnOnce(&SCSI_REQUEST_BLOCK) -> R,
        storage: impl FnOnce(&STORAGE_REQUEST_BLOCK) -> R,
    ) -> R {
        match self.shape() {
            // SAFETY: `Srb`'s invariant: the SRB is owned. It has this layout.
            Shape::Scsi(block) => scsi(unsafe { block.as_ref() }),
            // SAFETY: As above.
            Shape::Storage(block) => storage(unsafe { block.as_ref() }),
        }
    }

    /// The function of the request.
    #[must_use]
    #[inline]
    pub fn function(&self) -> Function {
        let number = self.read(|block| block.Function.into(), |block| block.SrbFunction);
        match (number, self.shape()) {
            (wdk_sys::SRB_FUNCTION_PNP, Shape::Scsi(block)) => {
                let pnp: NonNull<SCSI_PNP_REQUEST_BLOCK> = block.cast();
                // SAFETY: `Srb`'s invariant: the SRB is owned. With this Function the block is a
                // SCSI_PNP_REQUEST_BLOCK, which has the same size (`storport.h`).
                let pnp = unsafe { pnp.as_ref() };
                pnp_function(pnp.PnPAction, pnp.SrbPnPFlags)
            }
            (wdk_sys::SRB_FUNCTION_PNP, Shape::Storage(block)) => {
                let data = extended(block, |kind| {
                    let is_pnp = kind == _SRBEXDATATYPE::SrbExDataTypePnP;
                    is_pnp.then_some(size_of::<SRBEX_DATA_PNP>())
                });
                data.map_or(Function::Other(number), |data| {
                    let pnp: NonNull<SRBEX_DATA_PNP> = data.cast();
                    // SAFETY: `extended` checked that data of this type lies inside the SRB,
                    // which is owned (`Srb`'s invariant).
                    let pnp = unsafe { pnp.as_ref() };
                    pnp_function(pnp.PnPAction, pnp.SrbPnPFlags)
                })
            }
            _ => plain_function(number),
        }
    }

    /// The address of the request's logical unit.
    #[must_use]
    #[inline]
    pub fn address(&self) -> Address {
        self.read(
            |block| Address {
                path: block.PathId,
                target: block.TargetId,
                lun: block.Lun,
            },
            |block| {
                let offset = usize::try_from(block.AddressOffset).unwrap_or(0);
                let start: *const u8 = self.block.as_ptr().cast();
                let address: *const STOR_ADDR_BTL8 = start.wrapping_add(offset).cast();
                // SAFETY: `Srb`'s invariant: the address lies inside the block, aligned. It is a
                // BTL8 address, the only type that `register` asks for
                // (storport-rules.md STORAGE_REQUEST_BLOCK).
                let address = unsafe { &*address };
                Address {
                    path: address.Path,
                    target: address.Target,
                    lun: address.Lun,
                }
            },
        )
    }

    /// The direction of the data, from the SRB's flags.
    #[must_use]
    #[inline]
    pub fn direction(&self) -> Direction {
        let flags = self.read(|block| block.SrbFlags, |block| block.SrbFlags);
        let has = |flag| flags & flag != 0;
        match (
            has(wdk_sys::SRB_FLAGS_DATA_IN),
            has(wdk_sys::SRB_FLAGS_DATA_OUT),
        ) {
            (false, false) => Direction::None,
            (true, false) => Direction::In,
            (false, true) => Direction::Out,
            (true, true) => Direction::Unspecified,
        }
    }

    /// Maps the data for accesses in the direction `wanted`.
    ///
    /// # Safety
    /// At or below DISPATCH_LEVEL, or in a dump stack.
    pub(crate) unsafe fn map<'s>(
        &'s mut self,
        adapter: &Header,
        wanted: Direction,
    ) -> Result<Bytes<'s>, DataError> {
        let length = match self.direction() {
            Direction::None => 0,
            direction if direction.allows(wanted) => self.data_length(),
            direction => return Err(DataError::Direction(direction)),
        };
        let length = usize::try_from(length).unwrap_or(0);
        let first = if length == 0 {
            NonNull::dangling()
        } else if adapter.state.is_dump() {
            // A dump stack runs above DISPATCH_LEVEL (storport-rules.md D2), and has mapped the
            // data already.
            let buffer = self.read(|block| block.DataBuffer, |block| block.DataBuffer);
            NonNull::new(buffer.cast()).ok_or(DataError::NotMapped(StorStatus::NOT_IMPLEMENTED))?
        } else {
            let mut address: wdk_sys::PVOID = core::ptr::null_mut();
            // SAFETY: The caller's promise, and `Srb`'s invariant: the SRB is the miniport's.
            // `address` outlives the call.
            unsafe { port::get_system_address(adapter, self.as_ptr(), &raw mut address) }
                .map_err(DataError::NotMapped)?;
            NonNull::new(address.cast()).ok_or(DataError::NotMapped(StorStatus::UNSUCCESSFUL))?
        };
        // SAFETY: `Bytes`' invariants: Storport maps as many bytes as the SRB's
        // DataTransferLength, until the SRB is completed. The SRB is borrowed for `'s`.
        Ok(unsafe { Bytes::new(first, length) })
    }

    /// The length of the data in bytes: DataTransferLength.
    #[must_use]
    #[inline]
    pub fn data_length(&self) -> u32 {
        self.read(
            |block| block.DataTransferLength,
            |block| block.DataTransferLength,
        )
    }

    /// The CDB. Empty if the SRB has none.
    #[must_use]
    #[inline]
    pub fn cdb(&self) -> &[u8] {
        let Some(parts) = scsi_parts(self.shape()) else {
            return &[];
        };
        // SAFETY: `Srb`'s invariant: the CDB lies in the SRB, which is owned, and no method
        // writes to it. `scsi_parts` limited `cdb_length` to the length of the array.
        unsafe { slice::from_raw_parts(parts.cdb, parts.cdb_length) }
    }

    /// Completes the request as BUSY. Storport calls HwBuildIo and HwStartIo for it again later,
    /// without limit (storport-rules.md S5). A [`StartedSrb`] does not have this method, because
    /// the device may still write to the data of a request that it was given.
    pub fn busy(self)
    where
        S: NotStarted,
    {
        self.finish(wdk_sys::SRB_STATUS_BUSY as u8);
    }

    /// Completes the request with success. `transferred` is the number of bytes of data that
    /// were transferred. If they are fewer than the SRB's data, the status is
    /// SRB_STATUS_DATA_OVERRUN, with that length (storport-rules.md S9).
    #[inline]
    pub fn succeed(mut self, transferred: u32) {
        let asked = self.data_length();
        let status = if transferred < asked {
            self.set_data_length(transferred);
            wdk_sys::SRB_STATUS_DATA_OVERRUN
        } else {
            wdk_sys::SRB_STATUS_SUCCESS
        };
        self.set_scsi_status(wdk_sys::SCSISTAT_GOOD as u8);
        self.finish(status as u8);
    }

    /// Completes a request that is not a SCSI command with success (SRB_STATUS_SUCCESS). Its data
    /// stays as it is. A request of PnP may have data that Storport has filled in already
    /// (StorQueryCapabilities).
    pub fn succeed_control(self) {
        self.finish(wdk_sys::SRB_STATUS_SUCCESS as u8);
    }

    /// Completes the request with CHECK CONDITION, and as much of the sense data `sense` as fits
    /// its sense buffer. No data was transferred.
    pub fn check_condition(mut self, sense: &[u8]) {
        self.set_data_length(0);
        self.set_scsi_status(wdk_sys::SCSISTAT_CHECK_CONDITION as u8);
        let mut status = wdk_sys::SRB_STATUS_ERROR as u8;
        if self.write_sense(sense) {
            status |= wdk_sys::SRB_STATUS_AUTOSENSE_VALID as u8;
        }
        self.finish(status);
    }

    /// Completes the request as failed. No data was transferred.
    pub fn fail(mut self, failure: Failure) {
        self.set_data_length(0);
        self.finish(failure.status());
    }

    #[inline]
    fn finish(self, status: u8) {
        match self.shape() {
            // SAFETY: `Srb`'s invariant: the SRB is owned. It has this layout.
            Shape::Scsi(block) => unsafe { (*block.as_ptr()).SrbStatus = status },
            // SAFETY: As above.
            Shape::Storage(block) => unsafe { (*block.as_ptr()).SrbStatus = status },
        }
        let adapter = self.adapter;
        let block = self.into_block();
        // SAFETY: `Srb`'s invariant: the SRB is owned. It is not accessed again, and its status
        // is final.
        unsafe { port::request_complete(adapter, block.as_ptr()) };
    }

    #[inline]
    fn set_data_length(&mut self, bytes: u32) {
        match self.shape() {
            // SAFETY: `Srb`'s invariant: the SRB is owned. It has this layout.
            Shape::Scsi(block) => unsafe { (*block.as_ptr()).DataTransferLength = bytes },
            // SAFETY: As above.
            Shape::Storage(block) => unsafe { (*block.as_ptr()).DataTransferLength = bytes },
        }
    }

    #[inline]
    fn set_scsi_status(&mut self, status: u8) {
        if let Some(parts) = scsi_parts(self.shape()) {
            // SAFETY: `Srb`'s invariant: the field lies in the SRB, which is owned.
            unsafe { parts.scsi_status.write(status) };
        }
    }

    /// Writes sense data into the SRB's sense buffer. Returns whether it wrote any.
    fn write_sense(&mut self, sense: &[u8]) -> bool {
        let Some(parts) = scsi_parts(self.shape()) else {
            return false;
        };
        // SAFETY: `Srb`'s invariant: the field lies in the SRB, which is owned.
        let room = unsafe { parts.sense_length.read() };
        let length = sense.len().min(usize::from(room));
        let (Ok(written), false) = (u8::try_from(length), length == 0 || parts.sense.is_null())
        else {
            return false;
        };
        // SAFETY: `Srb`'s invariant: the sense buffer belongs to the SRB and has `room` bytes, so
        // it does not overlap the caller's slice.
        unsafe { core::ptr::copy_nonoverlapping(sense.as_ptr(), parts.sense, length) };
        // SAFETY: `Srb`'s invariant: the field lies in the SRB, which is owned.
        unsafe { parts.sense_length.write(written) };
        true
    }

    /// The SRB extension: the field `SrbExtension` or `MiniportContext`.
    #[inline]
    pub(crate) fn extension(&self) -> *mut u8 {
        self.read(|block| block.SrbExtension, |block| block.MiniportContext)
            .cast()
    }
}

impl<S> Drop for Srb<'_, S> {
    fn drop(&mut self) {
        // SAFETY: `Srb`'s invariants pass to the new value. This one is not used again.
        let srb = unsafe { Self::new(self.adapter, self.block) };
        srb.fail(Failure::Error);
    }
}

#[inline]
fn plain_function(number: u32) -> Function {
    match number {
        wdk_sys::SRB_FUNCTION_EXECUTE_SCSI => Function::ExecuteScsi,
        wdk_sys::SRB_FUNCTION_POWER => Function::Power,
        wdk_sys::SRB_FUNCTION_FLUSH => Function::Flush,
        wdk_sys::SRB_FUNCTION_SHUTDOWN => Function::Shutdown,
        wdk_sys::SRB_FUNCTION_RESET_BUS => Function::ResetBus,
        wdk_sys::SRB_FUNCTION_RESET_DEVICE => Function::ResetDevice,
        wdk_sys::SRB_FUNCTION_RESET_LOGICAL_UNIT => Function::ResetLogicalUnit,
        other => Function::Other(other),
    }
}

fn pnp_function(action: wdk_sys::STOR_PNP_ACTION::Type, flags: u32) -> Function {
    Function::Pnp {
        action: match action {
            wdk_sys::STOR_PNP_ACTION::StorRemoveDevice => PnpAction::Remove,
            wdk_sys::STOR_PNP_ACTION::StorStopDevice => PnpAction::Rebalance,
            wdk_sys::STOR_PNP_ACTION::StorSurpriseRemoval => PnpAction::SurpriseRemoval,
            other => PnpAction::Other(other),
        },
        of: if flags & wdk_sys::SRB_PNP_FLAGS_ADAPTER_REQUEST == 0 {
            PnpTarget::Unit
        } else {
            PnpTarget::Adapter
        },
    }
}

/// The maximum number of blocks of extended data that this module accepts. SRBs have fewer.
const MOST_EXTENDED: u32 = 8;

/// Whether a STORAGE_REQUEST_BLOCK is consistent: its address and the offsets of its extended
/// data lie inside it, and the address is aligned. [`extended`] checks the extended data
/// itself.
///
/// `block` belongs to an owned SRB.
#[inline]
fn is_consistent(block: NonNull<STORAGE_REQUEST_BLOCK>) -> bool {
    const HEAD: u64 = core::mem::offset_of!(STORAGE_REQUEST_BLOCK, SrbExDataOffset) as u64;
    const OFFSET: u64 = size_of::<u32>() as u64;
    const ADDRESS: u64 = size_of::<STOR_ADDR_BTL8>() as u64;

    // SAFETY: `Srb`'s invariant: the SRB is owned. It has this layout.
    let block = unsafe { block.as_ref() };
    // A sum or a product of 32-bit numbers does not overflow 64 bits.
    let length = u64::from(block.SrbLength);
    let offsets = u64::from(block.NumSrbExData).wrapping_mul(OFFSET);
    let address = u64::from(block.AddressOffset);
    block.NumSrbExData <= MOST_EXTENDED
        && HEAD.wrapping_add(offsets) <= length
        && address >= HEAD
        && address.is_multiple_of(OFFSET)
        && address.wrapping_add(ADDRESS) <= length
}

/// Returns the first extended data of a STORAGE_REQUEST_BLOCK that has a type for which `length`
/// returns the minimum length in bytes, and that lies inside the SRB.
///
/// `block` belongs to an `Srb`.
#[inline]
fn extended(
    block: NonNull<STORAGE_REQUEST_BLOCK>,
    length: impl Fn(wdk_sys::SRBEXDATATYPE) -> Option<usize>,
) -> Option<NonNull<u8>> {
    // SAFETY: `Srb`'s invariant: the SRB is owned. It has this layout.
    let count = unsafe { (*block.as_ptr()).NumSrbExData }.min(MOST_EXTENDED);
    (0..count).find_map(|index| extended_at(block, index, &length))
}

/// As [`extended`], for the extended data number `index` only.
#[inline]
fn extended_at(
    block: NonNull<STORAGE_REQUEST_BLOCK>,
    index: u32,
    length: impl Fn(wdk_sys::SRBEXDATATYPE) -> Option<usize>,
) -> Option<NonNull<u8>> {
    const BEGIN: usize = size_of::<STORAGE_REQUEST_BLOCK>();

    let start: NonNull<u8> = block.cast();
    let block = block.as_ptr();
    // SAFETY: `Srb`'s invariant: the SRB is owned. It has this layout.
    let total = usize::try_from(unsafe { (*block).SrbLength }).ok()?;
    // SAFETY: As above. This only takes an address.
    let offsets: *const u32 = unsafe { &raw const (*block).SrbExDataOffset }.cast();
    // SAFETY: `Srb`'s invariant: the offsets lie inside the block.
    let offset = unsafe { offsets.wrapping_add(usize::try_from(index).ok()?).read() };
    let offset = usize::try_from(offset).ok()?;
    // Extended data begins behind the block's fixed part, and is aligned for the pointers that
    // it contains.
    let head = offset.checked_add(size_of::<SRBEX_DATA>())?;
    if offset < BEGIN.min(total)
        || !offset.is_multiple_of(align_of::<SRBEX_DATA_SCSI_CDB16>())
        || head > total
    {
        return None;
    }
    let data: *mut SRBEX_DATA = start.as_ptr().wrapping_add(offset).cast();
    // SAFETY: The head of the extended data lies inside SrbLength, as checked above.
    let length = length(unsafe { (*data).Type })?;
    (length <= total.wrapping_sub(offset)).then_some(NonNull::new(data.cast())?)
}

/// The minimum length in bytes of extended data that contains a CDB. `None` for other types.
#[inline]
fn cdb_data(kind: wdk_sys::SRBEXDATATYPE) -> Option<usize> {
    match kind {
        _SRBEXDATATYPE::SrbExDataTypeScsiCdb16 => Some(size_of::<SRBEX_DATA_SCSI_CDB16>()),
        _SRBEXDATATYPE::SrbExDataTypeScsiCdb32 => Some(size_of::<SRBEX_DATA_SCSI_CDB32>()),
        _ => None,
    }
}

#[inline]
fn scsi_parts(shape: Shape) -> Option<ScsiParts> {
    match shape {
        Shape::Scsi(block) => {
            let all = block.as_ptr();
            // SAFETY: `Srb`'s invariant: the SRB is owned. It has this layout.
            let block = unsafe { block.as_ref() };
            Some(ScsiParts {
                // SAFETY: As above; this takes an address.
                scsi_status: unsafe { &raw mut (*all).ScsiStatus },
                sense: block.SenseInfoBuffer.cast(),
                // SAFETY: As above.
                sense_length: unsafe { &raw mut (*all).SenseInfoBufferLength },
                cdb_length: usize::from(block.CdbLength).min(block.Cdb.len()),
                // SAFETY: As above.
                cdb: unsafe { &raw const (*all).Cdb }.cast(),
            })
        }
        Shape::Storage(block) => {
            let data: NonNull<SRBEX_DATA_SCSI_CDB16> = extended(block, cdb_data)?.cast();
            let all = data.as_ptr();
            // SAFETY: `extended` checked that the data lies inside the SRB. Both types have the
            // same fields up to the CDB, whose length differs (`storport.h`).
            let data = unsafe { data.as_ref() };
            let longest = match data.Type {
                _SRBEXDATATYPE::SrbExDataTypeScsiCdb16 => 16,
                _ => LONGEST_CDB,
            };
            Some(ScsiParts {
                // SAFETY: As above; this takes an address.
                scsi_status: unsafe { &raw mut (*all).ScsiStatus },
                sense: data.SenseInfoBuffer.cast(),
                // SAFETY: As above.
                sense_length: unsafe { &raw mut (*all).SenseInfoBufferLength },
                cdb_length: usize::from(data.CdbLength).min(longest),
                // SAFETY: As above. The CDB of the longer type continues behind it.
                cdb: unsafe { &raw const (*all).Cdb }.cast(),
            })
        }
    }
}

/// An element of a scatter/gather list: a physically contiguous piece of a request's data
/// (STOR_SCATTER_GATHER_ELEMENT).
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Element(STOR_SCATTER_GATHER_ELEMENT);

impl Element {
    /// Its physical address.
    #[inline]
    #[must_use]
    pub fn address(&self) -> u64 {
        // SAFETY: Every bit pattern is an integer.
        let address = unsafe { self.0.PhysicalAddress.QuadPart };
        address.cast_unsigned()
    }

    /// Its length in bytes.
    #[inline]
    #[must_use]
    pub fn length(&self) -> u32 {
        self.0.Length
    }
}

impl fmt::Debug for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Element")
            .field("address", &self.address())
            .field("length", &self.length())
            .finish()
    }
}

/// The scatter/gather list of a request's data (STOR_SCATTER_GATHER_LIST).
#[derive(Clone, Copy, Debug)]
pub struct ScatterGather<'s> {
    elements: &'s [Element],
}

impl<'s> ScatterGather<'s> {
    /// # Safety
    /// `list` is a list of Storport that is not changed or freed for `'s`.
    #[inline]
    pub(crate) unsafe fn new(list: NonNull<STOR_SCATTER_GATHER_LIST>) -> Self {
        let list = list.as_ptr();
        // SAFETY: The caller's promise.
        let count = unsafe { (*list).NumberOfElements };
        // SAFETY: The caller's promise: the elements follow the head. This only takes their
        // address.
        let first = unsafe { (&raw const (*list).List).cast::<Element>() };
        // SAFETY: The caller's promise: there are NumberOfElements elements. An `Element` has the
        // layout of one.
        let elements = unsafe { slice::from_raw_parts(first, count as usize) };
        Self { elements }
    }

    /// The elements, in the order of the data.
    #[inline]
    #[must_use]
    pub fn elements(&self) -> &'s [Element] {
        self.elements
    }
}
