//! The linker arguments that make a cdylib a kernel-mode driver.

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

/// For the package's cdylib.
pub(crate) fn emit_arguments() {
    for argument in ARGUMENTS {
        println!("cargo::rustc-cdylib-link-arg={argument}");
    }
}

/// For its examples, which are cdylibs too: what is for a cdylib does not reach
/// them.
pub(crate) fn emit_example_arguments() {
    for argument in ARGUMENTS {
        println!("cargo::rustc-link-arg={argument}");
    }
}
