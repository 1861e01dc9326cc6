//! An adapter: Storport's state of it, and the calls that Storport makes to its miniport.

use std::{
    collections::{BTreeMap, VecDeque},
    mem::{MaybeUninit, offset_of},
    ptr,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use wdk_sys::{
    _INTERRUPT_SYNCHRONIZATION_MODE, _KINTERRUPT_MODE, _SCSI_ADAPTER_CONTROL_STATUS,
    _SCSI_ADAPTER_CONTROL_TYPE as control, _SCSI_UNIT_CONTROL_STATUS,
    _SCSI_UNIT_CONTROL_TYPE as unit, _STOR_DEVICE_POWER_STATE, _STOR_SPINLOCK,
    _STOR_SYNCHRONIZATION_MODEL, ACCESS_RANGE, HW_FIND_ADAPTER,
    HW_MESSAGE_SIGNALED_INTERRUPT_ROUTINE, HW_PASSIVE_INITIALIZE_ROUTINE, HW_TIMER,
    PORT_CONFIGURATION_INFORMATION, PVOID, SCSI_ADAPTER_CONTROL_TYPE,
    SCSI_SUPPORTED_CONTROL_TYPE_LIST, SCSI_UNIT_CONTROL_TYPE, STOR_ADAPTER_CONTROL_POWER,
    STOR_ADDR_BTL8, STOR_DEVICE_POWER_STATE, STOR_LOCK_HANDLE, STOR_PHYSICAL_ADDRESS,
    STOR_SPINLOCK, STOR_UNIT_CONTROL_POWER, ULONG,
};

use super::{
    Device, Done, Driver, Request,
    deferred::{Deferred, QueuedDpc, RegistryRoutine},
    device::Plain,
    processor::{self, Held, Kind},
    queued_lock::{self, Word},
    request::{Memory, Sent},
};

/// How an adapter interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupts {
    /// By an interrupt line, with HwInterrupt.
    Line,
    /// By this many messages, with HwMSInterruptRoutine.
    Messages(u32),
}

/// The properties of Storport and of the machine for an adapter.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// Its interrupts.
    pub interrupts: Interrupts,
    /// How many concurrent channels are granted if the miniport asks for them, or 0.
    pub channels: u32,
    /// Whether the adapter is in a dump stack.
    pub dump: bool,
}

impl Machine {
    /// An interrupt line, and no concurrent channels.
    pub const LINE: Self = Self::new(Interrupts::Line, 0);

    /// A machine that runs.
    #[must_use]
    pub const fn new(interrupts: Interrupts, channels: u32) -> Self {
        Self {
            interrupts,
            channels,
            dump: false,
        }
    }
}

/// An adapter. Its processors are the threads that call its methods.
pub struct Adapter {
    driver: Driver,
    pub(super) machine: Machine,
    extension: Memory,
    /// The memory at whose address the registers are mapped. Its contents are not used.
    pub(super) registers: Memory,
    pub(super) device: Arc<dyn Device>,
    /// The performance counter, in milliseconds.
    pub(super) milliseconds: AtomicU64,
    /// Whether requests are paused: StorPortPause was called, and no StorPortResume after it.
    pub(super) paused: AtomicBool,
    pub(super) uncached: OnceLock<(Memory, ULONG)>,
    message_routine: OnceLock<HW_MESSAGE_SIGNALED_INTERRUPT_ROUTINE>,
    /// Whether the miniport asked for a lock for each message.
    per_message: OnceLock<bool>,
    /// The routine that HwInitialize enabled after the last HwFindAdapter.
    pub(super) passive_initialize: Mutex<HW_PASSIVE_INITIALIZE_ROUTINE>,
    /// Whether concurrent channels were granted.
    pub(super) concurrent: AtomicBool,
    start_io: Word,
    interrupt: Word,
    messages: Vec<AtomicBool>,
    /// The tokens of the channels. HwStartIo takes the token of its channel, and HwResetBus takes
    /// all (storport-rules.md Callbacks).
    channel_tokens: Vec<AtomicBool>,
    pub(super) dpcs: Mutex<VecDeque<QueuedDpc>>,
    pub(super) timer: Mutex<HW_TIMER>,
    pub(super) work: Mutex<VecDeque<Deferred>>,
    pub(super) state_changes: Mutex<VecDeque<Deferred>>,
    pub(super) registry: Mutex<RegistryRoutine>,
    /// Whether StorPortGetSystemAddress fails.
    pub(super) maps_nothing: AtomicBool,
    /// The pool and the workers that the miniport has allocated and not freed, by address.
    pub(super) allocations: Mutex<BTreeMap<usize, Memory>>,
    outstanding: Arc<AtomicUsize>,
}

// SAFETY: The miniport synchronises its accesses to the memory. The other fields are types of
// `std` that threads may share, and the table of functions.
unsafe impl Sync for Adapter {}
// SAFETY: As above.
unsafe impl Send for Adapter {}

/// The physical address of the adapter's registers.
pub(super) const REGISTERS_AT: u64 = 0xFE00_0000;

/// Calls a routine that the miniport has registered.
macro_rules! call {
    ($routine:expr $(, $argument:expr)* $(,)?) => {{
        let routine = $routine.expect(stringify!($routine));
        // SAFETY: The arguments are those that `storport.h` requires.
        unsafe { routine($($argument),*) }
    }};
}

fn power_state(on: bool) -> STOR_DEVICE_POWER_STATE {
    if on {
        _STOR_DEVICE_POWER_STATE::StorPowerDeviceD0
    } else {
        _STOR_DEVICE_POWER_STATE::StorPowerDeviceD3
    }
}

fn unit_address() -> STOR_ADDR_BTL8 {
    STOR_ADDR_BTL8 {
        Type: wdk_sys::STOR_ADDRESS_TYPE_BTL8 as u16,
        AddressLength: wdk_sys::STOR_ADDR_BTL8_ADDRESS_LENGTH,
        Path: 1,
        Target: 2,
        Lun: 3,
        ..Default::default()
    }
}

fn truth(boolean: u8) -> bool {
    // Miri reports a field that the miniport did not initialise.
    boolean != 0
}

impl Adapter {
    /// Makes an adapter of `driver`. No callback was made yet.
    #[must_use]
    pub fn new(driver: &Driver, machine: Machine) -> Self {
        Self::with_device(driver, machine, Arc::new(Plain::new()))
    }

    /// Makes an adapter as [`new`](Self::new) does, with this device.
    #[must_use]
    pub fn with_device(driver: &Driver, machine: Machine, device: Arc<dyn Device>) -> Self {
        let count = match machine.interrupts {
            Interrupts::Line => 0,
            Interrupts::Messages(count) => count,
        };
        Self {
            driver: *driver,
            machine,
            extension: Memory::zeroed(driver.table.DeviceExtensionSize as usize),
            registers: Memory::uninitialised(device.length() as usize),
            device,
            milliseconds: AtomicU64::new(2500),
            paused: AtomicBool::new(false),
            uncached: OnceLock::new(),
            message_routine: OnceLock::new(),
            per_message: OnceLock::new(),
            passive_initialize: Mutex::default(),
            concurrent: AtomicBool::new(false),
            start_io: Word::default(),
            interrupt: Word::default(),
            messages: (0..count).map(|_| AtomicBool::new(false)).collect(),
            channel_tokens: (0..machine.channels)
                .map(|_| AtomicBool::new(false))
                .collect(),
            dpcs: Mutex::default(),
            timer: Mutex::default(),
            work: Mutex::default(),
            state_changes: Mutex::default(),
            registry: Mutex::default(),
            maps_nothing: AtomicBool::new(false),
            allocations: Mutex::default(),
            outstanding: Arc::default(),
        }
    }

    /// The HwDeviceExtension.
    pub(super) fn extension(&self) -> PVOID {
        self.extension.at::<u8>(0).cast()
    }

    /// Finds and initialises the adapter, as Storport does at start.
    ///
    /// # Panics
    /// A callback fails.
    pub fn start(&self) {
        assert!(self.find(), "HwFindAdapter");
        assert!(self.initialize(), "HwInitialize");
        assert!(self.passive_initialize(), "HwPassiveInitialize");
    }

    /// HwFindAdapter. Returns whether the miniport found its device.
    pub fn find(&self) -> bool {
        *self.passive_initialize.lock().expect("no panic") = None;
        let messages = !self.messages.is_empty() && !self.machine.dump;
        let mut ranges = [ACCESS_RANGE {
            RangeStart: STOR_PHYSICAL_ADDRESS {
                QuadPart: REGISTERS_AT as i64,
            },
            RangeLength: self.device.length(),
            RangeInMemory: 1,
        }];
        let mut config = PORT_CONFIGURATION_INFORMATION {
            Length: size_of::<PORT_CONFIGURATION_INFORMATION>() as ULONG,
            InterruptMode: if messages {
                _KINTERRUPT_MODE::Latched
            } else {
                _KINTERRUPT_MODE::LevelSensitive
            },
            NumberOfAccessRanges: 1,
            AccessRanges: ranges.as_mut_ptr().cast(),
            DumpMode: u8::from(self.machine.dump),
            SrbExtensionSize: self.driver.table.SrbExtensionSize,
            ..Default::default()
        };
        // SAFETY: The driver registered a function of this type, or null.
        let routine: HW_FIND_ADAPTER =
            unsafe { std::mem::transmute(self.driver.table.HwFindAdapter) };
        let mut again = 0;
        let arguments = if self.machine.dump {
            c"dump=1;".as_ptr().cast_mut()
        } else {
            ptr::null_mut()
        };
        let answer = processor::callback(self, || {
            call!(
                routine,
                self.extension(),
                ptr::null_mut(),
                ptr::null_mut(),
                arguments.cast(),
                &raw mut config,
                &raw mut again,
            )
        });
        if answer != wdk_sys::SP_RETURN_FOUND {
            return false;
        }
        assert_eq!(
            config.SynchronizationModel,
            _STOR_SYNCHRONIZATION_MODEL::StorSynchronizeFullDuplex
        );
        // This assumes that HwFindAdapter ends a pause. Callbacks from before the stop may pause
        // requests until then.
        self.paused.store(false, Ordering::Relaxed);
        assert!(config.MaximumTransferLength != 0 && config.NumberOfPhysicalBreaks != 0);
        if messages && config.HwMSInterruptRoutine.is_some() {
            let per_message = config.InterruptSynchronizationMode
                == _INTERRUPT_SYNCHRONIZATION_MODE::InterruptSynchronizePerMessage;
            let _ = self.message_routine.set(config.HwMSInterruptRoutine);
            let _ = self.per_message.set(per_message);
        }
        true
    }

    /// HwInitialize.
    pub fn initialize(&self) -> bool {
        self.holding(Kind::Interrupt, || {
            truth(call!(self.driver.table.HwInitialize, self.extension()))
        })
    }

    /// HwPassiveInitialize, if the miniport enabled it. Returns true if it did not.
    pub fn passive_initialize(&self) -> bool {
        let routine = *self.passive_initialize.lock().expect("no panic");
        let run = || truth(call!(routine, self.extension()));
        routine.is_none() || processor::callback(self, run)
    }

    /// Sends a request from processor `processor` to HwBuildIo and then to HwStartIo. The result
    /// is set when the miniport completes the request.
    pub fn send(&self, processor: usize, request: &Request) -> Arc<OnceLock<Done>> {
        processor::set_number(3 - processor as u8);
        let bytes = self.driver.table.SrbExtensionSize;
        let (block, done) = Sent::srb(request, bytes, Arc::clone(&self.outstanding));
        let go_on = processor::callback(self, || {
            truth(call!(self.driver.table.HwBuildIo, self.extension(), block))
        });
        if !go_on {
            return done;
        }
        let run = || truth(call!(self.driver.table.HwStartIo, self.extension(), block));
        let started = if self.concurrent.load(Ordering::Relaxed) {
            let channel = processor % self.channel_tokens.len();
            take(&self.channel_tokens[channel]);
            let started = processor::callback(self, run);
            give_back(&self.channel_tokens[channel]);
            started
        } else {
            self.holding(Kind::StartIo, run)
        };
        assert!(
            started,
            "what false does is undocumented (storport-rules.md S6)"
        );
        done
    }

    /// The device whose registers contain `address`, and the offset in the registers.
    pub(super) fn register(&self, address: usize) -> (&dyn Device, usize) {
        let offset = address - self.registers.at::<u8>(0).addr();
        assert!(offset < self.device.length() as usize);
        (&*self.device, offset)
    }

    /// Advances the time.
    pub fn pass(&self, milliseconds: u64) {
        self.milliseconds.fetch_add(milliseconds, Ordering::Relaxed);
    }

    /// Whether the miniport has paused requests.
    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// The number of requests that the miniport has not completed.
    pub fn outstanding(&self) -> usize {
        self.outstanding.load(Ordering::Relaxed)
    }

    /// HwInterrupt. Returns whether the miniport says that its device interrupted.
    pub fn interrupt(&self) -> bool {
        self.holding(Kind::Interrupt, || {
            truth(call!(self.driver.table.HwInterrupt, self.extension()))
        })
    }

    /// HwMSInterruptRoutine.
    pub fn message(&self, message: u32) -> bool {
        let routine = self.message_routine.get().copied().flatten();
        let run = || truth(call!(routine, self.extension(), message));
        if !self.has_message_locks() {
            return self.holding(Kind::Interrupt, run);
        }
        self.acquire_message(message);
        let ours = processor::callback(self, run);
        self.release_message(message);
        ours
    }

    /// Runs the queued DPCs on this processor. Returns how many there were.
    pub fn run_dpcs(&self) -> usize {
        let mut count = 0;
        loop {
            let next = self.dpcs.lock().expect("no panic").pop_front();
            let Some(queued) = next else { return count };
            processor::callback(self, || queued.run(self.extension()));
            count += 1;
        }
    }

    /// HwTimer, if a timer is requested. Returns whether there was one.
    pub fn run_timer(&self) -> bool {
        self.expire_timer().map(|run| run()).is_some()
    }

    /// Lets the timer expire, if one is requested. Returns the call of HwTimer, which may come at
    /// any later time.
    pub fn expire_timer(&self) -> Option<impl FnOnce()> {
        let routine = self.timer.lock().expect("no panic").take();
        let run = move || self.holding(Kind::StartIo, || call!(routine, self.extension()));
        routine.is_some().then_some(run)
    }

    /// HwWorkItem, for the work item that was queued first. Returns whether there was one.
    pub fn run_work(&self) -> bool {
        let item = self.work.lock().expect("no panic").pop_front();
        item.is_some_and(|Deferred(run)| {
            processor::callback(self, || run(self.extension()));
            true
        })
    }

    /// HwStateChange, for the state change that was reported first. Returns whether there was one.
    pub fn run_state_change(&self) -> bool {
        let change = self.state_changes.lock().expect("no panic").pop_front();
        change.is_some_and(|Deferred(run)| {
            self.holding(Kind::StartIo, || run(self.extension()));
            true
        })
    }

    /// HwRegistryNotification, if it is enabled. Returns whether it is.
    pub fn run_registry(&self) -> bool {
        let routine = *self.registry.lock().expect("no panic");
        if routine.is_some() {
            processor::callback(self, || call!(routine, self.extension()));
        }
        routine.is_some()
    }

    /// HwTracingEnabled.
    pub fn tracing(&self, enabled: bool) {
        let routine = self.driver.table.HwTracingEnabled;
        processor::callback(self, || call!(routine, self.extension(), enabled.into()));
    }

    /// HwAdapterControl(ScsiAdapterPower).
    pub fn adapter_power(&self, on: bool) -> bool {
        let mut power = STOR_ADAPTER_CONTROL_POWER {
            PowerState: power_state(on),
            ..Default::default()
        };
        self.control(control::ScsiAdapterPower, (&raw mut power).cast())
    }

    /// HwAdapterControl(ScsiAdapterSurpriseRemoval).
    pub fn surprise_removal(&self) -> bool {
        self.control(control::ScsiAdapterSurpriseRemoval, ptr::null_mut())
    }

    /// HwUnitControl of unit 1:2:3.
    pub fn unit_control(&self, control: SCSI_UNIT_CONTROL_TYPE) -> bool {
        let mut address = unit_address();
        self.control_unit(control, (&raw mut address).cast())
    }

    /// HwUnitControl(ScsiUnitPower) of unit 1:2:3.
    pub fn unit_power(&self, on: bool) -> bool {
        let mut address = unit_address();
        let mut power = STOR_UNIT_CONTROL_POWER {
            Address: (&raw mut address).cast(),
            PowerState: power_state(on),
            ..Default::default()
        };
        self.control_unit(unit::ScsiUnitPower, (&raw mut power).cast())
    }

    fn control_unit(&self, control: SCSI_UNIT_CONTROL_TYPE, parameters: PVOID) -> bool {
        let routine = self.driver.table.HwUnitControl;
        let run = || call!(routine, self.extension(), control, parameters);
        let status = processor::callback(self, run);
        status == _SCSI_UNIT_CONTROL_STATUS::ScsiUnitControlSuccess
    }

    /// Makes StorPortGetSystemAddress fail, or succeed again.
    pub fn map_nothing(&self, fails: bool) {
        self.maps_nothing.store(fails, Ordering::Relaxed);
    }

    /// How many allocations the miniport has not freed.
    pub fn allocations(&self) -> usize {
        self.allocations.lock().expect("no panic").len()
    }

    /// Allocates pool or the memory of a worker (StorPortAllocatePool, StorPortInitializeWorker).
    pub(super) fn allocate(&self, bytes: ULONG) -> PVOID {
        let memory = Memory::uninitialised(bytes as usize);
        let address = memory.at::<u8>(0);
        let mut all = self.allocations.lock().expect("no panic");
        all.insert(address.addr(), memory);
        address.cast()
    }

    /// Frees pool or a worker (StorPortFreePool, StorPortFreeWorker).
    pub(super) fn free(&self, address: PVOID) {
        let mut all = self.allocations.lock().expect("no panic");
        let memory = all.remove(&address.addr());
        assert!(
            memory.is_some(),
            "Storport: memory is freed that is not allocated"
        );
    }

    /// HwResetBus of path 0.
    pub fn reset_bus(&self) -> bool {
        self.channel_tokens.iter().for_each(take);
        let result = self.holding(Kind::StartIo, || {
            truth(call!(self.driver.table.HwResetBus, self.extension(), 0))
        });
        self.channel_tokens.iter().for_each(give_back);
        result
    }

    /// HwAdapterControl(ScsiStopAdapter).
    ///
    /// # Panics
    /// Requests are outstanding.
    pub fn stop(&self) -> bool {
        assert_eq!(self.outstanding(), 0);
        self.control(control::ScsiStopAdapter, ptr::null_mut())
    }

    /// HwAdapterControl(ScsiRestartAdapter).
    pub fn restart(&self) -> bool {
        self.control(control::ScsiRestartAdapter, ptr::null_mut())
    }

    /// HwAdapterControl(ScsiQuerySupportedControlTypes). Returns whether each of the first
    /// `count` types is supported.
    pub fn supported_controls(&self, count: u32) -> Vec<bool> {
        let head = offset_of!(SCSI_SUPPORTED_CONTROL_TYPE_LIST, SupportedTypeList);
        let bytes = head + count as usize;
        let list = Memory::zeroed(bytes.next_multiple_of(4));
        // SAFETY: The field lies in the memory of the list.
        unsafe { list.at::<ULONG>(0).write(count) };
        assert!(self.control(
            control::ScsiQuerySupportedControlTypes,
            list.at::<u8>(0).cast()
        ));
        (head..bytes)
            // SAFETY: The entry was zeroed above, and the miniport may have written to it.
            .map(|offset| truth(unsafe { list.at::<u8>(offset).read() }))
            .collect()
    }

    fn control(&self, control: SCSI_ADAPTER_CONTROL_TYPE, parameters: PVOID) -> bool {
        let routine = self.driver.table.HwAdapterControl;
        let run = || call!(routine, self.extension(), control, parameters);
        let status = processor::callback(self, run);
        status == _SCSI_ADAPTER_CONTROL_STATUS::ScsiAdapterControlSuccess
    }

    /// Runs a callback while one of Storport's locks is held. In a dump stack there are no locks.
    pub(super) fn holding<R>(&self, kind: Kind, run: impl FnOnce() -> R) -> R {
        if self.machine.dump {
            return processor::callback(self, run);
        }
        let mut handle = MaybeUninit::<STOR_LOCK_HANDLE>::uninit();
        let handle = handle.as_mut_ptr();
        let lock = match kind {
            Kind::StartIo => _STOR_SPINLOCK::StartIoLock,
            Kind::Dpc => unreachable!("Storport holds none of these"),
            Kind::Interrupt => _STOR_SPINLOCK::InterruptLock,
        };
        // SAFETY: The handle stays in this frame until the release.
        unsafe { self.acquire(lock, ptr::null(), handle) };
        let result = processor::callback(self, run);
        // SAFETY: The lock was acquired above with this handle.
        unsafe { self.release(handle) };
        result
    }

    fn has_message_locks(&self) -> bool {
        self.per_message.get().copied().unwrap_or(false)
    }

    /// StorPortAcquireMSISpinLock.
    pub(super) fn acquire_message(&self, message: u32) {
        // Rule StorPortMSILock.
        assert!(
            self.has_message_locks(),
            "Storport: messages have no locks of their own"
        );
        processor::takes(Held {
            kind: Kind::Interrupt,
            by: message as usize,
        });
        take(&self.messages[message as usize]);
    }

    /// StorPortReleaseMSISpinLock.
    pub(super) fn release_message(&self, message: u32) {
        give_back(&self.messages[message as usize]);
        processor::releases(message as usize);
    }

    /// StorPortAcquireSpinLock.
    ///
    /// # Safety
    /// `handle` is valid and does not move until [`release`](Self::release). `dpc` is null or the
    /// lock of a DPC object.
    pub(super) unsafe fn acquire(
        &self,
        lock: STOR_SPINLOCK,
        dpc: *const Word,
        handle: *mut STOR_LOCK_HANDLE,
    ) {
        assert!(
            !self.machine.dump,
            "Storport: a lock is taken in a dump stack"
        );
        let (kind, word) = match lock {
            _STOR_SPINLOCK::StartIoLock => (Kind::StartIo, &raw const self.start_io),
            _STOR_SPINLOCK::DpcLock
            | _STOR_SPINLOCK::ThreadedDpcLock
            | _STOR_SPINLOCK::DpcLevelLock => (Kind::Dpc, dpc),
            _STOR_SPINLOCK::InterruptLock => (Kind::Interrupt, &raw const self.interrupt),
            other => panic!("Storport: unknown kind of lock {other}"),
        };
        assert!(
            !word.is_null(),
            "Storport: a DPC lock is taken without its DPC object"
        );
        processor::takes(Held {
            kind,
            by: handle.addr(),
        });
        // SAFETY: The caller's promise. The other locks are fields of the adapter.
        let word = unsafe { &*word };
        // SAFETY: The caller's promise.
        unsafe { queued_lock::acquire(word, lock, handle) };
        // The locks of all messages, in ascending order (storport-rules.md O5).
        if kind == Kind::Interrupt && self.has_message_locks() {
            self.messages.iter().for_each(take);
        }
    }

    /// StorPortReleaseSpinLock.
    ///
    /// # Safety
    /// [`acquire`](Self::acquire) filled `handle`.
    pub(super) unsafe fn release(&self, handle: *mut STOR_LOCK_HANDLE) {
        let kind = processor::releases(handle.addr());
        if kind == Kind::Interrupt && self.has_message_locks() {
            self.messages.iter().for_each(give_back);
        }
        // SAFETY: The caller's promise.
        unsafe { queued_lock::release(handle) };
    }
}

impl Drop for Adapter {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.outstanding(), 0, "requests that were never completed");
        }
    }
}

fn take(lock: &AtomicBool) {
    queued_lock::spin("a message's lock or a channel's token", || {
        (!lock.swap(true, Ordering::Acquire)).then_some(())
    });
}

fn give_back(lock: &AtomicBool) {
    lock.store(false, Ordering::Release);
}
