//! Builds the testbed's fixtures: miniports that break a rule, and their correct twins.

use std::path::PathBuf;

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

/// Builds the fixtures and returns their folder. It has a `.sys` and a `.map` of each variant.
pub fn fixtures() -> Result<PathBuf, BuildError> {
    let folder = workspace::target().join("fixtures");
    // A failed build must not leave fixtures of an earlier one.
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    let built = target().join(X64.target()).join(PROFILE);
    for (variant, features) in [
        ("correct", ""),
        ("faulty", "faulty"),
        ("prohibited", "faulty,prohibited"),
    ] {
        tool::run(
            on_cross("build")
                .args(["--package", PACKAGE, "--features", features])
                .args(["--profile", PROFILE, "--target", X64.target()])
                .env(X64.linker_variable(), "rust-lld"),
        )?;
        let to = folder.join(variant);
        copy(&built.join("fixtures.dll"), &to.with_extension("sys"))?;
        // Cargo does not copy the linker's map out of deps.
        let map = built.join("deps/fixtures.map");
        copy(&map, &to.with_extension("map"))?;
    }
    Ok(folder)
}
