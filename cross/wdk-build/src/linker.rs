//! The linker arguments that make a cdylib a kernel-mode driver.

use std::path::Path;

/// Those that the published wdk-build emits for WDM (from the WDK's
/// WindowsDriver.KernelMode.props, WindowsDriver.KernelMode.WDM.props and
/// Microsoft.Link.Common.props), and `/RELEASE`. lld-link takes them all; it
/// reads and ignores `/KERNEL`. Left out are `/IGNORE:4216` and `/IGNORE:4257`:
/// they silence warnings that lld-link does not have.
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
    // Writes the checksum that Windows checks drivers by: without it lld-link
    // leaves 0 there.
    "/RELEASE",
];

/// For the package's cdylib, which `load_config` is linked into.
pub(crate) fn emit_arguments(load_config: &Path) {
    for argument in arguments(load_config) {
        println!("cargo::rustc-cdylib-link-arg={argument}");
    }
}

/// For its examples, which are cdylibs too: what is for a cdylib does not reach
/// them.
pub(crate) fn emit_example_arguments(load_config: &Path) {
    for argument in arguments(load_config) {
        println!("cargo::rustc-link-arg={argument}");
    }
}

fn arguments(load_config: &Path) -> impl Iterator<Item = String> {
    let flags = ARGUMENTS.iter().map(ToString::to_string);
    flags.chain([load_config.display().to_string()])
}
