//! Memory that the miniport asks for and gives back: pool, contiguous and DMA
//! memory, registry buffers. Each piece has pages of its own, and pool that does
//! not fill a page lies at its end, so that running over the end is a crash at
//! the place.
#![expect(unsafe_code, reason = "lays out memory for the driver")]

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{abi::Structure, port::Port, violations::Rule};
use testbed_machine::memory::{Block, PAGE, Placement};

/// What pool is filled with: it is not initialised.
const UNINITIALISED: u8 = 0xCD;

/// What pool is aligned to.
const ALIGNMENT: usize = 16;

/// What a piece was asked for as: it must be given back as that.
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
struct Piece {
    kind: PoolKind,
    block: Block,
    /// Where it was asked for.
    caller: usize,
}

/// What an adapter has of it.
#[derive(Debug, Default)]
pub(super) struct Pool(Mutex<HashMap<usize, Piece>>);

impl Pool {
    fn lock(&self) -> MutexGuard<'_, HashMap<usize, Piece>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Port {
    /// Allocates; 0 if there is no memory left.
    pub(super) fn allocate(&self, kind: PoolKind, bytes: usize, caller: usize) -> usize {
        let placement = match kind {
            PoolKind::Pool | PoolKind::Registry => Placement::Scattered,
            PoolKind::Contiguous | PoolKind::Dma => Placement::Contiguous,
        };
        let Ok(block) = self.machine.memory().allocate(bytes, placement) else {
            return 0;
        };
        let into_page = match (kind, bytes) {
            (PoolKind::Pool, 1..PAGE) => PAGE - bytes.next_multiple_of(ALIGNMENT),
            _ => 0,
        };
        let address = block.address() + into_page;
        if kind == PoolKind::Pool {
            // SAFETY: the block has these bytes, and nobody else has it yet.
            unsafe { Structure::at(address) }.fill(bytes, UNINITIALISED);
        }
        self.pool.lock().insert(
            address,
            Piece {
                kind,
                block,
                caller,
            },
        );
        address
    }

    /// Gives back what was allocated as `kind`; whether it was.
    pub(super) fn free(&self, kind: PoolKind, address: usize, caller: usize) -> bool {
        let mut pieces = self.pool.lock();
        let known = pieces.get(&address).is_some_and(|piece| piece.kind == kind);
        if known {
            pieces.remove(&address);
        } else {
            drop(pieces);
            self.violation(
                Rule::Pool,
                caller,
                format_args!(
                    "{address:#x} is freed, but is not allocated {}",
                    kind.name()
                ),
            );
        }
        known
    }

    /// What was not given back.
    pub(super) fn pool_leaks(&self) -> Vec<String> {
        let pieces = self.pool.lock();
        let mut leaks: Vec<_> = pieces
            .values()
            .map(|piece| {
                let place = self
                    .offset_of(piece.caller)
                    .map_or(String::new(), |offset| {
                        format!(", allocated at +{offset:#x}")
                    });
                format!(
                    "{} bytes of {}{place}",
                    piece.block.len(),
                    piece.kind.name()
                )
            })
            .collect();
        leaks.sort();
        leaks
    }
}
