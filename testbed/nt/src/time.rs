//! Routines that return the time, and one that waits.

use std::time::Duration;

use testbed_machine::{
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_stall_lasts_as_long_as_asked() {
        let start = Instant::now();

        ke_stall_execution_processor(2000);

        assert!(start.elapsed() >= Duration::from_millis(2));
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
