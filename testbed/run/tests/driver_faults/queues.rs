//! Disks with several queues: faults in one of them.

use testbed_devices::{BlkSettings, Faults, Glitch};
use testbed_machine::pci::PciFunction as _;

use super::bench::*;

scenarios! {
    a_fault_in_the_second_queue_loses_no_request_of_either
    a_glitch_in_the_second_queue_while_idle_resets_the_device
    a_glitch_in_the_start_of_the_second_queue_does_not_stop_service
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

/// What is wrong with the second queue from now on, until the device is reset.
#[derive(Clone, Copy, Debug)]
enum Wrong {
    Glitch(Glitch),
    UsedId(u32),
    NoStatus,
}

impl Wrong {
    fn begin(self, bench: &Bench) {
        let mut faults = Faults {
            queue: Some(1),
            until_reset: true,
            ..Faults::default()
        };
        match self {
            Self::Glitch(glitch) => return bench.device.glitch_after(1, glitch, 0),
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
                wrong.begin(&bench);
            })
            .expect("all requests end");

            // The load checks the data of each request, and sends it again after a reset.
            assert_eq!(ends.get(&SUCCESS), Some(&2000), "{ends:?}");
            let again = ends.get(&BUS_RESET).copied().unwrap_or(0);
            assert!(ends.len() <= 2 && again as usize <= 2 * DEPTH, "{ends:?}");
            assert_eq!(bench.device.resets(), resets + 1);
            let events = bench.driver_events();
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
