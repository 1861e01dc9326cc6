//! The device extension: the framework's header, the miniport's state, which callbacks access
//! only through the gate ([`State`]), and the memory for tables.
//!
//! Storport allocates one device extension for each adapter, zeroed and non-paged, and never
//! moves it (`storport.h`, `HW_INITIALIZATION_DATA`). So an address
//! in it is valid for as long as the adapter exists.
#![expect(unsafe_code, reason = "the device extension is Storport's memory")]

use core::{
    cell::UnsafeCell,
    marker::PhantomData,
    mem::MaybeUninit,
    ops::{Deref, DerefMut},
    ptr::{self, NonNull},
    slice,
    sync::atomic::{AtomicPtr, AtomicU32, Ordering},
};

use wdk_sys::{PVOID, STOR_ADDR_BTL8, STOR_DPC};

use crate::{
    callback::{Optional, Registered},
    port,
    stack::Stack,
    state::{DpcRun, Noted, PerDpc, State},
};

/// Binds a value to one adapter. The lifetimes `'a` of two adapters are never unified, because
/// every callback is generic over it and the type is invariant in it.
pub(crate) type Brand<'a> = PhantomData<fn(&'a ()) -> &'a ()>;

/// The framework's part of the device extension. A header of all zeros is valid, and means that
/// no adapter was found.
///
/// # Invariants
///
/// - It is the first field of an [`Extension`], so its address is the
///   HwDeviceExtension.
/// - `optional` is null, or points to the static table of the miniport that registered.
/// - `changed` is written only between `State::begin_state_change` and the
///   HwStateChange that ends it.
/// - `dpcs[n]` is only passed to Storport, by address. Storport initialises it
///   in HwPassiveInitialize, before the phase READY, and serialises its use.
#[repr(C)]
pub struct Header {
    pub(crate) state: State,
    optional: AtomicPtr<Optional>,
    /// The address of the state change that is being reported.
    changed: UnsafeCell<STOR_ADDR_BTL8>,
    /// Which entity that state change concerns: `STATE_CHANGE_*`.
    pub(crate) changed_entity: AtomicU32,
    dpcs: PerDpc<UnsafeCell<STOR_DPC>>,
}

/// The distance between two DPC objects, in bytes.
const DPC_STRIDE: usize = PerDpc::<UnsafeCell<STOR_DPC>>::STRIDE;

// SAFETY: `state`, `optional` and `changed_entity` are atomic. `Header`'s invariants exclude
// concurrent accesses to the two cells.
unsafe impl Sync for Header {}

impl Header {
    /// The HwDeviceExtension: the address that Storport's routines and callbacks use.
    #[inline]
    pub(crate) fn device_extension(&self) -> PVOID {
        ptr::from_ref(self).cast_mut().cast()
    }

    /// The optional callbacks that the miniport names.
    pub(crate) fn optional(&self) -> &'static Optional {
        let optional = self.optional.load(Ordering::Relaxed);
        // SAFETY: `Header`'s invariant: null, or stored from a `&'static`.
        unsafe { optional.as_ref() }.unwrap_or(&Optional::NONE)
    }

    /// The address of DPC object `number`.
    #[inline]
    pub(crate) fn dpc(&self, number: DpcNumber) -> *mut STOR_DPC {
        let offset = usize::from(number.0).wrapping_mul(DPC_STRIDE);
        UnsafeCell::raw_get(self.dpcs.first().wrapping_byte_add(offset))
    }

    /// The number of the DPC object at `address`. Returns `None` if it is not one of this adapter.
    #[inline]
    pub(crate) fn dpc_number(&self, address: *const STOR_DPC) -> Option<DpcNumber> {
        let offset = address.addr().wrapping_sub(self.dpcs.first().addr());
        let number = offset.checked_div(DPC_STRIDE)?;
        let is_object = offset.is_multiple_of(DPC_STRIDE);
        // The cast keeps a number below the number of objects, which 8 bits hold.
        (is_object && number < usize::from(self.state.dpcs())).then_some(DpcNumber(number as u8))
    }

    /// Queues DPCs that were noted.
    pub(crate) fn issue_noted(&self, noted: Noted) {
        for number in noted {
            // SAFETY: `Header`'s invariant on `dpcs`: `State` returns notes only in the phase
            // READY, in which the DPC objects are initialised.
            unsafe { port::issue(self, self.dpc(DpcNumber(number))) };
        }
    }

    /// A pointer to the address of the state change that is being reported.
    pub(crate) fn changed(&self) -> *mut STOR_ADDR_BTL8 {
        self.changed.get()
    }
}

/// The number of a DPC object of an adapter, and so of the lock in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DpcNumber(pub(crate) u8);

impl DpcNumber {
    /// The index of the DPC object, from 0, in the order in which HwFindAdapter made them.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// The whole device extension. The memory for tables follows it.
///
/// # Invariants
///
/// `adapter` is initialised in FOUND and in every phase with a higher number. Only a [`Finding`]
/// writes it. It is accessed only through the values that the functions below return after
/// [`State`] has admitted the callback.
#[repr(C)]
pub(crate) struct Extension<M: Registered> {
    pub(crate) header: Header,
    adapter: UnsafeCell<MaybeUninit<M::Adapter<'static>>>,
}

impl<M: Registered> Extension<M> {
    /// The value of `HW_INITIALIZATION_DATA.DeviceExtensionSize`. It includes room to align the
    /// tables.
    pub(crate) const fn bytes(stack: Stack) -> usize {
        // storport.h promises no more than the alignment of a pointer.
        const {
            assert!(
                align_of::<Self>() <= align_of::<PVOID>(),
                "`Miniport::Adapter` is aligned to more than 8 bytes, but Storport promises only 8 \
                 bytes for the device extension: put the data in a `Table` (storport-rules.md D9)"
            );
            assert!(
                M::TABLE_BYTES <= MOST_TABLE_BYTES && M::DUMP_TABLE_BYTES <= MOST_TABLE_BYTES,
                "`TABLE_BYTES` or `DUMP_TABLE_BYTES` exceeds 2 GiB, but the size of a device \
                 extension has 32 bits: use a smaller value"
            );
        };
        size_of::<Self>().wrapping_add(Self::table_bytes(stack))
    }

    const fn table_bytes(stack: Stack) -> usize {
        let tables = match stack {
            Stack::Normal => M::TABLE_BYTES,
            Stack::Dump => M::DUMP_TABLE_BYTES,
        };
        tables.wrapping_add(TABLE_ALIGNMENT)
    }

    /// The extension at the address that Storport passes to a callback.
    ///
    /// # Safety
    /// `device_extension` is the HwDeviceExtension of an adapter of the miniport `M`, for `'c`.
    pub(crate) unsafe fn at<'c>(device_extension: PVOID) -> &'c Self {
        // SAFETY: The caller's promise: Storport allocated `Self::bytes` zeroed bytes there. A
        // `Header` of all zeros is valid, and the rest is `MaybeUninit`.
        unsafe { &*device_extension.cast::<Self>() }
    }

    /// Admits HwBuildIo and HwStartIo.
    #[inline]
    pub(crate) fn requests<'a>(&self) -> Option<&M::Adapter<'a>> {
        if !self.header.state.serves_requests() {
            return None;
        }
        // SAFETY: `Extension`'s invariant: the state is initialised in READY. HwFindAdapter does
        // not overwrite it during this call, by the assumption in `state`.
        Some(unsafe { self.adapter() })
    }

    /// Admits an interrupt routine.
    #[inline]
    pub(crate) fn interrupts<'a>(&self) -> Option<&M::Adapter<'a>> {
        if !self.header.state.serves_interrupts() {
            return None;
        }
        // SAFETY: `Extension`'s invariant: the state is initialised in the phases that serve
        // interrupts. HwFindAdapter does not overwrite it during this call, by the assumption in
        // `state`.
        Some(unsafe { self.adapter() })
    }

    /// Admits any other callback of an adapter that is ready.
    #[inline]
    pub(crate) fn enter(&self) -> Option<Entered<'_, M>> {
        self.header.state.enter().then(|| Entered(self))
    }

    /// Admits a run of a DPC of an adapter that is ready.
    #[inline]
    pub(crate) fn enter_dpc(&self, dpc: DpcNumber) -> Option<EnteredDpc<'_, M>> {
        let run = self.header.state.enter_dpc(dpc.0)?;
        Some(EnteredDpc {
            extension: self,
            run: Some(run),
        })
    }

    /// Admits ScsiStopAdapter. Afterwards no other callback is admitted.
    pub(crate) fn stop(&self) -> Option<Entered<'_, M>> {
        self.header.state.stop().then(|| Entered(self))
    }

    /// Admits HwFindAdapter after it has waited for all other callbacks to end. Returns `None` if
    /// they do not.
    pub(crate) fn find(&self) -> Option<Finding<'_, M>> {
        if !self.header.state.begin_find() {
            return None;
        }
        let finding = Finding(self);
        // This runs at PASSIVE_LEVEL, so callbacks that were admitted earlier have 10 ms to end.
        finding.0.wait_until_exclusive(100, 100).then_some(finding)
    }

    /// Admits HwInitialize.
    pub(crate) fn initialize<'a>(&self) -> Option<&M::Adapter<'a>> {
        if !self.header.state.begin_initialize() {
            return None;
        }
        // SAFETY: `Extension`'s invariant: INITIALIZING has a higher number than FOUND.
        Some(unsafe { self.adapter() })
    }

    /// Admits HwPassiveInitialize.
    pub(crate) fn passive<'a>(&self) -> Option<&M::Adapter<'a>> {
        if !self.header.state.begin_passive() {
            return None;
        }
        // SAFETY: `Extension`'s invariant: PASSIVE has a higher number than FOUND.
        Some(unsafe { self.adapter() })
    }

    /// Admits ScsiRestartAdapter after it has waited for all other callbacks but interrupt routines
    /// to end. Returns `None` if they do not.
    pub(crate) fn restart<'a>(&self) -> Option<&M::Adapter<'a>> {
        if !self.header.state.begin_restart() {
            return None;
        }
        // This may run at DIRQL, so callbacks that were admitted earlier have only 1 ms to end.
        if !self.wait_until_exclusive(100, 10) {
            let _: Noted = self.header.state.end_restart(false);
            return None;
        }
        // SAFETY: `Extension`'s invariant: RESTARTING has a higher number than FOUND.
        Some(unsafe { self.adapter() })
    }

    fn wait_until_exclusive(&self, looks: u32, microseconds: u32) -> bool {
        for _ in 0..looks {
            if self.header.state.is_exclusive() {
                return true;
            }
            port::stall(microseconds);
        }
        self.header.state.is_exclusive()
    }

    /// The miniport's state. Each callback has its own lifetime `'a`, so a value with this lifetime
    /// can be stored only in this state.
    ///
    /// # Safety
    /// The gate has admitted the callback, in FOUND or a phase with a higher number.
    #[inline]
    pub(crate) unsafe fn adapter<'a>(&self) -> &M::Adapter<'a> {
        let state: *const M::Adapter<'a> = self.adapter.get().cast();
        // SAFETY: `Extension`'s invariant: the state is initialised, and not written while the
        // callback runs. Lifetimes do not change a layout.
        unsafe { &*state }
    }
}

/// A callback that was admitted and counted. Dropping this ends it.
pub(crate) struct Entered<'c, M: Registered>(&'c Extension<M>);

impl<M: Registered> Entered<'_, M> {
    #[inline]
    pub(crate) fn adapter<'a>(&self) -> &M::Adapter<'a> {
        // SAFETY: `Extension`'s invariant: `enter` and `stop` admit a callback only in FOUND and
        // in phases with a higher number.
        unsafe { self.0.adapter() }
    }
}

impl<M: Registered> Drop for Entered<'_, M> {
    #[inline]
    fn drop(&mut self) {
        self.0.header.state.leave();
    }
}

/// A run of a DPC that was admitted. Dropping this ends it.
pub(crate) struct EnteredDpc<'c, M: Registered> {
    extension: &'c Extension<M>,
    run: Option<DpcRun>,
}

impl<M: Registered> EnteredDpc<'_, M> {
    #[inline]
    pub(crate) fn adapter<'a>(&self) -> &M::Adapter<'a> {
        // SAFETY: `Extension`'s invariant: `enter_dpc` admits a run only in READY.
        unsafe { self.extension.adapter() }
    }
}

impl<M: Registered> Drop for EnteredDpc<'_, M> {
    #[inline]
    fn drop(&mut self) {
        if let Some(run) = self.run.take() {
            self.extension.header.state.leave_dpc(run);
        }
    }
}

/// A call of HwFindAdapter. If this is dropped without [`put`](Self::put), the extension has no
/// adapter.
pub(crate) struct Finding<'c, M: Registered>(&'c Extension<M>);

impl<M: Registered> Finding<'_, M> {
    /// Resets the header for a new adapter.
    pub(crate) fn begin(&self, dump: bool, message_locks: bool) {
        let header = &self.0.header;
        header.state.reset(dump, message_locks);
        let optional = const { ptr::from_ref(&M::OPTIONAL) };
        header
            .optional
            .store(optional.cast_mut(), Ordering::Relaxed);
    }

    /// Stores the miniport's state in the extension and ends HwFindAdapter. A state from an
    /// earlier life is overwritten, not dropped.
    pub(crate) fn put(self, adapter: M::Adapter<'_>) {
        let extension = self.0;
        core::mem::forget(self);
        let place = extension.adapter.get().cast();
        // SAFETY: `Extension`'s invariant: only a `Finding` writes here, and no other callback is
        // admitted. Lifetimes do not change a layout, so the type fits.
        unsafe { core::ptr::write(place, adapter) };
        extension.header.state.end_find(true);
    }
}

impl<M: Registered> Drop for Finding<'_, M> {
    fn drop(&mut self) {
        self.0.header.state.end_find(false);
    }
}

impl<M: Registered> Extension<M> {
    /// The memory behind the extension, for tables. Its address is computed from Storport's
    /// pointer, because a reference to the extension must not be used beyond its end.
    pub(crate) fn table_memory<'a>(device_extension: PVOID) -> TableMemory<'a> {
        TableMemory {
            next: device_extension.cast::<Self>().wrapping_add(1).cast(),
            left: Self::table_bytes(Stack::current()),
            adapter: PhantomData,
        }
    }
}

/// The maximum size of the memory for tables, in bytes. It keeps the sums in
/// [`Extension::bytes`] from overflowing.
const MOST_TABLE_BYTES: usize = 1 << 31;

/// The maximum alignment of a table's elements in bytes: a cache line.
const TABLE_ALIGNMENT: usize = 64;

/// The unused rest of the memory behind the extension.
pub(crate) struct TableMemory<'a> {
    next: *mut u8,
    left: usize,
    adapter: Brand<'a>,
}

impl<'a> TableMemory<'a> {
    /// Takes the memory for `length` elements. Returns `None` if there is not enough.
    pub(crate) fn cut<T>(&mut self, length: usize) -> Option<Place<'a, T>> {
        let () = const {
            assert!(
                align_of::<T>() <= TABLE_ALIGNMENT,
                "the elements of a table are aligned to more than 64 bytes: use a type with a \
                 smaller alignment"
            );
        };
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

/// Memory for a table whose elements are not made yet.
pub(crate) struct Place<'a, T> {
    first: NonNull<T>,
    length: usize,
    adapter: Brand<'a>,
}

impl<'a, T> Place<'a, T> {
    /// Makes the elements. If `make` returns `None`, so does this, and the elements that were
    /// made are forgotten.
    pub(crate) fn fill(self, mut make: impl FnMut(usize) -> Option<T>) -> Option<Table<'a, T>> {
        for index in 0..self.length {
            let element = self.first.as_ptr().wrapping_add(index);
            let made = make(index)?;
            // SAFETY: `TableMemory::cut` took aligned memory for `length` elements, which only this
            // value has.
            unsafe { element.write(made) };
        }
        Some(Table {
            first: self.first,
            length: self.length,
            adapter: self.adapter,
        })
    }
}

/// A table in the device extension. The device cannot reach this memory, and Storport frees it
/// with the adapter. A table may be too large for a kernel stack.
///
/// If different processors write different elements, align the type to a cache line
/// (`#[repr(align(64))]`), so that they do not wait for each other's.
pub struct Table<'adapter, T> {
    first: NonNull<T>,
    length: usize,
    adapter: Brand<'adapter>,
}

// SAFETY: A table owns its elements, as a `Vec` does.
unsafe impl<T: Send> Send for Table<'_, T> {}
// SAFETY: As for `Send`.
unsafe impl<T: Sync> Sync for Table<'_, T> {}

impl<'a, T: Sync> Table<'a, T> {
    /// The table as a shared slice, from now on.
    #[must_use]
    pub fn share(self) -> &'a [T] {
        // SAFETY: As in `deref`. The table is consumed, so nothing accesses the elements mutably.
        unsafe { slice::from_raw_parts(self.first.as_ptr(), self.length) }
    }
}

impl<T> Deref for Table<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `Place::fill` wrote `length` elements there, and only this value has them. The
        // brand keeps the value in the adapter's state, and so within the memory's lifetime.
        unsafe { slice::from_raw_parts(self.first.as_ptr(), self.length) }
    }
}

impl<T> DerefMut for Table<'_, T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: As in `deref`. `&mut self` is the only access.
        unsafe { slice::from_raw_parts_mut(self.first.as_ptr(), self.length) }
    }
}
