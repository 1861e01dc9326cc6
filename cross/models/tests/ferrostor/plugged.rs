//! An adapter with its disk, and the events that do not happen while it is being found or
//! stopped.

use std::{
    sync::{
        Arc, OnceLock, RwLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use ferrostor_models::port::{
    Adapter, Done, Driver, Found, Interrupts, Machine, Random, Request, Shape,
};

use crate::{
    disk::{BLOCKS, Disk, Fault},
    driver::Ferrostor,
};

/// How many threads make random callbacks.
const PROCESSORS: usize = 2;
/// How many callbacks happen between two events of the life cycle.
const CALLBACKS: usize = 12;

/// A request. The number is that of a block.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Read(u8),
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
            Self::Read(block) => (0x28, block, 0),
            Self::Write(block) => (0x2A, block, 0),
            Self::DurableWrite(block) => (0x2A, block, 8),
            Self::Flush => (0x35, 0, 0),
            Self::Reset => (0, 0, 0),
        };
        let piece = vec![block + 1; 256];
        let (flags, data) = match self {
            Self::Read(_) => (wdk_sys::SRB_FLAGS_DATA_IN, vec![vec![0; 256]; 2]),
            Self::Write(_) | Self::DurableWrite(_) => (wdk_sys::SRB_FLAGS_DATA_OUT, vec![piece; 2]),
            Self::Flush | Self::Reset => (0, Vec::new()),
        };
        let (function, cdb) = match self {
            Self::Reset => (wdk_sys::SRB_FUNCTION_RESET_DEVICE, Vec::new()),
            _ => (
                wdk_sys::SRB_FUNCTION_EXECUTE_SCSI,
                vec![
                    opcode,
                    fua,
                    0,
                    0,
                    0,
                    block,
                    0,
                    0,
                    (!data.is_empty()).into(),
                    0,
                ],
            ),
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
pub struct Plugged {
    pub adapter: Adapter,
    pub disk: Arc<Disk>,
    interrupts: Interrupts,
    /// Locked for reading while a request is sent, and for writing while none may be sent.
    sends: RwLock<()>,
    /// Locked for reading during an interrupt, and for writing while the interrupt is not
    /// connected.
    connected: RwLock<()>,
    callbacks: AtomicUsize,
    over: AtomicBool,
}

/// Tries again until `tried` returns true, a limited number of times.
fn until(what: &str, tried: impl Fn() -> bool) {
    assert!(tries(tried), "never happened: {what}");
}

fn tries(tried: impl Fn() -> bool) -> bool {
    (0..200).any(|_| {
        let done = tried();
        thread::yield_now();
        done
    })
}

impl Plugged {
    pub fn new(interrupts: Interrupts, channels: u32, event_idx: bool) -> Self {
        let machine = Machine {
            interrupts,
            channels,
            dump: false,
        };
        let disk = Arc::new(Disk::new(interrupts != Interrupts::Line, event_idx));
        let driver = Driver::load::<Ferrostor>();
        Self {
            adapter: Adapter::with_device(&driver, machine, Arc::clone(&disk) as _),
            disk,
            interrupts,
            sends: RwLock::new(()),
            connected: RwLock::new(()),
            callbacks: AtomicUsize::new(0),
            over: AtomicBool::new(false),
        }
    }

    pub fn send(&self, processor: usize, kind: Kind) -> Arc<OnceLock<Done>> {
        let _sends = self.sends.read().expect("no panic");
        let shape = [Shape::Scsi, Shape::Storage][processor % 2];
        self.adapter.send(processor, &kind.request(shape))
    }

    /// Interrupts if the disk has asked for it.
    fn interrupt(&self, message: u32) {
        let _connected = self.connected.read().expect("no panic");
        match self.interrupts {
            Interrupts::Line if self.disk.is_asserted() => _ = self.adapter.interrupt(),
            Interrupts::Messages(_) if self.disk.take_message(message) => {
                self.adapter.message(message);
            }
            _ => {}
        }
    }

    /// Interrupts although the disk has not asked for it.
    fn interrupt_spuriously(&self, message: u32) {
        let _connected = self.connected.read().expect("no panic");
        match self.interrupts {
            Interrupts::Line => self.adapter.interrupt(),
            Interrupts::Messages(_) => self.adapter.message(message),
        };
    }

    /// Makes a random callback, but none of the life cycle, or a step of the disk.
    fn callback(&self, processor: usize, random: &mut Random) {
        match random.below(24) {
            0..8 => _ = self.send(processor, Kind::any(random)),
            8..11 => self.disk.serve_notified(),
            11 | 12 => self.interrupt(0),
            13 => self.interrupt(1),
            14 => self.interrupt_spuriously(random.below(2) as u32),
            15..18 => _ = self.adapter.run_dpcs(),
            18 | 19 => {
                self.adapter.pass([1, 100, 5000][random.below(3)]);
                self.adapter.run_timer();
            }
            20 => _ = self.adapter.reset_bus(),
            21 => self.disk.delay_resets([0, 0, 2, 15][random.below(4)]),
            _ => self.disk.break_protocol(
                [
                    Fault::NeedsReset,
                    Fault::IndexAhead,
                    Fault::NoStatus,
                    Fault::Error,
                ][random.below(4)],
            ),
        }
        self.callbacks.fetch_add(1, Ordering::Relaxed);
    }

    /// Makes callbacks on other processors while `run` runs.
    pub fn beside(&self, run: impl FnOnce()) {
        thread::scope(|scope| {
            for processor in 0..PROCESSORS {
                let mut random = Random::new();
                scope.spawn(move || {
                    while !self.over.load(Ordering::Relaxed) {
                        self.callback(processor, &mut random);
                    }
                });
            }
            run();
            self.over.store(true, Ordering::Relaxed);
        });
    }

    /// Waits for some callbacks.
    pub fn wait(&self) {
        let until = self.callbacks.load(Ordering::Relaxed) + CALLBACKS;
        while self.callbacks.load(Ordering::Relaxed) < until {
            thread::yield_now();
        }
    }

    /// Calls HwFindAdapter until it is alone. The disk keeps to the protocol meanwhile.
    pub fn find(&self) {
        let _sends = self.sends.write().expect("no panic");
        let _connected = self.connected.write().expect("no panic");
        self.disk.allow_faults(false);
        until("HwFindAdapter is alone", || {
            self.adapter.find() == Found::Yes
        });
    }

    /// Does only what the disk and the driver ask for, until `settled` returns true.
    fn go_on_until(&self, settled: impl Fn(&Adapter) -> bool) {
        let done = tries(|| {
            if settled(&self.adapter) {
                return true;
            }
            self.disk.serve_notified();
            self.interrupt(0);
            self.interrupt(1);
            self.adapter.run_dpcs();
            // All tries together take longer than the driver waits between its
            // attempts to start the disk.
            self.adapter.pass(100);
            self.adapter.run_timer();
            false
        });
        let requests = self.adapter.outstanding();
        let paused = self.adapter.is_paused();
        assert!(done, "{requests} requests outstanding, paused: {paused}");
    }

    /// Waits until all requests are completed and no pause lasts.
    pub fn settle(&self) {
        self.go_on_until(|adapter| adapter.outstanding() == 0 && !adapter.is_paused());
    }

    /// Waits until no request is outstanding, and calls ScsiStopAdapter and `then`. No request is
    /// sent meanwhile.
    pub fn stop(&self, then: impl FnOnce()) {
        let _sends = self.sends.write().expect("no panic");
        self.go_on_until(|adapter| adapter.outstanding() == 0);
        assert!(self.adapter.stop());
        then();
    }

    pub fn restart(&self) {
        until("a restart is alone", || self.adapter.restart());
    }

    /// Runs everything that was requested before the stop and has not run.
    pub fn drain(&self) {
        while self.adapter.run_dpcs() != 0 || self.adapter.run_timer() {}
    }
}
