//! `cargo xtask build`: builds a driver file without the WDK.

use std::{
    io,
    path::{Path, PathBuf},
    process::Command,
};

use fs_err as fs;
use packaging::{
    architecture::Architecture,
    image::{Image, ImageError},
};

use crate::{
    driver::Driver,
    reproducible::Place,
    tool::{ToolError, cargo},
    workspace,
};

const HELP: &str = "\
The command makes a release build: target/driver/<ARCH>/<DRIVER>.sys, with the
symbols (.pdb) and the linker map (.map) beside it.

The build uses the headers in cross/include. To use the headers of a WDK, give its
folder and version:
  WDKContentRoot=\"$HOME/Windows Kits/10\" Version_Number=10.0.26100.0 cargo xtask build

Examples:
  cargo xtask build
  cargo xtask build --arch arm64
  cargo xtask build --driver ramdisk";

/// The options of `cargo xtask build`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Options {
    /// Driver to build
    #[arg(long, value_enum, default_value = "ferrostor")]
    driver: Driver,

    /// Processor architecture
    #[arg(long, value_enum, default_value = "x64")]
    arch: Architecture,
}

/// A build failed.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("the driver was not built: {0}")]
    Cargo(#[from] ToolError),
    #[error(transparent)]
    File(#[from] io::Error),
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// Builds the driver and prints its path, size and imports.
pub fn command(options: &Options) -> Result<(), BuildError> {
    let driver = driver(options.driver, options.arch)?;
    let image = Image::read(&driver)?;
    println!("{}: {} bytes", driver.display(), image.bytes);
    for (module, functions) in image.imports {
        println!("imports of {module}:");
        for function in functions {
            println!("  {function}");
        }
    }
    Ok(())
}

/// Builds a driver and returns its path.
pub fn driver(driver: Driver, architecture: Architecture) -> Result<PathBuf, BuildError> {
    let name = driver.name();
    let driver = file(driver, architecture);
    // A failed build must not leave the driver of an earlier one.
    match fs::remove_file(&driver) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let here = Place::here();
    here.build(name, architecture)?;

    let built = |file: &str| here.built(file, architecture);
    let folder = driver.parent().unwrap_or(&driver);
    copy(&built(&format!("{name}.dll")), &driver)?;
    let symbols = format!("{name}.pdb");
    copy(&built(&symbols), &folder.join(&symbols))?;
    // Cargo does not copy the linker's map out of deps.
    let map = format!("{name}.map");
    copy(&built(&format!("deps/{map}")), &folder.join(&map))?;
    Ok(driver)
}

/// The path of the file that [`driver`] builds.
#[must_use]
pub fn file(driver: Driver, architecture: Architecture) -> PathBuf {
    let folder = workspace::target().join("driver").join(architecture.name());
    folder.join(driver.name()).with_extension("sys")
}

/// A cargo command on cross/ for a driver target, in release mode, with Rust's own linker.
/// [`Place::build`] makes reproducible builds.
#[must_use]
pub fn cross(subcommand: &str, architecture: Architecture) -> Command {
    let mut command = on_cross(subcommand);
    command
        .arg("--release")
        .args(["--target", architecture.target()])
        .env(architecture.linker_variable(), "rust-lld");
    command
}

/// A cargo command on cross/ for the host.
#[must_use]
pub fn on_cross(subcommand: &str) -> Command {
    let mut command = cargo(subcommand);
    command
        .args(["--manifest-path", "cross/Cargo.toml", "--target-dir"])
        .arg(target());
    command
}

/// Cargo's target folder for cross/. It is separate, so that the two workspaces do not
/// invalidate each other's builds.
#[must_use]
pub fn target() -> PathBuf {
    workspace::target().join("cross")
}

/// Copies a file. Creates the destination folder if it is missing.
pub fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let folder = to.parent().unwrap_or(to);
    fs::create_dir_all(folder)?;
    // A rename replaces the file atomically: another command may be reading it.
    let draft = tempfile::NamedTempFile::new_in(folder)?.into_temp_path();
    fs::copy(from, &draft)?;
    fs::rename(&draft, to)
}
