//! Storport miniports in safe Rust.
//!
//! Implement [`Miniport`] and name it in [`driver_entry!`]. The types then enforce Storport's
//! rules:
//!
//! - Every callback gets a context of its own ([`StartIo`], [`Dpc`],
//!   [`Interrupt`], ...). Its page states the IRQL and which locks Storport
//!   already holds. Its methods are the routines that may be called there.
//! - Data lies in a cell with the lock that protects it ([`DpcLocked`], [`InterruptLocked`],
//!   ...). There are two ways to open a cell: in a closure that runs with the lock held, or with
//!   a context that proves that no other callback has it open. Locks are taken in the order
//!   StartIo, Dpc, Interrupt ([`level`]).
//! - An [`Srb`] is completed at most once, because completing it consumes it. A
//!   [`StartedSrb`] belongs to the device: it cannot be completed as BUSY. An
//!   `Srb` that is dropped is completed as failed; one that is forgotten, by
//!   `mem::forget` for example, is never completed.
//! - Optional callbacks are traits in [`callback`], which the driver names when
//!   it registers.
//! - A lifetime, `'a`, names the adapter: locks, requests and tables of one
//!   adapter cannot be used with another's.
//!
//! The crate's README shows the parts of a driver, from its manifest on.
//! `examples/ramdisk` is a complete driver.
//!
//! The same code runs in a crash dump. No lock is taken there, and unavailable routines return
//! NOT_IMPLEMENTED, `None` or `false`.
//!
//! `storport-rules.md` in comments and compiler messages is
//! `docs/reference/storport-rules.md`, followed by the rows that are cited;
//! `storport.h` is the header of the WDK.
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

pub mod callback;
mod callbacks;
mod context;
mod data;
mod dma;
mod entry;
mod event;
mod extension;
mod find_adapter;
mod intrinsics;
pub mod level;
mod lock;
mod miniport;
mod newer;
mod performance;
mod pool;
mod port;
mod registers;
mod routines;
mod srb;
mod stack;
mod state;
mod status;

pub use context::{
    AdapterPower, AtDispatch, BuildIo, Changed, Channels, Concurrent, Dpc, Initialize, Interrupt,
    MessageInterrupt, PassiveInitialize, PowerState, Proves, RegistryChange, ResetBus, Restart,
    Scope, Serial, StartIo, StateChange, Stop, SurpriseRemoval, ThreadedDpc, Timer, Tracing,
    UnitControl, UnitEvent, UnitPower, Work,
};
pub use data::{DataError, DataIn, DataOut};
pub use dma::{UncachedExtension, UncachedParts};
#[doc(hidden)]
pub use entry::private;
pub use event::{Event, INSERT_LENGTH, Insert, MAX_INSERTS};
pub use extension::{DpcNumber, Table};
pub use find_adapter::{AdapterLimits, Configured, FindAdapter, InFindAdapter, LimitsError};
pub use lock::{
    DpcLock, DpcLocked, Exclusive, Guard, Held, InterruptLock, InterruptLocked, Locked,
    MessageLock, MessageLocked, StartIoLock, StartIoLocked,
};
pub use miniport::{Interrupted, MessageLocks, Miniport, NotFound, register};
pub use performance::{MessageTarget, Performance, StartIoParameters};
pub use pool::Pool;
pub use registers::{MappedRegisters, RegisterU16};
pub use routines::{
    AtMostDispatch, AtPassive, InStartIo, IssuesDpcs, MayAllocate, MayStall, Optimizes, Processor,
    SeesMessages, WhileRunning,
};
pub use srb::{
    Address, Direction, Element, Failure, Fresh, Function, NotStarted, PnpAction, PnpTarget,
    ScatterGather, Srb, Started, StartedSrb,
};
pub use state::MAX_DPCS;
pub use status::StorStatus;
