//! What Storport itself costs a request: a miniport that completes at once.
#![expect(unsafe_code, reason = "asks the host for CPU time")]

use std::time::Instant;

use super::bench::*;
use testbed_machine::memory::Placement;

struct Null;

impl Miniport for Null {
    fn find_adapter(&self, _: Extension, info: Structure) -> u32 {
        info.set(self::info::InitialLunQueueDepth, 250);
        config::SP_RETURN_FOUND
    }
}

/// Reads of 4 KiB, so many at a time.
struct Reads {
    data: Vec<Data>,
    left: u64,
}

impl Program for Reads {
    fn start(&mut self, issue: &mut dyn FnMut(Request)) {
        for (token, data) in self.data.iter().enumerate() {
            self.left -= 1;
            issue(Request {
                token: token as u64,
                ..transfer(data.clone())
            });
        }
    }

    fn completed(&mut self, completion: Completion, issue: &mut dyn FnMut(Request)) {
        if let Some(left) = self.left.checked_sub(1) {
            self.left = left;
            issue(Request {
                token: completion.token,
                ..transfer(self.data[completion.token as usize].clone())
            });
        }
    }

    fn finished(&self) -> bool {
        self.left == 0
    }

    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any> {
        self
    }
}

/// CPU time of the process in nanoseconds.
fn cpu_time() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: fills the structure.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Prints nanoseconds a request; run it alone and with optimisation:
/// `cargo test --release -p ferrostor-testbed null_io -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn null_io() {
    const REQUESTS: u64 = 1_000_000;
    for cpus in [1, 2] {
        let bench = start(Null);
        let programs = (0..cpus)
            .map(|_| {
                let data = (0..32)
                    .map(|_| Data {
                        block: buffer(4096, Placement::Scattered),
                        offset: 0,
                        bytes: 4096,
                        direction: Direction::In,
                    })
                    .collect();
                Box::new(Reads {
                    data,
                    left: REQUESTS,
                }) as Box<dyn Program>
            })
            .collect();
        let (start, used) = (Instant::now(), cpu_time());

        let _ = bench.adapter.run(programs);

        let time = start.elapsed().as_nanos() as u64;
        let used = (cpu_time() - used) / (REQUESTS * cpus);
        let report = bench.adapter.report();
        println!(
            "{cpus} CPU(s): {used} ns of CPU time a request, {} I/O per s",
            REQUESTS * cpus * 1_000_000_000 / time,
        );
        for row in &report.callbacks {
            println!("  {:?}", row);
        }
        for row in &report.locks {
            println!("  {:?}", row);
        }
        assert_eq!(report.completed.get(&SUCCESS), Some(&(REQUESTS * cpus)));
        assert!(report.violations.is_empty());
    }
}
