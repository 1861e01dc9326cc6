//! An adapter of the driver with its disk, and the random events of a test.

use std::sync::{Arc, OnceLock};

use ferrostor_models::port::{
    Adapter, Done, Driver, Interrupts, Machine, Plugged, Random, Request, Shape, tries,
};

use crate::{
    disk::{BLOCKS, Disk, Fault, Properties},
    driver::Ferrostor,
};

/// How many callbacks happen between two events of the life cycle.
const CALLBACKS: usize = 12;

/// A request. The number is that of a block.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Read(u8),
    /// A read into a buffer of many pieces.
    ScatteredRead(u8),
    Write(u8),
    DurableWrite(u8),
    Flush,
    Reset,
}

impl Kind {
    fn any(random: &mut Random) -> Self {
        let block = random.below(BLOCKS) as u8;
        match random.below(12) {
            0 => Self::Reset,
            1 => Self::Flush,
            2..=4 => Self::DurableWrite(block),
            5..=7 => Self::Write(block),
            _ => Self::Read(block),
        }
    }

    fn request(self, shape: Shape) -> Request {
        let (opcode, block, fua) = match self {
            Self::Read(block) | Self::ScatteredRead(block) => (0x28, block, 0),
            Self::Write(block) => (0x2A, block, 0),
            Self::DurableWrite(block) => (0x2A, block, 8),
            Self::Flush => (0x35, 0, 0),
            Self::Reset => (0, 0, 0),
        };
        let piece = vec![block + 1; 256];
        let (flags, data) = match self {
            Self::Read(_) => (wdk_sys::SRB_FLAGS_DATA_IN, vec![vec![0; 256]; 2]),
            Self::ScatteredRead(_) => {
                let lengths = [8; 35].into_iter().chain([232]);
                let pieces = lengths.map(|length| vec![0; length]).collect();
                (wdk_sys::SRB_FLAGS_DATA_IN, pieces)
            }
            Self::Write(_) | Self::DurableWrite(_) => (wdk_sys::SRB_FLAGS_DATA_OUT, vec![piece; 2]),
            Self::Flush | Self::Reset => (0, Vec::new()),
        };
        let (function, cdb) = match self {
            Self::Reset => (wdk_sys::SRB_FUNCTION_RESET_DEVICE, Vec::new()),
            _ => {
                let blocks = u8::from(!data.is_empty());
                let cdb = [opcode, fua, 0, 0, 0, block, 0, 0, blocks, 0];
                (wdk_sys::SRB_FUNCTION_EXECUTE_SCSI, cdb.to_vec())
            }
        };
        Request {
            shape,
            function,
            address: [0; 3],
            cdb,
            flags,
            data,
            buffer: None,
            wrong_fields: Vec::new(),
        }
    }
}

/// An adapter and its disk.
pub struct Bench {
    pub plugged: Plugged,
    pub disk: Arc<Disk>,
    queues: u16,
}

impl Bench {
    /// An adapter with a message for each queue and one more, or with an interrupt line.
    pub fn new(messages: bool, channels: u32, properties: Properties) -> Self {
        let interrupts = if messages {
            Interrupts::Messages(u32::from(properties.queues) + 1)
        } else {
            Interrupts::Line
        };
        let machine = Machine::new(interrupts, channels);
        let disk = Arc::new(Disk::new(messages, properties));
        let driver = Driver::load::<Ferrostor>();
        let adapter = Adapter::with_device(&driver, machine, Arc::clone(&disk) as _);
        Self {
            plugged: Plugged::new(adapter),
            disk,
            queues: properties.queues,
        }
    }

    pub fn adapter(&self) -> &Adapter {
        &self.plugged.adapter
    }

    pub fn send(&self, processor: usize, kind: Kind) -> Arc<OnceLock<Done>> {
        let shape = [Shape::Scsi, Shape::Storage][processor % 2];
        self.plugged.send(processor, &kind.request(shape))
    }

    /// Interrupts if the disk has asked for it.
    fn interrupt(&self, message: u32) {
        self.plugged
            .interrupt(message, || self.disk.take_interrupt(message));
    }

    /// Makes a random callback, but none of the life cycle, or a step of the disk.
    pub fn callback(&self, processor: usize, random: &mut Random) {
        let adapter = self.adapter();
        let queue = random.below(self.queues.into()) as u16;
        match random.below(24) {
            0..8 => _ = self.send(processor, Kind::any(random)),
            8..11 => self.disk.serve_notified(),
            11 | 12 => self.interrupt(queue.into()),
            13 => self.interrupt(self.queues.into()),
            // The disk has not asked for it.
            14 => {
                let messages = usize::from(self.queues) + 1;
                self.plugged
                    .interrupt(random.below(messages) as u32, || true);
            }
            15..18 => _ = adapter.run_dpcs(),
            18 | 19 => {
                adapter.pass([1, 100, 5000][random.below(3)]);
                adapter.run_timer();
            }
            20 => _ = adapter.reset_bus(),
            21 => self.disk.delay_resets([0, 0, 2, 15][random.below(4)]),
            _ => self.disk.break_protocol(
                [
                    Fault::NeedsReset,
                    Fault::UsedAhead,
                    Fault::NoStatus,
                    Fault::Error,
                ][random.below(4)],
                queue,
            ),
        }
    }

    /// Waits for some callbacks.
    pub fn wait(&self) {
        self.plugged.wait(CALLBACKS);
    }

    /// Calls HwFindAdapter until it is exclusive. The disk keeps to the protocol meanwhile.
    pub fn find(&self) {
        self.plugged.find(|| self.disk.allow_faults(false));
    }

    /// Does only what the disk and the driver ask for, until `settled` returns true.
    fn go_on_until(&self, settled: impl Fn(&Adapter) -> bool) {
        let adapter = self.adapter();
        let done = tries(|| {
            if settled(adapter) {
                return true;
            }
            self.disk.serve_notified();
            for message in 0..=self.queues {
                self.interrupt(message.into());
            }
            adapter.run_dpcs();
            // All tries together take longer than the driver waits between its
            // attempts to start the disk.
            adapter.pass(100);
            adapter.run_timer();
            false
        });
        let requests = adapter.outstanding();
        let paused = adapter.is_paused();
        assert!(done, "{requests} requests outstanding, paused: {paused}");
    }

    /// Waits until all requests are completed and no pause lasts.
    pub fn settle(&self) {
        self.go_on_until(|adapter| adapter.outstanding() == 0 && !adapter.is_paused());
    }

    /// Waits until no request is outstanding, and calls ScsiStopAdapter and `then`.
    pub fn stop(&self, then: impl FnOnce()) {
        let settle = || self.go_on_until(|adapter| adapter.outstanding() == 0);
        self.plugged.stop(settle, then);
    }
}
