//! Only contexts may issue DPCs. A driver's own type cannot.
//! storport-rules.md Callbacks.

#![no_std]

use storport::IssuesDpcs;

/// A type of the driver that claims to be a context.
pub struct Mine;

#[cfg(wrong)]
impl<'a> IssuesDpcs<'a> for Mine {}
//~[wrong]^ ERROR: [E0277] `Mine` is neither the context of a callback nor the guard of a lock

/// A use of the trait: code for several callbacks.
#[cfg(right)]
pub fn from_any<'a, C: IssuesDpcs<'a>>(_cx: &mut C, _mine: &Mine) {}
