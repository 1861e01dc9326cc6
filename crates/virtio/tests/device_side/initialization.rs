//! The start of a device, from the reset to `DRIVER_OK`: the order of the steps, and devices that
//! break the protocol.

use testbed_virtio::common_config::{
    ACKNOWLEDGE, DRIVER, DRIVER_OK, FAILED, FEATURES_OK, Ring, offset,
};
use testbed_virtio::function;
use virtio::Error;
use virtio::pci::Structure;
use virtio::queue_size::QueueSize;
use virtio::spec::F;
use virtio::transport::{
    Device, Driver, Health, Live, Negotiated, ResetFailure, ResetPoll, RingPlacement, Windows,
};

use crate::disk::queue_size;
use crate::pci_device::{OFFERED, PciDevice, Window};

fn acknowledged(pci: &PciDevice) -> Device<Window<'_>, Driver> {
    pci.reset_device().acknowledge().expect("a device")
}

fn negotiated(pci: &PciDevice) -> Device<Window<'_>, Negotiated> {
    acknowledged(pci).accept(OFFERED).expect("features")
}

fn ring(size: u16) -> RingPlacement {
    RingPlacement {
        size: queue_size(size),
        descriptors: 0x1_2345_6780,
        driver: 0x2_3456_7894,
        device: 0x3_4567_89A4,
    }
}

/// The error of a step that must fail. Checks that the driver set FAILED (V14).
fn error_of<T>(pci: &PciDevice, result: Result<T, virtio::transport::Failed<Window<'_>>>) -> Error {
    let Err(failure) = result else {
        panic!("no error");
    };
    if !pci.gone.get() {
        assert_ne!(pci.status() & FAILED, 0, "V14: FAILED is not set");
    }
    failure.error
}

/// V01, V11, V12, V61, V64, V66: `PciDevice` checks each access, and this test the order of all
/// writes.
#[test]
fn a_device_is_initialised_in_the_specified_order() {
    let pci = PciDevice::new();

    let mut device = negotiated(&pci);
    let queue = device.find_queue(0, queue_size(128)).unwrap();
    device.route_config(0).unwrap();
    device.route_queue(&queue, 1).unwrap();
    let queue = device.enable_queue(queue, ring(128)).unwrap();
    let live = device.start().unwrap();
    live.notifier(queue).notify();

    assert_eq!(
        pci.status_writes(),
        [
            0,
            ACKNOWLEDGE,
            ACKNOWLEDGE | DRIVER,
            ACKNOWLEDGE | DRIVER | FEATURES_OK,
            ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK,
        ]
    );
    let order: Vec<u64> = pci.common_writes().iter().map(|(at, _)| *at).collect();
    let expected: &[u64] = &[
        offset::STATUS,
        offset::STATUS,
        offset::STATUS,
        offset::DEVICE_FEATURE_SELECT,
        offset::DEVICE_FEATURE_SELECT,
        offset::DRIVER_FEATURE_SELECT,
        offset::DRIVER_FEATURE,
        offset::DRIVER_FEATURE_SELECT,
        offset::DRIVER_FEATURE,
        offset::STATUS,
        offset::QUEUE_SELECT,
        offset::CONFIG_VECTOR,
        offset::QUEUE_SELECT,
        offset::QUEUE_VECTOR,
        offset::QUEUE_SELECT,
        offset::QUEUE_SIZE,
        0x20,
        0x24,
        0x28,
        0x2C,
        0x30,
        0x34,
        offset::QUEUE_ENABLE,
        offset::STATUS,
    ];
    assert_eq!(order, expected);
    assert_eq!(pci.accepted(), OFFERED);
    let found = pci.ring().expect("an enabled queue");
    let expected = Ring {
        size: 128,
        descriptors: 0x1_2345_6780,
        driver: 0x2_3456_7894,
        device: 0x3_4567_89A4,
    };
    assert_eq!(found, expected);
    assert_eq!(pci.vectors(), (0, 1));
    assert_eq!(live.health(), Health::Working);
}

/// V13, V68, V71: the driver does not read the ISR status.
#[test]
fn a_notification_writes_the_queue_number_as_16_bits() {
    let pci = PciDevice::of(4, 256, 3);
    pci.lie(offset::QUEUE_NOTIFY_OFF, 3);
    pci.notify_multiplier.set(8);
    let mut device = negotiated(&pci);
    let queue = device.find_queue(2, QueueSize::Q256).unwrap();
    assert_eq!(queue.index(), 2);
    let queue = device.enable_queue(queue, ring(256)).unwrap();
    let live = device.start().unwrap();

    live.notifier(queue).notify();

    let trace = pci.trace.borrow();
    let last = trace.last().unwrap();
    assert_eq!(last.structure, function::Structure::Notify);
    assert_eq!((last.offset, last.written), (24, Some(2)));
    assert!(
        trace
            .iter()
            .all(|it| it.structure != function::Structure::Isr),
        "V68"
    );
}

/// V07.
#[test]
fn the_driver_waits_for_a_reset() {
    let pci = PciDevice::new();
    pci.slow_reset(5);
    let mut pauses = 0;

    let reset = pci.device().reset(10, || pauses += 1);

    assert!(reset.is_ok());
    assert_eq!(pauses, 5);
}

/// A33.
#[test]
fn a_reset_that_never_ends_is_given_up_and_can_be_tried_again() {
    let pci = PciDevice::new();
    pci.slow_reset(15);
    let mut pauses = 0;

    let Err(ResetFailure::Stuck { device, status }) = pci.device().reset(10, || pauses += 1) else {
        panic!("no reset");
    };
    assert_eq!(pauses, 10);
    assert!(!status.is_empty());

    pci.function.borrow_mut().common.finish_reset();
    assert!(device.reset(10, || ()).is_ok());
}

/// A33.
#[test]
fn a_removed_device_is_noticed_at_every_step() {
    let gone = |pci: &PciDevice| pci.gone.set(true);

    let pci = PciDevice::new();
    gone(&pci);
    let Err(ResetFailure::Removed(device)) = pci.device().reset(10, || panic!("a pause")) else {
        panic!("not removed");
    };
    let _ = device.quiet();

    let pci = PciDevice::new();
    pci.slow_reset(5);
    let ResetPoll::Pending(device) = pci.device().begin_reset().poll() else {
        panic!("the device is not that fast");
    };
    gone(&pci);
    let ResetPoll::Removed(device) = device.poll() else {
        panic!("not removed");
    };
    let _ = device.quiet();

    let pci = PciDevice::new();
    let device = pci.reset_device();
    gone(&pci);
    assert_eq!(error_of(&pci, device.acknowledge()), Error::Gone);

    let pci = PciDevice::new();
    let device = acknowledged(&pci);
    gone(&pci);
    assert_eq!(error_of(&pci, device.accept(OFFERED)), Error::Gone);

    let pci = PciDevice::new();
    let mut device = negotiated(&pci);
    gone(&pci);
    let found = device.find_queue(0, QueueSize::Q256).unwrap_err();
    assert_eq!(
        found,
        Error::QueueSize {
            index: 0,
            size: 0xFFFF
        }
    );
    assert!(device.start().is_err());

    let pci = PciDevice::new();
    let live = negotiated(&pci).start().unwrap();
    gone(&pci);
    assert_eq!(live.health(), Health::Gone);
    assert!(live.isr().take().is_empty(), "somebody else's interrupt");
    assert!(matches!(
        live.reset(10, || ()),
        Err(ResetFailure::Removed(_))
    ));
}

/// V03, A33.
#[test]
fn device_needs_reset_is_reported_at_any_step() {
    let pci = PciDevice::new();
    let live = negotiated(&pci).start().unwrap();
    assert_eq!(live.health(), Health::Working);

    pci.needs_reset();

    assert_eq!(live.health(), Health::NeedsReset);
    assert!(live.reset(10, || ()).is_ok());

    let pci = PciDevice::new();
    pci.function.borrow_mut().breaks_at_start = true;
    let result = negotiated(&pci).start();
    assert_eq!(error_of(&pci, result), Error::NeedsReset);
}

/// V02: after FAILED only a reset is possible.
#[test]
fn a_device_that_was_given_up_or_is_live_starts_after_a_reset() {
    let pci = PciDevice::new();
    let given_up = negotiated(&pci).give_up();
    assert_ne!(pci.status() & FAILED, 0);
    let mut reset = given_up.reset(10, || ()).unwrap();

    for _ in 0..3 {
        let mut device = reset.acknowledge().unwrap().accept(OFFERED).unwrap();
        let queue = device.find_queue(0, QueueSize::Q256).unwrap();
        device.enable_queue(queue, ring(256)).unwrap();
        let live = device.start().unwrap();
        assert!(pci.ring().is_some());
        reset = live.reset(10, || ()).unwrap();
    }
}

/// This is for callbacks that may not take locks and may not wait.
#[test]
fn the_status_register_begins_a_reset_at_any_step_without_waiting() {
    let pci = PciDevice::new();
    pci.slow_reset(1000);
    let status_register = pci.device().status_register();
    let before = pci.trace.borrow().len();

    status_register.clone().begin_reset();

    assert_eq!(pci.status_writes(), [0]);
    assert_eq!(pci.trace.borrow().len(), before + 1);

    let pci = PciDevice::new();
    let live = negotiated(&pci).start().unwrap();
    live.status_register().begin_reset();
    assert_eq!(live.health(), Health::NeedsReset);
}

#[test]
fn the_status_register_shows_when_the_device_is_quiet() {
    let pci = PciDevice::new();
    let live = negotiated(&pci).start().unwrap();
    let status_register = live.status_register();
    assert!(!status_register.is_quiet());

    pci.slow_reset(1);
    status_register.begin_reset();
    assert!(!status_register.is_quiet());
    assert!(status_register.is_quiet());

    pci.needs_reset();
    assert!(!status_register.is_quiet());
    pci.gone.set(true);
    assert!(status_register.is_quiet());
}

/// V07.
#[test]
fn a_reset_in_steps_writes_0_once_and_reads_the_status_once_per_poll() {
    let pci = PciDevice::new();
    pci.slow_reset(2);

    let device = pci.device().begin_reset();
    assert_eq!(pci.trace.borrow().len(), 1);
    let ResetPoll::Pending(device) = device.poll() else {
        panic!("the device is not that fast");
    };
    assert_eq!(pci.trace.borrow().len(), 2);
    // What the device had before.
    assert_eq!(device.status().bits(), ACKNOWLEDGE);
    let ResetPoll::Pending(device) = device.poll() else {
        panic!("the device is not that fast");
    };
    let ResetPoll::Done(device) = device.poll() else {
        panic!("no reset");
    };

    assert_eq!(pci.status_writes(), [0]);
    assert_eq!(pci.trace.borrow().len(), 4);
    assert!(device.acknowledge().is_ok());
}

/// A host may report FAILED as a fault. Looking at a device and resetting it is not a fault.
#[test]
fn a_reset_from_any_step_does_not_set_failed() {
    fn resets<S>(pci: &PciDevice, device: Device<Window<'_>, S>) {
        let ResetPoll::Done(_) = device.begin_reset().poll() else {
            panic!("no reset");
        };
        assert!(
            pci.status_writes()
                .iter()
                .all(|status| status & FAILED == 0)
        );
    }

    let pci = PciDevice::new();
    resets(&pci, pci.device());
    resets(&pci, pci.device().begin_reset());
    resets(&pci, pci.reset_device());
    resets(&pci, acknowledged(&pci));
    resets(&pci, negotiated(&pci));
    let mut device = negotiated(&pci);
    let queue = device.find_queue(0, QueueSize::Q256).unwrap();
    device.enable_queue(queue, ring(256)).unwrap();
    resets(&pci, device.start().unwrap());
}

/// V04, V06, V18, V20, A32: a ring feature that this crate does not support cannot be accepted by
/// mistake.
#[test]
fn only_offered_and_supported_features_are_accepted() {
    let refused = |features| Error::NotAcceptable { features };
    let mut cases = vec![
        (
            F::INDIRECT_DESC,
            F::VERSION_1 | F::INDIRECT_DESC,
            Error::NotModern,
        ),
        (
            OFFERED,
            OFFERED | F::ACCESS_PLATFORM,
            refused(F::ACCESS_PLATFORM),
        ),
    ];
    for unsupported in [
        F::IN_ORDER,
        F::NOTIFICATION_DATA,
        F::NOTIF_CONFIG_DATA,
        F::RING_RESET,
        F::SUSPEND,
    ] {
        let features = OFFERED | unsupported;
        cases.push((features, features, refused(unsupported)));
    }
    for (offered, accepted, error) in cases {
        let pci = PciDevice::new();
        pci.offer(offered);

        let result = acknowledged(&pci).accept(accepted);

        assert_eq!(error_of(&pci, result), error);
    }
}

/// V06, A32.
#[test]
fn unknown_features_are_ignored() {
    let pci = PciDevice::new();
    pci.function.borrow_mut().common.offered = u64::MAX;
    let device = acknowledged(&pci);
    let chosen = virtio::blk::choose_features(device.offered());

    let device = device.accept(chosen).unwrap();

    assert_eq!(device.accepted(), chosen);
    assert_eq!(pci.accepted(), chosen);
    let ours =
        virtio::transport::SUPPORTED | F::from_bits_retain(virtio::spec::le128::from_ne(0xFF_FFFF));
    assert!(ours.contains(chosen));
}

/// A32: the driver reads the offered features once. If they change, the device refuses them.
#[test]
fn features_that_change_after_they_were_read_are_refused_by_the_device() {
    let pci = PciDevice::new();
    let device = acknowledged(&pci);
    // Only VERSION_1 in the upper half.
    pci.lie(offset::DEVICE_FEATURE, 1);
    pci.function.borrow_mut().common.faults.refuses_features = true;

    let result = device.accept(OFFERED);

    assert_eq!(
        error_of(&pci, result),
        Error::FeaturesRefused { features: OFFERED }
    );
}

/// V65: the driver asks for no more than it needs, whatever the maximum of the device is.
#[test]
fn the_queue_size_is_the_smaller_of_both_maxima() {
    for (device_has, wanted, found) in [(256, 128, 128), (64, 256, 64), (32768, 256, 256)] {
        let pci = PciDevice::of(1, device_has, 3);

        let queue = negotiated(&pci).find_queue(0, queue_size(wanted)).unwrap();

        assert_eq!(queue.size().get(), found);
        assert_eq!(queue.index(), 0);
    }
}

/// V65: a packed ring may have any size, of which the driver uses a power of two.
#[test]
fn a_packed_ring_is_no_larger_than_the_device_offers() {
    for (device_has, found) in [(3, 2), (5, 4), (255, 128), (256, 256), (32768, 256)] {
        let pci = PciDevice::of(1, 256, 3);
        pci.offer(OFFERED | F::RING_PACKED);
        pci.lie(offset::QUEUE_SIZE, device_has);
        let device = acknowledged(&pci).accept(OFFERED | F::RING_PACKED);

        let queue = device.unwrap().find_queue(0, QueueSize::Q256).unwrap();

        assert_eq!(queue.size().get(), found);
    }
}

/// A35, A36: the size is 0 or not a power of two, the queue is enabled right after a reset or does
/// not exist, or its notification address lies outside the window.
#[test]
fn a_queue_that_cannot_be_used_is_refused_and_the_start_is_barred() {
    let lying = |offset, value| {
        let pci = PciDevice::new();
        pci.lie(offset, value);
        pci
    };
    let index = 0;
    let size = |size| {
        (
            lying(offset::QUEUE_SIZE, size),
            Error::QueueSize { index, size },
        )
    };
    let mut cases = vec![
        (
            lying(offset::QUEUE_SIZE, 0),
            Error::QueueUnavailable { index },
        ),
        size(3),
        size(65535),
        (lying(offset::QUEUE_ENABLE, 1), Error::QueueInUse { index }),
        (
            PciDevice::of(0, 256, 3),
            Error::NoQueue { index, queues: 0 },
        ),
    ];
    for (notify_off, multiplier, length) in [
        (1, 0x1000, 0x1000),
        (0xFFFF, u32::MAX, 0x1000),
        (2047, 2, 0xFFF),
        (3, 1, 0x1000),
        (1, 7, 0x1000),
    ] {
        let pci = lying(offset::QUEUE_NOTIFY_OFF, notify_off);
        pci.notify_multiplier.set(multiplier);
        pci.notify_length.set(length);
        let error = Error::NotifyAddressOutside {
            index,
            offset: u64::from(notify_off) * u64::from(multiplier),
            length,
        };
        cases.push((pci, error));
    }
    for (pci, error) in cases {
        let mut device = negotiated(&pci);

        let found = device.find_queue(0, QueueSize::Q256);

        assert_eq!(found.unwrap_err(), error);
        assert_eq!(error_of(&pci, device.start()), error);
    }
}

/// A27.
#[test]
fn a_queue_that_does_not_exist_is_not_selected() {
    let pci = PciDevice::of(0, 256, 3);
    let mut device = negotiated(&pci);
    let before = pci.common_writes().len();

    assert!(device.find_queue(0, QueueSize::Q256).is_err());

    let writes = pci.common_writes();
    assert!(writes[before..].iter().all(|(at, _)| *at == offset::STATUS));
}

/// A35.
#[test]
fn a_multiplier_of_0_is_legal() {
    let pci = PciDevice::new();
    pci.lie(offset::QUEUE_NOTIFY_OFF, 0xFFFF);
    pci.notify_multiplier.set(0);
    pci.notify_length.set(2);

    assert!(negotiated(&pci).find_queue(0, QueueSize::Q256).is_ok());
}

/// V70, A37.
#[test]
fn a_refused_vector_is_reported_and_the_start_continues() {
    for answer in [0xFFFF, 2, 0x7FF] {
        let pci = PciDevice::new();
        let mut device = negotiated(&pci);
        let queue = device.find_queue(0, QueueSize::Q256).unwrap();
        pci.lie(offset::CONFIG_VECTOR, answer);
        pci.lie(offset::QUEUE_VECTOR, answer);

        let refused = device.route_queue(&queue, 1);

        let error = Error::VectorRefused {
            vector: 1,
            found: answer,
        };
        assert_eq!(refused, Err(error));
        assert_eq!(device.route_config(1), Err(error));
        assert_eq!(pci.vectors(), (0xFFFF, 0xFFFF), "unmapped again");
        assert!(device.enable_queue(queue, ring(256)).is_ok());
        assert!(device.start().is_ok());
    }
}

/// V70, A37.
#[test]
fn no_vector_beyond_the_table_is_written() {
    for table_size in [0, 3] {
        let pci = PciDevice::of(1, 256, table_size);
        let mut device = negotiated(&pci);

        let beyond = device.route_config(table_size);

        let error = Error::VectorBeyondTable {
            vector: table_size,
            table_size,
        };
        assert_eq!(beyond, Err(error));
        assert_eq!(pci.vectors(), (0xFFFF, 0xFFFF));
    }
}

/// V30, V66, A38: the ring is larger than the queue or not aligned, or the queue does not stay
/// enabled.
#[test]
fn a_queue_that_cannot_be_enabled_is_an_error() {
    let skewed = RingPlacement {
        descriptors: 8,
        ..ring(128)
    };
    let unfit = Error::RingUnfit { index: 0 };
    let disabled = Error::QueueNotEnabled { index: 0 };
    for (stays_enabled, ring, error) in [
        (true, ring(256), unfit),
        (true, skewed, unfit),
        (false, ring(128), disabled),
    ] {
        let pci = PciDevice::of(1, 128, 3);
        if !stays_enabled {
            pci.lie(offset::QUEUE_ENABLE, 0);
        }
        let mut device = negotiated(&pci);
        let queue = device.find_queue(0, QueueSize::Q256).unwrap();

        let enabled = device.enable_queue(queue, ring);

        assert_eq!(enabled.unwrap_err(), error);
        assert_eq!(pci.ring().is_none(), stays_enabled, "it is given a ring");
        assert_eq!(error_of(&pci, device.start()), error);
    }
}

/// V72, A39.
#[test]
fn the_isr_status_can_be_read_at_any_step_and_have_both_bits() {
    let pci = PciDevice::new();
    let device = pci.device();
    let isr = device.isr();
    assert!(isr.take().is_empty());

    pci.function.borrow_mut().isr = 3;
    let both = isr.take();

    assert!(both.contains(virtio::spec::pci::IsrStatus::QUEUE_INTERRUPT));
    assert!(both.contains(virtio::spec::pci::IsrStatus::DEVICE_CONFIGURATION_INTERRUPT));
    assert!(isr.take().is_empty(), "reading it clears it");
}

/// A34.
#[test]
fn windows_shorter_than_their_structures_are_refused() {
    let pci = PciDevice::new();
    pci.notify_length.set(1);

    assert_eq!(
        Device::new(&pci.layout(), pci.windows()).unwrap_err(),
        Error::WindowShort {
            structure: Structure::Notify,
            length: 1
        }
    );

    pci.notify_length.set(2);
    let swapped = Windows {
        common: pci.windows().isr,
        ..pci.windows()
    };
    assert_eq!(
        Device::new(&pci.layout(), swapped).unwrap_err(),
        Error::WindowShort {
            structure: Structure::Common,
            length: 1
        }
    );
}

#[test]
fn errors_say_what_is_wrong_and_where() {
    for (error, says) in [
        (Error::Gone, "removed"),
        (Error::NotModern, "VERSION_1"),
        (Error::QueueSize { index: 4, size: 3 }, "queue 4 has size 3"),
        (
            Error::NoQueue {
                index: 4,
                queues: 1,
            },
            "no queue 4",
        ),
    ] {
        assert!(error.to_string().contains(says), "{error}");
    }
}

/// The driver stores the handles in the cells of locks, and all processors use them.
#[test]
fn handles_of_a_sync_window_can_be_sent_and_shared() {
    fn send_and_sync<T: Send + Sync>() {}
    fn send<T: Send>() {}
    #[expect(dead_code, reason = "its type is all that is needed")]
    struct Mapped(usize);

    send_and_sync::<virtio::transport::Notifier<Mapped>>();
    send_and_sync::<virtio::transport::Isr<Mapped>>();
    send_and_sync::<virtio::transport::StatusRegister<Mapped>>();
    send_and_sync::<Device<Mapped, Live>>();
    send_and_sync::<virtio::slots::SlotAllocator>();
    send_and_sync::<virtio::blk::Requests<'_>>();
    send::<virtio::dma::DmaMemory<'_>>();
    send::<crate::disk::Queue<'_>>();
}
