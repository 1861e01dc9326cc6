//! The atomics this crate is written with: the processor's, or loom's when a
//! model is run (`RUSTFLAGS="--cfg loom" cargo test --lib`).

#[cfg(not(all(loom, test)))]
pub(crate) use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering, fence};

#[cfg(all(loom, test))]
pub(crate) use loom::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering, fence};
