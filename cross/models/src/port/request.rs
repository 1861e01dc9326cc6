//! SRBs of both layouts and their parts. Each part is an allocation of exactly the length that the
//! header gives it. Completion frees them.

use std::{
    alloc::{self, Layout},
    mem::offset_of,
    ptr::{self, NonNull},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
};

use wdk_sys::{
    _SRBEXDATATYPE, PSCSI_REQUEST_BLOCK, PVOID, SCSI_REQUEST_BLOCK, SRBEX_DATA_SCSI_CDB16,
    STOR_ADDR_BTL8, STOR_PHYSICAL_ADDRESS, STOR_SCATTER_GATHER_ELEMENT, STOR_SCATTER_GATHER_LIST,
    STORAGE_REQUEST_BLOCK,
};

/// The layouts of an SRB (storport-rules.md STORAGE_REQUEST_BLOCK).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// SCSI_REQUEST_BLOCK.
    Scsi,
    /// STORAGE_REQUEST_BLOCK.
    Storage,
}

/// A request for the miniport.
#[derive(Clone, Debug)]
pub struct Request {
    /// The layout of the SRB.
    pub shape: Shape,
    /// `SRB_FUNCTION_*`.
    pub function: u32,
    /// Path, target, logical unit.
    pub address: [u8; 3],
    /// The CDB.
    pub cdb: Vec<u8>,
    /// `SRB_FLAGS_DATA_*`.
    pub flags: u32,
    /// The data, in pieces. The scatter/gather list has one element for each piece.
    pub data: Vec<Vec<u8>>,
    /// A shared buffer to use instead of a new one, with its present contents. It is as long as
    /// `data`.
    pub buffer: Option<Buffer>,
    /// Fields of a STORAGE_REQUEST_BLOCK, with wrong values.
    pub wrong_fields: Vec<(Field, u32)>,
}

/// A field of a STORAGE_REQUEST_BLOCK or of its extended data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// SrbLength. The wrong value must not be larger than the real length.
    SrbLength,
    /// SrbFunction.
    SrbFunction,
    /// AddressOffset.
    AddressOffset,
    /// NumSrbExData.
    NumSrbExData,
    /// The first element of SrbExDataOffset.
    SrbExDataOffset,
    /// Type of the extended data.
    Type,
    /// CdbLength of the extended data.
    CdbLength,
}

/// A buffer of a process. Several requests may use it at the same time.
#[derive(Clone)]
pub struct Buffer(pub(super) Arc<Memory>);

impl Buffer {
    /// Makes a buffer with these bytes.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        let memory = Memory::uninitialised(bytes.len());
        let first = memory.at::<u8>(0);
        // SAFETY: The buffer has this length, and nothing else accesses it yet.
        unsafe { first.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Self(Arc::new(memory))
    }

    /// Writes a byte, as a thread of the process may do at any time.
    pub fn set(&self, index: usize, byte: u8) {
        self.0.byte(index).store(byte, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Buffer").finish_non_exhaustive()
    }
}

/// The result of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// SrbStatus.
    pub status: u8,
    /// ScsiStatus.
    pub scsi_status: u8,
    /// DataTransferLength.
    pub length: u32,
    /// The sense data: SenseInfoBufferLength bytes of the sense buffer.
    pub sense: Vec<u8>,
    /// The data.
    pub data: Vec<u8>,
}

/// The length of the sense buffer.
const SENSE_BYTES: u8 = 18;

/// A request that was sent. The `OriginalRequest` of its SRB points to it.
pub(super) struct Sent {
    shape: Shape,
    block: Memory,
    extension: Memory,
    sense: Memory,
    pub(super) data: Buffer,
    pub(super) list: Option<Memory>,
    done: Arc<OnceLock<Done>>,
    outstanding: Arc<AtomicUsize>,
}

/// An allocation. Dropping this frees it.
pub(super) struct Memory {
    first: NonNull<u8>,
    layout: Layout,
}

impl Memory {
    /// Allocates `bytes` uninitialised bytes.
    pub(super) fn uninitialised(bytes: usize) -> Self {
        // Storport promises an alignment of only 8 bytes.
        let layout = Layout::from_size_align(bytes.max(1), 8).expect("a small size");
        // SAFETY: The size is not 0.
        let first = NonNull::new(unsafe { alloc::alloc(layout) }).expect("memory");
        Self { first, layout }
    }

    pub(super) fn zeroed(bytes: usize) -> Self {
        let memory = Self::uninitialised(bytes);
        // SAFETY: The allocation has the length of its layout.
        unsafe { memory.first.write_bytes(0, memory.layout.size()) };
        memory
    }

    pub(super) fn at<T>(&self, offset: usize) -> *mut T {
        assert!(offset + size_of::<T>() <= self.layout.size());
        self.first.as_ptr().wrapping_add(offset).cast()
    }

    fn write<T>(&self, offset: usize, value: T) {
        // SAFETY: `at` has checked the range, and the miniport does not access it.
        unsafe { self.at::<T>(offset).write_unaligned(value) };
    }

    fn bytes(&self, count: usize) -> Vec<u8> {
        assert!(count <= self.layout.size());
        (0..count)
            .map(|index| self.byte(index).load(Ordering::Relaxed))
            .collect()
    }

    /// A byte that other code may access at the same time.
    fn byte(&self, index: usize) -> &AtomicU8 {
        // SAFETY: `at` has checked the range, and the memory exists as long as `self`.
        unsafe { AtomicU8::from_ptr(self.at(index)) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: The memory was allocated with this layout.
        unsafe { alloc::dealloc(self.first.as_ptr(), self.layout) };
    }
}

// SAFETY: The value owns its bytes.
unsafe impl Send for Memory {}
// SAFETY: Concurrent accesses are atomic. Miri reports others.
unsafe impl Sync for Memory {}

impl Sent {
    /// Makes an SRB, which [`complete`](Self::complete) frees.
    pub(super) fn srb(
        request: &Request,
        extension_bytes: u32,
        outstanding: Arc<AtomicUsize>,
    ) -> (PSCSI_REQUEST_BLOCK, Arc<OnceLock<Done>>) {
        let all: Vec<u8> = request.data.concat();
        let data = request.buffer.clone();
        let data = data.unwrap_or_else(|| Buffer::new(&all));
        let memory = match request.shape {
            Shape::Scsi => Memory::zeroed(size_of::<SCSI_REQUEST_BLOCK>()),
            Shape::Storage => Memory::zeroed(Self::STORAGE_BYTES),
        };
        let done = Arc::new(OnceLock::new());
        let sent = Box::new(Self {
            shape: request.shape,
            block: memory,
            // The SRB extension is not initialised (storport-rules.md S12).
            extension: Memory::uninitialised(extension_bytes as usize),
            sense: Memory::uninitialised(usize::from(SENSE_BYTES)),
            list: list(&request.data, &data.0),
            data,
            done: Arc::clone(&done),
            outstanding,
        });
        let block = sent.block.at(0);
        let length = u32::try_from(all.len()).expect("little data");
        match request.shape {
            Shape::Scsi => sent.write_scsi(request, length),
            Shape::Storage => sent.write_storage(request, length),
        }
        for (field, value) in &request.wrong_fields {
            sent.set_field(*field, *value);
        }
        sent.outstanding.fetch_add(1, Ordering::Relaxed);
        let original: PVOID = Box::into_raw(sent).cast();
        // SAFETY: The SRB was just made.
        unsafe { Self::original(request.shape, block).write(original) };
        (block, done)
    }

    /// The offsets of the parts of a STORAGE_REQUEST_BLOCK. The address follows the block, and the
    /// extended data with the CDB follows the address.
    const ADDRESS: usize = size_of::<STORAGE_REQUEST_BLOCK>();
    const CDB: usize = (Self::ADDRESS + size_of::<STOR_ADDR_BTL8>()).next_multiple_of(8);
    const STORAGE_BYTES: usize = Self::CDB + size_of::<SRBEX_DATA_SCSI_CDB16>();

    fn write_scsi(&self, request: &Request, length: u32) {
        let mut cdb = [0; 16];
        cdb[..request.cdb.len()].copy_from_slice(&request.cdb);
        let [path, target, lun] = request.address;
        self.block.write(
            0,
            SCSI_REQUEST_BLOCK {
                Length: size_of::<SCSI_REQUEST_BLOCK>() as u16,
                Function: request.function as u8,
                PathId: path,
                TargetId: target,
                Lun: lun,
                CdbLength: request.cdb.len() as u8,
                SenseInfoBufferLength: SENSE_BYTES,
                SenseInfoBuffer: self.sense.at::<u8>(0).cast(),
                SrbFlags: request.flags,
                DataTransferLength: length,
                SrbExtension: self.extension.at::<u8>(0).cast(),
                Cdb: cdb,
                ..Default::default()
            },
        );
    }

    fn write_storage(&self, request: &Request, length: u32) {
        let [path, target, lun] = request.address;
        self.block.write(
            0,
            STORAGE_REQUEST_BLOCK {
                Length: offset_of!(STORAGE_REQUEST_BLOCK, SrbExDataOffset) as u16,
                Function: wdk_sys::SRB_FUNCTION_STORAGE_REQUEST_BLOCK as u8,
                Signature: 0x5352_4258,
                Version: 1,
                SrbLength: Self::STORAGE_BYTES as u32,
                SrbFunction: request.function,
                AddressOffset: Self::ADDRESS as u32,
                SrbFlags: request.flags,
                NumSrbExData: u32::from(!request.cdb.is_empty()),
                DataTransferLength: length,
                MiniportContext: self.extension.at::<u8>(0).cast(),
                SrbExDataOffset: [Self::CDB as u32],
                ..Default::default()
            },
        );
        self.block.write(
            Self::ADDRESS,
            STOR_ADDR_BTL8 {
                Type: 1,
                AddressLength: 4,
                Path: path,
                Target: target,
                Lun: lun,
                ..Default::default()
            },
        );
        let mut cdb = [0; 16];
        cdb[..request.cdb.len()].copy_from_slice(&request.cdb);
        self.block.write(
            Self::CDB,
            SRBEX_DATA_SCSI_CDB16 {
                Type: _SRBEXDATATYPE::SrbExDataTypeScsiCdb16,
                Length: 40,
                SenseInfoBufferLength: SENSE_BYTES,
                CdbLength: request.cdb.len() as u8,
                SenseInfoBuffer: self.sense.at::<u8>(0).cast(),
                Cdb: cdb,
                ..Default::default()
            },
        );
    }

    fn set_field(&self, field: Field, value: u32) {
        let offset = match field {
            Field::SrbLength => {
                assert!(value as usize <= Self::STORAGE_BYTES);
                offset_of!(STORAGE_REQUEST_BLOCK, SrbLength)
            }
            Field::SrbFunction => offset_of!(STORAGE_REQUEST_BLOCK, SrbFunction),
            Field::AddressOffset => offset_of!(STORAGE_REQUEST_BLOCK, AddressOffset),
            Field::NumSrbExData => offset_of!(STORAGE_REQUEST_BLOCK, NumSrbExData),
            Field::SrbExDataOffset => offset_of!(STORAGE_REQUEST_BLOCK, SrbExDataOffset),
            Field::Type => Self::CDB + offset_of!(SRBEX_DATA_SCSI_CDB16, Type),
            Field::CdbLength => {
                let offset = Self::CDB + offset_of!(SRBEX_DATA_SCSI_CDB16, CdbLength);
                return self.block.write(offset, value as u8);
            }
        };
        self.block.write(offset, value);
    }

    /// The field `OriginalRequest` of an SRB.
    fn original(shape: Shape, block: PSCSI_REQUEST_BLOCK) -> *mut PVOID {
        let offset = match shape {
            Shape::Scsi => offset_of!(SCSI_REQUEST_BLOCK, OriginalRequest),
            Shape::Storage => offset_of!(STORAGE_REQUEST_BLOCK, OriginalRequest),
        };
        block.cast::<u8>().wrapping_add(offset).cast()
    }

    /// The request that was sent as `block`.
    ///
    /// # Safety
    /// `block` is an SRB of [`srb`](Self::srb) that is not completed.
    pub(super) unsafe fn of(block: PSCSI_REQUEST_BLOCK) -> *mut Self {
        // SAFETY: The caller's promise.
        let function = unsafe { (*block).Function };
        let shape = match u32::from(function) {
            wdk_sys::SRB_FUNCTION_STORAGE_REQUEST_BLOCK => Shape::Storage,
            _ => Shape::Scsi,
        };
        // SAFETY: The caller's promise.
        unsafe { Self::original(shape, block).read().cast() }
    }

    /// RequestComplete: reads the result and frees the SRB.
    ///
    /// # Safety
    /// `block` is an SRB of [`srb`](Self::srb) that is not completed.
    pub(super) unsafe fn complete(block: PSCSI_REQUEST_BLOCK) {
        // SAFETY: The caller's promise.
        let sent = unsafe { Self::of(block) };
        // SAFETY: `srb` made the request as a box.
        let sent = unsafe { Box::from_raw(sent) };
        let (status, scsi_status, length, sense) = match sent.shape {
            Shape::Scsi => {
                // SAFETY: The miniport no longer accesses the SRB.
                let block = unsafe { sent.block.at::<SCSI_REQUEST_BLOCK>(0).read() };
                (
                    block.SrbStatus,
                    block.ScsiStatus,
                    block.DataTransferLength,
                    block.SenseInfoBufferLength,
                )
            }
            Shape::Storage => {
                // SAFETY: As above.
                let block = unsafe { sent.block.at::<STORAGE_REQUEST_BLOCK>(0).read() };
                // SAFETY: As above.
                let cdb = unsafe { sent.block.at::<SRBEX_DATA_SCSI_CDB16>(Self::CDB).read() };
                (
                    block.SrbStatus,
                    cdb.ScsiStatus,
                    block.DataTransferLength,
                    cdb.SenseInfoBufferLength,
                )
            }
        };
        let pending = wdk_sys::SRB_STATUS_PENDING as u8;
        assert_ne!(
            status, pending,
            "Storport: a request is completed as pending"
        );
        let has_sense = status & wdk_sys::SRB_STATUS_AUTOSENSE_VALID as u8 != 0;
        let sense = if has_sense { usize::from(sense) } else { 0 };
        let done = Done {
            status,
            scsi_status,
            length,
            sense: sent.sense.bytes(sense),
            data: sent.data.0.bytes(length as usize),
        };
        sent.outstanding.fetch_sub(1, Ordering::Relaxed);
        sent.done.set(done).expect("completed once");
    }
}

/// Makes the scatter/gather list of `data`, whose pieces are contiguous in `memory`.
fn list(pieces: &[Vec<u8>], memory: &Memory) -> Option<Memory> {
    let head = offset_of!(STOR_SCATTER_GATHER_LIST, List);
    let step = size_of::<STOR_SCATTER_GATHER_ELEMENT>();
    let list = Memory::zeroed(head + pieces.len() * step);
    list.write(0, u32::try_from(pieces.len()).ok().filter(|n| *n > 0)?);
    let mut offset = 0;
    for (index, piece) in pieces.iter().enumerate() {
        // The device uses this address to access the data.
        let start = memory.at::<u8>(0).expose_provenance() + offset;
        list.write(
            head + index * step,
            STOR_SCATTER_GATHER_ELEMENT {
                PhysicalAddress: STOR_PHYSICAL_ADDRESS {
                    QuadPart: i64::try_from(start).expect("an address of user space"),
                },
                Length: u32::try_from(piece.len()).expect("little data"),
                Reserved: 0,
            },
        );
        offset += piece.len();
    }
    Some(list)
}

/// An address in `memory`, or null without memory.
pub(super) fn address(memory: Option<&Memory>) -> *mut u8 {
    memory.map_or(ptr::null_mut(), |memory| memory.at(0))
}
