//! Deferred calls of the miniport: timers, at DISPATCH_LEVEL with the StartIo lock; work items,
//! at PASSIVE_LEVEL on a system worker thread; and state changes.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use super::{
    abi::{
        Routine, Status,
        wdk::{
            STOR_STATUS_BUSY, STOR_STATUS_INSUFFICIENT_RESOURCES, STOR_STATUS_INVALID_DEVICE_STATE,
            STOR_STATUS_INVALID_PARAMETER, STOR_STATUS_SUCCESS, STOR_STATUS_UNSUCCESSFUL,
        },
    },
    callbacks::Callback,
    lock,
    port::Port,
    spin_locks::LockId,
    violations::Rule,
};
use testbed_machine::cpu::{self, Deferred, irql};

#[derive(Debug, Default)]
struct Armed {
    /// The number of the last request: alarms of older requests do nothing.
    number: usize,
    /// The routine and context, if the timer is armed.
    call: Option<(Routine, usize)>,
}

/// A timer of StorPortInitializeTimer, or the adapter's timer of RequestTimerCall.
#[derive(Debug)]
pub(super) struct Timer {
    port: &'static Port,
    callback: Callback,
    armed: Mutex<Armed>,
}

impl Timer {
    /// A timer whose routine runs as `callback`.
    pub(super) fn new(port: &'static Port, callback: Callback) -> &'static Self {
        Box::leak(Box::new(Self {
            port,
            callback,
            armed: Mutex::default(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Armed> {
        lock(&self.armed)
    }

    /// Calls `routine` after `microseconds`; 0 disarms the timer.
    fn set(&'static self, routine: Routine, context: usize, microseconds: u64) {
        let mut armed = self.lock();
        armed.number = armed.number.wrapping_add(1);
        armed.call = (microseconds > 0).then_some((routine, context));
        if microseconds > 0 {
            self.port.machine.clock().after(
                Duration::from_micros(microseconds),
                cpu::current_number(),
                self,
                armed.number,
                0,
            );
        }
    }

    fn is_armed(&self) -> bool {
        self.lock().call.is_some()
    }
}

impl Deferred for Timer {
    fn run(&self, number: usize, _: usize) {
        let mut armed = self.lock();
        let call = if armed.number == number {
            armed.call.take()
        } else {
            None
        };
        drop(armed);
        let Some((routine, context)) = call else {
            return;
        };
        if !self.port.is_awake() {
            return;
        }
        self.port.with_start_io(|level| {
            self.port.call(
                self.callback,
                level,
                routine,
                [self.port.extension(), context],
            );
        });
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Worker {
    /// Not queued: the miniport can free it.
    Idle,
    Queued,
    Running,
}

#[derive(Debug, Default)]
pub(super) struct Later {
    timers: Mutex<HashMap<usize, &'static Timer>>,
    workers: Mutex<HashMap<usize, Worker>>,
    state_change: Mutex<bool>,
}

impl Later {
    /// The timers and work items that were not freed, for the report.
    pub(super) fn leaks(&self) -> Vec<String> {
        let timers = lock(&self.timers).len();
        // A queued or running work item cannot be freed.
        let workers = lock(&self.workers);
        let workers = workers.values().filter(|at| **at == Worker::Idle).count();
        [(timers, "timer"), (workers, "work item")]
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}(s)"))
            .collect()
    }
}

struct StateChange {
    port: &'static Port,
    routine: Routine,
    address: usize,
}

impl Deferred for StateChange {
    fn run(&self, context: usize, _: usize) {
        *lock(&self.port.later.state_change) = false;
        if self.routine.is_none() || self.port.is_stopped() {
            return;
        }
        // STOR_ADDRESS_TYPE_BTL8 is the only type, and the status is a success.
        let address_type = super::abi::wdk::STOR_ADDRESS_TYPE_BTL8 as usize;
        self.port.with_start_io(|level| {
            self.port.call(
                Callback::HwStateChange,
                level,
                self.routine,
                [
                    self.port.extension(),
                    context,
                    address_type,
                    self.address,
                    STOR_STATUS_SUCCESS as usize,
                ],
            );
        });
    }
}

impl Port {
    /// Runs `call` with the StartIo lock, and in half duplex also the interrupt lock
    /// (storport-rules.md Callbacks). Passes the IRQL.
    pub(super) fn with_start_io(&self, call: impl FnOnce(u8)) {
        self.lock(LockId::StartIo);
        if self.full_duplex() {
            call(irql::DISPATCH);
        } else {
            self.lock(LockId::Interrupt);
            call(irql::DEVICE);
            self.unlock();
        }
        self.unlock();
    }

    /// RequestTimerCall, for the adapter's timer.
    pub(super) fn request_timer_call(&'static self, routine: Routine, microseconds: u32) {
        if routine.is_none() && microseconds > 0 {
            return self.violation(
                Rule::Timer,
                format_args!("RequestTimerCall without an HwTimer"),
            );
        }
        self.timer
            .get_or_init(|| Timer::new(self, Callback::HwTimer))
            .set(routine, 0, u64::from(microseconds));
    }

    /// StorPortInitializeTimer. Returns a handle.
    pub(super) fn initialize_timer(&'static self) -> usize {
        let timer = Timer::new(self, Callback::HwTimerEx);
        let handle = std::ptr::from_ref(timer).addr();
        lock(&self.later.timers).insert(handle, timer);
        handle
    }

    pub(super) fn request_timer(
        &self,
        handle: usize,
        routine: Routine,
        context: usize,
        microseconds: u64,
    ) -> Status {
        let timer = lock(&self.later.timers).get(&handle).copied();
        let Some(timer) = timer else {
            return Err(STOR_STATUS_INVALID_PARAMETER);
        };
        if microseconds > 0 && routine.is_none() {
            return Err(STOR_STATUS_INVALID_PARAMETER);
        }
        if microseconds > 0 && timer.is_armed() {
            return Err(STOR_STATUS_BUSY);
        }
        timer.set(routine, context, microseconds);
        Ok(())
    }

    pub(super) fn free_timer(&self, handle: usize) -> Status {
        match lock(&self.later.timers).remove(&handle) {
            Some(timer) => {
                timer.set(Routine::NONE, 0, 0);
                Ok(())
            }
            None => Err(STOR_STATUS_UNSUCCESSFUL),
        }
    }

    /// StorPortInitializeWorker. Returns a handle.
    pub(super) fn initialize_worker(&self) -> usize {
        let handle = std::ptr::from_mut(Box::leak(Box::new(0u64))).addr();
        lock(&self.later.workers).insert(handle, Worker::Idle);
        handle
    }

    pub(super) fn queue_work(
        &'static self,
        handle: usize,
        routine: Routine,
        context: usize,
    ) -> Status {
        if self.is_stopped() {
            return Err(STOR_STATUS_INVALID_DEVICE_STATE);
        }
        let mut workers = lock(&self.later.workers);
        match workers.get_mut(&handle) {
            None => return Err(STOR_STATUS_INVALID_PARAMETER),
            Some(Worker::Queued) => return Err(STOR_STATUS_BUSY),
            Some(at) => *at = Worker::Queued,
        }
        drop(workers);
        let job = move || {
            if !self.is_awake() {
                return;
            }
            // The routine may queue or free the work item again.
            self.move_worker(handle, Worker::Queued, Worker::Running);
            let arguments = [self.extension(), context, handle];
            self.call(Callback::HwWorkItem, irql::PASSIVE, routine, arguments);
            self.move_worker(handle, Worker::Running, Worker::Idle);
        };
        match self.machine.work(Box::new(job)) {
            Ok(()) => Ok(()),
            Err(_) => {
                self.move_worker(handle, Worker::Queued, Worker::Idle);
                Err(STOR_STATUS_INSUFFICIENT_RESOURCES)
            }
        }
    }

    /// Changes the state of a work item, if it exists and is in state `from`.
    fn move_worker(&self, handle: usize, from: Worker, to: Worker) {
        if let Some(at) = lock(&self.later.workers).get_mut(&handle)
            && *at == from
        {
            *at = to;
        }
    }

    pub(super) fn free_worker(&self, handle: usize) -> Status {
        match lock(&self.later.workers).remove(&handle) {
            Some(_) => Ok(()),
            None => Err(STOR_STATUS_INVALID_PARAMETER),
        }
    }

    /// StorPortStateChangeDetected. One state change is processed at a time.
    pub(super) fn state_change(
        &'static self,
        address: usize,
        routine: Routine,
        context: usize,
    ) -> u32 {
        if std::mem::replace(&mut *lock(&self.later.state_change), true) {
            return STOR_STATUS_UNSUCCESSFUL;
        }
        // Leaked, because state changes are rare.
        let change: &'static StateChange = Box::leak(Box::new(StateChange {
            port: self,
            routine,
            address,
        }));
        self.machine.current_cpu().queue_dpc(change, context, 0);
        STOR_STATUS_SUCCESS
    }
}
