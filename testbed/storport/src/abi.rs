//! The binary interface between the driver and Storport: the only unsafe code of this crate.
//!
//! Structures are read and written in place, field by field. The driver may access them at any
//! time, so no Rust reference to one exists.
#![expect(unsafe_code, reason = "shares memory and functions with the driver")]

pub(super) mod calls;
pub(super) mod reporting_thunks;
mod routine;
pub(super) mod wdk;

use std::marker::PhantomData;

pub(super) use self::{routine::Routine, wdk::*};

use testbed_machine::{
    memory::{Block, Memory},
    trap,
};

/// STOR_STATUS_SUCCESS, or a failure of [`stor_status`].
pub(super) type Status = Result<(), u32>;

/// A type of which any bytes are a value.
///
/// # Safety
/// The type must have no invalid bit patterns and no padding.
pub(super) unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($type:ty)*) => {$(
        // SAFETY: an integer, or an array of them.
        unsafe impl Plain for $type {}
    )*};
}

plain! { u8 u16 u32 u64 usize [u8; 16] }

/// A field: its type and its offset.
pub(super) struct Field<T> {
    offset: usize,
    value: PhantomData<T>,
}

impl<T> Clone for Field<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Field<T> {}

impl<T> Field<T> {
    const fn at(offset: usize) -> Self {
        Self {
            offset,
            value: PhantomData,
        }
    }

    pub(super) const fn offset(self) -> usize {
        self.offset
    }
}

/// The address of memory that the driver can access.
///
/// # Invariants
/// - A bounded structure is memory that Storport allocated for the driver and never frees. All
///   accesses are checked against the bound.
/// - An unbounded structure is a pointer that the driver passed to Storport or stored in shared
///   memory. Storport trusts it as the kernel does, and accesses only what the pointer's
///   declaration names. No type can check this. If the pointer is wrong, the access faults, and
///   the fault is reported as the driver's crash.
/// - Storport stores only such addresses in the pointers of shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Structure {
    address: usize,
    /// The bytes from `address` on, or [`UNBOUNDED`].
    bytes: usize,
}

const UNBOUNDED: usize = usize::MAX;

impl Structure {
    /// No memory: every access stops the machine.
    pub(super) const NONE: Self = Self {
        address: 0,
        bytes: 0,
    };

    /// The structure to which a pointer of the driver leads.
    ///
    /// # Safety
    /// The driver must have passed or stored `address` as a pointer.
    pub(super) unsafe fn at(address: usize) -> Self {
        Self {
            address,
            bytes: UNBOUNDED,
        }
    }

    /// The structure to which the driver's pointer in `field` leads.
    pub(super) fn follow(self, field: Field<usize>) -> Self {
        Self {
            address: self.get(field),
            bytes: UNBOUNDED,
        }
    }

    /// The driver's function to which the pointer in `field` leads.
    pub(super) fn routine(self, field: Field<usize>) -> Routine {
        // SAFETY: the driver stored the pointer (invariants).
        unsafe { Routine::at(self.get(field)) }
    }

    pub(super) fn of(block: &'static Block) -> Self {
        Self {
            address: block.address(),
            bytes: block.len(),
        }
    }

    /// The alias ([`Memory::beside`]) of a contiguous block.
    pub(super) fn beside(memory: &Memory, block: &'static Block) -> Option<Self> {
        let (_, bytes) = memory.run(block.address(), block.len())?;
        Some(Self {
            address: memory.beside(block.address())?,
            bytes,
        })
    }

    pub(super) fn address(self) -> usize {
        self.address
    }

    pub(super) fn is_null(self) -> bool {
        self.address == 0
    }

    /// The structure `offset` bytes behind this one, in the same memory.
    pub(super) fn offset(self, offset: usize) -> Self {
        Self {
            address: self.address.wrapping_add(offset),
            bytes: match self.bytes {
                UNBOUNDED => UNBOUNDED,
                bytes => bytes.saturating_sub(offset),
            },
        }
    }

    pub(super) fn get<T: Plain>(self, field: Field<T>) -> T {
        let from: *mut T = self.pointer(field.offset, size_of::<T>());
        // SAFETY: readable (invariants), and any bytes are a `Plain`.
        unsafe { from.read_unaligned() }
    }

    pub(super) fn set<T: Plain>(self, field: Field<T>, value: T) {
        let to: *mut T = self.pointer(field.offset, size_of::<T>());
        // SAFETY: writable (invariants).
        unsafe { to.write_unaligned(value) }
    }

    /// Sets the first `bytes` bytes to `value`.
    pub(super) fn fill(self, bytes: usize, value: u8) {
        let to: *mut u8 = self.pointer(0, bytes);
        // SAFETY: writable (invariants).
        unsafe { to.write_bytes(value, bytes) }
    }

    /// Copies the first `bytes` bytes.
    pub(super) fn bytes(self, bytes: usize) -> Vec<u8> {
        let mut copy = vec![0; bytes];
        let from: *mut u8 = self.pointer(0, bytes);
        // SAFETY: readable (invariants), and the copy has this length.
        unsafe { from.copy_to(copy.as_mut_ptr(), bytes) };
        copy
    }

    pub(super) fn write(self, bytes: &[u8]) {
        let to: *mut u8 = self.pointer(0, bytes.len());
        // SAFETY: writable (invariants), and no reference to it exists, so it is not `bytes`.
        unsafe { to.copy_from(bytes.as_ptr(), bytes.len()) }
    }

    /// Points to `bytes` bytes at `offset`, which are within the bound.
    fn pointer<T>(self, offset: usize, bytes: usize) -> *mut T {
        if offset.saturating_add(bytes) > self.bytes {
            trap::stop_machine(format_args!(
                "the testbed accesses {bytes} bytes at offset {offset} of a structure of {} \
                 bytes: please report this bug",
                self.bytes
            ));
        }
        self.address.wrapping_add(offset) as *mut T
    }
}

/// A value at the address itself, such as that of a `PULONG`.
pub(super) const fn value<T>() -> Field<T> {
    Field::at(0)
}
