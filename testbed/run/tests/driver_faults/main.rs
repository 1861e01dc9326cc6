//! Tests of the driver file with faulty and hostile devices, and with rare behaviour of Storport.
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
mod queues;
mod races;
mod recovery;
mod requests;
mod requirements;
