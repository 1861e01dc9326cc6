//! Only HwFindAdapter may read PCI configuration space.
//! storport-rules.md StorPortGetBusData.

#![no_std]

#[cfg(right)]
use storport::FindAdapter;
#[cfg(wrong)]
use storport::ResetBus;

#[cfg(wrong)]
pub fn reset_bus(cx: &mut ResetBus<'_, '_>) {
    let _ = cx.pci_configuration();
    //~[wrong]^ ERROR: [E0277] this may only be called in HwFindAdapter, not in `storport::ResetBus<'_, '_>`
}

#[cfg(right)]
pub fn find_adapter(cx: &mut FindAdapter<'_, '_>) {
    let _ = cx.pci_configuration();
}
