//! What is concurrent in `crates/storport` and in the driver, shown in every order
//! of events.
//!
//! - `port` is a Storport in memory. `tests/callbacks` drives a miniport by it
//!   from several threads, under Miri, for the target that the driver is for.
//!   `tests/ferrostor` does the same with the driver itself and a virtio disk.
//! - `state` is the crate's own source file for what callbacks share without a
//!   lock. `tests/state.rs` has loom try every order of its steps, and shows
//!   that each model fails if the file is wrong.
//!
//! For any other tool there is nothing here.
#![cfg_attr(all(miri, windows), feature(c_variadic))]

#[cfg(all(miri, windows))]
pub mod port;

#[cfg(loom)]
#[path = "../../../crates/storport/src/state.rs"]
pub mod state;

/// Copies of [`state`] with one fault each.
#[cfg(loom)]
pub mod faulty {
    include!(concat!(env!("OUT_DIR"), "/faulty.rs"));
}
