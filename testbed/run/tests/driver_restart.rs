//! The driver file sleeps: its device loses all it knew, the data stay, and
//! requests go on, whichever page of the documentation holds for the way it is
//! stopped and restarted. Requests of power, plug and play, flush and shutdown
//! are answered, the removal of an adapter among them.
//!
//! The file is the one that FERROSTOR_DRIVER names. A process is one machine,
//! so this is one test; each adapter in it is another disk.

use std::{path::Path, sync::Arc, time::Duration};

use testbed_devices::{BlkSettings, DiskImage, VirtioBlk};
use testbed_loader::Image;
use testbed_machine::{
    InterruptKind, Machine, MachineSettings,
    memory::{Block, Placement},
    pci::PciFunction,
    trap,
};
use testbed_storport::{
    self,
    adapter::{Adapter, AdapterSettings, ControlCalls, Resume, SrbShape},
    control_request::{ControlRequest, PnpAction, Recipient},
    request::{Address, Data, Direction, Request},
};

const SUCCESS: u8 = 0x01;
const BYTES: u32 = 0x1_0000;

/// READ(10) or WRITE(10) of 64 KiB at block 8.
fn transfer(adapter: &Adapter, block: &Arc<Block>, direction: Direction) {
    let opcode = match direction {
        Direction::In => 0x28,
        Direction::Out => 0x2A,
    };
    let mut cdb = [0; 16];
    cdb[..10].copy_from_slice(&[opcode, 0, 0, 0, 0, 8, 0, 0, 128, 0]);
    let completion = adapter.execute(Request {
        token: 0,
        address: Address::default(),
        cdb,
        cdb_length: 10,
        data: Some(Data {
            block: Arc::clone(block),
            offset: 0,
            bytes: BYTES,
            direction,
        }),
        timeout: Duration::from_secs(10),
    });
    assert_eq!(completion.srb_status, SUCCESS, "{completion:?}");
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn data_and_requests_survive_sleeps_however_they_are_made() {
    let driver = std::env::var("FERROSTOR_DRIVER").expect("FERROSTOR_DRIVER names the driver file");
    let folder = tempfile::tempdir().unwrap();
    let machine = Machine::new(&MachineSettings {
        cpus: 2,
        memory_bytes: 64 << 20,
        interrupts: InterruptKind::Messages,
    })
    .unwrap();
    let image = Arc::new(Image::load(Path::new(&driver), &testbed_storport::resolve).unwrap());
    let memory = machine.memory();
    let block = Arc::new(
        memory
            .allocate(BYTES as usize, Placement::Scattered)
            .unwrap(),
    );

    for (slot, (control_calls, resume, srb)) in (0..).zip([
        (ControlCalls::Strict, Resume::Restart, SrbShape::Storage),
        (ControlCalls::Strict, Resume::Restart, SrbShape::Scsi),
        (
            ControlCalls::UnderInterruptLock,
            Resume::Restart,
            SrbShape::Storage,
        ),
        (ControlCalls::Passive, Resume::Restart, SrbShape::Storage),
        (ControlCalls::Strict, Resume::FindAdapter, SrbShape::Storage),
    ]) {
        let name = folder.path().join(format!("disk{slot}.img"));
        let device = VirtioBlk::new(
            DiskImage::create(&name, 1 << 20).unwrap(),
            memory.guest().clone(),
            BlkSettings {
                slot,
                ..BlkSettings::default()
            },
        );
        let function: Arc<dyn PciFunction> = device.clone();
        let settings = AdapterSettings {
            control_calls,
            resume,
            srb,
            ..AdapterSettings::default()
        };
        let adapter = Adapter::start(&machine, &image, &function, settings).unwrap();

        for time in 1..=3 {
            let data = vec![time; BYTES as usize];
            assert!(block.write(0, &data));
            transfer(&adapter, &block, Direction::Out);
            adapter.restart().unwrap();
            assert!(block.write(0, &vec![0; BYTES as usize]));
            transfer(&adapter, &block, Direction::In);
            let mut found = vec![0; BYTES as usize];
            assert!(block.read(0, &mut found));
            assert_eq!(found, data, "{control_calls:?}, {resume:?}, sleep {time}");
        }

        let unit = Recipient::Unit(Address::default());
        for removal in [
            ControlRequest::Flush(Address::default()),
            ControlRequest::Pnp(unit, PnpAction::Remove),
            ControlRequest::Pnp(Recipient::Adapter, PnpAction::Remove),
        ] {
            assert_eq!(adapter.control(removal), SUCCESS);
        }
        adapter.stop().unwrap();
        let report = adapter.report();
        assert!(report.violations.is_empty(), "{:?}", report.violations);
        assert!(report.resets.is_empty(), "{:?}", report.resets);
        assert_eq!(device.driver_errors(), [""; 0]);
        assert_eq!(trap::driver_errors(), [""; 0]);
    }
}
