//! The clocks of the machine, and the page in which Windows shows them to all.

use std::{
    sync::OnceLock,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::{Export, require_irql};
use crate::{cpu::irql, machine::schedule};

pub(super) const EXPORTS: &[Export] = &[
    (
        "KeQueryPerformanceCounter",
        ke_query_performance_counter as *const (),
    ),
    (
        "KeQuerySystemTimePrecise",
        ke_query_system_time as *const (),
    ),
    ("KeQueryInterruptTime", ke_query_interrupt_time as *const ()),
    (
        "KeQueryInterruptTimePrecise",
        ke_query_interrupt_time_precise as *const (),
    ),
    (
        "KeQueryUnbiasedInterruptTime",
        ke_query_interrupt_time as *const (),
    ),
    ("KeQueryTimeIncrement", ke_query_time_increment as *const ()),
    (
        "KeStallExecutionProcessor",
        ke_stall_execution_processor as *const (),
    ),
    (
        "KeDelayExecutionThread",
        ke_delay_execution_thread as *const (),
    ),
];

/// 100-nanosecond units between 1601, where Windows counts from, and 1970.
const BEFORE_1970: u64 = 116_444_736_000_000_000;

/// When virtual time begins: 1 January 2026.
const VIRTUAL_BEGIN: u64 = BEFORE_1970 + 1_767_225_600 * 10_000_000;

/// 100-nanosecond units of a clock tick: 64 a second.
pub(crate) const TICK: u64 = 156_250;

/// The frequency of the performance counter, in Hz: its unit is 100 ns.
pub(crate) const FREQUENCY: u64 = 10_000_000;

/// 100-nanosecond units since 1601.
pub(crate) fn system_time() -> u64 {
    if schedule::is_on() {
        return VIRTUAL_BEGIN + schedule::now() / 100;
    }
    let since_1970 = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    BEFORE_1970 + (since_1970.as_nanos() / 100) as u64
}

/// 100-nanosecond units since the machine was started.
pub(crate) fn interrupt_time() -> u64 {
    if schedule::is_on() {
        return schedule::now() / 100;
    }
    static START: OnceLock<Instant> = OnceLock::new();
    (START.get_or_init(Instant::now).elapsed().as_nanos() / 100) as u64
}

/// Clock ticks since the machine was started.
pub(crate) fn tick_count() -> u64 {
    interrupt_time() / TICK
}

/// The beginning of KUSER_SHARED_DATA (`ntddk.h`), as far as drivers read it:
/// the three times, and the version of Windows.
pub(crate) fn shared_data() -> [u8; 0x400] {
    let mut page = [0; 0x400];
    let mut put = |at: usize, value: u32| {
        page[at..at + 4].copy_from_slice(&value.to_le_bytes());
    };
    // TickCountMultiplier: milliseconds a tick, as a fraction of 2^24.
    put(0x004, 0x0fa0_0000);
    // NtMajorVersion and NtMinorVersion of Windows 10.
    put(0x26c, 10);
    // A KSYSTEM_TIME is the lower half and twice the upper half.
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

unsafe extern "win64" fn ke_query_performance_counter(frequency: *mut u64) -> u64 {
    if !frequency.is_null() {
        // SAFETY: the driver's claim.
        unsafe { frequency.write_unaligned(FREQUENCY) };
    }
    interrupt_time()
}

unsafe extern "win64" fn ke_query_system_time(time: *mut u64) {
    // SAFETY: the driver's claim.
    unsafe { time.write_unaligned(system_time()) };
}

extern "win64" fn ke_query_interrupt_time() -> u64 {
    interrupt_time()
}

unsafe extern "win64" fn ke_query_interrupt_time_precise(counter: *mut u64) -> u64 {
    let time = interrupt_time();
    // SAFETY: the driver's claim. The performance counter has the same unit.
    unsafe { counter.write_unaligned(time) };
    time
}

extern "win64" fn ke_query_time_increment() -> u32 {
    TICK as u32
}

extern "win64" fn ke_stall_execution_processor(microseconds: u32) {
    schedule::stall(Duration::from_micros(microseconds.into()));
}

/// A negative interval counts from now, another one is a system time.
unsafe extern "win64" fn ke_delay_execution_thread(
    _mode: u8,
    _alertable: u8,
    interval: *const i64,
) -> u32 {
    require_irql("KeDelayExecutionThread", irql::APC);
    // SAFETY: the driver's claim.
    let interval = unsafe { interval.read_unaligned() };
    let units = match u64::try_from(interval) {
        Ok(due) => due.saturating_sub(system_time()),
        Err(_) => interval.unsigned_abs(),
    };
    schedule::sleep(Duration::from_micros(units / 10));
    0
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

    #[test]
    fn a_stall_lasts_as_long_as_asked() {
        let start = Instant::now();

        ke_stall_execution_processor(2000);

        assert!(start.elapsed() >= Duration::from_millis(2));
    }

    #[test]
    fn the_counter_runs_at_the_frequency_that_it_tells() {
        let mut frequency = 0;
        // SAFETY: a variable of the test.
        let first = unsafe { ke_query_performance_counter(&raw mut frequency) };
        ke_stall_execution_processor(1000);
        // SAFETY: null is allowed.
        let second = unsafe { ke_query_performance_counter(std::ptr::null_mut()) };

        assert!((second - first) * 1000 >= frequency);
    }

    #[test]
    fn a_delay_in_the_past_is_none() {
        // SAFETY: a variable of the test.
        assert_eq!(unsafe { ke_delay_execution_thread(0, 0, &1) }, 0);
    }
}
