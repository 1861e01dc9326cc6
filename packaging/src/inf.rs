//! A driver's INF file: a parser, stamping from an `.inx`, and the
//! checks of Windows and of Microsoft's InfVerif.

mod grammar;
mod install;
mod rules;
mod stamp;

pub use grammar::{Encoding, Entry, Inf, InfError, Section, decode, encode};
pub use rules::{Rule, lint, rules};
pub use stamp::{Stamp, StampError, Version, VersionError, stamp};
