//! The storage stack that this copy of the driver was loaded into. A dump stack loads a copy of its
//! own, which DriverEntry recognises (storport-rules.md D1).

use core::sync::atomic::{AtomicBool, Ordering};

/// A storage stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stack {
    /// The stack of the running system.
    Normal,
    /// The stack that writes a crash dump or a hibernation file.
    Dump,
}

/// Whether this copy runs in a dump stack. Only DriverEntry writes it.
static IS_DUMP: AtomicBool = AtomicBool::new(false);

impl Stack {
    /// Records the stack of this copy.
    pub(crate) fn enter(self) {
        IS_DUMP.store(self == Self::Dump, Ordering::Relaxed);
    }

    /// The stack of this copy.
    pub(crate) fn current() -> Self {
        if IS_DUMP.load(Ordering::Relaxed) {
            Self::Dump
        } else {
            Self::Normal
        }
    }
}
