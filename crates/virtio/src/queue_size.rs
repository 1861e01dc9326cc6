//! The size of a virtqueue: a power of two, so that a mask brings an index into range, and
//! no check is needed that could fail.

/// The size of a virtqueue in descriptors: a power of two in 1..=32768. A split ring has no
/// other sizes (VIRTIO 1.3 §2.7). A packed ring may have them (§2.8), but a driver may use a
/// smaller ring than the device offers.
///
/// Also a number of slots, or of descriptors of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct QueueSize(u16);

impl QueueSize {
    /// A queue of 256 descriptors: as many slots as a
    /// [`SlotAllocator`](crate::slots::SlotAllocator) has.
    pub const Q256: Self = Self(256);

    /// A queue of one descriptor.
    pub const ONE: Self = Self(1);

    /// Makes a queue size of `size` descriptors. Returns `None` unless `size` is a power
    /// of two.
    #[inline]
    #[must_use]
    pub const fn new(size: u16) -> Option<Self> {
        // The largest power of two in 16 bits is 32768, VIRTIO's own maximum.
        if size.is_power_of_two() {
            Some(Self(size))
        } else {
            None
        }
    }

    /// The largest queue size of at most `most` descriptors. Returns `None` if `most` is 0 or
    /// above 32768.
    #[must_use]
    pub const fn at_most(most: u16) -> Option<Self> {
        match most {
            0 => None,
            most if most > 32768 => None,
            most => Some(Self::power(most.ilog2())),
        }
    }

    /// The queue size 2^`log`. `log` is taken modulo 16.
    pub(crate) const fn power(log: u32) -> Self {
        Self(1_u16.wrapping_shl(log))
    }

    /// This size divided by `divisor`, at least 1.
    pub(crate) const fn divided_by(self, divisor: Self) -> Self {
        match self.0.checked_shr(divisor.log()) {
            None | Some(0) => Self::ONE,
            Some(quotient) => Self(quotient),
        }
    }

    /// The exponent: the size is 2 to this power.
    #[inline]
    pub(crate) const fn log(self) -> u32 {
        self.0.trailing_zeros()
    }

    /// The number of descriptors.
    #[inline]
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }

    /// The mask that brings an index into 0..size.
    #[inline]
    pub(crate) const fn mask(self) -> u16 {
        // Does not wrap: a power of two is at least 1.
        self.0.wrapping_sub(1)
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::QueueSize;

    #[cfg_attr(miri, ignore = "pure arithmetic over all of 2^16")]
    #[test]
    fn only_powers_of_two_are_queue_sizes() {
        for size in 0..=u16::MAX {
            let valid = size.count_ones() == 1;
            assert_eq!(QueueSize::new(size).is_some(), valid, "{size}");
            let largest = QueueSize::at_most(size).map(QueueSize::get);
            let possible = (0..16).map(|log| 1 << log).filter(|it| *it <= size).max();
            assert_eq!(largest, possible.filter(|_| size <= 32768), "{size}");
        }
    }
}
