//! Routines that return the time, and that wait.

use std::time::Duration;

use super::require_irql;
use testbed_machine::{
    cpu::irql,
    schedule,
    time::{FREQUENCY, TICK, interrupt_time, system_time},
};

exports! {
    "KeQueryPerformanceCounter" => ke_query_performance_counter,
    "KeQuerySystemTimePrecise" => ke_query_system_time,
    "KeQueryInterruptTime" => ke_query_interrupt_time,
    "KeQueryInterruptTimePrecise" => ke_query_interrupt_time_precise,
    "KeQueryUnbiasedInterruptTime" => ke_query_interrupt_time,
    "KeQueryTimeIncrement" => ke_query_time_increment,
    "KeStallExecutionProcessor" => ke_stall_execution_processor,
    "KeDelayExecutionThread" => ke_delay_execution_thread,
}

unsafe extern "win64" fn ke_query_performance_counter(frequency: *mut u64) -> u64 {
    if !frequency.is_null() {
        // SAFETY: trusts the driver's arguments, as the kernel does.
        unsafe { frequency.write_unaligned(FREQUENCY) };
    }
    interrupt_time()
}

unsafe extern "win64" fn ke_query_system_time(time: *mut u64) {
    // SAFETY: trusts the driver's arguments, as the kernel does.
    unsafe { time.write_unaligned(system_time()) };
}

extern "win64" fn ke_query_interrupt_time() -> u64 {
    interrupt_time()
}

unsafe extern "win64" fn ke_query_interrupt_time_precise(counter: *mut u64) -> u64 {
    let time = interrupt_time();
    // SAFETY: as above. The performance counter has the same unit.
    unsafe { counter.write_unaligned(time) };
    time
}

extern "win64" fn ke_query_time_increment() -> u32 {
    TICK as u32
}

extern "win64" fn ke_stall_execution_processor(microseconds: u32) {
    schedule::stall(Duration::from_micros(microseconds.into()));
}

/// A negative interval is relative. Another one is a system time.
unsafe extern "win64" fn ke_delay_execution_thread(
    _mode: u8,
    _alertable: u8,
    interval: *const i64,
) -> u32 {
    require_irql("KeDelayExecutionThread", irql::APC);
    // SAFETY: trusts the driver's arguments, as the kernel does.
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
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_stall_and_a_delay_last_as_long_as_asked() {
        let start = Instant::now();

        ke_stall_execution_processor(2000);
        assert!(start.elapsed() >= Duration::from_millis(2));

        // In units of 100 ns, and a time in the past.
        for interval in [-20_000, 1] {
            // SAFETY: a variable of the test.
            assert_eq!(unsafe { ke_delay_execution_thread(0, 0, &interval) }, 0);
        }
        assert!(start.elapsed() >= Duration::from_millis(4));
    }

    #[test]
    fn the_counter_runs_at_the_frequency_that_it_returns() {
        let mut frequency = 0;
        // SAFETY: a variable of the test.
        let first = unsafe { ke_query_performance_counter(&raw mut frequency) };
        ke_stall_execution_processor(1000);
        // SAFETY: null is allowed.
        let second = unsafe { ke_query_performance_counter(std::ptr::null_mut()) };

        assert!((second - first) * 1000 >= frequency);
    }
}
