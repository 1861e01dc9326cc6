//! virtio-blk: what a disk says of itself, what may be asked of it, and the
//! requests themselves (VIRTIO 1.3 §5.2).

mod config;
mod limits;
mod request;

pub use config::{CacheMode, CacheModeRefused, Config, choose_features};
pub use limits::{Limits, PAGE, limits};
pub use request::{IDENTITY, Refusal, Refused, RequestError, Requests, Segment};
