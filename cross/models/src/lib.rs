//! Tests of the concurrent code in `crates/storport` and in the driver.
//!
//! - `port` implements Storport in memory. With it, `tests/callbacks` calls a miniport from
//!   several threads under Miri, for the driver's own target. `tests/ferrostor` does the same
//!   with the driver itself and a virtio disk.
//! - `state` is `crates/storport/src/state.rs`, which has the state that callbacks share without
//!   a lock. `tests/phases.rs` tests it on one thread. In `tests/state.rs`, loom tries every
//!   order of its steps. Each model also fails for a faulty copy of the file.
#![cfg_attr(all(miri, windows), feature(c_variadic))]

#[cfg(all(miri, windows))]
pub mod port;

#[path = "../../../crates/storport/src/state.rs"]
pub mod state;

/// Copies of [`state`], each with one fault.
#[cfg(loom)]
pub mod faulty {
    include!(concat!(env!("OUT_DIR"), "/faulty.rs"));
}
