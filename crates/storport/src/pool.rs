//! Pool: memory that is allocated and freed while the adapter lives.
//!
//! The miniport must free its pool. Storport does not free it, and has no last callback in which
//! the framework could: HwFreeAdapterResources is only for virtual miniports, and ScsiStopAdapter
//! may run at DIRQL and must not free anything (storport-rules.md X1). So free a [`Pool`] with
//! [`free`](crate::BuildIo::free) when the adapter is removed. Store it in a cell as an `Option`.
//! Take it out in HwBuildIo, at `Function::Pnp` with `PnpAction::Remove` or `PnpAction::Rebalance`
//! and `PnpTarget::Adapter`. No request is left then, and later callbacks find `None`.
//!
//! A pool that is dropped instead is leaked: it stays allocated until the system shuts down. A pool
//! is leaked, too, if it is still in the adapter's state when HwFindAdapter is called again and
//! makes a new state. No documentation says that Storport always sends a removal or a rebalance
//! before that call.
//!
//! For memory that is needed as long as the adapter exists, use a [`Table`](crate::Table), which
//! Storport frees.
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

/// The pool tag, which a debugger shows: "Fers".
const TAG: u32 = u32::from_le_bytes(*b"Fers");

/// Elements in non-paged pool.
#[must_use = "pool that is dropped stays allocated: give it to `BuildIo::free`"]
pub struct Pool<'adapter, T> {
    first: NonNull<T>,
    length: usize,
    adapter: Brand<'adapter>,
    elements: PhantomData<T>,
}

// SAFETY: A pool owns its elements, as a `Vec` does.
unsafe impl<T: Send> Send for Pool<'_, T> {}
// SAFETY: As for `Send`.
unsafe impl<T: Sync> Sync for Pool<'_, T> {}

impl<T> Pool<'_, T> {
    /// Allocates memory for `length` elements, and makes each with `make`.
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
            // At least one byte, because zero bytes would be no allocation.
            .and_then(|bytes| u32::try_from(bytes.max(1)).ok())
            .ok_or(StorStatus::INVALID_PARAMETER)?;
        let mut memory: PVOID = core::ptr::null_mut();
        // SAFETY: The caller's promise. `memory` outlives the call.
        unsafe { port::allocate_pool(adapter, bytes, TAG, &raw mut memory) }?;
        let first: NonNull<T> =
            NonNull::new(memory.cast()).ok_or(StorStatus::INSUFFICIENT_RESOURCES)?;
        if !first.is_aligned() {
            // SAFETY: The memory was just allocated, and nothing else uses it.
            let _: Result<(), StorStatus> = unsafe { port::free_pool(adapter, memory) };
            return Err(StorStatus::INVALID_PARAMETER);
        }
        for index in 0..length {
            let element = first.as_ptr().wrapping_add(index);
            // SAFETY: The element lies in the allocation, aligned.
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
        // SAFETY: `allocate` has initialised the elements, and they are not used again.
        unsafe { elements.drop_in_place() };
        // SAFETY: The caller's promise. Only this value uses the memory, which `allocate` has
        // allocated. So freeing it does not fail.
        let _: Result<(), StorStatus> =
            unsafe { port::free_pool(adapter, self.first.as_ptr().cast()) };
    }
}

impl<T> Deref for Pool<'_, T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: `allocate` wrote `length` elements there, and only this value has them.
        unsafe { slice::from_raw_parts(self.first.as_ptr(), self.length) }
    }
}

impl<T> DerefMut for Pool<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: As in `deref`. `&mut self` is the only access.
        unsafe { slice::from_raw_parts_mut(self.first.as_ptr(), self.length) }
    }
}
