//! Storport's routines are methods of contexts, and the functions behind these methods
//! are private. So a driver cannot call routines that only the framework may call
//! (StorPortInitializeDpc, StorPortEnablePassiveInitialization) or only a port driver
//! (StorPortCompleteRequest), deprecated routines (StorPortLogError,
//! StorPortValidateRange), or a notification that is not for miniports.
//! storport-rules.md Routines, Notifications, S7, StorPortEnablePassive, StorPortPassiveFromHwInit,
//! StorPortCompleteRequest, StorPortDDIsPortOnly, StorPortDeprecated, StorPortNotification2.

#![no_std]

use storport::ResetBus;

pub fn reset_bus(cx: &mut ResetBus<'_, '_>) {
    #[cfg(wrong)]
    {
        let _ = cx;
        storport::port::stall(10);
        //~[wrong]^ ERROR: [E0603] module `port` is private
    }
    #[cfg(right)]
    cx.stall(10);
}
