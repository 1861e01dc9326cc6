//! Memory that the device reads and writes at any time. Only this module accesses it.
//!
//! A [`DmaMemory`] is carved once into typed views. A view is checked against the memory
//! when it is made. Afterwards it masks its index, so every access is in bounds without a
//! check. A view takes and returns owned values. There are no references into shared
//! memory.
//!
//! Every access consists of relaxed atomic loads and stores, one for each word of the
//! value. The device races with them as another processor would. A non-atomic access,
//! volatile or not, may not race, but an atomic access may. The compiler neither splits nor
//! repeats it, so the value that was checked is the value that is used. The fences of
//! [`queue`](crate::queue) order the accesses.

#![expect(
    unsafe_code,
    reason = "shared memory is reached by pointers whose validity the compiler can't know"
)]

use core::fmt;
use core::marker::PhantomData;
use core::ptr::NonNull;

use virtio_spec::virtq::{Desc, DescF, UsedElem};
use virtio_spec::{le16, le32, le64};

use crate::atomics::{Ordering, fence};
use crate::error::Error;
use crate::queue::table::TableEntry;
use crate::queue_size::QueueSize;

/// Bytes of a cache line. Areas that different processors write share no cache line.
pub(crate) const CACHE_LINE: usize = 64;

/// Physically contiguous memory that processor and device share, and that is not carved
/// yet.
///
/// The driver gives the device only addresses that follow from `physical`, the address at
/// which the device reaches the memory. The system provides it (StorPortGetPhysicalAddress;
/// with DMA remapping it is an address of the device). It is never computed from a pointer.
#[derive(Debug)]
pub struct DmaMemory<'m> {
    start: NonNull<u8>,
    physical: u64,
    length: usize,
    memory: PhantomData<&'m ()>,
}

// SAFETY: the contract of `DmaMemory::new`: only this value and its views access the
// memory. The views are `Send` themselves.
unsafe impl Send for DmaMemory<'_> {}

impl<'m> DmaMemory<'m> {
    /// Takes over the `length` bytes at `start`, which the device reaches at the physical
    /// address `physical`. They need not be zeroed.
    ///
    /// # Errors
    ///
    /// [`Error::MemoryOverflow`] and [`Error::MemorySkewed`].
    ///
    /// # Safety
    ///
    /// - The bytes are valid for reads and writes by atomic accesses of 1, 2,
    ///   4 and 8 bytes for `'m`.
    /// - In that time only this value, the views that are carved out of it, and the device
    ///   access them. A test may access them in the device's place, by atomic accesses or
    ///   at another time.
    pub unsafe fn new(start: NonNull<u8>, physical: u64, length: usize) -> Result<Self, Error> {
        if u64::try_from(length)
            .ok()
            .and_then(|length| physical.checked_add(length))
            .is_none()
        {
            return Err(Error::MemoryOverflow);
        }
        let skew = start.addr().get() as u64 ^ physical;
        if !skew.is_multiple_of(CACHE_LINE as u64) {
            return Err(Error::MemorySkewed);
        }
        Ok(Self {
            start,
            physical,
            length,
            memory: PhantomData,
        })
    }

    /// The number of bytes that are not carved yet.
    #[must_use]
    pub fn left(&self) -> usize {
        self.length
    }

    /// Skips to the next cache line, so that the next view shares no cache line with the
    /// one before.
    ///
    /// # Errors
    ///
    /// [`Error::MemoryShort`].
    pub fn next_line(&mut self) -> Result<(), Error> {
        let over = self.start.addr().get() % CACHE_LINE;
        if over != 0 {
            self.carve(CACHE_LINE.saturating_sub(over))?;
        }
        Ok(())
    }

    /// Carves one zeroed `T`, directly behind the view before it.
    ///
    /// # Errors
    ///
    /// [`Error::MemoryShort`].
    pub fn cell<T: Record>(&mut self) -> Result<DmaCell<'m, T>, Error> {
        Ok(DmaCell {
            only: self.ring(QueueSize::ONE)?,
        })
    }

    /// Carves `count` zeroed values of type `T`, directly behind the view before them.
    ///
    /// # Errors
    ///
    /// [`Error::MemoryShort`], [`Error::MemoryMisaligned`].
    pub fn ring<T: Record>(&mut self, count: QueueSize) -> Result<DmaRing<'m, T>, Error> {
        let alignment = align_of::<T::Words>();
        if !self.start.addr().get().is_multiple_of(alignment) {
            return Err(Error::MemoryMisaligned { alignment });
        }
        let bytes = usize::from(count.get()).saturating_mul(size_of::<T::Words>());
        let (start, physical) = self.carve(bytes)?;
        Ok(DmaRing {
            start,
            physical,
            mask: count.mask(),
            memory: PhantomData,
        })
    }

    /// Carves `count` zeroed areas that share no cache line. Each area has `HEAD` bytes of
    /// fields, a multiple of 16, followed by a table of `entries` descriptors.
    ///
    /// # Errors
    ///
    /// [`Error::MemoryShort`].
    pub fn areas<const HEAD: usize>(
        &mut self,
        count: QueueSize,
        entries: u16,
    ) -> Result<DmaAreas<'m, HEAD>, Error> {
        const { assert!(HEAD.is_multiple_of(align_of::<TableEntry>())) };
        self.next_line()?;
        let stride = DmaAreas::<HEAD>::stride(entries);
        let bytes = usize::from(count.get()).saturating_mul(stride);
        let (start, physical) = self.carve(bytes)?;
        Ok(DmaAreas {
            start,
            physical,
            stride,
            mask: count.mask(),
            entries,
            memory: PhantomData,
        })
    }

    /// Takes the next `bytes` bytes and zeroes them: padding that the device
    /// can read must not show what lay there before.
    fn carve(&mut self, bytes: usize) -> Result<(NonNull<u8>, u64), Error> {
        let Some(left) = self.length.checked_sub(bytes) else {
            return Err(Error::MemoryShort {
                needed: bytes,
                left: self.length,
            });
        };
        let (start, physical) = (self.start, self.physical);
        // SAFETY: `bytes <= self.length`, so the bytes are valid for writes by the contract
        // of `new`. No view covers them yet, and the device was not given their address.
        unsafe { start.write_bytes(0, bytes) };
        // SAFETY: `bytes <= self.length`, so the result is at most the end of the memory.
        self.start = unsafe { start.add(bytes) };
        // Does not wrap: `new` checked that the end does not overflow.
        self.physical = physical.wrapping_add(bytes as u64);
        self.length = left;
        Ok((start, physical))
    }
}

/// Areas of equal size in shared memory, one for each slot. See [`DmaMemory::areas`].
///
/// # Invariants
///
/// From `start` on there are `mask + 1` areas, one `stride` apart, all inside one
/// [`DmaMemory`]. Each begins on a cache line and has `HEAD` bytes and `entries`
/// descriptors.
#[derive(Debug)]
pub struct DmaAreas<'m, const HEAD: usize> {
    start: NonNull<u8>,
    physical: u64,
    stride: usize,
    mask: u16,
    entries: u16,
    memory: PhantomData<&'m ()>,
}

// SAFETY: `DmaAreas`' invariant: the pointer leads into one `DmaMemory`, which is valid on
// every thread, and every access is atomic.
unsafe impl<const HEAD: usize> Send for DmaAreas<'_, HEAD> {}
// SAFETY: As for `Send`: concurrent accesses are atomic, so they cannot race.
unsafe impl<const HEAD: usize> Sync for DmaAreas<'_, HEAD> {}

impl<'m, const HEAD: usize> DmaAreas<'m, HEAD> {
    /// The tables alone.
    #[must_use]
    pub fn tables(&self) -> DmaTables<'m> {
        DmaTables {
            // SAFETY: `DmaAreas`' invariant: the first area has `HEAD` bytes.
            start: unsafe { self.start.add(HEAD) },
            stride: self.stride,
            mask: self.mask,
            entries: self.entries,
            memory: PhantomData,
        }
    }

    /// The number of bytes from one area to the next, for tables of `entries` descriptors.
    #[must_use]
    pub const fn stride(entries: u16) -> usize {
        (entries as usize)
            .saturating_mul(size_of::<TableEntry>())
            .saturating_add(HEAD)
            .next_multiple_of(CACHE_LINE)
    }

    /// The area of slot `index`, taken modulo the number of areas.
    #[inline]
    #[must_use]
    pub fn area(&self, index: u16) -> Area<'_, HEAD> {
        // Does not wrap: the area lies inside the memory.
        let offset = usize::from(index & self.mask).wrapping_mul(self.stride);
        Area {
            // SAFETY: `DmaAreas`' invariant: there are `mask + 1` areas, `stride` apart.
            start: unsafe { self.start.add(offset) },
            // Does not wrap: the area lies inside the memory.
            physical: self.physical.wrapping_add(offset as u64),
            entries: self.entries,
            memory: PhantomData,
        }
    }
}

/// One area of [`DmaAreas`].
///
/// # Invariants
///
/// From `start` on, which is aligned to a cache line, there are `HEAD` bytes and
/// `entries` descriptors, all inside one [`DmaMemory`].
#[derive(Debug)]
pub struct Area<'m, const HEAD: usize> {
    start: NonNull<u8>,
    physical: u64,
    entries: u16,
    memory: PhantomData<&'m ()>,
}

impl<'m, const HEAD: usize> Area<'m, HEAD> {
    /// A pointer to the field of type `T` at `OFFSET`.
    #[inline]
    fn field<T: Record, const OFFSET: usize>(&self) -> NonNull<u8> {
        const {
            assert!(
                OFFSET + size_of::<T::Words>() <= HEAD
                    && OFFSET.is_multiple_of(align_of::<T::Words>())
            );
        };
        // SAFETY: `Area`'s invariant: there are `HEAD` bytes, and `OFFSET` is below `HEAD`.
        unsafe { self.start.add(OFFSET) }
    }

    /// Reads the field of type `T` at `OFFSET`, once.
    #[inline]
    #[must_use]
    pub fn read<T: Record, const OFFSET: usize>(&self) -> T {
        let field = self.field::<T, OFFSET>();
        // SAFETY: `Area`'s invariant: the field lies in memory that is valid by the contract
        // of `DmaMemory::new`. `field` checked that all of it lies inside, aligned.
        T::from_words(unsafe { Words::load(field) })
    }

    /// Writes the field of type `T` at `OFFSET`.
    #[inline]
    pub fn write<T: Record, const OFFSET: usize>(&self, value: T) {
        let field = self.field::<T, OFFSET>();
        // SAFETY: As for `read`.
        unsafe { value.into_words().store(field) };
    }

    /// The physical address of the byte at `OFFSET`.
    #[inline]
    #[must_use]
    pub fn physical<const OFFSET: usize>(&self) -> u64 {
        const { assert!(OFFSET < HEAD) };
        // Does not wrap: the byte lies inside the memory.
        self.physical.wrapping_add(OFFSET as u64)
    }

    /// The table behind the fields.
    #[inline]
    #[must_use]
    pub fn table(&self) -> DmaTable<'m> {
        DmaTable {
            // SAFETY: `Area`'s invariant: there are `HEAD` bytes before the descriptors.
            start: unsafe { self.start.add(HEAD) },
            // Does not wrap: the table lies inside the memory.
            physical: self.physical.wrapping_add(HEAD as u64),
            entries: self.entries,
            memory: PhantomData,
        }
    }
}

/// The table of one [`Area`].
///
/// # Invariants
///
/// From `start` on, which is aligned, there are `entries` descriptors inside one [`DmaMemory`].
#[derive(Debug)]
pub struct DmaTable<'m> {
    start: NonNull<u8>,
    physical: u64,
    entries: u16,
    memory: PhantomData<&'m ()>,
}

impl DmaTable<'_> {
    /// The physical address.
    #[inline]
    #[must_use]
    pub fn physical(&self) -> u64 {
        self.physical
    }

    /// Writes entry `number` of the table. Returns `None` if there is no such entry.
    #[inline]
    #[must_use]
    pub fn write_entry(&self, number: u16, entry: TableEntry) -> Option<()> {
        self.write_entries(number, &[()], |_, ()| entry).map(drop)
    }

    /// Writes an entry of the table for each of `values`, from entry `first` on. `entry` makes
    /// the entry of a number and a value. Returns the number of the entry behind the last one
    /// that was written.
    ///
    /// Writes nothing and returns `None` if the table has fewer entries from `first` on than
    /// there are values.
    #[inline]
    #[must_use]
    pub fn write_entries<V>(
        &self,
        first: u16,
        values: &[V],
        mut entry: impl FnMut(u16, &V) -> TableEntry,
    ) -> Option<u16> {
        let free = usize::from(self.entries).checked_sub(first.into())?;
        if values.len() > free {
            return None;
        }
        // Does not wrap: the entry lies inside the memory, or at its end.
        let offset = usize::from(first).wrapping_mul(size_of::<TableEntry>());
        // SAFETY: `DmaTable`'s invariant: there are `entries` descriptors, and `first` is at most
        // `entries`.
        let mut place = unsafe { self.start.add(offset) };
        let (mut index, mut rest) = (0_usize, values);
        while let [value, others @ ..] = rest {
            // At most `entries`, which has 16 bits.
            let entry = entry(first.wrapping_add(index as u16), value);
            // SAFETY: `DmaTable`'s invariant: there are `entries` aligned descriptors. There are
            // at most `entries - first` values, and this runs once for each, so this entry is in
            // the table.
            unsafe { entry.into_words().store(place) };
            // SAFETY: As above: the result is at most the end of the table.
            place = unsafe { place.add(size_of::<TableEntry>()) };
            (index, rest) = (index.wrapping_add(1), others);
        }
        // As above.
        Some(first.wrapping_add(values.len() as u16))
    }
}

/// The tables of [`DmaAreas`], to be copied into a ring.
///
/// # Invariants
///
/// From `start` on there are `mask + 1` tables, one `stride` apart, all inside one
/// [`DmaMemory`]. Each has `entries` aligned entries.
#[derive(Debug)]
pub struct DmaTables<'m> {
    start: NonNull<u8>,
    stride: usize,
    mask: u16,
    entries: u16,
    memory: PhantomData<&'m ()>,
}

// SAFETY: `DmaTables`' invariant: the pointer leads into one `DmaMemory`, which is valid on
// every thread, and every access is atomic.
unsafe impl Send for DmaTables<'_> {}

impl DmaTables<'_> {
    /// The number of entries of each table.
    pub(crate) fn entries(&self) -> u16 {
        self.entries
    }

    /// Reads an entry of the table of slot `index`, which is taken modulo the number of
    /// tables. Returns `None` if the table has no such entry. The device may have changed the
    /// entry: then it changed the buffers of its own request, which it could also do in the ring.
    #[must_use]
    pub(crate) fn read(&self, index: u16, number: u16) -> Option<TableEntry> {
        if number >= self.entries {
            return None;
        }
        // Does not wrap: the entry lies inside the memory.
        let offset = usize::from(index & self.mask)
            .wrapping_mul(self.stride)
            .wrapping_add(usize::from(number).wrapping_mul(size_of::<TableEntry>()));
        // SAFETY: `DmaTables`' invariant: there are `mask + 1` tables, `stride` apart, and each
        // has `entries` entries.
        let entry = unsafe { self.start.add(offset) };
        // SAFETY: As above: the entry is aligned, and valid by the contract of
        // `DmaMemory::new`.
        Some(TableEntry::from_words(unsafe { Words::load(entry) }))
    }
}

/// An array of values in shared memory. An index is taken modulo the number of values.
///
/// # Invariants
///
/// From `start` on, which is aligned for `T::Words`, there are `mask + 1` values, all
/// inside one [`DmaMemory`].
pub struct DmaRing<'m, T> {
    start: NonNull<u8>,
    physical: u64,
    mask: u16,
    memory: PhantomData<&'m T>,
}

// SAFETY: `DmaRing`'s invariant: the pointer leads into one `DmaMemory`, which is valid on
// every thread, and every access is atomic.
unsafe impl<T> Send for DmaRing<'_, T> {}
// SAFETY: as for `Send`: concurrent accesses are atomic, so they can't race.
unsafe impl<T> Sync for DmaRing<'_, T> {}

impl<T: Record> DmaRing<'_, T> {
    /// Reads the value at `index`, once.
    #[inline]
    #[must_use]
    pub fn read(&self, index: u16) -> T {
        // SAFETY: `DmaRing`'s invariant: `at` points to an aligned `T::Words`, in memory that
        // is valid by the contract of `DmaMemory::new`.
        T::from_words(unsafe { Words::load(self.at(index)) })
    }

    /// Writes the value at `index`.
    #[inline]
    pub fn write(&self, index: u16, value: T) {
        // SAFETY: as for `read`.
        unsafe { value.into_words().store(self.at(index)) };
    }

    /// Reads the second word of the value at `index`, once.
    #[inline]
    #[must_use]
    pub fn read_second(&self, index: u16) -> u64
    where
        T: Record<Words = [u64; 2]>,
    {
        // SAFETY: `DmaRing`'s invariant: the value has two words.
        let place = unsafe { self.at(index).add(size_of::<u64>()) };
        // SAFETY: as for `read`.
        let [word] = unsafe { <[u64; 1]>::load(place) };
        u64::from_le(word)
    }

    /// Writes the value at `index`, whose second word makes it valid for the device: a device
    /// that sees this word also sees all that was written before.
    #[inline]
    pub fn publish(&self, index: u16, value: T)
    where
        T: Record<Words = [u64; 2]>,
    {
        let [first, second] = value.into_words();
        // SAFETY: as for `read`.
        unsafe { [first].store(self.at(index)) };
        fence(Ordering::Release);
        // SAFETY: as for `read`: the value has two words.
        let place = unsafe { self.at(index).add(size_of::<u64>()) };
        // SAFETY: as for `read`.
        unsafe { [second].store(place) };
    }

    /// The physical address of the value at `index`.
    #[inline]
    #[must_use]
    pub fn physical(&self, index: u16) -> u64 {
        // Does not wrap: the value lies inside the memory.
        self.physical.wrapping_add(self.offset(index) as u64)
    }

    #[inline]
    fn offset(&self, index: u16) -> usize {
        // Does not wrap: the value lies inside the memory.
        usize::from(index & self.mask).wrapping_mul(size_of::<T::Words>())
    }

    #[inline]
    fn at(&self, index: u16) -> NonNull<u8> {
        // SAFETY: `DmaRing`'s invariant: there are `mask + 1` values.
        unsafe { self.start.add(self.offset(index)) }
    }
}

impl<T> fmt::Debug for DmaRing<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DmaRing({:#x})", self.physical)
    }
}

/// One value in shared memory.
#[derive(Debug)]
pub struct DmaCell<'m, T> {
    only: DmaRing<'m, T>,
}

impl<T: Record> DmaCell<'_, T> {
    /// Reads the value, once.
    #[inline]
    #[must_use]
    pub fn read(&self) -> T {
        self.only.read(0)
    }

    /// Writes the value.
    #[inline]
    pub fn write(&self, value: T) {
        self.only.write(0, value);
    }

    /// The physical address of the value.
    #[inline]
    #[must_use]
    pub fn physical(&self) -> u64 {
        self.only.physical(0)
    }
}

/// A type whose values can be stored in shared memory, as words of one width.
pub trait Record: Copy {
    /// The words, in the order of their addresses.
    type Words: Words;

    /// Converts this value to words, in little-endian byte order.
    fn into_words(self) -> Self::Words;

    /// Converts little-endian words to the value.
    fn from_words(words: Self::Words) -> Self;
}

impl Record for u8 {
    type Words = [u8; 1];

    #[inline]
    fn into_words(self) -> [u8; 1] {
        [self]
    }

    #[inline]
    fn from_words([byte]: [u8; 1]) -> Self {
        byte
    }
}

impl<const N: usize> Record for [u8; N] {
    type Words = [u8; N];

    #[inline]
    fn into_words(self) -> [u8; N] {
        self
    }

    #[inline]
    fn from_words(words: [u8; N]) -> Self {
        words
    }
}

impl Record for le16 {
    type Words = [u16; 1];

    #[inline]
    fn into_words(self) -> [u16; 1] {
        [self.0]
    }

    #[inline]
    fn from_words([word]: [u16; 1]) -> Self {
        Self(word)
    }
}

impl Record for le32 {
    type Words = [u32; 1];

    #[inline]
    fn into_words(self) -> [u32; 1] {
        [self.0]
    }

    #[inline]
    fn from_words([word]: [u32; 1]) -> Self {
        Self(word)
    }
}

impl Record for UsedElem {
    type Words = [u32; 2];

    #[inline]
    fn into_words(self) -> [u32; 2] {
        [self.id.0, self.len.0]
    }

    #[inline]
    fn from_words([id, len]: [u32; 2]) -> Self {
        Self {
            id: le32::from_ne(u32::from_le(id)),
            len: le32::from_ne(u32::from_le(len)),
        }
    }
}

impl Record for Desc {
    /// The address; then length, flags and next, with the length in the low bits.
    type Words = [u64; 2];

    #[inline]
    fn into_words(self) -> [u64; 2] {
        let rest = u64::from(self.len.to_ne())
            | u64::from(self.flags.bits().to_ne()) << 32
            | u64::from(self.next.to_ne()) << 48;
        [self.addr.0, rest.to_le()]
    }

    #[inline]
    fn from_words([addr, rest]: [u64; 2]) -> Self {
        let rest = u64::from_le(rest);
        // Each cast keeps the low bits, where the shift has moved the field.
        Self {
            addr: le64::from_ne(u64::from_le(addr)),
            len: le32::from_ne(rest as u32),
            flags: DescF::from_bits_retain(le16::from_ne((rest >> 32) as u16)),
            next: le16::from_ne((rest >> 48) as u16),
        }
    }
}

/// Words of one width that are loaded and stored one by one.
pub trait Words: Copy + sealed::Sealed {
    /// Loads each word once, the first one first.
    ///
    /// # Safety
    ///
    /// `at` is valid for atomic reads of `Self`, and aligned for its words.
    unsafe fn load(at: NonNull<u8>) -> Self;

    /// Stores each word once, the first one first.
    ///
    /// # Safety
    ///
    /// `at` is valid for atomic writes of `Self`, and aligned for its words.
    unsafe fn store(self, at: NonNull<u8>);
}

impl<W: word::Word, const N: usize> Words for [W; N] {
    #[inline]
    unsafe fn load(at: NonNull<u8>) -> Self {
        core::array::from_fn(|number| {
            // SAFETY: `number < N`: inside what the caller vouches for.
            let word = unsafe { at.cast::<W>().add(number) };
            // SAFETY: the caller vouches for all N words.
            unsafe { W::load(word) }
        })
    }

    #[inline]
    unsafe fn store(self, at: NonNull<u8>) {
        for (number, value) in self.into_iter().enumerate() {
            // SAFETY: `number < N`: inside what the caller vouches for.
            let word = unsafe { at.cast::<W>().add(number) };
            // SAFETY: the caller vouches for all N words.
            unsafe { W::store(word, value) };
        }
    }
}

mod sealed {
    /// Restricts [`super::Words`] to widths that have atomics.
    pub trait Sealed {}

    impl<W: super::word::Word, const N: usize> Sealed for [W; N] {}
}

/// A word in shared memory: one atomic access.
#[cfg(not(all(loom, test)))]
mod word {
    use core::ptr::NonNull;
    use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

    pub trait Word: Copy {
        /// # Safety
        ///
        /// `at` is valid for atomic reads of this width.
        unsafe fn load(at: NonNull<Self>) -> Self;

        /// # Safety
        ///
        /// `at` is valid for atomic writes of this width.
        unsafe fn store(at: NonNull<Self>, value: Self);
    }

    macro_rules! words {
        ($($word:ty: $atomic:ty),*) => {$(
            impl Word for $word {
                #[inline]
                unsafe fn load(at: NonNull<Self>) -> Self {
                    // SAFETY: The caller promises that `at` is valid and aligned. All other
                    // accesses are atomic too (the contract of `DmaMemory::new`).
                    unsafe { <$atomic>::from_ptr(at.as_ptr()) }.load(Ordering::Relaxed)
                }

                #[inline]
                unsafe fn store(at: NonNull<Self>, value: Self) {
                    // SAFETY: as for `load`.
                    unsafe { <$atomic>::from_ptr(at.as_ptr()) }.store(value, Ordering::Relaxed);
                }
            }
        )*};
    }

    words!(u8: AtomicU8, u16: AtomicU16, u32: AtomicU32, u64: AtomicU64);
}

/// A word in shared memory in a loom model: each address has an atomic of loom's, so the
/// ring's own code runs in the model.
#[cfg(test)]
#[cfg(loom)]
pub(crate) mod word {
    use core::ptr::NonNull;
    use std::cell::RefCell;
    use std::collections::HashMap;
    use std::rc::Rc;
    use std::thread_local;

    use loom::sync::atomic::{AtomicU64, Ordering};

    thread_local! {
        // loom runs all threads of a model on one thread of the system.
        static CELLS: RefCell<HashMap<usize, Rc<AtomicU64>>> = RefCell::default();
    }

    /// Makes the cells for `bytes` bytes at `start`. Call it before any thread starts,
    /// because in loom creating an atomic races with its use.
    pub(crate) fn prepare(start: usize, bytes: usize) {
        for at in (start..start + bytes).step_by(2) {
            cell(at);
        }
    }

    /// Forgets all cells, at the end of an execution.
    pub(crate) fn forget() {
        CELLS.take();
    }

    fn cell(at: usize) -> Rc<AtomicU64> {
        CELLS.with_borrow_mut(|cells| {
            Rc::clone(
                cells
                    .entry(at)
                    .or_insert_with(|| Rc::new(AtomicU64::new(0))),
            )
        })
    }

    pub trait Word: Copy {
        /// # Safety
        ///
        /// None. The signature is that of the real `Word`.
        unsafe fn load(at: NonNull<Self>) -> Self;

        /// # Safety
        ///
        /// As for `load`.
        unsafe fn store(at: NonNull<Self>, value: Self);
    }

    macro_rules! words {
        ($($word:ty),*) => {$(
            impl Word for $word {
                unsafe fn load(at: NonNull<Self>) -> Self {
                    cell(at.addr().get()).load(Ordering::Relaxed) as Self
                }

                unsafe fn store(at: NonNull<Self>, value: Self) {
                    cell(at.addr().get()).store(u64::from(value), Ordering::Relaxed);
                }
            }
        )*};
    }

    words!(u8, u16, u32, u64);
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[repr(align(64))]
    struct Page([u8; 1024]);

    const PHYSICAL: u64 = 0x12_3456_7000;

    /// The page as shared memory. It is filled with bytes that the device must not see.
    fn dma(page: &mut Page, length: usize) -> DmaMemory<'_> {
        page.0.fill(0xA5);
        let start = NonNull::from(&mut page.0).cast();
        // SAFETY: The memory lies in the page, which is borrowed meanwhile.
        unsafe { DmaMemory::new(start, PHYSICAL, length) }.unwrap()
    }

    fn size(size: u16) -> QueueSize {
        QueueSize::new(size).unwrap()
    }

    #[test]
    fn memory_that_ends_above_2_64_is_refused() {
        let mut page = Page([0; 1024]);
        let start = NonNull::from(&mut page.0).cast();
        // SAFETY: The memory is refused and never accessed.
        let memory = unsafe { DmaMemory::new(start, u64::MAX - 63, 1024) };

        assert_eq!(memory.err(), Some(Error::MemoryOverflow));
    }

    #[test]
    fn memory_with_another_alignment_for_the_device_is_refused() {
        let mut page = Page([0; 1024]);
        let start = NonNull::from(&mut page.0).cast();
        // SAFETY: The memory is refused and never accessed.
        let memory = unsafe { DmaMemory::new(start, PHYSICAL + 32, 512) };

        assert_eq!(memory.err(), Some(Error::MemorySkewed));
    }

    #[test]
    fn memory_may_begin_inside_a_cache_line_of_both_address_spaces() {
        let mut page = Page([0; 1024]);
        let start = NonNull::from(&mut page.0[8..]).cast();
        // SAFETY: The memory lies in the page, which is borrowed meanwhile.
        let mut memory = unsafe { DmaMemory::new(start, PHYSICAL + 8, 1016) }.unwrap();

        memory.next_line().unwrap();

        assert_eq!(memory.left(), 960);
        assert_eq!(memory.cell::<u8>().unwrap().physical(), PHYSICAL + 64);
    }

    #[test]
    fn allocations_are_contiguous_and_zeroed() {
        let mut page = Page([0; 1024]);
        let mut memory = dma(&mut page, 256);

        let flags: DmaCell<'_, le16> = memory.cell().unwrap();
        let index: DmaCell<'_, le16> = memory.cell().unwrap();
        let ring: DmaRing<'_, UsedElem> = memory.ring(size(8)).unwrap();
        let event: DmaCell<'_, le16> = memory.cell().unwrap();

        assert_eq!(flags.physical(), PHYSICAL);
        assert_eq!(index.physical(), PHYSICAL + 2);
        assert_eq!(ring.physical(0), PHYSICAL + 4);
        assert_eq!(std::format!("{ring:?}"), "DmaRing(0x1234567004)");
        assert_eq!(ring.physical(7), PHYSICAL + 60);
        assert_eq!(event.physical(), PHYSICAL + 68);
        assert_eq!(memory.left(), 256 - 70);
        memory.next_line().unwrap();
        assert_eq!(memory.left(), 128);
        assert!((0..8).all(|at| ring.read(at).into_words() == [0, 0]));
    }

    #[test]
    fn an_allocation_that_does_not_fit_is_refused_with_the_bytes_left() {
        let mut page = Page([0; 1024]);
        let mut memory = dma(&mut page, 100);

        let ring = memory.ring::<Desc>(size(8));

        let short = Error::MemoryShort {
            needed: 128,
            left: 100,
        };
        assert_eq!(ring.err(), Some(short));
        // The rest of the last cache line is too short.
        let areas = memory.areas::<16>(size(1), 6);
        let short = Error::MemoryShort {
            needed: 128,
            left: 100,
        };
        assert_eq!(areas.err(), Some(short));
    }

    #[test]
    fn a_value_is_not_carved_at_an_unaligned_offset() {
        let mut page = Page([0; 1024]);
        let mut memory = dma(&mut page, 256);
        memory.cell::<u8>().unwrap();

        let cell = memory.cell::<le16>();

        assert_eq!(cell.err(), Some(Error::MemoryMisaligned { alignment: 2 }));
    }

    #[test]
    fn an_index_is_taken_modulo_the_ring() {
        let mut page = Page([0; 1024]);
        let mut memory = dma(&mut page, 64);
        let ring: DmaRing<'_, le16> = memory.ring(size(4)).unwrap();

        ring.write(0xFFFF, le16::from_ne(7));

        assert_eq!(ring.read(3).to_ne(), 7);
        assert_eq!(ring.physical(0xFFFF), ring.physical(3));
    }

    #[test]
    fn areas_share_no_cache_line_and_have_equal_layouts() {
        let mut page = Page([0; 1024]);
        let mut memory = dma(&mut page, 512);
        memory.cell::<u8>().unwrap();

        let areas = memory.areas::<48>(size(2), 2).unwrap();

        assert_eq!(areas.area(0).physical::<3>(), PHYSICAL + 64 + 3);
        assert_eq!(areas.area(1).physical::<0>(), PHYSICAL + 64 + 128);
        let table = |index| areas.area(index).table().physical();
        assert_eq!(table(1), PHYSICAL + 64 + 128 + 48);
        assert_eq!(table(3), table(1));
        areas.area(1).write::<u8, 47>(0xEE);
        assert_eq!(areas.area(1).read::<u8, 47>(), 0xEE);
        assert_eq!(areas.area(0).read::<u8, 47>(), 0);
        assert_eq!(page.0[64 + 128 + 47], 0xEE);
    }

    #[test]
    fn entries_beyond_the_end_of_the_table_are_not_written() {
        let mut page = Page([0; 1024]);
        let areas = dma(&mut page, 128).areas::<16>(size(1), 3).unwrap();
        let table = areas.area(0).table();
        let entry = |number, word: &u64| TableEntry::from_words([word + u64::from(number), 0]);

        assert_eq!(table.write_entries(0, &[0x50, 0x60, 0x70], entry), Some(3));
        assert_eq!(table.write_entries(2, &[0x80], entry), Some(3));
        assert_eq!(table.write_entries(1, &[4, 4, 4], entry), None);
        assert_eq!(table.write_entries(3, &[], entry), Some(3));
        assert_eq!(table.write_entries(4, &[], entry), None);
        assert_eq!(table.write_entry(3, TableEntry::from_words([9, 0])), None);
        assert_eq!(
            table.write_entry(2, TableEntry::from_words([0x83, 0])),
            Some(())
        );
        let tables = areas.tables();
        assert_eq!(tables.read(0, 2), Some(TableEntry::from_words([0x83, 0])));
        assert_eq!(tables.read(0, 3), None);
        let first_words = [16, 32, 48, 64].map(|at| page.0[at]);
        assert_eq!(
            first_words,
            [0x50, 0x61, 0x83, 0xA5],
            "an entry beyond the table"
        );
    }

    #[test]
    fn bytes_and_used_elements_are_unchanged_after_a_conversion_to_words_and_back() {
        let bytes = [1_u8, 2, 3];
        assert_eq!(bytes.into_words(), bytes);
        assert_eq!(<[u8; 3]>::from_words(bytes), bytes);

        let element = UsedElem::from_words([0x0102_0304_u32.to_le(), 0x1112_1314_u32.to_le()]);
        assert_eq!(
            (element.id.to_ne(), element.len.to_ne()),
            (0x0102_0304, 0x1112_1314)
        );
        assert_eq!(
            element.into_words(),
            [0x0102_0304_u32.to_le(), 0x1112_1314_u32.to_le()]
        );
    }

    #[test]
    fn a_descriptor_has_the_layout_of_the_specification() {
        let mut page = Page([0; 1024]);
        let mut memory = dma(&mut page, 64);
        let cell: DmaCell<'_, Desc> = memory.cell().unwrap();
        let descriptor = Desc {
            addr: le64::from_ne(0x0102_0304_0506_0708),
            len: le32::from_ne(0x1112_1314),
            flags: DescF::NEXT | DescF::WRITE,
            next: le16::from_ne(0x2122),
        };

        cell.write(descriptor);

        assert_eq!(cell.read().into_words(), descriptor.into_words());
        let bytes = [
            8, 7, 6, 5, 4, 3, 2, 1, 0x14, 0x13, 0x12, 0x11, 3, 0, 0x22, 0x21,
        ];
        assert_eq!(page.0[..16], bytes);
    }
}
