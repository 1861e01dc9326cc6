//! A workload in the options of Microsoft's diskspd: options, offsets, threads, results.

pub mod options;
pub mod position;
pub mod results;
pub mod workload;
