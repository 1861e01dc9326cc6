//! Makes a driver package for Windows from a driver file and an `.inx`, on any system. Checks
//! the files of any driver package.
//!
//! | Module | Contents |
//! |---|---|
//! | [`architecture`] | the processor architectures |
//! | [`image`] | checks of a driver file |
//! | [`inf`] | the INF file: parser, stamping, checks |
//! | [`signer`] | the signer's key and certificate |
//! | [`check`] | a check, and the report of a file |
//! | [`package`] | the files of a package |
//! | [`archive`] | the package as a `.zip` |
//! | [`lint`] | all checks of the finished files |

pub mod architecture;
pub mod archive;
mod authenticode;
mod catalog;
pub mod check;
mod checksum;
pub mod image;
mod indirect_data;
pub mod inf;
pub mod lint;
pub mod package;
mod pkcs7;
pub mod signer;
#[cfg(test)]
mod test_data;
mod verify;
