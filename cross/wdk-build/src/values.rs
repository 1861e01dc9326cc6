//! The enums and constants of storport.h, in C. The headers in `cross/include` leave them out,
//! because the table `cross/abi/storport-wdk.json` has them.

use std::{fmt::Write as _, fs, io, path::Path};

use serde_json::Value;

use crate::{ConfigError, IoError};

/// The declarations, which do not depend on a header.
pub(crate) fn declarations() -> Result<String, ConfigError> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../abi/storport-wdk.json");
    println!("cargo::rerun-if-changed={}", path.display());
    let in_c = || -> io::Result<String> {
        let table: Value = serde_json::from_str(&fs::read_to_string(&path)?)?;
        let entries = |of: &str| table[of].as_object().into_iter().flatten();
        let mut text = String::new();
        for (tag, values) in entries("enums") {
            let values = values.as_object().into_iter().flatten();
            let values: String = values
                .map(|(name, it)| format!("{name} = {it}, "))
                .collect();
            // A name without an underscore is that of a type without a tag.
            let (tag, name) = tag
                .strip_prefix('_')
                .map_or(("", &**tag), |name| (tag, name));
            let _ = writeln!(text, "typedef enum {tag} {{ {values}}} {name}, *P{name};");
        }
        for (name, value) in entries("constants") {
            let _ = writeln!(text, "#define {name} {value}");
        }
        Ok(text)
    };
    Ok(in_c().map_err(|source| IoError::with_path(&path, source))?)
}
