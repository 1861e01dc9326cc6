//! Links the functions to be compared as a driver is linked, but with exports, by which
//! `cargo xtask guard-cost` finds them.

fn main() -> Result<(), wdk_build::ConfigError> {
    println!("cargo::rustc-link-lib=storport");
    wdk_build::configure_wdk_binary_build()
}
