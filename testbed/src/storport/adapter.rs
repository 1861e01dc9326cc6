//! An adapter: a miniport's instance from DriverEntry to ScsiStopAdapter.

use std::{
    any::Any,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{
    control_request::ControlRequest,
    lanes::Home,
    life_cycle,
    port::{Port, Uncached},
    report::Report,
    request::{Address, Completion, Program, Request},
    restart,
};
use crate::{image::Image, machine::Machine, memory::MemoryError, pci::PciFunction, trap};

/// The shape of SRBs, where the miniport takes both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SrbShape {
    /// SCSI_REQUEST_BLOCK.
    Scsi,
    /// STORAGE_REQUEST_BLOCK, as Windows chooses since Windows 8.
    Storage,
}

/// Whether STOR_PERF_CONCURRENT_CHANNELS is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConcurrentChannels {
    /// Offered, and granted to who asks.
    Granted,
    /// Not offered; asking is an error.
    Refused,
}

/// How HwAdapterControl is called for ScsiStopAdapter and ScsiRestartAdapter:
/// its page and that of StorPortAcquireSpinLock disagree, and drivers in use
/// side with the latter (rule book 8 row 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlCalls {
    /// At DIRQL, nothing held and nothing takeable: a miniport that is right
    /// here is right whichever page holds.
    Strict,
    /// At DIRQL with the interrupt lock: HwAdapterControl's page.
    UnderInterruptLock,
    /// At PASSIVE_LEVEL, nothing held, all takeable: what drivers in use need,
    /// that free memory there.
    Passive,
}

/// How a miniport takes its adapter into use again after a sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// ScsiRestartAdapter, if the miniport supports it.
    Restart,
    /// HwFindAdapter and HwInitialize, as if it did not.
    FindAdapter,
}

/// How closely a miniport is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checks {
    /// What costs next to nothing.
    Cheap,
    /// All that there is, as `--verify` asks for.
    All,
}

/// How Storport behaves where Windows leaves it open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterSettings {
    /// How closely the miniport is watched.
    pub checks: Checks,
    /// The shape of SRBs.
    pub srb: SrbShape,
    /// Concurrent channels.
    pub concurrent_channels: ConcurrentChannels,
    /// The most requests that a unit has at a time, below what the miniport
    /// allows.
    pub unit_depth: Option<u32>,
    /// How often time-outs are looked for: 1 s in Windows.
    pub tick: Duration,
    /// A time-out instead of the requests' own.
    pub timeout: Option<Duration>,
    /// How long one callback may take before the machine is stopped.
    pub callback_limit: Duration,
    /// Pause before a request that came back BUSY is started again.
    pub busy_pause: Duration,
    /// ScsiStopAdapter and ScsiRestartAdapter.
    pub control_calls: ControlCalls,
    /// What follows a sleep.
    pub resume: Resume,
    /// HwFindAdapter's ArgumentString: the registry value `DriverParameter`.
    pub argument: String,
}

impl Default for AdapterSettings {
    fn default() -> Self {
        Self {
            checks: Checks::Cheap,
            srb: SrbShape::Storage,
            concurrent_channels: ConcurrentChannels::Granted,
            unit_depth: None,
            tick: Duration::from_secs(1),
            timeout: None,
            callback_limit: Duration::from_secs(10),
            busy_pause: Duration::from_millis(1),
            control_calls: ControlCalls::Strict,
            resume: Resume::Restart,
            argument: String::new(),
        }
    }
}

/// Why an adapter did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A callback said no, or did not do what it must; `why` says what and
    /// what is expected.
    #[error("{callback}: {why}")]
    Refused {
        /// `HwFindAdapter`.
        callback: &'static str,
        /// What went wrong.
        why: String,
    },
    /// The machine's memory does not suffice.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The host refused something.
    #[error("the host refuses what an adapter needs: {0}")]
    Host(#[from] io::Error),
}

/// A start that failed, and the report up to it.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct FailedStart {
    /// Why.
    #[source]
    pub error: StartError,
    /// Events logged, rules broken.
    pub report: Box<Report>,
}

/// Why an adapter did not stop in order.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// It was stopped before.
    #[error("the adapter was stopped before")]
    Again,
    /// HwAdapterControl answered ScsiStopAdapter with something else than
    /// ScsiAdapterControlSuccess.
    #[error("HwAdapterControl(ScsiStopAdapter) returned {0}, not ScsiAdapterControlSuccess (0)")]
    Refused(u32),
}

/// Why an adapter did not come back from its sleep. It can't be used any more.
#[derive(Debug, thiserror::Error)]
pub enum RestartError {
    /// It was stopped before.
    #[error("the adapter was stopped before")]
    Stopped,
    /// Programs still run.
    #[error("{0} requests are outstanding: an adapter sleeps when its programs have finished")]
    Outstanding(u32),
    /// The miniport wants ScsiAdapterPower in place of all this.
    #[error("the miniport supports ScsiAdapterPower, which the testbed can't send")]
    AdapterPower,
    /// The cache's data are not safe.
    #[error(
        "SRB_FUNCTION_FLUSH was completed with SRB status {0:#04x}, and the adapter caches data"
    )]
    Cache(u8),
    /// HwAdapterControl said no.
    #[error("HwAdapterControl({0}) returned {1}, not ScsiAdapterControlSuccess (0)")]
    Refused(&'static str, u32),
    /// HwFindAdapter or HwInitialize did.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// A started adapter.
#[derive(Debug)]
pub struct Adapter {
    pub(super) port: &'static Port,
    stopped: AtomicBool,
}

impl Adapter {
    /// Starts `image` as the miniport of `function`: from DriverEntry until it
    /// is ready for requests. Its PASSIVE_LEVEL callbacks run on the calling
    /// thread, which must be no virtual CPU.
    ///
    /// # Errors
    /// [`FailedStart`]. The function is stopped then.
    pub fn start(
        machine: &Arc<Machine>,
        image: &Arc<Image>,
        function: &Arc<dyn PciFunction>,
        settings: AdapterSettings,
    ) -> Result<Arc<Self>, FailedStart> {
        trap::watch(image);
        let image_of_port = Some(Arc::clone(image));
        let port = Port::new(machine, image.name(), image_of_port, function, settings);
        port.check_imports(image.imports());
        Self::start_port(port, image.entry())
    }

    /// Starts the driver whose DriverEntry is at `entry`.
    pub(super) fn start_port(port: &'static Port, entry: usize) -> Result<Arc<Self>, FailedStart> {
        life_cycle::start(port, entry).map_err(|error| FailedStart {
            error,
            report: Box::new(port.report()),
        })?;
        Ok(Arc::new(Self {
            port,
            stopped: AtomicBool::new(false),
        }))
    }

    /// Issues one request on CPU 0 and waits for it; for discovery. The
    /// calling thread must be no virtual CPU. A request beyond the adapter's
    /// limits (see [`Self::max_transfer_bytes`]) ends the machine.
    #[must_use]
    pub fn execute(&self, request: Request) -> Completion {
        let once: Box<dyn Program> = Box::new(Once {
            request: Some(request),
            completion: None,
        });
        let done = self.run(vec![once]).pop();
        let completion = done
            .and_then(|program| program.into_any().downcast::<Once>().ok())
            .and_then(|once| once.completion);
        completion.unwrap_or_else(|| {
            trap::stop_machine(format_args!("a request came back without its completion"))
        })
    }

    /// Runs the programs, number i on CPU i modulo the number of CPUs, and
    /// gives them back when all have finished, in the same order. The calling
    /// thread must be no virtual CPU. A request beyond the adapter's limits
    /// ends the machine.
    #[must_use]
    pub fn run(&self, programs: Vec<Box<dyn Program>>) -> Vec<Box<dyn Program>> {
        let count = programs.len();
        let home: Arc<Home> = Arc::default();
        self.begin(programs, &home);
        let mut done: Vec<_> = (0..count)
            .map(|_| home.receive("the end of its requests"))
            .collect();
        done.sort_by_key(|(place, _)| *place);
        done.into_iter().map(|(_, program)| program).collect()
    }

    fn begin(&self, programs: Vec<Box<dyn Program>>, home: &Arc<Home>) {
        let cpus = self.port.machine.cpus();
        for (place, program) in programs.into_iter().enumerate() {
            let cpu = &cpus[place % cpus.len()];
            let (home, port) = (Arc::clone(home), self.port);
            cpu.post(Box::new(move || {
                port.lane(cpu.number()).begin(place, program, home);
            }));
        }
    }

    /// The most bytes that one request may transfer.
    #[must_use]
    pub fn max_transfer_bytes(&self) -> u32 {
        self.port.configuration().max_transfer_bytes
    }

    /// The most elements in a scatter/gather list.
    #[must_use]
    pub fn max_physical_breaks(&self) -> u32 {
        self.port.max_elements()
    }

    /// AlignmentMask: the bits that must be zero in a data buffer's address.
    #[must_use]
    pub fn alignment_mask(&self) -> u32 {
        self.port.configuration().alignment_mask
    }

    /// Buses, targets a bus and units a target to look for.
    #[must_use]
    pub fn topology(&self) -> (u8, u8, u8) {
        let configuration = self.port.configuration();
        (
            configuration.buses,
            configuration.targets,
            configuration.units,
        )
    }

    /// How many requests the unit at `address` may have at a time.
    #[must_use]
    pub fn queue_depth(&self, address: Address) -> u32 {
        match self.port.units.get(address) {
            Some(unit) => unit.gate.limit(),
            None => self.port.depth(self.port.configuration().initial_depth),
        }
    }

    /// Sends a request that is no command on CPU 0, past everything that waits,
    /// and waits for it: its SRB status. The calling thread must be no virtual
    /// CPU.
    #[must_use]
    pub fn control(&self, request: ControlRequest) -> u8 {
        life_cycle::send_control(self.port, request)
    }

    /// Lets the adapter sleep and wake up: caches flushed, ScsiStopAdapter, its
    /// function without power, ScsiRestartAdapter or what takes its place (see
    /// [`Resume`]). All programs must have finished; the calling thread must be
    /// no virtual CPU.
    ///
    /// # Errors
    /// [`RestartError`]. Only [`Self::stop`] is of use then.
    pub fn restart(&self) -> Result<(), RestartError> {
        if self.stopped.load(Ordering::SeqCst) {
            return Err(RestartError::Stopped);
        }
        restart::restart(self.port)
    }

    /// Starts the programs as [`Self::run`] does, and does not wait for them.
    pub fn leave_running(&self, programs: Vec<Box<dyn Program>>) {
        self.begin(programs, &Arc::default());
    }

    /// How many requests the miniport has.
    #[must_use]
    pub fn outstanding(&self) -> u32 {
        self.port.gate.outstanding()
    }

    /// A copy of the uncached extension: empty if there is none.
    #[must_use]
    pub fn uncached_extension(&self) -> Vec<u8> {
        self.port
            .uncached
            .get()
            .map_or_else(Vec::new, Uncached::contents)
    }

    /// The system crashes: interrupts are off, no CPU does anything any more,
    /// and the function is left as it is, with all that it was asked to do.
    /// CPUs come to their end between two callbacks, so that they hold no
    /// lock. Nothing else can be done with the machine's adapters; a
    /// [`DumpStack`](super::dump::DumpStack) can be started.
    pub fn crash(&self) {
        life_cycle::crash(self.port);
    }

    /// The removal of an adapter that never started: the one request that its
    /// miniport gets is SRB_FUNCTION_PNP, in HwStartIo, with a device extension
    /// of zeros (rule book 8 row 16). Its SRB status, or nothing if the request
    /// was not completed.
    ///
    /// # Errors
    /// [`StartError`] of DriverEntry, or for want of memory.
    pub fn remove_unstarted(
        machine: &Arc<Machine>,
        image: &Arc<Image>,
        function: &Arc<dyn PciFunction>,
        settings: AdapterSettings,
    ) -> Result<(Option<u8>, Report), StartError> {
        trap::watch(image);
        let image_of_port = Some(Arc::clone(image));
        let port = Port::new(machine, image.name(), image_of_port, function, settings);
        Self::remove_unstarted_port(port, image.entry())
    }

    /// Removes the adapter of the driver whose DriverEntry is at `entry`.
    pub(super) fn remove_unstarted_port(
        port: &'static Port,
        entry: usize,
    ) -> Result<(Option<u8>, Report), StartError> {
        let status = life_cycle::remove_unstarted(port, entry)?;
        Ok((status, port.report()))
    }

    /// Says that the system is switched off: caches flushed, the units told of
    /// the shutdown. [`Self::stop`] follows.
    pub fn shut_down(&self) {
        life_cycle::shut_down(self.port);
    }

    /// Stops the adapter: no more requests, HwAdapterControl(ScsiStopAdapter),
    /// interrupts disconnected, the function stopped. All programs must have
    /// finished.
    ///
    /// # Errors
    /// [`StopError`]; the function is stopped all the same.
    pub fn stop(&self) -> Result<(), StopError> {
        if self.stopped.swap(true, Ordering::SeqCst) {
            return Err(StopError::Again);
        }
        life_cycle::stop(self.port)
    }

    /// What was counted so far.
    #[must_use]
    pub fn report(&self) -> Report {
        self.port.report()
    }
}

/// One request.
#[derive(Default)]
pub(super) struct Once {
    request: Option<Request>,
    pub(super) completion: Option<Completion>,
}

impl Program for Once {
    fn start(&mut self, issue: &mut dyn FnMut(Request)) {
        if let Some(request) = self.request.take() {
            issue(request);
        }
    }

    fn completed(&mut self, completion: Completion, _: &mut dyn FnMut(Request)) {
        self.completion = Some(completion);
    }

    fn finished(&self) -> bool {
        self.completion.is_some()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
