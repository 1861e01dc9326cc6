//! Storport in memory: implementations of the functions that `crates/storport` calls, in Rust code
//! that Miri can check.
//!
//! A [`Driver`] is a loaded driver, and an [`Adapter`] is one of its devices. Each method of an
//! adapter makes a callback, on the thread that calls it. A thread stands for a processor.
//!
//! Locks work as in Windows: a processor that waits for a lock writes to the queue node in another
//! processor's STOR_LOCK_HANDLE. An SRB and all its parts are freed when it is completed. So it is
//! undefined behaviour if a handle moves, if an SRB is accessed after its completion, or if data is
//! accessed without its lock. Miri reports that with the line.
//!
//! Other errors of the miniport cause a panic: a lock that is taken twice or in the wrong order, a
//! callback that returns with a lock held, and a DPC object that is used before its
//! initialisation.
#![expect(unsafe_code, reason = "this is the other side of the FFI")]

mod adapter;
mod deferred;
pub mod device;
mod driver;
mod exports;
mod plugged;
mod processor;
mod queued_lock;
mod random;
mod request;

pub use adapter::{Adapter, Interrupts, Machine};
pub use device::Device;
pub use driver::Driver;
pub use plugged::{Plugged, tries, until};
pub use random::Random;
pub use request::{Buffer, Done, Field, Request, Shape};
