//! The header tree: that of this project, or that of the user's WDK.

use std::{
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf, absolute},
};

use serde_json::{Value, json};

use crate::{ConfigError, IoError, cargo_env};

/// The version of the WDK that the headers in `cross/include` describe.
const OWN_VERSION: &str = "10.0.22621.0";

/// A header tree: `Include/<version>/{km/crt,km,shared}`, the layout of Windows Kits.
///
/// The environment variables `WDKContentRoot` and `Version_Number` together name a tree. If
/// neither is set, it is `cross/include`. Upper and lower case in names do not matter, as on
/// Windows, because the kit's headers include each other in several spellings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kit {
    /// `Include/<version>`.
    include: PathBuf,
    /// `km/crt`, `km` and `shared` in it, searched in this order.
    include_paths: Vec<PathBuf>,
}

impl Kit {
    /// The header tree that the environment names.
    pub(crate) fn from_env() -> Result<Self, ConfigError> {
        for variable in ["WDKContentRoot", "Version_Number"] {
            println!("cargo::rerun-if-env-changed={variable}");
        }
        match (env::var_os("WDKContentRoot"), env::var("Version_Number")) {
            (None, Err(_)) => {
                let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../include");
                Self::at(descend(&own, &[OWN_VERSION])?)
            }
            (Some(root), Ok(version)) => {
                Self::at(descend(Path::new(&root), &["Include", &version])?)
            }
            (Some(_), Err(_)) => Err(ConfigError::HalfAKit {
                missing: "Version_Number",
            }),
            (None, Ok(_)) => Err(ConfigError::HalfAKit {
                missing: "WDKContentRoot",
            }),
        }
    }

    fn at(include: PathBuf) -> Result<Self, ConfigError> {
        let include_paths = [&["km", "crt"][..], &["km"], &["shared"]]
            .map(|names| descend(&include, names))
            .into_iter()
            .collect::<Result<_, _>>()?;
        Ok(Self {
            include,
            include_paths,
        })
    }

    pub(crate) fn include_folder(&self) -> &Path {
        &self.include
    }

    pub(crate) fn include_paths(&self) -> &[PathBuf] {
        &self.include_paths
    }

    pub(crate) fn has_header(&self, header: &str) -> bool {
        self.include_paths
            .iter()
            .any(|folder| entry_ignoring_case(folder, header).is_some())
    }

    /// Writes a clang file system overlay to `OUT_DIR`, in which upper and lower case in the
    /// names of the tree's files do not matter. Returns its path.
    pub(crate) fn write_case_insensitive_overlay(&self) -> Result<PathBuf, ConfigError> {
        let overlay = json!({
            "version": 0,
            "case-sensitive": "false",
            "roots": [overlay_of_folder(&self.include, self.include.as_os_str())?],
        });
        let path = Path::new(&cargo_env("OUT_DIR")?).join("ignore-case.yaml");
        fs::write(&path, overlay.to_string())
            .map_err(|source| IoError::with_path(&path, source))?;
        Ok(path)
    }
}

/// The folder `names` under `folder`, each name in any case.
fn descend(folder: &Path, names: &[&str]) -> Result<PathBuf, ConfigError> {
    let mut found = absolute(folder).map_err(|source| IoError::with_path(folder, source))?;
    for name in names {
        found = entry_ignoring_case(&found, name)
            .filter(|entry| entry.is_dir())
            .ok_or_else(|| ConfigError::FolderNotFound {
                folder: found.join(name),
            })?;
    }
    Ok(found)
}

fn entry_ignoring_case(folder: &Path, name: &str) -> Option<PathBuf> {
    fs::read_dir(folder)
        .ok()?
        .filter_map(Result::ok)
        .find(|entry| entry.file_name().eq_ignore_ascii_case(name))
        .map(|entry| entry.path())
}

/// The overlay's entry for a folder and its contents. `name` is the whole path for the
/// topmost folder, and the folder's own name for the others
/// (clang, `llvm::vfs::RedirectingFileSystem`).
fn overlay_of_folder(folder: &Path, name: &OsStr) -> Result<Value, ConfigError> {
    let mut contents = Vec::new();
    for entry in fs::read_dir(folder).map_err(|source| IoError::with_path(folder, source))? {
        let entry = entry.map_err(|source| IoError::with_path(folder, source))?;
        let path = entry.path();
        contents.push(if path.is_dir() {
            overlay_of_folder(&path, &entry.file_name())?
        } else {
            json!({
                "type": "file",
                "name": entry.file_name().to_string_lossy(),
                "external-contents": path.to_string_lossy(),
            })
        });
    }
    Ok(json!({ "type": "directory", "name": name.to_string_lossy(), "contents": contents }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kit_in_odd_case() -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a temporary folder");
        for folder in ["include/1.2/KM/Crt", "include/1.2/Shared"] {
            fs::create_dir_all(root.path().join(folder)).expect("a folder in it");
        }
        fs::write(root.path().join("include/1.2/KM/StorPort.H"), "").expect("a file in it");
        root
    }

    #[test]
    fn folders_and_headers_are_found_in_any_case() {
        let root = kit_in_odd_case();

        let kit = descend(root.path(), &["Include", "1.2"])
            .and_then(Kit::at)
            .expect("the kit is complete");

        assert!(kit.has_header("storport.h"));
        assert!(!kit.has_header("ufs.h"));
        assert!(kit.include_paths()[0].ends_with("KM/Crt"));
    }

    #[test]
    fn a_folder_that_is_missing_is_named() {
        let root = kit_in_odd_case();
        fs::remove_dir(root.path().join("include/1.2/Shared")).expect("it was there");

        let error = descend(root.path(), &["Include", "1.2"])
            .and_then(Kit::at)
            .expect_err("shared is gone");

        assert!(error.to_string().contains("1.2/shared"), "{error}");
    }

    #[test]
    fn overlay_has_every_file_under_its_own_path() {
        let root = kit_in_odd_case();
        let include = root.path().join("include");

        let overlay = overlay_of_folder(&include, include.as_os_str()).expect("it is readable");

        assert_eq!(overlay["name"], include.to_string_lossy().as_ref());
        let file = include.join("1.2/KM/StorPort.H");
        assert!(
            overlay
                .to_string()
                .contains(&format!("\"external-contents\":\"{}\"", file.display())),
            "{overlay}"
        );
    }
}
