//! The driver model that a driver's manifest names.

use std::path::Path;

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

/// Fails unless the workspace of the package whose build script this is names WDM, and nothing else.
pub(crate) fn check() -> Result<(), ConfigError> {
    let manifest = Path::new(&cargo_env("CARGO_MANIFEST_DIR")?).join("Cargo.toml");
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
    Ok(())
}

/// The value of `wdk.driver-model.driver-type` in a `metadata` table.
fn driver_type(metadata: &Value) -> Option<&str> {
    metadata.pointer("/wdk/driver-model/driver-type")?.as_str()
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
}
