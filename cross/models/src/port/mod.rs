//! Storport in memory: the calls that `crates/storport` makes, answered by
//! Rust code that Miri can look into.
//!
//! A [`Driver`] is what DriverEntry registered, an [`Adapter`] is one device of
//! it; its methods are the events in which Storport calls the miniport, each
//! on the thread that calls the method, as on a processor. Locks are real: the
//! queue node in a STOR_LOCK_HANDLE is linked and written by whoever waits. An
//! SRB and all that belongs to it is freed when it is completed. So a handle
//! that moves, an SRB that is touched late, data that is reached without its
//! lock, is undefined behaviour here, and Miri names the line.
//!
//! What is checked without Miri's help panics, in Storport's name: a lock
//! taken twice or out of order, a callback that returns holding one, a DPC
//! object used before its initialisation.
#![expect(unsafe_code, reason = "this is the other side of the FFI")]

mod adapter;
pub mod device;
mod driver;
mod exports;
mod later;
mod processor;
mod queued_lock;
mod random;
mod request;

pub use adapter::{Adapter, Found, Interrupts, Machine, UnitChange};
pub use device::Device;
pub use driver::Driver;
pub use random::Random;
pub use request::{Buffer, Done, Field, Request, Shape};
