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
    message = "`{Self}` is no level of Storport's locks",
    note = "the levels are those of `storport::level`"
)]
pub trait Level: sealed::Sealed {}

/// A level at which a lock of level `L` may be taken.
#[diagnostic::on_unimplemented(
    message = "with `{Self}`, a lock that makes it `{L}` can't be taken",
    label = "locks go StartIo, then Dpc, then Interrupt, and of each level once",
    note = "take this lock first, or be done with the other one before (storport-rules.md O1 to O6)",
    note = "in HwStartIo, `StartIo::channels` tells whether Storport holds the StartIo lock: take \
            it in `Channels::Concurrent`, open its cell in `Channels::Serial`"
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
