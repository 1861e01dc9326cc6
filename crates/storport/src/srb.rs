//! An SRB as a value that must be completed.
//!
//! The [`Srb`] value owns the request. Completing it consumes the value; while the
//! request is in flight, the driver stores the value. So a request is
//! completed at most once, and never touched afterwards (storport-rules.md S1 to S3).
//! It cannot be completed as pending.
//!
//! Requests that the driver does not complete:
//!
//! - An `Srb` that is dropped is completed as an error. That is a bug in the
//!   driver, but the request is not lost.
//! - An `Srb` that is forgotten is never completed: by `mem::forget`, in a
//!   `ManuallyDrop`, or in an adapter's state when HwFindAdapter overwrites it.
//!   Storport's time-out finds the request, and HwResetBus follows.
//! - The value that HwBuildIo makes for a request is forgotten, not dropped, if
//!   Storport never starts the request. The driver must find what that value owns
//!   by other means, at a reset for example.
//!
//! A request is in one of two states. The device has not seen a [`Fresh`] one:
//! it may be completed as BUSY ([`Srb::busy`]), and its data may be accessed.
//! Before the device gets it, the miniport makes it a [`StartedSrb`], which allows
//! neither (storport-rules.md S5). Types cannot check that the miniport does this in
//! time. A driver that stores its requests in flight as `StartedSrb`s cannot get it
//! wrong.
//!
//! Only this module reads the two shapes of an SRB: SCSI_REQUEST_BLOCK and
//! STORAGE_REQUEST_BLOCK (storport-rules.md STORAGE_REQUEST_BLOCK).
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

/// The longest CDB that is read: that of an SRBEX_DATA_SCSI_CDB32.
const LONGEST_CDB: usize = 32;

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The bus.
    pub path: u8,
    /// The target on it.
    pub target: u8,
    /// The logical unit of that.
    pub lun: u8,
}

/// Where a request's data goes (SRB_FLAGS_DATA_IN, SRB_FLAGS_DATA_OUT).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// There is no data.
    None,
    /// To the initiator: a Data-In Buffer.
    In,
    /// From the initiator: a Data-Out Buffer.
    Out,
    /// Both flags are set: the CDB decides (SRB_FLAGS_UNSPECIFIED_DIRECTION).
    Unspecified,
}

impl Direction {
    /// Whether an SRB of this direction may carry data that goes in the
    /// direction `data`. An SRB without data goes with any.
    #[inline]
    #[must_use]
    pub fn allows(self, data: Self) -> bool {
        data == Self::None || self == Self::Unspecified || self == data
    }
}

/// What an SRB asks for (`SRB_FUNCTION_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// A CDB for a logical unit.
    ExecuteScsi,
    /// A Plug and Play action, and whom it concerns.
    Pnp {
        /// What happens.
        action: PnpAction,
        /// The adapter (`SRB_PNP_FLAGS_ADAPTER_REQUEST`), or a unit.
        of: PnpTarget,
    },
    /// A power action.
    Power,
    /// Write cached data to the medium.
    Flush,
    /// The system goes down: as flush.
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
    /// The device is removed in an orderly way: free what was allocated for it.
    Remove,
    /// The device is stopped, to be found again with other resources
    /// (StorStopDevice): free what was allocated for it.
    Rebalance,
    /// The device is gone already.
    SurpriseRemoval,
    /// Anything else, by its number.
    Other(i32),
}

/// Whom a Plug and Play action concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PnpTarget {
    /// The adapter.
    Adapter,
    /// A logical unit.
    Unit,
}

/// The final states of a request that are not success (`SRB_STATUS_*`).
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
    /// The request was given up.
    Aborted,
    /// Anything else went wrong.
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

/// The device has not seen the request.
#[derive(Debug)]
pub enum Fresh {}

/// The device has, or had, the request.
#[derive(Debug)]
pub enum Started {}

/// The device has not seen the request, as its state says.
#[diagnostic::on_unimplemented(
    message = "the device has this request, or had it",
    label = "a request that was started can't be sent back to wait, and its data is the device's \
             (storport-rules.md S5)",
    note = "do this before `Srb::started`; what was started ends by `succeed`, `check_condition` \
            or `fail`"
)]
pub trait NotStarted {}

#[diagnostic::do_not_recommend]
impl NotStarted for Fresh {}

/// A request that Storport gave to the miniport, in state `S`.
///
/// # Invariants
///
/// - `block` is an SRB that Storport gave to the miniport of `adapter` and that
///   is not completed. No other `Srb` names it, so nobody else writes to it.
///   Its memory, its extension, its sense buffer and its scatter/gather list
///   stay valid until it is completed, which consumes this value.
/// - If it is a STORAGE_REQUEST_BLOCK, `Srb::accept` found its address and the
///   offsets of its extended data inside it.
#[must_use = "an SRB must be completed, or stored while the device has it"]
pub struct Srb<'adapter, S = Fresh> {
    block: NonNull<SCSI_REQUEST_BLOCK>,
    adapter: &'adapter Header,
    brand: Brand<'adapter>,
    state: PhantomData<fn() -> S>,
}

/// A request that the device has, or had.
pub type StartedSrb<'adapter> = Srb<'adapter, Started>;

// SAFETY: an SRB belongs to its request, not to a thread.
unsafe impl<S> Send for Srb<'_, S> {}

/// The two shapes of an SRB. They hold pointers, because parts of a request also lie
/// behind its block, where a reference to the block may not reach.
enum Shape {
    Scsi(NonNull<SCSI_REQUEST_BLOCK>),
    Storage(NonNull<STORAGE_REQUEST_BLOCK>),
}

/// Where a SCSI request's parts lie, whichever shape it has.
struct ScsiParts {
    scsi_status: *mut u8,
    sense: *mut u8,
    sense_length: *mut u8,
    cdb: *const u8,
    cdb_length: usize,
}

impl<'a> Srb<'a> {
    /// Marks the request as started, before the device gets it. From here on it can't
    /// be completed as BUSY.
    #[inline]
    pub fn started(self) -> StartedSrb<'a> {
        let (adapter, block) = (self.adapter, self.into_block());
        // SAFETY: `Srb`'s invariants pass to the new value.
        unsafe { Srb::new(adapter, block) }
    }
}

impl<'a> Srb<'a> {
    /// Takes over an SRB that Storport passes to HwBuildIo or HwStartIo. One that is
    /// inconsistent is completed as SRB_STATUS_INVALID_REQUEST.
    ///
    /// # Safety
    /// `block` was just passed to HwBuildIo or HwStartIo of `adapter`.
    #[inline]
    pub(crate) unsafe fn accept(
        adapter: &'a Header,
        block: NonNull<SCSI_REQUEST_BLOCK>,
    ) -> Option<Self> {
        // SAFETY: The caller's promise.
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
}

impl<'a, S> Srb<'a, S> {
    /// Takes an SRB over.
    ///
    /// # Safety
    /// The invariants hold for the new value.
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

    /// Gives the SRB back without completing it.
    #[inline]
    pub(crate) fn into_block(self) -> NonNull<SCSI_REQUEST_BLOCK> {
        core::mem::ManuallyDrop::new(self).block
    }

    #[inline]
    fn shape(&self) -> Shape {
        // SAFETY: `Srb`'s invariant: the SRB is owned; both shapes have the field.
        let function = unsafe { (*self.block.as_ptr()).Function };
        if u32::from(function) == wdk_sys::SRB_FUNCTION_STORAGE_REQUEST_BLOCK {
            Shape::Storage(self.block.cast())
        } else {
            Shape::Scsi(self.block)
        }
    }

    /// Reads the block itself. Nothing writes to it meanwhile: every method that writes
    /// takes the SRB by value or by `&mut`.
    #[inline]
    fn read<R>(
        &self,
        scsi: impl FnOnce(&SCSI_REQUEST_BLOCK) -> R,
        storage: impl FnOnce(&STORAGE_REQUEST_BLOCK) -> R,
    ) -> R {
        match self.shape() {
            // SAFETY: `Srb`'s invariant: the SRB is owned; it has this shape.
            Shape::Scsi(block) => scsi(unsafe { block.as_ref() }),
            // SAFETY: As above.
            Shape::Storage(block) => storage(unsafe { block.as_ref() }),
        }
    }

    /// What is asked for.
    #[must_use]
    #[inline]
    pub fn function(&self) -> Function {
        let number = self.read(|block| block.Function.into(), |block| block.SrbFunction);
        match (number, self.shape()) {
            (wdk_sys::SRB_FUNCTION_PNP, Shape::Scsi(block)) => {
                let pnp: NonNull<SCSI_PNP_REQUEST_BLOCK> = block.cast();
                // SAFETY: with this Function the block is a
                // SCSI_PNP_REQUEST_BLOCK, of the same size (`storport.h`).
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
                    // SAFETY: `extended` checked type and length.
                    let pnp = unsafe { pnp.as_ref() };
                    pnp_function(pnp.PnPAction, pnp.SrbPnPFlags)
                })
            }
            _ => plain_function(number),
        }
    }

    /// Where it goes.
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
                // SAFETY: `Srb`'s invariant: the address lies inside the block,
                // aligned. It is a BTL8 address, the one kind that is asked for
                // at registration (storport-rules.md STORAGE_REQUEST_BLOCK).
                let address = unsafe { &*address };
                Address {
                    path: address.Path,
                    target: address.Target,
                    lun: address.Lun,
                }
            },
        )
    }

    /// Where the data goes.
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

    /// Maps the data, which goes in the direction `wanted`.
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
            // A dump stack runs above DISPATCH_LEVEL (storport-rules.md D2) and has
            // the data mapped.
            let buffer = self.read(|block| block.DataBuffer, |block| block.DataBuffer);
            NonNull::new(buffer.cast()).ok_or(DataError::NotMapped(StorStatus::NOT_IMPLEMENTED))?
        } else {
            let mut address: wdk_sys::PVOID = core::ptr::null_mut();
            // SAFETY: The caller's promise; `Srb`'s invariant: the SRB is the
            // miniport's; the result has a place.
            unsafe { port::get_system_address(adapter, self.as_ptr(), &raw mut address) }
                .map_err(DataError::NotMapped)?;
            NonNull::new(address.cast()).ok_or(DataError::NotMapped(StorStatus::UNSUCCESSFUL))?
        };
        // SAFETY: Storport maps as many bytes as the SRB's DataTransferLength,
        // until the SRB is completed, and the SRB is borrowed as long.
        Ok(unsafe { Bytes::new(first, length) })
    }

    /// How many bytes of data belong to it.
    #[must_use]
    #[inline]
    pub fn data_length(&self) -> u32 {
        self.read(
            |block| block.DataTransferLength,
            |block| block.DataTransferLength,
        )
    }

    /// Its CDB; empty if it has none.
    #[must_use]
    #[inline]
    pub fn cdb(&self) -> &[u8] {
        let Some(parts) = scsi_parts(self.shape()) else {
            return &[];
        };
        // SAFETY: The CDB lies in the SRB, `cdb_length` was bounded by the
        // array's; `Srb`'s invariant: it stays, and no method writes it.
        unsafe { slice::from_raw_parts(parts.cdb, parts.cdb_length) }
    }

    /// Completes it as BUSY: Storport calls HwBuildIo and HwStartIo again later,
    /// without limit (storport-rules.md S5). A [`StartedSrb`] does not have this method:
    /// the device may still write into the data of a request that it had.
    pub fn busy(self)
    where
        S: NotStarted,
    {
        self.finish(wdk_sys::SRB_STATUS_BUSY as u8);
    }

    /// Completes it as done. `transferred` is how many bytes of data moved: if
    /// fewer than asked for, Storport is told so (storport-rules.md S9).
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

    /// Completes it with CHECK CONDITION and as much of `sense` as the
    /// request has room for. No data moved.
    pub fn check_condition(mut self, sense: &[u8]) {
        self.set_data_length(0);
        self.set_scsi_status(wdk_sys::SCSISTAT_CHECK_CONDITION as u8);
        let mut status = wdk_sys::SRB_STATUS_ERROR as u8;
        if self.write_sense(sense) {
            status |= wdk_sys::SRB_STATUS_AUTOSENSE_VALID as u8;
        }
        self.finish(status);
    }

    /// Completes it as failed. No data moved.
    pub fn fail(mut self, failure: Failure) {
        self.set_data_length(0);
        self.finish(failure.status());
    }

    #[inline]
    fn finish(self, status: u8) {
        match self.shape() {
            // SAFETY: `Srb`'s invariant: the SRB is owned; it has this shape.
            Shape::Scsi(block) => unsafe { (*block.as_ptr()).SrbStatus = status },
            // SAFETY: As above.
            Shape::Storage(block) => unsafe { (*block.as_ptr()).SrbStatus = status },
        }
        let adapter = self.adapter;
        let block = self.into_block();
        // SAFETY: `Srb`'s invariant: the SRB is owned, and it is given up here;
        // the status is final.
        unsafe { port::request_complete(adapter, block.as_ptr()) };
    }

    #[inline]
    fn set_data_length(&mut self, bytes: u32) {
        match self.shape() {
            // SAFETY: `Srb`'s invariant: the SRB is owned; it has this shape.
            Shape::Scsi(block) => unsafe { (*block.as_ptr()).DataTransferLength = bytes },
            // SAFETY: As above.
            Shape::Storage(block) => unsafe { (*block.as_ptr()).DataTransferLength = bytes },
        }
    }

    #[inline]
    fn set_scsi_status(&mut self, status: u8) {
        if let Some(parts) = scsi_parts(self.shape()) {
            // SAFETY: `Srb`'s invariant: it lies in the SRB, which is owned.
            unsafe { parts.scsi_status.write(status) };
        }
    }

    /// Whether sense data was written.
    fn write_sense(&mut self, sense: &[u8]) -> bool {
        let Some(parts) = scsi_parts(self.shape()) else {
            return false;
        };
        // SAFETY: `Srb`'s invariant: it lies in the SRB, which is owned.
        let room = unsafe { parts.sense_length.read() };
        let length = sense.len().min(usize::from(room));
        let (Ok(written), false) = (u8::try_from(length), length == 0 || parts.sense.is_null())
        else {
            return false;
        };
        // SAFETY: `Srb`'s invariant: the sense buffer is the SRB's, `room` bytes
        // long, and so not the caller's slice.
        unsafe { core::ptr::copy_nonoverlapping(sense.as_ptr(), parts.sense, length) };
        // SAFETY: `Srb`'s invariant: it lies in the SRB, which is owned.
        unsafe { parts.sense_length.write(written) };
        true
    }

    /// The per-request memory: `SrbExtension`, or `MiniportContext`.
    #[inline]
    pub(crate) fn extension(&self) -> *mut u8 {
        self.read(|block| block.SrbExtension, |block| block.MiniportContext)
            .cast()
    }
}

impl<S> Drop for Srb<'_, S> {
    fn drop(&mut self) {
        // SAFETY: This value is not used again: its invariants pass to the new one.
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

/// The most blocks of extended data that an SRB may have here. SRBs have a few.
const MOST_EXTENDED: u32 = 8;

/// Whether a STORAGE_REQUEST_BLOCK is consistent: its address lies inside it and is
/// aligned, and the offsets of its extended data lie inside it. [`extended`] checks
/// what the offsets point to.
///
/// `block` is that of an owned SRB.
#[inline]
fn is_consistent(block: NonNull<STORAGE_REQUEST_BLOCK>) -> bool {
    const HEAD: u64 = core::mem::offset_of!(STORAGE_REQUEST_BLOCK, SrbExDataOffset) as u64;
    const OFFSET: u64 = size_of::<u32>() as u64;
    const ADDRESS: u64 = size_of::<STOR_ADDR_BTL8>() as u64;

    // SAFETY: The SRB is owned and has this shape.
    let block = unsafe { block.as_ref() };
    // No sum or product of 32-bit numbers overflows 64 bits.
    let length = u64::from(block.SrbLength);
    let offsets = u64::from(block.NumSrbExData).wrapping_mul(OFFSET);
    let address = u64::from(block.AddressOffset);
    block.NumSrbExData <= MOST_EXTENDED
        && HEAD.wrapping_add(offsets) <= length
        && address >= HEAD
        && address.is_multiple_of(OFFSET)
        && address.wrapping_add(ADDRESS) <= length
}

/// The extended data of a STORAGE_REQUEST_BLOCK for which `length` returns how many
/// bytes a block of its type has at least. The first such block counts.
///
/// `block` is that of an `Srb`.
#[inline]
fn extended(
    block: NonNull<STORAGE_REQUEST_BLOCK>,
    length: impl Fn(wdk_sys::SRBEXDATATYPE) -> Option<usize>,
) -> Option<NonNull<u8>> {
    // SAFETY: `Srb`'s invariant: the SRB is owned and has this shape.
    let count = unsafe { (*block.as_ptr()).NumSrbExData }.min(MOST_EXTENDED);
    (0..count).find_map(|index| extended_at(block, index, &length))
}

/// Extended data number `index`, likewise.
#[inline]
fn extended_at(
    block: NonNull<STORAGE_REQUEST_BLOCK>,
    index: u32,
    length: impl Fn(wdk_sys::SRBEXDATATYPE) -> Option<usize>,
) -> Option<NonNull<u8>> {
    const BEGIN: usize = size_of::<STORAGE_REQUEST_BLOCK>();

    let start: NonNull<u8> = block.cast();
    let block = block.as_ptr();
    // SAFETY: `Srb`'s invariant: the SRB is owned and has this shape.
    let total = usize::try_from(unsafe { (*block).SrbLength }).ok()?;
    // SAFETY: As above; this takes an address.
    let offsets: *const u32 = unsafe { &raw const (*block).SrbExDataOffset }.cast();
    // SAFETY: `Srb`'s invariant: the offsets lie inside the block.
    let offset = unsafe { offsets.wrapping_add(usize::try_from(index).ok()?).read() };
    let offset = usize::try_from(offset).ok()?;
    // Extended data begins behind the block's fixed part, and is aligned for
    // the pointers in it.
    let head = offset.checked_add(size_of::<SRBEX_DATA>())?;
    if offset < BEGIN.min(total)
        || !offset.is_multiple_of(align_of::<SRBEX_DATA_SCSI_CDB16>())
        || head > total
    {
        return None;
    }
    let data: *mut SRBEX_DATA = start.as_ptr().wrapping_add(offset).cast();
    // SAFETY: SrbLength covers it.
    let length = length(unsafe { (*data).Type })?;
    (length <= total.wrapping_sub(offset)).then_some(NonNull::new(data.cast())?)
}

/// Bytes of extended data that holds a CDB.
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
            // SAFETY: `Srb`'s invariant: the SRB is owned; it has this shape.
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
            // SAFETY: Both kinds begin alike and differ in the CDB's room
            // (`storport.h`); `extended` checked the length.
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
                // SAFETY: As above; of the longer kind there is more behind.
                cdb: unsafe { &raw const (*all).Cdb }.cast(),
            })
        }
    }
}

/// A physically contiguous piece of a request's data, as the device reaches it
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

/// A request's data as the device reaches it (STOR_SCATTER_GATHER_LIST).
#[derive(Clone, Copy, Debug)]
pub struct ScatterGather<'s> {
    elements: &'s [Element],
}

impl<'s> ScatterGather<'s> {
    /// # Safety
    /// `list` is Storport's and is not changed or freed while this lives.
    #[inline]
    pub(crate) unsafe fn new(list: NonNull<STOR_SCATTER_GATHER_LIST>) -> Self {
        let list = list.as_ptr();
        // SAFETY: The caller's promise.
        let count = unsafe { (*list).NumberOfElements };
        // SAFETY: The elements follow the head; this takes their address.
        let first = unsafe { (&raw const (*list).List).cast::<Element>() };
        // SAFETY: There are NumberOfElements of them, and an `Element` is one.
        let elements = unsafe { slice::from_raw_parts(first, count as usize) };
        Self { elements }
    }

    /// The pieces, in the order of the data.
    #[inline]
    #[must_use]
    pub fn elements(&self) -> &'s [Element] {
        self.elements
    }
}
