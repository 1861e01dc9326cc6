//! Callbacks that overlap in a given order. The device determines the order: a hook runs in the
//! middle of a register access.

use std::{
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Duration,
};

use testbed_devices::{Operation, VirtioBlk};
use testbed_storport::{
    adapter::{Adapter, AdapterSettings, FailingExport},
    control_request::ControlRequest,
    request::Address,
};

use super::bench::*;

scenarios! {
    a_reset_request_beside_a_look_at_a_working_device_resets_it
    a_reset_waits_for_a_notification_that_is_being_sent
    a_request_for_the_identity_that_the_device_still_has_is_not_overwritten
    a_stop_beside_a_start_of_the_device_gives_it_time_to_end
    a_device_is_not_started_after_a_stop
}

/// The BAR of the virtio structures, and where two of them are in it.
const BAR: usize = 4;
const DEVICE_STATUS: u64 = 0x14;
const NOTIFY: u64 = 0x3000;

const DRIVER_OK: u8 = 4;

/// The device status with DRIVER_OK and all bits that come before it.
const READY: u8 = 0xF;

/// The request for a disk's identity.
const GET_ID: u32 = 8;

/// Long enough for another thread to reach the point where it waits.
const WHILE: Duration = Duration::from_millis(100);

/// A register access by the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    ReadStatus,
    WriteStatus(u8),
    Notify,
}

type Hook = Box<dyn FnOnce() + Send>;

/// Calls a hook before one access to a disk.
#[derive(Default)]
struct Hooked(Mutex<Option<(Access, Hook)>>);

impl Hooked {
    /// Calls `hook` before the next such access, once.
    fn before(&self, access: Access, hook: impl FnOnce() + Send + 'static) {
        *self.0.lock().unwrap() = Some((access, Box::new(hook)));
    }

    fn call(&self, access: Access) {
        let hook = self.0.lock().unwrap().take_if(|hook| hook.0 == access);
        if let Some((_, hook)) = hook {
            hook();
        }
    }
}

fn start_hooked(settings: AdapterSettings) -> (Bench, Arc<Hooked>) {
    let disk = Disk::new(device());
    let hooked = Arc::<Hooked>::default();
    let (reads, writes) = (hooked.clone(), hooked.clone());
    let function = Arc::new(Intercepted {
        function: disk.device.clone(),
        before_read: Box::new(move |bar, offset| {
            if (bar, offset) == (BAR, DEVICE_STATUS) {
                reads.call(Access::ReadStatus);
            }
        }),
        before_write: Box::new(move |bar, offset, data| {
            match (bar, offset, data) {
                (BAR, DEVICE_STATUS, [status]) => writes.call(Access::WriteStatus(*status)),
                (BAR, NOTIFY, _) => writes.call(Access::Notify),
                _ => {}
            }
            true
        }),
    });
    let started = disk.try_start_as(function, settings);
    (started.expect("the driver starts"), hooked)
}

/// Starts a reset of the unit on another thread. The receiver gets its SRB status.
fn reset_unit(adapter: &Arc<Adapter>) -> mpsc::Receiver<u8> {
    let (send, receive) = mpsc::channel();
    let adapter = adapter.clone();
    thread::spawn(move || {
        send.send(adapter.control(ControlRequest::ResetUnit(Address::default())))
    });
    receive
}

fn a_reset_request_beside_a_look_at_a_working_device_resets_it() {
    let (bench, hooked) = start_hooked(patient());
    let before = bench.device.resets();
    let (send, receive) = mpsc::channel();
    let adapter = bench.adapter.clone();
    // The DPC for configuration changes reads the status.
    hooked.before(Access::ReadStatus, move || {
        let done = reset_unit(&adapter);
        thread::sleep(WHILE);
        send.send(done).unwrap();
    });
    bench.device.resize(4 << 20).unwrap();

    let done = receive.recv_timeout(SOON).expect("the status is read");

    assert_eq!(done.recv_timeout(SOON), Ok(SUCCESS));
    assert_eq!(bench.device.resets(), before + 1);
    bench.read(1);
    bench.finish_without_storport();
}

/// V13.
fn a_reset_waits_for_a_notification_that_is_being_sent() {
    let (bench, hooked) = start_hooked(patient());
    let live = |device: &VirtioBlk| {
        let writes = device.status_writes();
        writes
            .iter()
            .filter(|status| *status & DRIVER_OK != 0)
            .count()
    };
    let before = live(&bench.device);
    let (send, receive) = mpsc::channel();
    let device = bench.device.clone();
    hooked.before(Access::Notify, move || {
        device.set_needs_reset();
        thread::sleep(WHILE);
        send.send(live(&device)).unwrap();
    });
    let buffer = sector();
    let done = bench.issue(read(1, &buffer));

    let during = receive.recv_timeout(SOON).expect("the device is notified");

    assert_eq!(
        during, before,
        "the device is started before it is notified"
    );
    let done = done.recv_timeout(SOON).expect("the read ends");
    assert!([SUCCESS, BUS_RESET].contains(&done.srb_status), "{done:?}");
    bench.read(2);
    bench.finish_without_storport();
}

/// V15.
fn a_request_for_the_identity_that_the_device_still_has_is_not_overwritten() {
    let disk = Disk::new(device());
    // The device answers nothing, and does not confirm the reset that follows.
    disk.device.serve_manually();
    disk.device.slow_reset(2, u32::MAX);
    let bench = disk.start(AdapterSettings {
        failing_export: Some(FailingExport::Pause),
        ..patient()
    });
    let buffer = sector();
    let done = bench.issue(read(1, &buffer));
    thread::sleep(WHILE);

    bench.device.serve_now();

    let served = bench.device.take_served();
    let operations: Vec<_> = served.iter().map(|served| served.operation).collect();
    assert_eq!(operations, [Operation::Other(GET_ID)]);
    bench.device.finish_reset();
    drop(done);
}

fn a_stop_beside_a_start_of_the_device_gives_it_time_to_end() {
    let (bench, hooked) = start_hooked(patient());
    let adapter = bench.adapter.clone();
    let (send, receive) = mpsc::channel();
    hooked.before(Access::WriteStatus(READY), move || {
        thread::spawn(move || send.send(adapter.stop().is_ok()));
        thread::sleep(WHILE);
    });
    bench.device.set_needs_reset();

    assert_eq!(receive.recv_timeout(SOON), Ok(true));

    let callbacks = bench.adapter.report().callbacks;
    let stop = callbacks.iter().find(|row| row.name == "HwAdapterControl");
    let stop = stop.expect("a stop");
    assert!(stop.max_stalled > Duration::ZERO, "{stop:?}");
    assert!(stop.max_stalled <= MOST_STALL, "{stop:?}");
    let writes = bench.device.status_writes();
    assert_eq!(writes.last(), Some(&0), "{writes:02x?}");
}

fn a_device_is_not_started_after_a_stop() {
    let (bench, hooked) = start_hooked(patient());
    let adapter = bench.adapter.clone();
    let (send, receive) = mpsc::channel();
    // The recovery reads the status, and finds the reset confirmed.
    let again = hooked.clone();
    hooked.before(Access::WriteStatus(0), move || {
        again.before(Access::ReadStatus, move || {
            thread::spawn(move || send.send(adapter.stop().is_ok()));
            thread::sleep(WHILE);
        });
    });
    bench.device.set_needs_reset();

    assert_eq!(receive.recv_timeout(SOON), Ok(true));

    thread::sleep(WHILE);
    let writes = bench.device.status_writes();
    let started = writes.iter().filter(|status| **status == READY).count();
    assert_eq!(started, 2, "{writes:02x?}");
}
