//! The miniport of the tests: it is correct, except for the actions that a test takes in its
//! callbacks.
#![expect(unsafe_code, reason = "plays a driver")]

use std::{
    cell::Cell,
    mem,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use super::{
    super::{
        abi::wdk::{DpcLevelLock, DpcLock, ThreadedDpcLock},
        exports, lock,
    },
    bench::*,
};

/// An action of a miniport in a callback, correct or wrong.
pub(super) type Action = fn(&Context);

/// SRB_STATUS values.
pub(super) const SUCCESS: u8 = 0x01;
pub(super) const ERROR: u8 = 0x04;
pub(super) const BUSY: u8 = 0x05;
pub(super) const INVALID_REQUEST: u8 = 0x06;
pub(super) const BUS_RESET: u8 = 0x0E;

/// The offsets in a miniport's own memory.
pub(super) const FIRST_DPC: usize = 0;
pub(super) const SECOND_DPC: usize = 128;
pub(super) const THREADED_DPC: usize = 256;
const HANDLES: usize = 512;
/// Zeros.
pub(super) const EMPTY: usize = 1024;
pub(super) const NOTE: usize = 1536;
const MEMORY: usize = 4096;

type Hook = Box<dyn Fn(&Context) + Send + Sync>;

/// A miniport. Its callbacks take the test's actions, in their order until one answers. Without
/// an answer, they do what is correct.
pub(super) struct Miniport {
    actions: Vec<(Option<Callback>, Hook)>,
    memory: Scratch,
    /// The SRBs that it keeps, to complete them later.
    kept: Mutex<Vec<usize>>,
    turns: AtomicUsize,
}

impl Miniport {
    pub(super) fn new() -> Self {
        let memory = Scratch::new(MEMORY);
        memory.at(0).fill(MEMORY, 0);
        Self {
            actions: Vec::new(),
            memory,
            kept: Mutex::default(),
            turns: AtomicUsize::new(0),
        }
    }

    /// With this action in `callback`.
    pub(super) fn on(
        self,
        callback: Callback,
        action: impl Fn(&Context) + Send + Sync + 'static,
    ) -> Self {
        self.on_any(Some(callback), action)
    }

    /// With this action in a callback; `None` means all.
    pub(super) fn on_any(
        mut self,
        callback: Option<Callback>,
        action: impl Fn(&Context) + Send + Sync + 'static,
    ) -> Self {
        self.actions.push((callback, Box::new(action)));
        self
    }

    /// How often [`Context::turn`] was called.
    pub(super) fn turns(&self) -> usize {
        self.turns.load(Ordering::SeqCst)
    }

    /// The answer of the test's actions.
    fn act(&self, context: &Context) -> Option<u32> {
        self.actions
            .iter()
            .filter(|(callback, _)| callback.is_none_or(|only| only == context.callback))
            .find_map(|(_, action)| {
                action(context);
                context.answer.take()
            })
    }
}

static MINIPORTS: Mutex<Vec<(&'static Port, &'static Miniport)>> = Mutex::new(Vec::new());

/// Makes `miniport` that of `port`. Returns the driver's entry point.
pub(super) fn install(port: &'static Port, miniport: &'static Miniport) -> Routine {
    let mut all = lock(&MINIPORTS);
    all.push((port, miniport));
    // SAFETY: the function of a driver that consists of this file.
    unsafe { Routine::at(driver_entry as *const () as usize) }
}

/// The adapter whose callback runs, and its miniport.
fn current() -> (&'static Port, &'static Miniport) {
    let port = callbacks::current_port().expect("a callback runs");
    let all = lock(&MINIPORTS);
    let found = all.iter().find(|(of, _)| std::ptr::eq(*of, port));
    *found.expect("the miniport was installed")
}

/// The routine of all callbacks. It finds out which one runs.
pub(super) fn routine() -> usize {
    called as *const () as usize
}

extern "win64" fn driver_entry(object: usize, path: usize) -> u32 {
    let data = Scratch::new(init::SIZE);
    let data = data.at(0);
    data.fill(init::SIZE, 0);
    data.set(init::HwInitializationDataSize, init::SIZE as u32);
    data.set(init::AdapterInterfaceType, 5);
    for field in [
        init::HwInitialize,
        init::HwStartIo,
        init::HwInterrupt,
        init::HwFindAdapter,
        init::HwResetBus,
        init::HwAdapterControl,
        init::HwBuildIo,
    ] {
        data.set(field, routine());
    }
    for flag in [
        init::NeedPhysicalAddresses,
        init::TaggedQueuing,
        init::AutoRequestSense,
        init::MultipleRequestPerLu,
    ] {
        data.set(flag, 1);
    }
    data.set(init::MapBuffers, 2);
    data.set(init::DeviceExtensionSize, 256);
    data.set(init::SrbExtensionSize, 64);
    data.set(
        init::SrbTypeFlags,
        wdk::SRB_TYPE_FLAG_SCSI_REQUEST_BLOCK | wdk::SRB_TYPE_FLAG_STORAGE_REQUEST_BLOCK,
    );
    data.set(init::AddressTypeFlags, wdk::ADDRESS_TYPE_FLAG_BTL8);
    let context = Context::new([0, data.address(), 0, 0, 0, 0]);
    context.miniport.act(&context);
    ddi("StorPortInitialize", [object, path, data.address()]) as u32
}

extern "win64" fn called(a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> usize {
    /// The upper part of a result in RAX, which a C compiler leaves undefined: above a BOOLEAN in
    /// AL, or above a ULONG in EAX.
    const UNDEFINED: usize = 0xABCD_EF01_ABCD_EF00;
    let context = Context::new([a, b, c, d, e, f]);
    context.prepare();
    let answer = context.miniport.act(&context);
    let answer = answer.unwrap_or_else(|| context.do_right());
    let undefined = match context.callback {
        Callback::HwFindAdapter | Callback::HwAdapterControl | Callback::HwUnitControl => {
            UNDEFINED >> 32 << 32
        }
        _ => UNDEFINED,
    };
    undefined | answer as usize
}

/// The callback that an action is taken in, and what the miniport does there.
pub(super) struct Context {
    pub(super) callback: Callback,
    /// HwDeviceExtension.
    pub(super) ext: usize,
    /// The argument that matters: the address of a structure, an SRB or a DPC, or a number.
    pub(super) about: usize,
    pub(super) arguments: [usize; 6],
    miniport: &'static Miniport,
    is_dump: bool,
    answer: Cell<Option<u32>>,
}

impl Context {
    fn new(arguments: [usize; 6]) -> Self {
        use Callback::{HwAdapterControl, HwDpcRoutine, HwFindAdapter, HwUnitControl};
        let callback = callbacks::current();
        let [first, second, third, _, fifth, _] = arguments;
        let (ext, about) = match callback {
            HwDpcRoutine => (second, first),
            HwFindAdapter => (first, fifth),
            HwAdapterControl | HwUnitControl if second == 0 => (first, third),
            _ => (first, second),
        };
        let (port, miniport) = current();
        Self {
            callback,
            ext,
            about,
            arguments,
            miniport,
            is_dump: port.is_dump(),
            answer: Cell::new(None),
        }
    }

    /// What the miniport does before the test's actions.
    fn prepare(&self) {
        if self.callback == Callback::HwFindAdapter {
            let to = self.structure();
            to.set(info::MaximumTransferLength, 1 << 20);
            to.set(info::NumberOfPhysicalBreaks, 258);
            to.set(info::SynchronizationModel, wdk::StorSynchronizeFullDuplex);
            to.set(info::HwMSInterruptRoutine, routine());
            to.set(
                info::InterruptSynchronizationMode,
                wdk::InterruptSynchronizePerMessage,
            );
            to.set(info::NumberOfBuses, 1);
            to.set(info::MaximumNumberOfTargets, 2);
            to.set(info::MaximumNumberOfLogicalUnits, 1);
        }
        if self.callback == Callback::HwPassiveInitialize {
            self.initialize_dpc(self.own(FIRST_DPC));
            self.initialize_dpc(self.own(SECOND_DPC));
            self.notify(0x100A, [self.own(THREADED_DPC), routine()]);
        }
    }

    /// Does what is correct, and returns the callback's result.
    fn do_right(&self) -> u32 {
        match self.callback {
            Callback::HwInitialize => {
                u32::from(self.is_dump || self.enable_passive_initialization())
            }
            Callback::HwStartIo => {
                self.complete(SUCCESS);
                1
            }
            Callback::HwResetBus if self.is_dump => 0,
            Callback::HwResetBus => {
                self.complete_kept(BUS_RESET);
                1
            }
            Callback::HwAdapterControl | Callback::HwUnitControl => {
                if self.is_query() {
                    self.supports(&[wdk::ScsiStopAdapter, wdk::ScsiRestartAdapter]);
                }
                wdk::ScsiAdapterControlSuccess
            }
            _ => 1,
        }
    }

    /// Takes an action in this callback only.
    pub(super) fn at<T>(&self, callback: Callback, action: impl Fn(&Self) -> T) {
        if self.callback == callback {
            action(self);
        }
    }

    /// The address of the miniport's own memory at this offset.
    pub(super) fn own(&self, offset: usize) -> usize {
        self.miniport.memory.address() + offset
    }

    pub(super) fn structure(&self) -> Structure {
        structure(self.about)
    }

    /// The callback returns this: a BOOLEAN or a ULONG.
    pub(super) fn answer(&self, answer: u32) {
        self.answer.set(Some(answer));
    }

    /// Whether HwAdapterControl or HwUnitControl is asked for its types.
    pub(super) fn is_query(&self) -> bool {
        let is_control = [Callback::HwAdapterControl, Callback::HwUnitControl];
        is_control.contains(&self.callback) && self.arguments[1] == 0
    }

    /// Whether this is ScsiStopAdapter.
    pub(super) fn is_stop(&self) -> bool {
        self.is_control(wdk::ScsiStopAdapter)
    }

    /// Whether this is HwAdapterControl for `kind`.
    pub(super) fn is_control(&self, kind: u32) -> bool {
        self.callback == Callback::HwAdapterControl && self.arguments[1] == kind as usize
    }

    /// Answers the query for control types: these are supported, and no others.
    pub(super) fn supports(&self, kinds: &[u32]) {
        let list = self
            .structure()
            .offset(abi::scsi_supported_control_type_list::SupportedTypeList.offset());
        for kind in kinds {
            list.offset(*kind as usize).set(abi::value(), 1u8);
        }
        self.answer(wdk::ScsiAdapterControlSuccess);
    }

    /// Calls an export with HwDeviceExtension and these arguments.
    pub(super) fn ddi<const N: usize>(&self, name: &str, arguments: [usize; N]) -> usize {
        self.dispatch(name, &[], &arguments)
    }

    pub(super) fn notify<const N: usize>(&self, kind: u32, arguments: [usize; N]) {
        self.dispatch("StorPortNotification", &[kind as usize], &arguments);
    }

    /// Calls an extended function.
    pub(super) fn call<const N: usize>(&self, code: u32, arguments: [usize; N]) -> u32 {
        self.dispatch("StorPortExtendedFunction", &[code as usize], &arguments) as u32
    }

    fn dispatch(&self, export: &str, selector: &[usize], arguments: &[usize]) -> usize {
        let mut all = [0; MOST_ARGUMENTS];
        let given = [selector, &[self.ext], arguments].concat();
        all[..given.len()].copy_from_slice(&given);
        ddi(export, all)
    }

    /// Calls an extended function with these arguments and an address for its result. Returns
    /// the result and the status.
    pub(super) fn results<const N: usize>(&self, code: u32, arguments: [usize; N]) -> (usize, u32) {
        let (result, status) = with_result(|to| {
            let mut all = [to; 7];
            all[..N].copy_from_slice(&arguments);
            self.call(code, all) as usize
        });
        (result, status as u32)
    }

    /// The result of [`Self::results`].
    pub(super) fn result<const N: usize>(&self, code: u32, arguments: [usize; N]) -> usize {
        self.results(code, arguments).0
    }

    pub(super) fn enable_passive_initialization(&self) -> bool {
        with_result::<u8>(|to| {
            self.notify(0x1000, [routine(), to]);
            0
        })
        .0 == 1
    }

    pub(super) fn initialize_dpc(&self, dpc: usize) {
        self.notify(0x1001, [dpc, routine()]);
    }

    pub(super) fn issue_dpc(&self, dpc: usize, first: usize, second: usize) -> bool {
        with_result::<u8>(|to| {
            self.notify(0x1002, [dpc, first, second, to]);
            0
        })
        .0 == 1
    }

    /// STOR_LOCK_HANDLE number `handle`.
    pub(super) fn handle(&self, handle: usize) -> usize {
        self.own(HANDLES) + handle * stor_lock_handle::SIZE
    }

    /// The lock context of StorPortAcquireSpinLock for this kind of lock.
    pub(super) fn context(&self, lock: u32) -> usize {
        if [DpcLock, DpcLevelLock].contains(&lock) {
            self.own(FIRST_DPC)
        } else if lock == ThreadedDpcLock {
            self.own(THREADED_DPC)
        } else {
            0
        }
    }

    pub(super) fn acquire(&self, lock: u32, handle: usize) {
        self.acquire_at(lock, self.context(lock), self.handle(handle));
    }

    pub(super) fn acquire_at(&self, lock: u32, context: usize, handle: usize) {
        self.notify(0x1003, [lock as usize, context, handle]);
    }

    /// StorPortAcquireSpinLockEx.
    pub(super) fn acquire_ex(&self, lock: u32, context: usize, handle: usize) -> u32 {
        let handle = self.handle(handle);
        self.call(93, [lock as usize, context, handle])
    }

    pub(super) fn release(&self, handle: usize) {
        self.release_at(self.handle(handle));
    }

    pub(super) fn release_at(&self, handle: usize) {
        self.notify(0x1004, [handle]);
    }

    /// StorPortAcquireMSISpinLock: status and old IRQL.
    pub(super) fn acquire_message(&self, message: u32) -> (u32, u32) {
        let (irql, status) = self.results(11, [message as usize]);
        (status, irql as u32)
    }

    pub(super) fn release_message(&self, message: u32, old_irql: u32) -> u32 {
        self.call(12, [message as usize, old_irql as usize])
    }

    /// Takes these locks, nested in this order, takes the action, and releases them.
    pub(super) fn under(&self, locks: &[u32], action: impl Fn(&Context)) {
        for (handle, lock) in locks.iter().enumerate() {
            self.acquire(*lock, handle);
        }
        action(self);
        for handle in (0..locks.len()).rev() {
            self.release(handle);
        }
    }

    pub(super) fn take(&self, locks: &[u32]) {
        self.under(locks, |_| {});
    }

    /// [`Self::take`] by StorPortAcquireSpinLockEx.
    pub(super) fn take_ex(&self, locks: &[u32]) {
        let taken: Vec<_> = locks
            .iter()
            .enumerate()
            .map(|(handle, lock)| self.acquire_ex(*lock, self.context(*lock), handle))
            .collect();
        for (handle, status) in taken.into_iter().enumerate().rev() {
            if status == 0 {
                self.release(handle);
            }
        }
    }

    /// Takes the locks of these messages, nested in this order, and releases them.
    pub(super) fn take_messages(&self, messages: &[u32]) {
        let taken: Vec<_> = messages
            .iter()
            .map(|message| (*message, self.acquire_message(*message)))
            .collect();
        for (message, (status, old)) in taken.into_iter().rev() {
            if status == 0 {
                self.release_message(message, old);
            }
        }
    }

    /// StorPortSynchronizeAccess.
    pub(super) fn synchronize(&self, context: usize) -> bool {
        self.ddi("StorPortSynchronizeAccess", [routine(), context]) as u8 == 1
    }

    /// Whether the calling thread holds a lock.
    pub(super) fn holds(&self, lock: LockId) -> bool {
        current().0.holds(lock)
    }

    /// RequestTimerCall.
    pub(super) fn request_timer_call(&self, microseconds: usize) {
        self.notify(6, [routine(), microseconds]);
    }

    /// StorPortRequestTimer.
    pub(super) fn request_timer(&self, handle: usize, context: usize, microseconds: usize) -> u32 {
        self.call(33, [handle, routine(), context, microseconds])
    }

    pub(super) fn queue_work(&self, worker: usize, context: usize) -> u32 {
        self.call(30, [routine(), worker, context])
    }

    /// StorPortInitializeWorker and StorPortQueueWorkItem.
    pub(super) fn queue_new_work(&self, context: usize) -> u32 {
        self.queue_work(self.result(29, []), context)
    }

    /// StorPortStateChangeDetected of unit 0.
    pub(super) fn report_state_change(&self, address: usize) {
        let status = self.own(NOTE);
        self.notify(0x1005, [1, address, 1, routine(), 0, status]);
    }

    pub(super) fn allocate_pool(&self) -> usize {
        self.result(0, [64, 0])
    }

    pub(super) fn free_pool(&self, address: usize) {
        self.call(1, [address]);
    }

    pub(super) fn allocate_contiguous(&self) -> usize {
        self.result(24, [4096, 0, usize::MAX, 0, 1, 0x8000_0000])
    }

    pub(super) fn free_contiguous(&self, address: usize) {
        self.call(25, [address, 4096, 1]);
    }

    /// StorPortGetDeviceBase of so many bytes at this physical address.
    pub(super) fn map(&self, address: usize, bytes: usize) -> usize {
        self.ddi("StorPortGetDeviceBase", [5, 0, address, bytes])
    }

    /// StorPortFreeDeviceBase.
    pub(super) fn unmap(&self, address: usize) {
        self.ddi("StorPortFreeDeviceBase", [address]);
    }

    /// StorPortGetUncachedExtension.
    pub(super) fn uncached(&self, bytes: usize) -> usize {
        self.ddi("StorPortGetUncachedExtension", [self.about, bytes])
    }

    /// Keeps a value for later.
    pub(super) fn note(&self, value: usize) {
        structure(self.own(NOTE)).set(abi::value(), value);
    }

    pub(super) fn noted(&self) -> usize {
        structure(self.own(NOTE)).get(abi::value())
    }

    pub(super) fn set_depth(&self, depth: usize) -> bool {
        self.ddi("StorPortSetDeviceQueueDepth", [0, 0, 0, depth]) as u8 == 1
    }

    /// Completes the SRB that the callback is about, of either shape.
    pub(super) fn complete(&self, status: u8) {
        self.complete_srb(self.about, status);
    }

    pub(super) fn complete_srb(&self, srb: usize, status: u8) {
        structure(srb).set(scsi::SrbStatus, status);
        self.notify(0, [srb]);
    }

    /// Completes the request in HwStartIo.
    pub(super) fn completes(&self, status: u8) {
        self.complete(status);
        self.answer(1);
    }

    /// Completes the request as BUSY, the first time.
    pub(super) fn is_busy_once(&self) {
        if self.turn() == 0 {
            self.completes(BUSY);
        }
    }

    /// Keeps the request in HwStartIo. Returns how many are kept.
    pub(super) fn keeps(&self) -> usize {
        self.answer(1);
        let mut kept = self.kept();
        kept.push(self.about);
        kept.len()
    }

    /// Completes the requests that it keeps.
    pub(super) fn complete_kept(&self, status: u8) {
        let all = mem::take(&mut *self.kept());
        for srb in all {
            self.complete_srb(srb, status);
        }
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Vec<usize>> {
        self.miniport.kept.lock().unwrap()
    }

    /// The function of an SRB of either shape.
    pub(super) fn function(&self) -> u32 {
        match self.structure().get(scsi::Function) {
            0x28 => self.structure().get(storage::SrbFunction),
            function => function.into(),
        }
    }

    /// StorPortGetScatterGatherList.
    pub(super) fn list(&self) -> usize {
        self.ddi("StorPortGetScatterGatherList", [self.about])
    }

    /// StorPortStallExecution.
    pub(super) fn stall(&self, microseconds: usize) {
        ddi("StorPortStallExecution", [microseconds]);
    }

    /// Counts the calls of this function, and returns their number before this one.
    pub(super) fn turn(&self) -> usize {
        self.miniport.turns.fetch_add(1, Ordering::SeqCst)
    }

    /// Waits for this many calls of [`Self::turn`], at most a few seconds.
    pub(super) fn wait_for(&self, turns: usize) {
        for _ in 0..10_000 {
            if self.miniport.turns() >= turns {
                return;
            }
            thread::sleep(Duration::from_micros(100));
        }
    }
}

/// An export under its own type.
pub(super) fn exported<T: Copy>(address: usize) -> T {
    assert_eq!(size_of::<T>(), size_of::<usize>());
    // SAFETY: a function pointer of the type that the caller names; exports
    // take their arguments from where the ABI puts them.
    unsafe { mem::transmute_copy(&address) }
}

/// The most arguments that an export takes.
const MOST_ARGUMENTS: usize = 9;

/// Calls an export. Arguments that are not given are 0.
pub(super) fn ddi<const N: usize>(name: &str, arguments: [usize; N]) -> usize {
    type Nine =
        extern "win64" fn(usize, usize, usize, usize, usize, usize, usize, usize, usize) -> usize;
    let address = exports::resolve(name).expect("an export of storport.sys");
    let mut all = [0; MOST_ARGUMENTS];
    all[..N].copy_from_slice(&arguments);
    let [a, b, c, d, e, f, g, h, i] = all;
    exported::<Nine>(address)(a, b, c, d, e, f, g, h, i)
}

/// A value that an export writes, and its return value.
pub(super) fn with_result<T: abi::Plain>(call: impl FnOnce(usize) -> usize) -> (T, usize) {
    let mut place = [0u64; 2];
    let returned = call(place.as_mut_ptr() as usize);
    let value = structure(place.as_ptr() as usize).get(abi::value());
    std::hint::black_box(place);
    (value, returned)
}
