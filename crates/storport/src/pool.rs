//! Pool: memory that is allocated and freed while the adapter lives.
//!
//! Nobody frees pool for a miniport: Storport does not, and a callback that is
//! last of all, at DISPATCH_LEVEL or below, a miniport has not
//! (HwFreeAdapterResources is for virtual ones; ScsiStopAdapter is at DIRQL at
//! worst, and is not to free anything; rule book 8, row 1). So a [`Pool`] is
//! freed by hand, by [`Context::free`](crate::Context::free): put it into a
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

use crate::{
    extension::{Brand, Header},
    port,
};

/// Marks the allocations in the debugger: "Fers" in memory.
const TAG: u32 = u32::from_le_bytes(*b"Fers");

/// Elements in non-paged pool.
#[must_use = "pool that is dropped stays allocated: give it to `Context::free`"]
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
    ) -> Option<Self> {
        let bytes = length.checked_mul(size_of::<T>())?;
        // None would be no allocation.
        let bytes = u32::try_from(bytes.max(1)).ok()?;
        // SAFETY: the caller's promise.
        let memory = unsafe { port::allocate_pool(adapter, bytes, TAG) }?;
        let first: NonNull<T> = memory.cast();
        if !first.is_aligned() {
            // SAFETY: just allocated, and no one has it.
            unsafe { port::free_pool(adapter, memory) };
            return None;
        }
        for index in 0..length {
            let element = first.as_ptr().wrapping_add(index);
            // SAFETY: it lies in the allocation, aligned.
            unsafe { element.write(make(index)) };
        }
        Some(Self {
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
        // SAFETY: the caller's promise; the memory is this value's alone.
        unsafe { port::free_pool(adapter, self.first.cast()) };
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
