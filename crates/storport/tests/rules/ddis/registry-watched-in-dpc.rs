//! Notifications of registry changes may only be enabled at PASSIVE_LEVEL.
//! storport-rules.md HwRegistryNotification, IRQL.

#![no_std]

use storport::callback;

#[cfg(wrong)]
pub fn dpc<M: callback::RegistryChange>(cx: &mut storport::Dpc<'_, '_>) {
    let _ = cx.watch_registry::<M>();
    //~[wrong]^ ERROR: [E0277] `Dpc<'_, '_>` does not run at PASSIVE_LEVEL
}

#[cfg(right)]
pub fn work<M: callback::RegistryChange>(cx: &mut storport::Work<'_, '_>) {
    let _ = cx.watch_registry::<M>();
}
