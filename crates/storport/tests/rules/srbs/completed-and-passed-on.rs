//! HwBuildIo cannot pass a request that it completed to HwStartIo.
//! storport-rules.md S4, StorPortBuildIo.

#![no_std]

use storport::{Failure, Srb};

pub fn build_io<'a>(srb: Srb<'a>) -> Option<(Srb<'a>, u64)> {
    let Some(&operation) = srb.cdb().first() else {
        srb.fail(Failure::InvalidRequest);
        #[cfg(wrong)]
        return Some((srb, 0));
        //~[wrong]^ ERROR: [E0382] use of moved value: `srb`
        #[cfg(right)]
        return None;
    };
    Some((srb, u64::from(operation)))
}
