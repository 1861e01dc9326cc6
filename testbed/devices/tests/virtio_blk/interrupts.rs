//! Interrupts: messages, masks, the pin, and the two ways to suppress them.

use testbed_machine::pci::PciFunction;

use crate::driver::{Driver, EVENT_IDX, IN, ISR, Seen, Setup};

/// Makes one read available and waits until it is used.
fn read_one(driver: &mut Driver) {
    driver.call(IN, 1, &[0; 512]);
}

/// Makes `count` reads available with one notification.
fn read_many(driver: &mut Driver, count: u64) {
    for sector in 0..count {
        let (pieces, _, _) = driver.request(IN, sector, &[0; 512]);
        let head = driver.indirect(&pieces);
        driver.publish(head);
    }
    driver.notify_if_wanted();
}

/// Serves one more request. The interrupts for earlier ones have arrived then, because a queue
/// interrupts before it goes on.
fn settle(driver: &mut Driver) {
    read_one(driver);
}

/// Whether the PCI status register has the interrupt status.
fn shows_interrupt(driver: &Driver) -> bool {
    let mut status = [0; 2];
    driver.disk.config_read(0x06, &mut status);
    status[0] & 0x08 != 0
}

/// A driver that gets a message for every used buffer.
fn messages() -> Driver {
    Driver::with(Setup::without(EVENT_IDX))
}

/// Interrupts on the pin, without EVENT_IDX.
fn pin() -> Setup {
    Setup {
        msix: false,
        features: !EVENT_IDX,
        ..Setup::default()
    }
}

#[test]
fn a_used_queue_sends_the_message_of_its_vector() {
    let mut driver = messages();

    read_one(&mut driver);

    driver.receiver.wait(|seen| seen.messages == [1]);
    assert!(!driver.receiver.seen().line);
    assert_eq!(driver.get::<1>(ISR), 0);
    assert_eq!(driver.disk.counters().interrupts, 1);

    // Vector 0 belongs to the configuration too.
    driver.set::<2>(0x1a, 0);
    assert_eq!(driver.get::<2>(0x1a), 0);
    read_one(&mut driver);
    driver.receiver.wait(|seen| seen.messages == [1, 0]);
}

#[test]
fn a_masked_vector_waits() {
    let mut driver = messages();
    driver.mask(1, true);

    read_one(&mut driver);
    read_one(&mut driver);
    settle(&mut driver);
    assert_eq!(driver.receiver.seen(), Seen::default());
    assert_eq!(driver.pending(), 0b10);
    driver.mask(1, false);

    driver.receiver.wait(|seen| seen.messages.starts_with(&[1]));
    assert_eq!(driver.pending(), 0);
}

#[test]
fn without_msix_the_pin_is_asserted_until_the_isr_is_read() {
    let mut driver = Driver::with(pin());

    read_one(&mut driver);
    driver.receiver.wait(|seen| seen.line);
    settle(&mut driver);
    assert_eq!(driver.receiver.seen().asserted, 1);

    assert!(shows_interrupt(&driver));
    assert_eq!(driver.get::<1>(ISR), 1);
    assert!(!driver.receiver.seen().line);
    assert!(!shows_interrupt(&driver));
    assert_eq!(driver.get::<1>(ISR), 0);
    assert_eq!(driver.disk.counters().interrupts, 1);
}

#[test]
fn the_command_register_disables_the_pin() {
    let mut driver = Driver::with(pin());
    driver.command(0x0406);

    read_one(&mut driver);
    settle(&mut driver);
    assert_eq!(driver.receiver.seen(), Seen::default());
    assert!(shows_interrupt(&driver));
    driver.command(0x0006);

    driver.receiver.wait(|seen| seen.line);
}

#[test]
fn a_disk_without_msix_uses_the_pin() {
    let mut driver = Driver::of(|settings, setup| {
        settings.msix_vectors = 0;
        setup.msix = false;
    });
    assert_eq!(driver.disk.msix_vectors(), 0);
    assert_eq!(driver.disk.bar(1), None);

    read_one(&mut driver);

    driver.receiver.wait(|seen| seen.line);
}

#[test]
fn the_no_interrupt_flag_is_honoured_without_event_idx() {
    let mut driver = Driver::with(Setup::without(EVENT_IDX));
    driver.set_avail_flags(1);
    read_one(&mut driver);
    settle(&mut driver);
    assert_eq!(driver.disk.counters().interrupts, 0);

    driver.set_avail_flags(0);
    read_one(&mut driver);

    driver.receiver.wait(|seen| seen.messages.starts_with(&[1]));
}

#[test]
fn used_event_determines_the_interrupts() {
    let mut driver = Driver::default_ready();
    driver.set_used_event(9);

    read_many(&mut driver, 9);
    driver.wait_for_used_index(9);
    assert_eq!(driver.receiver.seen(), Seen::default());
    read_many(&mut driver, 1);

    driver.receiver.wait(|seen| seen.messages == [1]);
}

#[test]
fn a_batch_is_announced_once() {
    let mut driver = Driver::default_ready();

    read_many(&mut driver, 32);
    driver.wait_for_used_index(32);
    // used_event stayed 0: one interrupt at most, for the first element.
    driver.receiver.wait(|seen| !seen.messages.is_empty());

    assert_eq!(driver.receiver.seen().messages, [1]);
    assert_eq!(driver.disk.counters().notifications, 1);
}

#[test]
fn a_change_of_size_is_announced_with_a_new_generation() {
    const GENERATION: u64 = 0x15;
    for msix in [true, false] {
        let driver = Driver::of(|_, setup| setup.msix = msix);
        let before = driver.get::<1>(GENERATION);

        driver.disk.resize(512 * 1000).expect("a new size");

        driver
            .receiver
            .wait(|seen| seen.line != msix && seen.messages.len() == usize::from(msix));
        assert_ne!(driver.get::<1>(GENERATION), before);
        assert_eq!(driver.get::<4>(0x2000), 1000);
        // The bit is set with MSI-X too.
        assert_eq!(driver.get::<1>(ISR), 2);
    }
}

#[test]
fn no_interrupt_is_lost_to_a_driver_that_sleeps() {
    const TOTAL: u64 = 20_000;
    for features in [u64::MAX, !EVENT_IDX] {
        let mut driver = Driver::of(|_, setup| setup.features = features);
        let (pieces, _, _) = driver.request(IN, 0, &[0; 512]);
        let (mut made, mut done, mut heard) = (0, 0, 0);

        while done < TOTAL {
            // At most 8 chains of 3 descriptors in a table of 64.
            while made < TOTAL && made - done < 8 {
                driver.enqueue(&pieces);
                made += 1;
            }
            driver.notify_if_wanted();
            let before = done;
            while driver.used_index() != driver.ring.next_used {
                driver.wait_used();
                done += 1;
            }
            if done == before {
                // Requests an interrupt, polls again, and only then sleeps.
                driver.set_used_event(driver.ring.next_used);
                if driver.used_index() == driver.ring.next_used {
                    driver.receiver.wait(|seen| seen.messages.len() > heard);
                }
                heard = driver.receiver.seen().messages.len();
            }
        }
    }
}
