//! The machine's clocks, and the page in which drivers read them.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::{clock, schedule};

/// 100-nanosecond units from 1601, the epoch of Windows, to 1970.
const BEFORE_1970: u64 = 116_444_736_000_000_000;

/// The start of virtual time: 1 January 2026.
const VIRTUAL_BEGIN: u64 = BEFORE_1970 + 1_767_225_600 * 10_000_000;

/// 100-nanosecond units in a clock tick, 1/64 s.
pub const TICK: u64 = 156_250;

/// The frequency of the performance counter, in Hz.
pub const FREQUENCY: u64 = 10_000_000;

/// 100-nanosecond units since 1601.
pub fn system_time() -> u64 {
    if schedule::is_on() {
        return VIRTUAL_BEGIN + schedule::now() / 100;
    }
    let since_1970 = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    BEFORE_1970 + (since_1970.as_nanos() / 100) as u64
}

/// 100-nanosecond units since the start of the machine.
pub fn interrupt_time() -> u64 {
    clock::now() / 100
}

/// Clock ticks since the start of the machine.
pub fn tick_count() -> u64 {
    interrupt_time() / TICK
}

/// The start of KUSER_SHARED_DATA (`ntddk.h`), with the fields that drivers read: the three
/// times, and the version of Windows.
pub fn shared_data() -> [u8; 0x400] {
    let mut page = [0; 0x400];
    let mut put = |at: usize, value: u32| {
        page[at..at + 4].copy_from_slice(&value.to_le_bytes());
    };
    // TickCountMultiplier: milliseconds per tick, as a fraction of 2^24.
    put(0x004, 0x0fa0_0000);
    // NtMajorVersion and NtMinorVersion of Windows 10.
    put(0x26c, 10);
    // A KSYSTEM_TIME is the lower half, followed by the upper half twice.
    for (at, time) in [
        (0x008, interrupt_time()),
        (0x014, system_time()),
        (0x320, tick_count()),
    ] {
        put(at, time as u32);
        put(at + 4, (time >> 32) as u32);
        put(at + 8, (time >> 32) as u32);
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shared_page_holds_the_times_where_drivers_read_them() {
        let before = (interrupt_time(), system_time());
        let page = shared_data();
        let after = (interrupt_time(), system_time());
        let time = |at: usize| {
            let parts = [0, 4, 8].map(|part| {
                u64::from(u32::from_le_bytes(
                    page[at + part..][..4].try_into().expect("4 bytes"),
                ))
            });
            assert_eq!(parts[1], parts[2], "the upper half twice");
            parts[1] << 32 | parts[0]
        };

        assert!((before.0..=after.0).contains(&time(0x08)));
        assert!((before.1..=after.1).contains(&time(0x14)));
        assert!((before.0 / TICK..=after.0 / TICK).contains(&time(0x320)));
    }
}
