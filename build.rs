//! Makes the cdylib a driver: linker arguments and search paths come from
//! `wdk_build`, on Windows the published one, elsewhere `cross/wdk-build`.

#[path = "build/inx.rs"]
mod inx;

use std::{error::Error, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    // The package's folder: cargo runs build scripts in it.
    inx::bring_beside_manifest(Path::new(""))?;
    // wdk-build links the libraries every driver needs; storport.sys's is ours
    // to name.
    println!("cargo::rustc-link-lib=storport");
    // Nor does it give a driver a version.
    version_resource::link()?;
    Ok(wdk_build::configure_wdk_binary_build()?)
}
