//! The version of Windows, and addresses of exports by name.

use super::{
    resolve,
    strings::{CountedString, units},
};

exports! {
    "RtlGetVersion" => rtl_get_version,
    "RtlIsNtDdiVersionAvailable" => rtl_is_nt_ddi_version_available,
    "MmGetSystemRoutineAddress" => mm_get_system_routine_address,
}

/// Windows 11 22H2, like the kit of the testbed's Storport.
const BUILD: u32 = 22_621;
const NTDDI: u32 = 0x0a00_000c;

/// The start of RTL_OSVERSIONINFOW (`wdm.h`), without the name of the service pack, which is
/// empty.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct VersionInformation {
    size: u32,
    major: u32,
    minor: u32,
    build: u32,
    platform: u32,
    service_pack: u16,
}

unsafe extern "win64" fn rtl_get_version(information: *mut VersionInformation) -> u32 {
    // SAFETY: trusts the driver's arguments, as the kernel does.
    let size = unsafe { information.cast::<u32>().read_unaligned() };
    let content = VersionInformation {
        size,
        major: 10,
        minor: 0,
        build: BUILD,
        // VER_PLATFORM_WIN32_NT
        platform: 2,
        service_pack: 0,
    };
    // SAFETY: trusts the driver's arguments, as the kernel does.
    unsafe { information.write_unaligned(content) };
    0
}

extern "win64" fn rtl_is_nt_ddi_version_available(version: u32) -> u8 {
    u8::from(version <= NTDDI)
}

/// Returns 0 for exports that the testbed does not have.
unsafe extern "win64" fn mm_get_system_routine_address(name: *const CountedString<u16>) -> usize {
    // SAFETY: trusts the driver's arguments, as the kernel does.
    let name = unsafe { units(name) };
    resolve(&String::from_utf16_lossy(&name)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_routine_is_found_by_its_counted_name() {
        let address = |name: &str| {
            let name: Vec<u16> = name.encode_utf16().collect();
            let name = CountedString {
                length: name.len() as u16 * 2,
                maximum_length: name.len() as u16 * 2,
                buffer: name.as_ptr(),
            };
            // SAFETY: a counted string.
            unsafe { mm_get_system_routine_address(&raw const name) }
        };

        assert_eq!(Some(address("memcpy")), resolve("memcpy"));
        assert_eq!(address("NtCreateFile"), 0);
    }

    #[test]
    fn the_version_keeps_the_size_that_the_driver_gave() {
        let mut information = VersionInformation {
            size: 276,
            major: 0,
            minor: 0,
            build: 0,
            platform: 0,
            service_pack: 9,
        };

        // SAFETY: a variable of the test.
        assert_eq!(unsafe { rtl_get_version(&raw mut information) }, 0);
        assert_eq!(
            (information.size, information.major, information.build),
            (276, 10, BUILD)
        );
        assert_eq!(rtl_is_nt_ddi_version_available(0x0a00_0000), 1);
        assert_eq!(rtl_is_nt_ddi_version_available(u32::MAX), 0);
    }
}
