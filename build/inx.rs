//! The setup file, where the tools of the WDK look for it.
//!
//! wdk-build's makefile and cargo-wdk stamp `<package>.inx` beside the manifest,
//! once the driver is built. Ours lies in `inf/`, so the build brings a copy. A
//! link in its place would be a text file in most clones on Windows.

use std::{fs, io, path::Path};

/// Brings a copy of `folder`'s `inf/ferrostor.inx` into `folder` itself, and has
/// cargo do so again when either of them changes or the copy is gone.
///
/// A folder without `inf/` is left alone: `cross/`, from where this build script
/// is run as well.
///
/// # Errors
/// The file can't be read, or the copy can't be written.
pub fn bring_beside_manifest(folder: &Path) -> io::Result<()> {
    let original = folder.join("inf/ferrostor.inx");
    let copy = folder.join("ferrostor.inx");
    if !original.exists() {
        return Ok(());
    }
    for path in [&original, &copy] {
        println!("cargo::rerun-if-changed={}", path.display());
    }
    let text = fs::read(original)?;
    // A file that is written anew looks changed, and the next build would start
    // from here again.
    if fs::read(&copy).is_ok_and(|present| present == text) {
        return Ok(());
    }
    fs::write(copy, text)
}
