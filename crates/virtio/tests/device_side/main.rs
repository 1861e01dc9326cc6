//! Tests of the driver's side of virtio. The devices are those of `testbed-virtio`, which
//! can be hostile.
//!
//! Comments cite requirements as `V08` (docs/reference/virtio-requirements.md), and faults of a
//! device as `A6` (docs/reference/hostile-device.md).

mod disk;
mod pci_device;

mod configuration;
mod hostile_ring;
mod initialization;
mod packed_ring;
mod prepared;
mod properties;
mod ring;

/// The configuration for `cases` cases of a property, but only a few under Miri. No files are
/// written.
fn proptest_config(cases: u32) -> proptest::test_runner::Config {
    proptest::test_runner::Config {
        cases: if cfg!(miri) { 2 } else { cases },
        failure_persistence: None,
        ..Default::default()
    }
}
