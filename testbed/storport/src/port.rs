//! The port driver's state of an adapter. It is never freed, because the driver may keep the
//! address of its device extension.

use std::{
    fmt,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{
    abi::{Routine, Structure, wdk},
    adapter::{AdapterSettings, SrbShape},
    callbacks,
    configuration::{Configuration, Registration},
    cpu_queue::CpuQueue,
    dpcs::Dpcs,
    injections::Injections,
    interrupts::Controller,
    lock,
    lock_order::LockOrder,
    performance::Performance,
    pool::Pool,
    registers::Windows,
    report::Report,
    resets::{Recovery, Tick},
    spin_locks::Locks,
    srb::Srbs,
    statistics::Statistics,
    timers::{Later, Timer},
    units::{Gate, Units},
    violations::{Recorder, Rule},
};
use testbed_loader::Image;
use testbed_machine::{
    Machine, clock,
    memory::Block,
    pci::PciFunction,
    trap::{self, RevokedAccess},
};

#[derive(Debug)]
pub(super) struct Placed {
    pub(super) block: Block,
    pub(super) offset: usize,
}

impl Placed {
    pub(super) fn address(&self) -> usize {
        self.block.address() + self.offset
    }
}

#[derive(Debug)]
pub(super) struct Uncached {
    pub(super) memory: Placed,
    /// The requested size.
    pub(super) bytes: u32,
    /// SrbExtensionSize at the time of the request.
    pub(super) srb_extension: u32,
}

impl Uncached {
    pub(super) fn contents(&self) -> Vec<u8> {
        let mut copy = vec![0; self.bytes as usize];
        let inside = self.memory.block.read(self.memory.offset, &mut copy);
        debug_assert!(inside, "the extension is inside its block");
        copy
    }
}

pub(super) struct Port {
    pub(super) machine: Arc<Machine>,
    pub(super) function: Arc<dyn PciFunction>,
    pub(super) settings: AdapterSettings,
    /// `AdapterSettings::callback_limit` in nanoseconds.
    pub(super) callback_limit: u64,
    pub(super) recorder: Recorder,
    pub(super) statistics: Statistics,

    // What the miniport registered, and what was allocated for it.
    pub(super) registration: OnceLock<Registration>,
    pub(super) configuration: OnceLock<Configuration>,
    pub(super) extension: OnceLock<Placed>,
    pub(super) config_info: OnceLock<Structure>,
    pub(super) uncached: OnceLock<Uncached>,
    passive_initialize: Mutex<Routine>,
    pub(super) controls: OnceLock<Vec<bool>>,
    pub(super) unit_controls: OnceLock<Vec<bool>>,
    pub(super) performance: OnceLock<Performance>,

    // Locks, DPCs, timers and memory.
    pub(super) locks: Locks,
    pub(super) lock_order: LockOrder,
    pub(super) dpcs: Dpcs,
    pub(super) timer: OnceLock<&'static Timer>,
    pub(super) later: Later,
    pub(super) pool: Pool,
    pub(super) windows: Windows,
    pub(super) lists: Mutex<()>,

    // Requests and interrupts.
    pub(super) interrupts: OnceLock<&'static Controller>,
    pub(super) srbs: OnceLock<Srbs>,
    pub(super) cpu_queues: OnceLock<Box<[CpuQueue]>>,
    pub(super) units: Units,
    pub(super) gate: Gate,
    pub(super) recovery: Recovery,
    pub(super) injections: Injections,
    tick: OnceLock<Tick>,
    stopped: AtomicBool,
    asleep: AtomicBool,
    /// The system time and tick count of a dump stack, which stand still.
    dump: OnceLock<(u64, u64)>,
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Port")
            .field("driver", &self.driver())
            .finish_non_exhaustive()
    }
}

/// All ports, for calls from threads that run no callback.
static PORTS: Mutex<Vec<&'static Port>> = Mutex::new(Vec::new());

impl Port {
    /// A port for `function`, whose miniport is named `driver`.
    pub(super) fn new(
        machine: &Arc<Machine>,
        driver: &str,
        image: Option<Arc<Image>>,
        function: &Arc<dyn PciFunction>,
        settings: AdapterSettings,
    ) -> &'static Self {
        let port: &'static Self = Box::leak(Box::new(Self {
            machine: Arc::clone(machine),
            function: Arc::clone(function),
            callback_limit: settings.callback_limit.as_nanos() as u64,
            settings,
            recorder: Recorder::new(driver, image),
            statistics: Statistics::new(machine.cpus().len()),
            registration: OnceLock::new(),
            configuration: OnceLock::new(),
            extension: OnceLock::new(),
            config_info: OnceLock::new(),
            uncached: OnceLock::new(),
            passive_initialize: Mutex::default(),
            controls: OnceLock::new(),
            unit_controls: OnceLock::new(),
            performance: OnceLock::new(),
            locks: Locks::default(),
            lock_order: LockOrder::default(),
            dpcs: Dpcs::default(),
            timer: OnceLock::new(),
            later: Later::default(),
            pool: Pool::default(),
            windows: Windows::default(),
            lists: Mutex::new(()),
            interrupts: OnceLock::new(),
            srbs: OnceLock::new(),
            cpu_queues: OnceLock::new(),
            units: Units::default(),
            gate: Gate::default(),
            recovery: Recovery::default(),
            injections: Injections::default(),
            tick: OnceLock::new(),
            stopped: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
            dump: OnceLock::new(),
        }));
        trap::on_revoked_access(Self::report_late_access_of_any);
        lock(&PORTS).push(port);
        port
    }

    /// The port of the adapter whose HwDeviceExtension is `extension`. Stops the machine for
    /// another value.
    pub(super) fn of(extension: usize, function: &str) -> &'static Self {
        let current = callbacks::current_port();
        if let Some(port) = current
            && port.extension() == extension
            && extension != 0
        {
            return port;
        }
        let ports = lock(&PORTS);
        let known = ports
            .iter()
            .find(|port| port.extension() == extension && extension != 0);
        match (known, current.or(ports.last().copied())) {
            (Some(port), _) => port,
            (None, Some(port)) => port.stop_machine(
                Rule::DdiExtension,
                None,
                format_args!(
                    "{function} with HwDeviceExtension {extension:#x}, not {:#x}, which Storport gave",
                    port.extension()
                ),
            ),
            (None, None) => trap::stop_machine(format_args!(
                "{function} is called without an adapter"
            )),
        }
    }

    /// Reports the driver's access to revoked memory of any adapter. Returns false for other
    /// memory.
    fn report_late_access_of_any(access: &RevokedAccess) -> bool {
        let of_callback = callbacks::current_port();
        let ports = lock(&PORTS);
        of_callback
            .into_iter()
            .chain(ports.iter().copied())
            .any(|port| port.report_late_access(access))
    }

    pub(super) fn event(&self, line: fmt::Arguments<'_>) {
        let seconds = Duration::from_nanos(clock::now()).as_secs_f64();
        self.statistics.event(format!("{seconds:.3} s: {line}"));
    }

    /// HwDeviceExtension, or 0 before it is allocated.
    pub(super) fn extension(&self) -> usize {
        self.extension.get().map_or(0, Placed::address)
    }

    /// What StorPortInitialize got. Stops the machine before that call.
    pub(super) fn registration(&self) -> &Registration {
        let registration = self.registration.get();
        registration.unwrap_or_else(|| self.too_early("StorPortInitialize"))
    }

    /// The result of HwFindAdapter. Stops the machine before that.
    pub(super) fn configuration(&self) -> &Configuration {
        let configuration = self.configuration.get();
        configuration.unwrap_or_else(|| self.too_early("HwFindAdapter"))
    }

    fn too_early(&self, what: &str) -> ! {
        self.stop_machine(
            Rule::DdiCallback,
            None,
            format_args!("a call needs the results of {what}, which has not returned yet"),
        )
    }

    /// The SRBs, once the adapter accepts requests.
    pub(super) fn try_srbs(&self) -> Option<&Srbs> {
        self.srbs.get()
    }

    /// The SRBs. Stops the machine before the adapter accepts requests.
    pub(super) fn srbs(&self) -> &Srbs {
        let srbs = self.srbs.get();
        srbs.unwrap_or_else(|| self.too_early("HwInitialize"))
    }

    /// The queue of CPU `cpu`. Stops the machine before the adapter accepts requests.
    pub(super) fn cpu_queue(&self, cpu: u32) -> &CpuQueue {
        match self.cpu_queues.get() {
            Some(queues) => &queues[cpu as usize],
            None => self.too_early("HwInitialize"),
        }
    }

    pub(super) fn tick(&'static self) -> &'static Tick {
        self.tick.get_or_init(|| Tick(self))
    }

    pub(super) fn passive_initialize(&self) -> Routine {
        *lock(&self.passive_initialize)
    }

    pub(super) fn set_passive_initialize(&self, routine: Routine) {
        *lock(&self.passive_initialize) = routine;
    }

    /// SynchronizationModel, or full duplex before HwFindAdapter chose it.
    pub(super) fn full_duplex(&self) -> bool {
        self.configuration
            .get()
            .is_none_or(|configuration| configuration.full_duplex)
    }

    pub(super) fn interrupt_mode(&self) -> u32 {
        if self.locks.per_message() {
            wdk::InterruptSynchronizePerMessage
        } else if self.messages() > 0 {
            wdk::InterruptSynchronizeAll
        } else {
            wdk::InterruptSupportNone
        }
    }

    /// The number of the miniport's MSI messages; 0 if it uses the pin.
    pub(super) fn messages(&self) -> u32 {
        match (self.interrupts.get(), self.configuration.get()) {
            (Some(controller), Some(configuration)) if !configuration.message_routine.is_none() => {
                controller.messages()
            }
            _ => 0,
        }
    }

    pub(super) fn srb_shape(&self) -> SrbShape {
        self.configuration().srb_shape
    }

    /// Turns this into the port of a dump stack, before the miniport is called. The time stands
    /// still.
    pub(super) fn become_dump(&self, time: (u64, u64)) {
        let _ = self.dump.set(time);
    }

    pub(super) fn is_dump(&self) -> bool {
        self.dump.get().is_some()
    }

    /// The system time and tick count for the miniport.
    pub(super) fn time(&self) -> (u64, u64) {
        match self.dump.get() {
            Some(time) => *time,
            None => (
                testbed_machine::time::system_time(),
                testbed_machine::time::tick_count(),
            ),
        }
    }

    pub(super) fn report(&self) -> Report {
        Report {
            locks: self.lock_rows(),
            violations: self.violations(),
            ..self.statistics.report()
        }
    }

    /// Whether timers, DPCs and work items may call the miniport.
    pub(super) fn is_awake(&self) -> bool {
        !self.is_stopped() && !self.asleep.load(Ordering::Acquire)
    }

    /// Stops calls of the miniport until [`Self::wake_up`].
    pub(super) fn fall_asleep(&self) {
        self.asleep.store(true, Ordering::Release);
    }

    pub(super) fn wake_up(&self) {
        self.asleep.store(false, Ordering::Release);
    }

    /// Whether driver code must not run any more.
    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Stops calls of the driver for good.
    pub(super) fn stopped(&self) {
        self.stopped.store(true, Ordering::Release);
    }
}
