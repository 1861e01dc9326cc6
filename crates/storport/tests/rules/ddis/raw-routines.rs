//! Storport's routines are methods of contexts; the calls behind them are private.
//! So a driver cannot call what only the framework may (StorPortInitializeDpc,
//! StorPortEnablePassiveInitialization), what only a port driver may
//! (StorPortCompleteRequest), what is deprecated (StorPortLogError,
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
