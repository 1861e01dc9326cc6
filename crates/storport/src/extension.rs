//! What lies in a device extension: the framework's part, the miniport's
//! state, and the tables behind it.
//!
//! Storport allocates one device extension an adapter, zeroed and non-paged,
//! and never moves it (`storport.h`, `HW_INITIALIZATION_DATA`). So an address
//! in it is good for as long as the adapter is.
#![expect(unsafe_code, reason = "the device extension is Storport's memory")]

use core::{
    cell::UnsafeCell,
    marker::PhantomData,
    mem::MaybeUninit,
    ops::{Deref, DerefMut},
    ptr::NonNull,
    slice,
    sync::atomic::{AtomicPtr, AtomicU32},
};

use wdk_sys::{PVOID, STOR_ADDR_BTL8, STOR_DPC};

use crate::{
    later::Entries,
    miniport::Miniport,
    stack::Stack,
    state::{MAX_DPCS, State},
};

/// Ties a value to one adapter, whoever it is: two adapters' `'a` are never
/// the same, because every callback is generic over it.
pub(crate) type Brand<'a> = PhantomData<fn(&'a ()) -> &'a ()>;

/// The framework's part. All zeros is a valid state: no adapter was found.
#[repr(C)]
pub struct Header {
    pub(crate) state: State,
    /// The functions of its miniport that are called later.
    pub(crate) entries: AtomicPtr<Entries>,
    /// The address of the state change being reported, while
    /// `State::begin_state_change` holds the place.
    changed: UnsafeCell<STOR_ADDR_BTL8>,
    /// Which entity of it: `STATE_CHANGE_*`.
    pub(crate) changed_entity: AtomicU32,
    /// The DPC objects; only Storport looks inside after their initialisation.
    dpcs: UnsafeCell<[STOR_DPC; MAX_DPCS as usize]>,
}

// SAFETY: the state is atomic; the rest is only passed to Storport by address,
// which serialises its use itself.
unsafe impl Sync for Header {}

impl Header {
    /// What Storport calls the HwDeviceExtension.
    #[inline]
    pub(crate) fn device_extension(&self) -> PVOID {
        core::ptr::from_ref(self).cast_mut().cast()
    }

    /// The address of DPC object `number`.
    #[inline]
    pub(crate) fn dpc(&self, number: DpcNumber) -> *mut STOR_DPC {
        self.dpcs
            .get()
            .cast::<STOR_DPC>()
            .wrapping_add(usize::from(number.0))
    }

    /// The number of the DPC object at `address`.
    pub(crate) fn dpc_number(&self, address: *const STOR_DPC) -> Option<DpcNumber> {
        (0..self.state.dpcs())
            .map(DpcNumber)
            .find(|number| core::ptr::eq(self.dpc(*number), address))
    }

    /// Where the address of a state change lies.
    pub(crate) fn changed(&self) -> *mut STOR_ADDR_BTL8 {
        self.changed.get()
    }
}

/// Names one DPC object of an adapter, and so the lock in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DpcNumber(pub(crate) u8);

impl DpcNumber {
    /// Its place in the order in which `FindAdapter` made them, from 0.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// The whole extension; the tables follow it.
#[repr(C)]
pub(crate) struct Extension<M: Miniport> {
    pub(crate) header: Header,
    adapter: UnsafeCell<MaybeUninit<M::Adapter<'static>>>,
}

impl<M: Miniport> Extension<M> {
    /// What `HW_INITIALIZATION_DATA.DeviceExtensionSize` must be. Room is left
    /// to align the tables.
    pub(crate) const fn bytes(stack: Stack) -> usize {
        // What pool is aligned to, and a dump stack's extension with
        // STOR_FEATURE_DUMP_16_BYTE_ALIGNMENT.
        const { assert!(align_of::<Self>() <= 16) };
        size_of::<Self>().wrapping_add(Self::table_bytes(stack))
    }

    const fn table_bytes(stack: Stack) -> usize {
        let tables = match stack {
            Stack::Normal => M::TABLE_BYTES,
            Stack::Dump => M::DUMP_TABLE_BYTES,
        };
        tables.wrapping_add(TABLE_ALIGNMENT)
    }

    /// Whether an extension can lie at this address.
    pub(crate) fn fits(device_extension: PVOID) -> bool {
        device_extension.cast::<Self>().is_aligned()
    }

    /// The extension at the address that Storport passes to a callback.
    ///
    /// # Safety
    /// `device_extension` is the HwDeviceExtension of an adapter of the driver
    /// that registered `M`, and stays so for `'c`.
    pub(crate) unsafe fn at<'c>(device_extension: PVOID) -> &'c Self {
        // SAFETY: the caller's promise; Storport allocated `BYTES` zeroed
        // bytes there, and all zeros is a valid `Header`; the adapter part is
        // `MaybeUninit`.
        unsafe { &*device_extension.cast::<Self>() }
    }

    /// The miniport's state, once it runs.
    pub(crate) fn running<'a>(&self) -> Option<&M::Adapter<'a>> {
        if self.header.state.is_running() {
            self.adapter()
        } else {
            None
        }
    }

    /// The miniport's state, once found. The lifetime `'a` is the callback's
    /// to choose: nothing that carries it can leave the callback but into the
    /// adapter's own state.
    pub(crate) fn adapter<'c, 'a>(&'c self) -> Option<&'c M::Adapter<'a>> {
        if !self.header.state.is_found() {
            return None;
        }
        let state: *const M::Adapter<'a> = self.adapter.get().cast();
        // SAFETY: `found` was stored after the state was written, and the
        // state is only shared from then on; `'a` is erased in memory.
        Some(unsafe { &*state })
    }

    /// Writes the miniport's state.
    pub(crate) fn put<'a>(&self, adapter: M::Adapter<'a>) {
        let state: *mut M::Adapter<'a> = self.adapter.get().cast();
        // SAFETY: HwFindAdapter runs alone for its adapter (rule book 3.2);
        // the memory is ours and large enough.
        unsafe { state.write(adapter) };
        self.header.state.set_found();
    }

    /// The memory behind the extension, for tables. Its address comes from
    /// Storport's pointer: a reference to the extension reaches no further
    /// than its end.
    pub(crate) fn table_memory<'a>(device_extension: PVOID) -> TableMemory<'a> {
        TableMemory {
            next: device_extension.cast::<Self>().wrapping_add(1).cast(),
            left: Self::table_bytes(Stack::current()),
            adapter: PhantomData,
        }
    }
}

/// What tables may be aligned to; a cache line.
const TABLE_ALIGNMENT: usize = 64;

/// What is left of the memory behind the extension.
pub(crate) struct TableMemory<'a> {
    next: *mut u8,
    left: usize,
    adapter: Brand<'a>,
}

impl<'a> TableMemory<'a> {
    /// Cuts the place for `length` elements off.
    pub(crate) fn cut<T>(&mut self, length: usize) -> Option<Place<'a, T>> {
        let () = const { assert!(align_of::<T>() <= TABLE_ALIGNMENT) };
        let padding = self.next.align_offset(align_of::<T>());
        let bytes = length.checked_mul(size_of::<T>())?.checked_add(padding)?;
        let left = self.left.checked_sub(bytes)?;
        let first: *mut T = self.next.wrapping_add(padding).cast();
        self.next = self.next.wrapping_add(bytes);
        self.left = left;
        Some(Place {
            first: NonNull::new(first)?,
            length,
            adapter: PhantomData,
        })
    }
}

/// Where a table will be.
pub(crate) struct Place<'a, T> {
    first: NonNull<T>,
    length: usize,
    adapter: Brand<'a>,
}

impl<'a, T> Place<'a, T> {
    /// Makes the elements. If one can't be made, those before it are forgotten.
    pub(crate) fn fill(self, mut make: impl FnMut(usize) -> Option<T>) -> Option<Table<'a, T>> {
        for index in 0..self.length {
            let element = self.first.as_ptr().wrapping_add(index);
            let made = make(index)?;
            // SAFETY: the place is `length` elements long, aligned, and this
            // value's alone.
            unsafe { element.write(made) };
        }
        Some(Table {
            first: self.first,
            length: self.length,
            adapter: self.adapter,
        })
    }
}

/// A table in the device extension: memory that the device can't reach, that
/// Storport frees with the adapter, and that is too large for a kernel stack.
pub struct Table<'adapter, T> {
    first: NonNull<T>,
    length: usize,
    adapter: Brand<'adapter>,
}

// SAFETY: a table owns its elements, as a `Vec` does.
unsafe impl<T: Send> Send for Table<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Table<'_, T> {}

impl<T> Deref for Table<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `fill` wrote `length` elements there, this value alone names
        // them, and the brand keeps it inside the adapter's state.
        unsafe { slice::from_raw_parts(self.first.as_ptr(), self.length) }
    }
}

impl<T> DerefMut for Table<'_, T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and `&mut self` is the only way in.
        unsafe { slice::from_raw_parts_mut(self.first.as_ptr(), self.length) }
    }
}
