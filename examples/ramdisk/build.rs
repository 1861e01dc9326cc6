//! Makes the cdylib a driver, as the build script of the root package does.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rustc-link-lib=storport");
    wdk_build::configure_wdk_binary_build()?;
    Ok(driver_link::configure(&[])?)
}
