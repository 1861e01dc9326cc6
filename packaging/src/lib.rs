//! From a driver file and an `.inx` to a driver package that Windows installs,
//! made on any machine.
//!
//! | module | what it is |
//! |---|---|
//! | [`architecture`] | the processors that a package is for |
//! | [`image`] | what a finished driver file must be |
//! | [`checksum`] | the checksum of an image |
//! | [`inf`] | the INF file: grammar, stamping, linter |
//! | [`signer`] | who signs: key and certificate |
//! | [`authenticode`] | the digest and the signature of an image |
//! | [`catalog`] | the signed list of a package's files |
//! | [`pkcs7`] | the form of a signature |
//! | [`check`] | what is checked of a file, and who asks for it |
//! | [`package`] | the files of a package |
//! | [`archive`] | the package as a `.zip` |
//! | [`lint`] | what is checked on the finished files |

pub mod architecture;
pub mod archive;
pub mod authenticode;
pub mod catalog;
pub mod check;
pub mod checksum;
pub mod image;
mod indirect_data;
pub mod inf;
pub mod lint;
pub mod package;
pub mod pkcs7;
pub mod signer;
mod verify;
