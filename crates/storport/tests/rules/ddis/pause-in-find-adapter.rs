//! HwFindAdapter may not pause requests, because no request can arrive yet.
//! storport-rules.md C1.

#![no_std]

#[cfg(right)]
use storport::Dpc;
#[cfg(wrong)]
use storport::FindAdapter;

#[cfg(wrong)]
pub fn find_adapter(cx: &mut FindAdapter<'_, '_>) {
    let _ = cx.pause(1);
    //~[wrong]^ ERROR: [E0277] the adapter is not ready in `FindAdapter<'_, '_>`
}

#[cfg(right)]
pub fn dpc(cx: &mut Dpc<'_, '_>) {
    let _ = cx.pause(1);
}
