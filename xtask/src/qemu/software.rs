//! The software of the guest: Debian's kernel and busybox, taken from their packages without
//! installing them, and the libraries of this machine.

use std::{
    io,
    path::{Path, PathBuf},
    process::Stdio,
};

use fs_err as fs;

use crate::{
    setup::{self, Need, SetupError},
    tool::{self, ToolError, tool},
    workspace,
};

/// Debian's package that depends on the newest kernel for virtual machines.
const KERNEL: &str = "linux-image-cloud-amd64";
const BUSYBOX: &str = "busybox-static";

/// The kernel's modules that VFIO needs, in the order in which they are loaded. A newer kernel has
/// fewer of them.
const MODULES: [&str; 6] = [
    "virt/lib/irqbypass.ko",
    "drivers/vfio/vfio.ko",
    "drivers/vfio/vfio_virqfd.ko",
    "drivers/vfio/vfio_iommu_type1.ko",
    "drivers/vfio/pci/vfio-pci-core.ko",
    "drivers/vfio/pci/vfio-pci.ko",
];

/// The software cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SoftwareError {
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// A program failed, and has printed the reason.
    #[error("the guest's packages were not downloaded: {0}")]
    Tool(#[from] ToolError),
    #[error(transparent)]
    File(#[from] io::Error),
    /// A package has other contents.
    #[error("{} has no {what}; adapt xtask/src/qemu/software.rs to this version of Debian", folder.display())]
    Missing { folder: PathBuf, what: &'static str },
}

/// Whether this machine can have a guest: its kernel comes from Debian's packages.
#[must_use]
pub fn is_possible() -> bool {
    let mut version = tool("apt-get");
    version.arg("--version").stdout(Stdio::null());
    tool::quiet_status(&mut version).is_ok()
}

/// Unpacked packages.
#[derive(Debug)]
pub struct Software {
    /// The kernel, as QEMU starts it.
    pub kernel: PathBuf,
    /// The files of [`MODULES`] that this kernel has.
    pub modules: Vec<PathBuf>,
    /// A static busybox.
    pub busybox: PathBuf,
}

impl Software {
    /// Downloads and unpacks what target/guest lacks.
    ///
    /// # Errors
    /// See [`SoftwareError`].
    pub fn get() -> Result<Self, SoftwareError> {
        setup::ensure(&[Need::Qemu])?;
        let folder = workspace::target().join("guest");
        let done = folder.join("complete");
        if !done.exists() {
            download(&folder)?;
            fs::write(done, "")?;
        }
        Self::find(&folder)
    }

    fn find(folder: &Path) -> Result<Self, SoftwareError> {
        let missing = |what| SoftwareError::Missing {
            folder: folder.to_owned(),
            what,
        };
        let only = |folder: PathBuf| -> io::Result<Option<PathBuf>> {
            let first = fs::read_dir(folder)?.next().transpose()?;
            Ok(first.map(|entry| entry.path()))
        };
        let modules = only(folder.join("lib/modules"))?.ok_or_else(|| missing("lib/modules"))?;
        let modules = MODULES.map(|name| modules.join("kernel").join(name));
        let version = |name: &str| name.starts_with("vmlinuz-");
        let kernel = fs::read_dir(folder.join("boot"))?
            .filter_map(Result::ok)
            .find(|entry| version(&entry.file_name().to_string_lossy()))
            .ok_or_else(|| missing("boot/vmlinuz"))?;
        Ok(Self {
            kernel: kernel.path(),
            modules: modules.into_iter().filter(|file| file.exists()).collect(),
            busybox: folder.join("bin/busybox"),
        })
    }
}

fn download(folder: &Path) -> Result<(), SoftwareError> {
    // The rest of an interrupted download.
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    let packages = folder.join("packages");
    fs::create_dir_all(&packages)?;
    // Old package lists name versions that the server no longer has.
    if fetch(&packages).is_err() {
        tool::run(tool("apt-get").arg("update"))?;
        fetch(&packages)?;
    }
    for package in fs::read_dir(&packages)? {
        let mut unpack = tool("dpkg-deb");
        unpack.arg("--extract").arg(package?.path()).arg(folder);
        tool::run(&mut unpack)?;
    }
    Ok(())
}

/// Downloads the packages into a folder.
fn fetch(folder: &Path) -> Result<(), ToolError> {
    let depends = tool::output(tool("apt-cache").args(["depends", "--important", KERNEL]))?;
    let kernel = depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"))
        .unwrap_or(KERNEL);
    let mut download = tool("apt-get");
    download.args(["download", "--option=APT::Sandbox::User=root"]);
    tool::run(download.args([kernel, BUSYBOX]).current_dir(folder))
}

/// The shared libraries of `program`, as it finds them on this machine.
///
/// # Errors
/// `ldd` cannot be run.
pub fn libraries(program: &Path) -> Result<Vec<PathBuf>, ToolError> {
    let list = tool::output(tool("ldd").arg(program))?;
    Ok(list
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect())
}
