//! The setup of the scenarios: a process and a machine for each, a disk whose sectors have
//! numbers, commands, and a load that retries as a class driver does.

use std::{
    any::Any,
    collections::{BTreeMap, VecDeque},
    env, fs, iter,
    ops::Range,
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use testbed_devices::{BlkSettings, DiskImage, Faults, VirtioBlk};
use testbed_loader::Image;
use testbed_machine::{
    InterruptKind, Machine, MachineSettings,
    memory::{Block, Placement},
    pci::{Bar, FunctionCounters, Interrupts, PciFunction},
};
use testbed_storport::{
    self,
    adapter::{
        Adapter, AdapterSettings, FailedStart, FailingExport, FailingFunction, SrbChange, SrbShape,
        StartError,
    },
    dump::DumpStack,
    report::Report,
    request::{Address, Completion, Data, Direction, Program, Request},
};

/// SRB_STATUS values (`srb.h`).
pub const SUCCESS: u8 = 0x01;
pub const ERROR: u8 = 0x04;
pub const BUS_RESET: u8 = 0x0E;
/// Also the status of a transfer that was shorter than its buffer.
const DATA_OVERRUN: u8 = 0x12;

/// Extended functions of Storport, and a status.
pub const QUERY_PERFORMANCE_COUNTER: u32 = 47;
pub const GET_SYSTEM_ADDRESS: u32 = 5;
const UNSUCCESSFUL: u32 = 0xC100_0001;

/// The time in which service must resume, on a busy host as well.
pub const SOON: Duration = Duration::from_secs(5);

/// The most that a callback may stall a processor.
pub const MOST_STALL: Duration = Duration::from_millis(1);

/// A scenario that takes longer does not end.
const SCENARIO: Duration = Duration::from_secs(60);

const DISK_BYTES: u64 = 4 << 20;

pub const SECTOR: u32 = 512;

/// Names the properties of the disk, as `testbed run --device` has them.
const DEVICE: &str = "FERROSTOR_DEVICE";

/// The settings of the disk: the default, or those that [`DEVICE`] names.
pub fn device() -> BlkSettings {
    match env::var(DEVICE) {
        Ok(properties) => properties.parse().unwrap(),
        Err(_) => BlkSettings::default(),
    }
}

/// Names the scenario that a child process runs.
const VARIABLE: &str = "FERROSTOR_SCENARIO";

/// Defines a test for each scenario, which is a function of the file.
macro_rules! scenarios {
    ($($scenario:ident)+) => {
        mod scenarios {
            $(
                #[test]
                #[ignore = "needs built drivers: cargo xtask test"]
                fn $scenario() {
                    let name = concat!(module_path!(), "::", stringify!($scenario));
                    crate::bench::isolated(name, || super::$scenario());
                }
            )+
        }
    };
}

/// Runs the scenario of the test `name` in a process of its own: it is a machine of its own, and
/// may crash or hang.
pub fn isolated(name: &str, scenario: impl FnOnce()) {
    // Without the crate's name.
    let name = name.split_once("::").map_or(name, |(_, name)| name);
    if env::var(VARIABLE).as_deref() == Ok(name) {
        return scenario();
    }
    let output = tempfile::NamedTempFile::new().unwrap();
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", name, "--include-ignored", "--nocapture"])
        .env(VARIABLE, name)
        .stdout(Stdio::null())
        .stderr(output.reopen().unwrap())
        .spawn()
        .unwrap();
    let begin = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if begin.elapsed() > SCENARIO {
            child.kill().unwrap();
            child.wait().unwrap();
            break None;
        }
        thread::sleep(Duration::from_millis(5));
    };
    let text = fs::read_to_string(output.path()).unwrap();
    match status {
        Some(status) => assert!(status.success(), "{status}\n{text}"),
        None => panic!("it did not end in {SCENARIO:?}\n{text}"),
    }
}

/// The process's machine, with 2 CPUs unless [`machine_of`] made it.
pub fn machine() -> &'static Arc<Machine> {
    machine_of(2)
}

/// The process's machine. The first call decides how many CPUs it has.
pub fn machine_of(cpus: u32) -> &'static Arc<Machine> {
    static MACHINE: OnceLock<Arc<Machine>> = OnceLock::new();
    MACHINE.get_or_init(|| {
        Machine::new(&MachineSettings {
            cpus,
            memory_bytes: 64 << 20,
            interrupts: InterruptKind::Messages,
        })
        .unwrap()
    })
}

/// The driver file that `variable` names.
pub fn image(variable: &str) -> Arc<Image> {
    let path = env::var(variable).unwrap_or_else(|_| panic!("{variable} names the driver file"));
    Arc::new(Image::load(Path::new(&path), &testbed_storport::resolve).unwrap())
}

/// Memory for the data of requests. No two pages are adjacent in physical memory.
pub fn buffer(bytes: usize) -> Arc<Block> {
    let memory = machine().memory();
    Arc::new(memory.allocate(bytes, Placement::Scattered).unwrap())
}

pub fn sector() -> Arc<Block> {
    buffer(SECTOR as usize)
}

/// The driver, started on a disk.
pub struct Bench {
    pub device: Arc<VirtioBlk>,
    pub adapter: Arc<Adapter>,
    _folder: tempfile::TempDir,
}

/// A disk that is not started yet.
pub struct Disk {
    pub device: Arc<VirtioBlk>,
    folder: tempfile::TempDir,
}

impl Disk {
    /// A disk whose sectors each begin with their number, in a slot of its own.
    pub fn new(settings: BlkSettings) -> Self {
        static SLOTS: AtomicU8 = AtomicU8::new(0);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.img");
        let mut contents = vec![0; DISK_BYTES as usize];
        for (number, sector) in (0_u64..).zip(contents.chunks_mut(SECTOR as usize)) {
            sector[..8].copy_from_slice(&number.to_le_bytes());
        }
        fs::write(&path, contents).unwrap();
        let device = VirtioBlk::new(
            DiskImage::open(&path).unwrap(),
            machine().memory().guest().clone(),
            BlkSettings {
                slot: SLOTS.fetch_add(1, Ordering::Relaxed),
                ..settings
            },
        );
        Self { device, folder }
    }

    /// Starts the driver on it.
    pub fn try_start(self, settings: AdapterSettings) -> Result<Bench, FailedStart> {
        let function = self.device.clone();
        self.try_start_as(function, settings)
    }

    /// Starts the driver on `function`, which passes every access to the disk.
    pub fn try_start_as(
        self,
        function: Arc<dyn PciFunction>,
        settings: AdapterSettings,
    ) -> Result<Bench, FailedStart> {
        let image = image("FERROSTOR_DRIVER");
        let adapter = Adapter::start(machine(), &image, &function, settings)?;
        Ok(Bench {
            device: self.device,
            adapter,
            _folder: self.folder,
        })
    }

    pub fn start(self, settings: AdapterSettings) -> Bench {
        self.try_start(settings).expect("the driver starts")
    }
}

/// Requests time out after 30 s, so the driver itself must do what happens earlier.
pub fn patient() -> AdapterSettings {
    AdapterSettings {
        tick: Duration::from_millis(10),
        timeout: Some(Duration::from_secs(30)),
        ..AdapterSettings::default()
    }
}

/// Requests time out soon.
pub fn impatient() -> AdapterSettings {
    AdapterSettings {
        timeout: Some(Duration::from_millis(300)),
        ..patient()
    }
}

/// An extended function of Storport fails after `after` calls.
pub fn failing_function(code: u32, after: u32) -> AdapterSettings {
    AdapterSettings {
        failing_function: Some(FailingFunction {
            code,
            after,
            status: UNSUCCESSFUL,
        }),
        ..patient()
    }
}

/// QueryPerformanceCounter fails after `after` calls.
pub fn without_clock(after: u32) -> AdapterSettings {
    failing_function(QUERY_PERFORMANCE_COUNTER, after)
}

pub fn failing_export(export: FailingExport) -> AdapterSettings {
    AdapterSettings {
        failing_export: Some(export),
        ..patient()
    }
}

/// A disk without a write cache: a stop needs no flush, and so does not wait for a reset.
pub fn without_cache() -> Disk {
    const FLUSH: u64 = 1 << 9;
    const CONFIG_WCE: u64 = 1 << 11;
    Disk::new(BlkSettings {
        features: BlkSettings::FEATURES & !(FLUSH | CONFIG_WCE),
        ..device()
    })
}

pub fn start(settings: AdapterSettings) -> Bench {
    Disk::new(device()).start(settings)
}

impl Bench {
    /// Carries out a request, which must end soon.
    pub fn run(&self, request: Request) -> Completion {
        self.within(SOON, request).expect("the request ends")
    }

    /// Issues a read that the device keeps.
    pub fn keep_in_flight(&self) -> mpsc::Receiver<Completion> {
        self.device.set_faults(stalled());
        let done = self.issue(read(STALLED, &sector()));
        self.wait(SOON, "the read is in flight", |bench| {
            bench.adapter.outstanding() == 1
        });
        done
    }

    /// Puts a load on all CPUs, does `meanwhile`, and checks that all requests succeed, some
    /// after a bus reset.
    pub fn serve(&self, requests: u32, depth: usize, limit: Duration, meanwhile: impl FnOnce()) {
        let ends = load(self, requests, depth, limit, meanwhile).expect("all requests end");
        assert_eq!(ends.get(&SUCCESS), Some(&(2 * requests)), "{ends:?}");
    }

    /// Carries out a request, if it ends within `limit`.
    pub fn within(&self, limit: Duration, request: Request) -> Option<Completion> {
        self.issue(request).recv_timeout(limit).ok()
    }

    /// Issues a request, and gives where its completion will come.
    pub fn issue(&self, request: Request) -> mpsc::Receiver<Completion> {
        let (send, receive) = mpsc::channel();
        let adapter = Arc::clone(&self.adapter);
        thread::spawn(move || send.send(adapter.execute(request)));
        receive
    }

    /// Reads a sector and checks its data. Fails if it takes long.
    pub fn read(&self, lba: u8) {
        let buffer = sector();
        let done = self
            .within(SOON, read(lba, &buffer))
            .expect("the read ends soon");
        assert_eq!(done.srb_status, SUCCESS, "{done:?}");
        assert_eq!(done.transferred, SECTOR);
        assert_eq!(stamp(&buffer), u64::from(lba));
    }

    /// Waits until `done`. Fails after `limit`.
    pub fn wait(&self, limit: Duration, what: &str, done: impl Fn(&Self) -> bool) {
        let begin = Instant::now();
        while !done(self) {
            assert!(begin.elapsed() < limit, "not within {limit:?}: {what}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until the driver has reset the device more often than `before`.
    pub fn wait_for_reset(&self, before: u64) {
        self.wait(SOON, "the driver resets the device", |bench| {
            bench.device.resets() > before
        });
    }

    /// Checks that no rule was broken, by the driver towards Storport or the
    /// device, and that no callback stalled for long.
    pub fn check(&self) -> Report {
        let report = self.adapter.report();
        assert!(report.violations.is_empty(), "{:?}", report.violations);
        assert_eq!(self.device.driver_errors(), [""; 0]);
        self.check_stalls();
        report
    }

    /// Checks that no callback stalled a processor for long.
    pub fn check_stalls(&self) {
        for row in self.adapter.report().callbacks {
            assert!(
                row.max_stalled <= MOST_STALL,
                "{} stalled for {:?}",
                row.name,
                row.max_stalled
            );
        }
    }

    /// [`Self::check`], and that all was done without a bus reset.
    pub fn check_without_storport(&self) {
        let report = self.check();
        assert!(report.resets.is_empty(), "{:?}", report.resets);
    }

    pub fn stop(self) {
        self.adapter.stop().unwrap();
    }

    /// [`Self::check`], and stops the adapter.
    pub fn finish(self) {
        self.check();
        self.stop();
    }

    /// [`Self::check_without_storport`], and stops the adapter.
    pub fn finish_without_storport(self) {
        self.check_without_storport();
        self.stop();
    }

    /// What the driver wrote to the event log.
    pub fn driver_events(&self) -> Vec<String> {
        let events = self.adapter.report().events;
        // Storport's own.
        events
            .into_iter()
            .filter(|event| !event.contains(": 129: "))
            .collect()
    }
}

/// A command.
pub fn command(bytes: &[u8], data: Option<(Direction, &Arc<Block>, u32)>) -> Request {
    let mut cdb = [0; 16];
    cdb[..bytes.len()].copy_from_slice(bytes);
    Request {
        token: 0,
        address: Address::default(),
        cdb,
        cdb_length: bytes.len() as u8,
        data: data.map(|(direction, block, bytes)| Data {
            block: Arc::clone(block),
            offset: 0,
            bytes,
            direction,
        }),
        timeout: Duration::from_secs(10),
    }
}

/// READ(10) of one sector.
pub fn read(lba: u8, buffer: &Arc<Block>) -> Request {
    let data = Some((Direction::In, buffer, SECTOR));
    command(&[0x28, 0, 0, 0, 0, lba, 0, 0, 1, 0], data)
}

/// WRITE(10) of one sector, with FUA or without.
pub fn write(lba: u8, buffer: &Arc<Block>, force_unit_access: bool) -> Request {
    let flags = u8::from(force_unit_access) << 3;
    let data = Some((Direction::Out, buffer, SECTOR));
    command(&[0x2A, flags, 0, 0, 0, lba, 0, 0, 1, 0], data)
}

/// INQUIRY for the standard data.
pub fn inquiry(buffer: &Arc<Block>) -> Request {
    let data = Some((Direction::In, buffer, 36));
    command(&[0x12, 0, 0, 0, 36, 0], data)
}

/// READ CAPACITY(10).
pub fn read_capacity(buffer: &Arc<Block>) -> Request {
    let data = Some((Direction::In, buffer, 8));
    command(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], data)
}

/// SYNCHRONIZE CACHE(10).
pub fn synchronize_cache() -> Request {
    command(&[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0], None)
}

/// The number at the begin of a sector.
pub fn stamp(buffer: &Block) -> u64 {
    let mut bytes = [0; 8];
    assert!(buffer.read(0, &mut bytes));
    u64::from_le_bytes(bytes)
}

/// Both flags of the data's direction.
pub fn direction(data_in: bool, data_out: bool) -> Vec<SrbChange> {
    vec![SrbChange::Direction { data_in, data_out }]
}

/// Every request is reported with this length.
pub fn used_length(length: u32) -> Faults {
    Faults {
        used_length: Some(length),
        ..Faults::default()
    }
}

/// The sector that [`stalled`] is about.
pub const STALLED: u8 = 30;

/// The device keeps each transfer of one sector.
pub fn stalled() -> Faults {
    Faults {
        stalled: only(STALLED.into()),
        ..Faults::default()
    }
}

/// One sector, as a list of sectors of [`Faults`].
pub fn only(lba: u64) -> Vec<Range<u64>> {
    iter::once(lba..lba + 1).collect()
}

/// The device accepts no features.
pub fn refusing_features() -> Faults {
    Faults {
        refuse_features: true,
        ..Faults::default()
    }
}

/// Whether a request failed. A success with less data is not a failure.
pub fn failed(completion: &Completion) -> bool {
    ![SUCCESS, DATA_OVERRUN].contains(&completion.srb_status)
}

/// Sense key, additional sense code and qualifier of fixed-format sense data.
pub fn sense(completion: &Completion) -> (u8, u8, u8) {
    assert!(completion.sense_valid, "{completion:?}");
    let sense = &completion.sense;
    (sense[2] & 0xF, sense[12], sense[13])
}

/// The content of a buffer that no request has.
const RESTING: [u8; SECTOR as usize] = [0xEE; SECTOR as usize];

/// Reads and writes, of which each is tried again after a bus reset, as a class driver does.
///
/// A sector always contains its number, and each read is checked. After its completion a buffer
/// is filled with [`RESTING`], and rests for many requests. So a device that still accesses the
/// memory of a completed request is noticed: what it writes is found when the rest ends, and what
/// it reads comes to the disk and is found by a later read.
pub struct Load {
    depth: usize,
    /// The buffers that no request has.
    resting: VecDeque<Arc<Block>>,
    /// The requests in flight, by token: sector and buffer.
    in_flight: Vec<Option<(u8, Arc<Block>)>>,
    left: u32,
    next: u8,
    /// How requests ended, by SRB status.
    pub ends: BTreeMap<u8, u32>,
}

impl Load {
    pub fn new(requests: u32, depth: usize) -> Self {
        let resting = (0..4 * depth).map(|_| {
            let buffer = sector();
            assert!(buffer.write(0, &RESTING));
            buffer
        });
        Self {
            depth,
            resting: resting.collect(),
            in_flight: vec![None; depth],
            left: requests,
            next: 0,
            ends: BTreeMap::new(),
        }
    }

    fn issue(&mut self, slot: usize, lba: u8, issue: &mut dyn FnMut(Request)) {
        let buffer = self.resting.pop_front().expect("more than the depth");
        check_resting(&buffer);
        let request = if lba.is_multiple_of(4) {
            let mut content = [0; SECTOR as usize];
            content[0] = lba;
            assert!(buffer.write(0, &content));
            write(lba, &buffer, false)
        } else {
            read(lba, &buffer)
        };
        self.in_flight[slot] = Some((lba, buffer));
        issue(Request {
            token: slot as u64,
            ..request
        });
    }

    fn issue_next(&mut self, slot: usize, issue: &mut dyn FnMut(Request)) {
        if let Some(left) = self.left.checked_sub(1) {
            self.left = left;
            self.next = self.next.wrapping_add(1);
            self.issue(slot, self.next, issue);
        }
    }
}

/// Checks that nothing was written to the buffer since its request was completed.
fn check_resting(buffer: &Block) {
    let mut content = [0; SECTOR as usize];
    assert!(buffer.read(0, &mut content));
    assert!(
        content == RESTING,
        "the memory of a completed request changed"
    );
}

impl Program for Load {
    fn start(&mut self, issue: &mut dyn FnMut(Request)) {
        for slot in 0..self.depth {
            self.issue_next(slot, issue);
        }
    }

    fn completed(&mut self, completion: Completion, issue: &mut dyn FnMut(Request)) {
        let slot = completion.token as usize;
        let (lba, buffer) = self.in_flight[slot].take().expect("it is in flight");
        *self.ends.entry(completion.srb_status).or_default() += 1;
        if completion.srb_status == SUCCESS {
            assert_eq!(completion.transferred, SECTOR);
            assert_eq!(stamp(&buffer), u64::from(lba));
        }
        assert!(buffer.write(0, &RESTING));
        self.resting.push_back(buffer);
        if completion.srb_status == BUS_RESET {
            return self.issue(slot, lba, issue);
        }
        self.issue_next(slot, issue);
    }

    fn finished(&self) -> bool {
        self.left == 0 && self.in_flight.iter().all(Option::is_none)
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// Puts a load on all CPUs, does `meanwhile`, and gives how the requests
/// ended, if they did within `limit`.
pub fn load(
    bench: &Bench,
    requests: u32,
    depth: usize,
    limit: Duration,
    meanwhile: impl FnOnce(),
) -> Option<BTreeMap<u8, u32>> {
    let programs = loads(requests, depth);
    let (send, receive) = mpsc::channel();
    let adapter = Arc::clone(&bench.adapter);
    thread::spawn(move || send.send(adapter.run(programs)));
    meanwhile();
    let programs = receive.recv_timeout(limit).ok()?;
    Some(ends(programs))
}

/// A load for each CPU.
pub fn loads(requests: u32, depth: usize) -> Vec<Box<dyn Program>> {
    let cpus = machine().cpus().iter();
    let each = cpus.map(|_| Box::new(Load::new(requests, depth)) as Box<dyn Program>);
    each.collect()
}

/// How the requests of finished loads ended.
pub fn ends(loads: Vec<Box<dyn Program>>) -> BTreeMap<u8, u32> {
    let mut ends = BTreeMap::new();
    for load in loads {
        let load = load.into_any().downcast::<Load>().expect("its type");
        for buffer in &load.resting {
            check_resting(buffer);
        }
        for (status, count) in load.ends {
            *ends.entry(status).or_default() += count;
        }
    }
    ends
}

/// Crashes, and starts a second copy of the driver as a dump stack.
pub fn crash(bench: &Bench) -> Result<DumpStack, StartError> {
    bench.adapter.crash();
    let image = image("FERROSTOR_DRIVER");
    let function: Arc<dyn PciFunction> = bench.device.clone();
    DumpStack::start(machine(), &image, &function, SrbShape::Storage)
}

type BeforeWrite = dyn Fn(usize, u64, &[u8]) -> bool + Send + Sync;

/// A function whose accesses to BARs are observed.
pub struct Intercepted {
    pub function: Arc<dyn PciFunction>,
    /// Gets the BAR and the offset.
    pub before_read: Box<dyn Fn(usize, u64) + Send + Sync>,
    /// Gets the BAR, the offset and the data. Returns whether the write reaches the function.
    pub before_write: Box<BeforeWrite>,
}

impl PciFunction for Intercepted {
    fn config_read(&self, offset: u16, data: &mut [u8]) {
        self.function.config_read(offset, data);
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        self.function.config_write(offset, data);
    }

    fn bar(&self, index: usize) -> Option<Bar> {
        self.function.bar(index)
    }

    fn bar_read(&self, index: usize, offset: u64, data: &mut [u8]) {
        (self.before_read)(index, offset);
        self.function.bar_read(index, offset, data);
    }

    fn bar_write(&self, index: usize, offset: u64, data: &[u8]) {
        if (self.before_write)(index, offset, data) {
            self.function.bar_write(index, offset, data);
        }
    }

    fn msix_vectors(&self) -> u16 {
        self.function.msix_vectors()
    }

    fn connect(&self, interrupts: Arc<dyn Interrupts>) {
        self.function.connect(interrupts);
    }

    fn counters(&self) -> FunctionCounters {
        self.function.counters()
    }

    fn power_cycle(&self) {
        self.function.power_cycle();
    }

    fn driver_errors(&self) -> Vec<String> {
        self.function.driver_errors()
    }

    fn stop(&self) {
        self.function.stop();
    }
}
