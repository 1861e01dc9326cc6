//! Builds the testbed's fixtures: driver files of miniports that break a rule, and of their
//! correct twins.

use std::{
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
};

use fs_err as fs;
use packaging::architecture::Architecture::X64;

use crate::{
    build::{BuildError, copy, on_cross, target},
    tool, workspace,
};

/// The package of the fixtures.
pub const PACKAGE: &str = "ferrostor-fixtures";

/// The package's profile in cross/Cargo.toml.
const PROFILE: &str = "fixtures";

/// Builds the fixtures and returns their folder. Its folders `faulty` and `correct` have a
/// `.sys` and a `.map` of each.
pub fn fixtures() -> Result<PathBuf, BuildError> {
    let names = names()?;
    let folder = workspace::target().join("fixtures");
    for (variant, features) in [("faulty", &["--features", "faulty"][..]), ("correct", &[])] {
        // A failed build must not leave fixtures of an earlier one, nor of a removed source.
        let to = folder.join(variant);
        if to.exists() {
            fs::remove_dir_all(&to)?;
        }
        tool::run(
            on_cross("build")
                .args(["--package", PACKAGE, "--examples"])
                .args(["--profile", PROFILE, "--target", X64.target()])
                .args(features)
                .env(X64.linker_variable(), "rust-lld"),
        )?;
        for name in &names {
            bring(name, &to)?;
        }
    }
    Ok(folder)
}

/// The names of the fixtures' source files.
fn names() -> io::Result<Vec<String>> {
    let sources = workspace::root().join("testbed/fixtures/examples");
    let mut names = Vec::new();
    for entry in fs::read_dir(sources)? {
        let path = entry?.path();
        if path.extension() == Some(OsStr::new("rs")) {
            names.extend(path.file_stem().and_then(OsStr::to_str).map(str::to_owned));
        }
    }
    Ok(names)
}

/// Copies a fixture's files out of cargo's folder.
fn bring(name: &str, to: &Path) -> Result<(), BuildError> {
    let built = target().join(X64.target()).join(PROFILE).join("examples");
    let file = name.replace('-', "_");
    let driver = built.join(file.clone() + ".dll");
    copy(&driver, &to.join(format!("{name}.sys")))?;
    let map = map_of(&driver, &built, &file)?;
    Ok(copy(&map, &to.join(format!("{name}.map")))?)
}

/// The linker map of `driver`. It lies beside the linked file, which has a hash in its name
/// and the same contents as `driver`.
fn map_of(driver: &Path, built: &Path, file: &str) -> io::Result<PathBuf> {
    let contents = fs::read(driver)?;
    for entry in fs::read_dir(built)? {
        let path = entry?.path();
        let linked = path
            .file_name()
            .and_then(OsStr::to_str)
            .and_then(|name| name.strip_prefix(file)?.strip_prefix('-'))
            .is_some_and(|rest| rest.ends_with(".dll"));
        if linked && fs::read(&path)? == contents {
            return Ok(path.with_extension("map"));
        }
    }
    Ok(built.join(format!("{file}.map")))
}
