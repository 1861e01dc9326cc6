//! What the processor would do that a process may not: register pages,
//! port instructions, privileged reads; and the end of a driver that crashed.

use std::sync::Arc;

use crate::{image::Image, pci::PciFunction};

/// Installs the signal handlers, once for the process.
///
/// # Errors
/// What the host says.
pub fn install() -> std::io::Result<()> {
    todo!()
}

/// Makes `image` known to crash messages: an address in it is reported as
/// its name and offset.
pub fn watch(_image: &Arc<Image>) {
    todo!()
}

/// An address range whose every access reaches a function's BAR.
#[derive(Debug)]
pub struct RegisterWindow {}

impl RegisterWindow {
    /// Maps `bytes` from `offset` of BAR `bar`.
    ///
    /// # Errors
    /// What the host says.
    pub fn map(
        _function: &Arc<dyn PciFunction>,
        _bar: usize,
        _offset: u64,
        _bytes: u64,
    ) -> std::io::Result<Self> {
        todo!()
    }

    /// Its first address: page-aligned if `offset` is.
    #[must_use]
    pub fn address(&self) -> usize {
        todo!()
    }
}

/// Makes `function` answer port instructions at the addresses of its I/O BARs.
pub fn connect_ports(_function: &Arc<dyn PciFunction>) {
    todo!()
}

/// Runs driver code: a crash in it is reported as the driver's, in `callback`.
pub fn in_driver<R>(_callback: &'static str, _run: impl FnOnce() -> R) -> R {
    todo!()
}

/// Ends the process with one message about the driver and exit code 3; callable
/// from signal handlers and from any thread.
pub fn stop_machine(_message: std::fmt::Arguments<'_>) -> ! {
    todo!()
}
