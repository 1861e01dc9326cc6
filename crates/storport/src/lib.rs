//! Storport miniports in safe Rust.
//!
//! Implement [`Miniport`], call [`register`] in DriverEntry, and Storport's
//! rules are types:
//!
//! - Every callback gets a context of its own ([`StartIo`], [`Dpc`],
//!   [`Interrupt`], ...), which says the IRQL, what Storport already holds, and
//!   which routines may be called from there.
//! - Data lies in the lock that protects it ([`DpcLocked`],
//!   [`InterruptLocked`], ...). It opens in a closure that runs with the lock
//!   held, or with a context that is entered holding it. A lock is only taken
//!   in the order StartIo, Dpc, Interrupt ([`level`]).
//! - An [`Srb`] is completed exactly once, because completing it consumes it.
//! - A lifetime, `'a`, names the adapter: locks, requests and tables of one
//!   adapter can't be used with another's.
//!
//! The rule book's rows that are cited are those of the project's notes on
//! Storport; `storport.h` is the WDK's header.
#![no_std]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::todo,
    clippy::unreachable,
    clippy::unwrap_used
)]

mod callbacks;
mod context;
mod dma;
mod extension;
mod intrinsics;
pub mod level;
mod lock;
mod miniport;
mod port;
mod registers;
mod srb;

pub use context::{
    AdapterLimits, BuildIo, Dpc, FindAdapter, Initialize, Interrupt, IssuesDpcs, MessageInterrupt,
    PassiveInitialize, Proves, ResetBus, Restart, Scope, StartIo, Stop,
};
pub use dma::UncachedExtension;
pub use extension::{DpcNumber, MAX_DPCS, Table};
pub use lock::{
    DpcLock, DpcLocked, Guard, Held, InterruptLock, InterruptLocked, Locked, MessageLock,
    MessageLocked, StartIoLock, StartIoLocked,
};
pub use miniport::{Interrupted, MessageLocks, Miniport, NotFound, register};
pub use registers::MappedRegisters;
pub use srb::{Address, Failure, Function, ScatterGather, Srb};
