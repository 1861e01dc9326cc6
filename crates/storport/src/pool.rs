//! Pool: memory that is allocated and freed while the adapter lives.
//!
//! Nobody frees pool for a miniport: Storport does not, and a callback that is
//! last of all, at DISPATCH_LEVEL or below, a miniport has not
//! (HwFreeAdapterResources is for virtual ones; ScsiStopAdapter is at DIRQL at
//! worst, and is not to free anything; storport-rules.md X1). So a [`Pool`] is
//! freed by hand, by [`free`](crate::BuildIo::free): put it into a
//! cell as an `Option`, and take it out where the adapter is removed, in
//! HwBuildIo with `Function::Pnp` of `PnpAction::Remove` or `PnpAction::Rebalance`
//! and `PnpTarget::Adapter`. Then no request is left, and who comes later finds
//! `None`. A pool that is dropped instead stays allocated until the system goes
//! down: a leak, but nothing worse. So does one that is still in the adapter's
//! state when HwFindAdapter is called again, which makes a new state: that
//! Storport sends one of the two requests before is not documented for every
//! way to get there.
//!
//! Memory that need not be given back before the adapter is gone is better a
//! [`Table`](crate::Table), which Storport frees.
#![expect(unsafe_code, reason = "the memory is Storport's")]

use core::{
    marker::PhantomData,
    ops::{Deref, DerefMut},
    ptr::NonNull,
    slice,
};

use wdk_sys::PVOID;

use crate::{
    extension::{Brand, Header},
    port,
    status::StorStatus,
};

/// Marks the allocations in the debugger: "Fers" in memory.
const TAG: u32 = u32::from_le_bytes(*b"Fers");

/// Elements in non-paged pool.
#[must_use = "pool that is dropped stays allocated: give it to `BuildIo::free`"]
pub struct Pool<'adapter, T> {
    first: NonNull<T>,
    length: usize,
    adapter: Brand<'adapter>,
    elements: PhantomData<T>,
}

// SAFETY: a pool owns its elements, as a `Vec` does.
unsafe impl<T: Send> Send for Pool<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Pool<'_, T> {}

impl<T> Pool<'_, T> {
    /// Allocates room for `length` elements and fills it.
    ///
    /// # Safety
    /// Called at or below DISPATCH_LEVEL, not in HwStartIo, not in a dump
    /// stack.
    pub(crate) unsafe fn allocate(
        adapter: &Header,
        length: usize,
        mut make: impl FnMut(usize) -> T,
    ) -> Result<Self, StorStatus> {
        let bytes = length
            .checked_mul(size_of::<T>())
            // Zero bytes would be no allocation.
            .and_then(|bytes| u32::try_from(bytes.max(1)).ok())
            .ok_or(StorStatus::INVALID_PARAMETER)?;
        let mut memory: PVOID = core::ptr::null_mut();
        // SAFETY: The caller's promise; the result has a place.
        unsafe { port::allocate_pool(adapter, bytes, TAG, &raw mut memory) }?;
        let first: NonNull<T> =
            NonNull::new(memory.cast()).ok_or(StorStatus::INSUFFICIENT_RESOURCES)?;
        if !first.is_aligned() {
            // SAFETY: It was just allocated, and nobody has it.
            let _: Result<(), StorStatus> = unsafe { port::free_pool(adapter, memory) };
            return Err(StorStatus::INVALID_PARAMETER);
        }
        for index in 0..length {
            let element = first.as_ptr().wrapping_add(index);
            // SAFETY: it lies in the allocation, aligned.
            unsafe { element.write(make(index)) };
        }
        Ok(Self {
            first,
            length,
            adapter: PhantomData,
            elements: PhantomData,
        })
    }

    /// Drops the elements and frees the memory.
    ///
    /// # Safety
    /// As for [`allocate`](Self::allocate), with the same adapter.
    pub(crate) unsafe fn free(mut self, adapter: &Header) {
        let elements: *mut [T] = &raw mut *self;
        // SAFETY: they are initialised, and `self` is not used again.
        unsafe { elements.drop_in_place() };
        // SAFETY: The caller's promise; the memory is this value's alone. The
        // status can only say that it was not allocated.
        let _: Result<(), StorStatus> =
            unsafe { port::free_pool(adapter, self.first.as_ptr().cast()) };
    }
}

impl<T> Deref for Pool<'_, T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: `allocate` wrote `length` elements there, and this value
        // alone names them.
        unsafe { slice::from_raw_parts(self.first.as_ptr(), self.length) }
    }
}

impl<T> DerefMut for Pool<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and `&mut self` is the only way in.
        unsafe { slice::from_raw_parts_mut(self.first.as_ptr(), self.length) }
    }
}
