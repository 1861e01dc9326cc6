//! The options with which bindgen reads the WDK's headers.

use std::{borrow::Borrow, fmt::Debug};

use bindgen::{Builder, EnumVariation, Formatter, RustEdition, RustTarget};

use crate::{ApiSubset, Config, ConfigError, cargo_env};

/// Deprecated functions. The bindings leave them out, so that no driver calls them.
const DEPRECATED: [&str; 4] = [
    "ExAllocatePool",
    "ExAllocatePoolWithTag",
    "ExAllocatePoolWithQuotaTag",
    "ExAllocatePoolWithTagPriority",
];

/// Types of the real kit's headers whose bindings do not compile, because of
/// bit-fields that bindgen lays out with the wrong alignment.
const UNTRANSLATABLE: [&str; 5] = [
    ".*MCG_CAP(?:__bindgen.*)?",
    ".*WHEA_XPF_MCA_SECTION",
    ".*WHEA_ARM_BUS_ERROR(?:__bindgen.*)?",
    ".*WHEA_ARM_PROCESSOR_ERROR",
    ".*WHEA_ARM_CACHE_ERROR",
];

/// Types that the real kit's headers use, but do not define.
const UNDEFINED: [&str; 2] = ["_KGDTENTRY64", "_KIDTENTRY64"];

/// Makes a [`Builder`] that reads the WDK's headers.
pub trait BuilderExt {
    /// Makes a builder with the same bindings as that of the published wdk-build.
    ///
    /// # Errors
    ///
    /// If called outside a build script.
    fn wdk_default(config: impl Borrow<Config> + Debug) -> Result<Builder, ConfigError>;
}

impl BuilderExt for Builder {
    fn wdk_default(config: impl Borrow<Config> + Debug) -> Result<Self, ConfigError> {
        let config = config.borrow();
        let mut builder = Self::default()
            .use_core()
            .derive_default(true)
            .generate_cstr(true)
            .must_use_type("NTSTATUS")
            .must_use_type("HRESULT")
            .default_enum_style(EnumVariation::ModuleConsts)
            .parse_callbacks(Box::new(bindgen::CargoCallbacks::new()))
            .formatter(Formatter::Prettyplease)
            .rust_edition(RustEdition::Edition2024)
            .rust_target(RustTarget::stable(91, 0).expect("bindgen knows Rust 1.91"))
            // Nothing of the host: no include paths, no built-in headers.
            .detect_include_paths(false)
            .clang_args(["-nostdinc", "-w"])
            // The real kit's headers for Arm64 paste tokens that need no pasting
            // (&##Register), which is an error in clang.
            .clang_arg("-Wno-invalid-token-paste")
            .clang_arg(format!("--target={}", cargo_env("TARGET")?))
            .clang_args(["-fms-compatibility", "-fms-extensions"])
            .clang_arg(format!("-ivfsoverlay{}", config.overlay.display()))
            // clang's own declarations, such as that of memcpy, would have u64
            // instead of these headers' size_t.
            .clang_arg("-fno-builtin")
            .clang_args(
                config
                    .include_paths()?
                    .map(|folder| format!("--include-directory={}", folder.display())),
            )
            .clang_args(
                config
                    .preprocessor_definitions()
                    .map(|(name, value)| match value {
                        Some(value) => format!("--define-macro={name}={value}"),
                        None => format!("--define-macro={name}"),
                    }),
            );
        for item in DEPRECATED.iter().chain(&UNTRANSLATABLE) {
            builder = builder.blocklist_item(item);
        }
        for item in UNDEFINED {
            builder = builder.opaque_type(item);
        }
        Ok(builder)
    }
}

impl Config {
    /// The `#[link]` attributes for the libraries of a subset, which the bindings
    /// begin with. Returns `None` if the subset has no libraries.
    ///
    /// Their conditions are those of the published crate: tests and the feature
    /// `suppress-wdk-linking` of wdk-sys link nothing.
    #[must_use]
    pub fn bindgen_library_link_raw_lines(&self, api_subset: ApiSubset) -> Option<String> {
        let lines: String = api_subset
            .libraries(self.architecture == crate::Architecture::Arm64)
            .iter()
            .map(|name| {
                format!(
                    "#[cfg(not(any(test, feature = \"suppress-wdk-linking\")))]\n\
                     #[link(name = \"{name}\", kind = \"static\", modifiers = \"-bundle\")]\n\
                     unsafe extern \"C\" {{}}\n"
                )
            })
            .collect();
        (!lines.is_empty()).then_some(lines)
    }
}

/// Passes the folder of the generated bindings to crates that depend on wdk-sys: their
/// build scripts find it in `DEP_WDK_BINDINGS`.
pub(crate) fn export_paths() {
    if let (Ok(_), Ok(out_dir)) = (cargo_env("CARGO_MANIFEST_LINKS"), cargo_env("OUT_DIR")) {
        println!("cargo::metadata=BINDINGS={out_dir}");
    }
}
