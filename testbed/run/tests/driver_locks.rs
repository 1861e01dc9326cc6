//! The driver that takes every lock, where `testbed run` does not lead:
//! HwStartIo without concurrent channels, and HwResetBus.
//!
//! The file is the one that FERROSTOR_LOCKS names. A process is one machine,
//! so this is one test.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use testbed_devices::Bell;
use testbed_loader::Image;
use testbed_machine::{
    InterruptKind, Machine, MachineSettings,
    memory::{Block, Placement},
    pci::{Bar, FunctionCounters, Interrupts, PciFunction},
};
use testbed_storport::{
    self,
    adapter::{Adapter, AdapterSettings, ConcurrentChannels},
    request::{Address, Completion, Data, Direction, Request},
};

const SUCCESS: u8 = 0x01;

/// A bell that can be kept from ringing.
struct Muffled {
    bell: Arc<Bell>,
    silent: AtomicBool,
}

impl PciFunction for Muffled {
    fn config_read(&self, offset: u16, data: &mut [u8]) {
        self.bell.config_read(offset, data);
    }
    fn config_write(&self, offset: u16, data: &[u8]) {
        self.bell.config_write(offset, data);
    }
    fn bar(&self, index: usize) -> Option<Bar> {
        self.bell.bar(index)
    }
    fn bar_read(&self, index: usize, offset: u64, data: &mut [u8]) {
        self.bell.bar_read(index, offset, data);
    }
    fn bar_write(&self, index: usize, offset: u64, data: &[u8]) {
        if index != 0 || !self.silent.load(Ordering::SeqCst) {
            self.bell.bar_write(index, offset, data);
        }
    }
    fn msix_vectors(&self) -> u16 {
        self.bell.msix_vectors()
    }
    fn connect(&self, interrupts: Arc<dyn Interrupts>) {
        self.bell.connect(interrupts);
    }
    fn counters(&self) -> FunctionCounters {
        self.bell.counters()
    }
    fn power_cycle(&self) {
        self.bell.power_cycle();
    }
    fn driver_errors(&self) -> Vec<String> {
        self.bell.driver_errors()
    }
    fn stop(&self) {
        self.bell.stop();
    }
}

/// READ(10) of block 0.
fn read(adapter: &Adapter, block: &Arc<Block>) -> Completion {
    let mut cdb = [0; 16];
    cdb[..10].copy_from_slice(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    adapter.execute(Request {
        token: 0,
        address: Address::default(),
        cdb,
        cdb_length: 10,
        data: Some(Data {
            block: Arc::clone(block),
            offset: 0,
            bytes: 512,
            direction: Direction::In,
        }),
        timeout: Duration::from_secs(1),
    })
}

#[test]
#[ignore = "needs built drivers: cargo xtask test"]
fn every_lock_excludes_under_the_start_io_lock_and_in_a_bus_reset() {
    let driver = std::env::var("FERROSTOR_LOCKS").expect("FERROSTOR_LOCKS names the driver file");
    let machine = Machine::new(&MachineSettings {
        cpus: 2,
        memory_bytes: 64 << 20,
        interrupts: InterruptKind::Messages,
    })
    .unwrap();
    let image = Arc::new(Image::load(Path::new(&driver), &testbed_storport::resolve).unwrap());
    let muffled = Arc::new(Muffled {
        bell: Bell::new(2),
        silent: AtomicBool::new(false),
    });
    let function: Arc<dyn PciFunction> = muffled.clone();
    let adapter = Adapter::start(
        &machine,
        &image,
        &function,
        AdapterSettings {
            concurrent_channels: ConcurrentChannels::Refused,
            tick: Duration::from_millis(10),
            timeout: Some(Duration::from_millis(200)),
            ..AdapterSettings::default()
        },
    )
    .unwrap();
    let block = machine.memory().allocate(4096, Placement::Scattered);
    let block = Arc::new(block.unwrap());

    for _ in 0..100 {
        assert_eq!(read(&adapter, &block).srb_status, SUCCESS);
    }
    // No interrupt tells of this one: it is still waiting when the bus is reset.
    muffled.silent.store(true, Ordering::SeqCst);
    assert_eq!(read(&adapter, &block).srb_status, SUCCESS);
    muffled.silent.store(false, Ordering::SeqCst);
    // All counts were right until here, or this would fail.
    assert_eq!(read(&adapter, &block).srb_status, SUCCESS);
    adapter.stop().unwrap();

    let report = adapter.report();
    assert_eq!(report.resets.len(), 1);
    assert!(report.resets[0].accepted);
    assert!(report.violations.is_empty(), "{:?}", report.violations);
    assert_eq!(report.leaks, [""; 0]);
    let called: Vec<&str> = report.callbacks.iter().map(|row| row.name).collect();
    for callback in ["HwTimer", "HwStateChange", "HwWorkItem", "HwResetBus"] {
        assert!(called.contains(&callback), "{called:?}");
    }
}
