//! The driver model that a driver's manifest names.

use std::path::{Path, PathBuf};

use cargo_metadata::MetadataCommand;
use serde_json::Value;

use crate::{ConfigError, cargo_env};

/// The driver models that build scripts distinguish. This crate returns only
/// [`DriverConfig::Wdm`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DriverConfig {
    /// Windows Driver Model.
    Wdm,
    /// Kernel-Mode Driver Framework.
    Kmdf(KmdfConfig),
    /// User-Mode Driver Framework.
    Umdf(UmdfConfig),
}

/// A version of the Kernel-Mode Driver Framework.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KmdfConfig {
    /// Major version.
    pub kmdf_version_major: u8,
    /// Minor version built for.
    pub target_kmdf_version_minor: u8,
    /// Least minor version that the driver can run on.
    pub minimum_kmdf_version_minor: Option<u8>,
}

/// A version of the User-Mode Driver Framework.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UmdfConfig {
    /// Major version.
    pub umdf_version_major: u8,
    /// Minor version built for.
    pub target_umdf_version_minor: u8,
    /// Least minor version that the driver can run on.
    pub minimum_umdf_version_minor: Option<u8>,
}

/// Declares the `cfg` by which windows-drivers-rs distinguishes driver models.
pub(crate) fn emit_check_cfg() {
    println!(
        "cargo::rustc-check-cfg=cfg(driver_model__driver_type, values(\"WDM\", \"KMDF\", \"UMDF\"))"
    );
}

/// The driver model of the workspace that is being built.
pub(crate) fn of_this_build() -> Result<DriverConfig, ConfigError> {
    of_workspace(top_level_manifest(Path::new(&cargo_env("OUT_DIR")?)))
}

/// The driver model of the workspace of the package whose build script this is.
pub(crate) fn of_this_package() -> Result<DriverConfig, ConfigError> {
    of_workspace(Path::new(&cargo_env("CARGO_MANIFEST_DIR")?).join("Cargo.toml"))
}

fn of_workspace(manifest: PathBuf) -> Result<DriverConfig, ConfigError> {
    let workspace = MetadataCommand::new()
        .manifest_path(&manifest)
        .no_deps()
        .exec()?;

    let named: Vec<(&Path, &str)> = workspace
        .packages
        .iter()
        .map(|package| (package.manifest_path.as_std_path(), &package.metadata))
        .chain([(manifest.as_path(), &workspace.workspace_metadata)])
        .filter_map(|(manifest, metadata)| {
            println!("cargo::rerun-if-changed={}", manifest.display());
            Some((manifest, driver_type(metadata)?))
        })
        .collect();
    if let Some((manifest, driver_type)) = named.iter().find(|(_, name)| *name != "WDM") {
        return Err(ConfigError::UnsupportedDriverModel {
            manifest: manifest.to_path_buf(),
            driver_type: (*driver_type).to_owned(),
        });
    }
    if named.is_empty() {
        return Err(ConfigError::NoDriverModel { manifest });
    }
    Ok(DriverConfig::Wdm)
}

/// The value of `wdk.driver-model.driver-type` in a `metadata` table.
fn driver_type(metadata: &Value) -> Option<&str> {
    metadata.pointer("/wdk/driver-model/driver-type")?.as_str()
}

/// The manifest of the workspace that is being built. As in the published wdk-build, it is
/// beside the lock file in a folder above the target folder. If there is none, it is the
/// manifest of the workspace that contains this crate.
fn top_level_manifest(out_dir: &Path) -> PathBuf {
    out_dir
        .ancestors()
        .find(|folder| folder.join("Cargo.lock").exists())
        .map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml"),
            |folder| folder.join("Cargo.toml"),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn driver_type_is_read_from_the_wdk_table() {
        let metadata = serde_json::json!({ "wdk": { "driver-model": { "driver-type": "KMDF" } } });

        assert_eq!(driver_type(&metadata), Some("KMDF"));
        assert_eq!(driver_type(&Value::Null), None);
    }

    #[test]
    fn top_level_manifest_is_beside_the_lock_file_above_the_target_folder() {
        let workspace = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(workspace.path().join("Cargo.lock"), "").expect("a file in it");

        let manifest = top_level_manifest(&workspace.path().join("target/debug/build/x/out"));

        assert_eq!(manifest, workspace.path().join("Cargo.toml"));
    }

    #[test]
    fn without_a_lock_file_above_the_manifest_is_that_of_this_workspace() {
        let elsewhere = tempfile::tempdir().expect("a temporary folder");

        let manifest = top_level_manifest(elsewhere.path());

        assert!(manifest.ends_with("wdk-build/../Cargo.toml"));
        assert!(manifest.is_file());
    }
}
