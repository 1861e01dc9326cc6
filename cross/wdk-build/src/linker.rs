//! The linker arguments that make a cdylib a kernel-mode driver.

use std::path::Path;

/// The arguments that the published wdk-build emits for WDM (from the WDK's
/// WindowsDriver.KernelMode.props, WindowsDriver.KernelMode.WDM.props and
/// Microsoft.Link.Common.props), and `/RELEASE`. lld-link accepts all of them, and
/// ignores `/KERNEL`. `/IGNORE:4216` and `/IGNORE:4257` are left out: they disable
/// warnings that lld-link does not have.
const ARGUMENTS: &[&str] = &[
    "/DRIVER",
    "/NODEFAULTLIB",
    "/SUBSYSTEM:NATIVE",
    "/KERNEL",
    "/ENTRY:DriverEntry",
    "/NXCOMPAT",
    "/DYNAMICBASE",
    "/MAP",
    "/MAPINFO:EXPORTS",
    "/OPT:REF,ICF",
    "/INTEGRITYCHECK",
    "/MANIFEST:NO",
    // Writes the checksum, which Windows checks in drivers. Without this option
    // lld-link writes 0.
    "/RELEASE",
];

/// Emits the arguments for the package's cdylib. `load_config` is linked into it.
pub(crate) fn emit_arguments(load_config: &Path) {
    for argument in ARGUMENTS {
        println!("cargo::rustc-cdylib-link-arg={argument}");
    }
    println!("cargo::rustc-cdylib-link-arg={}", load_config.display());
}
