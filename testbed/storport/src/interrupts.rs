//! The interrupt controller: delivers a function's messages and pin to the miniport's interrupt
//! routine, at DIRQL and with the lock of the synchronisation mode.
//!
//! A message that is sent while the same message is pending is merged, as in a local APIC.
//! Message m interrupts CPU m modulo the number of CPUs. An idle CPU runs the routine itself; for
//! a busy CPU another thread does, because an interrupt does not wait for a CPU's work.
//!
//! A stray message is one without a granted vector: its id is beyond the table, or the pin is
//! connected. Only a faulty device sends one. It is counted and dropped, as Windows has no
//! routine to call.

use std::{
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
};

use super::{
    abi::Routine,
    adapter::{InterruptTime, StrayMessages},
    callbacks::Callback,
    port::Port,
    spin_locks::LockId,
    statistics::Counter,
    violations::Rule,
};
use testbed_machine::{
    cpu::{self, Cpu, Source, irql},
    pci::Interrupts,
    schedule::{self, Thread},
};

/// How often HwInterrupt is called while the pin stays asserted. These calls take a tenth of a
/// second, in which a DPC that releases the pin would run.
const PATIENCE: u32 = 100_000;

/// An interrupt source: a message or the pin.
#[derive(Debug, Default)]
struct Line {
    /// For a message: sent but not delivered. For the pin: asserted.
    pending: AtomicBool,
    thread: OnceLock<Thread>,
}

impl Line {
    fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}

pub(super) struct Controller {
    port: &'static Port,
    messages: Box<[Line]>,
    pin: Line,
    /// The last stray message, for tests that deliver it.
    stray: Line,
    stray_id: AtomicU32,
    releases: AtomicU64,
    /// For each CPU, whether a message may be pending.
    raised: Box<[AtomicBool]>,
    connected: AtomicBool,
}

/// The function's side of the controller.
struct Wires(&'static Controller);

impl Interrupts for Wires {
    fn message(&self, id: u16) {
        self.0.message(id);
    }

    fn line(&self, asserted: bool) {
        self.0.line(asserted);
    }
}

impl Controller {
    /// Connects to the function of `port`. Delivers nothing before [`Self::connect`].
    pub(super) fn start(port: &'static Port) -> io::Result<&'static Self> {
        let messages = port
            .function
            .msix_vectors()
            .min(port.settings.message_limit);
        let controller: &'static Self = Box::leak(Box::new(Self {
            port,
            messages: (0..messages).map(|_| Line::default()).collect(),
            pin: Line::default(),
            stray: Line::default(),
            stray_id: AtomicU32::new(0),
            releases: AtomicU64::new(0),
            raised: port
                .machine
                .cpus()
                .iter()
                .map(|_| AtomicBool::new(false))
                .collect(),
            connected: AtomicBool::new(false),
        }));
        for (id, message) in controller.messages.iter().enumerate() {
            let run = move || controller.run_message(id as u32);
            let handle = schedule::spawn(&format!("message {id}"), run)?;
            let _ = message.thread.set(handle.thread());
        }
        let handle = schedule::spawn("pin", || controller.run_pin())?;
        let _ = controller.pin.thread.set(handle.thread());
        if port.settings.stray_messages == StrayMessages::Delivered {
            let handle = schedule::spawn("stray message", || controller.run_stray())?;
            let _ = controller.stray.thread.set(handle.thread());
        }
        port.function.connect(Arc::new(Wires(controller)));
        for cpu in port.machine.cpus() {
            cpu.post(Box::new(|| Cpu::add_source(controller)));
        }
        Ok(controller)
    }

    pub(super) fn messages(&self) -> u32 {
        self.messages.len() as u32
    }

    pub(super) fn cpu_of(id: u32) -> u32 {
        id % cpu::count()
    }

    /// Delivers interrupts from now on, and those that are pending.
    pub(super) fn connect(&self) {
        self.connected.store(true, Ordering::SeqCst);
        self.messages
            .iter()
            .chain([&self.pin])
            .filter(|line| line.pending.load(Ordering::SeqCst))
            .for_each(Line::wake);
    }

    /// Stops the delivery, and waits until no interrupt routine runs.
    pub(super) fn disconnect(&self) {
        self.connected.store(false, Ordering::SeqCst);
        self.port.wait_for_interrupt_routines();
    }

    fn is_connected(&self) -> bool {
        self.connected.load(Ordering::SeqCst)
    }

    fn message(&self, id: u16) {
        let Some(message) = self.messages.get(usize::from(id)) else {
            self.port.statistics.rare().stray_messages += 1;
            self.stray_id.store(id.into(), Ordering::SeqCst);
            self.stray.pending.store(true, Ordering::SeqCst);
            self.stray.wake();
            return;
        };
        if message.pending.swap(true, Ordering::SeqCst) || !self.is_connected() {
            return;
        }
        let number = Self::cpu_of(u32::from(id)) as usize;
        self.raised[number].store(true, Ordering::SeqCst);
        let cpu = &self.port.machine.cpus()[number];
        let waits = self.port.settings.interrupt_time == InterruptTime::BetweenWork;
        if waits || cpu.is_idle() {
            cpu.wake();
        } else {
            message.wake();
        }
    }

    fn line(&'static self, asserted: bool) {
        self.pin.pending.store(asserted, Ordering::SeqCst);
        if asserted && self.port.settings.interrupt_time == InterruptTime::BetweenWork {
            self.port.machine.cpus()[0].post(Box::new(|| self.deliver_pin()));
        } else if asserted {
            self.pin.wake();
        } else {
            self.releases.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn run_message(&self, id: u32) {
        cpu::act_for(Self::cpu_of(id));
        loop {
            while self.is_connected() && self.deliver_message(id) {}
            schedule::park();
        }
    }

    /// Delivers the last stray message, which has no lock of its own.
    fn run_stray(&self) {
        cpu::act_for(0);
        loop {
            while self.is_connected() && self.stray.pending.swap(false, Ordering::SeqCst) {
                let port = self.port;
                let routine = port.configuration().message_routine;
                if routine.is_none() {
                    continue;
                }
                let has_lock = !port.locks.per_message();
                if has_lock {
                    port.lock(LockId::Interrupt);
                }
                let id = self.stray_id.load(Ordering::SeqCst);
                self.call(Callback::HwMSInterruptRoutine, id, routine);
                if has_lock {
                    port.unlock();
                }
            }
            schedule::park();
        }
    }

    /// Delivers message `id` if it is pending. Returns whether it was.
    fn deliver_message(&self, id: u32) -> bool {
        let pending = &self.messages[id as usize].pending;
        if !pending.load(Ordering::SeqCst) {
            return false;
        }
        let port = self.port;
        let routine = port.configuration().message_routine;
        if routine.is_none() {
            pending.store(false, Ordering::SeqCst);
            port.statistics.rare().stray_messages += 1;
            return false;
        }
        let lock = if port.locks.per_message() {
            LockId::Message(id)
        } else {
            LockId::Interrupt
        };
        port.lock(lock);
        // Cleared under the lock: a message that is sent while the routine runs becomes pending
        // again, as in a local APIC.
        let taken = pending.swap(false, Ordering::SeqCst);
        if taken {
            self.call(Callback::HwMSInterruptRoutine, id, routine);
        }
        port.unlock();
        taken
    }

    fn run_pin(&self) {
        cpu::act_for(0);
        loop {
            self.deliver_pin();
            schedule::park();
        }
    }

    /// Calls HwInterrupt until the pin is released.
    fn deliver_pin(&self) {
        let mut releases = u64::MAX;
        let mut calls = 0;
        while self.is_connected() && self.pin.pending.load(Ordering::SeqCst) {
            let routine = self.port.registration().interrupt;
            self.port.lock(LockId::Interrupt);
            let claimed = self.call(Callback::HwInterrupt, 0, routine);
            self.port.unlock();
            let now = self.releases.load(Ordering::Relaxed);
            calls += 1;
            if now != releases {
                (releases, calls) = (now, 0);
            } else if calls > PATIENCE {
                self.port.stop_machine(
                    Rule::InterruptLevel,
                    None,
                    format_args!(
                        "HwInterrupt does not make the device release the interrupt pin (it returned {})",
                        if claimed { "TRUE" } else { "FALSE" }
                    ),
                );
            } else if !claimed {
                schedule::yield_now();
            }
        }
    }

    /// Calls an interrupt routine under its lock. Returns whether it claimed the interrupt.
    fn call(&self, callback: Callback, message: u32, routine: Routine) -> bool {
        // The interrupts were disconnected in the meantime.
        if !self.is_connected() {
            return true;
        }
        let port = self.port;
        let arguments = [port.extension(), message as usize];
        let result = port.call_about(callback, message, irql::DEVICE, routine, arguments);
        let claimed = result as u8 != 0;
        port.statistics.count(Counter::Interrupts);
        if !claimed {
            port.statistics.count(Counter::UnclaimedInterrupts);
        }
        claimed
    }
}

impl Source for Controller {
    fn ready(&self) -> bool {
        self.raised[cpu::current_number() as usize].load(Ordering::SeqCst) && self.is_connected()
    }

    fn serve(&self) {
        let number = cpu::current_number();
        self.raised[number as usize].store(false, Ordering::SeqCst);
        for id in (number..self.messages()).step_by(cpu::count() as usize) {
            self.deliver_message(id);
        }
    }
}
