//! Only a miniport with HwRegistryNotification may enable notifications of registry
//! changes.
//! storport-rules.md HwRegistryNotification.

#![no_std]

use storport::Work;

/// A miniport without `callback::RegistryChange`.
#[cfg(wrong)]
pub struct Disk;

#[cfg(wrong)]
pub fn work(cx: &mut Work<'_, '_>) {
    let _ = cx.watch_registry::<Disk>();
    //~[wrong]^ ERROR: [E0277] `Disk` does not implement the optional callback that this call needs
}

#[cfg(right)]
pub fn work<Disk: storport::callback::RegistryChange>(cx: &mut Work<'_, '_>) {
    let _ = cx.watch_registry::<Disk>();
}
