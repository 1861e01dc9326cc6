//! The driver file on faulty and hostile devices, and under a Storport that does
//! what it seldom does.
//!
//! The file is the one that FERROSTOR_DRIVER names. Each scenario runs in a
//! process of its own.

#[macro_use]
mod bench;
mod device;
mod dump;
mod durability;
mod events;
mod life;
mod locks;
mod races;
mod recovery;
mod requests;
