//! The machine's memory: pages with physical addresses, scattered under the virtual addresses
//! that the driver sees.
//!
//! All memory is one file in memory that is mapped twice. Devices see it in the order of
//! physical addresses. The driver sees single pages, in the order of allocation, in a window of
//! reserved addresses. Freed pages are unmapped from the window.
#![expect(unsafe_code, reason = "maps memory, and copies to and from it")]

mod addresses;
mod frames;

use std::{
    ffi::c_void,
    fs::File,
    io,
    num::NonZero,
    ptr::NonNull,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use nix::{
    errno::Errno,
    sys::{
        memfd::{MFdFlags, memfd_create},
        mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, mprotect, munmap},
    },
};
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryBackend as _, GuestMemoryMmap, VolatileSlice,
};

use self::{addresses::Addresses, frames::Frames};
use crate::lock;

pub use testbed_loader::PAGE;

/// The physical address of the first byte. No physical address fits in 32 bits.
const BASE: u64 = 4 << 30;

/// Virtual pages in the driver's window for each page of memory. It determines how long freed
/// addresses stay unused.
const SPREAD: usize = 16;

const READ_WRITE: ProtFlags = ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE);

/// The memory of this process's machine.
static ATTACHED: OnceLock<Arc<Memory>> = OnceLock::new();

/// Makes `memory` the memory of this process's machine. Later calls do nothing.
pub fn attach(memory: &Arc<Memory>) {
    let _ = ATTACHED.set(Arc::clone(memory));
}

/// The memory of this process's machine; `None` before there is one.
#[must_use]
pub fn attached() -> Option<&'static Arc<Memory>> {
    ATTACHED.get()
}

/// An empty entry in the tables.
const NONE: u32 = u32::MAX;

/// The placement of a block's pages in physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Adjacent virtual pages are never adjacent in physical memory.
    Scattered,
    /// One run of physical memory, for common buffers and the uncached extension.
    Contiguous,
}

/// Memory could not be allocated.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The host refused a mapping.
    #[error("the host has no memory: {0}")]
    Host(#[from] io::Error),
    /// The host's limit on mappings of a process, which is named, is reached.
    #[error(
        "the host allows this process {0} mappings, and each page of scattered memory needs \
         one: use less memory, or raise the limit (sysctl vm.max_map_count)"
    )]
    Mappings(String),
    /// The size is not a multiple of the page size, or exceeds a table of 32-bit page numbers.
    #[error(
        "the machine cannot have {0} bytes of memory: give 64 KiB to 512 GiB, in pages of 4 KiB"
    )]
    Size(u64),
    /// Too few pages are free, or no free run is long enough.
    #[error(
        "the machine's memory of {total} bytes has too little left for {bytes} bytes \
         ({placement:?}): raise --memory"
    )]
    Exhausted {
        /// The requested size.
        bytes: usize,
        /// The requested placement.
        placement: Placement,
        /// The machine's memory in bytes.
        total: u64,
    },
}

/// All memory of the machine.
#[derive(Debug)]
pub struct Memory {
    file: Arc<File>,
    guest: GuestMemoryMmap,
    bytes: u64,
    /// The address of the driver's window.
    window: usize,
    /// The frame behind each virtual page of the window, or [`NONE`].
    frame_of: Box<[AtomicU32]>,
    /// The virtual page of each frame, or [`NONE`].
    page_of: Box<[AtomicU32]>,
    /// Whether a frame was used before, so that it has to be zeroed.
    used_before: Box<[AtomicBool]>,
    free: Mutex<Free>,
}

#[derive(Debug)]
struct Free {
    frames: Frames,
    addresses: Addresses,
}

impl Memory {
    /// Creates a machine's memory of `bytes` (whole pages, 64 KiB to 512 GiB), with physical
    /// addresses from 4 GiB up.
    ///
    /// # Errors
    /// [`MemoryError::Size`], and errors of the host.
    pub fn new(bytes: u64) -> Result<Arc<Self>, MemoryError> {
        if !(64 << 10..=512 << 30).contains(&bytes) || !bytes.is_multiple_of(PAGE as u64) {
            return Err(MemoryError::Size(bytes));
        }
        let count = (bytes / PAGE as u64) as u32;
        let file = Arc::new(memory_file(bytes)?);
        let region = (
            GuestAddress(BASE),
            bytes as usize,
            Some(FileOffset::from_arc(Arc::clone(&file), 0)),
        );
        let guest = GuestMemoryMmap::from_ranges_with_files([region]).map_err(io::Error::other)?;
        let pages = count as usize * SPREAD;
        Ok(Arc::new(Self {
            file,
            guest,
            bytes,
            window: reserve(pages * PAGE)?,
            frame_of: (0..pages).map(|_| AtomicU32::new(NONE)).collect(),
            page_of: (0..count).map(|_| AtomicU32::new(NONE)).collect(),
            used_before: (0..count).map(|_| AtomicBool::new(false)).collect(),
            free: Mutex::new(Free {
                frames: Frames::new(count),
                addresses: Addresses::new(pages),
            }),
        }))
    }

    /// The size of the memory.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Allocates zeroed pages for `bytes` (at least one) at adjacent virtual addresses, with an
    /// unmapped page behind them.
    ///
    /// # Errors
    /// [`MemoryError::Exhausted`], [`MemoryError::Mappings`], and errors of the host.
    pub fn allocate(
        self: &Arc<Self>,
        bytes: usize,
        placement: Placement,
    ) -> Result<Block, MemoryError> {
        let exhausted = MemoryError::Exhausted {
            bytes,
            placement,
            total: self.bytes,
        };
        let count = bytes.div_ceil(PAGE).max(1);
        let Some((first_page, frames)) = self.take(count, placement) else {
            return Err(exhausted);
        };
        // From here on, dropping the block undoes the allocation.
        let block = Block {
            memory: Arc::clone(self),
            first_page,
            frames,
            bytes,
        };
        self.map(&block)?;
        Ok(block)
    }

    /// The physical address of `address`, if it is mapped memory.
    #[must_use]
    pub fn physical(&self, address: usize) -> Option<u64> {
        self.run(address, 1).map(|(physical, _)| physical)
    }

    /// The physical address of `address`, and how many of the following `bytes` are contiguous
    /// in physical memory.
    #[must_use]
    pub fn run(&self, address: usize, bytes: usize) -> Option<(u64, usize)> {
        let offset = address.checked_sub(self.window)?;
        let mut page = offset / PAGE;
        let mut frame = self.frame(page)?;
        let physical = physical_of(frame) + (offset % PAGE) as u64;
        let mut length = PAGE - offset % PAGE;
        while length < bytes {
            page += 1;
            frame += 1;
            if self.frame(page) != Some(frame) {
                break;
            }
            length += PAGE;
        }
        Some((physical, length.min(bytes)))
    }

    /// The virtual address that maps `physical`.
    #[must_use]
    pub fn virtual_address(&self, physical: u64) -> Option<usize> {
        let offset = usize::try_from(physical.checked_sub(BASE)?).ok()?;
        match self.page_of.get(offset / PAGE)?.load(Ordering::Acquire) {
            NONE => None,
            page => Some(self.window + page as usize * PAGE + offset % PAGE),
        }
    }

    /// The memory by physical addresses, as devices see it.
    #[must_use]
    pub fn guest(&self) -> &GuestMemoryMmap {
        &self.guest
    }

    /// An alias of the mapped byte at `address` that stays accessible while the driver's access
    /// is revoked. Physically contiguous memory is contiguous there.
    pub fn beside(&self, address: usize) -> Option<usize> {
        let physical = GuestAddress(self.physical(address)?);
        let host = self.guest.get_host_address(physical).ok()?;
        Some(host.addr())
    }

    /// Revokes the driver's access to these mapped pages: each access faults. Devices still
    /// reach them.
    ///
    /// # Errors
    /// Errors of the host, whose limit on mappings may be reached.
    pub fn revoke(&self, address: usize, bytes: usize) -> io::Result<()> {
        self.protect(address, bytes, ProtFlags::PROT_NONE)
    }

    /// Restores the driver's access.
    ///
    /// # Errors
    /// As for [`Self::revoke`].
    pub fn restore(&self, address: usize, bytes: usize) -> io::Result<()> {
        self.protect(address, bytes, READ_WRITE)
    }

    fn protect(&self, address: usize, bytes: usize, flags: ProtFlags) -> io::Result<()> {
        let mut pages = (address..address.saturating_add(bytes)).step_by(PAGE);
        let first = NonNull::new(address as *mut c_void).ok_or(io::ErrorKind::InvalidInput)?;
        if !address.is_multiple_of(PAGE) || pages.any(|page| self.physical(page).is_none()) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: the pages are mapped in the window. Rust holds no reference into them, and
        // the signal handler reports an access that faults.
        Ok(unsafe { mprotect(first, bytes, flags) }?)
    }

    /// Whether `address` is in the driver's window, mapped or not.
    pub(crate) fn covers(&self, address: usize) -> bool {
        (self.window..self.window + self.frame_of.len() * PAGE).contains(&address)
    }

    fn frame(&self, page: usize) -> Option<u32> {
        match self.frame_of.get(page)?.load(Ordering::Acquire) {
            NONE => None,
            frame => Some(frame),
        }
    }

    fn take(&self, count: usize, placement: Placement) -> Option<(usize, Vec<u32>)> {
        let mut free = lock(&self.free);
        let frames = match placement {
            Placement::Scattered => free.frames.take_scattered(count)?,
            Placement::Contiguous => {
                let first = free.frames.take_run(count)?;
                (first..first + count as u32).collect()
            }
        };
        if let Some(first_page) = free.addresses.take(count) {
            return Some((first_page, frames));
        }
        for frame in frames {
            free.frames.give_back(frame);
        }
        None
    }

    /// Maps the block's pages with as few mappings as possible, and zeroes frames that were
    /// used before.
    fn map(&self, block: &Block) -> Result<(), MemoryError> {
        let mut page = block.first_page;
        for run in block.frames.chunk_by(|a, b| a + 1 == *b) {
            self.map_run(page, run[0], run.len())?;
            for (page, &frame) in (page..).zip(run) {
                if self.used_before[frame as usize].swap(true, Ordering::Relaxed) {
                    let at = (self.window + page * PAGE) as *mut u8;
                    // SAFETY: `map_run` made the page accessible, and nothing else knows its
                    // address yet.
                    unsafe { at.write_bytes(0, PAGE) };
                }
                self.frame_of[page].store(frame, Ordering::Release);
                self.page_of[frame as usize].store(page as u32, Ordering::Release);
            }
            page += run.len();
        }
        Ok(())
    }

    fn map_run(&self, page: usize, frame: u32, count: usize) -> Result<(), MemoryError> {
        let at = NonZero::new(self.window + page * PAGE);
        let bytes =
            NonZero::new(count * PAGE).ok_or(io::Error::from(io::ErrorKind::InvalidInput))?;
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_FIXED;
        let offset = i64::from(frame) * PAGE as i64;
        // SAFETY: the range is in the window, which this memory owns, and no other block uses
        // the pages.
        let mapped = unsafe { mmap(at, bytes, READ_WRITE, flags, &self.file, offset) };
        match mapped {
            Ok(_) => Ok(()),
            Err(Errno::ENOMEM) => {
                let limit = std::fs::read_to_string("/proc/sys/vm/max_map_count");
                let limit = limit.map_or_else(|_| "only so many".into(), |text| text.trim().into());
                Err(MemoryError::Mappings(limit))
            }
            Err(error) => Err(io::Error::from(error).into()),
        }
    }

    fn unmap(&self, block: &Block) {
        for (page, &frame) in (block.first_page..).zip(&block.frames) {
            self.frame_of[page].store(NONE, Ordering::Release);
            self.page_of[frame as usize].store(NONE, Ordering::Release);
        }
        let reserved = self.reserve_again(block);
        let mut free = lock(&self.free);
        for &frame in &block.frames {
            free.frames.give_back(frame);
        }
        if reserved {
            free.addresses.give_back(block.first_page);
        }
    }

    /// Unmaps the block's pages and keeps their addresses reserved. Returns whether that
    /// succeeded.
    fn reserve_again(&self, block: &Block) -> bool {
        let (at, bytes) = (block.address(), block.frames.len() * PAGE);
        // SAFETY: the pages are the block's, which is being dropped.
        if unsafe { reserve_at(at, bytes, MapFlags::MAP_FIXED) }.is_ok() {
            return true;
        }
        // At the host's limit a mapping over others fails, but not after they are unmapped. The
        // unmapping cannot fail, as it splits no mapping.
        if let Some(at) = NonNull::new(at as *mut c_void) {
            // SAFETY: as above.
            let _ = unsafe { munmap(at, bytes) };
        }
        // SAFETY: does not replace what another thread may have mapped there.
        unsafe { reserve_at(at, bytes, MapFlags::MAP_FIXED_NOREPLACE) }.is_ok()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Some(window) = NonNull::new(self.window as *mut c_void) {
            // SAFETY: `new` reserved the window. Each block in it holds a reference to the
            // memory, so none is left.
            let _ = unsafe { munmap(window, self.frame_of.len() * PAGE) };
        }
    }
}

/// Allocated pages. Dropping the block frees them.
#[derive(Debug)]
pub struct Block {
    memory: Arc<Memory>,
    first_page: usize,
    frames: Vec<u32>,
    bytes: usize,
}

impl Block {
    /// The first virtual address, page-aligned.
    #[must_use]
    pub fn address(&self) -> usize {
        self.memory.window + self.first_page * PAGE
    }

    /// The requested length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether the requested length is 0.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies out of the block. Returns false for a range outside it.
    #[must_use]
    pub fn read(&self, offset: usize, into: &mut [u8]) -> bool {
        let Some(slice) = self.slice(offset, into.len()) else {
            return false;
        };
        slice.copy_to(into);
        true
    }

    /// Copies into the block. Returns false for a range outside it.
    #[must_use]
    pub fn write(&self, offset: usize, from: &[u8]) -> bool {
        let Some(slice) = self.slice(offset, from.len()) else {
            return false;
        };
        slice.copy_from(from);
        true
    }

    fn slice(&self, offset: usize, bytes: usize) -> Option<VolatileSlice<'_>> {
        if offset.checked_add(bytes)? > self.bytes {
            return None;
        }
        // SAFETY: the block's pages stay mapped as long as it lives, and the range is inside.
        // Driver and devices may write at the same time, so the slice copies volatile memory.
        Some(unsafe { VolatileSlice::new((self.address() + offset) as *mut u8, bytes) })
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.memory.unmap(self);
    }
}

fn physical_of(frame: u32) -> u64 {
    BASE + u64::from(frame) * PAGE as u64
}

fn memory_file(bytes: u64) -> io::Result<File> {
    let file = File::from(memfd_create(c"machine memory", MFdFlags::MFD_CLOEXEC)?);
    file.set_len(bytes)?;
    Ok(file)
}

/// Reserves addresses at which every access faults.
pub(crate) fn reserve(bytes: usize) -> io::Result<usize> {
    // SAFETY: makes a new mapping at an address that the host chooses.
    unsafe { reserve_at(0, bytes, MapFlags::empty()) }
}

/// # Safety
/// With MAP_FIXED the caller must own the addresses.
unsafe fn reserve_at(at: usize, bytes: usize, flags: MapFlags) -> io::Result<usize> {
    let bytes = NonZero::new(bytes).ok_or(io::ErrorKind::InvalidInput)?;
    let flags = flags | MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
    // SAFETY: as the caller promises.
    let window = unsafe { mmap_anonymous(NonZero::new(at), bytes, ProtFlags::PROT_NONE, flags) }?;
    Ok(window.addr().get())
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress};

    use super::{Arc, BASE, Block, Memory, MemoryError, PAGE, Placement};
    use crate::testing;

    const MIB: usize = 1 << 20;

    fn machine(bytes: usize) -> Arc<Memory> {
        Memory::new(bytes as u64).expect("memory for a test")
    }

    fn allocated(memory: &Arc<Memory>, bytes: usize, placement: Placement) -> Block {
        memory.allocate(bytes, placement).expect("memory")
    }

    #[test]
    fn a_device_reads_what_the_driver_wrote_page_by_page() {
        let memory = machine(4 * MIB);
        let block = allocated(&memory, 3 * PAGE + 100, Placement::Scattered);
        let text: Vec<u8> = (0..block.len())
            .map(|at| (at * 31 + at / PAGE) as u8)
            .collect();

        assert!(block.write(0, &text));

        for offset in (0..block.len()).step_by(50) {
            let physical = memory.physical(block.address() + offset).expect("mapped");
            let seen: u8 = memory
                .guest()
                .read_obj(GuestAddress(physical))
                .expect("memory");
            assert_eq!(seen, text[offset]);
            assert_eq!(
                memory.virtual_address(physical),
                Some(block.address() + offset)
            );
        }
    }

    #[test]
    fn contiguous_memory_is_one_run_to_its_end_and_a_scattered_page_is_one() {
        let memory = machine(4 * MIB);
        let scattered = allocated(&memory, MIB, Placement::Scattered);
        let block = allocated(&memory, MIB, Placement::Contiguous);
        let first = memory.physical(block.address()).expect("mapped");

        assert_eq!(memory.run(block.address(), MIB), Some((first, MIB)));
        assert_eq!(memory.run(block.address() + 5, 10), Some((first + 5, 10)));
        assert_eq!(
            memory.run(block.address() + PAGE, 2 * MIB),
            Some((first + PAGE as u64, MIB - PAGE))
        );
        let run = memory.run(scattered.address() + 100, MIB).expect("mapped");
        assert_eq!(run.1, PAGE - 100);
    }

    #[test]
    fn a_freed_page_has_no_address_and_comes_back_zeroed_elsewhere() {
        let memory = machine(64 << 10);
        let block = allocated(&memory, 64 << 10, Placement::Contiguous);
        assert!(block.write(0, &[0xa5; 64 << 10]));
        let address = block.address();
        let physical = memory.physical(address).expect("mapped");

        drop(block);

        assert_eq!(memory.physical(address), None);
        assert_eq!(memory.run(address, 1), None);
        assert_eq!(memory.virtual_address(physical), None);
        let next = allocated(&memory, 64 << 10, Placement::Contiguous);
        assert_ne!(next.address(), address);
        let mut seen = [1; 64 << 10];
        assert!(next.read(0, &mut seen));
        assert!(seen.iter().all(|&byte| byte == 0));
    }

    #[test]
    fn ranges_outside_a_block_are_refused() {
        let memory = machine(MIB);
        let block = allocated(&memory, 100, Placement::Scattered);

        assert!(block.write(0, &[1; 100]));
        assert!(!block.write(1, &[1; 100]));
        assert!(!block.read(usize::MAX, &mut [0; 2]));
        assert!(block.read(100, &mut []));
        assert_eq!(memory.physical(block.address() + PAGE), None);
        assert_eq!(memory.physical(0), None);
        assert_eq!(memory.virtual_address(0), None);
        assert_eq!(memory.virtual_address(BASE + MIB as u64), None);
    }

    #[test]
    fn a_refused_allocation_leaves_the_rest_usable() {
        let memory = machine(MIB);

        for placement in [Placement::Scattered, Placement::Contiguous] {
            let error = memory
                .allocate(MIB + 1, placement)
                .expect_err("more than there is");

            assert!(matches!(error, MemoryError::Exhausted { .. }));
            assert!(memory.allocate(MIB / 2, placement).is_ok());
        }
    }

    #[test]
    #[ignore = "uses up the mappings of its process: another test calls it in one of its own"]
    fn use_up_the_mappings() {
        let memory = machine(1 << 30);
        let mut held = Vec::new();

        let error = loop {
            match memory.allocate(MIB, Placement::Scattered) {
                Ok(block) => held.push(block),
                Err(error) => break error,
            }
        };

        assert!(matches!(error, MemoryError::Mappings(_)), "{error}");
        let limit = std::fs::read_to_string("/proc/sys/vm/max_map_count").expect("a limit");
        assert!(error.to_string().contains(limit.trim()), "{error}");
        held.truncate(held.len() / 2);
        assert!(memory.allocate(MIB, Placement::Scattered).is_ok());
    }

    #[test]
    fn the_hosts_limit_on_mappings_is_reported_and_survived() {
        let output = testing::run("memory::tests::use_up_the_mappings", "");

        assert!(output.status.success(), "{output:?}");
    }

    #[test]
    fn a_machine_of_part_of_a_page_or_none_is_refused() {
        for bytes in [0, 4096, (1 << 20) + 1, u64::MAX] {
            assert!(matches!(Memory::new(bytes), Err(MemoryError::Size(_))));
        }
    }

    #[test]
    fn many_threads_get_pages_of_their_own() {
        let memory = machine(16 * MIB);

        std::thread::scope(|scope| {
            for number in 0..4_u8 {
                let memory = &memory;
                scope.spawn(move || {
                    for round in 0..100 {
                        let block = allocated(memory, PAGE * (1 + round % 7), Placement::Scattered);
                        assert!(block.write(0, &vec![number; block.len()]));
                        let mut seen = vec![0; block.len()];
                        assert!(block.read(0, &mut seen));
                        assert!(seen.iter().all(|&byte| byte == number));
                    }
                });
            }
        });

        assert!(memory.allocate(16 * MIB, Placement::Contiguous).is_ok());
    }
}
