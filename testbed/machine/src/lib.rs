//! The hardware of the testbed: memory, virtual CPUs and their traps, time, and scheduling. It
//! does not emulate the processor: the driver's code runs on that of the host, and only accesses
//! to devices trap. A process has one machine.
//!
//! - [`cpu`]: virtual CPUs, their IRQL and DPC queues
//! - [`dma`]: memory for devices of the host
//! - [`memory`]: pages with scattered physical addresses
//! - [`trap`]: register accesses, crashes, stack walks, instruction counts
//! - [`schedule`]: which thread runs, by a seed
//! - [`clock`], [`time`]: alarms, and the clocks of Windows
//! - [`pci`]: the interface of a PCI function
//! - [`mailbox`], `workers`: messages between threads, and system worker threads
//! - [`variadic`]: variadic functions of the Microsoft ABI
//! - [`testing`]: the machine of a test process
//!
//! ```
//! # #[cfg(target_os = "linux")] {
//! use testbed_machine::{Machine, MachineSettings, cpu, mailbox::Mailbox, memory::Placement};
//! use std::sync::Arc;
//!
//! let machine = Machine::new(&MachineSettings::default())?;
//! let page = machine.memory().allocate(4096, Placement::Scattered)?;
//! assert!(machine.memory().physical(page.address()).is_some());
//!
//! let number = Arc::new(Mailbox::default());
//! let sender = Arc::clone(&number);
//! machine.cpus()[1].post(Box::new(move || sender.send(cpu::current_number())));
//! assert_eq!(number.receive("the CPU's number"), 1);
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![cfg(target_os = "linux")]

pub mod clock;
pub mod cpu;
pub mod dma;
pub mod mailbox;
pub mod memory;
pub mod pci;
pub mod schedule;
pub mod testing;
pub mod time;
pub mod trap;
pub mod variadic;
mod workers;

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use self::{
    clock::AlarmClock,
    cpu::{Cpu, Job},
    memory::{Memory, MemoryError},
    workers::Workers,
};

/// How the machine takes the interrupts of its functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterruptKind {
    /// MSI-X messages, if the function has a table and the driver a message routine. Otherwise
    /// the pin.
    Messages,
    /// The INTx pin.
    Line,
}

/// The properties of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MachineSettings {
    /// Virtual CPUs, 1 to 64 (one processor group).
    pub cpus: u32,
    /// Memory in bytes, a multiple of a page.
    pub memory_bytes: u64,
    /// How it takes interrupts.
    pub interrupts: InterruptKind,
}

impl Default for MachineSettings {
    fn default() -> Self {
        Self {
            cpus: 2,
            memory_bytes: 512 << 20,
            interrupts: InterruptKind::Messages,
        }
    }
}

/// Why a machine cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The process already has a machine.
    #[error("this process already has a machine: run a second one in its own process")]
    Second,
    /// The number of CPUs is 0 or exceeds a processor group.
    #[error("{0} CPUs are not possible: give 1 to 64")]
    Cpus(u32),
    /// The memory cannot be allocated.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The host did not provide a thread or a signal handler.
    #[error("the host cannot start the machine's threads and signal handlers: {0}")]
    Host(#[from] io::Error),
}

/// A running machine. It runs until the process ends.
pub struct Machine {
    settings: MachineSettings,
    memory: Arc<Memory>,
    cpus: &'static [Cpu],
    clock: &'static AlarmClock,
    workers: &'static Workers,
}

/// Locks `mutex`. Ignores poisoning: no code that holds one of the testbed's mutexes can panic
/// half way through a change.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the process has a machine.
static BUILT: AtomicBool = AtomicBool::new(false);

impl Machine {
    /// Builds the machine and starts its CPUs.
    ///
    /// # Errors
    /// [`MachineError`], also for a second machine in the process.
    pub fn new(settings: &MachineSettings) -> Result<Arc<Self>, MachineError> {
        if !(1..=64).contains(&settings.cpus) {
            return Err(MachineError::Cpus(settings.cpus));
        }
        if BUILT.swap(true, Ordering::SeqCst) {
            return Err(MachineError::Second);
        }
        trap::install()?;
        let memory = Memory::new(settings.memory_bytes)?;
        memory::attach(&memory);
        cpu::set_count(settings.cpus);
        let cpus: &'static [Cpu] = Vec::leak((0..settings.cpus).map(Cpu::new).collect());
        for cpu in cpus {
            cpu.start()?;
        }
        Ok(Arc::new(Self {
            settings: *settings,
            memory,
            cpus,
            clock: AlarmClock::start(cpus)?,
            workers: Box::leak(Box::default()),
        }))
    }

    /// The memory.
    #[must_use]
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// How it takes interrupts.
    pub fn interrupts(&self) -> InterruptKind {
        self.settings.interrupts
    }

    /// The CPUs by number.
    pub fn cpus(&self) -> &'static [Cpu] {
        self.cpus
    }

    /// The CPU that the calling thread acts for.
    pub fn current_cpu(&self) -> &'static Cpu {
        &self.cpus[cpu::current_number() as usize % self.cpus.len()]
    }

    /// The clock, which queues DPCs at set times.
    pub fn clock(&self) -> &'static AlarmClock {
        self.clock
    }

    /// Runs `job` at PASSIVE_LEVEL on a system worker thread.
    pub fn work(&self, job: Job) -> io::Result<()> {
        self.workers.run(job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::shared;

    #[test]
    fn a_second_machine_is_refused() {
        let _ = shared();

        let second = Machine::new(&MachineSettings::default());

        assert!(matches!(second, Err(MachineError::Second)));
    }

    #[test]
    fn a_number_of_cpus_beyond_one_group_is_refused() {
        for cpus in [0, 65] {
            let settings = MachineSettings {
                cpus,
                ..MachineSettings::default()
            };
            assert!(matches!(
                Machine::new(&settings),
                Err(MachineError::Cpus(refused)) if refused == cpus
            ));
        }
    }
}
