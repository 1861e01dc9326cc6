//! Reproducible builds: the driver file and its program database (.pdb) contain no path of
//! the build machine. A check builds both in two folders and compares them.

use std::{
    env, io,
    path::{Path, PathBuf},
};

use clap::ValueEnum as _;
use fs_err as fs;
use packaging::architecture::Architecture;
use tempfile::TempDir;

use crate::{
    build::{self, BuildError},
    driver::Driver,
    setup,
    tool::{self, ToolError, cargo, tool},
    workspace,
};

/// The folders that a build uses.
#[derive(Clone, Debug)]
pub struct Place {
    /// The project's sources.
    project: PathBuf,
    /// Cargo's target folder for cross/.
    target: PathBuf,
    /// Cargo's home, with the sources of the dependencies.
    cargo_home: PathBuf,
}

impl Place {
    /// The folders of this project.
    #[must_use]
    pub fn here() -> Self {
        Self {
            project: workspace::root().to_owned(),
            target: build::target(),
            // rustup sets the variable.
            cargo_home: env::var_os("CARGO_HOME").map_or_else(
                || Path::new(&env::var_os("HOME").unwrap_or_default()).join(".cargo"),
                PathBuf::from,
            ),
        }
    }

    /// Builds a driver's package of cross/, in release mode.
    pub fn build(&self, package: &str, architecture: Architecture) -> Result<(), ToolError> {
        let cross_folder = self.project.join("cross");
        let flags: Vec<String> = self
            .names()?
            .iter()
            .map(|(folder, name)| format!("'--remap-path-prefix={}={name}'", folder.display()))
            .collect();
        let target = architecture.target();
        let mut command = cargo("build");
        command
            .current_dir(&self.project)
            .args(["--manifest-path", "cross/Cargo.toml", "--target-dir"])
            .arg(&self.target)
            .args(["--release", "--target", target, "--package", package])
            // In addition to those of .cargo/config.toml.
            .arg("--config")
            .arg(format!("target.{target}.rustflags=[{}]", flags.join(", ")))
            .env("CARGO_HOME", &self.cargo_home)
            .env("RUSTC_WRAPPER", cross_folder.join("rustc"))
            .env(architecture.linker_variable(), cross_folder.join("linker"));
        tool::run(&mut command)
    }

    /// Path prefixes and their replacements in the program database. If two match, rustc
    /// uses the later one.
    fn names(&self) -> Result<Vec<(PathBuf, String)>, ToolError> {
        let mut names = vec![
            (self.project.clone(), "/ferrostor".to_owned()),
            (self.target.clone(), "/ferrostor/target".to_owned()),
            // The standard library's sources. If they are not installed, rustc uses this
            // name already.
            (
                setup::sysroot()?.join("lib/rustlib/src/rust"),
                format!("/rustc/{}", rust_commit()?),
            ),
        ];
        // One folder for each registry, named after its host.
        for registry in entries(&self.cargo_home.join("registry/src")).unwrap_or_default() {
            names.push((registry, "/crates".to_owned()));
        }
        Ok(names)
    }

    /// The path of a file that a release build wrote.
    #[must_use]
    pub fn built(&self, file: &str, architecture: Architecture) -> PathBuf {
        let target = self.target.join(architecture.target());
        target.join("release").join(file)
    }

    /// Copies the sources to another folder, with another target folder and Cargo home.
    fn elsewhere(&self) -> Result<(TempDir, Self), ReproducibleError> {
        // The path has a space and another length.
        let folder = tempfile::Builder::new()
            .prefix("built elsewhere ")
            .tempdir()?;
        let there = Self {
            project: folder.path().join("project"),
            target: folder.path().join("target"),
            cargo_home: folder.path().join("cargo"),
        };
        copy(&self.project, &there.project)?;
        fs::create_dir(&there.cargo_home)?;
        // Symbolic links, because the dependencies are large.
        tool::run(
            tool("ln")
                .args(["--symbolic", "--target-directory"])
                .arg(&there.cargo_home)
                .args(entries(&self.cargo_home)?),
        )?;
        Ok((folder, there))
    }
}

/// The builds differ, or could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ReproducibleError {
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The build in the other folder failed.
    #[error(transparent)]
    Tool(#[from] ToolError),
    #[error(transparent)]
    File(#[from] io::Error),
    #[error(
        "{file} differs when it is built in another folder: {here} bytes in the project's \
         folder, {there} bytes in the other; the first difference is at byte {same}"
    )]
    Different {
        file: String,
        here: usize,
        there: usize,
        same: usize,
    },
    /// A file contains the path of a folder that both builds use.
    #[error("{file} contains the path {}, so it depends on this machine", folder.display())]
    Named { file: String, folder: PathBuf },
}

/// Builds the driver for each architecture in the project's folder and in another, and
/// compares the driver files and program databases byte by byte.
pub fn check(driver: Driver) -> Result<(), ReproducibleError> {
    let here = Place::here();
    let (_folder, there) = here.elsewhere()?;
    // Both builds use the same toolchain, so a comparison does not find its path.
    let sysroot = setup::sysroot()?;
    for &architecture in Architecture::value_variants() {
        build::driver(driver, architecture)?;
        there.build(driver.name(), architecture)?;
        for ending in ["dll", "pdb"] {
            let file = format!("{}.{ending}", driver.name());
            let [a, b] = [&here, &there].map(|place| fs::read(place.built(&file, architecture)));
            compare(file, &a?, &b?, &sysroot)?;
        }
    }
    Ok(())
}

fn compare(
    file: String,
    here: &[u8],
    there: &[u8],
    common: &Path,
) -> Result<(), ReproducibleError> {
    if here != there {
        return Err(ReproducibleError::Different {
            file,
            here: here.len(),
            there: there.len(),
            same: here.iter().zip(there).take_while(|(a, b)| a == b).count(),
        });
    }
    let name = common.as_os_str().as_encoded_bytes();
    if here.windows(name.len()).any(|part| part == name) {
        let folder = common.to_owned();
        return Err(ReproducibleError::Named { file, folder });
    }
    println!("{file}: both builds gave the same {} bytes", here.len());
    Ok(())
}

fn rust_commit() -> Result<String, ToolError> {
    let version = tool::output(tool("rustc").arg("-vV"))?;
    let commit = version
        .lines()
        .find_map(|line| line.strip_prefix("commit-hash: "));
    Ok(commit.unwrap_or_default().to_owned())
}

/// The paths in a folder, sorted by name.
fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let paths = fs::read_dir(folder)?.map(|entry| Ok(entry?.path()));
    let mut paths = paths.collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

/// Copies a file, or a folder without its Git history and target folders.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    // Cargo puts this tag into its target folders.
    if from.ends_with(".git") || from.join("CACHEDIR.TAG").exists() {
        return Ok(());
    }
    if from.is_file() {
        return fs::copy(from, to).map(drop);
    }
    fs::create_dir_all(to)?;
    for entry in entries(from)? {
        if let Some(name) = entry.file_name() {
            copy(&entry, &to.join(name))?;
        }
    }
    Ok(())
}
