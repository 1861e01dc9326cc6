//! The driver's side of virtio against devices: small ones of the tests' own,
//! honest and hostile, and rust-vmm's.
//!
//! `V` numbers in names and comments are the project's requirements, "attack"
//! numbers its list of what a hostile device can do.

mod disk;
mod guest_memory;
mod pci_device;
mod ring_device;

mod configuration;
mod hostile_ring;
mod initialization;
mod prepared;
mod properties;
mod ring;
mod rust_vmm;
mod threads;

/// `cases` a property, a few of them under Miri, and no files written.
fn proptest_config(cases: u32) -> proptest::test_runner::Config {
    proptest::test_runner::Config {
        cases: if cfg!(miri) { 2 } else { cases },
        failure_persistence: None,
        ..Default::default()
    }
}
