//! A request cannot be completed as pending, because SRB_STATUS_PENDING is not a final
//! status.
//! storport-rules.md S3, StorPortStatusPending.

#![no_std]

use storport::{Failure, Srb};

pub fn end(srb: Srb<'_>) {
    #[cfg(wrong)]
    srb.fail(Failure::Pending);
    //~[wrong]^ ERROR: [E0599] no variant or associated item named `Pending` found for enum `Failure` in the current scope
    #[cfg(right)]
    srb.fail(Failure::Error);
}
