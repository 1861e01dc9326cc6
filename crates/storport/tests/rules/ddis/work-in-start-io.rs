//! HwStartIo may not queue a work item, because that allocates memory. HwBuildIo and DPCs
//! may.
//! storport-rules.md HwStartIo, SpNoWait.

#![no_std]

#[cfg(right)]
use storport::BuildIo;
#[cfg(wrong)]
use storport::StartIo;
use storport::callback;

#[cfg(wrong)]
pub fn start_io<M: callback::Work>(cx: &mut StartIo<'_, '_>) {
    let _ = cx.queue_work::<M>(0);
    //~[wrong]^ ERROR: [E0277] pool memory and work items are not available in `StartIo<'_, '_>`
}

#[cfg(right)]
pub fn build_io<M: callback::Work>(cx: &mut BuildIo<'_, '_>) {
    let _ = cx.queue_work::<M>(0);
}
