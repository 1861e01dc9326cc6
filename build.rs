//! Makes the cdylib a driver: linker arguments and search paths come from
//! `wdk_build`, on Windows the published one, elsewhere `cross/wdk-build`.

fn main() -> Result<(), wdk_build::ConfigError> {
    // wdk-build links the libraries every driver needs; storport.sys's is ours
    // to name.
    println!("cargo::rustc-link-lib=storport");
    wdk_build::configure_wdk_binary_build()
}
