//! From a driver file and an `.inx` to a driver package that Windows installs,
//! made on any machine.
//!
//! | module | what it is |
//! |---|---|
//! | [`architecture`] | the processors that a package is for |
//! | [`image`] | what a finished driver file must be |
//! | [`inf`] | the setup file: grammar, stamping, linter |
//! | [`package`] | the files of a package |
//! | [`archive`] | the package as a `.zip` |

pub mod architecture;
pub mod archive;
pub mod image;
pub mod inf;
pub mod package;
