//! The driver side of virtio: PCI transport, split virtqueue and virtio-blk, no_std.
