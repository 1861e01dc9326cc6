//! Tests of the class driver, with the port driver of `fake_port`.

use std::{
    any::Any,
    sync::{Arc, atomic::AtomicU32},
};

use rand::{SeedableRng, rngs::StdRng};

use super::{
    Disk,
    cdb::{Command, Operation, opcode},
    discovery::DiskError,
    fake_port::{FakePort, failed},
    port::CommandError,
    transfer::{Done, Durability, Initiator, Transfer, WriteThrough},
};
use testbed_machine::memory::Memory;

fn discovered(port: FakePort) -> (Disk, Arc<FakePort>) {
    let port = Arc::new(port);
    let memory = Memory::new(16 << 20).expect("memory");
    let disk = Disk::discover(port.clone(), &memory).expect("the fake is a disk");
    (disk, port)
}

fn refused(port: FakePort) -> DiskError {
    let memory = Memory::new(1 << 20).expect("memory");
    match Disk::discover(Arc::new(port), &memory) {
        Ok(_) => panic!("it was taken for a disk"),
        Err(error) => error,
    }
}

/// One transfer, and how it ended.
struct Single {
    transfer: Option<Transfer>,
    result: Option<Result<(), CommandError>>,
}

impl Initiator for Single {
    fn start(&mut self, issue: &mut dyn FnMut(Transfer)) {
        issue(self.transfer.take().expect("it starts once"));
    }

    fn done(&mut self, done: Done, _issue: &mut dyn FnMut(Transfer)) {
        assert!(self.result.replace(done.result).is_none(), "two ends");
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

fn transfer(
    disk: &Disk,
    operation: Operation,
    durability: Durability,
    bytes: u32,
) -> Result<(), CommandError> {
    let mut random = StdRng::seed_from_u64(1);
    let buffer = disk
        .buffers(&mut random, 1, bytes)
        .expect("the memory suffices")
        .remove(0);
    buffer.write(&vec![7; bytes as usize]);
    let single = Single {
        transfer: Some(Transfer {
            token: 1,
            operation,
            lba: 8,
            buffer,
            durability,
        }),
        result: None,
    };
    let single = disk.run(vec![Box::new(single)]).remove(0).into_any();
    let single = single.downcast::<Single>().expect("the initiator");
    single.result.expect("the transfer ended")
}

fn transfers(port: &FakePort) -> Vec<(u64, u32)> {
    port.commands(|command| command.extent().is_some())
        .iter()
        .filter_map(Command::extent)
        .collect()
}

#[test]
fn discovery_learns_what_the_disk_says() {
    let (disk, _) = discovered(FakePort::new(1 << 20, 512));
    let facts = disk.facts();

    assert_eq!(facts.inquiry.vendor, "Fake");
    assert_eq!(facts.inquiry.product, "Disk");
    assert_eq!((facts.blocks, facts.block_bytes), (2048, 512));
    assert!(facts.write_cache && !facts.force_unit_access && !facts.write_protected);
    let answers: Vec<String> = facts
        .answers
        .iter()
        .map(|answer| {
            let result = answer.result.as_deref().expect("all succeed");
            format!("{}: {result}", answer.command)
        })
        .collect();
    let expected = [
        "INQUIRY: disk, vendor \"Fake\", product \"Disk\", revision \"1.0\", version 6",
        "INQUIRY of VPD page 00h: pages 00 80 83 B0",
        "INQUIRY of VPD page 80h: serial number \"SER 01\"",
        "INQUIRY of VPD page 83h: designator NAA 6102030405060708",
        "INQUIRY of VPD page B0h: optimal granularity 0, maximum transfer 8, optimal transfer 0 \
         blocks, unmap 0 blocks in 0 descriptors",
        "TEST UNIT READY: ready",
        "READ CAPACITY(10): last LBA 2047, blocks of 512",
        "READ CAPACITY(16): last LBA 2047, blocks of 512, physically 512",
        "MODE SENSE(6) of page 08h: write cache on, DPOFUA no",
        "MODE SENSE(10) of page 08h: write cache on, DPOFUA no",
        "REPORT LUNS: LUN 0",
    ];
    assert_eq!(answers, expected);
}

#[test]
fn commands_that_a_disk_need_not_know_may_fail_and_their_sense_is_kept() {
    let port = FakePort {
        refused: vec![
            opcode::SERVICE_ACTION_IN_16,
            opcode::MODE_SENSE_6,
            opcode::MODE_SENSE_10,
            opcode::REPORT_LUNS,
        ],
        ..FakePort::new(1 << 20, 512)
    };
    let (disk, _) = discovered(port);

    let failures: Vec<&String> = disk
        .facts()
        .answers
        .iter()
        .filter_map(|answer| answer.result.as_ref().err())
        .collect();
    assert_eq!(failures.len(), 5);
    for failure in failures {
        assert!(
            failure.contains("invalid command operation code"),
            "{failure}"
        );
    }
    assert_eq!(disk.facts().blocks, 2048);
}

#[test]
fn commands_that_a_disk_must_know_may_not_fail() {
    for code in [
        opcode::INQUIRY,
        opcode::TEST_UNIT_READY,
        opcode::READ_CAPACITY_10,
    ] {
        let error = refused(FakePort {
            refused: vec![code],
            ..FakePort::new(1 << 20, 512)
        });
        assert!(
            error.to_string().contains("invalid command operation code"),
            "{error}"
        );
    }
}

#[test]
fn a_unit_attention_is_asked_again_and_an_endless_one_is_given_up() {
    let attentive = |attentions| FakePort {
        attentions: AtomicU32::new(attentions),
        ..FakePort::new(1 << 20, 512)
    };
    discovered(attentive(3));
    let error = refused(attentive(u32::MAX));
    assert!(error.to_string().contains("UNIT ATTENTION"), "{error}");
}

#[test]
fn a_long_transfer_is_cut_by_the_bytes_that_the_adapter_takes() {
    let (disk, port) = discovered(FakePort {
        max_transfer_bytes: 10_000,
        ..FakePort::new(1 << 20, 512)
    });

    transfer(&disk, Operation::Write, Durability::Cached, 65536).expect("it succeeds");

    // 10000 bytes are 19 blocks; 128 blocks are six times that and 14.
    let mut lengths: Vec<u32> = transfers(&port).iter().map(|extent| extent.1).collect();
    lengths.sort_unstable();
    assert_eq!(lengths, [14, 19, 19, 19, 19, 19, 19]);
    let first = transfers(&port).iter().map(|extent| extent.0).min();
    assert_eq!(first, Some(8));
}

#[test]
fn a_long_transfer_is_cut_by_the_pages_that_it_touches() {
    let (disk, port) = discovered(FakePort {
        max_physical_breaks: 3,
        ..FakePort::new(1 << 20, 512)
    });

    transfer(&disk, Operation::Read, Durability::Cached, 65536).expect("it succeeds");

    let blocks: u32 = transfers(&port).iter().map(|extent| extent.1).sum();
    assert_eq!(blocks, 128);
    // The fake asserts that no command touches a fourth page.
    assert!(transfers(&port).len() >= 6);
}

#[test]
fn a_block_that_does_not_fit_the_adapter_is_refused() {
    let narrow = FakePort {
        max_physical_breaks: 1,
        ..FakePort::new(1 << 20, 4096)
    };
    assert!(refused(narrow).to_string().contains("1 physical breaks"));
}

#[test]
fn write_through_is_fua_where_the_disk_obeys_it() {
    let (disk, port) = discovered(FakePort {
        force_unit_access: true,
        ..FakePort::new(1 << 20, 512)
    });
    assert_eq!(disk.facts().write_through(), WriteThrough::ForceUnitAccess);

    transfer(&disk, Operation::Write, Durability::Through, 4096).expect("it succeeds");
    transfer(&disk, Operation::Write, Durability::Cached, 4096).expect("it succeeds");
    transfer(&disk, Operation::Read, Durability::Through, 4096).expect("it succeeds");

    let flags: Vec<u8> = port
        .commands(|command| command.extent().is_some())
        .iter()
        .map(|command| command.cdb[1])
        .collect();
    assert_eq!(flags, [0x08, 0, 0]);
}

#[test]
fn write_through_is_a_flush_behind_all_pieces_where_the_disk_only_caches() {
    let (disk, port) = discovered(FakePort {
        max_transfer_bytes: 4096,
        ..FakePort::new(1 << 20, 512)
    });
    assert_eq!(disk.facts().write_through(), WriteThrough::FlushAfter);

    transfer(&disk, Operation::Write, Durability::Through, 16384).expect("it succeeds");

    let codes: Vec<u8> = port.commands(|_| true).iter().map(|it| it.cdb[0]).collect();
    let write = opcode::WRITE_10;
    let expected = [write, write, write, write, opcode::SYNCHRONIZE_CACHE_10];
    assert!(codes.ends_with(&expected), "{codes:02x?}");
}

#[test]
fn a_disk_without_a_write_cache_needs_neither() {
    let (disk, _) = discovered(FakePort {
        write_cache: false,
        ..FakePort::new(1 << 20, 512)
    });
    assert_eq!(disk.facts().write_through(), WriteThrough::Always);
}

#[test]
fn a_transfer_is_tried_again_after_a_unit_attention() {
    let mut left = 3;
    let port = FakePort::new(1 << 20, 512).meddling(move |io| {
        if left > 0 {
            left -= 1;
            io.completion = failed(io.completion.clone(), 0x6, 0x29);
        }
    });
    let (disk, _) = discovered(port);

    transfer(&disk, Operation::Read, Durability::Cached, 4096).expect("the retry succeeds");

    assert_eq!(disk.retries(), 3);
}

#[test]
fn a_transfer_that_never_succeeds_is_given_up_after_eight_retries() {
    let port = FakePort::new(1 << 20, 512)
        .meddling(|io| io.completion = failed(io.completion.clone(), 0xB, 0x00));
    let (disk, port) = discovered(port);

    let error = transfer(&disk, Operation::Read, Durability::Cached, 4096).expect_err("it fails");

    assert!(error.to_string().contains("ABORTED COMMAND"), "{error}");
    assert_eq!(transfers(&port).len(), 9);
}

#[test]
fn the_first_error_of_a_cut_transfer_is_its_end_and_comes_once() {
    let mut number = 0;
    let port = FakePort {
        max_transfer_bytes: 4096,
        ..FakePort::new(1 << 20, 512)
    }
    .meddling(move |io| {
        number += 1;
        if number == 2 {
            io.completion = failed(io.completion.clone(), 0x3, 0x11);
        }
    });
    let (disk, port) = discovered(port);

    let error = transfer(&disk, Operation::Read, Durability::Cached, 16384).expect_err("it fails");

    assert!(error.to_string().contains("MEDIUM ERROR"), "{error}");
    assert_eq!(transfers(&port).len(), 4);
}
