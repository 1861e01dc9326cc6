//! `cargo xtask build`: the driver file, made on a machine without the WDK.

use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

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

/// What the reader is told of `cargo xtask build --help`.
pub const HELP: &str = "\
The driver is target/driver/<ARCH>/<DRIVER>.sys, in release mode, with its
symbols (.pdb) and its map (.map) beside it.

It is built with the headers of cross/include. To build with those of a WDK,
name its folder and version:
  WDKContentRoot=\"$HOME/Windows Kits/10\" Version_Number=10.0.26100.0 cargo xtask build

Examples:
  cargo xtask build
  cargo xtask build --arch arm64
  cargo xtask build --driver ramdisk";

/// The options of `cargo xtask build`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Options {
    /// What to build
    #[arg(long, value_enum, default_value = "ferrostor")]
    driver: Driver,

    /// The processor that the driver is for
    #[arg(long, value_enum, default_value = "x64")]
    arch: Architecture,
}

/// Why there is no driver.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Cargo failed.
    #[error("the driver was not built: {0}")]
    Cargo(#[from] ToolError),
    /// Cargo's files can't be brought to their place.
    #[error("{from} can't be copied to {to}: {source}")]
    Copy {
        /// What.
        from: PathBuf,
        /// Where to.
        to: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The driver of an earlier build cannot be removed.
    #[error("{}, of an earlier build, cannot be removed: {source}", path.display())]
    Remove {
        /// Its file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The fixtures' files can't be listed, read or removed.
    #[error("the fixtures' files can't be listed, read or removed: {0}")]
    Sources(io::Error),
    /// The file that was built is no driver.
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// Builds the driver and shows what it imports.
///
/// # Errors
/// See [`BuildError`].
pub fn command(options: &Options) -> Result<(), BuildError> {
    let driver = driver(options.driver, options.arch)?;
    print!("{}", description(&driver)?);
    Ok(())
}

/// Builds a driver and gives its file.
///
/// # Errors
/// See [`BuildError`].
pub fn driver(driver: Driver, architecture: Architecture) -> Result<PathBuf, BuildError> {
    let name = driver.name();
    let driver = file(driver, architecture);
    // After a failed build there is no driver, instead of an old one.
    match fs::remove_file(&driver) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            return Err(BuildError::Remove {
                path: driver,
                source,
            });
        }
        _ => {}
    }
    let here = Place::here();
    here.build(name, architecture)?;

    let built = |file: &str| here.built(file, architecture);
    let folder = driver.parent().unwrap_or(&driver);
    copy(&built(&format!("{name}.dll")), &driver)?;
    let symbols = format!("{name}.pdb");
    copy(&built(&symbols), &folder.join(&symbols))?;
    // The linker's own file: cargo leaves it where it linked.
    let map = format!("{name}.map");
    copy(&built(&format!("deps/{map}")), &folder.join(&map))?;
    Ok(driver)
}

/// The file that [`driver`] builds.
#[must_use]
pub fn file(driver: Driver, architecture: Architecture) -> PathBuf {
    let folder = workspace::target().join("driver").join(architecture.name());
    folder.join(driver.name()).with_extension("sys")
}

/// A cargo command on cross/ for a target of the driver, in release mode,
/// linked by the toolchain's own linker. What is to be the same on every machine
/// is built by [`Place::build`].
#[must_use]
pub fn cross(subcommand: &str, architecture: Architecture) -> Command {
    let mut command = on_cross(subcommand);
    command
        .arg("--release")
        .args(["--target", architecture.target()])
        .env(architecture.linker_variable(), "rust-lld");
    command
}

/// A cargo command on cross/ for this machine.
#[must_use]
pub fn on_cross(subcommand: &str) -> Command {
    let mut command = cargo(subcommand);
    command
        .args(["--manifest-path", "cross/Cargo.toml", "--target-dir"])
        .arg(target());
    command
}

/// Where cargo puts what it builds of cross/: a folder of its own, so that
/// neither workspace undoes the other's work.
#[must_use]
pub fn target() -> PathBuf {
    workspace::target().join("cross")
}

/// Copies a file, into a folder that is made if it is not there.
///
/// # Errors
/// [`BuildError::Copy`].
pub fn copy(from: &Path, to: &Path) -> Result<(), BuildError> {
    let folder = to.parent().unwrap_or(to);
    // Another command may be reading what is there: it is replaced at once.
    fs::create_dir_all(folder)
        .and_then(|()| tempfile::NamedTempFile::new_in(folder))
        .and_then(|draft| {
            fs::copy(from, draft.path())?;
            Ok(draft.persist(to)?)
        })
        .map(drop)
        .map_err(|source| BuildError::Copy {
            from: from.to_owned(),
            to: to.to_owned(),
            source,
        })
}

/// The driver's path, its size and its imports, as text.
fn description(driver: &Path) -> Result<String, BuildError> {
    let image = Image::read(driver)?;
    let mut text = format!("{}: {} bytes\n", driver.display(), image.bytes());
    for (module, functions) in image.imports() {
        let _ = writeln!(text, "imports of {module}:");
        for function in functions {
            let _ = writeln!(text, "  {function}");
        }
    }
    Ok(text)
}
