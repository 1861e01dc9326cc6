//! A request's data as views that copy in and out.
//!
//! The pages of a buffer may be written by others at any time: by threads of the
//! process that owns them, or for another request of the same pages. So there is
//! no reference to them, only copies of bytes that race with nothing in Rust's
//! sense.
#![expect(unsafe_code, reason = "the bytes are at a raw address")]

#[cfg(not(all(target_arch = "x86_64", not(miri))))]
use core::sync::atomic::{AtomicU8, Ordering};
use core::{fmt, marker::PhantomData, ptr::NonNull};

use crate::{srb::Direction, status::StorStatus};

/// Why a request's data cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataError {
    /// The SRB's flags say this direction, not the one that was asked for.
    Direction(Direction),
    /// Storport cannot map the data.
    NotMapped(StorStatus),
}

impl fmt::Display for DataError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direction(direction) => {
                write!(f, "the SRB's data has the direction {direction:?}")
            }
            Self::NotMapped(status) => write!(f, "StorPortGetSystemAddress: {status}"),
        }
    }
}

impl core::error::Error for DataError {}

/// The mapped bytes of a request.
///
/// # Invariants
///
/// `length` bytes at `first` are mapped, and readable and writable, for `'s`,
/// for which the SRB is borrowed: Storport maps as many as the SRB's
/// DataTransferLength, until the SRB is completed. Others may access them at
/// the same time, so they are accessed by [`read`] and [`write`] alone.
pub(crate) struct Bytes<'s> {
    first: NonNull<u8>,
    length: usize,
    request: PhantomData<&'s ()>,
}

impl Bytes<'_> {
    /// # Safety
    /// The invariants hold for the new lifetime.
    pub(crate) unsafe fn new(first: NonNull<u8>, length: usize) -> Self {
        Self {
            first,
            length,
            request: PhantomData,
        }
    }

    /// Where `length` bytes from `offset` lie, cut to the data's end.
    fn part(&self, offset: usize, length: usize) -> (*mut u8, usize) {
        let left = self.length.saturating_sub(offset);
        let offset = offset.min(self.length);
        (self.first.as_ptr().wrapping_add(offset), length.min(left))
    }
}

/// A Data-In Buffer: what the initiator reads. It can only be written.
#[must_use]
pub struct DataIn<'s>(pub(crate) Bytes<'s>);

impl DataIn<'_> {
    /// Its length in bytes: the SRB's DataTransferLength.
    #[must_use]
    pub fn length(&self) -> usize {
        self.0.length
    }

    /// Copies `bytes` to `offset`, cut to the buffer's end. Says how many bytes
    /// were copied.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) -> usize {
        let (to, length) = self.0.part(offset, bytes.len());
        let bytes = bytes.get(..length).unwrap_or_default();
        // SAFETY: `Bytes`' invariants: there are `length` bytes.
        unsafe { write(to, bytes) };
        length
    }
}

/// A Data-Out Buffer: what the initiator sends. It can only be read.
#[must_use]
pub struct DataOut<'s>(pub(crate) Bytes<'s>);

impl DataOut<'_> {
    /// Its length in bytes: the SRB's DataTransferLength.
    #[must_use]
    pub fn length(&self) -> usize {
        self.0.length
    }

    /// Copies bytes from `offset` on into `bytes`, cut to the buffer's end. Says
    /// how many bytes were copied. The initiator may have changed them at the
    /// next call.
    pub fn read(&self, offset: usize, bytes: &mut [u8]) -> usize {
        let (from, length) = self.0.part(offset, bytes.len());
        let bytes = bytes.get_mut(..length).unwrap_or_default();
        // SAFETY: `Bytes`' invariants: there are `length` bytes.
        unsafe { read(from, bytes) };
        length
    }
}

/// Writes bytes that others may access at the same time.
///
/// # Safety
/// As many bytes as `bytes` has are mapped at `to`.
unsafe fn write(to: *mut u8, bytes: &[u8]) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: The caller's promise.
    unsafe {
        copy(to, bytes.as_ptr(), bytes.len());
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    for (index, byte) in bytes.iter().enumerate() {
        // SAFETY: The caller's promise.
        let shared = unsafe { AtomicU8::from_ptr(to.wrapping_add(index)) };
        shared.store(*byte, Ordering::Relaxed);
    }
}

/// Reads bytes that others may access at the same time.
///
/// # Safety
/// As many bytes as `bytes` has are mapped at `from`.
unsafe fn read(from: *mut u8, bytes: &mut [u8]) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: The caller's promise.
    unsafe {
        copy(bytes.as_mut_ptr(), from, bytes.len());
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    for (index, byte) in bytes.iter_mut().enumerate() {
        // SAFETY: The caller's promise.
        let shared = unsafe { AtomicU8::from_ptr(from.wrapping_add(index)) };
        *byte = shared.load(Ordering::Relaxed);
    }
}

/// Copies bytes by an instruction that is opaque to the compiler.
///
/// # Safety
/// Both ranges are valid for `length` bytes, and apart.
#[cfg(all(target_arch = "x86_64", not(miri)))]
unsafe fn copy(to: *mut u8, from: *const u8, length: usize) {
    // SAFETY: The caller's promise. The direction flag is clear at every call
    // (x64 ABI). The processor copies, so no access is one of the compiler's.
    unsafe {
        core::arch::asm!(
            "rep movsb",
            inout("rdi") to => _, inout("rsi") from => _, inout("rcx") length => _,
            options(nostack, preserves_flags),
        );
    }
}
