//! The requests whose cost is counted, and the order of their stages.

use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::disk::{
    cdb::{Command, Medium, Operation},
    discovery::Facts,
};
use testbed_devices::VirtioBlk;
use testbed_machine::{
    Machine,
    memory::{Block, MemoryError, Placement},
    trap,
};
use testbed_storport::{
    adapter::Adapter,
    request::{Address, Completion, Data, Program, Request},
};

/// The longest request, in bytes, and the most at a time.
const LONGEST: u32 = 64 << 10;
pub(super) const DEEPEST: u32 = 256;

/// The time-out of a batch.
const PATIENCE: Duration = Duration::from_secs(120);

/// A kind of request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    pub(super) name: &'static str,
    /// 0 for a flush.
    bytes: u32,
    operation: Operation,
    medium: Medium,
}

const fn kind(name: &'static str, bytes: u32, operation: Operation, medium: Medium) -> Kind {
    Kind {
        name,
        bytes,
        operation,
        medium,
    }
}

pub(super) const KINDS: [Kind; 6] = {
    use Medium::{Cached, ForceUnitAccess};
    use Operation::{Read, Write};
    [
        kind("READ 4 KiB", 4 << 10, Read, Cached),
        kind("WRITE 4 KiB", 4 << 10, Write, Cached),
        kind("READ 64 KiB in 16 segments", LONGEST, Read, Cached),
        kind("WRITE 64 KiB in 16 segments", LONGEST, Write, Cached),
        kind("WRITE 4 KiB with FUA", 4 << 10, Write, ForceUnitAccess),
        kind("SYNCHRONIZE CACHE", 0, Write, Cached),
    ]
};

/// Sends batches of requests.
pub(super) struct Workload {
    machine: Arc<Machine>,
    adapter: Arc<Adapter>,
    device: Option<Arc<VirtioBlk>>,
    address: Address,
    block_bytes: u32,
    blocks: u64,
    forced: bool,
    /// [`LONGEST`] bytes for each of [`DEEPEST`] requests. No two pages are adjacent in physical
    /// memory.
    buffers: Arc<Block>,
}

impl Workload {
    pub(super) fn new(
        machine: &Arc<Machine>,
        adapter: &Arc<Adapter>,
        device: Option<Arc<VirtioBlk>>,
        facts: &Facts,
    ) -> Result<Self, MemoryError> {
        let bytes = (DEEPEST * LONGEST) as usize;
        let buffers = machine.memory().allocate(bytes, Placement::Scattered)?;
        Ok(Self {
            machine: Arc::clone(machine),
            adapter: Arc::clone(adapter),
            device,
            address: facts.address,
            block_bytes: facts.block_bytes,
            blocks: facts.blocks,
            forced: facts.force_unit_access,
            buffers: Arc::new(buffers),
        })
    }

    /// Why requests of this kind cannot be sent.
    pub(super) fn refusal(&self, kind: Kind) -> Option<String> {
        let limits = self.adapter.limits();
        let most = limits.max_transfer_bytes;
        let segments = kind.bytes.div_ceil(4096);
        if kind.medium == Medium::ForceUnitAccess && !self.forced {
            Some("the disk does not support forced unit access (DPOFUA is 0)".to_owned())
        } else if kind.bytes > most {
            Some(format!("the driver transfers at most {most} bytes"))
        } else if segments > limits.max_physical_breaks {
            Some(format!(
                "the driver takes at most {} segments",
                limits.max_physical_breaks
            ))
        } else if u64::from(kind.bytes) > self.blocks * u64::from(self.block_bytes) {
            Some("the request is longer than the disk".to_owned())
        } else {
            None
        }
    }

    /// Sends `count` requests from CPU `cpu`, then lets the device serve them until all are
    /// completed. Returns the failure of the first failed request.
    pub(super) fn run(&self, kind: Kind, count: u32, cpu: u32) -> Option<String> {
        let requests: Vec<_> = (0..count)
            .map(|number| self.request(kind, number))
            .collect();
        let batch = Batch {
            requests,
            left: count as usize,
            failed: None,
            pump: Pump {
                machine: Arc::clone(&self.machine),
                device: self.device.clone(),
                done: Arc::default(),
                until: Instant::now() + PATIENCE,
                kind,
                cpu,
            },
        };
        let batch = self.adapter.run_on(cpu, Box::new(batch));
        // If CPUs share a queue, the DPC that completed the last request may be running on another
        // one.
        while !trap::running_callbacks().is_empty() {
            thread::yield_now();
        }
        let batch = batch.into_any().downcast::<Batch>().ok()?;
        batch.failed
    }

    fn request(&self, kind: Kind, number: u32) -> Request {
        let command = if kind.bytes == 0 {
            Command::synchronize_cache()
        } else {
            let blocks = kind.bytes / self.block_bytes;
            let places = (self.blocks / u64::from(blocks)).max(1);
            let lba = u64::from(number) % places * u64::from(blocks);
            Command::transfer(kind.operation, lba, blocks, kind.medium)
        };
        let data = (kind.bytes > 0).then(|| Data {
            block: Arc::clone(&self.buffers),
            offset: (number * LONGEST) as usize,
            bytes: kind.bytes,
            direction: kind.operation.direction(),
        });
        Request {
            timeout: PATIENCE,
            ..command.request(number.into(), self.address, data)
        }
    }
}

/// A batch of requests.
struct Batch {
    requests: Vec<Request>,
    left: usize,
    failed: Option<String>,
    pump: Pump,
}

impl Program for Batch {
    fn start(&mut self, issue: &mut dyn FnMut(Request)) {
        self.requests.drain(..).for_each(issue);
        self.pump.post();
    }

    fn completed(&mut self, completion: Completion, _: &mut dyn FnMut(Request)) {
        self.left -= 1;
        let (srb, scsi) = (completion.srb_status, completion.scsi_status);
        if (srb, scsi) != (1, 0) {
            self.failed.get_or_insert_with(|| {
                format!("a request failed with SRB status {srb:#04x}, SCSI status {scsi:#04x}")
            });
        }
        if self.left == 0 {
            self.pump.done.store(true, Ordering::Release);
        }
    }

    fn finished(&self) -> bool {
        self.left == 0
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// Lets the device serve requests repeatedly, between the other work of the CPU.
#[derive(Clone)]
struct Pump {
    machine: Arc<Machine>,
    device: Option<Arc<VirtioBlk>>,
    done: Arc<AtomicBool>,
    until: Instant,
    kind: Kind,
    cpu: u32,
}

impl Pump {
    fn post(&self) {
        let this = self.clone();
        self.machine.cpus()[self.cpu as usize].post(Box::new(move || this.turn()));
    }

    fn turn(&self) {
        if self.done.load(Ordering::Acquire) {
            return;
        }
        if Instant::now() > self.until {
            trap::stop_machine(format_args!(
                "{} was not completed within {} s",
                self.kind.name,
                PATIENCE.as_secs()
            ));
        }
        if let Some(device) = &self.device {
            device.serve_now();
        }
        self.post();
    }
}
