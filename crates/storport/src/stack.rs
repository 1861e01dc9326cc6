//! The stack that this copy of the driver was loaded into: a dump stack loads
//! a copy of its own, and says so in DriverEntry (storport-rules.md D1).

use core::sync::atomic::{AtomicBool, Ordering};

/// Which stack it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stack {
    /// That of the running system.
    Normal,
    /// That which writes a crash dump or a hibernation file.
    Dump,
}

/// DriverEntry alone writes it.
static IS_DUMP: AtomicBool = AtomicBool::new(false);

impl Stack {
    /// Says which it is.
    pub(crate) fn enter(self) {
        IS_DUMP.store(self == Self::Dump, Ordering::Relaxed);
    }

    /// Which it is.
    pub(crate) fn current() -> Self {
        if IS_DUMP.load(Ordering::Relaxed) {
            Self::Dump
        } else {
            Self::Normal
        }
    }
}
