//! Mapped device registers. A call makes one access of the register's width, ordered with the
//! memory accesses around it.
//!
//! An x86-64 processor keeps a register write behind earlier memory accesses, and a register read
//! before later ones, so only the compiler must keep that order. An ARM64 processor does not keep
//! it. There, `dmb osh` orders a write behind the memory accesses before it, and `dmb oshld` orders
//! later accesses behind a read. The outer shareable domain contains devices.
#![expect(unsafe_code, reason = "registers are raw addresses")]

#[cfg(not(all(target_arch = "aarch64", not(miri))))]
use core::sync::atomic::{Ordering, compiler_fence};
use core::{marker::PhantomData, ptr::NonNull};

use crate::extension::Brand;

/// A mapped range of device registers.
///
/// A write happens after all earlier memory accesses. A read happens before all later ones. A read
/// that is not inside the range, or not aligned to its width, returns all ones, as a bus does where
/// no device responds. Such a write is dropped.
///
/// # Invariants
///
/// `length` bytes of registers are mapped at `base`, for as long as the adapter exists.
#[derive(Clone)]
pub struct MappedRegisters<'adapter> {
    base: NonNull<u8>,
    length: usize,
    adapter: Brand<'adapter>,
}

// SAFETY: `MappedRegisters`' invariant: the registers are mapped on every thread. Each access is
// one instruction.
unsafe impl Send for MappedRegisters<'_> {}
// SAFETY: As for `Send`.
unsafe impl Sync for MappedRegisters<'_> {}

/// Orders later memory accesses after the register read before this call.
#[inline]
fn after_read() {
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    // SAFETY: A barrier has no requirement.
    unsafe {
        core::arch::asm!("dmb oshld", options(nostack, preserves_flags));
    }
    #[cfg(not(all(target_arch = "aarch64", not(miri))))]
    compiler_fence(Ordering::SeqCst);
}

/// Orders the register write that follows after earlier memory accesses.
#[inline]
fn before_write() {
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    // SAFETY: A barrier has no requirement.
    unsafe {
        core::arch::asm!("dmb osh", options(nostack, preserves_flags));
    }
    #[cfg(not(all(target_arch = "aarch64", not(miri))))]
    compiler_fence(Ordering::SeqCst);
}

// Under Miri no registers are mapped: `cross/models` answers in the device's
// place.
#[cfg(miri)]
unsafe extern "C" {
    safe fn ferrostor_models_register_read(address: usize, width: usize) -> u64;
    safe fn ferrostor_models_register_write(address: usize, width: usize, value: u64);
}

/// A 16-bit register of a mapped range.
///
/// # Invariants
///
/// `register` is aligned, and lies in registers that are mapped for as long as the adapter exists.
#[derive(Clone)]
pub struct RegisterU16<'adapter> {
    register: NonNull<u16>,
    adapter: Brand<'adapter>,
}

// SAFETY: `RegisterU16`'s invariant: the register is mapped on every thread. Each access is one
// instruction.
unsafe impl Send for RegisterU16<'_> {}
// SAFETY: As for `Send`.
unsafe impl Sync for RegisterU16<'_> {}

impl RegisterU16<'_> {
    /// Writes the register, after all earlier memory accesses.
    #[cfg_attr(target_arch = "aarch64", inline(never))]
    #[cfg_attr(not(target_arch = "aarch64"), inline)]
    pub fn write(&self, value: u16) {
        before_write();
        let register = self.register.as_ptr();
        #[cfg(miri)]
        ferrostor_models_register_write(register.addr(), size_of::<u16>(), value.into());
        #[cfg(not(miri))]
        // SAFETY: `RegisterU16`'s invariant.
        unsafe {
            register.write_volatile(value);
        }
    }
}

macro_rules! accesses {
    ($($read:ident $write:ident $width:ident;)*) => {$(
        #[doc = concat!("Reads the `", stringify!($width), "` at byte `offset`.")]
        #[cfg_attr(target_arch = "aarch64", inline(never))]
        #[cfg_attr(not(target_arch = "aarch64"), inline)]
        #[must_use]
        pub fn $read(&self, offset: usize) -> $width {
            let Some(register) = self.register::<$width>(offset) else {
                return $width::MAX;
            };
            #[cfg(not(miri))]
            // SAFETY: `register` lies in the range and is aligned.
            let value = unsafe { register.read_volatile() };
            #[cfg(miri)]
            let value =
                ferrostor_models_register_read(register.addr(), size_of::<$width>()) as $width;
            after_read();
            value
        }

        #[doc = concat!("Writes the `", stringify!($width), "` at byte `offset`.")]
        #[cfg_attr(target_arch = "aarch64", inline(never))]
        #[cfg_attr(not(target_arch = "aarch64"), inline)]
        pub fn $write(&self, offset: usize, value: $width) {
            let Some(register) = self.register::<$width>(offset) else {
                return;
            };
            before_write();
            #[cfg(miri)]
            ferrostor_models_register_write(register.addr(), size_of::<$width>(), value.into());
            #[cfg(not(miri))]
            // SAFETY: `register` lies in the range and is aligned.
            unsafe { register.write_volatile(value) };
        }
    )*};
}

impl<'adapter> MappedRegisters<'adapter> {
    /// Makes a range of registers at `base`.
    ///
    /// # Safety
    /// `MappedRegisters`' invariants hold for the new value.
    pub(crate) unsafe fn new(base: NonNull<u8>, length: usize) -> Self {
        Self {
            base,
            length,
            adapter: PhantomData,
        }
    }

    /// The part of `length` bytes from `offset` on. Returns `None` unless all of it lies inside the
    /// range.
    #[must_use]
    pub fn part(&self, offset: usize, length: usize) -> Option<Self> {
        if offset.checked_add(length)? > self.length {
            return None;
        }
        Some(Self {
            base: NonNull::new(self.base.as_ptr().wrapping_add(offset))?,
            length,
            adapter: PhantomData,
        })
    }

    /// The length in bytes.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }

    #[inline]
    fn register<T>(&self, offset: usize) -> Option<*mut T> {
        if self.length.checked_sub(offset)? < size_of::<T>() {
            return None;
        }
        let register: *mut T = self.base.as_ptr().wrapping_add(offset).cast();
        register.is_aligned().then_some(register)
    }

    /// The 16-bit register at byte `offset`. Returns `None` if it is not inside the range, or not
    /// aligned.
    #[must_use]
    pub fn register_u16(&self, offset: usize) -> Option<RegisterU16<'adapter>> {
        Some(RegisterU16 {
            register: NonNull::new(self.register(offset)?)?,
            adapter: PhantomData,
        })
    }

    accesses! {
        read_u8 write_u8 u8;
        read_u16 write_u16 u16;
        read_u32 write_u32 u32;
    }
}
