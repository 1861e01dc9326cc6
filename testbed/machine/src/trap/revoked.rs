//! Memory that was revoked from the driver but is still mapped without access. Each access
//! to it is reported, and then repeated.

use std::sync::OnceLock;

use super::stack::Walk;

/// An access of the driver to memory that it may no longer use.
#[derive(Debug)]
pub struct RevokedAccess {
    /// The address that was accessed.
    pub address: usize,
    /// Whether it was written.
    pub is_write: bool,
    /// The place of the access in the driver, and its callers.
    pub walk: Walk,
}

/// Handles an access. Returns whether the memory was revoked; it must be accessible then.
pub type RevokedAccessHandler = fn(&RevokedAccess) -> bool;

static HANDLER: OnceLock<RevokedAccessHandler> = OnceLock::new();

/// Sets the handler of the process. Later calls do nothing.
pub fn on_revoked_access(handler: RevokedAccessHandler) {
    let _ = HANDLER.set(handler);
}

/// Whether a handler has reported the access, so that the driver may repeat it.
pub(super) fn report(access: &RevokedAccess) -> bool {
    HANDLER.get().is_some_and(|handler| handler(access))
}
