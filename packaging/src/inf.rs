//! The INF file of a driver: parser, stamping from an `.inx`, and the rules of Windows and of
//! Microsoft's InfVerif.
//!
//! ```
//! use packaging::architecture::Architecture;
//! use packaging::inf::{Stamp, Version, stamp};
//! use time::{Date, Month};
//!
//! let inx = "[Version]\nDriverVer = ; stamped\n[Disks.NT$ARCH$]\n";
//! let text = stamp(
//!     inx,
//!     &Stamp {
//!         architecture: Architecture::X64,
//!         date: Date::from_calendar_date(2026, Month::May, 4)?,
//!         version: Version([0, 1, 0, 0]),
//!     },
//! )?;
//! assert_eq!(
//!     text,
//!     "[Version]\r\nDriverVer = 05/04/2026,0.1.0.0\r\n[Disks.NTamd64]\r\n"
//! );
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod grammar;
mod install;
mod rules;
mod stamp;

pub use grammar::{Encoding, Entry, Inf, InfError, Section, decode, encode};
pub use rules::{Rule, lint, rules};
pub use stamp::{Stamp, StampError, Version, VersionError, stamp};
