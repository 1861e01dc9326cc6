//! HwMSInterruptRoutine may not query messages.
//! storport-rules.md HwMSInterruptRoutine, StorPortGetMSIInfo.

#![no_std]

#[cfg(right)]
use storport::Initialize;
#[cfg(wrong)]
use storport::MessageInterrupt;

#[cfg(wrong)]
pub fn message_interrupt(cx: &mut MessageInterrupt<'_, '_>) {
    let _ = cx.has_message(1);
    //~[wrong]^ ERROR: [E0277] the connected messages cannot be queried in `storport::MessageInterrupt<'_, '_>`
}

#[cfg(right)]
pub fn initialize(cx: &mut Initialize<'_, '_>) {
    let _ = cx.has_message(1);
}
