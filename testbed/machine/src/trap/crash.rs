//! The message about a crash: what the driver did, where, and in which callback. It is
//! formatted without allocation, because the crash may have been in the allocator.

use std::fmt;

use iced_x86::{Instruction, Mnemonic, Register};

use super::{
    callbacks,
    emulate::{GENERAL, Refusal},
    images,
    stack::{Calls, Walk},
};
use crate::{
    cpu,
    memory::{self, PAGE},
};
use testbed_loader::{Image, Registers};

/// Numbers of processor exceptions (`REG_TRAPNO`).
pub(super) mod exception {
    pub const DIVIDE: i64 = 0;
    pub const DEBUG: i64 = 1;
    pub const BREAKPOINT: i64 = 3;
    pub const INVALID_OPCODE: i64 = 6;
    pub const GENERAL_PROTECTION: i64 = 13;
    pub const PAGE_FAULT: i64 = 14;
    pub const ALIGNMENT: i64 = 17;
}

/// Bits of a page fault's error code (`REG_ERR`).
pub(super) const WRITE: i64 = 1 << 1;
const FETCH: i64 = 1 << 4;

/// The number of callers that are printed.
const CALLERS: usize = 6;

/// A fault, as the processor reported it.
pub(super) struct Fault<'a> {
    pub(super) signal: libc::c_int,
    pub(super) exception: i64,
    pub(super) error: i64,
    pub(super) address: u64,
    pub(super) general: &'a [i64; 23],
    pub(super) instruction: Option<Instruction>,
    /// The disassembled instruction.
    pub(super) text: &'a str,
    /// Why its emulation failed, if it was tried.
    pub(super) refusal: Option<Refusal>,
}

impl Fault<'_> {
    /// The address of the instruction. For a breakpoint, RIP is behind it.
    pub(super) fn place(&self) -> usize {
        let address = self.register(libc::REG_RIP);
        match self.exception {
            exception::BREAKPOINT => address.wrapping_sub(1),
            _ => address,
        }
    }

    /// The place in the driver, and the callers.
    pub(super) fn walk(&self) -> Walk {
        Calls::here().walk_from(self.registers(), self.is_fetch())
    }

    /// The registers that a walk through the stack needs.
    fn registers(&self) -> Registers {
        Registers {
            rip: self.register(libc::REG_RIP),
            general: GENERAL.map(|(_, index)| self.register(index)),
        }
    }

    fn register(&self, index: libc::c_int) -> usize {
        self.general[index as usize] as usize
    }

    /// Whether the processor could not fetch the instruction, so that there is none to decode.
    pub(super) fn is_fetch(&self) -> bool {
        self.exception == exception::PAGE_FAULT && self.error & FETCH != 0
    }

    fn overflowed_stack(&self) -> bool {
        let end = callbacks::stack_end();
        let address = self.address as usize;
        self.exception == exception::PAGE_FAULT
            && end != 0
            && address < end + PAGE
            && address + (1 << 20) > end
            && self.register(libc::REG_RSP) < end + 2 * PAGE
    }
}

/// The message about a crash of the driver, for `stop_machine`.
pub(super) struct Crash<'a>(pub(super) &'a Fault<'a>);

impl fmt::Display for Crash<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fault = self.0;
        let driver = images::driver_image().map_or("the driver", Image::name);
        write!(formatter, "{driver} crashed: it ")?;
        describe_fault(fault, formatter)?;
        write!(formatter, "\n  at {}", Place(fault.place()))?;
        if !fault.text.is_empty() {
            write!(formatter, ": {}", fault.text)?;
        }
        let level = cpu::current_irql();
        write!(
            formatter,
            "\n  in {} on CPU {} at IRQL {level}{}",
            callbacks::current_callback().unwrap_or("no callback"),
            cpu::current_number(),
            cpu::irql::name(level)
        )?;
        registers(fault, formatter)?;
        callers(fault, formatter)
    }
}

/// The message about a fault in the testbed.
pub(super) struct TestbedCrash<'a>(pub(super) &'a Fault<'a>);

impl fmt::Display for TestbedCrash<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fault = self.0;
        write!(
            formatter,
            "the testbed itself crashed, not the driver (signal {}): please report this bug. It ",
            fault.signal
        )?;
        describe_fault(fault, formatter)?;
        write!(formatter, "\n  at {}", Place(fault.place()))?;
        registers(fault, formatter)
    }
}

/// Describes an address in the driver. `None` for other addresses, which differ from run to
/// run.
pub fn place_in_driver(address: usize) -> Option<String> {
    images::of(address).map(|_| Place(address).to_string())
}

/// Displays an address, with the driver's symbol if there is one.
pub struct Place(pub usize);

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((image, offset)) = images::of(self.0) else {
            return write!(formatter, "{:#x} (not in the driver)", self.0);
        };
        write!(formatter, "{}+{offset:#x}", image.name())?;
        if let Some((name, displacement)) = image.symbol(offset) {
            write!(formatter, " ({name}+{displacement:#x})")?;
        }
        Ok(())
    }
}

/// Describes what the driver did, as the words after "it".
fn describe_fault(fault: &Fault<'_>, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
    match fault.refusal {
        Some(Refusal::Beyond { bar, offset, bytes }) => {
            return write!(
                formatter,
                "accessed {bytes} bytes at offset {offset:#x} of BAR {bar}, which is not \
                 completely in the range that it mapped"
            );
        }
        Some(Refusal::ControlRegion { offset }) => {
            return write!(
                formatter,
                "used the processor control region (KPCR) at gs:[{offset:#x}]: the testbed has \
                 only the processor's number there, at 0x184"
            );
        }
        Some(Refusal::Fault { address, write }) => {
            write!(
                formatter,
                "{} {address:#x}",
                if write { "wrote to" } else { "read from" }
            )?;
            return describe_address(address as usize, formatter);
        }
        Some(Refusal::Unknown) => {
            return formatter.write_str(
                "accessed device registers with an instruction that the testbed cannot emulate: \
                 use the READ_REGISTER and WRITE_REGISTER macros",
            );
        }
        None => {}
    }
    match fault.exception {
        exception::PAGE_FAULT if fault.overflowed_stack() => formatter
            .write_str("overflowed its stack (a kernel stack has 24 KiB; the testbed's is larger)"),
        exception::PAGE_FAULT => {
            let verb = match fault.error & (WRITE | FETCH) {
                0 => "read from",
                WRITE => "wrote to",
                _ => "jumped to",
            };
            write!(formatter, "{verb} {:#x}", fault.address)?;
            if fault.signal == libc::SIGBUS {
                return formatter.write_str(", and the host has no memory left for that page");
            }
            describe_address(fault.address as usize, formatter)
        }
        exception::DIVIDE => formatter.write_str("divided by zero, or the quotient was too large"),
        exception::BREAKPOINT => {
            formatter.write_str("ran into a breakpoint (int 3), and no debugger is attached")
        }
        exception::INVALID_OPCODE => {
            if fault
                .instruction
                .is_some_and(|instruction| instruction.mnemonic() == Mnemonic::Ud2)
            {
                formatter.write_str("ran into ud2, which compilers put at unreachable places")
            } else {
                formatter.write_str("ran an instruction that this processor does not have")
            }
        }
        exception::ALIGNMENT => formatter.write_str("made a misaligned access"),
        exception::GENERAL_PROTECTION => describe_protection_fault(fault, formatter),
        other => write!(
            formatter,
            "raised processor exception {other} (signal {})",
            fault.signal
        ),
    }
}

/// Describes a general protection fault, by its instruction.
fn describe_protection_fault(fault: &Fault<'_>, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
    use Mnemonic as M;

    let Some(instruction) = fault.instruction else {
        return formatter.write_str("jumped to a non-canonical address");
    };
    match (instruction.mnemonic(), instruction.try_immediate(0)) {
        (M::Int, Ok(0x29)) => {
            let code = fault.register(libc::REG_RCX) as u32;
            write!(
                formatter,
                "called __fastfail with code {code}{}",
                fast_fail(code)
            )
        }
        (M::Int, Ok(0x2c)) => formatter.write_str("failed an assertion (int 2Ch)"),
        (M::Int, Ok(number)) => {
            write!(
                formatter,
                "called interrupt {number:#x}, which the testbed does not emulate"
            )
        }
        (M::Hlt, _) => formatter.write_str("halted the processor, which drivers must not do"),
        (M::Cli | M::Sti, _) => formatter.write_str(
            "disabled or enabled interrupts: drivers must acquire locks or raise the IRQL instead",
        ),
        (M::Rdmsr | M::Wrmsr, _) => write!(
            formatter,
            "used model-specific register {:#x}, which the testbed does not emulate",
            fault.register(libc::REG_RCX) as u32
        ),
        (M::Mov, _) if names_control_register(&instruction) => formatter.write_str(
            "used a control register other than CR8, which the testbed does not emulate",
        ),
        (mnemonic, _) if instruction.is_privileged() || matches!(mnemonic, M::Iretq | M::Rdpmc) => {
            formatter.write_str("used a privileged instruction that the testbed does not emulate")
        }
        _ => formatter.write_str(
            "used a non-canonical address, or a misaligned one where the instruction needs \
             alignment",
        ),
    }
}

fn names_control_register(instruction: &Instruction) -> bool {
    let is = |register: Register| register.is_cr() || register.is_dr();
    is(instruction.op0_register()) || is(instruction.op1_register())
}

/// Describes a fast-fail code (`winnt.h`) that compilers or list macros use.
fn fast_fail(code: u32) -> &'static str {
    match code {
        0 | 2 => " (the stack cookie was overwritten: a buffer on the stack overran)",
        3 => " (a list entry is corrupt)",
        5 => " (invalid argument)",
        6 => " (the stack cookie was not set up)",
        7 => " (fatal exit)",
        8 => " (an array index is out of range)",
        10 => " (control flow guard: an indirect call of something that is not a function)",
        _ => "",
    }
}

/// Describes what is at an address, as the words after the address.
fn describe_address(address: usize, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
    if address < 64 << 10 {
        return formatter.write_str(", through a null pointer");
    }
    if let Some((image, offset)) = images::of(address) {
        return write!(
            formatter,
            ", in {}+{offset:#x}, whose section does not allow that",
            image.name()
        );
    }
    if memory::attached().is_some_and(|memory| memory.covers(address)) {
        return formatter
            .write_str(", memory of the machine that is not allocated: freed, or beyond a block");
    }
    formatter.write_str(", where no memory with that access is mapped")
}

fn registers(fault: &Fault<'_>, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (index, &(name, register)) in GENERAL.iter().enumerate() {
        let start = if index % 4 == 0 { "\n  " } else { "  " };
        write!(formatter, "{start}{name} {:016x}", fault.register(register))?;
    }
    Ok(())
}

/// The driver's return addresses, newest first.
fn callers(fault: &Fault<'_>, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
    let place = fault.place();
    let mut found = fault
        .walk()
        .filter(|&address| address != place)
        .take(CALLERS)
        .peekable();
    if found.peek().is_some() {
        formatter.write_str("\n  called from:")?;
    }
    found.try_for_each(|address| write!(formatter, "\n    {}", Place(address)))
}
