//! The data of a cell can only be accessed through the cell.
//! storport-rules.md HwBuildIo, X10.

#![no_std]

use storport::{BuildIo, DpcLocked};

pub fn build_io<'a>(cx: &mut BuildIo<'_, 'a>, next: &DpcLocked<'a, u32>) -> u32 {
    #[cfg(wrong)]
    {
        let _ = cx;
        let id: &u32 = next;
        //~[wrong]^ ERROR: [E0308] mismatched types
        *id
    }
    #[cfg(right)]
    next.with(cx, |id| **id)
}
