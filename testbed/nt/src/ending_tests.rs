//! Tests of calls that stop the machine: the message and the exit code. Each test runs in a child
//! process, as the code of a loaded driver.

use std::sync::Arc;

use super::resolve;
use testbed_loader::{
    Image,
    sample::{ADDRESSES, Sample, TEXT},
};
use testbed_machine::{
    cpu,
    memory::Memory,
    testing,
    trap::{in_driver, install, watch},
};

const END: &str = "ending_tests::end";

/// Code that calls the driver's one import with arguments in RCX, RDX, R8 and R9, and returns
/// its result.
fn calling(first: u64, others: [u32; 3]) -> Vec<u8> {
    // sub rsp, 38h; mov rcx, ...
    let mut code = vec![0x48, 0x83, 0xec, 0x38, 0x48, 0xb9];
    code.extend(first.to_le_bytes());
    // mov edx, ...; mov r8d, ...; mov r9d, ...
    for (opcode, argument) in [&[0xba_u8][..], &[0x41, 0xb8], &[0x41, 0xb9]]
        .into_iter()
        .zip(others)
    {
        code.extend(opcode);
        code.extend(argument.to_le_bytes());
    }
    // call [rip + ...]; add rsp, 38h; ret
    code.extend([0xff, 0x15]);
    let next = TEXT + code.len() as u32 + 4;
    code.extend((ADDRESSES - next).to_le_bytes());
    code.extend([0x48, 0x83, 0xc4, 0x38, 0xc3]);
    code
}

/// A driver that calls `function` and returns.
fn driver(function: &'static str, first: u64, others: [u32; 3]) -> Arc<Image> {
    let sample = Sample {
        code: calling(first, others),
        imports: vec![("ntoskrnl.exe", function)],
        ..Sample::default()
    };
    Arc::new(sample.load(&|_, name| resolve(name)).expect("a good file"))
}

/// Runs that driver at DISPATCH_LEVEL.
fn run(function: &'static str, first: u64, others: [u32; 3]) -> u64 {
    let image = driver(function, first, others);
    testbed_machine::memory::attach(&Memory::new(1 << 20).expect("memory"));
    watch(&image);
    install().expect("handlers");
    cpu::set_irql(cpu::irql::DISPATCH);
    // SAFETY: the code follows the ABI.
    let entry: extern "win64" fn() -> u64 = unsafe { std::mem::transmute(image.entry()) };
    in_driver("HwStartIo", || entry())
}

#[test]
#[ignore = "ends the process: the other tests call it in one of its own"]
fn end() {
    match testing::asked().as_str() {
        "bug check" => run("KeBugCheckEx", 0xd1, [1, 2, 3]),
        "short bug check" => run("KeBugCheck", 0xe2, [0; 3]),
        "free twice" => run("ExFreePoolWithTag", 0x1000, [0; 3]),
        "raise to lower" => run("KfRaiseIrql", 1, [0; 3]),
        "lower to higher" => run("KeLowerIrql", 9, [0; 3]),
        "breakpoint" => run("DbgBreakPoint", 0, [0; 3]),
        "exception" => run("ExRaiseStatus", 0xc000_0001, [0; 3]),
        other => panic!("no end {other}"),
    };
}

#[test]
fn a_driver_calls_the_kernel_through_its_imports() {
    let image = driver("KeGetCurrentIrql", 0, [0; 3]);
    // SAFETY: the code follows the ABI.
    let entry: extern "win64" fn() -> u8 = unsafe { std::mem::transmute(image.entry()) };

    let before = cpu::set_irql(cpu::irql::DISPATCH);
    assert_eq!(entry(), cpu::irql::DISPATCH);
    cpu::set_irql(before);
}

#[test]
fn each_call_that_ends_the_machine_says_why() {
    for (what, words) in [
        (
            "bug check",
            "bug check 0x000000d1 with parameters 0x1, 0x2, 0x3, 0x",
        ),
        ("bug check", "sample.sys stopped the machine"),
        ("bug check", "in HwStartIo, called before sample.sys+0x1025"),
        (
            "short bug check",
            "bug check 0x000000e2 with parameters 0x0, 0x0, 0x0, 0x0",
        ),
        (
            "free twice",
            "freed pool at 0x1000 in HwStartIo, which is not allocated",
        ),
        ("raise to lower", "to raise the IRQL from 2 to 1"),
        ("lower to higher", "to lower the IRQL from 2 to 9"),
        ("breakpoint", "called DbgBreakPoint"),
        ("exception", "raised an exception with status 0xc0000001"),
    ] {
        let message = testing::stop_message(END, what);
        assert!(
            message.contains(words),
            "{what}: {words} is not in:\n{message}"
        );
    }
}
