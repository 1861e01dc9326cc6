//! Properties of the replies for every disk, every CDB and every buffer.

use proptest::prelude::*;
use scsi::block::CachePolicy::{WriteBack, WriteThrough};
use scsi::block::{Alignment, BlockSize, Blocks, Capacity, Sectors, Topology, WriteCache};
use scsi::{
    AdditionalSense, Disk, Identity, Lun, MediaOp, Outcome, Sense, SenseKey, Serial,
    WriteCacheState,
};

const OPERATION_CODES: [u8; 23] = [
    0x00, 0x03, 0x08, 0x0A, 0x12, 0x15, 0x1A, 0x1B, 0x25, 0x28, 0x2A, 0x2F, 0x35, 0x55, 0x5A, 0x88,
    0x8A, 0x8F, 0x91, 0x9E, 0xA0, 0xA8, 0xAA,
];

/// Capacities of every magnitude, from 0 to just below 2^55 sectors.
fn any_capacity() -> impl Strategy<Value = Capacity> {
    let sectors = prop_oneof![
        0..100_u64,
        0..1_u64 << 24,
        (1_u64 << 32) - 100..(1 << 32) + 100,
        (1_u64 << 55) - 100..1 << 55,
        0..1_u64 << 55,
    ];
    let block_size = (9..=12_u32).prop_map(|shift| BlockSize::new(1 << shift).unwrap());
    let longest = prop_oneof![Just(u32::MAX), 0..200_000_u32];
    (sectors, block_size, longest).prop_map(|(sectors, size, longest)| {
        let capacity = Capacity::new(Sectors(sectors), size).unwrap();
        capacity.with_longest_transfer(longest)
    })
}

fn any_topology() -> impl Strategy<Value = Topology> {
    let blocks = prop_oneof![Just(0), 1..300_u64, any::<u64>()].prop_map(Blocks);
    (0..=15_u8, blocks.clone(), blocks).prop_map(|(exponent, optimal, granularity)| Topology {
        alignment: Alignment::new(exponent, 0).unwrap(),
        optimal,
        granularity,
    })
}

fn any_write_cache() -> impl Strategy<Value = WriteCacheState> {
    let cache = prop::sample::select(
        &[
            WriteCache::Absent,
            WriteCache::Fixed(WriteThrough),
            WriteCache::Fixed(WriteBack),
            WriteCache::Switchable(WriteThrough),
            WriteCache::Switchable(WriteBack),
        ][..],
    );
    cache.prop_map(WriteCacheState::new)
}

/// Identifiers of printable and unprintable bytes, with and without NUL.
fn any_id() -> impl Strategy<Value = [u8; 20]> {
    let byte = (0..8_u8, any::<u8>()).prop_map(|(kind, byte)| match kind {
        0 => 0,
        1 => b' ',
        2 => b'%',
        3 => byte,
        _ => b'a' + byte % 3,
    });
    prop::collection::vec(byte, 20).prop_map(|id| id.try_into().unwrap())
}

prop_compose! {
    fn any_disk()(
        capacity in any_capacity(),
        topology in any_topology(),
        write_cache in any_write_cache(),
        dpo_fua in any::<bool>(),
        read_only in any::<bool>(),
        id in prop_oneof![any_id(), Just([0; 20])],
    ) -> Disk {
        Disk {
            capacity,
            topology,
            write_cache,
            dpo_fua,
            read_only,
            identity: Identity {
                vendor: *b"EXAMPLE ",
                product: *b"Disk            ",
                revision: *b"0001",
                serial: Serial::new(&id),
            },
        }
    }
}

/// Random bytes, and supported commands with few bits set, which pass more checks.
fn any_cdb() -> impl Strategy<Value = Vec<u8>> {
    let byte = (0..8_u8, any::<u8>()).prop_map(|(kind, byte)| match kind {
        0 => byte,
        1 => 1 << (byte & 7),
        _ => 0,
    });
    let supported = prop::sample::select(OPERATION_CODES.as_slice());
    prop_oneof![
        1 => prop::collection::vec(any::<u8>(), 0..=32),
        4 => (supported, prop::collection::vec(byte, 0..=20)).prop_map(|(operation, rest)| {
            let mut cdb = vec![operation];
            cdb.extend(rest);
            cdb
        }),
    ]
}

fn any_lun() -> impl Strategy<Value = Lun> {
    prop_oneof![4 => Just(Lun(0)), 1 => any::<u16>().prop_map(Lun)]
}

/// ALLOCATION LENGTH, at the position that the standards give it. Without such a field there is no
/// limit.
fn allocation_length(cdb: &[u8]) -> usize {
    let field = match cdb[0] {
        0x03 | 0x1A => 4..5,
        0x12 => 3..5,
        0x5A => 7..9,
        0x9E => 10..14,
        0xA0 => 6..10,
        0x25 => return usize::MAX,
        other => panic!("{other:02X}h has no data"),
    };
    cdb[field]
        .iter()
        .fold(0, |length, &byte| length << 8 | usize::from(byte))
}

fn reply(disk: &Disk, lun: Lun, cdb: &[u8], buffer: &mut [u8]) -> Option<usize> {
    match disk.execute(lun, cdb) {
        Ok(Outcome::Data(reply)) => Some(reply.write_to(buffer)),
        _ => None,
    }
}

fn inquiry(disk: &Disk, lun: Lun, page: u8) -> Option<Vec<u8>> {
    let mut buffer = vec![0xEE; 512];
    let written = reply(disk, lun, &[0x12, 1, page, 2, 0, 0], &mut buffer)?;
    buffer.truncate(written);
    Some(buffer)
}

/// A model of READ and WRITE, written from the standard with numbers of 128 bits.
#[derive(Debug, PartialEq)]
enum Expected {
    Nothing,
    Transfer { first_byte: u128, bytes: u128 },
    Refused(AdditionalSense),
}

fn expected_transfer(disk: &Disk, write: bool, lba: u64, blocks: u32) -> Expected {
    let capacity = u128::from(disk.capacity.blocks().0);
    let maximum = u128::from(disk.capacity.longest_transfer().0);
    let size = u128::from(disk.capacity.block_size().bytes());
    let (lba, blocks) = (u128::from(lba), u128::from(blocks));
    if capacity == 0 {
        Expected::Refused(AdditionalSense::MediumNotPresent)
    } else if lba + blocks > capacity {
        Expected::Refused(AdditionalSense::LogicalBlockAddressOutOfRange)
    } else if blocks > maximum {
        Expected::Refused(AdditionalSense::InvalidFieldInCdb)
    } else if write && disk.read_only {
        Expected::Refused(AdditionalSense::WriteProtected)
    } else if blocks == 0 {
        Expected::Nothing
    } else {
        Expected::Transfer {
            first_byte: lba * size,
            bytes: blocks * size,
        }
    }
}

fn transfer(disk: &Disk, cdb: &[u8]) -> Expected {
    match disk.execute(Lun(0), cdb) {
        Ok(Outcome::Good) => Expected::Nothing,
        Ok(Outcome::Media(
            MediaOp::Read(extent) | MediaOp::Write(extent) | MediaOp::DurableWrite(extent),
        )) => Expected::Transfer {
            first_byte: u128::from(extent.sector().0) * 512,
            bytes: u128::from(extent.bytes()),
        },
        Err(sense) => Expected::Refused(sense.additional()),
        other => panic!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn a_reply_ends_at_the_allocation_length_and_at_the_buffer(
        disk in any_disk(), lun in any_lun(), cdb in any_cdb(), length in 0..300_usize,
    ) {
        for canary in [0x00, 0xEE] {
            let mut buffer = vec![canary; 512];
            if let Some(written) = reply(&disk, lun, &cdb, &mut buffer[..length]) {
                prop_assert!(written <= length.min(allocation_length(&cdb)));
                prop_assert!(buffer[written..].iter().all(|&byte| byte == canary));
            }
        }
    }

    #[test]
    fn a_reply_overwrites_every_byte_that_it_returns(
        disk in any_disk(), lun in any_lun(), cdb in any_cdb(), length in 0..300_usize,
    ) {
        let (mut zeros, mut ones) = (vec![0x00; length], vec![0xFF; length]);
        let written = reply(&disk, lun, &cdb, &mut zeros);
        prop_assert_eq!(reply(&disk, lun, &cdb, &mut ones), written);
        let written = written.unwrap_or(0);
        prop_assert_eq!(&zeros[..written], &ones[..written]);
    }

    #[test]
    fn a_cut_reply_is_the_beginning_of_the_whole_reply(
        disk in any_disk(), lun in any_lun(), cdb in any_cdb(), length in 0..300_usize,
    ) {
        let mut whole = vec![0; 512];
        if let Some(written) = reply(&disk, lun, &cdb, &mut whole) {
            let mut cut = vec![0; length];
            prop_assert_eq!(reply(&disk, lun, &cdb, &mut cut), Some(written.min(length)));
            let length = written.min(length);
            prop_assert_eq!(&cut[..length], &whole[..length]);
        }
    }

    #[test]
    fn a_media_operation_lies_inside_the_capacity_and_is_not_empty(
        disk in any_disk(), lun in any_lun(), cdb in any_cdb(),
    ) {
        if let Ok(Outcome::Media(operation)) = disk.execute(lun, &cdb) {
            prop_assert_eq!(lun, Lun(0));
            let (extent, fua) = match operation {
                MediaOp::Read(extent) | MediaOp::Write(extent) => (extent, false),
                MediaOp::DurableWrite(extent) => (extent, true),
                MediaOp::Flush => {
                    prop_assert!(disk.write_cache.is_present());
                    return Ok(());
                }
                MediaOp::SwitchCache(_) => panic!("only a parameter list asks for that"),
            };
            let size = u128::from(disk.capacity.block_size().bytes());
            let capacity = u128::from(disk.capacity.blocks().0) * size;
            let end = u128::from(extent.sector().0) * 512 + u128::from(extent.bytes());
            prop_assert!(end <= capacity);
            prop_assert!(extent.bytes() > 0);
            prop_assert!(
                !fua
                    || disk.write_cache.is_switchable()
                    || disk.write_cache.policy() == WriteBack
            );
            let write = !matches!(operation, MediaOp::Read(_));
            prop_assert!(!(write && disk.read_only));
        }
    }

    /// The short way of the I/O path never differs from `execute`.
    #[test]
    fn the_transfers_of_reads_and_writes_are_those_of_execute(
        disk in any_disk(), lun in any_lun(), cdb in any_cdb(),
        operation in prop::sample::select(&[0x28_u8, 0x2A, 0x88, 0x8A][..]),
    ) {
        let mut transfer = cdb.clone();
        if let Some(first) = transfer.first_mut() {
            *first = operation;
        }
        for cdb in [cdb, transfer] {
            let is_transfer = matches!(cdb.first(), Some(0x28 | 0x2A | 0x88 | 0x8A));
            let expected = match disk.execute(lun, &cdb) {
                Ok(Outcome::Media(op)) if is_transfer => Some(op),
                _ => None,
            };
            prop_assert_eq!(disk.transfer(lun, &cdb), expected);
            prop_assert_eq!(expected.and_then(|op| op.extent()).is_some(), expected.is_some());
        }
    }

    #[test]
    fn reads_and_writes_of_all_cdb_lengths_agree_with_the_model(
        disk in any_disk(),
        from_end in -5..5_i64,
        near_end in any::<bool>(),
        anywhere in any::<u64>(),
        blocks in prop_oneof![0..5_u32, 0..600_u32, any::<u32>()],
        write in any::<bool>(),
    ) {
        let lba = if near_end {
            disk.capacity.blocks().0.wrapping_add_signed(from_end)
        } else {
            anywhere
        };
        let add = if write { 2 } else { 0 };

        let mut sixteen = [0; 16];
        sixteen[0] = 0x88 + add;
        sixteen[2..10].copy_from_slice(&lba.to_be_bytes());
        sixteen[10..14].copy_from_slice(&blocks.to_be_bytes());
        prop_assert_eq!(transfer(&disk, &sixteen), expected_transfer(&disk, write, lba, blocks));

        let short = lba as u32;
        let mut twelve = [0; 12];
        twelve[0] = 0xA8 + add;
        twelve[2..6].copy_from_slice(&short.to_be_bytes());
        twelve[6..10].copy_from_slice(&blocks.to_be_bytes());
        prop_assert_eq!(
            transfer(&disk, &twelve),
            expected_transfer(&disk, write, short.into(), blocks)
        );

        let few = blocks as u16;
        let mut ten = [0; 10];
        ten[0] = 0x28 + add;
        ten[2..6].copy_from_slice(&short.to_be_bytes());
        ten[7..9].copy_from_slice(&few.to_be_bytes());
        prop_assert_eq!(
            transfer(&disk, &ten),
            expected_transfer(&disk, write, short.into(), few.into())
        );

        let [_, l1, l2, l3] = short.to_be_bytes();
        let six = [0x08 + add, l1, l2, l3, few as u8, 0];
        let length = match few as u8 { 0 => 256, length => length.into() };
        prop_assert_eq!(
            transfer(&disk, &six),
            expected_transfer(&disk, write, (short & 0x1F_FFFF).into(), length)
        );
    }

    /// Whatever the initiator sends, every accepted change is one that the device can make, and
    /// MODE SELECT accepts the mode pages that MODE SENSE returns afterwards.
    #[test]
    fn mode_select_changes_only_a_switchable_write_cache(
        disk in any_disk(),
        ten in any::<bool>(),
        list in prop::collection::vec(prop_oneof![2 => Just(0), 1 => any::<u8>()], 1..=255),
        own in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let mut list = list;
        if let Some((place, value)) = own {
            // The disk's own pages with one byte changed, which pass more checks.
            let cdb: &[u8] = if ten {
                &[0x5A, 0, 0x3F, 0, 0, 0, 0, 0, 255, 0]
            } else {
                &[0x1A, 0, 0x3F, 0, 255, 0]
            };
            let mut buffer = [0; 255];
            let length = reply(&disk, Lun(0), cdb, &mut buffer).unwrap();
            list = buffer[..length].to_vec();
            let place = place.index(length);
            list[place] = value;
        }
        let length = list.len() as u8;
        let cdb: &[u8] = if ten {
            &[0x55, 0x10, 0, 0, 0, 0, 0, 0, length, 0]
        } else {
            &[0x15, 0x10, 0, 0, length, 0]
        };
        let Ok(Outcome::ModeSelect(select)) = disk.execute(Lun(0), cdb) else {
            panic!("a parameter list of up to 255 bytes is asked for");
        };
        prop_assert_eq!(select.length(), list.len());
        match select.parse(&disk, &list) {
            Ok(None) => {}
            Ok(Some(MediaOp::SwitchCache(switch))) => {
                prop_assert!(disk.write_cache.is_switchable());
                prop_assert_ne!(switch.policy(), disk.write_cache.policy());
                disk.write_cache.switch(switch.policy());
                prop_assert_eq!(select.parse(&disk, &list), Ok(None));
            }
            Ok(Some(other)) => panic!("{other:?}"),
            Err(sense) => prop_assert!(matches!(
                sense.additional(),
                AdditionalSense::ParameterListLengthError
                    | AdditionalSense::InvalidFieldInParameterList
            )),
        }
    }

    #[test]
    fn vpd_page_00_lists_exactly_the_supported_pages(disk in any_disk(), lun in any_lun()) {
        let list = inquiry(&disk, lun, 0x00).unwrap();
        let answered = (0..=255).filter(|&page| inquiry(&disk, lun, page).is_some());
        prop_assert_eq!(&list[4..], answered.collect::<Vec<u8>>());
    }

    #[test]
    fn a_vpd_page_has_its_own_code_and_length(disk in any_disk(), lun in any_lun()) {
        for page in inquiry(&disk, lun, 0x00).unwrap().split_off(4) {
            let data = inquiry(&disk, lun, page).unwrap();
            prop_assert_eq!(data[1], page);
            prop_assert_eq!(usize::from(u16::from_be_bytes([data[2], data[3]])), data.len() - 4);
        }
    }

    #[test]
    fn different_identifiers_give_different_designators(
        mut disk in any_disk(), one in any_id(), other in any_id(), change in 0..20_usize,
    ) {
        let mut near = one;
        near[change] = other[change];
        let name = |id: &[u8; 20]| {
            let length = id.iter().position(|&byte| byte == 0).unwrap_or(20);
            let name = id[..length].to_vec();
            if name.iter().all(|&byte| byte == b' ') { Vec::new() } else { name }
        };
        let mut designators = |id: &[u8; 20]| {
            disk.identity.serial = Serial::new(id);
            inquiry(&disk, Lun(0), 0x83).unwrap().split_off(4)
        };
        for id in [other, near] {
            prop_assert_eq!(
                name(&one) == name(&id),
                designators(&one) == designators(&id)
            );
        }
        prop_assert_eq!(name(&one).is_empty(), designators(&one).is_empty());
    }

    #[test]
    fn a_designator_is_printable_and_has_its_reported_length(disk in any_disk()) {
        let page = inquiry(&disk, Lun(0), 0x83).unwrap();
        if page.len() > 4 {
            prop_assert_eq!(page[4], 0x02); // ASCII
            prop_assert_eq!(usize::from(page[7]), page.len() - 8);
            prop_assert!(page[8..].iter().all(|byte| (b' '..=b'~').contains(byte)));
        }
    }

    #[test]
    fn mode_data_has_the_lengths_that_its_header_and_its_pages_report(
        disk in any_disk(), dbd in any::<bool>(), control in 0..3_u8, select in 0..4_usize,
    ) {
        let flags = u8::from(dbd) << 3;
        let page = control << 6 | [0x08, 0x0A, 0x1C, 0x3F][select];
        let mut six = vec![0; 512];
        let length = reply(&disk, Lun(0), &[0x1A, flags, page, 0, 255, 0], &mut six).unwrap();
        six.truncate(length);
        let mut ten = vec![0; 512];
        let cdb = [0x5A, flags, page, 0, 0, 0, 0, 2, 0, 0];
        let length = reply(&disk, Lun(0), &cdb, &mut ten).unwrap();
        ten.truncate(length);

        // MODE DATA LENGTH does not count itself.
        prop_assert_eq!(usize::from(six[0]), six.len() - 1);
        prop_assert_eq!(usize::from(u16::from_be_bytes([ten[0], ten[1]])), ten.len() - 2);
        // Except for the header, both are equal.
        prop_assert_eq!(&six[1..3], &ten[2..4]);
        prop_assert_eq!(&six[4..], &ten[8..]);

        let descriptors = usize::from(six[3]);
        prop_assert_eq!(descriptors, if dbd { 0 } else { 8 });
        prop_assert_eq!(usize::from(ten[7]), descriptors);
        let mut pages = &six[4 + descriptors..];
        let mut codes = Vec::new();
        while let [code, length, rest @ ..] = pages {
            codes.push(*code);
            pages = &rest[usize::from(*length)..];
        }
        prop_assert!(pages.is_empty());
        let expected: &[u8] = [&[0x08][..], &[0x0A], &[0x1C], &[0x08, 0x0A, 0x1C]][select];
        prop_assert_eq!(codes, expected);
    }

    #[test]
    fn a_refusal_has_fixed_sense_data_that_points_into_the_cdb(
        disk in any_disk(), lun in any_lun(), cdb in any_cdb(), length in 0..300_usize,
    ) {
        if let Err(sense) = disk.execute(lun, &cdb) {
            prop_assert_ne!(sense.key(), SenseKey::NoSense);
            let pointed = sense.field().is_some();
            prop_assert!(!pointed || sense.key() == SenseKey::IllegalRequest);
            if let Some(field) = sense.field() {
                // A short CDB is refused at its first missing byte.
                prop_assert!(usize::from(field.byte) <= cdb.len());
                prop_assert!(field.bit <= 7);
            }

            let mut buffer = vec![0xEE; 512];
            let written = sense.write_to(&mut buffer[..length]);
            prop_assert_eq!(written, length.min(Sense::FIXED_LENGTH));
            prop_assert!(buffer[written..].iter().all(|&byte| byte == 0xEE));
            let mut whole = [0; Sense::FIXED_LENGTH];
            sense.write_to(&mut whole);
            prop_assert_eq!(&buffer[..written], &whole[..written]);
            prop_assert_eq!((whole[0], whole[7]), (0x70, 10));
        }
    }
}
