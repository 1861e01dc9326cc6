//! Generates `wdk.rs`, the structures and constants of storport.h, from
//! `cross/abi/storport-wdk.json`.

use std::{collections::BTreeMap, env, error::Error, fmt::Write as _, fs, path::Path};

use serde::Deserialize;

const TABLE: &str = "../../cross/abi/storport-wdk.json";

#[derive(Deserialize)]
struct Table {
    structs: BTreeMap<String, Struct>,
    enums: BTreeMap<String, BTreeMap<String, i64>>,
    constants: BTreeMap<String, i64>,
}

#[derive(Deserialize)]
struct Struct {
    size: usize,
    fields: BTreeMap<String, Field>,
}

#[derive(Deserialize)]
struct Field {
    offset: usize,
    /// A bit-field has none.
    size: Option<isize>,
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={TABLE}");
    let table = fs::read_to_string(TABLE).map_err(|error| format!("{TABLE}: {error}"))?;
    let table: Table = serde_json::from_str(&table)?;
    let mut rust = String::new();
    for (name, value) in table.enums.values().flatten().chain(&table.constants) {
        // SrbStatus is a byte.
        let ty = if name.starts_with("SRB_STATUS_") {
            "u8"
        } else {
            "u32"
        };
        if let Ok(value) = u32::try_from(*value) {
            writeln!(rust, "pub(crate) const {name}: {ty} = {value:#x};")?;
        }
    }
    for (name, of) in &table.structs {
        let name = name.trim_start_matches('_').to_lowercase();
        writeln!(rust, "pub(crate) mod {name} {{")?;
        writeln!(rust, "    pub(crate) const SIZE: usize = {};", of.size)?;
        for (field, Field { offset, size }) in &of.fields {
            let ty = match size {
                Some(1) => "u8",
                Some(2) => "u16",
                Some(4) => "u32",
                Some(8) => "usize",
                Some(16) => "[u8; 16]",
                // An array without a length.
                Some(..=0) => "()",
                _ => continue,
            };
            let field = field.replace('.', "_");
            writeln!(
                rust,
                "    pub(crate) const {field}: super::Field<{ty}> = super::Field::at({offset});"
            )?;
        }
        rust += "}\n";
    }
    fs::write(Path::new(&env::var("OUT_DIR")?).join("wdk.rs"), rust)?;
    Ok(())
}
