//! An adapter: an instance of a miniport, from DriverEntry to ScsiStopAdapter.

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
    control_request::ControlRequest,
    cpu_queue::ProgramMailbox,
    life_cycle,
    port::{Port, Uncached},
    report::Report,
    request::{Address, Completion, Program, Request},
    restart,
};
use testbed_loader::Image;
use testbed_machine::{Machine, memory::MemoryError, pci::PciFunction, trap};

/// The shape of SRBs, if the miniport supports both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SrbShape {
    /// SCSI_REQUEST_BLOCK.
    Scsi,
    /// STORAGE_REQUEST_BLOCK, which Windows uses since Windows 8.
    Storage,
}

/// Whether STOR_PERF_CONCURRENT_CHANNELS is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConcurrentChannels {
    /// Offered, and granted if the miniport asks.
    Granted,
    /// Not offered. Asking for it is an error.
    Refused,
}

/// How HwAdapterControl is called for ScsiStopAdapter and ScsiRestartAdapter. Its page and the
/// page of StorPortAcquireSpinLock disagree, and existing drivers follow the latter
/// (storport-rules.md X1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlCalls {
    /// At DIRQL without a lock, and no lock may be taken. A miniport that is correct here is
    /// correct whichever page is right.
    Strict,
    /// At DIRQL with the interrupt lock, as HwAdapterControl's page says.
    UnderInterruptLock,
    /// At PASSIVE_LEVEL without a lock, and every lock may be taken. Existing drivers that free
    /// memory there need this.
    Passive,
}

/// How a miniport restarts its adapter after a sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// ScsiRestartAdapter, if the miniport supports it.
    Restart,
    /// HwFindAdapter and HwInitialize, as if ScsiRestartAdapter were not supported.
    FindAdapter,
}

/// What a pause by StorPortPause does to the time-outs of requests that the miniport has. This is
/// not documented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PausedTimeOuts {
    /// Time-outs continue.
    Run,
    /// Time-outs are suspended.
    Stop,
}

/// The reset after a time-out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Escalation {
    /// HwResetBus at once, for a miniport that supports no smaller reset.
    Bus,
    /// SRB_FUNCTION_RESET_LOGICAL_UNIT, then SRB_FUNCTION_RESET_DEVICE, then HwResetBus
    /// ("Multi-Tier Reset in Storport"). It is an assumption that the next step follows if a
    /// reset fails, takes longer than the time-out, or leaves the request with the miniport.
    Tiers,
}

/// The CPU that runs HwStartIo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartIoCpu {
    /// The CPU that ran HwBuildIo.
    Same,
    /// The next CPU.
    Next,
}

/// A failing function of StorPortExtendedFunction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailingFunction {
    /// STORPORT_FUNCTION_CODE.
    pub code: u32,
    /// The number of calls that succeed before.
    pub after: u32,
    /// The status of the calls after those.
    pub status: u32,
}

/// A function of storport.sys that always fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailingExport {
    /// StorPortGetBusData returns only the header, 64 bytes.
    GetBusData,
    /// StorPortGetDeviceBase returns NULL.
    GetDeviceBase,
    /// StorPortGetUncachedExtension returns NULL.
    GetUncachedExtension,
    /// StorPortGetScatterGatherList returns NULL.
    GetScatterGatherList,
    /// StorPortPause returns FALSE.
    Pause,
    /// RequestTimerCall is accepted, but HwTimer is never called.
    RequestTimerCall,
}

/// A field of an SRB that a test overwrites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SrbChange {
    /// SRB_FLAGS_DATA_IN and SRB_FLAGS_DATA_OUT of SrbFlags.
    Direction {
        /// SRB_FLAGS_DATA_IN.
        data_in: bool,
        /// SRB_FLAGS_DATA_OUT.
        data_out: bool,
    },
    /// SrbLength of a STORAGE_REQUEST_BLOCK. The following changes need that shape too.
    SrbLength(u32),
    /// AddressOffset.
    AddressOffset(u32),
    /// NumSrbExData.
    NumSrbExData(u32),
    /// SrbExDataOffset\[0\].
    SrbExDataOffset(u32),
}

/// How much of a miniport's behaviour is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checks {
    /// Only checks that cost almost nothing.
    Cheap,
    /// All checks, as with `--verify`.
    All,
}

/// When interrupt routines run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterruptTime {
    /// At once, in parallel to the CPU's work.
    AtOnce,
    /// On the CPU's thread between its other work, so that the order of callbacks is the same in
    /// every run.
    BetweenWork,
}

/// The choices where Windows leaves the behaviour of Storport open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterSettings {
    /// How much is checked.
    pub checks: Checks,
    /// The shape of SRBs.
    pub srb: SrbShape,
    /// Concurrent channels.
    pub concurrent_channels: ConcurrentChannels,
    /// The interval at which time-outs are checked: 1 s in Windows.
    pub tick: Duration,
    /// Replaces the time-outs of requests.
    pub timeout: Option<Duration>,
    /// The longest duration of a callback. A longer one stops the machine.
    pub callback_limit: Duration,
    /// How the adapter is stopped and restarted.
    pub control_calls: ControlCalls,
    /// How the adapter resumes after a sleep.
    pub resume: Resume,
    /// HwFindAdapter's ArgumentString: the registry value `DriverParameter`.
    pub argument: String,
    /// The offset of HwDeviceExtension in its page. Only an alignment of 8 bytes is documented.
    pub extension_offset: usize,
    /// A failing extended function.
    pub failing_function: Option<FailingFunction>,
    /// A failing export.
    pub failing_export: Option<FailingExport>,
    /// Time-outs during a pause.
    pub paused_time_outs: PausedTimeOuts,
    /// The reset after a time-out.
    pub escalation: Escalation,
    /// The CPU of HwStartIo.
    pub start_io_cpu: StartIoCpu,
    /// The maximum number of messages that are granted: MessageNumberLimit of the INF file.
    pub message_limit: u16,
    /// What happens to stray messages.
    pub stray_messages: StrayMessages,
    /// When optional callbacks are called.
    pub optional_callbacks: OptionalCallbacks,
    /// When interrupt routines run.
    pub interrupt_time: InterruptTime,
}

/// What happens to a message for which no vector was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StrayMessages {
    /// It is counted and dropped, as in Windows.
    Dropped,
    /// HwMSInterruptRoutine is called with its id, to test that the miniport checks the id.
    Delivered,
}

/// When optional callbacks are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionalCallbacks {
    /// Only by [`Adapter::call_optional`].
    OnDemand,
    /// Also repeatedly during HwInitialize and ScsiRestartAdapter, on another thread.
    BesideStart,
}

/// An optional callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionalCallback {
    /// HwTracingEnabled at PASSIVE_LEVEL, with this value of Enabled.
    Tracing(bool),
    /// HwAdapterControl(ScsiAdapterSurpriseRemoval) at PASSIVE_LEVEL.
    SurpriseRemoval,
    /// HwUnitControl(ScsiUnitStart) at PASSIVE_LEVEL.
    UnitStart(Address),
}

impl Default for AdapterSettings {
    fn default() -> Self {
        Self {
            checks: Checks::Cheap,
            srb: SrbShape::Storage,
            concurrent_channels: ConcurrentChannels::Granted,
            tick: Duration::from_secs(1),
            timeout: None,
            callback_limit: Duration::from_secs(10),
            control_calls: ControlCalls::Strict,
            resume: Resume::Restart,
            argument: String::new(),
            extension_offset: 0,
            failing_function: None,
            failing_export: None,
            paused_time_outs: PausedTimeOuts::Run,
            escalation: Escalation::Bus,
            start_io_cpu: StartIoCpu::Same,
            message_limit: u16::MAX,
            stray_messages: StrayMessages::Dropped,
            optional_callbacks: OptionalCallbacks::OnDemand,
            interrupt_time: InterruptTime::AtOnce,
        }
    }
}

/// The adapter did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A callback failed or broke a rule.
    #[error("{callback}: {why}")]
    Refused {
        /// The callback, such as `HwFindAdapter`.
        callback: &'static str,
        /// What the callback did.
        why: String,
    },
    /// The machine's memory is exhausted.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The host did not start a thread.
    #[error("the host cannot start the adapter's threads: {0}")]
    Host(#[from] io::Error),
}

/// The error of a failed start, and the report.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct FailedStart {
    /// The error.
    #[source]
    pub error: StartError,
    /// The report until then.
    pub report: Box<Report>,
}

/// The adapter did not stop.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// It was stopped before.
    #[error("the adapter is stopped already")]
    Again,
    /// HwAdapterControl did not return ScsiAdapterControlSuccess.
    #[error("HwAdapterControl(ScsiStopAdapter) returned {0}, not ScsiAdapterControlSuccess (0)")]
    Refused(u32),
}

/// A sleep failed. The adapter cannot be used any more.
#[derive(Debug, thiserror::Error)]
pub enum RestartError {
    /// It was stopped before.
    #[error("the adapter is stopped already")]
    Stopped,
    /// Programs are running.
    #[error("{0} requests are in flight: power the adapter down after its programs have finished")]
    Outstanding(u32),
    /// The miniport supports ScsiAdapterPower instead of stop and restart.
    #[error("the miniport supports ScsiAdapterPower, which the testbed cannot send")]
    AdapterPower,
    /// SRB_FUNCTION_FLUSH failed, so cached data could be lost.
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

/// The limits of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdapterLimits {
    /// The largest transfer, in bytes.
    pub max_transfer_bytes: u32,
    /// The most elements of a scatter/gather list.
    pub max_physical_breaks: u32,
    /// AlignmentMask: the bits that must be zero in a data buffer's address.
    pub alignment_mask: u32,
}

/// The memory that a miniport requested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extensions {
    /// Addresses of the uncached extension.
    pub uncached: Range<usize>,
    /// Addresses of the device extension.
    pub device: Range<usize>,
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
    /// Starts `image` as the miniport of `function`, from DriverEntry until the adapter accepts
    /// requests. PASSIVE_LEVEL callbacks run on the calling thread, which must not be a virtual
    /// CPU.
    ///
    /// # Errors
    /// Returns [`FailedStart`] after stopping the function.
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

    /// Starts the driver with this DriverEntry.
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

    /// Executes one request on CPU 0. The calling thread must not be a virtual CPU. A request
    /// beyond the adapter's limits (see [`Self::limits`]) stops the machine.
    #[must_use]
    pub fn execute(&self, request: Request) -> Completion {
        self.execute_on(0, request)
    }

    /// [`Self::execute`] on another CPU.
    #[must_use]
    pub fn execute_on(&self, cpu: u32, request: Request) -> Completion {
        let once = Box::new(Once {
            request: Some(request),
            completion: None,
        });
        Once::completion(self.run_on(cpu, once))
    }

    /// [`Self::execute`] with a changed SRB. There must be no other request at the same time.
    #[must_use]
    pub fn execute_changed(&self, request: Request, changes: Vec<SrbChange>) -> Completion {
        self.port.injections.change_next(changes);
        self.execute(request)
    }

    /// Holds the next `count` requests whose HwBuildIo returns TRUE: HwStartIo is not called.
    /// Storport keeps them until a bus reset or [`Self::complete_held`].
    pub fn hold_built(&self, count: u32) {
        self.port.injections.hold(count);
    }

    /// Completes the held requests without telling the miniport.
    pub fn complete_held(&self) {
        self.port.complete_held();
    }

    /// The number of held requests.
    #[must_use]
    pub fn held(&self) -> usize {
        self.port.injections.held()
    }

    /// Resets the bus as after a time-out, and waits for HwResetBus. The calling thread must not
    /// be a virtual CPU.
    pub fn reset_bus(&self) {
        life_cycle::on_cpu(self.port, 0, |port| {
            port.reset_bus(0, "by a test".to_owned());
        });
    }

    /// Calls an optional callback on the calling thread. Returns its status, or `None` if the
    /// miniport does not have it.
    pub fn call_optional(&self, callback: OptionalCallback) -> Option<u32> {
        self.port.call_optional(callback)
    }

    /// Runs the programs, program i on CPU i modulo the number of CPUs, and returns them in the
    /// same order when all have finished. The calling thread must not be a virtual CPU. A request
    /// beyond the adapter's limits stops the machine.
    #[must_use]
    pub fn run(&self, programs: Vec<Box<dyn Program>>) -> Vec<Box<dyn Program>> {
        let count = programs.len();
        let mailbox: Arc<ProgramMailbox> = Arc::default();
        self.begin(programs, &mailbox);
        let mut done: Vec<_> = (0..count)
            .map(|_| mailbox.receive("the end of its requests"))
            .collect();
        done.sort_by_key(|(place, _)| *place);
        done.into_iter().map(|(_, program)| program).collect()
    }

    /// As [`Self::run`] for one program, on CPU `cpu`.
    #[must_use]
    pub fn run_on(&self, cpu: u32, program: Box<dyn Program>) -> Box<dyn Program> {
        let mailbox: Arc<ProgramMailbox> = Arc::default();
        self.begin_on(cpu as usize, 0, program, &mailbox);
        let (_, program) = mailbox.receive("the end of its requests");
        program
    }

    fn begin(&self, programs: Vec<Box<dyn Program>>, mailbox: &Arc<ProgramMailbox>) {
        for (place, program) in programs.into_iter().enumerate() {
            self.begin_on(place, place, program, mailbox);
        }
    }

    /// Begins a program on CPU `cpu` modulo the number of CPUs. `place` comes back with it.
    fn begin_on(
        &self,
        cpu: usize,
        place: usize,
        program: Box<dyn Program>,
        mailbox: &Arc<ProgramMailbox>,
    ) {
        let cpus = self.port.machine.cpus();
        let cpu = &cpus[cpu % cpus.len()];
        let (mailbox, port) = (Arc::clone(mailbox), self.port);
        cpu.post(Box::new(move || {
            port.cpu_queue(cpu.number()).begin(place, program, mailbox);
        }));
    }

    /// The limits of a request.
    #[must_use]
    pub fn limits(&self) -> AdapterLimits {
        self.port.configuration().limits()
    }

    /// The number of buses, targets of a bus and units of a target.
    #[must_use]
    pub fn topology(&self) -> (u8, u8, u8) {
        let configuration = self.port.configuration();
        (
            configuration.buses,
            configuration.targets,
            configuration.units,
        )
    }

    /// The most requests of the unit at `address` at a time.
    #[must_use]
    pub fn queue_depth(&self, address: Address) -> u32 {
        match self.port.units.get(address) {
            Some(unit) => unit.gate.limit(),
            None => self.port.depth(self.port.configuration().initial_depth),
        }
    }

    /// Sends a control request on CPU 0, before all waiting requests, and waits for it. Returns
    /// its SRB status. The calling thread must not be a virtual CPU.
    #[must_use]
    pub fn control(&self, request: ControlRequest) -> u8 {
        life_cycle::send_control(self.port, request)
    }

    /// Puts the adapter to sleep and wakes it up: flushes caches, calls ScsiStopAdapter, cuts the
    /// function's power, and calls ScsiRestartAdapter or its replacement (see [`Resume`]). All
    /// programs must have finished. The calling thread must not be a virtual CPU.
    ///
    /// # Errors
    /// After a [`RestartError`], only [`Self::stop`] may be called.
    pub fn restart(&self) -> Result<(), RestartError> {
        if self.stopped.load(Ordering::SeqCst) {
            return Err(RestartError::Stopped);
        }
        restart::restart(self.port)
    }

    /// Starts the programs as [`Self::run`] does, without waiting for them.
    pub fn leave_running(&self, programs: Vec<Box<dyn Program>>) {
        self.begin(programs, &Arc::default());
    }

    /// The number of requests that the miniport has.
    #[must_use]
    pub fn outstanding(&self) -> u32 {
        self.port.gate.outstanding()
    }

    /// The memory that the miniport requested.
    #[must_use]
    pub fn extensions(&self) -> Extensions {
        let configuration = self.port.configuration();
        let uncached = self.port.uncached.get();
        let first = uncached.map_or(0, |uncached| uncached.memory.address());
        let extension = self.port.extension();
        Extensions {
            uncached: first..first + uncached.map_or(0, |uncached| uncached.bytes as usize),
            device: extension..extension + self.port.registration().extension_bytes as usize,
            srb_bytes: configuration.srb_extension_bytes as u64,
        }
    }

    /// A copy of the uncached extension; empty if there is none.
    #[must_use]
    pub fn uncached_extension(&self) -> Vec<u8> {
        self.port
            .uncached
            .get()
            .map_or_else(Vec::new, Uncached::contents)
    }

    /// Crashes the system: disconnects the interrupts, halts the CPUs, and leaves the function
    /// with all that is in flight. CPUs halt between two callbacks, so that they hold no lock.
    /// Afterwards only a [`DumpStack`](super::dump::DumpStack) can be used.
    pub fn crash(&self) {
        life_cycle::crash(self.port);
    }

    /// Removes an adapter that never started. Its miniport gets one request, SRB_FUNCTION_PNP in
    /// HwStartIo, with a zeroed device extension (storport-rules.md X16). Returns the SRB status,
    /// or `None` if the request was not completed.
    ///
    /// # Errors
    /// A [`StartError`] of DriverEntry, or if the memory is exhausted.
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

    /// Removes the adapter of the driver with this DriverEntry.
    pub(super) fn remove_unstarted_port(
        port: &'static Port,
        entry: Routine,
    ) -> Result<(Option<u8>, Report), StartError> {
        let status = life_cycle::remove_unstarted(port, entry)?;
        Ok((status, port.report()))
    }

    /// Shuts the system down: flushes caches and sends shutdown requests to the units.
    /// [`Self::stop`] follows.
    pub fn shut_down(&self) {
        life_cycle::shut_down(self.port);
    }

    /// Stops the adapter: closes its queues, calls HwAdapterControl(ScsiStopAdapter), disconnects
    /// the interrupts and stops the function. All programs must have finished.
    ///
    /// # Errors
    /// A [`StopError`]. The function is stopped nevertheless.
    pub fn stop(&self) -> Result<(), StopError> {
        if self.stopped.swap(true, Ordering::SeqCst) {
            return Err(StopError::Again);
        }
        life_cycle::stop(self.port)
    }

    /// The report until now.
    #[must_use]
    pub fn report(&self) -> Report {
        self.port.report()
    }
}

/// A program with one request.
#[derive(Default)]
pub(super) struct Once {
    request: Option<Request>,
    completion: Option<Completion>,
}

impl Once {
    /// The completion of the request, which has ended.
    pub(super) fn completion(ended: Box<dyn Program>) -> Completion {
        let once = ended.into_any().downcast::<Self>().ok();
        once.and_then(|once| once.completion).unwrap_or_else(|| {
            trap::stop_machine(format_args!(
                "a request ended without a completion: please report this bug"
            ))
        })
    }
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
