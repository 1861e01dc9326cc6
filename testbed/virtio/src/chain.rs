//! Descriptor chains, which both kinds of ring have, and the rules for their descriptors.

pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// A descriptor of the ring or of an indirect table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// The physical address of the buffer.
    pub address: u64,
    /// The length of the buffer in bytes.
    pub length: u32,
    /// NEXT, WRITE, INDIRECT.
    pub flags: u16,
    /// The index of the next descriptor.
    pub next: u16,
}

impl Descriptor {
    /// Whether the device may write the buffer.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.flags & WRITE != 0
    }
}

/// A request as the device reads it.
#[derive(Clone, Debug)]
pub struct Chain {
    /// The id by which the device returns it: the index of its first descriptor in a split ring,
    /// the buffer id in a packed ring.
    pub id: u16,
    /// How many descriptors it has in the ring.
    pub in_ring: u16,
    /// The address of its indirect table, if it has one.
    pub table: Option<u64>,
    /// The descriptors of the table, or those in the ring.
    pub descriptors: Vec<Descriptor>,
}

/// Checks what the specification demands of the descriptors of a request in both kinds of ring.
pub(crate) fn check_descriptors(descriptors: &[Descriptor]) -> Result<(), String> {
    if descriptors.iter().any(|it| it.length == 0) {
        return Err("a descriptor of length 0; QEMU stops a device that finds one".into());
    }
    // V31, V53.
    if !descriptors.is_sorted_by_key(Descriptor::is_writable) {
        return Err(
            "a readable descriptor follows a writable one (VIRTIO 1.3 §2.7.4.2, 2.8.17)".into(),
        );
    }
    let total: u64 = descriptors.iter().map(|it| u64::from(it.length)).sum();
    // V32.
    if total > 1 << 32 {
        return Err(format!("{total} bytes in a request (VIRTIO 1.3 §2.7.5.2)"));
    }
    Ok(())
}

impl Chain {
    /// How many bytes the device may write.
    #[must_use]
    pub fn writable_bytes(&self) -> u32 {
        let writable = self.descriptors.iter().filter(|it| it.is_writable());
        writable.map(|it| it.length).sum()
    }
}
