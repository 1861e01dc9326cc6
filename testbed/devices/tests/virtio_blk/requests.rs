//! Valid requests: each way to divide one into descriptors, and its effect on the disk.

use testbed_devices::{BlkSettings, Faults};
use testbed_machine::pci::PciFunction;

use crate::driver::{
    CONFIG_WCE, DEVICE, Driver, EVENT_IDX, FLUSH, GET_ID, IN, INDIRECT, IOERR, OK, OUT, Piece,
    SECOND, Setup, UNSUPP,
};

/// Setups that must give the same result for every request.
fn setups() -> [Setup; 4] {
    [
        Setup::default(),
        Setup::without(EVENT_IDX),
        Setup {
            msix: false,
            ..Setup::default()
        },
        Setup {
            features: FLUSH,
            msix: false,
            ..Setup::default()
        },
    ]
}

#[test]
fn a_read_gives_what_is_in_the_image() {
    for setup in setups() {
        let mut driver = Driver::with(setup);

        let (status, data, length) = driver.call(IN, 7, &[0xee; 1024]);

        assert_eq!(status, OK);
        assert_eq!(data, [[7; 512], [8; 512]].concat());
        assert_eq!(length, 1025);
    }
}

#[test]
fn a_write_is_in_the_image_and_nowhere_else() {
    for setup in setups() {
        let mut driver = Driver::with(setup);

        let (status, _, length) = driver.call(OUT, 100, &[0xa5; 4096]);

        assert_eq!((status, length), (OK, 1));
        assert_eq!(driver.image(100, 4096), [0xa5; 4096]);
        assert_eq!(driver.image(99, 512), [99; 512]);
        assert_eq!(driver.image(108, 512), [108; 512]);
    }
}

#[test]
fn the_last_sector_can_be_read_and_written() {
    let mut driver = Driver::default_ready();

    assert_eq!(driver.call(IN, 255, &[0; 512]).0, OK);
    assert_eq!(driver.call(OUT, 255, &[1; 512]).0, OK);
}

#[test]
fn the_id_is_padded_with_zeros_and_cut_at_20_bytes() {
    for (serial, id) in [
        ("disk-1", *b"disk-1\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
        ("0123456789abcdefghijklm", *b"0123456789abcdefghij"),
        ("", [0; 20]),
    ] {
        let mut driver = Driver::of(|settings, _| settings.serial = serial.into());

        let (status, data, length) = driver.call(GET_ID, 0, &[0xee; 20]);

        assert_eq!((status, length), (OK, 21));
        assert_eq!(data, id);
    }
}

#[test]
fn a_request_of_unknown_type_is_unsupported() {
    let mut driver = Driver::default_ready();

    let (status, data, length) = driver.call(77, 0, &[0xee; 512]);

    assert_eq!((status, length), (UNSUPP, 513));
    assert_eq!(data, [0; 512]);
}

#[test]
fn an_indirect_chain_can_be_as_long_as_seg_max_allows() {
    let mut driver = Driver::of(|_, setup| setup.queue_size = 256);
    let header = driver.header(OUT, 0);
    let status = driver.buffer(&[0xff]);
    let mut pieces = vec![(header, 16, false)];
    for sector in 0..254_u16 {
        let buffer = driver.buffer(&[sector as u8 ^ 0xff; 512]);
        pieces.push((buffer, 512, false));
    }
    pieces.push((status, 1, true));

    let head = driver.indirect(&pieces);
    driver.publish(head);
    driver.notify_if_wanted();

    assert_eq!(driver.wait_used(), (head.into(), 1));
    assert_eq!(driver.read(status, 1), [OK]);
    for sector in 0..254 {
        assert_eq!(driver.image(sector, 512), [sector as u8 ^ 0xff; 512]);
    }
    assert_eq!(driver.image(254, 512), [254; 512]);
}

#[test]
fn any_framing_is_accepted() {
    // VIRTIO 1.3 §2.7.4.1: a device makes no assumption about framing.
    let mut driver = Driver::default_ready();
    let header = driver.header(IN, 5);
    let data = driver.buffer(&[0; 1024]);
    let tail = driver.buffer(&[0; 513]);
    let pieces: [Piece; 5] = [
        (header, 3, false),
        (header + 3, 13, false),
        (data, 100, true),
        (data + 100, 412, true),
        // The status follows the data in the same buffer.
        (tail, 513, true),
    ];

    assert_eq!(driver.run(&pieces), 1025);

    assert_eq!(driver.read(data, 512), [5; 512]);
    assert_eq!(driver.read(tail, 513), [&[6; 512][..], &[OK]].concat());
}

#[test]
fn header_and_data_of_a_write_can_share_a_descriptor() {
    let mut driver = Driver::default_ready();
    let mut content = [0; 16 + 512];
    content[0] = OUT as u8;
    content[8] = 9;
    content[16..].fill(0x5a);
    let first = driver.buffer(&content);
    let second = driver.buffer(&[0xa5; 512]);
    let status = driver.buffer(&[0xff]);

    driver.run(&[(first, 528, false), (second, 512, false), (status, 1, true)]);

    assert_eq!(driver.read(status, 1), [OK]);
    assert_eq!(driver.image(9, 1024), [[0x5a; 512], [0xa5; 512]].concat());
}

#[test]
fn data_can_be_odd_pieces_anywhere_in_memory() {
    let mut driver = Driver::default_ready();
    let header = driver.header(IN, 20);
    let status = driver.buffer(&[0xff]);
    // Crosses from the first memory region into the second, at an odd address.
    let across = SECOND - 701;

    let length = driver.run(&[(header, 16, false), (across, 1536, true), (status, 1, true)]);

    assert_eq!(length, 1537);
    let expected = [[20; 512], [21; 512], [22; 512]].concat();
    assert_eq!(driver.read(across, 1536), expected);
}

#[test]
fn requests_go_round_the_ring_many_times() {
    // The 16-bit indices wrap.
    const ROUNDS: u64 = 17_000;
    for setup in setups() {
        let setup = Setup {
            queue_size: 16,
            ..setup
        };
        let mut driver = Driver::with(setup);
        let requests: Vec<_> = (0..4)
            .map(|sector| driver.request(IN, sector, &[0; 512]))
            .collect();

        for round in 0..ROUNDS {
            let first = round % 252;
            for (number, (pieces, _, status)) in (0..).zip(&requests) {
                let sector: u64 = first + number;
                driver.write(pieces[0].0 + 8, &sector.to_le_bytes());
                driver.write(*status, &[0xff]);
                driver.enqueue(pieces);
            }
            driver.notify_if_wanted();
            for (number, (_, buffer, status)) in (0..).zip(&requests) {
                assert_eq!(driver.wait_used().1, 513);
                assert_eq!(driver.read(*status, 1), [OK]);
                assert_eq!(driver.read(*buffer, 1), [first as u8 + number]);
            }
        }

        assert_eq!(driver.disk.counters().requests, 4 * ROUNDS);
    }
}

#[test]
fn a_full_queue_is_served_completely() {
    let mut driver = Driver::default_ready();
    let requests: Vec<_> = (0..64)
        .map(|sector| driver.request(IN, sector, &[0; 512]))
        .collect();

    let heads: Vec<u16> = requests
        .iter()
        .map(|(pieces, _, _)| driver.indirect(pieces))
        .collect();
    heads.iter().for_each(|head| driver.publish(*head));
    driver.notify_if_wanted();

    let mut done: Vec<u32> = (0..64).map(|_| driver.wait_used().0).collect();
    done.sort_unstable();
    assert_eq!(done, (0..64).collect::<Vec<u32>>());
    for (sector, (_, buffer, status)) in requests.iter().enumerate() {
        assert_eq!(driver.read(*status, 1), [OK]);
        assert_eq!(driver.read(*buffer, 512), [sector as u8; 512]);
    }
}

#[test]
fn a_large_request_of_1_mib_works() {
    let mut driver = Driver::powered_up(4096, BlkSettings::default());
    driver.initialise(Setup::default());
    let data: Vec<u8> = (0..1 << 20)
        .map(|byte| (byte * 7 + byte / 512) as u8)
        .collect();

    assert_eq!(driver.call(OUT, 1024, &data).0, OK);
    let (status, read, length) = driver.call(IN, 1024, &vec![0; 1 << 20]);

    assert_eq!((status, length), (OK, (1 << 20) + 1));
    assert!(read == data);
}

#[test]
fn a_bad_sector_fails_its_reads_and_leaves_no_old_data() {
    let mut driver = Driver::of(|settings, _| settings.faults.unreadable.push(10..11));

    let (status, data, length) = driver.call(IN, 8, &[0xee; 2048]);
    assert_eq!((status, length), (IOERR, 2049));
    assert_eq!(data, [0; 2048]);

    assert_eq!(driver.call(IN, 8, &[0; 1024]).0, OK);
    assert_eq!(driver.call(IN, 11, &[0; 512]).0, OK);
    assert_eq!(driver.call(OUT, 10, &[0; 512]).0, OK);
    driver.disk.set_faults(Faults::default());
    assert_eq!(driver.call(IN, 8, &[0; 2048]).0, OK);
}

#[test]
fn a_sector_that_cannot_be_written_keeps_its_data() {
    let mut driver = Driver::of(|settings, _| settings.faults.unwritable.push(10..11));

    assert_eq!(driver.call(OUT, 10, &[0xff; 512]).0, IOERR);

    assert_eq!(driver.image(10, 512), [10; 512]);
    assert_eq!(driver.call(IN, 10, &[0; 512]).1, [10; 512]);
}

#[test]
fn the_cache_mode_follows_the_features_and_the_driver() {
    const WRITEBACK: u64 = DEVICE + 32;
    for (features, writeback) in [(u64::MAX, 1), (!FLUSH, 0)] {
        let setup = Setup {
            features,
            ..Setup::default()
        };
        let mut driver = Driver::with(setup);

        assert_eq!(driver.get::<1>(WRITEBACK), writeback);
        driver.set::<1>(WRITEBACK, 1 - writeback);
        assert_eq!(driver.get::<1>(WRITEBACK), 1 - writeback);
        // A write succeeds with both.
        assert_eq!(driver.call(OUT, 1, &[0x77; 512]).0, OK);
        assert_eq!(driver.image(1, 512), [0x77; 512]);
        driver.initialise(setup);
        assert_eq!(driver.get::<1>(WRITEBACK), writeback);
    }
}

#[test]
fn the_configuration_describes_the_disk() {
    let driver = Driver::of(|settings, _| {
        settings.seg_max = 126;
    });

    assert_eq!(
        driver.get::<4>(DEVICE) | driver.get::<4>(DEVICE + 4) << 32,
        256
    );
    assert_eq!(driver.get::<4>(DEVICE + 12), 126);
    assert_eq!(driver.get::<4>(DEVICE + 20), 512);
    assert_eq!(
        driver.features & (CONFIG_WCE | INDIRECT),
        CONFIG_WCE | INDIRECT
    );
}
