//! Makes the cdylib a driver. wdk-build gives linker arguments and search paths:
//! the published one on Windows, `cross/wdk-build` elsewhere.

#[path = "build/inx.rs"]
mod inx;

use std::{error::Error, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    // The package's folder: cargo runs build scripts in it.
    inx::bring_beside_manifest(Path::new(""))?;
    // wdk-build links the libraries that every driver needs; storport.sys's is not
    // among them.
    println!("cargo::rustc-link-lib=storport");
    wdk_build::configure_wdk_binary_build()?;
    Ok(driver_link::configure(&[])?)
}
