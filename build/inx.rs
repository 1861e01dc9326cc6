//! Copies the INF file to where the tools of the WDK look for it.
//!
//! After the build of a driver, wdk-build's makefile and cargo-wdk stamp
//! `<package>.inx` beside the manifest. This project has the file in `inf/`, so the
//! build makes a copy. A symbolic link would be a text file in most clones on Windows.

use std::{fs, io, path::Path};

/// Copies `folder`'s `inf/ferrostor.inx` to `folder` itself. Cargo runs the build script
/// again if one of the two files changes, or the copy does not exist.
///
/// Does nothing in a folder without `inf/`: in `cross/`, which has the same build script.
///
/// # Errors
/// The file cannot be read, or the copy cannot be written.
pub fn copy_beside_manifest(folder: &Path) -> io::Result<()> {
    let original = folder.join("inf/ferrostor.inx");
    let copy = folder.join("ferrostor.inx");
    if !original.exists() {
        return Ok(());
    }
    for path in [&original, &copy] {
        println!("cargo::rerun-if-changed={}", path.display());
    }
    let text = fs::read(original)?;
    // A write changes the file's time, even with the same contents. The next build would
    // then run this script again.
    if fs::read(&copy).is_ok_and(|present| present == text) {
        return Ok(());
    }
    fs::write(copy, text)
}
