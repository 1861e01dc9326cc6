//! Whether a completed write survives a power failure.

/// When a write completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CachePolicy {
    /// Once it is on stable storage.
    WriteThrough,
    /// Possibly earlier: until a flush completes, it may be lost.
    WriteBack,
}

/// A disk's write cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteCache {
    /// There is none, and no flush either: completed writes are durable.
    Absent,
    /// Its policy never changes. The disk has a flush.
    Fixed(CachePolicy),
    /// Initiators can switch its policy, which starts as this. The disk has a flush.
    Switchable(CachePolicy),
}
