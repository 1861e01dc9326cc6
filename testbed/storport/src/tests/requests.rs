//! Tests of requests: the contents of an SRB, and its completion.

use super::bench::*;
use Callback::{DriverEntry, HwBuildIo, HwStartIo};
use testbed_machine::memory::PAGE;

/// What the miniport sees in HwBuildIo of a request.
fn seen_of<T: Send + 'static>(
    request: Request,
    settings: AdapterSettings,
    look: impl Fn(&Context) -> T + Send + Sync + 'static,
) -> T {
    let notes = Notes::new();
    let looks = Miniport::new().on(HwBuildIo, move |c| notes.push(look(c)));
    let bench = start_as(looks, settings);
    let _ = bench.adapter.execute(request);
    notes.take().pop().expect("it was called")
}

fn with_shape(srb: SrbShape) -> AdapterSettings {
    AdapterSettings {
        srb,
        timeout: None,
        ..quick()
    }
}

fn read_of_target_1(bytes: usize) -> Request {
    Request {
        address: Address {
            target: 1,
            ..Address::default()
        },
        timeout: std::time::Duration::from_millis(4001),
        ..read(bytes, Placement::Scattered)
    }
}

#[test]
fn a_scsi_request_block_is_filled() {
    let seen = seen_of(read_of_target_1(8192), with_shape(SrbShape::Scsi), |c| {
        let srb = c.structure();
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
    });

    // READ(10): no DataBuffer, because reads and writes are not mapped.
    let fields = [88, 0, 0, 1, 10, 0x28, 8192, 5, 0x40];
    assert_eq!(seen, (fields, 0, true));
}

#[test]
fn a_storage_request_block_is_filled() {
    use abi::{srbex_data_scsi_cdb16 as cdb16, stor_addr_btl8 as btl8};
    let seen = seen_of(read_of_target_1(512), with_shape(SrbShape::Storage), |c| {
        let srb = c.structure();
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
    });

    let fields = [0x28, 0x5352_4258, 0, 184, 1, 512, 1, 4, 1, 64, 32, 10, 0x28];
    assert_eq!(seen, fields);
}

#[test]
fn a_miniport_that_takes_one_shape_gets_that_one() {
    let functions = Notes::new();
    let old = Miniport::new()
        .on(DriverEntry, |c| {
            let types = wdk::SRB_TYPE_FLAG_SCSI_REQUEST_BLOCK;
            c.structure().set(init::SrbTypeFlags, types);
        })
        .on(HwStartIo, move |c| {
            functions.push(c.structure().get(scsi::Function));
        });

    let _ = start(old).execute();

    assert_eq!(functions.take(), [0]);
}

/// The scatter/gather list of an SRB: physical address and length.
fn list(c: &Context) -> Vec<(u64, u32)> {
    let list = structure(c.list());
    let count = list.get(abi::stor_scatter_gather_list::NumberOfElements) as usize;
    (0..count)
        .map(|index| list.offset(16 + 24 * index))
        .map(|element| {
            (
                element.get(abi::stor_scatter_gather_element::PhysicalAddress) as u64,
                element.get(abi::stor_scatter_gather_element::Length),
            )
        })
        .collect()
}

#[test]
fn scattered_memory_has_an_element_a_page() {
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

    let seen = seen_of(transfer(data), quick(), list);

    let page = PAGE as u32;
    assert_eq!(
        seen,
        [(at(512), page - 512), (at(PAGE), page), (at(2 * PAGE), 512)]
    );
}

#[test]
fn contiguous_memory_has_one_element() {
    let request = read(64 * PAGE, Placement::Contiguous);
    let address = request.data.as_ref().unwrap().block.address();
    let physical = machine().memory().physical(address).unwrap();

    let seen = seen_of(request, quick(), list);

    assert_eq!(seen, [(physical, 64 * PAGE as u32)]);
}

#[test]
fn system_address_and_physical_address_lead_to_the_data() {
    let block = buffer(PAGE, Placement::Scattered);
    let expected = block.address() + 16;
    let physical = machine().memory().physical(expected).unwrap();
    let data = Data {
        block,
        offset: 16,
        bytes: 512,
        direction: Direction::In,
    };

    let seen = seen_of(transfer(data), quick(), |c| {
        let (address, status) = c.results(5, [c.about]);
        let (length, physical) =
            with_result::<u32>(|to| c.ddi("StorPortGetPhysicalAddress", [0, address, to]));
        let back = c.ddi("StorPortGetVirtualAddress", [physical]);
        (status, address, physical as u64, length, back)
    });

    let rest = PAGE as u32 - 16;
    assert_eq!(seen, (0, expected, physical, rest, expected));
}

#[test]
fn sense_data_status_and_length_come_back() {
    let senses = Miniport::new().on(HwStartIo, |c| {
        let request = c.structure();
        request.set(scsi::ScsiStatus, 2);
        structure(request.get(scsi::SenseInfoBuffer)).write(&[0x70, 0, 5]);
        request.set(scsi::SenseInfoBufferLength, 3);
        request.set(scsi::DataTransferLength, 7);
        c.completes(ERROR | 0x80);
    });
    let bench = start_as(senses, with_shape(SrbShape::Scsi));

    let completion = bench.execute();

    assert_eq!(completion.srb_status, ERROR);
    assert!(completion.sense_valid);
    assert_eq!(completion.scsi_status, 2);
    assert_eq!(completion.sense, [0x70, 0, 5]);
    assert_eq!(completion.transferred, 7);
}

#[test]
fn all_requests_of_all_cpus_come_back_once() {
    for shape in [SrbShape::Scsi, SrbShape::Storage] {
        let bench = start_as(Miniport::new(), with_shape(shape));

        let completions = bench.load(2000, 10);

        assert_eq!(completions.len(), 4000);
        let report = bench.adapter.report();
        assert_eq!(report.completed.get(&SUCCESS), Some(&4000));
        let mut rows = report.callbacks.iter();
        let row = rows.find(|row| row.name == "HwStartIo");
        assert_eq!(row.map(|row| row.count), Some(4000));
        assert_eq!(bench.broken(), []);
    }
}

#[test]
fn an_address_that_is_not_an_srb_is_not_completed() {
    let bench = start(Miniport::new().on(HwStartIo, |c| {
        for address in [0, 8, c.about + 16, c.own(EMPTY) + 32] {
            c.notify(0, [address]);
        }
    }));

    let _ = bench.execute();

    assert_eq!(bench.broken(), [("srb-unknown", "HwStartIo")]);
    assert_eq!(bench.adapter.report().violations[0].count, 4);
}

#[test]
fn a_request_that_build_io_completes_does_not_come_to_start_io() {
    for (answer, broken) in [
        (0, &[][..]),
        (1, &[("srb-completed-in-build-io", "HwBuildIo")]),
    ] {
        let bench = start(Miniport::new().on(HwBuildIo, move |c| {
            c.complete(ERROR);
            c.answer(answer);
        }));

        assert_eq!(bench.execute().srb_status, ERROR);

        let report = bench.adapter.report();
        assert!(report.callbacks.iter().all(|row| row.name != "HwStartIo"));
        assert_eq!(bench.broken(), broken);
    }
}
