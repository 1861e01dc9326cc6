//! Miniports on `crates/storport`, called in many orders of events, under Miri.
#![cfg(all(miri, windows))]

mod data;
mod dump;
mod everything;
mod miniport;
mod misuse;
mod orders;
mod requests;
