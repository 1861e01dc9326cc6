//! Which headers belong to which part of the WDK.

/// A part of the WDK, as the features of `wdk-sys` name them. The features for other parts do not
/// compile with this crate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiSubset {
    /// The headers that every driver needs.
    Base,
    /// The driver frameworks; empty for WDM.
    Wdf,
    /// Storage: disks, volumes and Storport.
    Storage,
}

impl ApiSubset {
    /// The headers that `wdk-sys` is generated from for a WDM driver, in the
    /// order in which wdk-build 0.6 includes them.
    pub(crate) fn headers(self) -> &'static [&'static str] {
        match self {
            Self::Base => &["ntifs.h", "ntddk.h", "ntstrsafe.h"],
            Self::Wdf => &[],
            Self::Storage => &[
                "ehstorioctl.h",
                "ntddcdrm.h",
                "ntddcdvd.h",
                "ntdddisk.h",
                "ntddmmc.h",
                "ntddscsi.h",
                "ntddstor.h",
                "ntddtape.h",
                "ntddvol.h",
                "ufs.h",
                "mountdev.h",
                "mountmgr.h",
                "ntddchgr.h",
                "ntdddump.h",
                "storduid.h",
                "storport.h",
            ],
        }
    }

    /// The libraries that drivers using this subset link.
    pub(crate) fn libraries(self, arm64: bool) -> &'static [&'static str] {
        match self {
            // WindowsDriver.KernelMode.props; arm64rt: WindowsDriver.arm64.props.
            Self::Base if arm64 => &[
                "BufferOverflowFastFailK",
                "ntoskrnl",
                "hal",
                "wmilib",
                "arm64rt",
            ],
            Self::Base => &["BufferOverflowFastFailK", "ntoskrnl", "hal", "wmilib"],
            _ => &[],
        }
    }
}
