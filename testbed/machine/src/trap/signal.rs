//! The signal handlers.
//!
//! They run device models and allocate, which asynchronous handlers may not do. These signals
//! are synchronous: an instruction of the driver raised them, and the driver's code holds no
//! lock of this process. So a handler is like a function that the driver called. It runs on a
//! stack of its own, because the driver's stack may have overflowed. The signal is not blocked
//! meanwhile, so that a fault in the handler is reported too. `in_driver` installs that stack.
//! Other threads have a small one, which is enough for the message that the testbed crashed.

use std::{
    cell::Cell,
    io,
    sync::{Mutex, OnceLock},
};

use iced_x86::{Decoder, DecoderOptions, FastFormatter, Instruction, Mnemonic, Register};
use nix::{
    errno::Errno,
    sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction, signal},
};

use crate::{lock, schedule};

use super::{
    breakpoint,
    bus::{self, MachineBus},
    callbacks, count,
    crash::{Crash, Fault, TestbedCrash, WRITE, exception},
    emulate::{Refusal, Registers, execute},
    images, process_memory,
    revoked::{self, RevokedAccess},
    stop::{say, stop_machine},
};

/// The signals for exceptions of the processor.
const SIGNALS: [Signal; 5] = [
    Signal::SIGSEGV,
    Signal::SIGBUS,
    Signal::SIGILL,
    Signal::SIGFPE,
    Signal::SIGTRAP,
];

/// The maximum length of an instruction.
const LONGEST: usize = 15;

/// Faults below this address are null pointers, or relative to GS, whose base is 0 here.
const LOWEST: u64 = 64 << 10;

thread_local! {
    /// The number of handlers that this thread is in.
    static HANDLING: Cell<u32> = const { Cell::new(0) };
}

/// The actions that `install` replaced.
static BEFORE: OnceLock<Vec<SigAction>> = OnceLock::new();

/// The buffer for disassembly, allocated before a crash.
static TEXT: Mutex<String> = Mutex::new(String::new());

/// Makes a write beyond the limit on file sizes (`ulimit -f`) fail instead of ending the
/// process.
pub fn ignore_file_size_signal() {
    // SAFETY: ignoring a signal runs no handler. It cannot fail for this one.
    let _ = unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) };
}

/// Installs the signal handlers, once for the process.
///
/// # Errors
/// Errors of the host; also if it forbids `process_vm_readv`, with which handlers read memory
/// that may be unmapped.
pub fn install() -> io::Result<()> {
    if BEFORE.get().is_some() {
        return Ok(());
    }
    if !super::is_readable((&raw const BEFORE).cast::<u8>() as usize) {
        return Err(io::Error::other(
            "the host forbids process_vm_readv, by which the testbed looks at its own memory; \
             does a container's seccomp profile?",
        ));
    }
    // Decoder and formatter allocate their tables at their first use.
    let breakpoint = Decoder::new(64, &[0xcc], DecoderOptions::NONE).decode();
    let mut text = String::with_capacity(1024);
    FastFormatter::new().format(&breakpoint, &mut text);
    *lock(&TEXT) = text;
    let action = SigAction::new(
        SigHandler::SigAction(handle),
        SaFlags::SA_ONSTACK | SaFlags::SA_NODEFER,
        SigSet::empty(),
    );
    let before: nix::Result<_> = SIGNALS
        .into_iter()
        // SAFETY: the handler is made for these signals (see above).
        .map(|signal| unsafe { sigaction(signal, &action) })
        .collect();
    // If another thread installed at the same time, its `sigaction` returned this handler. The
    // first one to get here has the original actions.
    let _ = BEFORE.set(before?);
    Ok(())
}

extern "C" fn handle(
    signal: libc::c_int,
    information: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    let errno = Errno::last_raw();
    // SAFETY: with SA_SIGINFO the kernel passes a context that the handler may change until it
    // returns.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    // SAFETY: with SA_SIGINFO the kernel passes the information.
    let information = unsafe { &*information };
    // SAFETY: these signals carry an address. If a process sent one, the number is wrong, which
    // is harmless.
    let address = unsafe { information.si_addr() } as u64;
    // SAFETY: null, or the saved vector registers in the signal's frame.
    let vectors = unsafe { context.uc_mcontext.fpregs.as_mut() };
    let mut registers = Registers {
        general: &mut context.uc_mcontext.gregs,
        vectors: vectors.map(|state| &mut state._xmm),
    };
    let depth = HANDLING.get();
    HANDLING.set(depth + 1);
    match depth {
        0 => trap(signal, address, &mut registers),
        1 => report_own(signal, address, &registers),
        // The report crashed too, so there is too little stack for another.
        _ => die(signal),
    }
    HANDLING.set(depth);
    Errno::set_raw(errno);
}

/// Emulates the instruction, or ends the process.
fn trap(signal: libc::c_int, address: u64, registers: &mut Registers<'_>) {
    let exception = registers.get(libc::REG_TRAPNO) as i64;
    let in_driver = callbacks::current_callback().is_some();
    let before = (registers.get(libc::REG_RIP) as usize).wrapping_sub(1);
    if exception == exception::BREAKPOINT && breakpoint::hit(before) {
        registers.general[libc::REG_RIP as usize] = before as i64;
        if schedule::is_on() {
            return schedule::interrupted();
        }
        return count::step(registers);
    }
    if exception == exception::DEBUG && count::is_on() {
        return count::step(registers);
    }
    let is_access = exception == exception::PAGE_FAULT
        && (bus::decodes(address) || in_driver && address < LOWEST);
    if exception == exception::PAGE_FAULT
        && in_driver
        && !is_access
        && is_revoked_access(signal, address, registers)
    {
        return;
    }
    let mut instruction = None;
    let mut refusal = None;
    if is_access || exception == exception::GENERAL_PROTECTION {
        instruction = decode(registers.get(libc::REG_RIP) as usize);
        if let Some(instruction) = &instruction
            && is_for_the_bus(instruction, exception, address)
        {
            match execute(instruction, registers, &MachineBus) {
                Ok(()) => return count::step_after_emulation(registers),
                Err(why) => refusal = Some(why),
            }
        }
    }
    report(signal, address, registers, instruction, refusal);
}

/// Whether it was an access to revoked memory. It has been reported then and is repeated.
fn is_revoked_access(signal: libc::c_int, address: u64, registers: &Registers<'_>) -> bool {
    let fault = fault(signal, address, registers);
    revoked::report(&RevokedAccess {
        address: address as usize,
        is_write: fault.error & WRITE != 0,
        walk: fault.walk(),
    })
}

/// Whether the bus emulates this instruction.
fn is_for_the_bus(instruction: &Instruction, exception: i64, address: u64) -> bool {
    use Mnemonic as M;

    if exception == exception::PAGE_FAULT {
        return bus::decodes(address) || instruction.memory_segment() == Register::GS;
    }
    match instruction.mnemonic() {
        M::In | M::Out | M::Insb | M::Insw | M::Insd | M::Outsb | M::Outsw | M::Outsd => true,
        M::Mov => {
            instruction.op0_register() == Register::CR8
                || instruction.op1_register() == Register::CR8
        }
        _ => false,
    }
}

/// Decodes the instruction at `place`.
pub(super) fn decode(place: usize) -> Option<Instruction> {
    let mut copy = [0; LONGEST];
    let code = match images::of(place).and_then(|(image, _)| image.code_from(place)) {
        // SAFETY: that many bytes from `place` on are in an executable section, which stays
        // mapped and is not written.
        Some(bytes) => unsafe {
            std::slice::from_raw_parts(place as *const u8, bytes.min(LONGEST))
        },
        None => {
            // The next page may be unmapped.
            let to_page_end = crate::memory::PAGE - place % crate::memory::PAGE;
            let length = match process_memory::read(place, &mut copy) {
                Some(()) => LONGEST,
                None => to_page_end.min(LONGEST),
            };
            process_memory::read(place, &mut copy[..length])?;
            &copy[..length]
        }
    };
    let mut decoder = Decoder::with_ip(64, code, place as u64, DecoderOptions::NONE);
    let instruction = decoder.decode();
    (!instruction.is_invalid()).then_some(instruction)
}

/// Reports the fault and ends the process.
fn report(
    signal: libc::c_int,
    address: u64,
    registers: &Registers<'_>,
    instruction: Option<Instruction>,
    refusal: Option<Refusal>,
) {
    let place = registers.get(libc::REG_RIP) as usize;
    if images::of(place).is_none() && callbacks::current_callback().is_none() {
        return report_own(signal, address, registers);
    }
    let mut fault = fault(signal, address, registers);
    if !fault.is_fetch() {
        fault.instruction = instruction.or_else(|| decode(fault.place()));
    }
    fault.refusal = refusal;
    let mut text = TEXT.try_lock().ok();
    if let (Some(text), Some(instruction)) = (&mut text, &fault.instruction) {
        text.clear();
        FastFormatter::new().format(instruction, text);
        fault.text = text;
    }
    stop_machine(format_args!("{}", Crash(&fault)));
}

fn fault<'a>(signal: libc::c_int, address: u64, registers: &'a Registers<'_>) -> Fault<'a> {
    Fault {
        signal,
        exception: registers.get(libc::REG_TRAPNO) as i64,
        error: registers.get(libc::REG_ERR) as i64,
        address,
        general: registers.general,
        instruction: None,
        text: "",
        refusal: None,
    }
}

/// Reports a fault of the testbed itself and restores the previous action of the signal.
fn report_own(signal: libc::c_int, address: u64, registers: &Registers<'_>) {
    say(format_args!(
        "{}",
        TestbedCrash(&fault(signal, address, registers))
    ));
    let mut actions = SIGNALS.iter().zip(BEFORE.get().into_iter().flatten());
    let _ = match actions.find(|(known, _)| **known as libc::c_int == signal) {
        // SAFETY: this action was in place before `install`.
        Some((signal, before)) => unsafe { sigaction(*signal, before) },
        None => die(signal),
    };
    // Other faults happen again when the handler returns. A breakpoint does not.
    if signal == libc::SIGTRAP {
        let _ = raise(Signal::SIGTRAP);
    }
}

/// Ends the process by `signal`.
fn die(signal: libc::c_int) -> ! {
    // SAFETY: the default action needs nothing.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
    // SAFETY: sends this thread the signal, which is not blocked.
    unsafe { libc::raise(signal) };
    // SAFETY: ends the process without running exit handlers.
    unsafe { libc::_exit(3) }
}
