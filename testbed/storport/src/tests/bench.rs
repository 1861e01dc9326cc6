//! The bench that miniports of tests run on: a PCI function that is only
//! registers, the Microsoft ABI in both directions, and requests.
#![expect(unsafe_code, reason = "plays a driver")]

use std::{
    cell::Cell,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::super::exports;
pub(super) use super::super::{
    abi::{
        self, Routine, Structure, config, control, hw_initialization_data as init,
        port_configuration_information as info, scsi_request_block as scsi, srb, stor_lock_handle,
    },
    adapter::{Adapter, AdapterSettings, FailedStart, SrbShape, StartError},
    callbacks::{self, Callback},
    dump::{self, DumpStack},
    port::Port,
    report::Violation,
    request::{Address, Completion, Data, Direction, Program, Request},
    spin_locks::LockId,
};
use testbed_machine::{
    self, Machine, cpu,
    memory::{Block, Placement},
    pci::{Bar, BarKind, FunctionCounters, Interrupts, PciFunction},
};

/// The HwDeviceExtension of a test's miniport. Its first word names the
/// miniport.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extension(pub(super) usize);

/// Memory of the test's that plays the driver's own, such as handles and DPCs.
pub(super) struct Scratch(Arc<Block>);

impl Scratch {
    pub(super) fn new(bytes: usize) -> Self {
        let block = machine().memory().allocate(bytes, Placement::Scattered);
        Self(Arc::new(block.expect("the machine has memory")))
    }

    pub(super) fn address(&self) -> usize {
        self.0.address()
    }

    pub(super) fn at(&self, offset: usize) -> Structure {
        structure(self.address() + offset)
    }
}

/// A structure that Storport made, or a scratch one.
pub(super) fn structure(address: usize) -> Structure {
    // SAFETY: tests ask for what is there.
    unsafe { Structure::at(address) }
}

/// A miniport. What a test does not care for does the right thing.
pub(super) trait Miniport: Send + Sync {
    fn registration(&self, _data: Structure) {}

    fn find_adapter(&self, _ext: Extension, _info: Structure) -> u32 {
        config::SP_RETURN_FOUND
    }

    fn initialize(&self, ext: Extension) -> bool {
        ext.enable_passive_initialization()
    }

    fn passive_initialize(&self, _ext: Extension) -> bool {
        true
    }

    fn build_io(&self, _ext: Extension, _srb: usize) -> bool {
        true
    }

    fn start_io(&self, ext: Extension, srb: usize) -> bool {
        ext.complete(srb, SUCCESS);
        true
    }

    fn interrupt(&self, _ext: Extension) -> bool {
        true
    }

    fn message(&self, _ext: Extension, _id: u32) -> bool {
        true
    }

    fn dpc(&self, _ext: Extension, _dpc: usize, _first: usize, _second: usize) {}

    fn timer(&self, _ext: Extension) {}

    fn timer_ex(&self, _ext: Extension, _context: usize) {}

    fn work(&self, _ext: Extension, _context: usize, _worker: usize) {}

    fn synchronized(&self, _ext: Extension, _context: usize) -> bool {
        true
    }

    fn state_change(&self, _ext: Extension) {}

    fn reset_bus(&self, _ext: Extension, _path: u32) -> bool {
        true
    }

    fn adapter_control(&self, _ext: Extension, kind: u32, parameters: Structure) -> u32 {
        if kind == control::ScsiQuerySupportedControlTypes {
            let list = parameters.offset(abi::SUPPORTED_TYPE_LIST);
            for kind in [control::ScsiStopAdapter, control::ScsiRestartAdapter] {
                list.offset(kind as usize).set(abi::value(), 1u8);
            }
        }
        control::ScsiAdapterControlSuccess
    }
}

/// SRB_STATUS_SUCCESS, SRB_STATUS_ERROR, SRB_STATUS_BUS_RESET.
pub(super) const SUCCESS: u8 = 0x01;
pub(super) const ERROR: u8 = 0x04;
pub(super) const BUS_RESET: u8 = 0x0E;

static MINIPORTS: Mutex<Vec<&'static dyn Miniport>> = Mutex::new(Vec::new());

thread_local! {
    /// The miniport whose adapter this thread starts, as number + 1.
    static STARTING: Cell<usize> = const { Cell::new(0) };
}

fn miniport(number: usize) -> &'static dyn Miniport {
    MINIPORTS.lock().unwrap_or_else(PoisonError::into_inner)[number - 1]
}

fn of(extension: usize) -> &'static dyn Miniport {
    match structure(extension).get(abi::value::<usize>()) {
        // Before HwFindAdapter.
        0 => miniport(STARTING.get()),
        number => miniport(number),
    }
}

/// The entry point of all miniports.
fn entry() -> Routine {
    // SAFETY: the function of a driver that consists of this file.
    unsafe { Routine::at(driver_entry as *const () as usize) }
}

extern "win64" fn driver_entry(object: usize, path: usize) -> u32 {
    let data = Scratch::new(init::SIZE);
    let data = data.at(0);
    data.fill(init::SIZE, 0);
    data.set(init::HwInitializationDataSize, init::SIZE as u32);
    data.set(init::AdapterInterfaceType, 5);
    data.set(init::HwInitialize, hw_initialize as *const () as usize);
    data.set(init::HwStartIo, hw_start_io as *const () as usize);
    data.set(init::HwInterrupt, hw_interrupt as *const () as usize);
    data.set(init::HwFindAdapter, hw_find_adapter as *const () as usize);
    data.set(init::HwResetBus, hw_reset_bus as *const () as usize);
    data.set(
        init::HwAdapterControl,
        hw_adapter_control as *const () as usize,
    );
    data.set(init::HwBuildIo, hw_build_io as *const () as usize);
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
        srb::SRB_TYPE_FLAG_SCSI_REQUEST_BLOCK | srb::SRB_TYPE_FLAG_STORAGE_REQUEST_BLOCK,
    );
    data.set(init::AddressTypeFlags, srb::ADDRESS_TYPE_FLAG_BTL8);
    miniport(STARTING.get()).registration(data);
    ddi(
        "StorPortInitialize",
        [object, path, data.address(), 0, 0, 0],
    ) as u32
}

extern "win64" fn hw_find_adapter(
    extension: usize,
    _context: usize,
    _bus: usize,
    _argument: usize,
    info: usize,
    _again: usize,
) -> u32 {
    structure(extension).set(abi::value(), STARTING.get());
    let info = structure(info);
    info.set(self::info::MaximumTransferLength, 1 << 20);
    info.set(self::info::NumberOfPhysicalBreaks, 258);
    info.set(
        self::info::SynchronizationModel,
        config::StorSynchronizeFullDuplex,
    );
    info.set(
        self::info::HwMSInterruptRoutine,
        hw_message as *const () as usize,
    );
    info.set(
        self::info::InterruptSynchronizationMode,
        config::InterruptSynchronizePerMessage,
    );
    info.set(self::info::NumberOfBuses, 1);
    info.set(self::info::MaximumNumberOfTargets, 2);
    info.set(self::info::MaximumNumberOfLogicalUnits, 1);
    of(extension).find_adapter(Extension(extension), info)
}

extern "win64" fn hw_initialize(extension: usize) -> u32 {
    of(extension).initialize(Extension(extension)).into()
}

extern "win64" fn hw_passive_initialize(extension: usize) -> u32 {
    of(extension)
        .passive_initialize(Extension(extension))
        .into()
}

/// As a C compiler may leave it: only AL is the BOOLEAN.
const UNDEFINED: u32 = 0xABCD_EF00;

extern "win64" fn hw_build_io(extension: usize, srb: usize) -> u32 {
    UNDEFINED | u32::from(of(extension).build_io(Extension(extension), srb))
}

extern "win64" fn hw_start_io(extension: usize, srb: usize) -> u32 {
    UNDEFINED | u32::from(of(extension).start_io(Extension(extension), srb))
}

extern "win64" fn hw_interrupt(extension: usize) -> u32 {
    UNDEFINED | u32::from(of(extension).interrupt(Extension(extension)))
}

extern "win64" fn hw_message(extension: usize, id: u32) -> u32 {
    of(extension).message(Extension(extension), id).into()
}

extern "win64" fn hw_dpc(dpc: usize, extension: usize, first: usize, second: usize) {
    of(extension).dpc(Extension(extension), dpc, first, second);
}

extern "win64" fn hw_timer(extension: usize) {
    of(extension).timer(Extension(extension));
}

extern "win64" fn hw_timer_ex(extension: usize, context: usize) {
    of(extension).timer_ex(Extension(extension), context);
}

extern "win64" fn hw_work(extension: usize, context: usize, worker: usize) {
    of(extension).work(Extension(extension), context, worker);
}

extern "win64" fn hw_state_change(extension: usize) {
    of(extension).state_change(Extension(extension));
}

extern "win64" fn synchronized(extension: usize, context: usize) -> u32 {
    UNDEFINED | u32::from(of(extension).synchronized(Extension(extension), context))
}

extern "win64" fn hw_reset_bus(extension: usize, path: u32) -> u32 {
    of(extension).reset_bus(Extension(extension), path).into()
}

/// For a registration that wants a HwUnitControl: one that supports what
/// [`Miniport::adapter_control`] does.
pub(super) fn unit_control() -> usize {
    hw_adapter_control as *const () as usize
}

extern "win64" fn hw_adapter_control(extension: usize, kind: u32, parameters: usize) -> u32 {
    of(extension).adapter_control(Extension(extension), kind, structure(parameters))
}

/// An export under its own type.
pub(super) fn exported<T: Copy>(address: usize) -> T {
    assert_eq!(size_of::<T>(), size_of::<usize>());
    // SAFETY: a function pointer of the type that the caller names; exports
    // take their arguments from where the ABI puts them.
    unsafe { std::mem::transmute_copy(&address) }
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

/// A BOOLEAN or ULONG that an export writes, and its return value.
pub(super) fn with_result<T: abi::Plain>(call: impl FnOnce(usize) -> usize) -> (T, usize) {
    let mut place = [0u64; 2];
    let returned = call(place.as_mut_ptr() as usize);
    let value = structure(place.as_ptr() as usize).get(abi::value());
    std::hint::black_box(place);
    (value, returned)
}

impl Extension {
    pub(super) fn notify<const N: usize>(self, kind: u32, arguments: [usize; N]) -> usize {
        self.dispatch("StorPortNotification", kind, &arguments)
    }

    pub(super) fn extended<const N: usize>(self, code: u32, arguments: [usize; N]) -> u32 {
        self.dispatch("StorPortExtendedFunction", code, &arguments) as u32
    }

    fn dispatch(self, export: &str, selector: u32, arguments: &[usize]) -> usize {
        let mut all = [0; MOST_ARGUMENTS];
        all[0] = selector as usize;
        all[1] = self.0;
        all[2..2 + arguments.len()].copy_from_slice(arguments);
        ddi(export, all)
    }

    pub(super) fn enable_passive_initialization(self) -> bool {
        let routine = hw_passive_initialize as *const () as usize;
        let (enabled, _) = with_result::<u8>(|to| self.notify(0x1000, [routine, to, 0, 0]));
        enabled == 1
    }

    /// Completes an SRB of either shape.
    pub(super) fn complete(self, srb: usize, status: u8) {
        structure(srb).set(scsi::SrbStatus, status);
        self.notify(0, [srb, 0, 0, 0]);
    }

    pub(super) fn initialize_dpc(self, dpc: usize) {
        self.notify(0x1001, [dpc, hw_dpc as *const () as usize, 0, 0]);
    }

    pub(super) fn initialize_threaded_dpc(self, dpc: usize) {
        self.notify(0x100A, [dpc, hw_dpc as *const () as usize, 0, 0]);
    }

    pub(super) fn issue_dpc(self, dpc: usize, first: usize, second: usize) -> bool {
        with_result::<u8>(|to| self.notify(0x1002, [dpc, first, second, to])).0 == 1
    }

    pub(super) fn acquire(self, lock: u32, context: usize, handle: usize) {
        self.notify(0x1003, [lock as usize, context, handle, 0]);
    }

    pub(super) fn release(self, handle: usize) {
        self.notify(0x1004, [handle, 0, 0, 0]);
    }

    /// StorPortAcquireMSISpinLock: status and old IRQL.
    pub(super) fn acquire_message(self, message: u32) -> (u32, u32) {
        let (irql, status) =
            with_result(|to| self.extended(11, [message as usize, to, 0, 0]) as usize);
        (status as u32, irql)
    }

    pub(super) fn release_message(self, message: u32, old_irql: u32) -> u32 {
        self.extended(12, [message as usize, old_irql as usize, 0, 0])
    }

    pub(super) fn synchronize_access(self, context: usize) -> bool {
        let routine = synchronized as *const () as usize;
        let arguments = [self.0, routine, context, 0, 0, 0];
        ddi("StorPortSynchronizeAccess", arguments) as u8 == 1
    }

    pub(super) fn request_timer_call(self, microseconds: u32) {
        let routine = hw_timer as *const () as usize;
        self.notify(6, [routine, microseconds as usize, 0, 0]);
    }

    /// StorPortRequestTimer.
    pub(super) fn request_timer(self, handle: usize, context: usize, microseconds: u64) -> u32 {
        let routine = hw_timer_ex as *const () as usize;
        self.extended(33, [handle, routine, context, microseconds as usize])
    }

    pub(super) fn queue_work(self, worker: usize, context: usize) -> u32 {
        self.extended(30, [hw_work as *const () as usize, worker, context, 0])
    }

    /// StorPortStateChangeDetected of unit 0.
    pub(super) fn report_state_change(self, address: usize) -> u32 {
        let routine = hw_state_change as *const () as usize;
        with_result(|to| self.notify(0x1005, [1, address, 1, routine, 0, to])).0
    }

    /// StorPortInitializeWorker and StorPortQueueWorkItem.
    pub(super) fn queue_new_work(self) -> u32 {
        let (worker, _) = with_result(|to| self.extended(29, [to]) as usize);
        self.queue_work(worker, 0)
    }

    /// Whether the calling thread holds a lock.
    pub(super) fn holds(self, lock: LockId) -> bool {
        callbacks::current_port().is_some_and(|port| port.holds(lock))
    }
}

/// The function: registers without behaviour, with or without MSI-X.
pub(super) struct FakeFunction {
    config: Mutex<[u8; 256]>,
    vectors: u16,
    /// BAR 0 and, with the MSI-X table, BAR 2.
    bars: [Mutex<Vec<u8>>; 2],
    interrupts: OnceLock<Arc<dyn Interrupts>>,
    pub(super) stops: AtomicU64,
    pub(super) power_cycles: AtomicU64,
}

const MSIX_AT: usize = 0x40;

impl FakeFunction {
    fn config(vectors: u16) -> [u8; 256] {
        let mut config = [0; 256];
        if vectors > 0 {
            config[0x06] = 0x10;
            config[0x34] = MSIX_AT as u8;
            config[MSIX_AT] = 0x11;
            // The table is at the beginning of BAR 2.
            config[MSIX_AT + 4] = 2;
        }
        config
    }

    pub(super) fn new(vectors: u16) -> Arc<Self> {
        Arc::new(Self {
            config: Mutex::new(Self::config(vectors)),
            power_cycles: AtomicU64::new(0),
            vectors,
            bars: [Mutex::new(vec![0; 4096]), Mutex::new(vec![0xff; 4096])],
            interrupts: OnceLock::new(),
            stops: AtomicU64::new(0),
        })
    }

    pub(super) fn message(&self, id: u16) {
        self.interrupts.get().expect("connected").message(id);
    }

    pub(super) fn line(&self, asserted: bool) {
        self.interrupts.get().expect("connected").line(asserted);
    }

    pub(super) fn is_msix_on(&self) -> bool {
        self.config.lock().unwrap()[MSIX_AT + 3] & 0x80 != 0
    }

    pub(super) fn table_word(&self, message: usize, word: usize) -> u32 {
        let table = self.bars[1].lock().unwrap();
        let at = message * 16 + word * 4;
        u32::from_le_bytes(table[at..at + 4].try_into().unwrap())
    }

    fn bar_bytes(&self, index: usize) -> &Mutex<Vec<u8>> {
        &self.bars[index / 2]
    }
}

impl PciFunction for FakeFunction {
    fn config_read(&self, offset: u16, data: &mut [u8]) {
        let config = self.config.lock().unwrap();
        for (at, byte) in (usize::from(offset)..).zip(data) {
            *byte = config.get(at).copied().unwrap_or(0xff);
        }
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        let mut config = self.config.lock().unwrap();
        config[usize::from(offset)..][..data.len()].copy_from_slice(data);
    }

    fn bar(&self, index: usize) -> Option<Bar> {
        let (kind, address) = match index {
            0 => (BarKind::Memory, 0xFE00_0000),
            2 if self.vectors > 0 => (BarKind::Memory, 0xFE00_1000),
            _ => return None,
        };
        Some(Bar {
            kind,
            address,
            bytes: 4096,
        })
    }

    fn bar_read(&self, index: usize, offset: u64, data: &mut [u8]) {
        let bytes = self.bar_bytes(index).lock().unwrap();
        data.copy_from_slice(&bytes[offset as usize..][..data.len()]);
    }

    fn bar_write(&self, index: usize, offset: u64, data: &[u8]) {
        let mut bytes = self.bar_bytes(index).lock().unwrap();
        bytes[offset as usize..][..data.len()].copy_from_slice(data);
    }

    fn msix_vectors(&self) -> u16 {
        self.vectors
    }

    fn connect(&self, interrupts: Arc<dyn Interrupts>) {
        assert!(self.interrupts.set(interrupts).is_ok(), "connected twice");
    }

    fn counters(&self) -> FunctionCounters {
        FunctionCounters::default()
    }

    fn power_cycle(&self) {
        *self.config.lock().unwrap() = Self::config(self.vectors);
        self.bars[1].lock().unwrap().fill(0xff);
        self.power_cycles.fetch_add(1, Ordering::SeqCst);
    }

    fn driver_errors(&self) -> Vec<String> {
        Vec::new()
    }

    fn stop(&self) {
        self.stops.fetch_add(1, Ordering::SeqCst);
    }
}

pub(super) fn machine() -> &'static Arc<Machine> {
    testbed_machine::testing::shared()
}

/// A started adapter, its miniport and its function.
pub(super) struct Bench<M: Miniport + 'static> {
    pub(super) adapter: Arc<Adapter>,
    pub(super) miniport: &'static M,
    pub(super) function: Arc<FakeFunction>,
}

/// Settings of tests: short times.
pub(super) fn quick() -> AdapterSettings {
    AdapterSettings {
        tick: Duration::from_millis(10),
        timeout: Some(Duration::from_secs(30)),
        ..AdapterSettings::default()
    }
}

pub(super) fn start<M: Miniport + 'static>(miniport: M) -> Bench<M> {
    start_with(miniport, FakeFunction::new(2), quick())
}

pub(super) fn start_with<M: Miniport + 'static>(
    miniport: M,
    function: Arc<FakeFunction>,
    settings: AdapterSettings,
) -> Bench<M> {
    try_start(miniport, function, settings).expect("the miniport starts")
}

pub(super) fn try_start<M: Miniport + 'static>(
    miniport: M,
    function: Arc<FakeFunction>,
    settings: AdapterSettings,
) -> Result<Bench<M>, FailedStart> {
    let (miniport, port) = about_to_start(miniport, &function, settings);
    let adapter = Adapter::start_port(port, entry())?;
    Ok(Bench {
        adapter,
        miniport,
        function,
    })
}

fn about_to_start<M: Miniport + 'static>(
    miniport: M,
    function: &Arc<FakeFunction>,
    settings: AdapterSettings,
) -> (&'static M, &'static Port) {
    let miniport: &'static M = Box::leak(Box::new(miniport));
    let number = {
        let mut all = MINIPORTS.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(miniport);
        all.len()
    };
    STARTING.set(number);
    let shared: Arc<dyn PciFunction> = Arc::clone(function) as _;
    let port = Port::new(machine(), "test.sys", None, &shared, settings);
    (miniport, port)
}

/// Starts the miniport as a dump stack does.
pub(super) fn start_dump<M: Miniport + 'static>(
    miniport: M,
) -> Result<(&'static M, DumpStack), StartError> {
    let settings = dump::settings(SrbShape::Storage);
    let (miniport, port) = about_to_start(miniport, &FakeFunction::new(2), settings);
    let stack = DumpStack::start_port(port, entry())?;
    Ok((miniport, stack))
}

/// Removes the miniport's adapter before it was started: the request's status,
/// and the rules that were broken.
pub(super) fn remove_unstarted<M: Miniport + 'static>(
    miniport: M,
) -> (&'static M, Option<u8>, Vec<Violation>) {
    let (miniport, port) = about_to_start(miniport, &FakeFunction::new(2), quick());
    let (status, report) =
        Adapter::remove_unstarted_port(port, entry()).expect("the driver is entered");
    (miniport, status, report.violations)
}

impl<M: Miniport> Bench<M> {
    pub(super) fn port(&self) -> &'static Port {
        self.adapter.port
    }

    /// Executes TEST UNIT READY.
    pub(super) fn execute(&self) -> Completion {
        self.adapter.execute(request(0))
    }

    /// Runs `requests` requests on each CPU, so many at a time.
    pub(super) fn load(&self, requests: u64, at_a_time: u64) -> Vec<Completion> {
        let programs = (0..cpu::count())
            .map(|_| Box::new(Load::new(requests, at_a_time)) as Box<dyn Program>)
            .collect();
        self.adapter
            .run(programs)
            .into_iter()
            .flat_map(|program| program.into_any().downcast::<Load>().unwrap().completions)
            .collect()
    }

    /// The rules broken so far.
    pub(super) fn broken(&self) -> Vec<(&'static str, &'static str)> {
        let violations = self.adapter.report().violations;
        violations
            .iter()
            .map(|violation| (violation.rule, violation.callback))
            .collect()
    }

    /// Waits until `done`, or panics after a long time.
    pub(super) fn wait_until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(start.elapsed() < Duration::from_secs(20), "never: {what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl<M: Miniport> Drop for Bench<M> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // What a test's miniport keeps is given up with it.
            let _ = self.adapter.stop();
        }
    }
}

/// TEST UNIT READY.
pub(super) fn request(token: u64) -> Request {
    Request {
        token,
        address: Address::default(),
        cdb: [0; 16],
        cdb_length: 6,
        data: None,
        timeout: Duration::from_secs(10),
    }
}

/// A request with data: READ(10) or WRITE(10) by direction.
pub(super) fn transfer(data: Data) -> Request {
    let mut cdb = [0; 16];
    cdb[0] = match data.direction {
        Direction::In => 0x28,
        Direction::Out => 0x2A,
    };
    Request {
        cdb,
        cdb_length: 10,
        data: Some(data),
        ..request(0)
    }
}

pub(super) fn buffer(bytes: usize, placement: Placement) -> Arc<Block> {
    Arc::new(machine().memory().allocate(bytes, placement).unwrap())
}

/// A program that keeps requests outstanding.
pub(super) struct Load {
    left: u64,
    at_a_time: u64,
    pub(super) completions: Vec<Completion>,
}

impl Load {
    pub(super) fn new(requests: u64, at_a_time: u64) -> Self {
        Self {
            left: requests,
            at_a_time,
            completions: Vec::new(),
        }
    }

    fn issue(&mut self, issue: &mut dyn FnMut(Request)) {
        if let Some(left) = self.left.checked_sub(1) {
            self.left = left;
            issue(request(left));
        }
    }
}

impl Program for Load {
    fn start(&mut self, issue: &mut dyn FnMut(Request)) {
        for _ in 0..self.at_a_time {
            self.issue(issue);
        }
    }

    fn completed(&mut self, completion: Completion, issue: &mut dyn FnMut(Request)) {
        self.completions.push(completion);
        self.issue(issue);
    }

    fn finished(&self) -> bool {
        self.left == 0
    }

    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any> {
        self
    }
}

/// SRBs that a miniport keeps, to complete them later.
#[derive(Default)]
pub(super) struct Kept(Mutex<Vec<usize>>);

impl Kept {
    pub(super) fn push(&self, srb: usize) {
        self.0.lock().unwrap().push(srb);
    }

    pub(super) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    pub(super) fn complete_all(&self, ext: Extension, status: u8) {
        let all = std::mem::take(&mut *self.0.lock().unwrap());
        for srb in all {
            ext.complete(srb, status);
        }
    }
}
