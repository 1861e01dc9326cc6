//! Miniports that take an action in their callbacks, right or wrong, and how they are run.

use std::{
    cell::Cell,
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use testbed_machine::memory::Placement;

use super::{
    super::{
        abi::{
            spin_lock::{DpcLevelLock, DpcLock, ThreadedDpcLock},
            storage_request_block as storage,
        },
        adapter::Checks,
    },
    bench::*,
};

/// What a miniport does in a callback, right or wrong.
pub(super) type Action = fn(&Context);

/// How a miniport is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Run {
    /// One request, and a message of each number.
    Plain,
    /// One request, with the checks of `--verify`.
    Watched,
    /// A request on each CPU.
    BothCpus,
    /// One request and an interrupt by the pin. There are no messages.
    Pin,
    /// The first request times out, and the bus is reset.
    Reset,
    /// The request, and the requests of a sleep.
    Sleep,
    /// One request in a dump stack.
    Dump,
    /// One request in a dump stack, and a bus reset.
    DumpReset,
}

/// The callback that an action is taken in.
pub(super) struct Context<'a> {
    pub(super) callback: Callback,
    pub(super) ext: Extension,
    /// The callback's parameter: a structure, an SRB, a DPC, or a number.
    pub(super) about: usize,
    own: &'a Acting,
    /// What the callback returns. Without an answer it returns what is correct.
    answer: Cell<Option<u32>>,
}

/// The offsets in a miniport's own memory.
pub(super) const FIRST_DPC: usize = 0;
pub(super) const SECOND_DPC: usize = 128;
pub(super) const THREADED_DPC: usize = 256;
const HANDLES: usize = 512;
/// Zeros.
pub(super) const EMPTY: usize = 1024;
pub(super) const NOTE: usize = 1536;

impl Context<'_> {
    pub(super) fn own(&self, offset: usize) -> usize {
        self.own.memory.address() + offset
    }

    pub(super) fn structure(&self) -> Structure {
        structure(self.about)
    }

    pub(super) fn answer(&self, answer: u32) {
        self.answer.set(Some(answer));
    }

    /// Whether this is ScsiStopAdapter.
    pub(super) fn is_stop(&self) -> bool {
        self.callback == Callback::HwAdapterControl
            && self.about == control::ScsiStopAdapter as usize
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
        let context = self.context(lock);
        self.ext.acquire(lock, context, self.handle(handle));
    }

    /// StorPortAcquireSpinLockEx.
    pub(super) fn acquire_ex(&self, lock: u32, context: usize, handle: usize) -> u32 {
        let handle = self.handle(handle);
        self.ext.extended(93, [lock as usize, context, handle])
    }

    pub(super) fn release(&self, handle: usize) {
        self.ext.release(self.handle(handle));
    }

    /// Takes these locks, nested in this order, takes the action, and releases them.
    pub(super) fn under(&self, locks: &[u32], action: Action) {
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
            .map(|message| (*message, self.ext.acquire_message(*message)))
            .collect();
        for (message, (status, old)) in taken.into_iter().rev() {
            if status == 0 {
                self.ext.release_message(message, old);
            }
        }
    }

    pub(super) fn synchronize(&self) {
        self.ext.synchronize_access(0);
    }

    /// Calls an extended function with these arguments and an address for its result. Returns
    /// the result.
    pub(super) fn result<const N: usize>(&self, code: u32, arguments: [usize; N]) -> usize {
        with_result(|to| {
            let mut all = [to; 7];
            all[..N].copy_from_slice(&arguments);
            self.ext.extended(code, all) as usize
        })
        .0
    }

    pub(super) fn call<const N: usize>(&self, code: u32, arguments: [usize; N]) {
        self.ext.extended(code, arguments);
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
        ddi("StorPortGetDeviceBase", [self.ext.0, 5, 0, address, bytes])
    }

    /// StorPortFreeDeviceBase.
    pub(super) fn unmap(&self, address: usize) {
        ddi("StorPortFreeDeviceBase", [self.ext.0, address]);
    }

    /// StorPortGetUncachedExtension.
    pub(super) fn uncached(&self, bytes: usize) {
        let arguments = [self.ext.0, self.about, bytes];
        ddi("StorPortGetUncachedExtension", arguments);
    }

    /// Keeps a value for later.
    pub(super) fn note(&self, value: usize) {
        structure(self.own(NOTE)).set(abi::value(), value);
    }

    pub(super) fn noted(&self) -> usize {
        structure(self.own(NOTE)).get(abi::value())
    }

    pub(super) fn set_depth(&self, depth: usize) {
        let arguments = [self.ext.0, 0, 0, 0, depth];
        ddi("StorPortSetDeviceQueueDepth", arguments);
    }

    pub(super) fn complete(&self, status: u8) {
        self.ext.complete(self.about, status);
    }

    /// Completes the request in HwStartIo.
    pub(super) fn completes(&self, status: u8) {
        self.complete(status);
        self.answer(1);
    }

    /// StorPortStallExecution.
    pub(super) fn stall(&self, microseconds: usize) {
        ddi("StorPortStallExecution", [microseconds]);
    }

    /// StorPortInitializePerfOpts, which asks for the options.
    pub(super) fn query_options(&self) {
        use abi::perf_configuration_data as data;
        let options = structure(self.own(EMPTY));
        options.set(data::Version, 4);
        options.set(data::Size, data::SIZE as u32);
        self.call(14, [1, options.address()]);
    }

    pub(super) fn notify(&self, kind: u32) {
        self.ext.notify(kind, [self.own(NOTE)]);
    }

    /// StorPortReadRegisterUlong without HwDeviceExtension, which the macros for x64 omit.
    pub(super) fn read_register(&self, address: usize) {
        ddi("StorPortReadRegisterUlong", [0, address]);
    }

    pub(super) fn write_register(&self, address: usize) {
        ddi("StorPortWriteRegisterUlong", [0, address, 0]);
    }

    pub(super) fn set_srb_extension(&self) {
        self.structure().set(info::SrbExtensionSize, 128);
    }

    /// Completes the request as BUSY, the first time.
    pub(super) fn is_busy_once(&self) {
        if self.turn() == 0 {
            self.complete(BUSY);
            self.answer(1);
        }
    }

    /// Keeps the request. HwTimer completes it.
    pub(super) fn keep(&self) {
        self.own.kept.push(self.about);
        self.ext.request_timer_call(1);
    }

    /// Completes a request that is no SCSI command.
    pub(super) fn complete_control(&self, status: u8) {
        if self.structure().get(storage::SrbFunction) != 0 {
            self.complete(status);
            self.answer(1);
        }
    }

    /// Completes the requests that HwStartIo kept.
    pub(super) fn complete_kept(&self, status: u8) {
        self.own.kept.complete_all(self.ext, status);
    }

    pub(super) fn list(&self) {
        ddi("StorPortGetScatterGatherList", [self.ext.0, self.about]);
    }

    pub(super) fn supports(&self, kind: u32, is_supported: bool) {
        let list = self.structure().offset(abi::SUPPORTED_TYPE_LIST);
        list.offset(kind as usize)
            .set(abi::value(), u8::from(is_supported));
    }

    /// Answers the query for control types.
    pub(super) fn supports_stop_and_restart(&self, stop: bool, restart: bool) {
        self.supports(control::ScsiStopAdapter, stop);
        self.supports(control::ScsiRestartAdapter, restart);
        self.answer(control::ScsiAdapterControlSuccess);
    }

    /// Counts the calls of this function, and returns their number before this one.
    pub(super) fn turn(&self) -> usize {
        self.own.turns.fetch_add(1, Ordering::SeqCst)
    }

    /// Waits for this many calls of [`Self::turn`], at most a few seconds.
    pub(super) fn wait_for(&self, turns: usize) {
        for _ in 0..10_000 {
            if self.own.turns.load(Ordering::SeqCst) >= turns {
                return;
            }
            thread::sleep(Duration::from_micros(100));
        }
    }
}

/// A miniport that takes an action and is otherwise correct.
struct Acting {
    callback: Option<Callback>,
    action: Action,
    under: &'static [u32],
    run: Run,
    function: Arc<FakeFunction>,
    memory: Scratch,
    kept: Kept,
    was_kept: AtomicBool,
    done: AtomicU64,
    turns: AtomicUsize,
}

impl Acting {
    fn at(&self, ext: Extension, about: usize) -> Option<u32> {
        let callback = callbacks::current();
        if self.callback.is_some_and(|only| only != callback) {
            return None;
        }
        let context = Context {
            callback,
            ext,
            about,
            own: self,
            answer: Cell::new(None),
        };
        context.under(self.under, self.action);
        self.done.fetch_add(1, Ordering::SeqCst);
        context.answer.take()
    }

    fn is_true(&self, ext: Extension, about: usize) -> bool {
        self.at(ext, about) != Some(0)
    }

    fn is_dump(&self) -> bool {
        matches!(self.run, Run::Dump | Run::DumpReset)
    }

    /// Whether HwStartIo keeps a request: the first one, if the bus is to be reset.
    fn keeps(&self) -> bool {
        matches!(self.run, Run::Reset | Run::DumpReset)
            && !self.was_kept.swap(true, Ordering::SeqCst)
    }

    /// Makes Storport call the callback of the action.
    fn ask_for_callback(&self, ext: Extension) {
        let memory = self.memory.address();
        match self.callback {
            Some(Callback::HwDpcRoutine) => {
                ext.issue_dpc(memory + FIRST_DPC, 0, 0);
            }
            Some(Callback::HwTimer) => ext.request_timer_call(1),
            Some(Callback::HwTimerEx) => {
                let (timer, _) = with_result(|to| ext.extended(32, [to]) as usize);
                ext.request_timer(timer, 0, 1);
            }
            Some(Callback::HwWorkItem) => {
                ext.queue_new_work();
            }
            Some(Callback::HwStateChange) => {
                ext.report_state_change(memory + EMPTY);
            }
            _ => {}
        }
    }
}

impl Miniport for Acting {
    fn registration(&self, data: Structure) {
        self.at(Extension(0), data.address());
    }

    fn find_adapter(&self, ext: Extension, info: Structure) -> u32 {
        self.at(ext, info.address())
            .unwrap_or(config::SP_RETURN_FOUND)
    }

    fn initialize(&self, ext: Extension) -> bool {
        self.at(ext, 0);
        self.is_dump() || ext.enable_passive_initialization()
    }

    fn passive_initialize(&self, ext: Extension) -> bool {
        ext.initialize_dpc(self.memory.address() + FIRST_DPC);
        ext.initialize_dpc(self.memory.address() + SECOND_DPC);
        ext.initialize_threaded_dpc(self.memory.address() + THREADED_DPC);
        self.is_true(ext, 0)
    }

    fn build_io(&self, ext: Extension, srb: usize) -> bool {
        if self.callback == Some(Callback::SynchronizedAccess) {
            ext.synchronize_access(0);
        }
        self.is_true(ext, srb)
    }

    fn start_io(&self, ext: Extension, srb: usize) -> bool {
        if let Some(answer) = self.at(ext, srb) {
            return answer != 0;
        }
        self.ask_for_callback(ext);
        if self.keeps() {
            self.kept.push(srb);
        } else {
            ext.complete(srb, SUCCESS);
        }
        true
    }

    fn interrupt(&self, ext: Extension) -> bool {
        if self.at(ext, 0).is_some() {
            return true;
        }
        self.kept.complete_all(ext, SUCCESS);
        if self.run == Run::Pin {
            self.function.line(false);
            self.turns.fetch_add(1, Ordering::SeqCst);
        }
        true
    }

    fn message(&self, ext: Extension, id: u32) -> bool {
        self.is_true(ext, id as usize)
    }

    fn dpc(&self, ext: Extension, dpc: usize, _: usize, _: usize) {
        self.at(ext, dpc);
    }

    fn timer(&self, ext: Extension) {
        self.at(ext, 0);
        self.kept.complete_all(ext, ERROR);
    }

    fn timer_ex(&self, ext: Extension, _: usize) {
        self.at(ext, 0);
    }

    fn work(&self, ext: Extension, _: usize, worker: usize) {
        self.at(ext, worker);
    }

    fn synchronized(&self, ext: Extension, _: usize) -> bool {
        self.is_true(ext, 0)
    }

    fn state_change(&self, ext: Extension) {
        self.at(ext, 0);
    }

    fn reset_bus(&self, ext: Extension, _: u32) -> bool {
        if let Some(answer) = self.at(ext, 0) {
            return answer != 0;
        }
        if self.is_dump() {
            return false;
        }
        self.kept.complete_all(ext, BUS_RESET);
        true
    }

    fn adapter_control(&self, ext: Extension, kind: u32, parameters: Structure) -> u32 {
        let is_query = kind == control::ScsiQuerySupportedControlTypes;
        let about = if is_query {
            parameters.address()
        } else {
            kind as usize
        };
        // An action in this callback alone is taken for the query.
        if (is_query || self.callback.is_none())
            && let Some(answer) = self.at(ext, about)
        {
            return answer;
        }
        Correct.adapter_control(ext, kind, parameters)
    }
}

/// A correct miniport.
struct Correct;
impl Miniport for Correct {}

/// SRB_STATUS_BUSY.
const BUSY: u8 = 0x05;
fn settings(run: Run) -> AdapterSettings {
    match run {
        Run::Watched => AdapterSettings {
            checks: Checks::All,
            ..quick()
        },
        Run::Reset => AdapterSettings {
            tick: Duration::from_millis(5),
            timeout: Some(Duration::from_millis(40)),
            ..quick()
        },
        _ => quick(),
    }
}

/// The rules that a miniport breaks by an action.
pub(super) fn broken(
    run: Run,
    (callback, action): (Option<Callback>, Action),
    under: &'static [u32],
) -> BTreeSet<String> {
    let function = FakeFunction::new(if run == Run::Pin { 0 } else { 2 });
    let memory = Scratch::new(4096);
    memory.at(0).fill(4096, 0);
    let acting = Acting {
        callback,
        action,
        under,
        run,
        function: Arc::clone(&function),
        memory,
        kept: Kept::default(),
        was_kept: AtomicBool::new(false),
        done: AtomicU64::new(0),
        turns: AtomicUsize::new(0),
    };
    let violations = if acting.is_dump() {
        let (_, stack) = start_dump(acting).expect("the dump stack starts");
        let _ = match run {
            Run::DumpReset => stack.execute_through_reset(&request(0)),
            _ => stack.execute(&request(0)),
        };
        stack.report().violations
    } else {
        match try_start(acting, function, settings(run)) {
            Ok(bench) => play(&bench),
            Err(failed) => failed.report.violations,
        }
    };
    violations
        .into_iter()
        .map(|violation| violation.rule.to_owned())
        .collect()
}

fn play(bench: &Bench<Acting>) -> Vec<Violation> {
    let interrupts = |count| {
        bench.wait_until("the interrupt", |bench| {
            bench.adapter.report().interrupts >= count
        });
    };
    match bench.miniport.run {
        Run::BothCpus => drop(bench.load(1, 1)),
        _ => {
            let block = buffer(512, Placement::Contiguous);
            let read = Data {
                block,
                offset: 0,
                bytes: 512,
                direction: Direction::In,
            };
            let _ = bench.adapter.execute(transfer(read));
        }
    }
    match bench.miniport.run {
        Run::Plain => {
            for message in [0, 1] {
                bench.function.message(message);
                interrupts(u64::from(message) + 1);
            }
        }
        Run::Pin => {
            bench.function.line(true);
            bench.wait_until("the pin is released", |bench| {
                bench.miniport.turns.load(Ordering::SeqCst) > 0
            });
        }
        Run::Sleep => bench.adapter.restart().expect("it sleeps and wakes"),
        _ => {}
    }
    use Callback::{HwDpcRoutine, HwStateChange, HwTimer, HwTimerEx, HwWorkItem};
    let callback = bench.miniport.callback;
    if let Some(HwTimer | HwTimerEx | HwStateChange | HwDpcRoutine | HwWorkItem) = callback {
        bench.wait_until("the action", |bench| {
            bench.miniport.done.load(Ordering::SeqCst) > 0
        });
    }
    if callback == Some(HwWorkItem) {
        bench.wait_until("the end of the work item", |bench| {
            !bench.port().later.leaks().is_empty()
        });
    }
    // The stop waits for the other callbacks, whose ends are checked.
    let _ = bench.adapter.stop();
    bench.adapter.report().violations
}
