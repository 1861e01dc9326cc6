//! A dump stack on a faulty device: each request ends, and a read succeeds at last.

use std::{thread, time::Duration};

use testbed_devices::{Faults, Glitch};
use testbed_storport::dump::DumpStack;

use super::bench::*;

scenarios! {
    a_dump_stack_survives_a_glitch
    a_dump_stack_survives_a_glitch_while_idle
    a_dump_stack_survives_a_glitch_in_its_start
    a_dump_stack_survives_a_device_that_needs_a_reset
    a_dump_stack_survives_a_slow_reset
    a_dump_stack_survives_a_restart_that_fails
    a_dump_stack_survives_a_request_for_the_identity_that_is_never_answered
}

fn dump_stack(bench: &Bench) -> DumpStack {
    let stack = crash(bench).map_err(|error| error.to_string());
    stack.unwrap_or_else(|why| panic!("{why}"))
}

fn is_read(stack: &DumpStack, lba: u8) -> bool {
    let done = stack.execute(&read(lba, &sector()));
    done.is_ok_and(|done| done.srb_status == SUCCESS)
}

/// Checks that one of 50 reads succeeds, and that no rule was broken. Ends all faults after the
/// third.
fn check_reads(bench: &Bench, stack: &DumpStack) {
    let has_read = (0..50).any(|round| {
        let is_read = is_read(stack, 2);
        if round == 2 {
            bench.device.set_faults(Faults::default());
        }
        thread::sleep(Duration::from_millis(20));
        round > 2 && is_read
    });
    assert!(has_read, "nothing is read after the fault");
    let violations = stack.report().violations;
    assert!(violations.is_empty(), "{violations:?}");
}

/// Starts a dump stack, whose first read succeeds, and then gives its device a `fault`.
fn dump(fault: impl FnOnce(&Bench)) {
    let bench = start(patient());
    let stack = dump_stack(&bench);
    assert!(is_read(&stack, 1), "nothing is read before the fault");
    fault(&bench);
    check_reads(&bench, &stack);
}

fn a_dump_stack_survives_a_glitch() {
    dump(|bench| bench.device.glitch(Glitch::AtNextUsed));
}

fn a_dump_stack_survives_a_glitch_while_idle() {
    dump(|bench| bench.device.glitch(Glitch::Silent));
}

fn a_dump_stack_survives_a_glitch_in_its_start() {
    let bench = start(patient());
    // The first start asks for the disk's identity.
    bench.device.glitch_after(0, Glitch::AtDriverOk, 1);
    let stack = dump_stack(&bench);
    check_reads(&bench, &stack);
}

fn a_dump_stack_survives_a_device_that_needs_a_reset() {
    dump(|bench| bench.device.set_needs_reset());
}

fn a_dump_stack_survives_a_slow_reset() {
    dump(|bench| {
        bench.device.slow_reset(0, 20);
        bench.device.set_needs_reset();
    });
}

fn a_dump_stack_survives_a_restart_that_fails() {
    dump(|bench| {
        bench.device.set_faults(refusing_features());
        bench.device.set_needs_reset();
    });
}

fn a_dump_stack_survives_a_request_for_the_identity_that_is_never_answered() {
    let bench = start(patient());
    // The device answers nothing, and confirms the reset that follows late.
    bench.device.serve_manually();
    bench.device.slow_reset(2, 1010);
    let stack = dump_stack(&bench);
    // Requests are served only after the start, which gave up its request for the identity.
    let device = bench.device.clone();
    thread::spawn(move || {
        loop {
            device.serve_now();
            thread::sleep(Duration::from_millis(1));
        }
    });
    check_reads(&bench, &stack);
}
