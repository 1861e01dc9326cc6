//! The machine's memory: pages with a physical address, scattered under the
//! virtual addresses that the driver sees.

use std::sync::Arc;

use vm_memory::GuestMemoryMmap;

/// Bytes in a page, as on every x64 Windows.
pub const PAGE: usize = 4096;

/// How the pages of a block lie in physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Neighbouring virtual pages are never neighbours in physical memory.
    Scattered,
    /// One run of physical memory: common buffers and the uncached extension.
    Contiguous,
}

/// Why memory could not be had.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The host refused a mapping.
    #[error("the host gives no memory: {0}")]
    Host(#[from] std::io::Error),
    /// All pages are in use, or no run is long enough.
    #[error("no {bytes} bytes of {placement:?} memory are left of the machine's {total}")]
    Exhausted {
        /// What was asked for.
        bytes: usize,
        /// How it should lie.
        placement: Placement,
        /// The machine's memory in bytes.
        total: u64,
    },
}

/// All memory of the machine.
#[derive(Debug)]
pub struct Memory {}

impl Memory {
    /// A machine with `bytes` of memory, physical addresses from 4 GiB up.
    ///
    /// # Errors
    /// The host's, if it gives none.
    pub fn new(_bytes: u64) -> Result<Arc<Self>, MemoryError> {
        todo!()
    }

    /// Takes zeroed pages for `bytes` and maps them side by side.
    ///
    /// # Errors
    /// [`MemoryError::Exhausted`], and the host's.
    pub fn allocate(
        self: &Arc<Self>,
        _bytes: usize,
        _placement: Placement,
    ) -> Result<Block, MemoryError> {
        todo!()
    }

    /// The physical address behind `address`, if it is mapped memory.
    #[must_use]
    pub fn physical(&self, _address: usize) -> Option<u64> {
        todo!()
    }

    /// The physical address of `address`, and how many of the `bytes` from
    /// there on follow it in physical memory too.
    #[must_use]
    pub fn run(&self, _address: usize, _bytes: usize) -> Option<(u64, usize)> {
        todo!()
    }

    /// The virtual address at which physical address `physical` is mapped.
    #[must_use]
    pub fn virtual_address(&self, _physical: u64) -> Option<usize> {
        todo!()
    }

    /// The memory as devices see it: physical addresses, nothing else.
    #[must_use]
    pub fn guest(&self) -> &GuestMemoryMmap {
        todo!()
    }
}

/// Pages in use; dropping it gives them back.
#[derive(Debug)]
pub struct Block {}

impl Block {
    /// Its first virtual address, page-aligned.
    #[must_use]
    pub fn address(&self) -> usize {
        todo!()
    }

    /// Its length in bytes: what was asked for.
    #[must_use]
    pub fn len(&self) -> usize {
        todo!()
    }

    /// Whether nothing was asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies out of the block, or nothing if the range is outside.
    #[must_use]
    pub fn read(&self, _offset: usize, _into: &mut [u8]) -> bool {
        todo!()
    }

    /// Copies into the block, or nothing if the range is outside.
    #[must_use]
    pub fn write(&self, _offset: usize, _from: &[u8]) -> bool {
        todo!()
    }
}
