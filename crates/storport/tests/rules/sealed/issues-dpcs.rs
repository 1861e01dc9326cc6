//! Only contexts may issue DPCs.
//! storport-rules.md Callbacks.

#![no_std]

use storport::IssuesDpcs;

/// Calls itself a context.
pub struct Mine;

#[cfg(wrong)]
impl<'a> IssuesDpcs<'a> for Mine {}
//~[wrong]^ ERROR: [E0277] `Mine` is neither the context of a callback nor the guard of a lock

/// What the trait is for: one piece of code for several callbacks.
#[cfg(right)]
pub fn from_any<'a, C: IssuesDpcs<'a>>(_cx: &mut C, _mine: &Mine) {}
