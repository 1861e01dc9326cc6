//! The order of Storport's locks, as types: StartIo < Dpc < Interrupt.
//!
//! A level stands for the locks that the running code may already hold. [`Below`] defines which
//! locks may be taken at that level. The order is the documented one
//! (StorPortAcquireSpinLock; storport-rules.md O1 to O6), made total, so that no two callbacks can
//! wait for each other.

mod sealed {
    pub trait Sealed {}
}

/// The locks that the running code may already hold.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a level of Storport's locks",
    note = "use one of the types in `storport::level`"
)]
pub trait Level: sealed::Sealed {}

/// A level at which a lock of level `L` may be taken.
#[diagnostic::on_unimplemented(
    message = "wrong lock order: at level `{Self}`, a lock of level `{L}` may not be taken",
    label = "locks are taken in the order StartIo, Dpc, Interrupt, and only one of each \
             (storport-rules.md O1 to O6)",
    note = "take this lock before the lock that is held, or after that lock is released",
    note = "if Storport holds this lock in this callback, open the cell without taking the lock \
            (`open`)",
    note = "in HwStartIo, match on `StartIo::channels`: take the StartIo lock in \
            `Channels::Concurrent`, and open its cells in `Channels::Serial`"
)]
pub trait Below<L: Level>: Level {}

macro_rules! levels {
    ($($(#[$doc:meta])* $name:ident below $($above:ident)*;)*) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        pub enum $name {}
        impl sealed::Sealed for $name {}
        impl Level for $name {}
        $(
            #[diagnostic::do_not_recommend]
            impl Below<$above> for $name {}
        )*
    )*};
}

levels! {
    /// No lock is held.
    NothingHeld below StartIoHeld DpcHeld InterruptHeld;
    /// The StartIo lock may be held: HwStartIo, before it is known whether
    /// concurrent channels were granted.
    StartIoMaybeHeld below DpcHeld InterruptHeld;
    /// The StartIo lock is held.
    StartIoHeld below DpcHeld InterruptHeld;
    /// A DPC object's lock is held. A second one is never taken (storport-rules.md O4).
    DpcHeld below InterruptHeld;
    /// The interrupt lock or a message's lock is held. No lock comes later in the order, and these
    /// locks never nest (storport-rules.md O5, O6).
    InterruptHeld below;
}
