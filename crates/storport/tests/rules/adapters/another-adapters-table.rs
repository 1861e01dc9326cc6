//! A table lies in the device extension of its adapter. It cannot be stored in the state
//! of another adapter.
//! storport.h, HW_INITIALIZATION_DATA.DeviceExtensionSize.

#![no_std]

use storport::{FindAdapter, Table};

pub struct Adapter<'a> {
    pub queues: Table<'a, u32>,
}

pub fn find_adapter<'a, 'b>(
    cx: &mut FindAdapter<'_, 'a>,
    another: &mut FindAdapter<'_, 'b>,
) -> Option<Adapter<'a>> {
    #[cfg(wrong)]
    let queues = another.table(4, |_, _| Some(0))?;
    #[cfg(right)]
    let queues = cx.table(4, |_, _| Some(0))?;
    let _ = (cx, another);
    Some(Adapter { queues })
    //~[wrong]^ ERROR: lifetime may not live long enough
    //~[wrong]| ERROR: lifetime may not live long enough
}
