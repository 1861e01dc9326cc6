//! virtio-blk: a disk's configuration, the limits of a request, and the requests
//! (VIRTIO 1.3 §5.2).

mod config;
mod limits;
mod request;

pub use config::{CacheMode, CacheModeRefused, Config, choose_features};
pub use limits::{Limits, PAGE, Room, TOTAL_SLOTS, limits};
pub use request::{IDENTITY, Refusal, Refused, RequestError, Requests, Segment};
