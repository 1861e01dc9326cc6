//! Makes import libraries from the definition files in `cross/def`.

use std::{
    env, fs,
    fs::File,
    path::{Path, PathBuf},
};

use implib::{Flavor, ImportLibrary, MachineType};

use crate::{Architecture, ConfigError, IoError, cargo_env};

/// Libraries of the WDK that contain code instead of imports. The first has the checks that
/// MSVC inserts with /GS, and the load configuration, which `load_config` makes here. The
/// second has helpers that MSVC calls on Arm64. rustc emits no calls of this code, so archives
/// without members replace the libraries. If a driver needs the code, the linker names the
/// missing symbol.
const WITHOUT_MEMBERS: [&str; 2] = ["BufferOverflowFastFailK", "arm64rt"];

/// Makes the import libraries in `OUT_DIR` and returns their folder.
pub(crate) fn make(architecture: Architecture) -> Result<PathBuf, ConfigError> {
    let machine = match architecture {
        Architecture::Amd64 => MachineType::AMD64,
        Architecture::Arm64 => MachineType::ARM64,
    };
    let folder = Path::new(&cargo_env("OUT_DIR")?).join("import-libraries");
    fs::create_dir_all(&folder).map_err(|source| IoError::with_path(&folder, source))?;

    let definitions = Path::new(env!("CARGO_MANIFEST_DIR")).join("../def");
    println!("cargo::rerun-if-changed={}", definitions.display());
    let entries =
        fs::read_dir(&definitions).map_err(|source| IoError::with_path(&definitions, source))?;
    for entry in entries {
        let def = entry
            .map_err(|source| IoError::with_path(&definitions, source))?
            .path();
        let library = folder
            .join(def.file_name().unwrap_or_default())
            .with_extension("lib");
        make_one(&def, &library, machine)?;
    }
    for name in WITHOUT_MEMBERS {
        let library = folder.join(name).with_extension("lib");
        fs::write(&library, "!<arch>\n").map_err(|source| IoError::with_path(&library, source))?;
    }
    Ok(folder)
}

fn make_one(def: &Path, library: &Path, machine: MachineType) -> Result<(), ConfigError> {
    let text = fs::read_to_string(def).map_err(|source| IoError::with_path(def, source))?;
    let mut file = File::create(library).map_err(|source| IoError::with_path(library, source))?;
    ImportLibrary::new(&text, machine, Flavor::Msvc)
        .and_then(|import_library| import_library.write_to(&mut file))
        .map_err(|source| ConfigError::ImportLibrary {
            def: def.to_owned(),
            source,
        })
}
