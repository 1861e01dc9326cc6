//! A dump stack on a faulty device: each of its requests ends, and it reads in the end.

use std::{thread, time::Duration};

use testbed_devices::{Faults, Glitch};

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

/// Crashes with `before` and starts a dump stack, which has a device with `fault`, for three
/// reads at least.
fn dump(before: impl FnOnce(&Bench), fault: impl FnOnce(&Bench)) {
    let bench = start(patient());
    before(&bench);
    let stack = crash(&bench).map_err(|error| error.to_string());
    let stack = stack.unwrap_or_else(|why| panic!("{why}"));
    let buffer = sector();
    let read = |lba| {
        let done = stack.execute(&read(lba, &buffer));
        done.is_ok_and(|done| done.srb_status == SUCCESS)
    };
    assert!((0..50).any(|_| read(1)), "nothing is read before the fault");
    fault(&bench);
    let mut has_read = false;
    for round in 0..50 {
        has_read = read(2);
        if round == 2 {
            bench.device.set_faults(Faults::default());
        } else if round > 2 && has_read {
            break;
        }
        thread::sleep(Duration::from_millis(20));
    }
    assert!(has_read, "nothing is read after the fault");
    let violations = stack.report().violations;
    assert!(violations.is_empty(), "{violations:?}");
}

fn a_dump_stack_survives_a_glitch() {
    dump(|_| {}, |bench| bench.device.glitch(Glitch::AtNextUsed));
}

fn a_dump_stack_survives_a_glitch_while_idle() {
    dump(|_| {}, |bench| bench.device.glitch(Glitch::Silent));
}

fn a_dump_stack_survives_a_glitch_in_its_start() {
    // The first start asks for the disk's identity.
    dump(
        |bench| bench.device.glitch_after(Glitch::AtDriverOk, 1),
        |_| {},
    );
}

fn a_dump_stack_survives_a_device_that_needs_a_reset() {
    dump(|_| {}, |bench| bench.device.set_needs_reset());
}

fn a_dump_stack_survives_a_slow_reset() {
    let slow = |bench: &Bench| {
        bench.device.slow_reset(0, 20);
        bench.device.set_needs_reset();
    };
    dump(|_| {}, slow);
}

fn a_dump_stack_survives_a_restart_that_fails() {
    let failing = |bench: &Bench| {
        bench.device.set_faults(refusing_features());
        bench.device.set_needs_reset();
    };
    dump(|_| {}, failing);
}

fn a_dump_stack_survives_a_request_for_the_identity_that_is_never_answered() {
    // The device answers nothing, and confirms the reset that follows late.
    let silent = |bench: &Bench| {
        bench.device.serve_manually();
        bench.device.slow_reset(2, 1010);
        let device = bench.device.clone();
        thread::spawn(move || {
            loop {
                device.serve_now();
                thread::sleep(Duration::from_millis(1));
            }
        });
    };
    dump(silent, |_| {});
}
