//! HwFindAdapter may not query messages: they exist only from HwInitialize on.
//! storport-rules.md StorPortGetMSIInfo.

#![no_std]

#[cfg(wrong)]
use storport::FindAdapter;
#[cfg(right)]
use storport::Initialize;

#[cfg(wrong)]
pub fn find_adapter(cx: &mut FindAdapter<'_, '_>) {
    let _ = cx.has_message(1);
    //~[wrong]^ ERROR: [E0277] the connected messages cannot be queried in `FindAdapter<'_, '_>`
}

#[cfg(right)]
pub fn initialize(cx: &mut Initialize<'_, '_>) {
    let _ = cx.has_message(1);
}
