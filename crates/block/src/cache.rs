//! A disk's write cache: whether a completed write survives a power failure.

/// The policy of a write cache: when a write completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CachePolicy {
    /// Once the data is on stable storage.
    WriteThrough,
    /// Possibly earlier. The data may be lost until a flush completes.
    WriteBack,
}

/// A disk's write cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteCache {
    /// The disk has no cache and no flush. Completed writes are durable.
    Absent,
    /// The policy never changes. The disk has a flush.
    Fixed(CachePolicy),
    /// Initiators can switch the policy. The value is the policy at first. The disk has a
    /// flush.
    Switchable(CachePolicy),
}
