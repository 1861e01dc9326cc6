//! Memory that the miniport allocates and frees: pool, contiguous and DMA memory, registry
//! buffers. Each allocation has pages of its own. Pool smaller than a page ends at the end of
//! its page, so that an overrun faults where it happens.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard},
};

use super::{callbacks, lock, port::Port, violations::Rule};
use testbed_machine::memory::{Block, PAGE, Placement};

const UNINITIALISED: u8 = 0xCD;

const ALIGNMENT: usize = 16;

/// The kind of an allocation. It must be freed by the function for the same kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum PoolKind {
    /// StorPortAllocatePool.
    Pool,
    /// StorPortAllocateContiguousMemorySpecifyCacheNode.
    Contiguous,
    /// StorPortAllocateDmaMemory.
    Dma,
    /// StorPortAllocateRegistryBuffer.
    Registry,
}

impl PoolKind {
    fn name(self) -> &'static str {
        match self {
            Self::Pool => "pool",
            Self::Contiguous => "contiguous memory",
            Self::Dma => "DMA memory",
            Self::Registry => "registry buffer",
        }
    }
}

#[derive(Debug)]
struct Allocation {
    kind: PoolKind,
    bytes: usize,
    _block: Block,
    caller: usize,
}

#[derive(Debug, Default)]
pub(super) struct Pool(Mutex<HashMap<usize, Allocation>>);

impl Pool {
    fn lock(&self) -> MutexGuard<'_, HashMap<usize, Allocation>> {
        lock(&self.0)
    }
}

impl Port {
    /// Allocates memory. Returns its address, or 0 if the memory is exhausted.
    pub(super) fn allocate(&self, kind: PoolKind, bytes: usize) -> usize {
        let placement = match kind {
            PoolKind::Pool | PoolKind::Registry => Placement::Scattered,
            PoolKind::Contiguous | PoolKind::Dma => Placement::Contiguous,
        };
        let offset = match (kind, bytes) {
            (PoolKind::Pool, 1..PAGE) => PAGE - bytes.next_multiple_of(ALIGNMENT),
            _ => 0,
        };
        let memory = self.machine.memory();
        let Ok(block) = memory.allocate(offset + bytes, placement) else {
            return 0;
        };
        if kind == PoolKind::Pool {
            let inside = block.write(offset, &vec![UNINITIALISED; bytes]);
            debug_assert!(inside, "the block has these bytes");
        }
        let address = block.address() + offset;
        let allocation = Allocation {
            kind,
            bytes,
            _block: block,
            caller: callbacks::caller(),
        };
        self.pool.lock().insert(address, allocation);
        address
    }

    /// Frees memory that was allocated as `kind`. Returns whether there was such an allocation.
    pub(super) fn free(&self, kind: PoolKind, address: usize) -> bool {
        let mut allocations = self.pool.lock();
        let known = allocations
            .get(&address)
            .is_some_and(|allocation| allocation.kind == kind);
        if known {
            allocations.remove(&address);
        } else {
            drop(allocations);
            self.violation(
                Rule::Pool,
                format_args!(
                    "{address:#x} is freed, but is not allocated {}",
                    kind.name()
                ),
            );
        }
        known
    }

    /// The allocations that were not freed, for the report.
    pub(super) fn pool_leaks(&self) -> Vec<String> {
        let allocations = self.pool.lock();
        let mut leaks: Vec<_> = allocations
            .values()
            .map(|allocation| {
                let place = self
                    .offset_of(allocation.caller)
                    .map_or(String::new(), |offset| {
                        format!(", allocated at +{offset:#x}")
                    });
                let (bytes, kind) = (allocation.bytes, allocation.kind.name());
                format!("{bytes} bytes of {kind}{place}")
            })
            .collect();
        leaks.sort();
        leaks
    }
}
