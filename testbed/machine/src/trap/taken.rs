//! Memory that was taken from the driver while it may still have its address:
//! each access is told of, and then goes on.

use std::sync::OnceLock;

use super::stack::Walk;

/// An access of the driver's to memory that it may not use any more.
#[derive(Debug)]
pub struct Access {
    /// What was accessed.
    pub address: usize,
    /// Whether it was written.
    pub is_write: bool,
    /// Where in the driver the access was made, and its callers.
    pub walk: Walk,
}

/// Who is told of accesses; whether it was its memory, which can be accessed
/// again then.
pub type Told = fn(&Access) -> bool;

static TOLD: OnceLock<Told> = OnceLock::new();

/// Names who takes memory from the driver, once for the process.
pub fn tell_of_accesses(told: Told) {
    let _ = TOLD.set(told);
}

/// Whether the access was to such memory, and has been told of.
pub(super) fn is_told(access: &Access) -> bool {
    TOLD.get().is_some_and(|told| told(access))
}
