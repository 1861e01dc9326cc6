//! Watches for driver code that does not come back. The machine is stopped
//! then, with what runs where and which locks are taken: two threads that wait
//! for each other's are seen in that.

use std::{io, thread, time::Duration};

use super::port::Port;
use crate::trap;

/// How often it looks.
const LOOK: Duration = Duration::from_millis(100);

/// Watches for as long as `port` is not stopped.
pub(super) fn start(port: &'static Port) -> io::Result<()> {
    thread::Builder::new()
        .name("watchdog".into())
        .spawn(move || {
            while !port.is_stopped() {
                thread::sleep(LOOK);
                look(port);
            }
        })
        .map(drop)
}

fn look(port: &'static Port) {
    let limit = port.settings.callback_limit;
    let inside = trap::inside();
    let Some(stuck) = inside.iter().find(|inside| inside.since.elapsed() > limit) else {
        return;
    };
    let elsewhere: Vec<_> = inside
        .iter()
        .map(|inside| format!("{} on CPU {}", inside.callback, inside.cpu))
        .collect();
    let locks = port.locks_taken();
    trap::stop_machine(format_args!(
        "{}: {} on CPU {} does not return: it has run for more than {limit:?}; locks taken: {}; \
         in the driver: {}",
        port.driver(),
        stuck.callback,
        stuck.cpu,
        if locks.is_empty() { "none" } else { &locks },
        elsewhere.join(", "),
    ));
}
