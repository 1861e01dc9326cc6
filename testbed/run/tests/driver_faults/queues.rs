//! Disks with several queues: faults in one of them, resets while all have requests, and full
//! ones.

use std::{
    env,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use testbed_devices::{BlkSettings, Faults, Glitch};
use testbed_machine::{
    pci::PciFunction as _,
    schedule::{self, Handle},
    trap,
};
use testbed_storport::{
    adapter::{AdapterSettings, Checks},
    control_request::ControlRequest,
    request::{Address, Completion},
};

use super::bench::*;

scenarios! {
    a_fault_in_the_second_queue_loses_no_request_of_either
    a_glitch_in_the_second_queue_while_idle_resets_the_device
    a_glitch_in_the_start_of_the_second_queue_does_not_stop_service
    resets_under_load_on_four_split_queues_lose_nothing
    resets_under_load_on_four_packed_queues_lose_nothing
    a_request_goes_to_another_queue_if_its_own_is_full
    requests_wait_in_storport_while_all_queues_are_full
}

/// Two queues, with each kind of ring. Each CPU has a queue of its own.
const DISKS: [&str; 4] = [
    "num-queues=2",
    "num-queues=2,indirect_desc=off,event_idx=off",
    "num-queues=2,packed=on",
    "num-queues=2,packed=on,indirect_desc=off,event_idx=off",
];

/// Requests in flight on each CPU.
const DEPTH: usize = 16;

fn disk(properties: &str) -> Disk {
    eprintln!("{properties}");
    let settings: BlkSettings = properties.parse().unwrap();
    Disk::new(settings)
}

/// What is wrong with a queue from now on, until the device is reset.
#[derive(Clone, Copy, Debug)]
enum Wrong {
    Glitch(Glitch),
    UsedId(u32),
    NoStatus,
}

impl Wrong {
    fn begin(self, bench: &Bench, queue: u16) {
        let mut faults = Faults {
            queue: Some(queue),
            until_reset: true,
            ..Faults::default()
        };
        match self {
            Self::Glitch(glitch) => return bench.device.glitch_after(queue, glitch, 0),
            Self::UsedId(id) => faults.used_id = Some(id),
            Self::NoStatus => faults.no_status = true,
        }
        bench.device.set_faults(faults);
    }
}

fn a_fault_in_the_second_queue_loses_no_request_of_either() {
    for properties in DISKS {
        let bench = disk(properties).start(patient());
        for (number, wrong) in (1_usize..).zip([
            Wrong::Glitch(Glitch::AtNextUsed),
            Wrong::Glitch(Glitch::Twice),
            Wrong::UsedId(u32::MAX),
            Wrong::UsedId(900),
            Wrong::UsedId(77),
            Wrong::NoStatus,
        ]) {
            eprintln!("{wrong:?}");
            let resets = bench.device.resets();
            let served = bench.device.queue_requests();

            let ends = load(&bench, 1000, DEPTH, 2 * SOON, || {
                let before: u64 = served.iter().sum();
                bench.wait(SOON, "a load", |bench| {
                    bench.device.counters().requests > before + 500
                });
                wrong.begin(&bench, 1);
            })
            .expect("all requests end");

            // The load checks the data of each request, and sends it again after a reset.
            assert_eq!(ends.get(&SUCCESS), Some(&2000), "{ends:?}");
            let again = ends.get(&BUS_RESET).copied().unwrap_or(0);
            assert!(ends.len() <= 2 && again as usize <= 2 * DEPTH, "{ends:?}");
            assert_eq!(bench.device.resets(), resets + 1);
            let mut events = bench.driver_events();
            // If request 77 has been served when another request is returned as 77, its length is
            // wrong, which is not a violation.
            events.retain(|event| !event.contains(" reports that it wrote "));
            assert_eq!(events.len(), 2 * number, "{events:?}");
            assert!(
                events[events.len() - 2].contains(" in queue 1: "),
                "{events:?}"
            );
            for (before, now) in served.iter().zip(bench.device.queue_requests()) {
                assert!(now >= before + 1000, "{served:?} {now}");
            }
        }
        bench.finish_without_storport();
    }
}

fn a_glitch_in_the_second_queue_while_idle_resets_the_device() {
    for properties in DISKS {
        let bench = disk(properties).start(patient());
        bench.serve(100, 1, SOON, || {});
        let before = bench.device.resets();

        bench.device.glitch_after(1, Glitch::Interrupt, 0);

        bench.wait_for_reset(before);
        bench.serve(100, 1, SOON, || {});
        assert_eq!(bench.device.resets(), before + 1);
        bench.finish_without_storport();
    }
}

fn a_glitch_in_the_start_of_the_second_queue_does_not_stop_service() {
    for glitch in [Glitch::AtQueueEnable, Glitch::AtDriverOk] {
        for properties in DISKS {
            let disk = disk(properties);
            // The start that asks for the disk's identity has only the first queue.
            disk.device.glitch_after(1, glitch, 0);
            let bench = disk.start(patient());
            bench.serve(100, DEPTH, SOON, || {});

            bench.device.glitch_after(1, glitch, 0);
            bench.adapter.restart().unwrap();
            bench.serve(100, DEPTH, SOON, || {});

            bench.device.glitch_after(1, glitch, 0);
            bench.adapter.reset_bus();
            bench.serve(100, DEPTH, SOON, || {});
            bench.finish();
        }
    }
}

/// The number of resets: 20, or what this variable says.
const RESETS: &str = "FERROSTOR_RESETS";
/// The resets between two power cycles. The driver gives up a device that has too many faults
/// between them.
const ROUNDS: u32 = 20;
/// Requests on each CPU between two power cycles, and between two resets.
const REQUESTS: u32 = 4000;
const BETWEEN: u64 = 500;

fn resets_under_load_on_four_split_queues_lose_nothing() {
    resets_under_load("num-queues=4");
}

fn resets_under_load_on_four_packed_queues_lose_nothing() {
    resets_under_load("num-queues=4,packed=on");
}

/// With the checks and the order of threads of `--verify`. A request must not be completed before
/// the device has stopped, and in a slow reset the device goes on working. [`Load`] notices if the
/// device then accesses the memory of a completed request. If the driver does, that is a
/// violation.
fn resets_under_load(properties: &str) {
    let resets = env::var(RESETS).map_or(ROUNDS, |resets| resets.parse().unwrap());
    schedule::begin(1);
    machine_of(4);
    let bench = disk(properties).start(AdapterSettings {
        checks: Checks::All,
        ..patient()
    });
    let bench = Arc::new(bench);
    assert_eq!(bench.device.live_queues(), 4);
    for _ in 0..resets / ROUNDS {
        let loads = loads(REQUESTS, DEPTH);
        let before = bench.device.resets();
        let resets = reset_often(bench.clone());

        let ends = ends(bench.adapter.run(loads));

        resets.join().expect("each reset has its effect");
        assert_eq!(ends.get(&SUCCESS), Some(&(4 * REQUESTS)), "{ends:?}");
        assert!(ends.len() == 2 && ends.contains_key(&BUS_RESET), "{ends:?}");
        assert!(bench.device.resets() >= before + u64::from(ROUNDS));
        bench.adapter.restart().unwrap();
    }
    bench.check();
    assert_eq!(trap::driver_errors(), [""; 0]);
    bench.adapter.stop().unwrap();
}

/// Resets the device [`ROUNDS`] times, in each way and by a fault of each queue, always with
/// requests in flight.
fn reset_often(bench: Arc<Bench>) -> Handle {
    let resets = move || {
        for round in 0..ROUNDS {
            let served = bench.device.counters().requests;
            until(|| bench.device.counters().requests >= served + BETWEEN);
            let before = bench.device.resets();
            assert!(bench.adapter.outstanding() > 0, "round {round}");
            match round % 5 {
                0 => bench.adapter.reset_bus(),
                1 => {
                    let reset = ControlRequest::ResetUnit(Address::default());
                    assert_eq!(bench.adapter.control(reset), SUCCESS);
                }
                2 => {
                    bench.device.slow_reset(0, 5);
                    bench.adapter.reset_bus();
                }
                3 => bench.device.set_needs_reset(),
                _ => {
                    let queue = (round / 5) as u16;
                    let faults = [
                        Wrong::Glitch(Glitch::AtNextUsed),
                        Wrong::Glitch(Glitch::Twice),
                        Wrong::UsedId(900),
                        Wrong::NoStatus,
                    ];
                    bench.device.slow_reset(0, 5);
                    faults[usize::from(queue)].begin(&bench, queue);
                }
            }
            until(|| bench.device.resets() > before);
        }
    };
    schedule::spawn("resets", resets).unwrap()
}

fn until(done: impl Fn() -> bool) {
    while !done() {
        schedule::sleep(Duration::from_millis(1));
    }
}

/// Starts a disk of two small queues, which serves requests only in [`serve_all`]. Also returns
/// how many requests Storport sends at a time.
fn start_full(properties: &str, settings: AdapterSettings) -> (Bench, u32) {
    let small = format!("{properties},queue-size=8");
    let bench = disk(&small).start(settings);
    let requests = bench.adapter.queue_depth(Address::default());
    assert!(requests >= 4, "{requests}");
    bench.device.serve_manually();
    (bench, requests)
}

/// Lets the disk serve requests until they have ended.
fn serve_all(bench: &Bench, requests: Vec<mpsc::Receiver<Completion>>) {
    for request in requests {
        let begin = Instant::now();
        let done = loop {
            bench.device.serve_now();
            match request.recv_timeout(Duration::from_millis(1)) {
                Ok(done) => break done,
                Err(_) => assert!(begin.elapsed() < SOON, "a request does not end"),
            }
        };
        assert_eq!((done.srb_status, done.transferred), (SUCCESS, SECTOR));
    }
}

fn a_request_goes_to_another_queue_if_its_own_is_full() {
    for properties in DISKS {
        let (bench, most) = start_full(properties, patient());
        let before = bench.device.queue_requests();

        // As many as both queues have room for. All are sent by CPU 0, whose queue is the first.
        let sent = (0..most).map(|_| bench.issue(read(1, &sector())));
        let sent = sent.collect();
        bench.wait(SOON, "all requests are in flight", |bench| {
            bench.adapter.outstanding() == most
        });

        serve_all(&bench, sent);
        let after = bench.device.queue_requests();
        let each = u64::from(most / 2);
        assert_eq!([after[0] - before[0], after[1] - before[1]], [each; 2]);
        assert_eq!(bench.adapter.report().retried, 0);
        bench.finish_without_storport();
    }
}

/// With one message the driver uses one queue, but Storport knows the depth of both.
fn requests_wait_in_storport_while_all_queues_are_full() {
    for properties in DISKS {
        let settings = AdapterSettings {
            message_limit: 1,
            ..patient()
        };
        let (bench, most) = start_full(properties, settings);
        assert_eq!(bench.device.live_queues(), 1);
        let begin = Instant::now();

        let sent = (0..most).map(|_| bench.issue(read(1, &sector())));
        let sent = sent.collect();
        bench.wait(SOON, "requests come back as BUSY", |bench| {
            bench.adapter.report().retried > u64::from(most)
        });

        serve_all(&bench, sent);
        let report = bench.check();
        let count = |name: &str| {
            let row = report.callbacks.iter().find(|row| row.name == name);
            row.map_or(0, |row| row.count)
        };
        // The driver did not wait for room, and was called again only by Storport, which waits
        // for a millisecond each time. BUSY needs no DPC.
        let retries = report.retried;
        assert_eq!(count("HwStartIo"), u64::from(most) + retries);
        assert!(report.dpcs <= u64::from(most), "{report:?}");
        let half = u128::from(most / 2);
        assert!(u128::from(retries) <= half * (begin.elapsed().as_millis() + 1));
        bench.finish_without_storport();
    }
}
