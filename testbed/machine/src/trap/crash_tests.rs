//! The message and the exit code of each kind of crash. Each test runs in a child process: this
//! test program, called for one test.

use std::{os::unix::process::ExitStatusExt, sync::Arc};

use super::{
    RegisterWindow, in_driver, install,
    ram::{self, Ram},
    stop_machine, watch,
};
use crate::testing;
use crate::{
    cpu,
    memory::{Memory, PAGE, Placement},
    pci::PciFunction,
};
use testbed_loader::{Image, sample::Sample};

/// Loads the code as a driver.
fn driver(code: &[u8]) -> Arc<Image> {
    let sample = Sample {
        code: code.into(),
        ..Sample::default()
    };
    let image = Arc::new(sample.load(&|_, _| None).expect("a good file"));
    watch(&image);
    install().expect("handlers");
    image
}

/// Runs the driver's code with RCX = `argument`, as Storport would.
fn run(code: &[u8], argument: usize) {
    let image = driver(code);
    cpu::set_irql(2);
    // SAFETY: the code follows the ABI up to its crash.
    let entry: extern "win64" fn(usize) -> usize = unsafe { std::mem::transmute(image.entry()) };
    in_driver("HwStartIo", || entry(argument));
    println!("came back");
}

fn window() -> RegisterWindow {
    let function: Arc<dyn PciFunction> = Ram::new(0, &[]);
    RegisterWindow::map(&function, 0, 0x20, 6).expect("a window")
}

/// Code that crashes with RCX = 0, and a part of the message.
const CODES: [(&str, &[u8], &str); 14] = [
    // mov byte [rip], 1
    (
        "write to code",
        &[0xc6, 0x05, 0, 0, 0, 0, 1],
        ", in sample.sys+0x1007, whose section does not allow that",
    ),
    // call rcx
    ("call null", &[0xff, 0xd1], "it jumped to 0x0"),
    (
        "int 3",
        &[0x90, 0xcc],
        "a breakpoint (int 3), and no debugger is attached\n  at sample.sys+0x1001",
    ),
    ("ud2", &[0x0f, 0x0b], "ran into ud2"),
    // mov ecx, 2; int 29h
    (
        "fastfail",
        &[0xb9, 2, 0, 0, 0, 0xcd, 0x29],
        "__fastfail with code 2 (the stack cookie was overwritten",
    ),
    ("int 2c", &[0xcd, 0x2c], "failed an assertion"),
    ("hlt", &[0xf4], "halted the processor"),
    ("cli", &[0xfa], "disabled or enabled interrupts"),
    // mov ecx, 1bh; rdmsr
    (
        "rdmsr",
        &[0xb9, 0x1b, 0, 0, 0, 0x0f, 0x32],
        "model-specific register 0x1b",
    ),
    // mov rax, cr0
    (
        "cr0",
        &[0x0f, 0x20, 0xc0],
        "a control register other than CR8",
    ),
    // div ecx
    ("divide", &[0xf7, 0xf1], "divided by zero"),
    // call to itself
    (
        "stack",
        &[0xe8, 0xfb, 0xff, 0xff, 0xff],
        "overflowed its stack",
    ),
    // mov rax, gs:[20h]
    (
        "gs",
        &[0x65, 0x48, 0x8b, 0x04, 0x25, 0x20, 0, 0, 0],
        "the processor control region (KPCR) at gs:[0x20]",
    ),
    // xor ecx, ecx; mov [rcx], ecx
    (
        "write to null",
        &[0x31, 0xc9, 0x89, 0x09],
        "it wrote to 0x0, through a null pointer",
    ),
];

/// mov rax, [rcx]
const READ: [u8; 3] = [0x48, 0x8b, 0x01];

#[test]
#[ignore = "crashes: the other tests call it in a process of its own"]
fn crash() {
    let asked = testing::asked();
    if let Some((_, code, _)) = CODES.iter().find(|(name, ..)| *name == asked) {
        return run(code, 0);
    }
    match asked.as_str() {
        "nothing" => run(&[0xc3], 0),
        // mov rax, [18h]
        "null" => run(&[0x90, 0x48, 0x8b, 0x04, 0x25, 0x18, 0, 0, 0], 0),
        // call next; mov rax, [18h]
        "null in a callee" => run(
            &[
                0xe8, 1, 0, 0, 0, 0xc3, 0x48, 0x8b, 0x04, 0x25, 0x18, 0, 0, 0,
            ],
            0,
        ),
        "non-canonical" => run(&READ, 1 << 63),
        "beyond window" => run(&READ, window().address()),
        "dropped window" => {
            let address = window().address();
            run(&READ, address);
        }
        // lock cmpxchg [rcx], edx
        "odd instruction" => {
            let window = window();
            run(&[0xf0, 0x0f, 0xb1, 0x11], window.address());
        }
        "freed memory" => {
            let memory = Memory::new(1 << 20).expect("memory");
            crate::memory::attach(&memory);
            let block = memory.allocate(PAGE, Placement::Scattered).expect("memory");
            let address = block.address();
            drop(block);
            run(&READ, address);
        }
        "testbed called by driver" => {
            driver(&[0xc3]);
            in_driver("HwBuildIo", ram::crash);
        }
        "testbed" => {
            driver(&[0xc3]);
            ram::crash();
        }
        "device model" => {
            let function: Arc<dyn PciFunction> = Ram::crashing();
            let window = RegisterWindow::map(&function, 0, 0, 8).expect("a window");
            run(&READ, window.address());
        }
        "many threads" => std::thread::scope(|scope| {
            for number in 0..8 {
                scope.spawn(move || stop_machine(format_args!("thread {number} stops it")));
            }
        }),
        "long message" => stop_machine(format_args!("{}", "x".repeat(100_000))),
        "crash in the message" => {
            struct Crashing;
            impl std::fmt::Display for Crashing {
                fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    ram::crash();
                    Ok(())
                }
            }
            driver(&[0xc3]);
            in_driver("HwStartIo", || stop_machine(format_args!("{Crashing}")));
        }
        other => panic!("no crash {other}"),
    }
}

const CRASH: &str = "trap::crash_tests::crash";

fn driver_crash(what: &str) -> String {
    testing::stop_message(CRASH, what)
}

#[test]
fn correct_driver_code_returns() {
    let output = testing::run(CRASH, "nothing");

    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stdout).contains("came back"));
}

#[test]
fn a_crash_is_reported_with_address_instruction_callback_and_irql() {
    let message = driver_crash("null");

    for part in [
        "sample.sys crashed: it read from 0x18, through a null pointer\n",
        "  at sample.sys+0x1001: mov rax,[18h]\n",
        "  in HwStartIo on CPU 0 at IRQL 2 (DISPATCH_LEVEL)\n",
    ] {
        assert!(message.contains(part), "{part} is not in:\n{message}");
    }
}

#[test]
fn the_callers_in_the_driver_are_named() {
    let message = driver_crash("null in a callee");

    assert!(message.contains("  at sample.sys+0x1006: "), "{message}");
    assert!(
        message.ends_with("  called from:\n    sample.sys+0x1005\n"),
        "{message}"
    );
}

#[test]
fn each_kind_of_crash_has_its_own_message() {
    let of_codes = CODES.map(|(what, _, words)| (what, words));
    let others = [
        ("non-canonical", "a non-canonical address"),
        ("beyond window", "accessed 8 bytes at offset 0x20 of BAR 0"),
        (
            "dropped window",
            "where no memory with that access is mapped",
        ),
        (
            "odd instruction",
            "with an instruction that the testbed cannot emulate",
        ),
        ("odd instruction", "lock cmpxchg [rcx],edx"),
        ("freed memory", "not allocated: freed, or beyond a block"),
    ];
    for (what, words) in of_codes.into_iter().chain(others) {
        let message = driver_crash(what);
        assert!(
            message.contains(words),
            "{what}: {words} is not in:\n{message}"
        );
    }
}

#[test]
fn a_crash_in_a_routine_that_the_driver_called_is_reported_as_the_drivers() {
    let message = driver_crash("testbed called by driver");

    assert!(message.contains("(not in the driver)"), "{message}");
    assert!(message.contains("in HwBuildIo"), "{message}");
}

#[test]
fn a_crash_of_the_testbed_itself_is_reported_as_such_and_ends_by_its_signal() {
    for what in ["testbed", "device model"] {
        let output = testing::run(CRASH, what);
        let message = String::from_utf8_lossy(&output.stderr);

        assert_eq!(
            output.status.signal(),
            Some(libc::SIGSEGV),
            "{what}: {message}"
        );
        assert!(
            message.contains("the testbed itself crashed, not the driver"),
            "{what}: {message}"
        );
    }
}

#[test]
fn only_the_first_thread_that_stops_the_machine_reports() {
    let message = driver_crash("many threads");

    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(message.ends_with(" stops it\n"), "{message}");
}

#[test]
fn a_message_that_is_too_long_is_cut_off() {
    let message = driver_crash("long message");

    assert!(message.len() <= 32768);
    assert!(message.ends_with("xxx\n"));
}

#[test]
fn a_crash_during_a_report_still_ends_the_process() {
    let message = driver_crash("crash in the message");

    assert!(message.contains("the message was not printed"), "{message}");
}
