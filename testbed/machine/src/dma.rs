//! Gives a device of the host access to the machine's memory, through the host's IOMMU.
#![expect(unsafe_code, reason = "maps memory into an IOMMU")]

use std::sync::Arc;

use vfio_ioctls::{VfioContainer, VfioError};

use crate::memory::Memory;

/// The machine's memory in the IOMMU of a VFIO container. Devices of the container reach it, and
/// nothing else, at its physical addresses. Dropping the last reference to the container ends
/// that.
///
/// # Invariants
/// The memory lives at least as long as this does, and the kernel pins its pages in the IOMMU.
pub struct Mapping {
    container: Arc<VfioContainer>,
    memory: Arc<Memory>,
}

impl Mapping {
    /// Maps all memory. The container must have a device.
    ///
    /// # Errors
    /// Errors of the kernel: the addresses collide with reserved ones, or too much memory would be
    /// pinned (`ulimit -l`).
    pub fn new(container: Arc<VfioContainer>, memory: Arc<Memory>) -> Result<Self, VfioError> {
        // SAFETY: devices access this memory as all devices of the machine do: its users never
        // hold a reference into it. It outlives the mapping: see the invariants.
        unsafe { container.vfio_map_guest_memory(memory.guest()) }?;
        Ok(Self { container, memory })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // If this fails, the kernel keeps the pages until the container is closed.
        let _ = self.container.vfio_unmap_guest_memory(self.memory.guest());
    }
}
