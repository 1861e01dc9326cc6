//! STOR_EVENT: StorPortInitializeEvent, StorPortSetEvent and StorPortWaitForSingleObject.

use std::{sync::Mutex, time::Duration};

use super::{
    abi::{
        Status, Structure, stor_dispatcher_header as header,
        wdk::{STOR_STATUS_INVALID_PARAMETER, STOR_STATUS_TIMEOUT},
    },
    lock,
};
use testbed_machine::{clock, schedule::Condition};

/// StorSynchronizationEvent: setting it releases one waiter.
const SYNCHRONIZATION: u32 = 1;

/// One lock for all events, because waits are rare.
static EVENTS: (Mutex<()>, Condition) = (Mutex::new(()), Condition::new());

pub(super) fn initialize(event: Structure, kind: u32, set: bool) -> Status {
    if kind > SYNCHRONIZATION {
        return Err(STOR_STATUS_INVALID_PARAMETER);
    }
    event.fill(24, 0);
    event.set(header::Lock, kind);
    event.set(header::SignalState, u32::from(set));
    Ok(())
}

pub(super) fn set(event: Structure) {
    let (mutex, changed) = &EVENTS;
    let _events = lock(mutex);
    event.set(header::SignalState, 1);
    changed.changed();
}

/// Waits for an event. The time-out is in units of 100 ns: relative if it is negative, else since
/// 1601.
pub(super) fn wait(event: Structure, timeout: Option<i64>) -> Status {
    let (mutex, changed) = &EVENTS;
    let until = timeout.map(|timeout| {
        let time = duration(timeout).as_nanos() as u64;
        clock::now().saturating_add(time)
    });
    let mut events = lock(mutex);
    while event.get(header::SignalState) == 0 {
        if until.is_some_and(|until| until <= clock::now()) {
            return Err(STOR_STATUS_TIMEOUT);
        }
        events = changed.wait(mutex, events, until, "an event of the driver's");
    }
    if event.get(header::Lock) as u8 == SYNCHRONIZATION as u8 {
        event.set(header::SignalState, 0);
    }
    Ok(())
}

fn duration(timeout: i64) -> Duration {
    let units = if timeout < 0 {
        timeout.unsigned_abs()
    } else {
        (timeout as u64).saturating_sub(testbed_machine::time::system_time())
    };
    Duration::from_nanos(units.saturating_mul(100))
}
