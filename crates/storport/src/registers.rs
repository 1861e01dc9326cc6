//! Mapped registers, read and written as the WDK's own macros do: one
//! volatile access of the register's width.
#![expect(unsafe_code, reason = "registers are raw addresses")]

use core::{marker::PhantomData, ptr::NonNull};

use crate::extension::Brand;

/// A mapped range of device registers.
///
/// A read outside of it, or across its end, gives all ones, as a bus does
/// where nothing answers; a write there is dropped.
#[derive(Clone)]
pub struct MappedRegisters<'adapter> {
    base: NonNull<u8>,
    length: usize,
    adapter: Brand<'adapter>,
}

// SAFETY: device registers belong to no thread; each access is one
// instruction.
unsafe impl Send for MappedRegisters<'_> {}
// SAFETY: as above.
unsafe impl Sync for MappedRegisters<'_> {}

macro_rules! accesses {
    ($($read:ident $write:ident $width:ident;)*) => {$(
        #[doc = concat!("Reads the `", stringify!($width), "` at byte `offset`.")]
        #[inline]
        #[must_use]
        pub fn $read(&self, offset: usize) -> $width {
            let Some(register) = self.register::<$width>(offset) else {
                return $width::MAX;
            };
            // SAFETY: `register` lies in the range and is aligned.
            unsafe { register.read_volatile() }
        }

        #[doc = concat!("Writes the `", stringify!($width), "` at byte `offset`.")]
        #[inline]
        pub fn $write(&self, offset: usize, value: $width) {
            let Some(register) = self.register::<$width>(offset) else {
                return;
            };
            // SAFETY: as above.
            unsafe { register.write_volatile(value) };
        }
    )*};
}

impl MappedRegisters<'_> {
    /// Registers at `base`; nothing unless `base` is aligned to 8 bytes.
    ///
    /// # Safety
    /// `length` bytes of registers are mapped at `base` until the adapter is
    /// gone.
    pub(crate) unsafe fn new(base: NonNull<u8>, length: usize) -> Option<Self> {
        if !base.as_ptr().addr().is_multiple_of(8) {
            return None;
        }
        Some(Self {
            base,
            length,
            adapter: PhantomData,
        })
    }

    /// The part of `length` bytes from `offset`; nothing if it is not all
    /// inside, or not aligned to 4 bytes.
    #[must_use]
    pub fn part(&self, offset: usize, length: usize) -> Option<Self> {
        if offset.checked_add(length)? > self.length || !offset.is_multiple_of(4) {
            return None;
        }
        Some(Self {
            base: NonNull::new(self.base.as_ptr().wrapping_add(offset))?,
            length,
            adapter: PhantomData,
        })
    }

    /// Its length in bytes.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }

    fn register<T>(&self, offset: usize) -> Option<*mut T> {
        let end = offset.checked_add(size_of::<T>())?;
        if end > self.length || !offset.is_multiple_of(size_of::<T>()) {
            return None;
        }
        Some(self.base.as_ptr().wrapping_add(offset).cast())
    }

    accesses! {
        read_u8 write_u8 u8;
        read_u16 write_u16 u16;
        read_u32 write_u32 u32;
    }
}
