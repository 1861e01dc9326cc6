//! The atomics that this crate uses: the processor's, or loom's in a model
//! (`RUSTFLAGS="--cfg loom" cargo test --lib`).

#[cfg(not(all(loom, test)))]
pub(crate) use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering, fence};

#[cfg(all(loom, test))]
pub(crate) use loom::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering, fence};
