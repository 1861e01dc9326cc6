//! A workload in the manner of Microsoft's diskspd: its options, its access
//! patterns, its tables.

pub mod cpu_time;
pub mod latency;
pub mod options;
pub mod position;
pub mod results;
pub mod table;
pub mod workload;
