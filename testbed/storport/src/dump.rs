//! Dump stacks: a second copy of a miniport, started after a system crash to write the dump
//! through the same function.
//!
//! Documented ("Restrictions on Miniport Drivers that Manage the Boot Drive", HW_FIND_ADAPTER,
//! PORT_CONFIGURATION_INFORMATION): DriverEntry gets NULLs. HwFindAdapter gets "dump=1" and
//! DumpMode. All callbacks run above PASSIVE_LEVEL, and HwFindAdapter at HIGH_LEVEL. The miniport
//! initialises no DPC, ignores bus resets and relies on no clock. A unit has one request at a
//! time. Device extension and uncached extension have 32 KiB together. The disk works when
//! HwInitialize returns.
//!
//! Seen in existing drivers: HwInterrupt is polled. There are no pool, timers and passive
//! initialisation. Messages can be requested, but there are none. INQUIRY and READ CAPACITY come
//! before the first write. Some drivers take locks; others do not, because they hung.
//!
//! Chosen here: All callbacks run at HIGH_LEVEL on CPU 0. The function keeps the state in which
//! the crash found it, with MSI-X on or off. ConfigInfo describes a pin. The device extension is
//! aligned to 8 bytes, or to 16 with STOR_FEATURE_DUMP_16_BYTE_ALIGNMENT, and the uncached
//! extension to 16. The system time stands still. There are no locks, and only functions that a
//! dump stack is known to have.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{
    abi::{Routine, Structure, port_configuration_information as info, wdk},
    adapter::{AdapterLimits, AdapterSettings, SrbShape, StartError},
    callbacks::{self, Callback},
    control_request::ControlRequest,
    life_cycle,
    port::Port,
    report::Report,
    request::{Completion, Request},
    srb::{STATUS, state},
    violations::Rule,
    watchdog,
};
use testbed_loader::Image;
use testbed_machine::{
    InterruptKind, Machine, clock,
    cpu::{self, irql},
    pci::PciFunction,
    schedule, trap,
};

/// The most bytes of device extension and uncached extension together.
pub const MEMORY: u32 = 32 << 10;

/// The interval at which HwInterrupt is polled.
const POLL: Duration = Duration::from_micros(10);

/// How often a request that was completed as BUSY is started again.
const RETRIES: u32 = 1000;

/// Functions that a dump stack is not known to have: those that need DPCs, timers, other threads,
/// messages, pool or PASSIVE_LEVEL.
const LACKING: &[(&str, Reason)] = &[
    (
        "StorPortAllocateContiguousMemorySpecifyCacheNode",
        Reason::HighLevel,
    ),
    ("StorPortAllocateDmaMemory", Reason::HighLevel),
    ("StorPortAllocateHostMemoryBuffer", Reason::HighLevel),
    ("StorPortAllocateMdl", Reason::HighLevel),
    ("StorPortAllocatePool", Reason::HighLevel),
    ("StorPortAllocateRegistryBuffer", Reason::Documented),
    ("StorPortEnablePassiveInitialization", Reason::Drivers),
    ("StorPortFreePool", Reason::HighLevel),
    ("StorPortFreeTimer", Reason::HighLevel),
    ("StorPortGetStartIoPerfParams", Reason::Drivers),
    ("StorPortInitializeDpc", Reason::Documented),
    ("StorPortInitializeDpcWithContext", Reason::Documented),
    ("StorPortInitializePerfOpts", Reason::Drivers),
    ("StorPortInitializeTimer", Reason::HighLevel),
    ("StorPortInitializeWorker", Reason::HighLevel),
    ("StorPortIssueDpc", Reason::Documented),
    ("StorPortLogSystemEvent", Reason::HighLevel),
    ("StorPortQueueWorkItem", Reason::HighLevel),
    ("StorPortRegistryRead", Reason::Documented),
    ("StorPortRegistryReadAdapterKey", Reason::Documented),
    ("StorPortRegistryWrite", Reason::Documented),
    ("StorPortRegistryWriteAdapterKey", Reason::Documented),
    ("StorPortRequestTimer", Reason::Drivers),
    ("StorPortSetEvent", Reason::HighLevel),
    ("StorPortSetPowerSettingNotificationGuids", Reason::Drivers),
    ("StorPortStateChangeDetected", Reason::Drivers),
    ("StorPortWaitForSingleObject", Reason::HighLevel),
];

/// Why a function counts as unavailable in a dump stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    /// It is documented: DPCs, and functions for PASSIVE_LEVEL.
    Documented,
    /// The function is for DISPATCH_LEVEL at most, and HwFindAdapter is documented to run at
    /// HIGH_LEVEL. For the other callbacks this is a conclusion.
    HighLevel,
    /// Existing drivers avoid the function there.
    Drivers,
}

/// A request of a dump stack was not executed.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The miniport did not complete the request.
    #[error("{what}: not completed after {after:?} of polling HwInterrupt")]
    TimedOut {
        /// The request.
        what: String,
        /// The time-out.
        after: Duration,
    },
}

/// A started dump stack.
#[derive(Debug)]
pub struct DumpStack {
    port: &'static Port,
}

impl DumpStack {
    /// Starts `image`, a second copy of the miniport, for the function of an adapter after
    /// [`Adapter::crash`]. The calling thread becomes CPU 0.
    ///
    /// [`Adapter::crash`]: super::adapter::Adapter::crash
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(
        machine: &Arc<Machine>,
        image: &Arc<Image>,
        function: &Arc<dyn PciFunction>,
        srb: SrbShape,
    ) -> Result<Self, StartError> {
        trap::watch(image);
        let settings = settings(srb);
        let name = format!("dump_{}", image.name());
        let port = Port::new(machine, &name, Some(Arc::clone(image)), function, settings);
        Self::start_port(port, Routine::entry(image))
    }

    /// Starts the driver with this DriverEntry.
    pub(super) fn start_port(port: &'static Port, entry: Routine) -> Result<Self, StartError> {
        cpu::act_for(0);
        port.become_dump((
            testbed_machine::time::system_time(),
            testbed_machine::time::tick_count(),
        ));
        watchdog::start(port)?;
        let started = start_in_order(port, entry);
        if started.is_err() {
            port.stopped();
        }
        started.map(|()| Self { port })
    }

    /// Executes `request`. A request beyond the adapter's limits stops the machine.
    ///
    /// # Errors
    /// [`DumpError`].
    pub fn execute(&self, request: &Request) -> Result<Completion, DumpError> {
        self.fill(request);
        self.run(request, None, LastCall::StartIo)
    }

    /// Executes `request` with a call of HwResetBus, which the miniport must ignore, between
    /// HwStartIo and the first HwInterrupt.
    ///
    /// # Errors
    /// [`DumpError`].
    pub fn execute_through_reset(&self, request: &Request) -> Result<Completion, DumpError> {
        self.fill(request);
        self.run(request, None, LastCall::ResetBus)
    }

    /// Executes a control request. Returns its SRB status.
    ///
    /// # Errors
    /// [`DumpError`].
    pub fn control(&self, control: ControlRequest) -> Result<u8, DumpError> {
        let request = control.request();
        self.fill(&request);
        let completion = self.run(&request, Some(control), LastCall::StartIo)?;
        self.port.check_control(control, completion.srb_status);
        Ok(completion.srb_status)
    }

    /// The limits of a request.
    #[must_use]
    pub fn limits(&self) -> AdapterLimits {
        self.port.configuration().limits()
    }

    /// The bytes of the device extension and of the uncached extension, which are at most
    /// [`MEMORY`] together.
    #[must_use]
    pub fn memory(&self) -> (u32, u32) {
        memory(self.port)
    }

    /// The report until now.
    #[must_use]
    pub fn report(&self) -> Report {
        self.port.report()
    }

    fn fill(&self, request: &Request) {
        let port = self.port;
        port.unit(request.address);
        let why = port.refusal(request).or_else(|| {
            let seconds = request.timeout.as_secs() as u32;
            (!port.srbs().fill(port.single_number(), request, seconds, 0))
                .then(|| "more elements than its lists have".to_owned())
        });
        if let Some(why) = why {
            trap::stop_machine(format_args!(
                "the testbed itself sent a request that {} does not accept: {why}",
                port.driver()
            ));
        }
    }

    fn run(
        &self,
        request: &Request,
        control: Option<ControlRequest>,
        after: LastCall,
    ) -> Result<Completion, DumpError> {
        let port = self.port;
        let begin = clock::now();
        let srb = port.srbs().view(port.single());
        for _ in 0..RETRIES {
            if let Some(control) = control {
                control.write(srb);
            }
            port.build_and_start_single(irql::HIGH);
            if after == LastCall::ResetBus {
                self.reset_bus();
            }
            self.poll(begin, request, control)?;
            port.single().state.store(state::FREE, Ordering::Release);
            if srb.status() & STATUS != wdk::SRB_STATUS_BUSY {
                break;
            }
            srb.renew();
            port.srbs().new_extension(port.single());
        }
        port.statistics.completed(srb.status());
        Ok(srb.completion(request.token, Duration::from_nanos(clock::now() - begin)))
    }

    fn poll(
        &self,
        begin: u64,
        request: &Request,
        control: Option<ControlRequest>,
    ) -> Result<(), DumpError> {
        let port = self.port;
        let arguments = [port.extension()];
        let routine = port.registration().interrupt;
        while !port.is_single_back() {
            if Duration::from_nanos(clock::now() - begin) > request.timeout {
                return Err(DumpError::TimedOut {
                    what: match control {
                        Some(control) => format!("{control:?}"),
                        None => format!("a request (CDB {:02x})", request.cdb[0]),
                    },
                    after: request.timeout,
                });
            }
            port.call(Callback::HwInterrupt, irql::HIGH, routine, arguments);
            if !port.is_single_back() {
                schedule::stall(POLL);
            }
        }
        Ok(())
    }

    /// Calls HwResetBus, which a miniport in a dump stack must ignore.
    fn reset_bus(&self) {
        let port = self.port;
        let was_back = port.is_single_back();
        let arguments = [port.extension()];
        let routine = port.registration().reset_bus;
        port.call(Callback::HwResetBus, irql::HIGH, routine, arguments);
        if !was_back && port.is_single_back() {
            let status = port.srbs().view(port.single()).status() & STATUS;
            if status != wdk::SRB_STATUS_SUCCESS {
                port.violation_of(
                    Callback::HwResetBus,
                    Rule::DumpResetBus,
                    format_args!(
                        "HwResetBus must do nothing in dump mode, but completed the request in \
                         flight with SRB status {status:#04x}"
                    ),
                );
            }
        }
    }
}

/// The last call before HwInterrupt is polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LastCall {
    StartIo,
    ResetBus,
}

pub(super) fn settings(srb: SrbShape) -> AdapterSettings {
    AdapterSettings {
        srb,
        argument: "dump=1".to_owned(),
        ..AdapterSettings::default()
    }
}

fn memory(port: &Port) -> (u32, u32) {
    let uncached = port.uncached.get().map_or(0, |uncached| uncached.bytes);
    (port.registration().extension_bytes, uncached)
}

fn start_in_order(port: &'static Port, entry: Routine) -> Result<(), StartError> {
    life_cycle::enter(port, entry, irql::HIGH, [0; 2])?;
    let registration = port.registration();
    let alignment = if registration.dump_alignment_16() {
        16
    } else {
        8
    };
    life_cycle::make_extension(port, alignment)?;
    let configuration = life_cycle::configure(port, InterruptKind::Line, irql::HIGH)?;
    let _ = port.configuration.set(configuration);
    let (extension, uncached) = memory(port);
    if extension.saturating_add(uncached) > MEMORY {
        port.violation_of(
            Callback::HwFindAdapter,
            Rule::DumpMemory,
            format_args!(
                "{extension} bytes of device extension and {uncached} of uncached extension: \
                 dump mode allows at most {MEMORY}"
            ),
        );
    }
    let routine = registration.initialize;
    let arguments = [port.extension()];
    let result = port.call(Callback::HwInitialize, irql::HIGH, routine, arguments);
    if result as u8 == 0 {
        return Err(life_cycle::refused(
            Callback::HwInitialize,
            "returned FALSE",
        ));
    }
    let settings = port.configuration().srb_settings(port.settings.checks);
    port.prepare_single(settings)?;
    Ok(())
}

impl Port {
    pub(super) fn fill_dump(&self, to: Structure) {
        if self.is_dump() {
            to.set(info::DumpMode, wdk::DUMP_MODE_CRASH as u8);
        }
    }

    /// Whether this is a dump stack that lacks `function`. Reports the call as a violation.
    pub(super) fn lacks(&self, function: &str) -> bool {
        if !self.is_dump() {
            return false;
        }
        let Some((_, reason)) = LACKING.iter().find(|(name, _)| *name == function) else {
            return false;
        };
        let is_documented = match reason {
            Reason::Documented => true,
            Reason::HighLevel => callbacks::current() == Callback::HwFindAdapter,
            Reason::Drivers => false,
        };
        self.violation(
            match is_documented {
                true => Rule::DdiInDumpMode,
                false => Rule::DdiDumpStack,
            },
            format_args!("{function} is not available in a dump stack"),
        );
        true
    }

    /// Whether this is a dump stack, in which no lock is taken. Reports the attempt to take one.
    pub(super) fn has_no_locks(&self) -> bool {
        if self.is_dump() {
            self.violation(
                Rule::LockInDumpMode,
                format_args!(
                    "a lock was acquired in dump mode: nothing else runs there, and drivers hung"
                ),
            );
        }
        self.is_dump()
    }
}
