//! Links the functions to be compared as a driver is linked, but with exports, which keep them
//! in the file for `cargo xtask guard-cost`.

fn main() -> Result<(), wdk_build::ConfigError> {
    println!("cargo::rustc-link-lib=storport");
    wdk_build::configure_wdk_binary_build()
}
