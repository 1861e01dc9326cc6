//! Virtual CPUs: a thread each, with an IRQL, a queue of DPCs and a program
//! that runs at PASSIVE_LEVEL.

/// An interrupt request level of x64 Windows (`wdm.h`).
pub mod irql {
    /// Ordinary thread execution.
    pub const PASSIVE: u8 = 0;
    /// Asynchronous procedure calls off.
    pub const APC: u8 = 1;
    /// The scheduler and DPCs.
    pub const DISPATCH: u8 = 2;
    /// The device's interrupts, as the testbed assigns it.
    pub const DEVICE: u8 = 9;
    /// Everything masked.
    pub const HIGH: u8 = 15;
}

/// The IRQL of the calling thread; PASSIVE on a thread that is no CPU.
#[must_use]
pub fn current_irql() -> u8 {
    todo!()
}

/// Sets the IRQL of the calling thread and gives back the one before.
pub fn set_irql(_level: u8) -> u8 {
    todo!()
}

/// The number of the virtual CPU that the calling thread acts for; 0 on a
/// thread that is none.
#[must_use]
pub fn current_number() -> u32 {
    todo!()
}

/// How many virtual CPUs the machine has.
#[must_use]
pub fn count() -> u32 {
    todo!()
}
