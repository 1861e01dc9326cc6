//! A small miniport in every order of events that Storport may choose.
#![cfg(all(miri, windows))]

mod concurrency;
mod data;
mod dump;
mod everything;
mod miniport;
mod misuse;
mod orders;
mod requests;
