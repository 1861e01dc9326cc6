//! An SRB as a value that must be completed.
//!
//! Whoever has the [`Srb`] owns the request: completing it consumes the value,
//! and while the device has it, it is stored. So it is completed exactly once
//! and never touched after (rule book 5.1, S1-S3). There is no way to complete
//! it as pending. One that is dropped is completed as an error: a bug, but not
//! a lost request.
//!
//! It is in one of two states. A [`Fresh`] one the device has not seen: it may
//! be sent back to wait ([`Srb::busy`]), and its data may be looked at. Before
//! the device gets it, it becomes a [`StartedSrb`], for which neither holds
//! (rule book 5.1, S5). That no device is given a fresh one is the miniport's
//! part: types do not see what a device is told. Who stores requests of the
//! device as `StartedSrb`s can't get it wrong.
//!
//! Both shapes are read here and nowhere else: SCSI_REQUEST_BLOCK and
//! STORAGE_REQUEST_BLOCK (rule book 5.2).
#![expect(unsafe_code, reason = "SRBs are Storport's structures")]

use core::{marker::PhantomData, ptr::NonNull, slice};

use wdk_sys::{
    _SRBEXDATATYPE, PSCSI_REQUEST_BLOCK, SCSI_PNP_REQUEST_BLOCK, SCSI_REQUEST_BLOCK, SRBEX_DATA,
    SRBEX_DATA_PNP, SRBEX_DATA_SCSI_CDB16, SRBEX_DATA_SCSI_CDB32, STOR_ADDR_BTL8,
    STOR_SCATTER_GATHER_ELEMENT, STOR_SCATTER_GATHER_LIST, STORAGE_REQUEST_BLOCK,
};

use crate::{
    extension::{Brand, Header},
    port,
};

/// The longest CDB that is read: an SRBEX_DATA_SCSI_CDB32's.
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
    /// The device is removed in order: what was allocated for it is freed now.
    Remove,
    /// The device is stopped, to be found anew with other resources
    /// (StorStopDevice): the same.
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
             (rule book 5.1, S5)",
    note = "do this before `Srb::started`; what was started ends by `succeed`, `check_condition` \
            or `fail`"
)]
pub trait NotStarted {}

#[diagnostic::do_not_recommend]
impl NotStarted for Fresh {}

/// A request that Storport gave to the miniport, in state `S`.
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

/// The two shapes, told apart. Pointers, for what belongs to a request lies
/// behind its block too, and a reference ends with the block.
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
    /// The device gets the request now: from here on it can't be busy.
    #[inline]
    pub fn started(self) -> StartedSrb<'a> {
        let (adapter, block) = (self.adapter, self.into_block());
        // SAFETY: the SRB was owned, and is by the new value alone.
        unsafe { Srb::new(adapter, block) }
    }
}

impl<'a, S> Srb<'a, S> {
    /// Takes an SRB over.
    ///
    /// # Safety
    /// `block` was just passed to BuildIo or StartIo of `adapter`, and is not
    /// completed; no other `Srb` names it.
    pub(crate) unsafe fn new(adapter: &'a Header, block: NonNull<SCSI_REQUEST_BLOCK>) -> Self {
        Self {
            block,
            adapter,
            brand: PhantomData,
            state: PhantomData,
        }
    }

    pub(crate) fn as_ptr(&self) -> PSCSI_REQUEST_BLOCK {
        self.block.as_ptr()
    }

    /// Gives the SRB back without completing it.
    pub(crate) fn into_block(self) -> NonNull<SCSI_REQUEST_BLOCK> {
        core::mem::ManuallyDrop::new(self).block
    }

    fn shape(&self) -> Shape {
        // SAFETY: the SRB is owned and its memory is initialised by Storport;
        // both shapes have the field.
        let function = unsafe { (*self.block.as_ptr()).Function };
        if u32::from(function) == wdk_sys::SRB_FUNCTION_STORAGE_REQUEST_BLOCK {
            Shape::Storage(self.block.cast())
        } else {
            Shape::Scsi(self.block)
        }
    }

    /// Reads the block itself. Nothing writes to it meanwhile: what writes
    /// takes the SRB by value or by `&mut`.
    fn read<R>(
        &self,
        scsi: impl FnOnce(&SCSI_REQUEST_BLOCK) -> R,
        storage: impl FnOnce(&STORAGE_REQUEST_BLOCK) -> R,
    ) -> R {
        match self.shape() {
            // SAFETY: the SRB is owned and has this shape.
            Shape::Scsi(block) => scsi(unsafe { block.as_ref() }),
            // SAFETY: as above.
            Shape::Storage(block) => storage(unsafe { block.as_ref() }),
        }
    }

    /// What is asked for.
    #[must_use]
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
                let kind = _SRBEXDATATYPE::SrbExDataTypePnP;
                let data = extended(block, kind, size_of::<SRBEX_DATA_PNP>());
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
                // SAFETY: only BTL8 addresses are asked for at registration,
                // and AddressOffset leads to one (rule book 5.2).
                let address = unsafe { &*address };
                Address {
                    path: address.Path,
                    target: address.Target,
                    lun: address.Lun,
                }
            },
        )
    }

    /// Where its data is mapped, if it is: but for reads and writes
    /// (HW_BUILDIO).
    pub(crate) fn data_buffer(&self) -> Option<NonNull<u8>> {
        let buffer = self.read(|block| block.DataBuffer, |block| block.DataBuffer);
        NonNull::new(buffer.cast())
    }

    /// How many bytes of data belong to it.
    #[must_use]
    pub fn data_length(&self) -> u32 {
        self.read(
            |block| block.DataTransferLength,
            |block| block.DataTransferLength,
        )
    }

    /// Its CDB; empty if it has none.
    #[must_use]
    pub fn cdb(&self) -> &[u8] {
        let Some(parts) = scsi_parts(self.shape()) else {
            return &[];
        };
        // SAFETY: the CDB lies in the SRB, `cdb_length` was bounded by the
        // array's; it stays as long as the SRB is owned, and no method writes
        // it.
        unsafe { slice::from_raw_parts(parts.cdb, parts.cdb_length) }
    }

    /// Sends it back to wait: Storport calls BuildIo and StartIo again later,
    /// without limit (rule book 5.1, S5). Not a [`StartedSrb`]: the device may
    /// still write into the data of a request that it had.
    pub fn busy(self)
    where
        S: NotStarted,
    {
        self.finish(wdk_sys::SRB_STATUS_BUSY as u8);
    }

    /// Completes it as done. `transferred` is how many bytes of data moved: if
    /// fewer than asked for, Storport is told so (rule book 5.1, S9).
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

    fn finish(self, status: u8) {
        match self.shape() {
            // SAFETY: the SRB is owned and has this shape.
            Shape::Scsi(block) => unsafe { (*block.as_ptr()).SrbStatus = status },
            // SAFETY: as above.
            Shape::Storage(block) => unsafe { (*block.as_ptr()).SrbStatus = status },
        }
        let adapter = self.adapter;
        let block = self.into_block();
        // SAFETY: the SRB was owned and is given up here; the status is final.
        unsafe { port::request_complete(adapter, block.as_ptr()) };
    }

    fn set_data_length(&mut self, bytes: u32) {
        match self.shape() {
            // SAFETY: the SRB is owned and has this shape.
            Shape::Scsi(block) => unsafe { (*block.as_ptr()).DataTransferLength = bytes },
            // SAFETY: as above.
            Shape::Storage(block) => unsafe { (*block.as_ptr()).DataTransferLength = bytes },
        }
    }

    fn set_scsi_status(&mut self, status: u8) {
        if let Some(parts) = scsi_parts(self.shape()) {
            // SAFETY: it lies in the SRB, which is owned.
            unsafe { parts.scsi_status.write(status) };
        }
    }

    /// Whether sense data was written.
    fn write_sense(&mut self, sense: &[u8]) -> bool {
        let Some(parts) = scsi_parts(self.shape()) else {
            return false;
        };
        // SAFETY: it lies in the SRB, which is owned.
        let room = unsafe { parts.sense_length.read() };
        let length = sense.len().min(usize::from(room));
        let (Ok(written), false) = (u8::try_from(length), length == 0 || parts.sense.is_null())
        else {
            return false;
        };
        // SAFETY: the sense buffer is Storport's, `room` bytes long, and not
        // the caller's slice.
        unsafe { core::ptr::copy_nonoverlapping(sense.as_ptr(), parts.sense, length) };
        // SAFETY: it lies in the SRB, which is owned.
        unsafe { parts.sense_length.write(written) };
        true
    }

    /// The per-request memory: `SrbExtension`, or `MiniportContext`.
    pub(crate) fn extension(&self) -> *mut u8 {
        self.read(|block| block.SrbExtension, |block| block.MiniportContext)
            .cast()
    }
}

impl<S> Drop for Srb<'_, S> {
    fn drop(&mut self) {
        // SAFETY: this value is not used again, so the new one owns the SRB.
        let srb = unsafe { Self::new(self.adapter, self.block) };
        srb.fail(Failure::Error);
    }
}

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

/// The extended data of type `kind` in a STORAGE_REQUEST_BLOCK, if it is there
/// and at least `length` bytes long.
///
/// `block` is an owned SRB's.
fn extended(
    block: NonNull<STORAGE_REQUEST_BLOCK>,
    kind: wdk_sys::SRBEXDATATYPE,
    length: usize,
) -> Option<NonNull<u8>> {
    let start: NonNull<u8> = block.cast();
    let block = block.as_ptr();
    // SAFETY: the SRB is owned and has this shape.
    let count = usize::try_from(unsafe { (*block).NumSrbExData }).ok()?;
    // SAFETY: as above.
    let total = usize::try_from(unsafe { (*block).SrbLength }).ok()?;
    // SAFETY: as above; this takes an address.
    let offsets: *const u32 = unsafe { &raw const (*block).SrbExDataOffset }.cast();
    // An SRB has at most a handful; 8 bounds the loop whatever it says.
    for index in 0..count.min(8) {
        // SAFETY: NumSrbExData offsets follow each other from there.
        let offset = unsafe { offsets.wrapping_add(index).read() };
        let offset = usize::try_from(offset).ok()?;
        if offset == 0 || offset.checked_add(length)? > total {
            continue;
        }
        let data: *mut SRBEX_DATA = start.as_ptr().wrapping_add(offset).cast();
        // SAFETY: SrbLength covers it.
        if unsafe { (*data).Type } == kind {
            return NonNull::new(data.cast());
        }
    }
    None
}

fn scsi_parts(shape: Shape) -> Option<ScsiParts> {
    match shape {
        Shape::Scsi(block) => {
            let all = block.as_ptr();
            // SAFETY: the SRB is owned and has this shape.
            let block = unsafe { block.as_ref() };
            Some(ScsiParts {
                // SAFETY: as above; this takes an address.
                scsi_status: unsafe { &raw mut (*all).ScsiStatus },
                sense: block.SenseInfoBuffer.cast(),
                // SAFETY: as above.
                sense_length: unsafe { &raw mut (*all).SenseInfoBufferLength },
                cdb_length: usize::from(block.CdbLength).min(block.Cdb.len()),
                // SAFETY: as above.
                cdb: unsafe { &raw const (*all).Cdb }.cast(),
            })
        }
        Shape::Storage(block) => {
            let short = size_of::<SRBEX_DATA_SCSI_CDB16>();
            let long = size_of::<SRBEX_DATA_SCSI_CDB32>();
            let (data, longest) = if let Some(data) =
                extended(block, _SRBEXDATATYPE::SrbExDataTypeScsiCdb16, short)
            {
                (data, 16)
            } else {
                (
                    extended(block, _SRBEXDATATYPE::SrbExDataTypeScsiCdb32, long)?,
                    LONGEST_CDB,
                )
            };
            let data: NonNull<SRBEX_DATA_SCSI_CDB16> = data.cast();
            let all = data.as_ptr();
            // SAFETY: both kinds begin alike and differ in the CDB's room
            // (`storport.h`); `extended` checked the length.
            let data = unsafe { data.as_ref() };
            Some(ScsiParts {
                // SAFETY: as above; this takes an address.
                scsi_status: unsafe { &raw mut (*all).ScsiStatus },
                sense: data.SenseInfoBuffer.cast(),
                // SAFETY: as above.
                sense_length: unsafe { &raw mut (*all).SenseInfoBufferLength },
                cdb_length: usize::from(data.CdbLength).min(longest),
                // SAFETY: as above; of the longer kind there is more behind.
                cdb: unsafe { &raw const (*all).Cdb }.cast(),
            })
        }
    }
}

/// A request's data as the device reaches it: physical address and length of
/// each piece, in order.
#[derive(Clone)]
pub struct ScatterGather<'s> {
    elements: slice::Iter<'s, STOR_SCATTER_GATHER_ELEMENT>,
}

impl ScatterGather<'_> {
    /// # Safety
    /// `list` is Storport's and is not changed or freed while this lives.
    pub(crate) unsafe fn new(list: NonNull<STOR_SCATTER_GATHER_LIST>) -> Self {
        let list = list.as_ptr();
        // SAFETY: the caller's promise.
        let count = unsafe { (*list).NumberOfElements };
        // SAFETY: the elements follow the head; this takes their address.
        let first = unsafe { (&raw const (*list).List).cast::<STOR_SCATTER_GATHER_ELEMENT>() };
        // SAFETY: there are NumberOfElements of them.
        let elements = unsafe { slice::from_raw_parts(first, count as usize) };
        Self {
            elements: elements.iter(),
        }
    }
}

impl Iterator for ScatterGather<'_> {
    type Item = (u64, u32);

    fn next(&mut self) -> Option<Self::Item> {
        let element = self.elements.next()?;
        // SAFETY: every bit pattern is an integer.
        let address = unsafe { element.PhysicalAddress.QuadPart };
        Some((address.cast_unsigned(), element.Length))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.elements.size_hint()
    }
}
