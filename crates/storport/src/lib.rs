//! Storport miniports in safe Rust.
//!
//! Implement [`Miniport`], name it in [`driver_entry!`], and Storport's rules
//! are types:
//!
//! - Every callback gets a context of its own ([`StartIo`], [`Dpc`],
//!   [`Interrupt`], ...), which says the IRQL and what Storport already holds.
//!   Storport's routines are methods of [`Context`]; each asks for a right, such
//!   as [`AtMostDispatch`], that only some contexts have.
//! - Data lies in the lock that protects it ([`DpcLocked`],
//!   [`InterruptLocked`], ...). It opens in a closure that runs with the lock
//!   held, or with a context that is entered holding it. A lock is only taken
//!   in the order StartIo, Dpc, Interrupt ([`level`]).
//! - An [`Srb`] is completed exactly once, because completing it consumes it. A
//!   [`StartedSrb`] is the device's: it can't be sent back to wait.
//! - A lifetime, `'a`, names the adapter: locks, requests and tables of one
//!   adapter can't be used with another's.
//!
//! What a driver is made of, from its manifest on, is in the crate's README;
//! `examples/ramdisk` is a whole one.
//!
//! In a crash dump the same code runs: no lock is taken, and a routine that a
//! dump stack lacks says that there is nothing to be had.
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

mod allowed;
mod callbacks;
mod context;
mod dma;
mod entry;
mod extension;
mod find_adapter;
mod intrinsics;
mod later;
pub mod level;
mod lock;
mod miniport;
mod performance;
mod pool;
mod port;
mod registers;
mod srb;
mod stack;
mod state;

pub use allowed::{
    AtMostDispatch, AtPassive, Context, InFindAdapter, InStartIo, IssuesDpcs, MayAllocate,
    MayStall, Optimizes, SeesMessages, WhileRunning,
};
pub use context::{
    AdapterPower, AtDispatch, BuildIo, Changed, Channels, Concurrent, Dpc, Initialize, Interrupt,
    MessageInterrupt, PassiveInitialize, PowerState, Proves, RegistryChange, ResetBus, Restart,
    Scope, Serial, StartIo, StateChange, Stop, SurpriseRemoval, ThreadedDpc, Timer, Tracing,
    UnitControl, UnitEvent, UnitPower, Work,
};
pub use dma::UncachedExtension;
#[doc(hidden)]
pub use entry::private;
pub use extension::{DpcNumber, Table};
pub use find_adapter::{AdapterLimits, Configured, FindAdapter};
pub use lock::{
    DpcLock, DpcLocked, Guard, Held, InterruptLock, InterruptLocked, LockRefused, Locked,
    MessageLock, MessageLocked, StartIoLock, StartIoLocked,
};
pub use miniport::{Callback, Interrupted, MessageLocks, Miniport, NotFound, register};
pub use performance::{Performance, StartIoParameters};
pub use pool::Pool;
pub use registers::MappedRegisters;
pub use srb::{
    Address, Failure, Fresh, Function, NotStarted, PnpAction, PnpTarget, ScatterGather, Srb,
    Started, StartedSrb,
};
pub use state::MAX_DPCS;
