//! The example driver that takes every lock, in cases that `testbed run` does not reach: HwStartIo
//! without concurrent channels, and HwResetBus. FERROSTOR_LOCKS names the file.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use testbed_devices::Bell;
use testbed_machine::pci::PciFunction;
use testbed_storport::adapter::{Adapter, AdapterSettings, ConcurrentChannels};

use super::bench::*;

scenarios! {
    every_lock_excludes_under_the_start_io_lock_and_in_a_bus_reset
}

fn every_lock_excludes_under_the_start_io_lock_and_in_a_bus_reset() {
    let silent = Arc::new(AtomicBool::new(false));
    let muffled = silent.clone();
    let function: Arc<dyn PciFunction> = Arc::new(Intercepted {
        function: Bell::new(2),
        before_read: Box::new(|_, _| {}),
        before_write: Box::new(move |bar, _, _| bar != 0 || !muffled.load(Ordering::SeqCst)),
    });
    let settings = AdapterSettings {
        concurrent_channels: ConcurrentChannels::Refused,
        timeout: Some(Duration::from_millis(200)),
        ..patient()
    };
    let image = image("FERROSTOR_LOCKS");
    let adapter = Adapter::start(machine(), &image, &function, settings).unwrap();
    let buffer = buffer(4096);
    let status = || adapter.execute(read(0, &buffer)).srb_status;

    for _ in 0..100 {
        assert_eq!(status(), SUCCESS);
    }
    // No interrupt reports this request, so the bus is reset.
    silent.store(true, Ordering::SeqCst);
    assert_eq!(status(), SUCCESS);
    silent.store(false, Ordering::SeqCst);
    // The driver fails a request if one of its counts was wrong until here.
    assert_eq!(status(), SUCCESS);
    adapter.stop().unwrap();

    let report = adapter.report();
    assert_eq!(report.resets.len(), 1);
    assert!(report.resets[0].accepted);
    assert!(report.violations.is_empty(), "{:?}", report.violations);
    assert_eq!(report.leaks, [""; 0]);
    let called: Vec<&str> = report.callbacks.iter().map(|row| row.name).collect();
    for callback in ["HwTimer", "HwStateChange", "HwWorkItem", "HwResetBus"] {
        assert!(called.contains(&callback), "{called:?}");
    }
}
