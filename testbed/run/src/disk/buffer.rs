//! Data buffers like those of applications: scattered pages, at any offset in a page.

use std::sync::Arc;

use rand::{Rng, RngExt};

use testbed_machine::memory::{Block, Memory, MemoryError, PAGE, Placement};
use testbed_storport::request::{Data, Direction};

/// Unbuffered I/O needs buffers aligned to a sector; more is not promised.
pub(crate) const SECTOR: u32 = 512;

/// A data buffer in the machine's memory.
#[derive(Clone, Debug)]
pub struct Buffer {
    /// The memory that it is in.
    pub block: Arc<Block>,
    /// Its offset in the block in bytes.
    pub offset: usize,
    /// Its length in bytes.
    pub bytes: u32,
}

impl Buffer {
    /// Takes `count` buffers of `bytes` from `memory`. They begin anywhere in a
    /// page where a sector, and the adapter's `alignment_mask` (up to a page),
    /// allow it.
    ///
    /// # Errors
    /// The memory's.
    pub fn scattered(
        memory: &Arc<Memory>,
        random: &mut impl Rng,
        alignment_mask: u32,
        count: usize,
        bytes: u32,
    ) -> Result<Vec<Self>, MemoryError> {
        let unit = (SECTOR.max(alignment_mask.saturating_add(1)) as usize).min(PAGE);
        let stride = (bytes as usize + PAGE).next_multiple_of(PAGE);
        let block = Arc::new(memory.allocate(count * stride, Placement::Scattered)?);
        Ok((0..count)
            .map(|index| Self {
                block: Arc::clone(&block),
                offset: index * stride + random.random_range(0..PAGE / unit) * unit,
                bytes,
            })
            .collect())
    }

    /// The buffer as the data of a request.
    pub(crate) fn data(&self, direction: Direction) -> Data {
        Data {
            block: Arc::clone(&self.block),
            offset: self.offset,
            bytes: self.bytes,
            direction,
        }
    }

    /// The first `bytes` of it.
    ///
    /// # Panics
    /// If it is shorter.
    #[must_use]
    pub fn first(&self, bytes: u32) -> Self {
        assert!(
            bytes <= self.bytes,
            "{bytes} bytes of a buffer of {}",
            self.bytes
        );
        Self {
            bytes,
            ..self.clone()
        }
    }

    /// A copy of its bytes.
    #[must_use]
    pub fn read(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.bytes as usize];
        let inside = self.block.read(self.offset, &mut bytes);
        debug_assert!(inside, "a buffer lies in its block");
        bytes
    }

    /// Puts `bytes` at its begin.
    ///
    /// # Panics
    /// If there are more than it holds.
    pub fn write(&self, bytes: &[u8]) {
        assert!(
            bytes.len() <= self.bytes as usize,
            "{} bytes for a buffer of {}",
            bytes.len(),
            self.bytes
        );
        let inside = self.block.write(self.offset, bytes);
        debug_assert!(inside, "a buffer lies in its block");
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    fn offsets(alignment_mask: u32) -> Vec<usize> {
        let memory = Memory::new(1 << 20).expect("memory");
        let mut random = StdRng::seed_from_u64(1);
        Buffer::scattered(&memory, &mut random, alignment_mask, 20, 4096)
            .expect("buffers")
            .iter()
            .map(|buffer| buffer.offset)
            .collect()
    }

    #[test]
    fn buffers_begin_in_the_middle_of_pages_at_sectors() {
        let offsets = offsets(0);
        assert!(offsets.iter().all(|offset| offset % SECTOR as usize == 0));
        assert!(offsets.iter().any(|offset| offset % PAGE != 0));
    }

    #[test]
    fn buffers_obey_the_alignment_of_the_adapter() {
        assert!(offsets(0x7FF).iter().all(|offset| offset % 2048 == 0));
        assert!(offsets(0xFFFF).iter().all(|offset| offset % PAGE == 0));
    }

    #[test]
    fn buffers_do_not_overlap_and_keep_what_is_written() {
        let memory = Memory::new(1 << 20).expect("memory");
        let mut random = StdRng::seed_from_u64(1);
        let buffers =
            Buffer::scattered(&memory, &mut random, 0, 5, 5000).expect("the memory suffices");
        for (index, buffer) in buffers.iter().enumerate() {
            buffer.write(&vec![index as u8; 5000]);
        }
        for (index, buffer) in buffers.iter().enumerate() {
            assert_eq!(buffer.read(), vec![index as u8; 5000]);
        }
    }
}
