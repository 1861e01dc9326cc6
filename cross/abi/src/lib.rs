//! Compile-time assertions that the types and constants of `wdk_sys` agree with the real
//! storport.h: the size and alignment of every structure, the offset and size of every
//! field, the value of every enumerator and constant, and the parameters and result of
//! every function and callback.
//!
//! `cargo check --target` x86_64 or aarch64 `-pc-windows-msvc` checks them. For other
//! targets this crate is empty. The build script makes the assertions from
//! `storport-wdk.json` and the bindings that `wdk_sys` was compiled from, and compares names
//! itself.
#![no_std]

#[cfg(windows)]
mod assertions {
    use core::mem::offset_of;

    use wdk_sys::{storage::*, *};

    include!(concat!(env!("OUT_DIR"), "/assertions.rs"));
}
