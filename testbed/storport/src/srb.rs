//! SRBs: their memory, their two layouts and their states.
//!
//! Each CPU has its own SRBs, and only its thread sends and collects them, so that a request
//! needs neither a lock nor an allocation. An SRB, its sense buffer, scatter/gather list and
//! SRB extension are physically contiguous.

use std::{
    fmt, io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::{
    abi::{
        self, Field, Structure, scsi_request_block as scsi, srbex_data_scsi_cdb16 as cdb16,
        stor_addr_btl8 as btl8, stor_scatter_gather_element, stor_scatter_gather_list,
        storage_request_block as storage, wdk,
    },
    adapter::{Checks, SrbChange, SrbShape},
    request::{Address, Completion, Direction, Request},
};
use testbed_machine::{
    memory::{Block, Memory, MemoryError, PAGE, Placement},
    trap,
};
use vm_memory::{Bytes as _, GuestAddress};

/// The number of SRBs that get memory together.
const CHUNK: u32 = 16;

/// With all checks, the number of SRBs that stay free before one is reused. Late accesses to them
/// are found.
const RESTING: u32 = 64;

/// The size of the header before each SRB: a mark, and the SRB's number.
const HEADER: usize = 16;
const MARK: u64 = 0x5342_5253_4552_5246;

/// The offsets of the STOR_ADDR_BTL8 and SRBEX_DATA_SCSI_CDB16 behind a STORAGE_REQUEST_BLOCK.
const ADDRESS_AT: usize = storage::SIZE;
pub(super) const CDB_AT: usize = ADDRESS_AT + btl8::SIZE;
const STORAGE_BYTES: usize = CDB_AT + cdb16::SIZE;

/// The size of the sense buffer: the most that SPC allows and SenseInfoBufferLength can say.
const SENSE_BYTES: usize = 252;

const SENSE_AT: usize = (HEADER + STORAGE_BYTES).next_multiple_of(16);
const LIST_AT: usize = (SENSE_AT + SENSE_BYTES).next_multiple_of(16);

const UNINITIALISED: u8 = 0xC5;

/// Length of a STORAGE_REQUEST_BLOCK: the part up to Signature that both shapes share (srb.h).
const STORAGE_PREFIX: u16 = 8;

/// SRB_STATUS without its flags (`srb.h`).
pub(super) const STATUS: u8 = 0x3f;

pub(super) mod state {
    /// Storport may send it again.
    pub(crate) const FREE: u8 = 0;
    /// HwBuildIo has it.
    pub(crate) const BUILDING: u8 = 1;
    /// HwBuildIo returned FALSE: the miniport keeps it without HwStartIo.
    pub(crate) const KEPT: u8 = 2;
    /// HwStartIo got it.
    pub(crate) const STARTED: u8 = 3;
    /// The miniport completed it, and Storport has not collected it yet.
    pub(crate) const COMPLETED: u8 = 4;
    /// HwBuildIo returned TRUE, but a test holds it back from HwStartIo.
    pub(crate) const HELD: u8 = 5;
}

/// The states of an SRB in the recovery from a time-out.
pub(super) mod recovery {
    pub(crate) const NONE: u8 = 0;
    /// The miniport had it when the bus was reset.
    pub(crate) const RESET: u8 = 1;
    /// The miniport still had it after the reset, which was reported.
    pub(crate) const LOST: u8 = 2;
}

/// The state of an SRB that all threads can read.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) state: AtomicU8,
    pub(super) recovery: AtomicU8,
    /// When the request was sent, and when it times out, in the clock's nanoseconds.
    pub(super) sent: AtomicU64,
    pub(super) deadline: AtomicU64,
    /// The next SRB in the CPU's list of completed ones: number + 1, or 0.
    pub(super) next_completed: AtomicU32,
    pub(super) unit: AtomicU32,
    /// The SRB's address, or 0 before it has memory.
    address: AtomicUsize,
    /// The memory from the header on, as Storport accesses it: an alias if the driver's access
    /// can be revoked.
    memory: OnceLock<Structure>,
    /// The data's address, or 0, and length.
    data: AtomicUsize,
    data_bytes: AtomicU32,
    /// The 8-bit queue tag of a SCSI_REQUEST_BLOCK.
    pub(super) tag: AtomicU8,
}

impl Slot {
    /// HwBuildIo returned FALSE: the miniport keeps the SRB, unless it has completed it.
    pub(super) fn keep(&self) {
        let _ = self.state.compare_exchange(
            state::BUILDING,
            state::KEPT,
            Ordering::AcqRel,
            Ordering::Relaxed,
        );
    }

    /// Whether the miniport has accepted the SRB: in HwStartIo, or with FALSE from HwBuildIo.
    pub(super) fn is_with_miniport(&self) -> bool {
        matches!(
            self.state.load(Ordering::Acquire),
            state::KEPT | state::STARTED
        )
    }

    /// Whether the miniport has the SRB.
    pub(super) fn is_out(&self) -> bool {
        matches!(
            self.state.load(Ordering::Acquire),
            state::BUILDING | state::KEPT | state::STARTED
        )
    }

    pub(super) fn address(&self) -> usize {
        self.address.load(Ordering::Relaxed)
    }

    fn memory(&self) -> Structure {
        self.memory.get().copied().unwrap_or(Structure::NONE)
    }

    pub(super) fn data(&self) -> Option<usize> {
        let address = self.data.load(Ordering::Relaxed);
        (address != 0).then_some(address)
    }

    pub(super) fn data_bytes(&self) -> u32 {
        self.data_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn list(&self) -> Option<usize> {
        self.data().map(|_| self.address() - HEADER + LIST_AT)
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct SrbSettings {
    pub(super) shape: SrbShape,
    pub(super) extension_bytes: usize,
    pub(super) elements: usize,
    pub(super) map_buffers: u32,
    /// With all checks, each SRB has its own pages, and its completion revokes the driver's
    /// access to them.
    pub(super) checks: Checks,
}

/// A part of an SRB's memory, and an offset in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part(&'static str, usize);

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at offset {:#x}", self.0, self.1)
    }
}

#[derive(Debug)]
pub(super) struct Srbs {
    settings: SrbSettings,
    per_cpu: u32,
    slots: Box<[Slot]>,
    memory: Arc<Memory>,
}

impl Srbs {
    /// At most `per_cpu` SRBs for each of `cpus` CPUs.
    pub(super) fn new(
        memory: &Arc<Memory>,
        settings: SrbSettings,
        cpus: u32,
        per_cpu: u32,
    ) -> Self {
        let spare = match settings.checks {
            Checks::Cheap => 0,
            Checks::All => RESTING,
        };
        let per_cpu = (per_cpu + spare).next_multiple_of(CHUNK);
        Self {
            settings,
            per_cpu,
            slots: (0..cpus * per_cpu).map(|_| Slot::default()).collect(),
            memory: Arc::clone(memory),
        }
    }

    pub(super) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The SRB with this number, which must exist.
    pub(super) fn slot(&self, number: u32) -> &Slot {
        &self.slots[number as usize]
    }

    pub(super) fn cpu_of(&self, number: u32) -> u32 {
        number / self.per_cpu
    }

    /// The SRB's index among those of its CPU.
    pub(super) fn place(&self, number: u32) -> usize {
        (number % self.per_cpu) as usize
    }

    fn extension_at(&self) -> usize {
        (LIST_AT
            + stor_scatter_gather_list::List.offset()
            + self.settings.elements * stor_scatter_gather_element::SIZE)
            .next_multiple_of(16)
    }

    fn stride(&self) -> usize {
        let bytes = self.extension_at() + self.settings.extension_bytes;
        match self.settings.checks {
            Checks::Cheap => bytes.next_multiple_of(16),
            Checks::All => bytes.next_multiple_of(PAGE),
        }
    }

    /// Allocates memory for the next SRBs of CPU `cpu`, which has `have` SRBs with memory.
    /// Returns their numbers.
    pub(super) fn grow(&self, cpu: u32, have: u32) -> Result<std::ops::Range<u32>, MemoryError> {
        let first = cpu * self.per_cpu + have;
        let numbers = first..first + CHUNK.min(self.per_cpu - have);
        if numbers.is_empty() {
            return Ok(numbers);
        }
        let block = self
            .memory
            .allocate(numbers.len() * self.stride(), Placement::Contiguous)?;
        let block: &'static Block = Box::leak(Box::new(block));
        let alias = match self.settings.checks {
            Checks::Cheap => None,
            Checks::All => Structure::beside(&self.memory, block),
        };
        let chunk = alias.unwrap_or(Structure::of(block));
        for (number, at) in numbers.clone().zip((0..).step_by(self.stride())) {
            let memory = chunk.offset(at);
            memory.set(abi::value(), MARK);
            memory.offset(8).set(abi::value(), u64::from(number));
            let slot = self.slot(number);
            let _ = slot.memory.set(memory);
            slot.address
                .store(block.address() + at + HEADER, Ordering::Relaxed);
        }
        Ok(numbers)
    }

    /// The number of the SRB at `address`, if there is one.
    pub(super) fn find(&self, address: usize) -> Option<u32> {
        let start = address.checked_sub(HEADER)?;
        if !start.is_multiple_of(16) {
            return None;
        }
        let header = GuestAddress(self.memory.physical(start)?);
        let [mark, number]: [u64; 2] = self.memory.guest().read_obj(header).ok()?;
        if mark != MARK {
            return None;
        }
        let slot = self.slots.get(usize::try_from(number).ok()?)?;
        (slot.address() == address).then_some(number as u32)
    }

    /// Revokes the driver's access to a completed SRB, with all checks.
    pub(super) fn revoke(&self, number: u32) {
        self.protect(number, Memory::revoke);
    }

    pub(super) fn restore(&self, number: u32) {
        self.protect(number, Memory::restore);
    }

    fn protect(&self, number: u32, how: impl Fn(&Memory, usize, usize) -> io::Result<()>) {
        if self.settings.checks == Checks::Cheap {
            return;
        }
        let start = self.slot(number).address() - HEADER;
        if let Err(error) = how(&self.memory, start, self.stride()) {
            trap::stop_machine(format_args!(
                "the host cannot protect the memory of a request from the driver ({error}): \
                 run without --verify, or raise vm.max_map_count"
            ));
        }
    }

    /// The number of SRBs that a CPU keeps free.
    pub(super) fn resting(&self) -> usize {
        match self.settings.checks {
            Checks::Cheap => 0,
            Checks::All => RESTING as usize,
        }
    }

    /// The SRB whose memory contains `address`, and the part of it.
    pub(super) fn containing(&self, address: usize) -> Option<(u32, Part)> {
        (0..)
            .zip(&self.slots)
            .filter(|(_, slot)| slot.address() != 0)
            .find_map(|(number, slot)| {
                let at = address.checked_sub(slot.address() - HEADER)?;
                (at < self.stride()).then(|| (number, self.part(at)))
            })
    }

    fn part(&self, at: usize) -> Part {
        let extension = self.extension_at();
        match at {
            0..HEADER => Part("the memory before the SRB", 0),
            HEADER..SENSE_AT => Part("the SRB", at - HEADER),
            SENSE_AT..LIST_AT => Part("the sense buffer", at - SENSE_AT),
            _ if at < extension => Part("the scatter/gather list", at - LIST_AT),
            _ if at - extension < self.settings.extension_bytes => {
                Part("the SRB extension", at - extension)
            }
            _ => Part("the memory behind the SRB extension", at - extension),
        }
    }

    pub(super) fn view(&self, slot: &Slot) -> Srb {
        Srb {
            memory: slot.memory(),
            shape: self.settings.shape,
        }
    }

    /// Fills the SRB, its list and its extension for `request`. Returns false if the data need
    /// more elements than the list has.
    pub(super) fn fill(&self, number: u32, request: &Request, timeout: u32, tag: u8) -> bool {
        let slot = self.slot(number);
        let data = request.data.as_ref();
        let address = data.map_or(0, |data| data.block.address() + data.offset);
        let bytes = data.map_or(0, |data| data.bytes);
        slot.data.store(address, Ordering::Relaxed);
        slot.data_bytes.store(bytes, Ordering::Relaxed);
        slot.tag.store(tag, Ordering::Relaxed);
        self.fill_srb(number, request, timeout, tag);
        self.new_extension(slot);
        data.is_none() || self.fill_list(slot, address, bytes as usize)
    }

    fn fill_list(&self, slot: &Slot, address: usize, bytes: usize) -> bool {
        let list = slot.memory().offset(LIST_AT);
        let mut count = 0;
        let mut done = 0;
        while done < bytes {
            let run = self.memory.run(address + done, bytes - done);
            let (Some((physical, length)), true) = (run, count < self.settings.elements) else {
                return false;
            };
            let element = list.offset(
                stor_scatter_gather_list::List.offset() + count * stor_scatter_gather_element::SIZE,
            );
            element.set(
                stor_scatter_gather_element::PhysicalAddress,
                physical as usize,
            );
            element.set(stor_scatter_gather_element::Length, length as u32);
            element.set(stor_scatter_gather_element::Reserved, 0);
            done += length;
            count += 1;
        }
        list.set(stor_scatter_gather_list::NumberOfElements, count as u32);
        list.set(stor_scatter_gather_list::Reserved, 0);
        true
    }

    /// Overwrites the SRB extension with uninitialised memory (storport-rules.md S12).
    pub(super) fn new_extension(&self, slot: &Slot) {
        let extension = slot.memory().offset(self.extension_at());
        extension.fill(self.settings.extension_bytes, UNINITIALISED);
    }

    /// DataBuffer: NULL unless MapBuffers maps it (PORT_CONFIGURATION_INFORMATION; for reads and
    /// writes, HwStorBuildIo's page).
    fn data_buffer(&self, request: &Request, address: usize) -> usize {
        // READ and WRITE with 6, 10, 12 and 16 bytes.
        let read_or_write = matches!(
            request.cdb[0],
            0x08 | 0x0A | 0x28 | 0x2A | 0xA8 | 0xAA | 0x88 | 0x8A
        );
        let mapped = match self.settings.map_buffers {
            abi::wdk::STOR_MAP_NO_BUFFERS => false,
            abi::wdk::STOR_MAP_ALL_BUFFERS_INCLUDING_READ_WRITE => true,
            _ => !read_or_write,
        };
        if mapped { address } else { 0 }
    }

    fn fill_srb(&self, number: u32, request: &Request, timeout: u32, tag: u8) {
        let slot = self.slot(number);
        let base = self.view(slot).base();
        let start = slot.address() - HEADER;
        let flags = wdk::SRB_FLAGS_NO_QUEUE_FREEZE
            | wdk::SRB_FLAGS_QUEUE_ACTION_ENABLE
            | match request.data.as_ref().map(|data| data.direction) {
                Some(Direction::In) => wdk::SRB_FLAGS_DATA_IN,
                Some(Direction::Out) => wdk::SRB_FLAGS_DATA_OUT,
                None => 0,
            };
        let data = self.data_buffer(request, slot.data().unwrap_or(0));
        let sense = start + SENSE_AT;
        let extension = match self.settings.extension_bytes {
            0 => 0,
            _ => start + self.extension_at(),
        };
        match self.settings.shape {
            SrbShape::Scsi => {
                base.fill(scsi::SIZE, 0);
                base.set(scsi::Length, scsi::SIZE as u16);
                base.set(scsi::Function, wdk::SRB_FUNCTION_EXECUTE_SCSI as u8);
                base.set(scsi::QueueTag, tag);
                base.set(scsi::QueueAction, wdk::SRB_SIMPLE_TAG_REQUEST as u8);
            }
            SrbShape::Storage => {
                base.fill(STORAGE_BYTES, 0);
                base.set(storage::Length, STORAGE_PREFIX);
                let function = wdk::SRB_FUNCTION_STORAGE_REQUEST_BLOCK as u8;
                base.set(storage::Function, function);
                base.set(storage::Signature, wdk::SRB_SIGNATURE);
                base.set(storage::Version, wdk::STORAGE_REQUEST_BLOCK_VERSION_1);
                base.set(storage::SrbLength, STORAGE_BYTES as u32);
                base.set(storage::SrbFunction, wdk::SRB_FUNCTION_EXECUTE_SCSI);
                base.set(storage::RequestTag, number);
                let attribute = wdk::SRB_SIMPLE_TAG_REQUEST as u16;
                base.set(storage::RequestAttribute, attribute);
                base.set(storage::AddressOffset, ADDRESS_AT as u32);
                base.set(storage::NumSrbExData, 1);
                base.set(storage::SrbExDataOffset, CDB_AT as u32);
                let address = base.offset(ADDRESS_AT);
                address.set(btl8::Type, wdk::STOR_ADDRESS_TYPE_BTL8 as u16);
                address.set(btl8::AddressLength, wdk::STOR_ADDR_BTL8_ADDRESS_LENGTH);
                let cdb = base.offset(CDB_AT);
                cdb.set(cdb16::Type, wdk::SrbExDataTypeScsiCdb16);
                cdb.set(cdb16::Length, (cdb16::SIZE - 8) as u32);
            }
        }
        let srb = self.view(slot);
        srb.set_address(request.address);
        srb.set((scsi::SrbFlags, storage::SrbFlags), 0, flags);
        srb.set((scsi::TimeOutValue, storage::TimeOutValue), 0, timeout);
        srb.set_transfer_length(slot.data_bytes());
        srb.set((scsi::DataBuffer, storage::DataBuffer), 0, data);
        srb.set((scsi::OriginalRequest, storage::OriginalRequest), 0, start);
        srb.set((scsi::SrbExtension, storage::MiniportContext), 0, extension);
        srb.set(
            (scsi::CdbLength, cdb16::CdbLength),
            CDB_AT,
            request.cdb_length,
        );
        srb.set((scsi::Cdb, cdb16::Cdb), CDB_AT, request.cdb);
        srb.set(
            (scsi::SenseInfoBuffer, cdb16::SenseInfoBuffer),
            CDB_AT,
            sense,
        );
        srb.set(SENSE_LENGTH, CDB_AT, SENSE_BYTES as u8);
    }
}

/// A field of both shapes: in a SCSI_REQUEST_BLOCK, and in a STORAGE_REQUEST_BLOCK or a structure
/// behind it.
type Both<T> = (Field<T>, Field<T>);

const STATUS_FIELD: Both<u8> = (scsi::SrbStatus, storage::SrbStatus);
const SCSI_STATUS: Both<u8> = (scsi::ScsiStatus, cdb16::ScsiStatus);
const TRANSFER_LENGTH: Both<u32> = (scsi::DataTransferLength, storage::DataTransferLength);
const SENSE_LENGTH: Both<u8> = (scsi::SenseInfoBufferLength, cdb16::SenseInfoBufferLength);

/// An SRB of either shape.
#[derive(Clone, Copy)]
pub(super) struct Srb {
    /// The memory from the header on.
    memory: Structure,
    shape: SrbShape,
}

impl Srb {
    pub(super) fn base(self) -> Structure {
        self.memory.offset(HEADER)
    }

    pub(super) fn shape(self) -> SrbShape {
        self.shape
    }

    /// A field. In the new shape, its structure is at offset `at`.
    fn get<T: abi::Plain>(self, (scsi, storage): Both<T>, at: usize) -> T {
        match self.shape {
            SrbShape::Scsi => self.base().get(scsi),
            SrbShape::Storage => self.base().offset(at).get(storage),
        }
    }

    /// Sets a field like [`Self::get`].
    fn set<T: abi::Plain>(self, (scsi, storage): Both<T>, at: usize, value: T) {
        match self.shape {
            SrbShape::Scsi => self.base().set(scsi, value),
            SrbShape::Storage => self.base().offset(at).set(storage, value),
        }
    }

    pub(super) fn set_address(self, address: Address) {
        self.set((scsi::PathId, btl8::Path), ADDRESS_AT, address.path);
        self.set((scsi::TargetId, btl8::Target), ADDRESS_AT, address.target);
        self.set((scsi::Lun, btl8::Lun), ADDRESS_AT, address.lun);
    }

    /// SrbStatus with its flags.
    pub(super) fn status(self) -> u8 {
        self.get(STATUS_FIELD, 0)
    }

    pub(super) fn completion(self, token: u64, latency: Duration) -> Completion {
        let status = self.status();
        let sense_valid = status & wdk::SRB_STATUS_AUTOSENSE_VALID != 0;
        Completion {
            token,
            srb_status: status & STATUS,
            sense_valid,
            scsi_status: self.get(SCSI_STATUS, CDB_AT),
            sense: if sense_valid {
                self.sense()
            } else {
                Vec::new()
            },
            transferred: self.transfer_length(),
            latency,
        }
    }

    pub(super) fn set_status(self, status: u8) {
        self.set(STATUS_FIELD, 0, status);
    }

    /// Changes a field. Fields of a STORAGE_REQUEST_BLOCK do nothing in the other shape.
    pub(super) fn change(self, change: SrbChange) {
        let (field, value) = match change {
            SrbChange::Direction { data_in, data_out } => {
                return self.set_direction(data_in, data_out);
            }
            SrbChange::SrbLength(value) => (storage::SrbLength, value),
            SrbChange::AddressOffset(value) => (storage::AddressOffset, value),
            SrbChange::NumSrbExData(value) => (storage::NumSrbExData, value),
            SrbChange::SrbExDataOffset(value) => (storage::SrbExDataOffset, value),
        };
        if self.shape == SrbShape::Storage {
            self.base().set(field, value);
        }
    }

    fn set_direction(self, data_in: bool, data_out: bool) {
        const BOTH: u32 = wdk::SRB_FLAGS_DATA_IN | wdk::SRB_FLAGS_DATA_OUT;
        let flags = (scsi::SrbFlags, storage::SrbFlags);
        let mut value = self.get(flags, 0) & !BOTH;
        if data_in {
            value |= wdk::SRB_FLAGS_DATA_IN;
        }
        if data_out {
            value |= wdk::SRB_FLAGS_DATA_OUT;
        }
        self.set(flags, 0, value);
    }

    /// Resets SrbStatus and ScsiStatus, so that the SRB can be sent again.
    pub(super) fn renew(self) {
        self.set_status(wdk::SRB_STATUS_PENDING);
        self.set(SCSI_STATUS, CDB_AT, 0);
    }

    pub(super) fn set_transfer_length(self, bytes: u32) {
        self.set(TRANSFER_LENGTH, 0, bytes);
    }

    pub(super) fn transfer_length(self) -> u32 {
        self.get(TRANSFER_LENGTH, 0)
    }

    pub(super) fn cdb(self) -> [u8; 16] {
        self.get((scsi::Cdb, cdb16::Cdb), CDB_AT)
    }

    /// The miniport's sense data, of the length that it set.
    pub(super) fn sense(self) -> Vec<u8> {
        let length = self.get(SENSE_LENGTH, CDB_AT);
        let sense = self.memory.offset(SENSE_AT);
        sense.bytes(usize::from(length).min(SENSE_BYTES))
    }
}
