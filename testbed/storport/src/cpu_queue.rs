//! The requests of one CPU: from a program through HwBuildIo and HwStartIo to the miniport, and
//! back after RequestComplete.
//!
//! Only the CPU's thread sends and collects the requests of its queue. Other threads push
//! completed SRBs on a list, and tell the queue that a gate admitted a waiting request.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use super::{
    abi::wdk,
    adapter::{Checks, SrbShape, StartIoCpu},
    callbacks::Callback,
    control_request::ControlRequest,
    lock,
    port::Port,
    request::{Address, Program, Request},
    spin_locks::LockId,
    srb::{STATUS, Slot, recovery, state},
    statistics::Counter,
    units::{Position, Unit},
    violations::Rule,
};
use testbed_machine::{
    clock,
    cpu::{Deferred, Source, irql, set_irql},
    mailbox::Mailbox,
    memory::Block,
    trap::{self, RevokedAccess},
};

/// The delay before a request that was completed as BUSY is started again.
const BUSY_PAUSE: Duration = Duration::from_millis(1);

/// A running program, and the mailbox that gets it when it has ended.
struct Running {
    program: Box<dyn Program>,
    outstanding: u32,
    place: usize,
    mailbox: Arc<ProgramMailbox>,
}

pub(super) type ProgramMailbox = Mailbox<(usize, Box<dyn Program>)>;

/// A request that is not completed.
struct Work {
    program: usize,
    request: Request,
    /// The control request, if it is not a command.
    control: Option<ControlRequest>,
    arrived: u64,
    unit: &'static Unit,
}

/// A request that waits at its unit's gate.
enum Waiting {
    /// Not sent yet.
    New(Work),
    /// Completed as BUSY, and a gate was closed when its delay ended. It keeps its SRB.
    Again(u32, &'static Unit),
}

impl Waiting {
    fn unit(&self) -> &'static Unit {
        match self {
            Self::New(work) => work.unit,
            Self::Again(_, unit) => unit,
        }
    }
}

#[derive(Default)]
struct Inner {
    programs: Vec<Option<Running>>,
    waiting: VecDeque<Waiting>,
    /// Requests that were completed as BUSY: when to start them again, and their SRBs.
    busy: VecDeque<(u64, u32)>,
    /// The free SRBs, and the number of this CPU's SRBs that have memory.
    free: VecDeque<u32>,
    grown: u32,
    /// The requests of the SRBs, by the SRB's index among this CPU's.
    work: Vec<Option<Work>>,
    /// The last unit, to save a search.
    unit: Option<&'static Unit>,
}

pub(super) struct CpuQueue {
    port: &'static Port,
    cpu: u32,
    /// The SRB that was completed last: number + 1, or 0.
    completed: AtomicU32,
    granted: Mutex<Vec<&'static Unit>>,
    grants: AtomicU32,
    delay_over: AtomicBool,
    inner: Mutex<Inner>,
}

impl Deferred for CpuQueue {
    /// Ends the delay of a BUSY request.
    fn run(&self, _: usize, _: usize) {
        self.delay_over.store(true, Ordering::Release);
    }
}

impl Source for CpuQueue {
    fn ready(&self) -> bool {
        self.completed.load(Ordering::Acquire) != 0
            || self.grants.load(Ordering::Acquire) != 0
            || self.delay_over.load(Ordering::Acquire)
    }

    fn serve(&self) {
        let mut inner = self.lock();
        self.collect_completed(&mut inner);
        self.start_admitted(&mut inner);
        if self.delay_over.swap(false, Ordering::AcqRel) {
            self.end_delays(&mut inner);
        }
    }
}

impl CpuQueue {
    pub(super) fn new(port: &'static Port, cpu: u32) -> Self {
        Self {
            port,
            cpu,
            completed: AtomicU32::new(0),
            granted: Mutex::default(),
            grants: AtomicU32::new(0),
            delay_over: AtomicBool::new(false),
            inner: Mutex::default(),
        }
    }

    /// Only the CPU's thread takes this lock.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    fn wake(&self) {
        self.port.machine.cpus()[self.cpu as usize].wake();
    }

    /// Pushes a completed SRB on the list.
    pub(super) fn completed(&self, number: u32) {
        let next = &self.port.srbs().slot(number).next_completed;
        let mut head = self.completed.load(Ordering::Relaxed);
        loop {
            next.store(head, Ordering::Relaxed);
            match self.completed.compare_exchange_weak(
                head,
                number + 1,
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                Ok(_) => break,
                Err(now) => head = now,
            }
        }
        self.wake();
    }

    /// Tells the queue that `unit` admitted its first waiting request.
    pub(super) fn grant(&self, unit: &'static Unit) {
        let mut granted = lock(&self.granted);
        granted.push(unit);
        self.grants.store(granted.len() as u32, Ordering::Release);
        drop(granted);
        self.wake();
    }

    pub(super) fn begin(
        &'static self,
        place: usize,
        program: Box<dyn Program>,
        mailbox: Arc<ProgramMailbox>,
    ) {
        let mut inner = self.lock();
        let running = Running {
            program,
            outstanding: 0,
            place,
            mailbox,
        };
        let index = vacant(&mut inner.programs);
        self.step(&mut inner, index, running, |program, issue| {
            program.start(issue);
        });
    }

    /// Sends a control request, ignoring the gates. `program` gets the completion. Runs on the
    /// CPU's thread.
    pub(super) fn send_control(
        &'static self,
        control: ControlRequest,
        program: Box<dyn Program>,
        mailbox: Arc<ProgramMailbox>,
    ) {
        let mut inner = self.lock();
        let index = vacant(&mut inner.programs);
        inner.programs[index] = Some(Running {
            program,
            outstanding: 1,
            place: 0,
            mailbox,
        });
        let unit = self.unit(&mut inner, control.unit());
        self.port.pass(unit);
        self.start(
            &mut inner,
            Work {
                program: index,
                request: control.request(),
                control: Some(control),
                arrived: clock::now(),
                unit,
            },
        );
    }

    /// Runs a step of a program, and ends the program if it has finished.
    fn step(
        &self,
        inner: &mut Inner,
        index: usize,
        mut running: Running,
        step: impl FnOnce(&mut dyn Program, &mut dyn FnMut(Request)),
    ) {
        let Running {
            program,
            outstanding,
            ..
        } = &mut running;
        step(program.as_mut(), &mut |request| {
            *outstanding += 1;
            self.issue(inner, index, request);
        });
        if running.outstanding > 0 {
            inner.programs[index] = Some(running);
            return;
        }
        if !running.program.finished() {
            trap::stop_machine(format_args!(
                "the workload on CPU {} has not finished, but has no request in flight",
                self.cpu
            ));
        }
        running.mailbox.send((running.place, running.program));
    }

    fn issue(&self, inner: &mut Inner, program: usize, request: Request) {
        self.check(&request);
        let unit = self.unit(inner, request.address);
        let work = Work {
            program,
            request,
            control: None,
            arrived: clock::now(),
            unit,
        };
        if !self.port.has_waiting(unit) && self.port.try_enter(unit) {
            self.start(inner, work);
        } else {
            inner.waiting.push_back(Waiting::New(work));
            self.port.wait_at(unit, self.cpu, Position::Last);
        }
    }

    /// Stops the machine if the adapter does not accept the request, which is a fault of the
    /// testbed.
    fn check(&self, request: &Request) {
        let why = self.port.refusal(request);
        if let Some(why) = why {
            trap::stop_machine(format_args!(
                "the testbed itself sent a request that {} does not accept: {why}",
                self.port.driver()
            ));
        }
    }

    fn unit(&self, inner: &mut Inner, address: Address) -> &'static Unit {
        match inner.unit {
            Some(unit) if unit.address == address => unit,
            _ => inner.unit.insert(self.port.unit(address)),
        }
    }

    /// Sends an admitted request.
    fn start(&self, inner: &mut Inner, work: Work) {
        let number = self.take_srb(inner);
        let srbs = self.port.srbs();
        let slot = srbs.slot(number);
        let tag = match self.port.srb_shape() {
            SrbShape::Scsi => work.unit.take_tag(),
            SrbShape::Storage => 0,
        };
        let (timeout, seconds) = self.timeout(&work.request);
        if !srbs.fill(number, &work.request, seconds, tag) {
            trap::stop_machine(format_args!(
                "the testbed itself sent a request whose buffer needs more than the {} elements \
                 that {} allows, or is not completely in its memory",
                self.port.configuration().max_elements,
                self.port.driver()
            ));
        }
        if let Some(control) = work.control {
            control.write(srbs.view(slot));
        }
        self.port.injections.change(srbs.view(slot));
        slot.unit.store(work.unit.number, Ordering::Relaxed);
        let place = self.place(number);
        inner.work[place] = Some(work);
        self.send(number, timeout);
    }

    /// The time-out, and TimeOutValue in whole seconds.
    fn timeout(&self, request: &Request) -> (Duration, u32) {
        let seconds = |time: Duration| time.as_secs() + u64::from(time.subsec_nanos() > 0);
        let whole = seconds(request.timeout);
        match self.port.settings.timeout {
            Some(timeout) => (timeout, seconds(timeout) as u32),
            None => (Duration::from_secs(whole), whole as u32),
        }
    }

    /// The index of the SRB's request in `work`.
    fn place(&self, number: u32) -> usize {
        self.port.srbs().place(number)
    }

    fn take_srb(&self, inner: &mut Inner) -> u32 {
        while inner.free.len() <= self.port.srbs().resting() {
            match self.port.srbs().grow(self.cpu, inner.grown) {
                // All SRBs have memory.
                Ok(numbers) if numbers.is_empty() => break,
                Ok(numbers) => {
                    inner.grown += numbers.len() as u32;
                    inner.work.resize_with(inner.grown as usize, || None);
                    inner.free.extend(numbers.rev());
                }
                Err(refused) => trap::stop_machine(format_args!(
                    "the machine has no memory for SRBs: {refused}"
                )),
            }
        }
        // The SRB that was used last is in the cache. With all checks, the one that was free
        // longest is better: it reveals late accesses.
        let next = match self.port.settings.checks {
            Checks::Cheap => inner.free.pop_back(),
            Checks::All => inner.free.pop_front(),
        };
        next.unwrap_or_else(|| {
            trap::stop_machine(format_args!(
                "the testbed itself has issued too many requests: please report this bug"
            ))
        })
    }

    /// Calls HwBuildIo and HwStartIo, then runs the DPCs that they queued on this CPU.
    fn send(&self, number: u32, timeout: Duration) {
        let slot = self.port.srbs().slot(number);
        let now = clock::now();
        slot.sent.store(now, Ordering::Relaxed);
        slot.recovery.store(recovery::NONE, Ordering::Relaxed);
        slot.deadline
            .store(now + timeout.as_nanos() as u64, Ordering::Relaxed);
        self.port.srbs().restore(number);
        slot.state.store(state::BUILDING, Ordering::Release);
        if self.build(number) && !self.port.injections.hold_built(number, slot) {
            match self.port.settings.start_io_cpu {
                StartIoCpu::Same => self.start_io(number),
                StartIoCpu::Next => self.start_io_on_next(number),
            }
        }
        self.port.machine.current_cpu().run_dpcs();
    }

    fn start_io_on_next(&self, number: u32) {
        let port = self.port;
        let cpus = port.machine.cpus();
        let next = &cpus[(self.cpu as usize + 1) % cpus.len()];
        next.post(Box::new(move || {
            let before = set_irql(irql::DISPATCH);
            port.cpu_queue(next.number()).start_io(number);
            set_irql(before);
            next.run_dpcs();
        }));
    }

    /// Calls HwBuildIo. Returns whether HwStartIo follows.
    fn build(&self, number: u32) -> bool {
        let port = self.port;
        let slot = port.srbs().slot(number);
        let routine = port.registration().build_io;
        if routine.is_none() {
            return true;
        }
        let arguments = [port.extension(), slot.address()];
        let result = port.call(Callback::HwBuildIo, irql::DISPATCH, routine, arguments);
        if result as u8 == 0 {
            // The miniport completed it or will do so (storport-rules.md S4).
            slot.keep();
            return false;
        }
        let completed = slot.state.load(Ordering::Acquire) == state::COMPLETED;
        if completed {
            port.violation_of(
                Callback::HwBuildIo,
                Rule::SrbBuildIo,
                format_args!(
                    "HwBuildIo returned TRUE for a request (CDB {:02x}) that it completed",
                    port.srbs().view(slot).cdb()[0]
                ),
            );
        }
        !completed
    }

    fn start_io(&self, number: u32) {
        let port = self.port;
        let slot = port.srbs().slot(number);
        let channels = port.locks.channels();
        // With concurrent channels, HwStartIo gets a channel instead of the StartIo lock; in half
        // duplex, it gets the interrupt lock as well (storport-rules.md Callbacks).
        port.lock(match self.cpu.checked_rem(channels) {
            Some(channel) => LockId::Channel(channel),
            None => LockId::StartIo,
        });
        let level = if port.full_duplex() {
            irql::DISPATCH
        } else {
            port.lock(LockId::Interrupt);
            irql::DEVICE
        };
        let started = slot.state.compare_exchange(
            state::BUILDING,
            state::STARTED,
            Ordering::AcqRel,
            Ordering::Relaxed,
        );
        if started.is_ok() {
            self.call_start_io(slot, level);
        } else {
            port.violation_of(
                Callback::HwStartIo,
                Rule::SrbBuildIo,
                format_args!(
                    "a request (CDB {:02x}) was completed after its HwBuildIo had returned TRUE \
                     and before HwStartIo had it",
                    port.srbs().view(slot).cdb()[0]
                ),
            );
        }
        if !port.full_duplex() {
            port.unlock();
        }
        port.unlock();
    }

    fn call_start_io(&self, slot: &Slot, level: u8) {
        let port = self.port;
        let opcode = port.srbs().view(slot).cdb()[0];
        let arguments = [port.extension(), slot.address()];
        let result = port.call(
            Callback::HwStartIo,
            level,
            port.registration().start_io,
            arguments,
        );
        // Only this CPU reuses the SRB, so it still belongs to the same request.
        let own = port.settings.start_io_cpu == StartIoCpu::Same;
        if own && result as u8 == 0 && slot.state.load(Ordering::Acquire) == state::STARTED {
            port.violation_of(
                Callback::HwStartIo,
                Rule::SrbStartIo,
                format_args!(
                    "HwStartIo returned FALSE for a request (CDB {opcode:02x}) that it did not \
                     complete; the miniport keeps it"
                ),
            );
        }
    }

    /// Collects the completed SRBs in the order of completion.
    fn collect_completed(&self, inner: &mut Inner) {
        let mut head = self.completed.swap(0, Ordering::Acquire);
        let srbs = self.port.srbs();
        let mut first = 0;
        while head != 0 {
            let next = &srbs.slot(head - 1).next_completed;
            let after = next.load(Ordering::Relaxed);
            next.store(first, Ordering::Relaxed);
            first = head;
            head = after;
        }
        while first != 0 {
            let number = first - 1;
            first = srbs.slot(number).next_completed.load(Ordering::Relaxed);
            self.collect(inner, number);
        }
    }

    fn collect(&self, inner: &mut Inner, number: u32) {
        let port = self.port;
        let srbs = port.srbs();
        let slot = srbs.slot(number);
        let srb = srbs.view(slot);
        let status = srb.status();
        let place = self.place(number);
        let Some(work) = inner.work.get_mut(place).and_then(Option::take) else {
            return;
        };
        slot.state.store(state::FREE, Ordering::Release);
        if status & STATUS == wdk::SRB_STATUS_BUSY {
            self.delay_busy(inner, number, work);
            return;
        }
        port.leave(work.unit);
        port.statistics.completed(status);
        let latency = Duration::from_nanos(clock::now() - work.arrived);
        let completion = srb.completion(work.request.token, latency);
        if port.srb_shape() == SrbShape::Scsi {
            work.unit.free_tag(slot.tag.load(Ordering::Relaxed));
        }
        inner.free.push_back(number);
        let running = inner.programs.get_mut(work.program).and_then(Option::take);
        if let Some(mut running) = running {
            running.outstanding -= 1;
            self.step(inner, work.program, running, |program, issue| {
                program.completed(completion, issue);
            });
        }
    }

    /// Prepares a BUSY request to be started again after a delay, with a new SRB extension
    /// (storport-rules.md S5). It keeps its SRB, and so its place in the gates: otherwise further
    /// requests would enter, and need more SRBs than there are.
    fn delay_busy(&self, inner: &mut Inner, number: u32, work: Work) {
        let port = self.port;
        let slot = port.srbs().slot(number);
        let srb = port.srbs().view(slot);
        port.statistics.count(Counter::Retried);
        if srb.transfer_length() != slot.data_bytes() {
            port.violation(
                Rule::SrbBusyLength,
                format_args!(
                    "SRB_STATUS_BUSY with a DataTransferLength of {}, not {}",
                    srb.transfer_length(),
                    slot.data_bytes()
                ),
            );
            srb.set_transfer_length(slot.data_bytes());
        }
        srb.renew();
        if let Some(control) = work.control {
            control.write(srb);
        }
        port.srbs().new_extension(slot);
        let place = self.place(number);
        inner.work[place] = Some(work);
        let pause = BUSY_PAUSE;
        inner
            .busy
            .push_back((clock::now() + pause.as_nanos() as u64, number));
        let queue = port.cpu_queue(self.cpu);
        port.machine.clock().after(pause, self.cpu, queue, 0, 0);
    }

    /// Sends BUSY requests whose delay has ended. If a gate was closed meanwhile, they become the
    /// first of the waiting requests.
    fn end_delays(&self, inner: &mut Inner) {
        let now = clock::now();
        while let Some((until, number)) = inner.busy.front().copied() {
            if until > now {
                let rest = Duration::from_nanos(until - now);
                let queue = self.port.cpu_queue(self.cpu);
                self.port.machine.clock().after(rest, self.cpu, queue, 0, 0);
                return;
            }
            inner.busy.pop_front();
            let place = self.place(number);
            if let Some(work) = &inner.work[place] {
                let unit = work.unit;
                if self.port.is_closed(unit) {
                    inner.waiting.push_front(Waiting::Again(number, unit));
                    self.port.wait_at(unit, self.cpu, Position::First);
                    self.port.leave(unit);
                } else {
                    self.send_again(inner, number, unit);
                }
            }
        }
    }

    /// Sends the admitted requests.
    fn start_admitted(&self, inner: &mut Inner) {
        if self.grants.load(Ordering::Acquire) == 0 {
            return;
        }
        let granted = {
            let mut granted = lock(&self.granted);
            self.grants.store(0, Ordering::Relaxed);
            std::mem::take(&mut *granted)
        };
        for unit in granted {
            let first = inner
                .waiting
                .iter()
                .position(|waiting| std::ptr::eq(waiting.unit(), unit));
            match first.and_then(|first| inner.waiting.remove(first)) {
                Some(Waiting::New(work)) => self.start(inner, work),
                Some(Waiting::Again(number, unit)) => self.send_again(inner, number, unit),
                // A queue only waits with a request.
                None => self.port.leave(unit),
            }
        }
    }

    fn send_again(&self, inner: &Inner, number: u32, unit: &'static Unit) {
        let work = inner.work.get(self.place(number)).and_then(Option::as_ref);
        match work {
            Some(work) => {
                let (timeout, _) = self.timeout(&work.request);
                self.send(number, timeout);
            }
            None => self.port.leave(unit),
        }
    }
}

fn vacant(programs: &mut Vec<Option<Running>>) -> usize {
    programs
        .iter()
        .position(Option::is_none)
        .unwrap_or_else(|| {
            programs.push(None);
            programs.len() - 1
        })
}

impl Port {
    /// RequestComplete: completes the SRB at `address`.
    pub(super) fn complete(&'static self, address: usize) {
        let Some(number) = self.try_srbs().and_then(|srbs| srbs.find(address)) else {
            return self.violation(
                Rule::SrbUnknown,
                format_args!("{address:#x} is not an SRB of this adapter"),
            );
        };
        let slot = self.srbs().slot(number);
        let srb = self.srbs().view(slot);
        let taken = slot
            .state
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| {
                matches!(state, state::BUILDING | state::KEPT | state::STARTED)
                    .then_some(state::COMPLETED)
            });
        if taken.is_err() {
            return self.violation(
                Rule::SrbTwice,
                format_args!("the SRB at {address:#x} was completed before"),
            );
        }
        let status = srb.status();
        if status & STATUS == wdk::SRB_STATUS_PENDING || status & wdk::SRB_STATUS_QUEUE_FROZEN != 0
        {
            self.violation(
                Rule::SrbStatus,
                format_args!(
                    "a request (CDB {:02x}) is completed with SrbStatus {status:#04x}",
                    srb.cdb()[0]
                ),
            );
        }
        self.srbs().revoke(number);
        // Without CPU queues the caller polls the state of this SRB.
        if let Some(queues) = self.cpu_queues.get() {
            queues[self.srbs().cpu_of(number) as usize].completed(number);
        }
    }

    /// The SRB at `address`, which the miniport must have. Reports a violation otherwise.
    pub(super) fn srb_of_miniport(&self, address: usize) -> Option<&Slot> {
        let srbs = self.try_srbs()?;
        let slot = srbs
            .find(address)
            .map(|number| srbs.slot(number))
            .filter(|slot| slot.is_out());
        if slot.is_none() {
            self.violation(
                Rule::SrbUnknown,
                format_args!("{address:#x} is not an SRB that the miniport has"),
            );
        }
        slot
    }

    /// Reports an access by the driver to the revoked memory of a completed request, and restores
    /// the access. Returns false for other memory.
    pub(super) fn report_late_access(&self, access: &RevokedAccess) -> bool {
        let Some(srbs) = self.try_srbs() else {
            return false;
        };
        let Some((number, part)) = srbs.containing(access.address) else {
            return false;
        };
        let slot = srbs.slot(number);
        if !slot.is_out() {
            self.violation_at(
                Rule::SrbTouched,
                access,
                format_args!(
                    "{part} of a request (CDB {:02x}) that was completed is {}",
                    srbs.view(slot).cdb()[0],
                    if access.is_write { "written" } else { "read" }
                ),
            );
        }
        srbs.restore(number);
        true
    }

    /// Whether the miniport has an INQUIRY for this unit.
    pub(super) fn has_inquiry_out(&self, unit: u32) -> bool {
        const INQUIRY: u8 = 0x12;
        self.try_srbs().is_some_and(|srbs| {
            srbs.slots().iter().any(|slot| {
                slot.is_out()
                    && slot.unit.load(Ordering::Relaxed) == unit
                    && srbs.view(slot).cdb()[0] == INQUIRY
            })
        })
    }

    /// Why the adapter does not accept a request.
    pub(super) fn refusal(&self, request: &Request) -> Option<String> {
        if !(1..=16).contains(&request.cdb_length) {
            return Some(format!("a CDB of {} bytes", request.cdb_length));
        }
        let data = request.data.as_ref()?;
        let end = data.offset.checked_add(data.bytes as usize);
        let start = data.block.address() + data.offset;
        let configuration = self.configuration();
        if data.bytes == 0 || end.is_none_or(|end| end > Block::len(&data.block)) {
            Some(format!(
                "{} bytes at {} of a buffer of {}",
                data.bytes,
                data.offset,
                data.block.len()
            ))
        } else if data.bytes > configuration.max_transfer_bytes {
            Some(format!(
                "{} bytes, and it transfers {} at most",
                data.bytes, configuration.max_transfer_bytes
            ))
        } else if start & configuration.alignment_mask as usize != 0 {
            Some(format!(
                "data at {start:#x}, and its AlignmentMask is {:#x}",
                configuration.alignment_mask
            ))
        } else {
            None
        }
    }
}
