//! What makes a driver file, and its program database, the same wherever they are
//! built: neither names a folder of the machine. And the test of it.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use clap::ValueEnum as _;
use packaging::architecture::Architecture;
use tempfile::TempDir;

use crate::{
    build::{self, BuildError},
    driver::Driver,
    setup,
    tool::{self, ToolError, cargo, tool},
    workspace,
};

/// The folders that a build works with.
#[derive(Clone, Debug)]
pub struct Place {
    /// The project's sources.
    project: PathBuf,
    /// What cargo builds of cross/.
    target: PathBuf,
    /// What cargo has fetched.
    cargo_home: PathBuf,
}

impl Place {
    /// The folders of this project.
    #[must_use]
    pub fn here() -> Self {
        Self {
            project: workspace::root().to_owned(),
            target: build::target(),
            // rustup sets the variable for what it calls.
            cargo_home: env::var_os("CARGO_HOME").map_or_else(
                || Path::new(&env::var_os("HOME").unwrap_or_default()).join(".cargo"),
                PathBuf::from,
            ),
        }
    }

    /// Builds a driver's package of cross/, in release mode.
    ///
    /// # Errors
    /// A tool failed.
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

    /// Where sources lie, and the names that they get in the program database. Of
    /// two that fit, rustc takes the later one.
    fn names(&self) -> Result<Vec<(PathBuf, String)>, ToolError> {
        let mut names = vec![
            (self.project.clone(), "/ferrostor".to_owned()),
            (self.target.clone(), "/ferrostor/target".to_owned()),
            // Rust's own sources, if they are installed: otherwise rustc knows
            // them by this name anyway.
            (
                setup::sysroot()?.join("lib/rustlib/src/rust"),
                format!("/rustc/{}", rust_commit()?),
            ),
        ];
        // One for each registry, called after its host.
        for registry in entries(&self.cargo_home.join("registry/src")).unwrap_or_default() {
            names.push((registry, "/crates".to_owned()));
        }
        Ok(names)
    }

    /// A file of a release, where cargo left it.
    #[must_use]
    pub fn built(&self, file: &str, architecture: Architecture) -> PathBuf {
        let target = self.target.join(architecture.target());
        target.join("release").join(file)
    }

    /// A copy of the sources in another folder, with cargo's files under another
    /// name.
    fn elsewhere(&self) -> Result<(TempDir, Self), ReproducibleError> {
        // A path with a space, and of another length.
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
        // Links, since what cargo has fetched is large.
        tool::run(
            tool("ln")
                .args(["--symbolic", "--target-directory"])
                .arg(&there.cargo_home)
                .args(entries(&self.cargo_home)?),
        )?;
        Ok((folder, there))
    }
}

/// Why a build is not shown to be the same elsewhere.
#[derive(Debug, thiserror::Error)]
pub enum ReproducibleError {
    /// There is nothing to compare.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// There is nothing to compare with.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// A file can't be read or copied.
    #[error("{0}")]
    File(#[from] io::Error),
    /// Two builds differ.
    #[error(
        "{file} is another one when it is built in another folder: {here} bytes here, {there} \
         there, the same up to byte {same}"
    )]
    Different {
        /// The file.
        file: String,
        /// Its length here.
        here: usize,
        /// And there.
        there: usize,
        /// How many bytes agree.
        same: usize,
    },
    /// A file has the path of a folder that is the same for both builds.
    #[error("{file} names {}", folder.display())]
    Named {
        /// The file.
        file: String,
        /// The folder.
        folder: PathBuf,
    },
}

/// Builds the driver here and in another folder, for each processor, and compares
/// it and its program database byte by byte.
///
/// # Errors
/// See [`ReproducibleError`].
pub fn check(driver: Driver) -> Result<(), ReproducibleError> {
    let here = Place::here();
    let (_folder, there) = here.elsewhere()?;
    // Both builds have the toolchain in common.
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
    println!("{file}: the same {} bytes", here.len());
    Ok(())
}

fn rust_commit() -> Result<String, ToolError> {
    let version = tool::output(tool("rustc").arg("-vV"))?;
    let commit = version
        .lines()
        .find_map(|line| line.strip_prefix("commit-hash: "));
    Ok(commit.unwrap_or_default().to_owned())
}

/// What a folder holds, in the order of names.
fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = fs::read_dir(folder)?
        .map(|entry| Ok(entry?.path()))
        .collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

/// Copies a file, or a folder without its history and what cargo built in it.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    // By the tag cargo marks the folders that it builds in.
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
