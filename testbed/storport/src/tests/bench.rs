//! The setup of the tests: a PCI function with registers but no behaviour, memory, and requests.
#![expect(unsafe_code, reason = "plays a driver")]

use std::{
    mem,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

pub(super) use super::{
    super::{
        abi::{
            self, Routine, Structure, hw_initialization_data as init,
            port_configuration_information as info, scsi_request_block as scsi, stor_lock_handle,
            storage_request_block as storage, wdk,
        },
        adapter::{Adapter, AdapterSettings, Checks, FailedStart, SrbShape, StartError},
        callbacks::{self, Callback},
        dump::{self, DumpStack},
        port::Port,
        report::Violation,
        request::{Address, Completion, Data, Direction, Program, Request},
        spin_locks::LockId,
    },
    miniport::*,
};
pub(super) use testbed_machine::memory::Placement;
use testbed_machine::{
    self, Machine, cpu,
    memory::Block,
    pci::{Bar, BarKind, FunctionCounters, Interrupts, PciFunction},
};

/// Memory of the test's that plays the driver's own, such as parameters.
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
/// What a test's miniport writes down.
pub(super) struct Notes<T>(Mutex<Vec<T>>);

impl<T> Notes<T> {
    pub(super) fn new() -> &'static Self {
        Box::leak(Box::new(Self(Mutex::default())))
    }

    pub(super) fn push(&self, note: T) {
        self.0.lock().unwrap().push(note);
    }

    pub(super) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    pub(super) fn take(&self) -> Vec<T> {
        mem::take(&mut *self.0.lock().unwrap())
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

    /// Checks that the messages are on and unmasked, by vector control and data of message 1.
    pub(super) fn check_messages(&self) {
        assert!(self.is_msix_on());
        let table = self.bars[1].lock().unwrap();
        assert_eq!(table[24..32], [0x51, 0, 0, 0, 0, 0, 0, 0]);
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
pub(super) struct Bench {
    pub(super) adapter: Arc<Adapter>,
    pub(super) miniport: &'static Miniport,
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

/// Time-outs after 40 ms.
pub(super) fn soon() -> AdapterSettings {
    AdapterSettings {
        tick: Duration::from_millis(5),
        timeout: Some(Duration::from_millis(40)),
        ..quick()
    }
}

/// Accesses to completed requests are watched.
pub(super) fn watched() -> AdapterSettings {
    AdapterSettings {
        checks: Checks::All,
        ..quick()
    }
}

pub(super) fn start(miniport: Miniport) -> Bench {
    start_as(miniport, quick())
}

pub(super) fn start_as(miniport: Miniport, settings: AdapterSettings) -> Bench {
    start_with(miniport, FakeFunction::new(2), settings)
}

pub(super) fn start_with(
    miniport: Miniport,
    function: Arc<FakeFunction>,
    settings: AdapterSettings,
) -> Bench {
    try_start(miniport, function, settings).expect("the miniport starts")
}

pub(super) fn try_start(
    miniport: Miniport,
    function: Arc<FakeFunction>,
    settings: AdapterSettings,
) -> Result<Bench, FailedStart> {
    let (miniport, port, entry) = about_to_start(miniport, &function, settings);
    let adapter = Adapter::start_port(port, entry)?;
    Ok(Bench {
        adapter,
        miniport,
        function,
    })
}

/// Why the adapter does not start.
pub(super) fn refused(miniport: Miniport) -> FailedStart {
    let started = try_start(miniport, FakeFunction::new(2), quick());
    started.map(|_| ()).expect_err("it does not start")
}

fn about_to_start(
    miniport: Miniport,
    function: &Arc<FakeFunction>,
    settings: AdapterSettings,
) -> (&'static Miniport, &'static Port, Routine) {
    let miniport: &'static Miniport = Box::leak(Box::new(miniport));
    let shared: Arc<dyn PciFunction> = Arc::clone(function) as _;
    let port = Port::new(machine(), "test.sys", None, &shared, settings);
    (miniport, port, install(port, miniport))
}

/// Starts the miniport as a dump stack does.
pub(super) fn start_dump(miniport: Miniport) -> Result<DumpStack, StartError> {
    let settings = dump::settings(SrbShape::Storage);
    let (_, port, entry) = about_to_start(miniport, &FakeFunction::new(2), settings);
    DumpStack::start_port(port, entry)
}

/// Removes the miniport's adapter before it was started: the request's status,
/// and the rules that were broken.
pub(super) fn remove_unstarted(miniport: Miniport) -> (Option<u8>, Vec<Violation>) {
    let (_, port, entry) = about_to_start(miniport, &FakeFunction::new(2), quick());
    let (status, report) =
        Adapter::remove_unstarted_port(port, entry).expect("the driver is entered");
    (status, report.violations)
}

/// The answer of a miniport that is asked in HwBuildIo, and the rules that it broke.
pub(super) fn ask<T: Send + 'static>(
    ask: impl Fn(&Context) -> T + Send + Sync + 'static,
) -> (T, Vec<&'static str>) {
    let notes = Notes::new();
    let bench = start(Miniport::new().on(Callback::HwBuildIo, move |c| notes.push(ask(c))));
    let _ = bench.execute();
    let _ = bench.adapter.stop();
    let broken = bench.broken().into_iter().map(|(rule, _)| rule).collect();
    (notes.take().pop().expect("it was asked"), broken)
}

/// The rules that these violations break, and the callbacks.
pub(super) fn rules_of(violations: &[Violation]) -> Vec<(&'static str, &'static str)> {
    violations
        .iter()
        .map(|violation| (violation.rule, violation.callback))
        .collect()
}

impl Bench {
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
            .map(|_| {
                Box::new(Load {
                    left: requests,
                    at_a_time,
                    completions: Vec::new(),
                }) as Box<dyn Program>
            })
            .collect();
        self.adapter
            .run(programs)
            .into_iter()
            .flat_map(|program| program.into_any().downcast::<Load>().unwrap().completions)
            .collect()
    }

    /// The rules broken so far.
    pub(super) fn broken(&self) -> Vec<(&'static str, &'static str)> {
        rules_of(&self.adapter.report().violations)
    }

    /// Waits until `done`, or panics after a long time.
    pub(super) fn wait_until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(start.elapsed() < Duration::from_secs(20), "never: {what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until the miniport's routines got this many interrupts.
    pub(super) fn wait_for_interrupts(&self, count: u64) {
        self.wait_until("the interrupt", |bench| {
            bench.adapter.report().interrupts >= count
        });
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // A test's miniport may still have requests, so that the stop fails.
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

/// READ(10) of so many bytes.
pub(super) fn read(bytes: usize, placement: Placement) -> Request {
    transfer(Data {
        block: buffer(bytes, placement),
        offset: 0,
        bytes: bytes as u32,
        direction: Direction::In,
    })
}

pub(super) fn buffer(bytes: usize, placement: Placement) -> Arc<Block> {
    Arc::new(machine().memory().allocate(bytes, placement).unwrap())
}

/// A program that keeps requests outstanding.
struct Load {
    left: u64,
    at_a_time: u64,
    completions: Vec<Completion>,
}

impl Load {
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
