//! Compile-time assertions that the types and constants of `wdk_sys` are those
//! of the real storport.h: the size and alignment of every structure, the offset
//! and size of every field, the value of every enumerator and constant, the
//! parameters and results of every function and callback.
//!
//! `cargo check --target` x86_64 or aarch64 `-pc-windows-msvc` is the proof; for
//! other targets this crate is empty. The build script makes the assertions of
//! the bindings that `wdk_sys` was compiled from and of `storport-wdk.json`, and
//! compares names itself.
#![no_std]

#[cfg(windows)]
#[expect(
    clippy::identity_op,
    reason = "a bit-field's place is its unit's plus a bit, which may be 0"
)]
mod assertions {
    use core::mem::offset_of;

    use wdk_sys::{storage::*, *};

    include!(concat!(env!("OUT_DIR"), "/assertions.rs"));
}
