//! The events that the driver writes to the system log, each with its number, severity, text,
//! cause and remedy.
//!
//! The driver logs only the code of an event. The build script puts the texts into the
//! driver file, where Event Viewer looks them up. A test compares the table in
//! docs/troubleshooting.md with this list.

/// The severity of an event: the upper two bits of its code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Information for an administrator.
    Informational = 1,
    /// The driver handled a fault.
    Warning = 2,
    /// The disk does not work, or may have stopped working.
    Error = 3,
}

macro_rules! events {
    ($($(#[$doc:meta])* $id:literal $severity:ident $name:ident {
        text: $text:literal,
        cause: $cause:literal,
        remedy: $remedy:literal,
    })*) => {
        /// An event. Windows replaces `%1` in its text by the adapter's name, such as
        /// `\Device\RaidPort0`, and `%2` and following by the strings that the driver
        /// passes. The comments of the events describe these strings.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u16)]
        pub enum Event {
            $($(#[$doc])* $name = $id,)*
        }

        impl Event {
            /// All events, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its severity.
            pub const fn severity(self) -> Severity {
                match self {
                    $(Self::$name => Severity::$severity,)*
                }
            }

            /// The text that Event Viewer shows, with placeholders.
            pub const fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }

            /// Why it happens.
            pub const fn cause(self) -> &'static str {
                match self {
                    $(Self::$name => $cause,)*
                }
            }

            /// What an administrator can do.
            pub const fn remedy(self) -> &'static str {
                match self {
                    $(Self::$name => $remedy,)*
                }
            }
        }
    };
}

impl Event {
    /// The event's number, which Event Viewer shows: the lower 16 bits of the code.
    pub const fn id(self) -> u16 {
        self as u16
    }

    /// The `ErrorCode` of STOR_LOG_EVENT_DETAILS, and the message's identifier in
    /// the driver file: severity in bits 30 and 31, facility in bits 16 to 27, the
    /// number in bits 0 to 15 ("Event Identifiers" in Microsoft's documentation).
    ///
    /// The customer bit, 29, makes the code differ from all codes of Microsoft. Event Viewer
    /// searches IoLogMsg.dll first, and no message there has that bit.
    pub const fn code(self) -> u32 {
        const CUSTOMER: u32 = 1 << 29;
        const FACILITY: u32 = 1 << 16;
        (self.severity() as u32) << 30 | CUSTOMER | FACILITY | self as u32
    }
}

// The numbers begin at 1001, because Storport logs its own events, such as 129, under the
// driver's name, and people search for the number alone.
events! {
    1001 Error ConfigurationSpaceUnreadable {
        text: "%1 cannot start: the device's PCI configuration space could not be read.",
        cause: "The device was removed while it started, or the hypervisor does not emulate its configuration space.",
        remedy: "Restart the device. If the event comes back, look for the device in the hypervisor's log.",
    }
    /// %2: the structure, such as `common configuration`, or `PCI capability list`.
    1002 Error StructureMissing {
        text: "%1 cannot start: the device has no %2.",
        cause: "The device's PCI capabilities do not name all structures of a modern virtio device: it has the legacy interface only.",
        remedy: "Use a modern or a transitional virtio-blk device. In QEMU, remove disable-modern=on.",
    }
    /// %2: as in 1002. %3: what is wrong, such as `BAR of I/O ports`.
    1003 Error StructureUnusable {
        text: "%1 cannot start: the device's %2 cannot be used (%3).",
        cause: "The hypervisor describes the device's registers in a way that the virtio specification forbids, or places them in I/O ports.",
        remedy: "Update the hypervisor. Report the event with the hypervisor's name and version.",
    }
    /// %2: number of the BAR. %3: bytes that the driver needs, from the BAR's start.
    1004 Error BarNotMapped {
        text: "%1 cannot start: Windows did not map BAR %2 of the device (%3 bytes).",
        cause: "Windows assigned no memory to the BAR, or has no address space left to map it.",
        remedy: "Look at the device's Resources page in Device Manager. Remove other PCI devices from the virtual machine, or enlarge its 64-bit PCI window.",
    }
    /// %2: milliseconds waited. %3: device status register.
    1005 Error StartResetUnconfirmed {
        text: "%1 cannot start: the device did not confirm its reset within %2 ms (device status %3).",
        cause: "The process behind the device hangs: QEMU itself, a vhost-user back end, or the storage under the image.",
        remedy: "Check that process and its storage on the host, then restart the device.",
    }
    /// %2: features offered.
    1006 Error VersionMissing {
        text: "%1 cannot start: the device does not offer VIRTIO_F_VERSION_1 (features offered: %2).",
        cause: "The device implements the legacy interface only, behind modern capabilities.",
        remedy: "Use a modern or a transitional virtio-blk device.",
    }
    /// %2: features chosen. %3: features offered.
    1008 Error FeaturesRefused {
        text: "%1 cannot start: the device does not accept the features %2 (features offered: %3).",
        cause: "The device needs a feature that the driver does not have, or its back end changed its mind.",
        remedy: "Remove options from the device, iommu_platform=on first, and restart it.",
    }
    1009 Error ConfigurationUnstable {
        text: "%1 cannot start: the device's configuration changed during each attempt to read it.",
        cause: "The disk is being resized all the time, or the device's generation counter is broken.",
        remedy: "Let the resize end on the host, then restart the device.",
    }
    /// %2: the field's name, such as `blk_size`. %3: its value.
    1010 Error ConfigurationInvalid {
        text: "%1 cannot start: the field %2 of the device's configuration has the value %3, which the driver cannot use.",
        cause: "A logical block must be a power of two from 512 to 4096 bytes, size_max at least 512, and the capacity below 2^64 bytes.",
        remedy: "Correct the device's option for that field, such as logical_block_size.",
    }
    /// %2: number of the queue. %3: the register, such as `queue_size`. %4: its
    /// value.
    1011 Error QueueUnusable {
        text: "%1 cannot start: request queue %2 cannot be used: %3 is %4.",
        cause: "The queue does not exist (queue_size 0), has an impossible size (a split ring needs a power of two, a packed ring 1 to 32768), is in use after a reset (queue_enable 1), does not become enabled (queue_enable 0), or has its notification address outside the device's registers (notification offset).",
        remedy: "Set queue-size to a power of two, or remove the option. Otherwise update the hypervisor.",
    }
    /// %2: the limit, such as `seg_max`. %3: its value. %4: the least value that
    /// works.
    1012 Error LimitTooSmall {
        text: "%1 cannot start: the device's %2 is %3, and the driver needs at least %4.",
        cause: "With this limit a request cannot carry any page of data.",
        remedy: "Enlarge the limit in the device's options, such as queue-size or seg_max.",
    }
    /// %2: bytes.
    1013 Error OutOfMemory {
        text: "%1 cannot start: Windows did not provide %2 bytes of contiguous memory for the queues and their requests.",
        cause: "The virtual machine is short of memory, or its memory is fragmented.",
        remedy: "Restart Windows, give the virtual machine more memory, or make queue-size smaller.",
    }
    /// %2: the vector. %3: what it is for: `queue 0`.
    1014 Error VectorRefused {
        text: "%1 cannot start: the device refused MSI-X vector %2 for %3.",
        cause: "The host has no resources left for interrupts.",
        remedy: "Restart the device. In QEMU, vectors=0 makes the device use its interrupt pin instead.",
    }
    1015 Error StartRejected {
        text: "%1 cannot start: the device reports a failure at the end of its start (DEVICE_NEEDS_RESET).",
        cause: "The process behind the device could not open or lock its image, or failed to start its queues.",
        remedy: "Look for the reason in the hypervisor's log, then restart the device.",
    }
    /// %2: number of the queue. %3: what violates the protocol. %4: its value.
    1016 Error StartViolation {
        text: "%1 cannot start: the device broke the virtio protocol in queue %2 while it was started: %3 (%4).",
        cause: "The device wrote something into a ring that cannot be true.",
        remedy: "Report it to the hypervisor's developers, with the whole text of the event.",
    }
    1101 Warning ResetRequested {
        text: "%1 asks to be reset (DEVICE_NEEDS_RESET). The driver resets the device, and Windows retries its requests.",
        cause: "The device found an error that it cannot recover from (DEVICE_NEEDS_RESET).",
        remedy: "Look for the error in the hypervisor's log. No data is lost if event 1104 or 1107 does not follow.",
    }
    /// %2: number of the queue. %3: what violates the protocol. %4: its value.
    1102 Error ProtocolViolation {
        text: "%1 broke the virtio protocol in queue %2: %3 (%4). The driver resets the device, and Windows retries its requests.",
        cause: "The device wrote something into a ring that cannot be true. The driver does not act on it.",
        remedy: "Report it to the hypervisor's developers, with the whole text of the event. Verify the disk if it comes back.",
    }
    /// %2: resets since the start. %3: requests in flight.
    1103 Warning DeviceReset {
        text: "The driver resets the device of %1 (reset %2 since its start). Requests in flight: %3.",
        cause: "A request timed out (event 129 of Storport comes first), or event 1101 or 1102 comes first.",
        remedy: "One reset does no harm: Windows retries the requests. If resets come again and again, check the storage under the image.",
    }
    /// %2: resets. %3: seconds.
    1104 Error DeviceFailed {
        text: "%1 was given up after more than %2 resets within %3 seconds. All its requests fail until the device is restarted.",
        cause: "The device fails again right after each reset.",
        remedy: "Repair the cause that the events before this one name, then disable and enable the device, or restart Windows.",
    }
    /// %2: the register that was read.
    1105 Error DeviceVanished {
        text: "%1 no longer answers: its register %2 reads as all ones.",
        cause: "The device was removed from the virtual machine without a request to Windows, or the hypervisor lost it.",
        remedy: "Attach the device again. Verify the disk, as requests may have been lost.",
    }
    /// %2: milliseconds waited. %3: device status register.
    1106 Error ResetUnconfirmed {
        text: "%1 has not confirmed a reset for %2 ms (device status %3). The driver keeps the requests, because the device may still write to their memory.",
        cause: "The process behind the device hangs: QEMU itself, a vhost-user back end, or the storage under the image.",
        remedy: "Check that process and its storage on the host. The disk works again once the device confirms.",
    }
    /// %2: what failed, in a few words.
    1107 Error RestartFailed {
        text: "%1 could not be started again after a reset: %2. All its requests fail until the device is restarted.",
        cause: "The device does not accept after the reset what it accepted before it.",
        remedy: "Look for the reason in the hypervisor's log, then disable and enable the device, or restart Windows.",
    }
    /// %2: bytes reported. %3: bytes of the request.
    1108 Informational UsedLengthShort {
        text: "%1 reports that it wrote %2 bytes for a request of %3 bytes that succeeded. The driver relies on the status alone. This is logged once.",
        cause: "Some hypervisors do not report the length of what they wrote.",
        remedy: "Nothing has to be done.",
    }
    /// %2: `on` or `off`.
    1109 Warning CacheModeUnchanged {
        text: "%1 did not turn its write cache %2.",
        cause: "The device cannot change its write cache, or failed to.",
        remedy: "Choose the cache mode on the host instead: cache=none or cache=writethrough in QEMU.",
    }
}
