//! A small miniport in every order of events that Storport may choose.
#![cfg(all(miri, windows))]

mod concurrency;
mod dump;
mod miniport;
mod requests;
