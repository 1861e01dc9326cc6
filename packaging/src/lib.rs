//! From a driver file and an `.inx` to a driver package that Windows installs,
//! made on any machine.
//!
//! | module | what it is |
//! |---|---|
//! | [`architecture`] | the processors that a package is for |
//! | [`image`] | what a finished driver file must be |
//! | [`inf`] | the setup file: grammar, stamping, linter |

pub mod architecture;
pub mod image;
pub mod inf;
