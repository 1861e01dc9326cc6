//! Faults that are enabled while a driver runs, and the record of what the disk did.

use testbed_devices::{BlkSettings, Faults, Glitch, Operation, Served};
use testbed_machine::pci::PciFunction as _;

use super::driver::*;

fn faulty(change: impl FnOnce(&mut Faults)) -> Driver {
    let driver = Driver::default_ready();
    let mut faults = Faults::default();
    change(&mut faults);
    driver.disk.set_faults(faults);
    driver
}

#[test]
fn the_used_length_can_be_wrong() {
    let mut driver = faulty(|faults| faults.used_length = Some(1));

    let (status, data, length) = driver.call(IN, 7, &[0; 512]);

    assert_eq!((status, length), (OK, 1));
    assert_eq!(data, [7; 512]);
}

#[test]
fn the_used_id_can_be_wrong() {
    let mut driver = faulty(|faults| faults.used_id = Some(900));
    let (pieces, _, status) = driver.request(IN, 7, &[0; 512]);
    driver.start(&pieces);

    assert_eq!(driver.wait_used().0, 900);
    assert_eq!(driver.read(status, 1), [OK]);
    driver.receiver.wait(|seen| seen.messages == [1]);
}

#[test]
fn the_status_byte_can_be_left_out() {
    let mut driver = faulty(|faults| faults.no_status = true);

    let (status, data, _) = driver.call(IN, 7, &[0; 512]);

    assert_eq!((status, data), (0xff, vec![7; 512]));
}

#[test]
fn faults_can_be_in_another_queue_and_end_with_a_reset() {
    let mut driver = faulty(|faults| (faults.queue, faults.no_status) = (Some(1), true));
    assert_eq!(driver.call(IN, 7, &[0; 512]).0, OK);

    driver.disk.set_faults(Faults {
        queue: Some(0),
        no_status: true,
        until_reset: true,
        ..Faults::default()
    });
    assert_eq!(driver.call(IN, 7, &[0; 512]).0, 0xff);
    driver.initialise(Setup::default());
    assert_eq!(driver.call(IN, 7, &[0; 512]).0, OK);
}

#[test]
fn flushes_can_fail_alone() {
    let mut driver = faulty(|faults| faults.flush_fails = true);

    assert_eq!(driver.call(FLUSH_REQUEST, 0, &[]).0, IOERR);
    assert_eq!(driver.call(OUT, 0, &[1; 512]).0, OK);
}

#[test]
fn registers_can_read_as_other_values() {
    const GENERATION: u64 = COMMON + 0x15;
    const QUEUE_SIZE: u64 = COMMON + 0x18;
    const CAPACITY: u64 = DEVICE;
    const HIGH: u64 = 4;
    let driver = faulty(|faults| {
        faults.pci_reads = vec![(0x01, 0xee)];
        faults.common_reads = vec![(0x18, 0x1_0007)];
        faults.device_reads = vec![(HIGH, 9)];
        faults.unstable_config = true;
    });
    let mut vendor = [0; 4];
    driver.disk.config_read(0, &mut vendor);

    assert_eq!(vendor, [0xf4, 0xee, 0x42, 0x10]);
    assert_eq!(driver.get::<2>(QUEUE_SIZE), 7);
    assert_ne!(driver.get::<4>(CAPACITY), 9);
    assert_eq!(driver.get::<4>(CAPACITY + HIGH), 9);
    let generations = [(); 3].map(|()| driver.get::<1>(GENERATION));
    assert_eq!(generations, [0, 1, 2]);
}

#[test]
fn driver_ok_can_fail() {
    let mut driver = faulty(|faults| faults.driver_ok_fails = Some(0));

    driver.negotiate(Setup::default());
    driver.enable_queue(Setup::default());
    driver.set::<1>(STATUS, 0x0f);

    assert_eq!(driver.status(), 0x4f);
}

#[test]
fn a_glitch_shows_in_the_used_index_until_the_next_request() {
    for (glitch, messages) in [(Glitch::Silent, 0), (Glitch::Interrupt, 1)] {
        let driver = Driver::default_ready();

        driver.disk.glitch(glitch);

        assert_eq!(driver.used_index(), 1);
        assert_eq!(driver.receiver.seen().messages.len(), messages);
    }
}

#[test]
fn a_glitch_can_wait_for_the_queue_or_for_driver_ok() {
    for (glitch, messages) in [(Glitch::AtQueueEnable, 0), (Glitch::AtDriverOk, 1)] {
        let mut driver = Driver::default_ready();
        driver.disk.glitch(glitch);
        assert_eq!(driver.used_index(), 0);

        driver.initialise(Setup::default());

        assert_eq!(driver.used_index(), 1);
        assert_eq!(driver.receiver.seen().messages.len(), messages);
        driver.initialise(Setup::default());
        assert_eq!(driver.used_index(), 0);
    }
}

#[test]
fn a_glitch_behind_a_request_stops_the_device_until_its_reset() {
    for glitch in [Glitch::AtNextUsed, Glitch::Twice] {
        let mut driver = Driver::default_ready();
        driver.disk.glitch(glitch);
        for sector in [7, 8] {
            let (pieces, _, _) = driver.request(IN, sector, &[0; 512]);
            driver.enqueue(&pieces);
        }

        driver.notify_if_wanted();
        driver.receiver.wait(|seen| seen.messages == [1]);

        assert_eq!(driver.used_index(), 2);
        let [first, second] = [(); 2].map(|()| driver.wait_used());
        let expected = if glitch == Glitch::Twice {
            first
        } else {
            (0, 0)
        };
        assert_eq!(second, expected);
        assert_eq!(driver.disk.counters().requests, 1);
        driver.initialise(Setup::default());
        assert_eq!(driver.call(IN, 7, &[0; 512]).1, [7; 512]);
    }
}

#[test]
fn a_slow_reset_takes_its_reads_of_the_status_and_the_device_works_on() {
    let mut driver = Driver::default_ready();
    let before = driver.disk.resets();
    driver.disk.slow_reset(1, 3);
    driver.initialise(Setup::default());
    assert_eq!(driver.disk.resets(), before + 1);

    driver.set::<1>(STATUS, 0);

    assert_eq!(driver.call(IN, 7, &[0; 512]).1, [7; 512]);
    let reads: Vec<_> = (0..4).map(|_| driver.status()).collect();
    assert_eq!(reads, [0x0f, 0x0f, 0x0f, 0]);
    assert_eq!(driver.disk.resets(), before + 2);
}

#[test]
fn an_endless_reset_can_be_ended() {
    let driver = Driver::default_ready();
    driver.disk.slow_reset(0, u32::MAX);

    driver.set::<1>(STATUS, 0);
    assert!((0..1000).all(|_| driver.status() == 0x0f));
    driver.disk.finish_reset();

    assert_eq!(driver.status(), 0);
}

#[test]
fn features_can_be_refused() {
    let mut driver = Driver::powered_up(256, BlkSettings::default());
    driver.disk.set_faults(Faults {
        refuse_features: true,
        ..Faults::default()
    });

    driver.reset();
    for status in [1, 3, 0xb] {
        driver.set::<1>(STATUS, status);
    }

    assert_eq!(driver.status(), 3);
}

#[test]
fn a_removed_function_reads_as_ones_and_returns_reset() {
    let mut driver = Driver::default_ready();

    driver.disk.surprise_remove();
    assert_eq!(driver.status(), 0xff);
    driver.set::<1>(STATUS, 1);
    driver.notify_queue();

    driver.disk.reinsert();
    assert_eq!(driver.status(), 0);
    driver.initialise(Setup::default());
    assert_eq!(driver.call(IN, 7, &[0; 512]).1, [7; 512]);
}

#[test]
fn a_device_can_ask_for_a_reset() {
    let mut driver = Driver::default_ready();

    driver.disk.set_needs_reset();

    assert_eq!(driver.status(), 0x4f);
    driver.receiver.wait(|seen| seen.messages == [0]);
    driver.initialise(Setup::default());
    assert_eq!(driver.call(IN, 7, &[0; 512]).0, OK);
}

#[test]
fn the_requested_number_of_messages_is_lost() {
    let driver = Driver::default_ready();

    driver.disk.lose_messages(2);
    for _ in 0..3 {
        driver.disk.glitch(Glitch::Interrupt);
    }

    assert_eq!(driver.receiver.seen().messages.len(), 1);
}

#[test]
fn the_record_has_the_requests_in_order_with_what_waited_behind_them() {
    let mut driver = Driver::default_ready();
    let requests: [(u32, u64, &[u8]); 3] = [
        (OUT, 3, &[1; 1024]),
        (FLUSH_REQUEST, 0, &[]),
        (IN, 4, &[0; 512]),
    ];
    for (kind, sector, data) in requests {
        let (pieces, _, _) = driver.request(kind, sector, data);
        driver.enqueue(&pieces);
    }

    driver.notify_if_wanted();
    driver.wait_for_used_index(3);

    let served = |operation, waiting| Served {
        operation,
        status: OK,
        waiting,
    };
    assert_eq!(
        driver.disk.take_served(),
        [
            served(Operation::Write(3, 2), 2),
            served(Operation::Flush, 1),
            served(Operation::Read(4, 1), 0)
        ]
    );
    assert_eq!(driver.disk.take_served(), []);
}

#[test]
fn the_record_has_what_was_written_to_the_status() {
    let driver = Driver::default_ready();

    assert_eq!(driver.disk.status_writes(), [0, 1, 3, 0xb, 0xf]);
}
