//! Generates the assertions that `src/lib.rs` includes.

#[path = "generator/mod.rs"]
mod generator;

use std::{env, error::Error, fs, path::Path};

use generator::{Headers, bindings::Bindings, table::Table};

fn main() -> Result<(), Box<dyn Error>> {
    for file in ["build.rs", "generator", "storport-wdk.json"] {
        println!("cargo::rerun-if-changed={file}");
    }
    println!("cargo::rerun-if-env-changed=WDKContentRoot");
    if env::var_os("CARGO_CFG_WINDOWS").is_none() {
        return Ok(());
    }

    // cross/wdk-build sets it through wdk-sys.
    let folder = env::var("DEP_WDK_BINDINGS")?;
    let mut bindings = Bindings::default();
    for file in ["types.rs", "constants.rs", "storage.rs"] {
        let path = Path::new(&folder).join(file);
        println!("cargo::rerun-if-changed={}", path.display());
        bindings.add(&fs::read_to_string(&path)?)?;
    }
    let table: Table = serde_json::from_str(&fs::read_to_string("storport-wdk.json")?)?;
    let headers = match env::var_os("WDKContentRoot") {
        None => Headers::Ours,
        Some(_) => Headers::Theirs,
    };

    let generated = generator::generate(&bindings, &table, headers).map_err(|disagreements| {
        for disagreement in &disagreements {
            println!("cargo::error={disagreement}");
        }
        "the headers and storport-wdk.json differ"
    })?;
    // This is not a warning, but a build script can print in no other way.
    println!(
        "cargo::warning=checked for {}: {generated}",
        env::var("TARGET")?
    );
    fs::write(
        Path::new(&env::var("OUT_DIR")?).join("assertions.rs"),
        &generated.rust,
    )?;
    Ok(())
}
