//! A driver cannot add contexts, rights, levels or callbacks to those of the crate.

use storport::{
    callback::{Entry, EntryPoint, Names, key},
    level::{Below, InterruptHeld, Level, NothingHeld},
    *,
};

/// A type of the driver.
struct Mine;

/// Locks are taken, cells are opened and DPCs are issued only with contexts and guards, not with a
/// type of the driver.
/// storport-rules.md Callbacks.
mod own_context {
    use super::*;

    #[cfg(wrong)]
    impl<'a> Scope<'a> for Mine {
        //~ E0277 is neither the context of a callback nor the guard of a lock
        type Level = NothingHeld;
    }
    #[cfg(wrong)]
    impl<'a> Proves<'a, InterruptHeld> for Mine {}
    //~ E0277 is neither the context of a callback nor the guard of a lock
    #[cfg(wrong)]
    impl<'a> IssuesDpcs<'a> for Mine {}
    //~ E0277 is neither the context of a callback nor the guard of a lock

    /// A use of the traits: code for several callbacks.
    #[cfg(right)]
    fn from_any<'a, C>(_cx: &mut C, _mine: &Mine)
    where
        C: Scope<'a, Level = NothingHeld> + Proves<'a, InterruptHeld> + IssuesDpcs<'a>,
    {
    }
}

/// The crate defines the levels of locks, and their order.
/// storport-rules.md Order.
mod own_level {
    use super::*;

    #[cfg(wrong)]
    impl Level for Mine {}
    //~ E0277 level::sealed::Sealed
    #[cfg(wrong)]
    impl Below<level::StartIoHeld> for InterruptHeld {}
    //~ E0117

    /// A use of the traits: code that runs with different locks held.
    #[cfg(right)]
    fn from_any<L: Level + Below<InterruptHeld>>(_held: &mut Held<'_, L>) {}
}

/// A driver cannot give another right to a context.
/// storport-rules.md Callbacks, Routines, IRQL.
mod right_added {
    use super::*;

    #[cfg(wrong)]
    impl MayStall for StartIo<'_, '_> {}
    //~ E0117

    /// A use of the trait: code for several callbacks.
    #[cfg(right)]
    fn from_any<C: MayStall>(_cx: &mut C) {}
}

/// Only `driver_entry!` names the optional callbacks of a miniport, because it also registers them
/// with Storport. The crate alone defines their entry functions: that of another miniport would use
/// this miniport's state as its own.
/// storport-rules.md StorPortInitialize.
mod callback_added {
    use super::*;

    /// A miniport with the callback of another miniport.
    struct Copy<Other>(Other);

    #[cfg(wrong)]
    impl Names<key::Timer> for Mine {}
    //~ E0200
    #[cfg(wrong)]
    impl<Other: Entry<key::Timer>> Entry<key::Timer> for Copy<Other> {
        //~ E0200
        const ENTRY: EntryPoint = Other::ENTRY;
    }

    /// A use of the traits: code for any miniport with the callback.
    #[cfg(right)]
    fn from_any<M: Names<key::Timer> + Entry<key::Timer>>(_: &Copy<M>) -> EntryPoint {
        M::ENTRY
    }
}
