//! The device's side of virtio, for tests of drivers: registers and rings as state machines
//! without threads, files or an operating system. Miri can run them. They are written from the
//! specification, and share no code with the driver.
//!
//! - `function`: all registers of a virtio-blk function
//! - `common_config`, `blk_config`: the common and the device-specific configuration registers,
//!   with checks of each access of the driver, and false values that a test sets
//! - `split_ring`, `packed_ring`: the device's side of a split ring and of a packed ring, with
//!   checks of each descriptor chain
//! - `chain`: descriptor chains, and the rules that both kinds of ring have for them
//! - `memory`: memory that driver and device share
//! - `driver_errors`: what the driver did wrong, in sentences
//!
//! ```
//! use testbed_virtio::blk_config::BlkConfig;
//! use testbed_virtio::common_config::CommonConfig;
//! use testbed_virtio::driver_errors::DriverErrors;
//! use testbed_virtio::function::{Function, Structure};
//!
//! // VIRTIO_F_VERSION_1, one queue of 256 entries, no MSI-X vectors, 8 sectors.
//! let config = BlkConfig { capacity: 8, ..BlkConfig::default() };
//! let mut function = Function::new(CommonConfig::new(1 << 32, 1, 256, 0), config);
//!
//! let (mut capacity, errors) = ([0; 4], DriverErrors::default());
//! function.read(Structure::Device, 0, &mut capacity, &errors);
//! assert_eq!((u32::from_le_bytes(capacity), errors.count()), (8, 0));
//!
//! // A field that is read at the wrong width is recorded.
//! function.read(Structure::Device, 0, &mut [0], &errors);
//! assert_eq!(errors.count(), 1);
//! ```

pub mod blk_config;
pub mod chain;
pub mod common_config;
pub mod driver_errors;
pub mod function;
pub mod memory;
pub mod packed_ring;
pub mod split_ring;
