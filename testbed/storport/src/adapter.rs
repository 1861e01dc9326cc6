//! An adapter: a miniport's instance from DriverEntry to ScsiStopAdapter.

use std::{
    any::Any,
    io,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{
    abi::Routine,
    control_request::{ControlRequest, PowerState},
    cpu_queue::Home,
    life_cycle,
    port::{Port, Uncached},
    report::Report,
    request::{Address, Completion, Program, Request},
    restart,
};
use testbed_loader::Image;
use testbed_machine::{Machine, memory::MemoryError, pci::PciFunction, trap};

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
/// side with the latter (storport-rules.md X1).
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

/// What happens to the time-outs of requests that the miniport has while the
/// adapter is paused by StorPortPause: that is not documented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PausedTimeOuts {
    /// They run on.
    Run,
    /// They stand still.
    Stop,
}

/// What follows a time-out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Escalation {
    /// HwResetBus at once: what a miniport gets that can't reset less.
    Bus,
    /// SRB_FUNCTION_RESET_LOGICAL_UNIT, then SRB_FUNCTION_RESET_DEVICE, then
    /// HwResetBus ("Multi-Tier Reset in Storport"). That the next one comes if
    /// the one before does not succeed within the time-out, or leaves the
    /// request out, is assumed.
    Tiers,
}

/// Which CPU runs HwStartIo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartIoCpu {
    /// The one that ran HwBuildIo.
    Same,
    /// The next one.
    Next,
}

/// A function of StorPortExtendedFunction that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailingFunction {
    /// STORPORT_FUNCTION_CODE.
    pub code: u32,
    /// How many calls succeed before.
    pub after: u32,
    /// The status that the calls after those return.
    pub status: u32,
}

/// A function that storport.sys exports and that fails whenever it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailingExport {
    /// StorPortGetBusData gives no more than the header: 64 bytes.
    GetBusData,
    /// StorPortGetDeviceBase returns NULL.
    GetDeviceBase,
    /// StorPortGetUncachedExtension returns NULL.
    GetUncachedExtension,
    /// StorPortGetScatterGatherList returns NULL.
    GetScatterGatherList,
    /// StorPortPause returns FALSE.
    Pause,
    /// StorPortResume returns FALSE.
    Resume,
    /// RequestTimerCall is accepted, and HwTimer never called.
    RequestTimerCall,
}

/// A field of an SRB that a test sets for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SrbChange {
    /// SRB_FLAGS_DATA_IN and SRB_FLAGS_DATA_OUT of SrbFlags.
    Direction {
        /// SRB_FLAGS_DATA_IN.
        data_in: bool,
        /// SRB_FLAGS_DATA_OUT.
        data_out: bool,
    },
    /// SrbLength of a STORAGE_REQUEST_BLOCK, as are those that follow.
    SrbLength(u32),
    /// AddressOffset.
    AddressOffset(u32),
    /// NumSrbExData.
    NumSrbExData(u32),
    /// SrbExDataOffset\[0\].
    SrbExDataOffset(u32),
    /// AddressLength of the STOR_ADDR_BTL8.
    AddressLength(u32),
    /// Length of the SRBEX_DATA_SCSI_CDB16.
    ExDataLength(u32),
}

/// How closely a miniport is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checks {
    /// What costs next to nothing.
    Cheap,
    /// All that there is, as `--verify` asks for.
    All,
}

/// When interrupt routines run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterruptTime {
    /// At once, beside what the CPU does.
    AtOnce,
    /// On the CPU's own thread, when it has finished what it does: the order of
    /// callbacks is the same in every run.
    BetweenWork,
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
    /// How far behind a page's begin HwDeviceExtension lies. No more than an
    /// alignment of 8 bytes is documented.
    pub extension_offset: usize,
    /// A function that fails.
    pub failing_function: Option<FailingFunction>,
    /// An export that fails.
    pub failing_export: Option<FailingExport>,
    /// Time-outs in a pause.
    pub paused_time_outs: PausedTimeOuts,
    /// What follows a time-out.
    pub escalation: Escalation,
    /// The CPU of HwStartIo.
    pub start_io_cpu: StartIoCpu,
    /// Messages of the device that no vector was granted for.
    pub stray_messages: StrayMessages,
    /// Whether the miniport's optional callbacks run beside HwInitialize and
    /// ScsiRestartAdapter, on another thread.
    pub optional_callbacks: OptionalCallbacks,
    /// When interrupt routines run.
    pub interrupt_time: InterruptTime,
}

/// What happens to a message whose id is beyond the device's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StrayMessages {
    /// It is counted and dropped, as in Windows.
    Dropped,
    /// HwMSInterruptRoutine gets it: a test of a miniport that trusts no id.
    Delivered,
}

/// When the callbacks come that a miniport can go without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionalCallbacks {
    /// When [`Adapter::call_optional`] makes them.
    OnDemand,
    /// Beside HwInitialize and ScsiRestartAdapter too, again and again.
    BesideStart,
}

/// A callback that a miniport can go without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionalCallback {
    /// HwTracingEnabled at PASSIVE_LEVEL, with its Enabled.
    Tracing(bool),
    /// HwAdapterControl(ScsiAdapterSurpriseRemoval) at PASSIVE_LEVEL.
    SurpriseRemoval,
    /// HwAdapterControl(ScsiAdapterPower) at DISPATCH_LEVEL.
    AdapterPower(PowerState),
    /// HwUnitControl(ScsiUnitPower) at DISPATCH_LEVEL.
    UnitPower(Address, PowerState),
    /// HwUnitControl(ScsiUnitStart) at PASSIVE_LEVEL.
    UnitStart(Address),
    /// HwUnitControl(ScsiUnitSurpriseRemoval) at PASSIVE_LEVEL.
    UnitSurpriseRemoval(Address),
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
            extension_offset: 0,
            failing_function: None,
            failing_export: None,
            paused_time_outs: PausedTimeOuts::Run,
            escalation: Escalation::Bus,
            start_io_cpu: StartIoCpu::Same,
            stray_messages: StrayMessages::Dropped,
            optional_callbacks: OptionalCallbacks::OnDemand,
            interrupt_time: InterruptTime::AtOnce,
        }
    }
}

/// An adapter did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A callback failed, or broke a rule. `why` says what was expected.
    #[error("{callback}: {why}")]
    Refused {
        /// The callback, such as `HwFindAdapter`.
        callback: &'static str,
        /// What went wrong.
        why: String,
    },
    /// The machine has too little memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The host did not start a thread.
    #[error("the host cannot start the adapter's threads: {0}")]
    Host(#[from] io::Error),
}

/// A failed start, with the report.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct FailedStart {
    /// The error.
    #[source]
    pub error: StartError,
    /// Logged events and broken rules.
    pub report: Box<Report>,
}

/// An adapter did not stop.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// It is stopped already.
    #[error("the adapter is stopped already")]
    Again,
    /// HwAdapterControl did not return ScsiAdapterControlSuccess.
    #[error("HwAdapterControl(ScsiStopAdapter) returned {0}, not ScsiAdapterControlSuccess (0)")]
    Refused(u32),
}

/// A power cycle of an adapter failed. The adapter cannot be used any more.
#[derive(Debug, thiserror::Error)]
pub enum RestartError {
    /// It is stopped already.
    #[error("the adapter is stopped already")]
    Stopped,
    /// Programs still run.
    #[error("{0} requests are in flight: power the adapter down after its programs have finished")]
    Outstanding(u32),
    /// The miniport uses ScsiAdapterPower instead of stop and restart.
    #[error("the miniport supports ScsiAdapterPower, which the testbed cannot send")]
    AdapterPower,
    /// The data in the cache can be lost.
    #[error(
        "SRB_FUNCTION_FLUSH was completed with SRB status {0:#04x}, but the adapter caches data"
    )]
    Cache(u8),
    /// HwAdapterControl did not return ScsiAdapterControlSuccess.
    #[error("HwAdapterControl({0}) returned {1}, not ScsiAdapterControlSuccess (0)")]
    Refused(&'static str, u32),
    /// HwFindAdapter or HwInitialize failed.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// The memory that a miniport asked Storport for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extensions {
    /// Addresses of the uncached extension.
    pub uncached: Range<usize>,
    /// Bytes of the device extension.
    pub device_bytes: u32,
    /// Bytes of an SRB extension.
    pub srb_bytes: u64,
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
        Self::start_port(port, Routine::entry(image))
    }

    /// Starts the driver whose DriverEntry is at `entry`.
    pub(super) fn start_port(
        port: &'static Port,
        entry: Routine,
    ) -> Result<Arc<Self>, FailedStart> {
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

    /// [`Self::execute`] with changes to the SRB. No other request must be
    /// issued meanwhile.
    #[must_use]
    pub fn execute_changed(&self, request: Request, changes: Vec<SrbChange>) -> Completion {
        self.port.injections.change_next(changes);
        self.execute(request)
    }

    /// Calls HwBuildIo and not HwStartIo for the next `count` requests whose
    /// HwBuildIo returns TRUE. They stay with Storport until a bus reset, or until
    /// [`Self::complete_held`].
    pub fn hold_built(&self, count: u32) {
        self.port.injections.hold(count);
    }

    /// Completes the requests that are held, and does not tell the miniport.
    pub fn complete_held(&self) {
        self.port.complete_held();
    }

    /// How many requests were built and are held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.port.injections.held()
    }

    /// Resets the bus as a time-out does, and waits for the end of HwResetBus.
    /// The calling thread must be no virtual CPU.
    pub fn reset_bus(&self) {
        life_cycle::on_cpu(self.port, 0, |port| {
            port.reset_bus(0, "by a test".to_owned());
        });
    }

    /// Calls an optional callback on the calling thread: its status, or nothing
    /// if the miniport does not have it.
    pub fn call_optional(&self, callback: OptionalCallback) -> Option<u32> {
        self.port.call_optional(callback)
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
                port.cpu_queue(cpu.number()).begin(place, program, home);
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

    /// What the miniport asked for in memory.
    #[must_use]
    pub fn extensions(&self) -> Extensions {
        let configuration = self.port.configuration();
        let uncached = self.port.uncached.get();
        let first = uncached.map_or(0, |uncached| uncached.memory.address());
        Extensions {
            uncached: first..first + uncached.map_or(0, |uncached| uncached.bytes as usize),
            device_bytes: self.port.registration().extension_bytes,
            srb_bytes: configuration.srb_extension_bytes as u64,
        }
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
    /// of zeros (storport-rules.md X16). Its SRB status, or nothing if the request
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
        Self::remove_unstarted_port(port, Routine::entry(image))
    }

    /// Removes the adapter of the driver whose DriverEntry is at `entry`.
    pub(super) fn remove_unstarted_port(
        port: &'static Port,
        entry: Routine,
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
