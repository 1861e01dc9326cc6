//! A replacement of `wdk-build` for hosts that are not Windows.
//!
//! The build scripts of windows-drivers-rs call `wdk-build` to find the WDK, to make
//! bindings of its headers, and to link a driver. The published crate works on Windows
//! only. This crate replaces it through `[patch.crates-io]`. It has the part of its API
//! that the build scripts of `wdk-sys`, `wdk`, `wdk-alloc`, `wdk-panic` and of a driver
//! call. The headers come from `cross/include`, or from a WDK of the user's (see [`Kit`]).
//! The import libraries are made of `cross/def`.
//!
//! Only the driver model WDM is supported. Any other one is an error.

mod api_subset;
mod bindings;
mod driver_model;
mod error;
mod import_libraries;
mod kit;
mod linker;
mod load_config;
mod values;

use std::{env, fmt::Debug, path::PathBuf};

pub use api_subset::ApiSubset;
pub use bindings::BuilderExt;
pub use driver_model::{DriverConfig, KmdfConfig, UmdfConfig};
pub use error::{ConfigError, IoError};
pub use kit::Kit;

/// The configuration of a build that depends on the WDK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Always [`DriverConfig::Wdm`].
    pub driver_config: DriverConfig,
    architecture: Architecture,
    kit: Kit,
    /// See [`Kit::write_case_insensitive_overlay`].
    overlay: PathBuf,
}

/// Declarations that windows-drivers-rs uses, and that kits before 10.0.19041 do not have
/// ("ExAllocatePool2 function (wdm.h)"). In a newer kit they are repeated declarations, which
/// C allows.
const NEWER_THAN_OLD_KITS: &str = "\
typedef ULONG64 POOL_FLAGS;
PVOID ExAllocatePool2(POOL_FLAGS Flags, SIZE_T NumberOfBytes, ULONG Tag);
";

/// The processor architectures a driver can be built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Architecture {
    Amd64,
    Arm64,
}

impl Config {
    /// The configuration of the build that the calling build script is part of.
    ///
    /// # Errors
    ///
    /// If the target is not x86_64 or aarch64 `-pc-windows-msvc`, or if the headers do not exist.
    pub fn from_env_auto() -> Result<Self, ConfigError> {
        let target = cargo_env("TARGET")?;
        let architecture = match target.as_str() {
            "x86_64-pc-windows-msvc" => Architecture::Amd64,
            "aarch64-pc-windows-msvc" => Architecture::Arm64,
            _ => return Err(ConfigError::UnsupportedTarget { target }),
        };
        let kit = Kit::from_env()?;
        let overlay = kit.write_case_insensitive_overlay()?;
        Ok(Self {
            driver_config: DriverConfig::Wdm,
            architecture,
            kit,
            overlay,
        })
    }

    /// The folders that hold the headers, in the order in which they are
    /// searched.
    ///
    /// # Errors
    ///
    /// Never: [`Config::from_env_auto`] has found them. The published crate's function can
    /// fail, and its callers expect a `Result`.
    pub fn include_paths(&self) -> Result<impl Iterator<Item = PathBuf> + use<>, ConfigError> {
        Ok(self.kit.include_paths().to_vec().into_iter())
    }

    /// The macros that the WDK's build rules define, as (name, value).
    pub fn preprocessor_definitions(
        &self,
    ) -> impl Iterator<Item = (String, Option<String>)> + use<> {
        // WindowsDriver.x64.props and WindowsDriver.arm64.props of the WDK;
        // MSVC defines _KERNEL_MODE when it is given /kernel.
        let architecture: &[(&str, Option<&str>)] = match self.architecture {
            Architecture::Amd64 => &[("_WIN64", None), ("_AMD64_", None), ("AMD64", None)],
            Architecture::Arm64 => &[
                ("_ARM64_", None),
                ("ARM64", None),
                ("_USE_DECLSPECS_FOR_SAL", Some("1")),
                ("STD_CALL", None),
            ],
        };
        architecture
            .iter()
            .chain(&[("_KERNEL_MODE", None)])
            .map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned)))
            .collect::<Vec<_>>()
            .into_iter()
    }

    /// The headers of an [`ApiSubset`] that the header tree has.
    ///
    /// Headers that an older kit does not have are left out.
    ///
    /// # Errors
    ///
    /// If the tree has none of them.
    pub fn headers(
        &self,
        api_subset: ApiSubset,
    ) -> Result<impl Iterator<Item = String> + use<>, ConfigError> {
        let wanted = api_subset.headers();
        let present: Vec<String> = wanted
            .iter()
            .filter(|header| self.kit.has_header(header))
            .map(ToString::to_string)
            .collect();
        if present.is_empty() && !wanted.is_empty() {
            return Err(ConfigError::NoHeaders {
                api_subset,
                include: self.kit.include_folder().to_owned(),
            });
        }
        Ok(present.into_iter())
    }

    /// A C file that includes the headers of the given [`ApiSubset`]s, for
    /// bindgen to read.
    ///
    /// # Errors
    ///
    /// As [`Config::headers`].
    pub fn bindgen_header_contents(
        &self,
        api_subsets: impl IntoIterator<Item = ApiSubset> + Debug,
    ) -> Result<String, ConfigError> {
        let mut contents = match env::var_os("WDKContentRoot") {
            None => values::declarations()?,
            Some(_) => String::new(),
        };
        for api_subset in api_subsets {
            for header in self.headers(api_subset)? {
                contents.push_str(&format!("#include \"{header}\"\n"));
            }
            if api_subset == ApiSubset::Base {
                contents.push_str(NEWER_THAN_OLD_KITS);
            }
        }
        Ok(contents)
    }

    /// The name of the table of WDF functions: `None`, because a WDM driver has no such
    /// table.
    #[must_use]
    pub fn compute_wdffunctions_symbol_name(&self) -> Option<String> {
        None
    }

    /// Emits the `cfg`s for windows-drivers-rs.
    ///
    /// # Errors
    ///
    /// Never: see [`Config::include_paths`].
    pub fn configure_library_build(&self) -> Result<(), ConfigError> {
        driver_model::emit_check_cfg();
        println!("cargo::rustc-cfg=driver_model__driver_type=\"WDM\"");
        bindings::export_paths();
        Ok(())
    }

    /// Emits the linker arguments of a driver, and the `cfg`s of
    /// [`Config::configure_library_build`]. Makes the import libraries in `OUT_DIR`.
    ///
    /// # Errors
    ///
    /// If the C runtime is not configured to be linked statically, if the driver's
    /// workspace names no driver model or another one than WDM, or if an import library
    /// cannot be made.
    pub fn configure_binary_build(&self) -> Result<(), ConfigError> {
        if !cargo_env("CARGO_CFG_TARGET_FEATURE")?
            .split(',')
            .any(|feature| feature == "crt-static")
        {
            return Err(ConfigError::StaticCrtNotEnabled);
        }
        driver_model::check()?;
        let folder = import_libraries::make(self.architecture)?;
        println!("cargo::rustc-link-search=native={}", folder.display());
        linker::emit_arguments(&load_config::make(self.architecture)?);
        self.configure_library_build()
    }
}

/// Configures a library that depends on the WDK.
///
/// # Errors
///
/// As [`Config::from_env_auto`].
pub fn configure_wdk_library_build() -> Result<(), ConfigError> {
    configure_wdk_library_build_and_then(|_| Ok(()))
}

/// Configures a library that depends on the WDK, then calls `f`.
///
/// # Errors
///
/// Those of [`configure_wdk_library_build`] and those of `f`.
pub fn configure_wdk_library_build_and_then<F, E>(mut f: F) -> Result<(), E>
where
    F: FnMut(Config) -> Result<(), E>,
    E: From<ConfigError>,
{
    let config = Config::from_env_auto()?;
    config.configure_library_build()?;
    f(config)
}

/// Configures a driver.
///
/// # Errors
///
/// As [`Config::from_env_auto`] and [`Config::configure_binary_build`].
pub fn configure_wdk_binary_build() -> Result<(), ConfigError> {
    Config::from_env_auto()?.configure_binary_build()
}

/// An environment variable that Cargo sets for build scripts.
fn cargo_env(name: &'static str) -> Result<String, ConfigError> {
    env::var(name).map_err(|_| ConfigError::NotABuildScript { variable: name })
}
