//! Measures the time of a request in the virtio-blk function, with data from the page cache:
//! `cargo run --release -p testbed-devices --example device_speed`.

#[path = "../tests/virtio_blk/driver.rs"]
#[expect(
    dead_code,
    reason = "the driver is that of the tests, and not all of it is needed here"
)]
mod driver;

use std::time::Instant;

use driver::{Driver, IN, OUT, Setup};
use testbed_devices::BlkSettings;
use testbed_machine::pci::PciFunction;

/// The number of requests for each mean.
const REQUESTS: u32 = 200_000;

fn main() {
    println!("type  bytes   depth  µs per request  µs of device CPU  notifications per request");
    for (kind, name) in [(IN, "read"), (OUT, "write")] {
        for bytes in [512, 4096, 65536] {
            for depth in [1, 4, 32] {
                let (time, cpu, notifications) = measure(kind, bytes, depth);
                println!(
                    "{name:5} {bytes:6} {depth:6} {time:15.2} {cpu:17.2} {notifications:25.3}"
                );
            }
        }
    }
}

/// Runs requests of `bytes` bytes, `depth` at a time, for a polling driver. Returns per
/// request: the time in microseconds, the CPU time of the queue's thread, and the
/// notifications.
fn measure(kind: u32, bytes: usize, depth: u32) -> (f64, f64, f64) {
    let mut driver = Driver::powered_up(8192, BlkSettings::default());
    driver.initialise(Setup {
        queue_size: 256,
        ..Setup::default()
    });
    let heads: Vec<u16> = (0..depth)
        .map(|request| {
            let sector = u64::from(request) * 128;
            let (pieces, _, _) = driver.request(kind, sector, &vec![0; bytes]);
            driver.indirect(0, &pieces)
        })
        .collect();

    let cpu_before = device_cpu();
    let start = Instant::now();
    for _ in 0..REQUESTS / depth {
        heads.iter().for_each(|head| driver.publish(0, *head));
        driver.notify_if_wanted(0);
        heads.iter().for_each(|_| {
            driver.wait_used(0);
        });
    }
    let time = start.elapsed();
    let cpu = device_cpu() - cpu_before;

    driver.nothing_wrong();
    let requests = f64::from(REQUESTS / depth * depth);
    let notifications = driver.disk.counters().notifications as f64;
    (
        time.as_secs_f64() * 1e6 / requests,
        cpu / requests,
        notifications / requests,
    )
}

/// The CPU time of the queue's thread in microseconds, as the scheduler counts it.
fn device_cpu() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").expect("the process's threads");
    let nanoseconds: f64 = tasks
        .map(|task| task.expect("a thread").path())
        .filter(|task| {
            let name = std::fs::read_to_string(task.join("comm")).unwrap_or_default();
            name.trim() == "disk0-queue0"
        })
        .filter_map(|task| {
            let account = std::fs::read_to_string(task.join("schedstat")).ok()?;
            account.split(' ').next()?.parse::<f64>().ok()
        })
        .sum();
    nanoseconds / 1000.0
}
