//! Runs each kind of register access twice: on plain memory by the processor, and on a register
//! window by the trap handler. Memory, registers and flags must be equal afterwards.

use std::{arch::asm, sync::Arc};

use proptest::prelude::*;

use super::{
    RegisterWindow, connect_ports, driver_errors, in_driver, install,
    ram::{BYTES, Ram},
};
use crate::{cpu, pci::PciFunction};

/// The register and the flags after an instruction.
type Outcome = (u64, u64);

/// An instruction on memory at a pointer, with a register and flags.
type Operation = fn(*mut u8, u64, u64) -> Outcome;

const CARRY: u64 = 1;
const ADJUST: u64 = 1 << 4;
/// Carry, parity, adjust, zero, sign and overflow.
const FLAGS: u64 = 0x8d5;

/// Operations on `[rcx]` and the parts of RDX, each with the flags that it leaves undefined.
macro_rules! operations {
    ($($undefined:expr => [$($text:literal),* $(,)?]),* $(,)?) => {
        [$($((
            $text,
            $undefined,
            (|memory, register, flags| {
                let (mut register, mut flags) = (register, flags);
                // SAFETY: the instruction touches up to 16 bytes at `memory`
                // (the caller's), RDX and the flags, which are taken back.
                unsafe {
                    asm!(
                        "push r8", "popfq",
                        $text,
                        "pushfq", "pop r8",
                        in("rcx") memory,
                        in("r9") 1_u64,
                        inout("rdx") register,
                        inout("r8") flags,
                    );
                }
                (register, flags & FLAGS)
            }) as Operation,
        )),*),*]
    };
}

const OPERATIONS: &[(&str, u64, Operation)] = &operations![
    0 => [
        "mov dl, [rcx]", "mov dh, [rcx]", "mov dx, [rcx]", "mov edx, [rcx]", "mov rdx, [rcx]",
        "mov [rcx], dl", "mov [rcx], dh", "mov [rcx], dx", "mov [rcx], edx", "mov [rcx], rdx",
        "mov edx, [rcx + 12]", "mov [rcx + r9 * 4 + 4], edx",
        "mov byte ptr [rcx], 0x91", "mov word ptr [rcx], 0x9123",
        "mov dword ptr [rcx], 0x91234567", "mov qword ptr [rcx], -0x12345678",
        "movnti [rcx], edx", "movnti [rcx], rdx",
        "movzx dx, byte ptr [rcx]", "movzx edx, byte ptr [rcx]", "movzx rdx, byte ptr [rcx]",
        "movzx edx, word ptr [rcx]", "movzx rdx, word ptr [rcx]",
        "movsx dx, byte ptr [rcx]", "movsx edx, byte ptr [rcx]", "movsx rdx, byte ptr [rcx]",
        "movsx edx, word ptr [rcx]", "movsx rdx, word ptr [rcx]",
        "movsxd rdx, dword ptr [rcx]",
        "xchg [rcx], dl", "xchg [rcx], dh", "xchg [rcx], dx", "xchg [rcx], edx",
        "xchg [rcx], rdx",
        "not byte ptr [rcx]", "not word ptr [rcx]", "not dword ptr [rcx]", "not qword ptr [rcx]",
        "add [rcx], dl", "add [rcx], dx", "add [rcx], edx", "add [rcx], rdx",
        "add dl, [rcx]", "add dx, [rcx]", "add edx, [rcx]", "add rdx, [rcx]",
        "sub [rcx], dl", "sub [rcx], dx", "sub [rcx], edx", "sub [rcx], rdx",
        "sub dh, [rcx]", "sub dx, [rcx]", "sub edx, [rcx]", "sub rdx, [rcx]",
        "cmp [rcx], dl", "cmp [rcx], dx", "cmp [rcx], edx", "cmp [rcx], rdx",
        "cmp dl, [rcx]", "cmp dx, [rcx]", "cmp edx, [rcx]", "cmp rdx, [rcx]",
        "cmp byte ptr [rcx], 15", "cmp word ptr [rcx], -1", "cmp dword ptr [rcx], -3",
        "cmp qword ptr [rcx], 0", "add dword ptr [rcx], 1", "sub word ptr [rcx], 1000",
        "lock add [rcx], edx",
        "inc byte ptr [rcx]", "inc word ptr [rcx]", "inc dword ptr [rcx]", "inc qword ptr [rcx]",
        "dec byte ptr [rcx]", "dec word ptr [rcx]", "dec dword ptr [rcx]", "dec qword ptr [rcx]",
        "neg byte ptr [rcx]", "neg word ptr [rcx]", "neg dword ptr [rcx]", "neg qword ptr [rcx]",
    ],
    ADJUST => [
        "and [rcx], dl", "and [rcx], dx", "and [rcx], edx", "and [rcx], rdx",
        "and dl, [rcx]", "and dx, [rcx]", "and edx, [rcx]", "and rdx, [rcx]",
        "or [rcx], dl", "or [rcx], dx", "or [rcx], edx", "or [rcx], rdx",
        "or dl, [rcx]", "or dx, [rcx]", "or edx, [rcx]", "or rdx, [rcx]",
        "xor [rcx], dl", "xor [rcx], dx", "xor [rcx], edx", "xor [rcx], rdx",
        "xor dl, [rcx]", "xor dx, [rcx]", "xor edx, [rcx]", "xor rdx, [rcx]",
        "test [rcx], dl", "test [rcx], dx", "test [rcx], edx", "test [rcx], rdx",
        "test byte ptr [rcx], 0x80", "test word ptr [rcx], 0x0ff0",
        "test dword ptr [rcx], 0x80000000", "and dword ptr [rcx], -2",
        "or qword ptr [rcx], 8", "lock or dword ptr [rcx], 0x10000",
    ],
    FLAGS & !CARRY => [
        "bt word ptr [rcx], 15", "bt dword ptr [rcx], 7", "bt qword ptr [rcx], 63",
        "bts dword ptr [rcx], 30", "btr dword ptr [rcx], 1", "btc qword ptr [rcx], 40",
        "bt dword ptr [rcx], 37",
    ],
];

/// Runs instructions that trap, as Storport runs drivers.
fn as_driver<R>(run: impl FnOnce() -> R) -> R {
    install().expect("handlers");
    in_driver("a test", run)
}

/// Runs `run` on memory and on a register window with the same content. Returns its result,
/// which must be the same both times.
fn twice<R: PartialEq + std::fmt::Debug>(
    name: &str,
    content: &[u8],
    run: impl Fn(*mut u8) -> R,
) -> R {
    let mut memory = content.to_vec();
    memory.resize(BYTES, 0);
    let ram = Ram::new(0, content);
    let function: Arc<dyn PciFunction> = ram.clone();
    let window = RegisterWindow::map(&function, 0, 0, BYTES as u64).expect("a window");

    let on_memory = run(memory.as_mut_ptr());
    let on_window = as_driver(|| run(window.address() as *mut u8));

    assert_eq!(on_window, on_memory, "what {name} returns");
    assert_eq!(ram.content(), memory, "what {name} leaves in memory");
    assert!(!ram.accesses().is_empty(), "{name} reaches the function");
    on_window
}

fn interesting() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        Just(0),
        Just(1),
        Just(u64::MAX),
        Just(0x8080_8080_8080_8080),
        Just(0x7f7f_7f7f_7fff_ffff),
        Just(0x8000_0000_8000_8080),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn an_instruction_on_registers_does_what_it_does_on_memory(
        content in any::<[u64; 2]>(),
        first in interesting(),
        register in interesting(),
        flags in any::<u64>(),
    ) {
        let content: Vec<u8> =
            [first, content[0], content[1]].into_iter().flat_map(u64::to_le_bytes).collect();
        for &(name, undefined, operation) in OPERATIONS {
            twice(name, &content, |memory| {
                let (register, flags) = operation(memory, register, flags & FLAGS);
                (register, flags & !undefined)
            });
        }
    }
}

#[test]
fn each_width_reaches_the_function_as_one_access_of_that_width() {
    as_driver(|| {
        let ram = Ram::new(0, &[]);
        let function: Arc<dyn PciFunction> = ram.clone();
        let window = RegisterWindow::map(&function, 0, 0x108, 0x100).expect("a window");
        assert_eq!(window.address() % 4096, 0x108);

        for (bytes, name) in [
            (1, "mov [rcx], dl"),
            (2, "mov [rcx], dx"),
            (4, "mov [rcx], edx"),
        ] {
            let operation = OPERATIONS
                .iter()
                .find(|entry| entry.0 == name)
                .expect("listed")
                .2;
            operation(window.address() as *mut u8, 0x1122_3344, 0);
            assert_eq!(ram.accesses(), [('w', 0, 0x108, bytes)]);
        }
        // SAFETY: the window answers reads.
        let value = unsafe { (window.address() as *const u64).read_volatile() };
        assert_eq!(value, 0x1122_3344);
        assert_eq!(ram.accesses(), [('r', 0, 0x108, 8)]);
    });
}

/// A repeated string instruction from RSI to RDI, RCX times.
macro_rules! string {
    ($text:literal, $from:expr, $to:expr, $count:expr) => {{
        let (mut from, mut to, mut count) = ($from as u64, $to as u64, $count as u64);
        let mut accumulator = 0x1122_3344_5566_7788_u64;
        // SAFETY: the callers pass memory of `count` elements on both sides,
        // and leave the direction flag as the ABI has it.
        unsafe {
            asm!(
                $text,
                "cld",
                inout("rsi") from,
                inout("rdi") to,
                inout("rcx") count,
                inout("rax") accumulator,
            );
        }
        let moved = (from.wrapping_sub($from as u64), to.wrapping_sub($to as u64));
        (moved, count, accumulator)
    }};
}

#[test]
fn string_instructions_fill_and_copy_registers() {
    let content: Vec<u8> = (0..64).map(|byte| byte * 3 + 1).collect();
    macro_rules! stores {
        ($($text:literal),*) => {
            $(twice($text, &content, |memory| string!($text, 0, memory, 5));)*
        };
    }
    macro_rules! loads {
        ($($text:literal),*) => {
            $(twice($text, &content, |memory| string!($text, memory, 0, 5));)*
        };
    }
    stores!("rep stosb", "rep stosw", "rep stosd", "rep stosq", "stosd");
    loads!("lodsb", "lodsw", "rep lodsd", "lodsq");
    twice("rep movsd out of registers", &content, |memory| {
        let mut copy = [0_u32; 8];
        let outcome = string!("rep movsd", memory, copy.as_mut_ptr(), 8);
        (outcome, copy)
    });
    twice("rep movsb into registers", &content, |memory| {
        string!("rep movsb", b"driver".as_ptr(), memory, 6)
    });
    twice("rep movsw within registers", &content, |memory| {
        string!("rep movsw", memory, memory.wrapping_add(32), 6)
    });
    twice("rep movsd backwards", &content, |memory| {
        let mut copy = [0_u32; 8];
        let last = copy.as_mut_ptr().wrapping_add(7);
        let outcome = string!("std; rep movsd", memory.wrapping_add(28), last, 8);
        (outcome, copy)
    });
}

/// A move between `[rcx]` and XMM1, which begins as all ones.
macro_rules! vector {
    ($memory:expr, $text:literal) => {{
        let mut value = [0x5a_u8; 16];
        // SAFETY: the callers pass memory of 16 bytes, aligned to 16.
        unsafe {
            asm!(
                "movups xmm1, [rdx]",
                $text,
                "movups [rdx], xmm1",
                in("rcx") $memory,
                in("rdx") value.as_mut_ptr(),
                out("xmm1") _,
            );
        }
        value
    }};
}

#[test]
fn vector_moves_reach_registers_in_parts_of_at_most_8_bytes() {
    let content: Vec<u8> = (100..164).collect();
    macro_rules! moves {
        ($($text:literal),* $(,)?) => {
            $(twice($text, &content, |memory| vector!(memory, $text));)*
        };
    }
    moves!(
        "movups xmm1, [rcx]",
        "movdqu xmm1, [rcx]",
        "movq xmm1, qword ptr [rcx]",
        "movd xmm1, dword ptr [rcx]",
        "movss xmm1, [rcx]",
        "movsd xmm1, [rcx]",
        "movups [rcx], xmm1",
        "movdqu [rcx], xmm1",
        "movq qword ptr [rcx], xmm1",
        "movd dword ptr [rcx], xmm1",
        "movss [rcx], xmm1",
        "movsd [rcx], xmm1",
    );

    as_driver(|| {
        let ram = Ram::new(0, &content);
        let function: Arc<dyn PciFunction> = ram.clone();
        let window = RegisterWindow::map(&function, 0, 0, 64).expect("a window");
        vector!(window.address(), "movaps xmm1, [rcx]");
        vector!(window.address() + 16, "movaps [rcx], xmm1");
        assert_eq!(
            ram.accesses(),
            [
                ('r', 0, 0, 8),
                ('r', 0, 8, 8),
                ('w', 0, 16, 8),
                ('w', 0, 24, 8)
            ]
        );
        assert!(
            driver_errors()
                .iter()
                .any(|text| text.contains("16 bytes to the registers at 0x10"))
        );
    });
}

#[test]
fn port_instructions_reach_the_function_that_has_the_port() {
    as_driver(|| {
        let ram = Ram::new(0x6000, &[1, 2, 3, 4, 5, 6, 7, 8]);
        let function: Arc<dyn PciFunction> = ram.clone();
        connect_ports(&function);
        let (byte, word, long): (u64, u64, u64);

        // SAFETY: trapped; changes RAX alone.
        unsafe { asm!("in al, dx", in("edx") 0x6001, inout("rax") u64::MAX => byte) };
        // SAFETY: as above.
        unsafe { asm!("in ax, dx", in("edx") 0x6002, inout("rax") u64::MAX => word) };
        // SAFETY: as above.
        unsafe { asm!("in eax, dx", in("edx") 0x6004, inout("rax") u64::MAX => long) };
        // SAFETY: trapped; changes no state of the processor.
        unsafe { asm!("out dx, eax", in("edx") 0x6008, in("rax") 0x99aa_bbcc_u64) };
        // SAFETY: as above.
        unsafe { asm!("out dx, al", in("edx") 0x600c, in("rax") 0xdd_u64) };
        let mut read = [0_u16; 2];
        // SAFETY: trapped; writes the four bytes of `read`.
        unsafe {
            asm!("rep insw", in("edx") 0x6000, inout("rdi") read.as_mut_ptr() => _, inout("rcx") 2 => _);
        };
        // SAFETY: trapped; reads the two bytes.
        unsafe {
            asm!("rep outsb", in("edx") 0x600e, inout("rsi") b"xy".as_ptr() => _, inout("rcx") 2 => _);
        };

        assert_eq!(byte, 0xffff_ffff_ffff_ff02);
        assert_eq!(word, 0xffff_ffff_ffff_0403);
        assert_eq!(long, 0x0807_0605);
        assert_eq!(read, [0x0201, 0x0201]);
        assert_eq!(
            ram.content()[8..15],
            [0xcc, 0xbb, 0xaa, 0x99, 0xdd, 0, b'y']
        );
        assert!(ram.accesses().iter().all(|access| access.1 == 1));
    });
}

#[test]
fn a_port_that_no_function_has_reads_as_ones_and_is_a_driver_error() {
    as_driver(|| {
        let value: u64;

        // SAFETY: trapped; changes RAX alone.
        unsafe { asm!("in al, 0x64", inout("rax") 0_u64 => value) };
        // SAFETY: trapped; changes nothing.
        unsafe { asm!("out 0x64, al", in("rax") 0_u64) };

        assert_eq!(value, 0xff);
        let driver_errors = driver_errors();
        assert!(
            driver_errors
                .contains(&"a read of 1 bytes from port 0x64, which no function has".into())
        );
        assert!(
            driver_errors
                .contains(&"a write of 1 bytes to port 0x64, which no function has".into())
        );
    });
}

#[test]
fn cr8_is_the_irql() {
    as_driver(|| {
        let (before, after): (u64, u64);

        cpu::set_irql(2);
        // SAFETY: trapped; changes the register alone.
        unsafe { asm!("mov {}, cr8", out(reg) before) };
        // SAFETY: trapped; changes the thread's IRQL.
        unsafe { asm!("mov cr8, {}", in(reg) 9_u64) };
        // SAFETY: trapped; changes the register alone.
        unsafe { asm!("mov {}, cr8", out(reg) after) };

        assert_eq!((before, after), (2, 9));
        assert_eq!(cpu::set_irql(0), 9);
    });
}

#[test]
fn the_processor_number_is_read_from_its_control_region() {
    std::thread::spawn(|| {
        as_driver(|| {
            cpu::act_for(3);
            let (byte, long): (u64, u64);

            // SAFETY: trapped; changes the register alone.
            unsafe { asm!("movzx {:e}, byte ptr gs:[0x184]", out(reg) byte) };
            // SAFETY: trapped; changes the register alone.
            unsafe { asm!("mov {:e}, gs:[0x184]", out(reg) long) };

            assert_eq!((byte, long), (3, 3));
        })
    })
    .join()
    .expect("no panic");
}

#[test]
fn the_shared_page_shows_the_system_time() {
    as_driver(|| {
        let address = 0xffff_f780_0000_0014_u64;
        let before = crate::time::system_time();
        let time: u64;

        // SAFETY: trapped; changes the register alone.
        unsafe { asm!("mov {}, [{}]", out(reg) time, in(reg) address) };

        let after = crate::time::system_time();
        assert!((before..=after).contains(&time));
    });
}

#[test]
fn a_window_outside_a_memory_bar_is_refused() {
    let ram: Arc<dyn PciFunction> = Ram::new(0, &[]);
    for (bar, offset, bytes) in [
        (0, 0, 0),
        (0, 0, BYTES as u64 + 1),
        (0, u64::MAX, 2),
        (1, 0, 4),
        (2, 0, 4),
    ] {
        let error = RegisterWindow::map(&ram, bar, offset, bytes).err();
        let kind = error.map(|error| error.kind());
        assert_eq!(kind, Some(std::io::ErrorKind::InvalidInput));
    }
}
