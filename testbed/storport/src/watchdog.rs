//! The watchdog: stops the machine if a callback does not return, and shows the running callbacks
//! and the locks that are held.

use std::{
    io, thread,
    time::{Duration, Instant},
};

use super::port::Port;
use testbed_machine::{
    clock, schedule,
    trap::{self, RunningCallback},
};

const LOOK: Duration = Duration::from_millis(100);

/// An upper limit for the testbed's own work between two scheduling points, even on a slow disk.
const BETWEEN_POINTS: Duration = Duration::from_secs(600);

/// Starts the watchdog, which runs until `port` is stopped.
pub(super) fn start(port: &'static Port) -> io::Result<()> {
    if schedule::is_on() {
        // Not a thread of the schedule, in which no other thread runs before the next scheduling
        // point.
        thread::Builder::new()
            .name("watchdog of points".into())
            .spawn(move || look_for_points(port))?;
    }
    schedule::spawn("watchdog", move || {
        while !port.is_stopped() {
            schedule::sleep(LOOK);
            look(port);
        }
    })
    .map(drop)
}

/// Under a schedule: stops driver code that loops without a scheduling point. Meanwhile no other
/// thread runs, and virtual time stands still.
fn look_for_points(port: &'static Port) {
    let limit = port.settings.callback_limit;
    let mut last = (schedule::points(), Instant::now(), trap::processor_time());
    while !port.is_stopped() {
        thread::sleep(LOOK);
        let points = schedule::points();
        if points != last.0 {
            last = (points, Instant::now(), trap::processor_time());
            continue;
        }
        let running = trap::running_callbacks();
        // Processor time, because the host may run other processes.
        let used = trap::processor_time().saturating_sub(last.2);
        if !running.is_empty() && used > limit {
            trap::stop_machine(format_args!(
                "{}: it has run for {limit:?} without a call of Storport's or an access to a \
                 register, while all other threads waited: it polls memory that never \
                 changes; in the driver: {}",
                port.driver(),
                places(&running),
            ));
        } else if last.1.elapsed() > BETWEEN_POINTS {
            trap::stop_machine(format_args!(
                "the testbed itself hangs, please report this bug: there were {} scheduling \
                 points, and none in the last {BETWEEN_POINTS:?}",
                last.0
            ));
        }
    }
}

fn places(running: &[RunningCallback]) -> String {
    let places: Vec<_> = running
        .iter()
        .map(|running| format!("{} on CPU {}", running.callback, running.cpu))
        .collect();
    places.join(", ")
}

fn look(port: &'static Port) {
    let limit = port.settings.callback_limit;
    let running = trap::running_callbacks();
    let now = clock::instant();
    let since = |running: &RunningCallback| now.saturating_duration_since(running.since);
    let Some(stuck) = running.iter().find(|running| since(running) > limit) else {
        return;
    };
    let locks = port.locks_taken();
    trap::stop_machine(format_args!(
        "{}: {} on CPU {} does not return: it has run for more than {limit:?}; locks taken: {}; \
         in the driver: {}",
        port.driver(),
        stuck.callback,
        stuck.cpu,
        if locks.is_empty() { "none" } else { &locks },
        places(&running),
    ));
}
