//! Makes the cdylib a driver, as the build script of the root package does.

fn main() -> Result<(), wdk_build::ConfigError> {
    println!("cargo::rustc-link-lib=storport");
    wdk_build::configure_wdk_binary_build()
}
