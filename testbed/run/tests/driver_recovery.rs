//! The driver file and a disk with faults: errors are told with sense data,
//! and a request that the disk never answers comes back by a bus reset.
//!
//! The file is the one that FERROSTOR_DRIVER names. A process is one machine,
//! so this is one test.

use std::{iter, ops::Range, path::Path, sync::Arc, time::Duration};

use testbed_devices::{BlkSettings, DiskImage, Faults, VirtioBlk};
use testbed_loader::Image;
use testbed_machine::{
    InterruptKind, Machine, MachineSettings,
    memory::{Block, Placement},
    pci::PciFunction,
};
use testbed_storport::{
    self,
    adapter::{Adapter, AdapterSettings},
    request::{Address, Completion, Data, Direction, Request},
};

const SUCCESS: u8 = 0x01;
const ERROR: u8 = 0x04;
const BUS_RESET: u8 = 0x0E;

/// One sector, as the faults want it.
fn sector(number: u64) -> Vec<Range<u64>> {
    iter::once(number..number + 1).collect()
}

/// READ(10) or WRITE(10) of one block.
fn transfer(adapter: &Adapter, block: &Arc<Block>, direction: Direction, lba: u8) -> Completion {
    let opcode = match direction {
        Direction::In => 0x28,
        Direction::Out => 0x2A,
    };
    let mut cdb = [0; 16];
    cdb[..10].copy_from_slice(&[opcode, 0, 0, 0, 0, lba, 0, 0, 1, 0]);
    adapter.execute(Request {
        token: 0,
        address: Address::default(),
        cdb,
        cdb_length: 10,
        data: Some(Data {
            block: Arc::clone(block),
            offset: 0,
            bytes: 512,
            direction,
        }),
        timeout: Duration::from_secs(1),
    })
}

/// Sense key and additional sense code of fixed-format sense data.
fn sense(completion: &Completion) -> (u8, u8) {
    assert!(completion.sense_valid);
    (completion.sense[2] & 0xF, completion.sense[12])
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn faults_of_the_disk_are_reported_and_survived() {
    let driver = std::env::var("FERROSTOR_DRIVER").expect("FERROSTOR_DRIVER names the driver file");
    let folder = tempfile::tempdir().unwrap();
    let disk = DiskImage::create(&folder.path().join("disk.img"), 1 << 20).unwrap();
    let machine = Machine::new(&MachineSettings {
        cpus: 2,
        memory_bytes: 64 << 20,
        interrupts: InterruptKind::Messages,
    })
    .unwrap();
    let device = VirtioBlk::new(
        disk,
        machine.memory().guest().clone(),
        BlkSettings {
            faults: Faults {
                unreadable: sector(10),
                unwritable: sector(20),
                stalled: sector(30),
                ..Faults::default()
            },
            ..BlkSettings::default()
        },
    );
    let image = Arc::new(Image::load(Path::new(&driver), &testbed_storport::resolve).unwrap());
    let function: Arc<dyn PciFunction> = device.clone();
    let adapter = Adapter::start(
        &machine,
        &image,
        &function,
        AdapterSettings {
            tick: Duration::from_millis(10),
            timeout: Some(Duration::from_millis(200)),
            ..AdapterSettings::default()
        },
    )
    .unwrap();
    let block = Arc::new(
        machine
            .memory()
            .allocate(4096, Placement::Scattered)
            .unwrap(),
    );

    // Medium errors, each with the block that failed.
    let read = transfer(&adapter, &block, Direction::In, 10);
    assert_eq!((read.srb_status, sense(&read)), (ERROR, (0x3, 0x11)));
    assert_eq!(read.transferred, 0);
    let write = transfer(&adapter, &block, Direction::Out, 20);
    assert_eq!((write.srb_status, sense(&write)), (ERROR, (0x3, 0x0C)));

    // Beyond the last block.
    let mut beyond = [0; 16];
    beyond[..10].copy_from_slice(&[0x28, 0, 0, 0, 0x08, 0, 0, 0, 1, 0]);
    let refused = adapter.execute(Request {
        token: 0,
        address: Address::default(),
        cdb: beyond,
        cdb_length: 10,
        data: Some(Data {
            block: Arc::clone(&block),
            offset: 0,
            bytes: 512,
            direction: Direction::In,
        }),
        timeout: Duration::from_secs(1),
    });
    assert_eq!((refused.srb_status, sense(&refused)), (ERROR, (0x5, 0x21)));

    // A request that the disk keeps: the time-out resets the adapter, which
    // gives the request back and works on.
    let stalled = transfer(&adapter, &block, Direction::In, 30);
    assert_eq!(stalled.srb_status, BUS_RESET);
    assert!(block.write(0, &[0xA5; 512]));
    assert_eq!(
        transfer(&adapter, &block, Direction::Out, 40).srb_status,
        SUCCESS
    );
    assert!(block.write(0, &[0; 512]));
    assert_eq!(
        transfer(&adapter, &block, Direction::In, 40).srb_status,
        SUCCESS
    );
    let mut found = [0; 512];
    assert!(block.read(0, &mut found));
    assert_eq!(found, [0xA5; 512]);

    adapter.stop().unwrap();
    let report = adapter.report();
    assert_eq!(report.resets.len(), 1);
    assert!(report.resets[0].accepted);
    assert!(report.violations.is_empty(), "{:?}", report.violations);
    assert_eq!(device.driver_errors(), [""; 0]);
}
