//! Requests: what an SRB holds, and the rules of its completion.

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

use super::bench::*;
use crate::adapter::SrbShape;
use testbed_machine::memory::{PAGE, Placement};

fn settings(shape: SrbShape) -> AdapterSettings {
    AdapterSettings {
        srb: shape,
        ..quick()
    }
}

/// Runs a look at the SRB in HwBuildIo and gives back what it saw.
struct Look<T: Send>(fn(Extension, Structure) -> T, Mutex<Vec<T>>);

impl<T: Send> Look<T> {
    fn new(look: fn(Extension, Structure) -> T) -> Self {
        Self(look, Mutex::default())
    }

    fn seen(&self) -> Vec<T> {
        std::mem::take(&mut *self.1.lock().unwrap())
    }
}

impl<T: Send> Miniport for Look<T> {
    fn build_io(&self, ext: Extension, srb: usize) -> bool {
        let seen = (self.0)(ext, structure(srb));
        self.1.lock().unwrap().push(seen);
        true
    }
}

fn read(bytes: usize) -> Request {
    let data = Data {
        block: buffer(bytes, Placement::Scattered),
        offset: 0,
        bytes: bytes as u32,
        direction: Direction::In,
    };
    Request {
        address: Address {
            path: 0,
            target: 1,
            lun: 0,
        },
        timeout: std::time::Duration::from_millis(4001),
        ..transfer(data)
    }
}

#[test]
fn a_scsi_request_block_is_filled() {
    let bench = start_with(
        Look::new(|_, srb| {
            let extension = structure(srb.get(scsi::SrbExtension)).bytes(64);
            (
                [
                    u32::from(srb.get(scsi::Length)),
                    u32::from(srb.get(scsi::Function)),
                    u32::from(srb.get(scsi::SrbStatus)),
                    u32::from(srb.get(scsi::TargetId)),
                    u32::from(srb.get(scsi::CdbLength)),
                    u32::from(srb.get(scsi::Cdb)[0]),
                    srb.get(scsi::DataTransferLength),
                    srb.get(scsi::TimeOutValue),
                    srb.get(scsi::SrbFlags) & 0xC0,
                ],
                srb.get(scsi::DataBuffer),
                extension.iter().all(|byte| *byte == 0xC5),
            )
        }),
        FakeFunction::new(0),
        AdapterSettings {
            timeout: None,
            ..settings(SrbShape::Scsi)
        },
    );

    let _ = bench.adapter.execute(read(8192));

    let seen = bench.miniport.seen();
    // READ(10): no DataBuffer, because reads and writes are not mapped.
    let fields = [88, 0, 0, 1, 10, 0x28, 8192, 5, 0x40];
    assert_eq!(seen, [(fields, 0, true)]);
}

#[test]
fn a_storage_request_block_is_filled() {
    let bench = start_with(
        Look::new(|_, srb| {
            use abi::{
                srbex_data_scsi_cdb16 as cdb16, stor_addr_btl8 as btl8,
                storage_request_block as storage,
            };
            let address = srb.offset(srb.get(storage::AddressOffset) as usize);
            let cdb = srb.offset(srb.get(storage::SrbExDataOffset) as usize);
            [
                u32::from(srb.get(storage::Function)),
                srb.get(storage::Signature),
                srb.get(storage::SrbFunction),
                srb.get(storage::SrbLength),
                srb.get(storage::NumSrbExData),
                srb.get(storage::DataTransferLength),
                u32::from(address.get(btl8::Type)),
                address.get(btl8::AddressLength),
                u32::from(address.get(btl8::Target)),
                cdb.get(cdb16::Type),
                cdb.get(cdb16::Length),
                u32::from(cdb.get(cdb16::CdbLength)),
                u32::from(cdb.get(cdb16::Cdb)[0]),
            ]
        }),
        FakeFunction::new(0),
        settings(SrbShape::Storage),
    );

    let _ = bench.adapter.execute(read(512));

    let fields = [0x28, 0x5352_4258, 0, 184, 1, 512, 1, 4, 1, 64, 32, 10, 0x28];
    assert_eq!(bench.miniport.seen(), [fields]);
}

#[test]
fn a_miniport_that_takes_one_shape_gets_that_one() {
    struct Old;
    impl Miniport for Old {
        fn registration(&self, data: Structure) {
            data.set(init::SrbTypeFlags, srb::SRB_TYPE_FLAG_SCSI_REQUEST_BLOCK);
        }

        fn start_io(&self, ext: Extension, srb: usize) -> bool {
            let function = structure(srb).get(scsi::Function);
            ext.complete(srb, if function == 0 { SUCCESS } else { ERROR });
            true
        }
    }

    let bench = start(Old);

    assert_eq!(bench.execute().srb_status, SUCCESS);
}

/// The scatter/gather list of an SRB: physical address and length.
fn list(ext: Extension, srb: usize) -> Vec<(u64, u32)> {
    let list = ddi("StorPortGetScatterGatherList", [ext.0, srb, 0, 0, 0, 0]);
    let list = structure(list);
    let count = list.get(abi::stor_scatter_gather_list::NumberOfElements) as usize;
    (0..count)
        .map(|index| list.offset(16 + 24 * index))
        .map(|element| {
            (
                element.get(abi::stor_scatter_gather_element::PhysicalAddress),
                element.get(abi::stor_scatter_gather_element::Length),
            )
        })
        .collect()
}

#[test]
fn scattered_memory_has_an_element_a_page() {
    let bench = start(Look::new(|ext, srb| list(ext, srb.address())));
    let block = buffer(4 * PAGE, Placement::Scattered);
    let at = |offset| {
        machine()
            .memory()
            .physical(block.address() + offset)
            .unwrap()
    };
    let data = Data {
        block: block.clone(),
        offset: 512,
        bytes: 2 * PAGE as u32,
        direction: Direction::Out,
    };

    let _ = bench.adapter.execute(transfer(data));

    let page = PAGE as u32;
    assert_eq!(
        bench.miniport.seen(),
        [vec![
            (at(512), page - 512),
            (at(PAGE), page),
            (at(2 * PAGE), 512)
        ]]
    );
}

#[test]
fn contiguous_memory_has_one_element() {
    let bench = start(Look::new(|ext, srb| list(ext, srb.address())));
    let block = buffer(64 * PAGE, Placement::Contiguous);
    let physical = machine().memory().physical(block.address()).unwrap();
    let data = Data {
        block,
        offset: 0,
        bytes: 64 * PAGE as u32,
        direction: Direction::In,
    };

    let _ = bench.adapter.execute(transfer(data));

    assert_eq!(bench.miniport.seen(), [vec![(physical, 64 * PAGE as u32)]]);
}

#[test]
fn system_address_and_physical_address_lead_to_the_data() {
    let bench = start(Look::new(|ext, srb| {
        let (address, status) =
            with_result::<usize>(|to| ext.extended(5, [srb.address(), to, 0, 0]) as usize);
        let (length, physical) = with_result::<u32>(|to| {
            ddi("StorPortGetPhysicalAddress", [ext.0, 0, address, to, 0, 0])
        });
        let back = ddi("StorPortGetVirtualAddress", [ext.0, physical, 0, 0, 0, 0]);
        (status, address, physical as u64, length, back)
    }));
    let block = buffer(PAGE, Placement::Scattered);
    let expected = block.address() + 16;
    let physical = machine().memory().physical(expected).unwrap();
    let data = Data {
        block,
        offset: 16,
        bytes: 512,
        direction: Direction::In,
    };

    let _ = bench.adapter.execute(transfer(data));

    let rest = PAGE as u32 - 16;
    let seen = bench.miniport.seen();
    assert_eq!(seen, [(0, expected, physical, rest, expected)]);
}

#[test]
fn sense_data_status_and_length_come_back() {
    struct Senses;
    impl Miniport for Senses {
        fn start_io(&self, ext: Extension, srb: usize) -> bool {
            let request = structure(srb);
            request.set(scsi::ScsiStatus, 2);
            structure(request.get(scsi::SenseInfoBuffer)).write(&[0x70, 0, 5]);
            request.set(scsi::SenseInfoBufferLength, 3);
            request.set(scsi::DataTransferLength, 7);
            ext.complete(srb, ERROR | 0x80);
            true
        }
    }
    let bench = start_with(Senses, FakeFunction::new(0), settings(SrbShape::Scsi));

    let completion = bench.execute();

    assert_eq!(completion.srb_status, ERROR);
    assert!(completion.sense_valid);
    assert_eq!(completion.scsi_status, 2);
    assert_eq!(completion.sense, [0x70, 0, 5]);
    assert_eq!(completion.transferred, 7);
}

#[test]
fn all_requests_of_all_cpus_come_back_once() {
    struct Nothing;
    impl Miniport for Nothing {}
    for shape in [SrbShape::Scsi, SrbShape::Storage] {
        let bench = start_with(Nothing, FakeFunction::new(2), settings(shape));

        let completions = bench.load(2000, 10);

        assert_eq!(completions.len(), 4000);
        let report = bench.adapter.report();
        assert_eq!(report.completed.get(&SUCCESS), Some(&4000));
        let counts: Vec<_> = report
            .callbacks
            .iter()
            .map(|row| (row.name, row.count))
            .collect();
        assert!(counts.contains(&("HwStartIo", 4000)), "{counts:?}");
        assert_eq!(bench.broken(), []);
    }
}

#[test]
fn an_srb_that_is_completed_twice_is_a_violation() {
    struct Twice;
    impl Miniport for Twice {
        fn start_io(&self, ext: Extension, srb: usize) -> bool {
            ext.complete(srb, SUCCESS);
            ext.complete(srb, SUCCESS);
            true
        }
    }
    let bench = start(Twice);

    let _ = bench.execute();

    assert_eq!(bench.broken(), [("srb-completed-twice", "HwStartIo")]);
    assert_eq!(bench.adapter.report().completed.get(&SUCCESS), Some(&1));
}

#[test]
fn what_is_no_srb_is_not_completed() {
    struct Wrong(Scratch);
    impl Miniport for Wrong {
        fn start_io(&self, ext: Extension, srb: usize) -> bool {
            for address in [0, 8, srb + 16, self.0.address() + 32] {
                ext.notify(0, [address, 0, 0, 0]);
            }
            ext.complete(srb, SUCCESS);
            true
        }
    }
    let bench = start(Wrong(Scratch::new(4096)));

    let _ = bench.execute();

    let violations = bench.adapter.report().violations;
    assert_eq!(violations.len(), 1);
    assert_eq!(
        (violations[0].rule, violations[0].count),
        ("srb-unknown", 4)
    );
}

#[test]
fn pending_and_queue_frozen_are_no_final_statuses() {
    struct Pending(AtomicU64);
    impl Miniport for Pending {
        fn start_io(&self, ext: Extension, srb: usize) -> bool {
            let first = self.0.fetch_add(1, Ordering::SeqCst) == 0;
            ext.complete(srb, if first { 0 } else { ERROR | 0x40 });
            true
        }
    }
    let bench = start(Pending(AtomicU64::new(0)));

    assert_eq!(bench.execute().srb_status, 0);
    assert_eq!(bench.execute().srb_status, ERROR);

    let violations = bench.adapter.report().violations;
    assert_eq!((violations[0].rule, violations[0].count), ("srb-status", 2));
}

#[test]
fn build_io_that_returns_false_completes_and_start_io_is_not_called() {
    struct Early;
    impl Miniport for Early {
        fn build_io(&self, ext: Extension, srb: usize) -> bool {
            ext.complete(srb, ERROR);
            false
        }
    }
    let bench = start(Early);

    assert_eq!(bench.execute().srb_status, ERROR);

    let report = bench.adapter.report();
    assert!(report.callbacks.iter().all(|row| row.name != "HwStartIo"));
    assert_eq!(bench.broken(), []);
}

#[test]
fn build_io_that_completes_and_returns_true_is_a_violation() {
    struct Both;
    impl Miniport for Both {
        fn build_io(&self, ext: Extension, srb: usize) -> bool {
            ext.complete(srb, ERROR);
            true
        }
    }
    let bench = start(Both);

    assert_eq!(bench.execute().srb_status, ERROR);

    let report = bench.adapter.report();
    assert!(report.callbacks.iter().all(|row| row.name != "HwStartIo"));
    assert_eq!(bench.broken(), [("srb-completed-in-build-io", "HwBuildIo")]);
}
