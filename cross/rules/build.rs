//! Selects what is compiled: `RULES=wrong`, `right` or `rights`.

use std::env;

fn main() {
    println!("cargo::rerun-if-env-changed=RULES");
    println!("cargo::rustc-check-cfg=cfg(wrong, right, rights)");
    if let Ok(rules) = env::var("RULES") {
        println!("cargo::rustc-cfg={rules}");
    }
}
