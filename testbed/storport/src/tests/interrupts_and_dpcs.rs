//! Interrupts on their way to the miniport, and the DPCs that follow.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use super::bench::*;
use testbed_machine::cpu::{current_irql, current_number, irql};

/// Notes interrupts and DPCs.
#[derive(Default)]
struct Notes {
    dpc: Mutex<Option<Scratch>>,
    messages: Mutex<Vec<(u32, u8, u32, bool)>>,
    dpcs: Mutex<Vec<(u8, u32, usize, usize)>>,
    queued: Mutex<Vec<bool>>,
    /// The routine waits while it is set.
    wait: AtomicBool,
    inside: AtomicU64,
}

impl Notes {
    fn dpc_address(&self) -> usize {
        self.dpc.lock().unwrap().as_ref().unwrap().address()
    }
}

impl Miniport for Notes {
    fn passive_initialize(&self, ext: Extension) -> bool {
        let dpc = Scratch::new(abi::stor_dpc::SIZE);
        ext.initialize_dpc(dpc.address());
        *self.dpc.lock().unwrap() = Some(dpc);
        true
    }

    fn message(&self, ext: Extension, id: u32) -> bool {
        self.messages.lock().unwrap().push((
            id,
            current_irql(),
            current_number(),
            ext.holds(LockId::Message(id)),
        ));
        self.inside.fetch_add(1, Ordering::SeqCst);
        while self.wait.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        let dpc = self.dpc_address();
        let queued = [
            ext.issue_dpc(dpc, id as usize, 7),
            ext.issue_dpc(dpc, id as usize, 8),
        ];
        self.queued.lock().unwrap().extend(queued);
        true
    }

    fn dpc(&self, _: Extension, dpc: usize, first: usize, second: usize) {
        assert_eq!(dpc, self.dpc_address());
        let note = (current_irql(), current_number(), first, second);
        self.dpcs.lock().unwrap().push(note);
    }
}

#[test]
fn a_message_comes_at_dirql_with_its_lock_and_its_dpc_runs_on_its_cpu_once() {
    let bench = start(Notes::default());

    bench.function.message(1);
    bench.wait_until("the DPC", |bench| bench.adapter.report().dpcs == 1);
    bench.adapter.stop().unwrap();

    let notes = bench.miniport;
    let messages = notes.messages.lock().unwrap().clone();
    assert_eq!(messages, [(1, irql::DEVICE, 1, true)]);
    let dpcs = notes.dpcs.lock().unwrap().clone();
    assert_eq!(dpcs, [(irql::DISPATCH, 1, 1, 7)]);
    assert_eq!(*notes.queued.lock().unwrap(), [true, false]);
    assert_eq!(bench.broken(), []);
}

#[test]
fn messages_merge_while_pending_and_none_is_lost() {
    let bench = start(Notes::default());
    let inside = |bench: &Bench<Notes>| bench.miniport.inside.load(Ordering::SeqCst);
    bench.miniport.wait.store(true, Ordering::SeqCst);
    bench.function.message(0);
    bench.wait_until("the routine runs", |bench| inside(bench) == 1);

    for _ in 0..5 {
        bench.function.message(0);
    }
    bench.miniport.wait.store(false, Ordering::SeqCst);

    bench.wait_until("it runs again", |bench| inside(bench) == 2);
    bench.adapter.stop().unwrap();
    assert_eq!(bench.adapter.report().interrupts, 2);
}

#[test]
fn routines_of_different_messages_run_at_a_time() {
    let bench = start(Notes::default());
    bench.miniport.wait.store(true, Ordering::SeqCst);

    bench.function.message(0);
    bench.function.message(1);

    bench.wait_until("both run", |bench| {
        bench.miniport.inside.load(Ordering::SeqCst) == 2
    });
    bench.miniport.wait.store(false, Ordering::SeqCst);
}

#[test]
fn many_messages_from_a_device_thread_all_lead_to_a_routine() {
    let bench = start(Notes::default());
    let function = Arc::clone(&bench.function);
    let device = std::thread::spawn(move || {
        for round in 0..2000u16 {
            function.message(round % 2);
        }
    });
    device.join().unwrap();

    // Whatever was merged: after the last message each routine runs once more.
    bench.wait_until("quiet", |bench| {
        let before = bench.adapter.report().interrupts;
        std::thread::sleep(Duration::from_millis(5));
        before > 0 && before == bench.adapter.report().interrupts
    });
    let before = bench.adapter.report().interrupts;
    bench.function.message(0);
    bench.function.message(1);
    bench.wait_until("two more", |bench| {
        bench.adapter.report().interrupts == before + 2
    });
    assert_eq!(bench.broken(), []);
}

/// Answers to the pin until its device lets go.
struct Pin {
    calls: AtomicU64,
    function: Arc<FakeFunction>,
    good: AtomicBool,
}

impl Miniport for Pin {
    fn interrupt(&self, ext: Extension) -> bool {
        let good = current_irql() == irql::DEVICE && ext.holds(LockId::Interrupt);
        self.good.fetch_and(good, Ordering::SeqCst);
        if self.calls.fetch_add(1, Ordering::SeqCst) == 2 {
            // As reading the device's interrupt status would.
            self.function.line(false);
        }
        true
    }
}

#[test]
fn the_pin_interrupts_as_long_as_it_is_asserted() {
    let function = FakeFunction::new(0);
    let pin = Pin {
        calls: AtomicU64::new(0),
        function: Arc::clone(&function),
        good: AtomicBool::new(true),
    };
    let bench = start_with(pin, function, quick());

    bench.function.line(true);

    bench.wait_until("three calls", |bench| {
        bench.adapter.report().interrupts == 3
    });
    bench.adapter.stop().unwrap();
    assert_eq!(bench.adapter.report().interrupts, 3);
    assert!(bench.miniport.good.load(Ordering::SeqCst));
}

/// Asks for performance options, and runs HwStartIo on two CPUs at a time.
struct Channels {
    wanted: u32,
    statuses: Mutex<Vec<(u32, u32)>>,
    parameters: Mutex<Vec<(u32, u32, u32)>>,
    start_io_lock: AtomicBool,
}

impl Channels {
    fn new(wanted: u32) -> Self {
        Self {
            wanted,
            statuses: Mutex::default(),
            parameters: Mutex::default(),
            start_io_lock: AtomicBool::new(false),
        }
    }
}

impl Miniport for Channels {
    fn initialize(&self, ext: Extension) -> bool {
        use abi::perf_configuration_data as data;
        let scratch = Scratch::new(128);
        let perf = scratch.at(0);
        perf.fill(128, 0);
        perf.set(data::Version, 4);
        perf.set(data::Size, 40);
        let query = ext.extended(14, [1, perf.address(), 0, 0]);
        let offered = perf.get(data::Flags);
        perf.set(data::Flags, self.wanted);
        perf.set(data::ConcurrentChannels, 2);
        perf.set(data::FirstRedirectionMessageNumber, 0);
        perf.set(data::LastRedirectionMessageNumber, 1);
        perf.set(data::MessageTargets, scratch.address() + 64);
        let set = ext.extended(14, [0, perf.address(), 0, 0]);
        let targets = [0, 1]
            .map(|message| scratch.at(64 + 16 * message).get(abi::group_affinity::Mask) as u32);
        *self.statuses.lock().unwrap() = vec![(query, offered), (set, 0), (targets[0], targets[1])];
        true
    }

    fn start_io(&self, ext: Extension, srb: usize) -> bool {
        use abi::startio_performance_parameters as start_io;
        let scratch = Scratch::new(64);
        let to = scratch.at(0);
        to.set(start_io::Version, 1);
        to.set(start_io::Size, 16);
        ext.extended(15, [srb, to.address(), 0, 0]);
        self.parameters.lock().unwrap().push((
            current_number(),
            to.get(start_io::MessageNumber),
            to.get(start_io::ChannelNumber),
        ));
        self.start_io_lock
            .fetch_or(ext.holds(LockId::StartIo), Ordering::SeqCst);
        ext.complete(srb, SUCCESS);
        true
    }
}

#[test]
fn concurrent_channels_are_granted_to_who_asks_and_replace_the_start_io_lock() {
    let bench = start(Channels::new(0x1 | 0x2 | 0x4 | 0x8));

    let _ = bench.load(50, 1);

    let statuses = bench.miniport.statuses.lock().unwrap().clone();
    assert_eq!(statuses, [(0, 0x3F), (0, 0), (1, 2)]);
    let parameters = bench.miniport.parameters.lock().unwrap().clone();
    assert!(parameters.contains(&(0, 0, 0)) && parameters.contains(&(1, 1, 1)));
    assert!(
        parameters
            .iter()
            .all(|(cpu, message, channel)| cpu == message && cpu == channel)
    );
    assert!(!bench.miniport.start_io_lock.load(Ordering::SeqCst));
    let report = bench.adapter.report();
    assert!(report.locks.iter().any(|row| row.name == "Channel 1"));
    assert_eq!(bench.broken(), []);
}

#[test]
fn refused_channels_leave_the_start_io_lock() {
    let settings = AdapterSettings {
        concurrent_channels: super::super::adapter::ConcurrentChannels::Refused,
        ..quick()
    };
    let bench = start_with(Channels::new(0x2), FakeFunction::new(2), settings);

    let _ = bench.execute();

    let statuses = bench.miniport.statuses.lock().unwrap().clone();
    assert_eq!(statuses[..2], [(0, 0x3D), (0xC100_0001, 0)]);
    assert!(bench.miniport.start_io_lock.load(Ordering::SeqCst));
}

#[test]
fn options_that_need_others_are_refused_without_them() {
    // Message ranges need DPC redirection.
    let bench = start(Channels::new(0x4));

    let statuses = bench.miniport.statuses.lock().unwrap().clone();
    assert_eq!(statuses[1], (0xC100_0001, 0));
    drop(bench);
}
