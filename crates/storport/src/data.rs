//! Views of a request's data that copy bytes in and out.
//!
//! Other code may write to the pages of a buffer at any time: threads of the process that owns
//! them, or another request for the same pages. So there are no references to them. The bytes are
//! only copied, by accesses that are not data races in Rust's sense.
#![expect(unsafe_code, reason = "the bytes are at a raw address")]

#[cfg(not(all(target_arch = "x86_64", not(miri))))]
use core::sync::atomic::{AtomicU8, Ordering};
use core::{fmt, marker::PhantomData, ptr::NonNull};

use crate::{srb::Direction, status::StorStatus};

/// Why a request's data cannot be accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataError {
    /// The SRB's flags have this direction, not the one that was asked for.
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
/// `length` bytes at `first` are mapped, readable and writable for `'s`, for which the SRB is
/// borrowed. (Storport maps as many bytes as the SRB's DataTransferLength, until the SRB is
/// completed.) Other code may access them at the same time, so only [`read`] and [`write`] access
/// them here.
pub(crate) struct Bytes<'s> {
    first: NonNull<u8>,
    length: usize,
    request: PhantomData<&'s ()>,
}

impl Bytes<'_> {
    /// # Safety
    /// `Bytes`' invariants hold for the new value.
    pub(crate) unsafe fn new(first: NonNull<u8>, length: usize) -> Self {
        Self {
            first,
            length,
            request: PhantomData,
        }
    }

    /// The address and the length of `length` bytes from `offset`, cut to the end of the data.
    fn part(&self, offset: usize, length: usize) -> (*mut u8, usize) {
        let left = self.length.saturating_sub(offset);
        let offset = offset.min(self.length);
        (self.first.as_ptr().wrapping_add(offset), length.min(left))
    }
}

/// A Data-In Buffer, which the initiator reads. The miniport can only write to it.
#[must_use]
pub struct DataIn<'s>(pub(crate) Bytes<'s>);

impl DataIn<'_> {
    /// Its length in bytes: the SRB's DataTransferLength.
    #[must_use]
    pub fn length(&self) -> usize {
        self.0.length
    }

    /// Copies `bytes` into the buffer at `offset`, cut to the buffer's end. Returns how many bytes
    /// it copied.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) -> usize {
        let (to, length) = self.0.part(offset, bytes.len());
        let bytes = bytes.get(..length).unwrap_or_default();
        // SAFETY: `Bytes`' invariants: there are `length` bytes.
        unsafe { write(to, bytes) };
        length
    }
}

/// A Data-Out Buffer, which the initiator has written. The miniport can only read it.
#[must_use]
pub struct DataOut<'s>(pub(crate) Bytes<'s>);

impl DataOut<'_> {
    /// Its length in bytes: the SRB's DataTransferLength.
    #[must_use]
    pub fn length(&self) -> usize {
        self.0.length
    }

    /// Copies bytes of the buffer from `offset` on into `bytes`, cut to the buffer's end. Returns
    /// how many bytes it copied. A second call may return other bytes, because the initiator may
    /// have changed them.
    pub fn read(&self, offset: usize, bytes: &mut [u8]) -> usize {
        let (from, length) = self.0.part(offset, bytes.len());
        let bytes = bytes.get_mut(..length).unwrap_or_default();
        // SAFETY: `Bytes`' invariants: there are `length` bytes.
        unsafe { read(from, bytes) };
        length
    }
}

/// Writes bytes that other code may access at the same time.
///
/// # Safety
/// `bytes.len()` bytes are mapped at `to`.
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

/// Reads bytes that other code may access at the same time.
///
/// # Safety
/// `bytes.len()` bytes are mapped at `from`.
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

/// Copies bytes with an instruction that is opaque to the compiler.
///
/// # Safety
/// Both ranges are valid for `length` bytes, and do not overlap.
#[cfg(all(target_arch = "x86_64", not(miri)))]
unsafe fn copy(to: *mut u8, from: *const u8, length: usize) {
    // SAFETY: The caller's promise. The direction flag is clear at every call (x64 ABI). The
    // compiler does not see the accesses, so they are not data races in Rust's sense.
    unsafe {
        core::arch::asm!(
            "rep movsb",
            inout("rdi") to => _, inout("rsi") from => _, inout("rcx") length => _,
            options(nostack, preserves_flags),
        );
    }
}
