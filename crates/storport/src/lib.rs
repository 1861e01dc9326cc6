//! Storport miniports in safe Rust: contexts, locks, SRBs and the adapter life cycle over storport.h.
