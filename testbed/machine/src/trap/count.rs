//! Counts the work of driver code, by single-stepping.
//!
//! The processor's trap flag raises SIGTRAP after each instruction. The flag is set when a
//! callback is entered, and cleared while a routine of the testbed runs. A breakpoint at the
//! return address sets it again. One thread is counted at a time, so CPUs must work one at a time
//! (see `cpu::work_one_at_a_time`): another thread could run into the breakpoint.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt::Display,
    ops::{AddAssign, Range, RangeInclusive},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use iced_x86::{
    FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, Register, UsedMemory,
};

use nix::sys::pthread::{Pthread, pthread_self};

use super::{breakpoint, bus, emulate::Registers, images, process_memory, signal::decode};
use crate::lock;

/// TF of RFLAGS.
const TRAP_FLAG: u64 = 1 << 8;
/// Bytes in a cache line.
pub const LINE: u64 = 64;

/// The work of one kind of callback.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Calls of the callback.
    pub entered: u64,
    /// Instructions in the image. An instruction with a REP prefix counts once.
    pub instructions: u64,
    /// Calls of routines outside the image, by name.
    pub calls: BTreeMap<String, u64>,
    /// Reads of device registers and ports.
    pub register_reads: u64,
    /// Writes of device registers and ports.
    pub register_writes: u64,
    /// Instructions with a LOCK prefix, and XCHG with memory.
    pub locked: u64,
    /// MFENCE.
    pub fences: u64,
    /// Bytes read from memory, including the stack.
    pub bytes_read: u64,
    /// Bytes written to memory, including the stack.
    pub bytes_written: u64,
    /// Bytes filled in blocks: REP STOS, memset.
    pub filled: u64,
    /// Bytes copied in blocks: REP MOVS, memcpy, memmove.
    pub copied: u64,
    /// The deepest stack of one call, in bytes.
    pub stack: u64,
    /// Cache lines of shared memory that were accessed, each counted once per call.
    pub shared_lines: u64,
    /// Acquisitions of locks by the driver, by lock.
    pub locks: BTreeMap<String, u64>,
    /// The cache lines of the recorded memory that were accessed, by number: address / [`LINE`].
    pub lines: BTreeMap<u64, Accesses>,
}

/// How often a cache line was accessed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accesses {
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

impl AddAssign for Accesses {
    fn add_assign(&mut self, other: Self) {
        self.reads += other.reads;
        self.writes += other.writes;
    }
}

/// What the counter knows about the driver's environment.
#[derive(Debug, Default)]
pub struct Surroundings {
    /// Names of imported routines, by address.
    pub imports: HashMap<usize, String>,
    /// The memory that driver and device share.
    pub shared: Range<u64>,
    /// The memory whose cache lines are recorded: what the driver has, except for stacks and
    /// requests.
    pub recorded: Vec<Range<u64>>,
    /// Returns the name of a call from the imported routine and its first argument.
    pub name: Option<fn(&str, u64) -> String>,
}

/// Whether calls of the driver are counted.
static ON: AtomicBool = AtomicBool::new(false);
static COUNTER: Mutex<Option<Counter>> = Mutex::new(None);

/// Starts counting.
pub fn begin(surroundings: Surroundings) {
    *lock(&COUNTER) = Some(Counter {
        surroundings,
        ..Counter::default()
    });
    ON.store(true, Ordering::SeqCst);
}

/// Ends counting. Returns the tallies by callback.
pub fn end() -> BTreeMap<&'static str, Tally> {
    ON.store(false, Ordering::SeqCst);
    lock(&COUNTER)
        .take()
        .map(|counter| counter.tallies)
        .unwrap_or_default()
}

/// Whether calls of the driver are counted.
pub(super) fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// Calls `run`, which calls the driver's routine at `routine`. Counts it as `callback` if
/// calls are counted.
pub fn counted<R>(callback: &'static str, routine: usize, run: impl FnOnce() -> R) -> R {
    if !is_on() || images::of(routine).is_none() || !enter(callback) {
        return run();
    }
    // SAFETY: pushes and pops one word and changes flags, which the compiler expects of an
    // assembly block. The handler of the next trap clears the flag if necessary.
    unsafe {
        std::arch::asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq");
    }
    let result = run();
    leave();
    result
}

/// Enters `callback`. Returns whether the calling thread is counted.
fn enter(callback: &'static str) -> bool {
    let mut counter = lock(&COUNTER);
    let Some(counter) = counter.as_mut() else {
        return false;
    };
    if counter.frames.is_empty() {
        counter.thread = pthread_self();
    } else if counter.thread != pthread_self() {
        return false;
    }
    // The breakpoint of an outer callback; `leave` sets it again.
    breakpoint::clear();
    counter.tallies.entry(callback).or_default().entered += 1;
    counter.frames.push(Frame {
        callback,
        ..Frame::default()
    });
    true
}

/// Records that the running callback has acquired `lock`, if it is counted.
pub fn acquired(lock: &dyn Display) {
    with_running(|_, tally| *tally.locks.entry(lock.to_string()).or_default() += 1);
}

/// Records that a routine outside the image wrote `bytes` bytes at `address` for the running
/// callback, if it is counted: to an object that the driver has the memory for.
pub fn wrote(address: usize, bytes: usize) {
    let written = Accesses {
        reads: 0,
        writes: 1,
    };
    with_running(|surroundings, tally| {
        tally.record(surroundings, address as u64, bytes as u64, written);
    });
}

/// Runs `run` with the running callback's tally, if the calling thread is counted.
fn with_running(run: impl FnOnce(&Surroundings, &mut Tally)) {
    if !is_on() {
        return;
    }
    let mut counter = lock(&COUNTER);
    let Some(counter) = counter.as_mut() else {
        return;
    };
    if let Some(frame) = counter.frames.last()
        && counter.thread == pthread_self()
    {
        let tally = counter.tallies.entry(frame.callback).or_default();
        run(&counter.surroundings, tally);
    }
}

fn leave() {
    let mut counter = lock(&COUNTER);
    let Some(counter) = counter.as_mut() else {
        return;
    };
    if let Some(frame) = counter.frames.pop() {
        let tally = counter.tallies.entry(frame.callback).or_default();
        tally.stack = tally.stack.max(frame.deepest);
        tally.shared_lines += frame.lines.len() as u64;
    }
    match counter.frames.last().and_then(|outer| outer.return_to) {
        Some(place) => breakpoint::set(place),
        None => breakpoint::clear(),
    }
}

/// Counts the instruction at RIP, which runs next, if it is the driver's. Sets or clears the
/// trap flag. The handler of SIGTRAP calls this.
pub(super) fn step(registers: &mut Registers<'_>) {
    let goes_on = lock(&COUNTER)
        .as_mut()
        .is_some_and(|counter| counter.step(registers));
    let flags = registers.get(libc::REG_EFL) & !TRAP_FLAG;
    let trap = if goes_on { TRAP_FLAG } else { 0 };
    registers.set(libc::REG_EFL, flags | trap);
}

/// [`step`] after an emulated instruction, for which the processor raises no trap.
pub(super) fn step_after_emulation(registers: &mut Registers<'_>) {
    if registers.get(libc::REG_EFL) & TRAP_FLAG != 0 {
        step(registers);
    }
}

/// A running call of a callback.
#[derive(Debug, Default)]
struct Frame {
    callback: &'static str,
    /// RSP at the first instruction in the driver, once that was reached.
    entry_stack: Option<u64>,
    /// The deepest stack below that, in bytes.
    deepest: u64,
    /// The last counted instruction is a return.
    returns: bool,
    /// The last instruction belongs to memcpy, memmove or memset.
    in_block: bool,
    /// The return address of the routine that it called.
    return_to: Option<usize>,
    lines: HashSet<u64>,
}

/// An operation on a block of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    Fill,
    Copy,
}

impl Block {
    /// The operation of the routine `name`, and the register that has the length.
    fn of(name: &str) -> Option<(Self, libc::c_int)> {
        match name {
            "memset" => Some((Self::Fill, libc::REG_R8)),
            "memcpy" | "memmove" | "RtlCopyMemory" | "RtlMoveMemory" | "StorPortMoveMemory" => {
                Some((Self::Copy, libc::REG_R8))
            }
            "RtlZeroMemory" | "RtlFillMemory" => Some((Self::Fill, libc::REG_RDX)),
            _ => None,
        }
    }
}

/// A decoded instruction.
#[derive(Debug)]
struct Known {
    instruction: Instruction,
    memory: Vec<UsedMemory>,
    /// The block routine that it belongs to, and whether it is its first instruction.
    routine: Option<(Block, libc::c_int, bool)>,
}

impl Known {
    fn read(place: usize) -> Option<Self> {
        let instruction = decode(place)?;
        let memory = InstructionInfoFactory::new()
            .info(&instruction)
            .used_memory()
            .to_vec();
        let symbol = images::of(place).and_then(|(image, offset)| image.symbol(offset));
        let routine = symbol.and_then(|(name, distance)| {
            Block::of(name).map(|(block, length)| (block, length, distance == 0))
        });
        Some(Self {
            instruction,
            memory,
            routine,
        })
    }

    fn repeats(&self) -> bool {
        self.instruction.is_string_instruction()
            && (self.instruction.has_rep_prefix() || self.instruction.has_repne_prefix())
    }

    /// Its block operation if it has a REP prefix.
    fn block(&self) -> Option<Block> {
        use Mnemonic as M;
        match self.instruction.mnemonic() {
            M::Stosb | M::Stosw | M::Stosd | M::Stosq => Some(Block::Fill),
            M::Movsb | M::Movsw | M::Movsd | M::Movsq => Some(Block::Copy),
            _ => None,
        }
    }

    fn is_locked(&self) -> bool {
        let exchanges = self.instruction.mnemonic() == Mnemonic::Xchg && !self.memory.is_empty();
        self.instruction.has_lock_prefix() || exchanges
    }

    /// The number of port reads and writes.
    fn port(&self) -> (u64, u64) {
        use Mnemonic as M;
        match self.instruction.mnemonic() {
            M::In | M::Insb | M::Insw | M::Insd => (1, 0),
            M::Out | M::Outsb | M::Outsw | M::Outsd => (0, 1),
            _ => (0, 0),
        }
    }
}

#[derive(Debug, Default)]
struct Counter {
    surroundings: Surroundings,
    tallies: BTreeMap<&'static str, Tally>,
    /// Instructions by address; `None` for one that cannot be decoded.
    known: HashMap<usize, Option<Known>>,
    frames: Vec<Frame>,
    /// The thread of `frames`.
    thread: Pthread,
}

impl Counter {
    /// Whether to trap after the next instruction.
    fn step(&mut self, registers: &Registers<'_>) -> bool {
        let Some(frame) = self.frames.last_mut() else {
            return false;
        };
        let tally = self.tallies.entry(frame.callback).or_default();
        let place = registers.get(libc::REG_RIP) as usize;
        let stack = registers.get(libc::REG_RSP);
        let is_inside = images::of(place).is_some();
        if is_inside {
            frame.entry_stack.get_or_insert(stack);
        }
        let Some(entry_stack) = frame.entry_stack else {
            // The driver was not reached yet.
            return true;
        };
        if is_inside || !frame.returns {
            frame.deepest = frame.deepest.max(entry_stack.saturating_sub(stack));
        }
        if is_inside {
            frame.return_to = None;
            let known = self.known.entry(place);
            let known = known.or_insert_with(|| Known::read(place));
            return known.as_ref().is_none_or(|known| {
                frame.count(tally, known, &self.surroundings, registers);
                !known.repeats()
            });
        }
        if !frame.returns {
            frame.call(tally, place, &self.surroundings, registers);
        }
        false
    }
}

impl Frame {
    /// Counts a call of the routine at `place`.
    fn call(
        &mut self,
        tally: &mut Tally,
        place: usize,
        surroundings: &Surroundings,
        registers: &Registers<'_>,
    ) {
        let import = surroundings.imports.get(&place);
        let import = import.map_or("a routine that is not imported", String::as_str);
        let name = match surroundings.name {
            Some(name) => name(import, registers.get(libc::REG_RCX)),
            None => import.to_owned(),
        };
        if import.contains("ReadRegister") || import.contains("ReadPort") {
            tally.register_reads += 1;
        }
        if import.contains("WriteRegister") || import.contains("WritePort") {
            tally.register_writes += 1;
        }
        if let Some((block, length)) = Block::of(import) {
            tally.add_block(block, registers.get(length));
        }
        *tally.calls.entry(name).or_default() += 1;
        let mut word = [0; 8];
        let on_top = registers.get(libc::REG_RSP) as usize;
        let return_to =
            process_memory::read(on_top, &mut word).map(|()| usize::from_le_bytes(word));
        // After a jump to the routine instead of a call, the callback has ended.
        if let Some(place) = return_to.filter(|place| images::of(*place).is_some()) {
            self.return_to = Some(place);
            breakpoint::set(place);
        }
    }

    /// Counts an instruction. One with a REP prefix would trap after each iteration, so it gets
    /// a breakpoint behind it instead.
    fn count(
        &mut self,
        tally: &mut Tally,
        known: &Known,
        surroundings: &Surroundings,
        registers: &Registers<'_>,
    ) {
        self.returns = known.instruction.flow_control() == FlowControl::Return;
        tally.instructions += 1;
        tally.locked += u64::from(known.is_locked());
        tally.fences += u64::from(known.instruction.mnemonic() == Mnemonic::Mfence);
        let (inputs, outputs) = known.port();
        tally.register_reads += inputs;
        tally.register_writes += outputs;
        let element = known.instruction.memory_size().size() as u64;
        let repeated = known
            .repeats()
            .then(|| registers.get(libc::REG_RCX) * element);
        for memory in &known.memory {
            let bytes = repeated.unwrap_or(memory.memory_size().size() as u64);
            self.count_access(tally, memory, bytes, surroundings, registers);
        }
        match known.routine {
            Some((block, length, true)) if !self.in_block => {
                tally.add_block(block, registers.get(length));
            }
            Some(_) => {}
            None => {
                if let (Some(block), Some(bytes)) = (known.block(), repeated) {
                    tally.add_block(block, bytes);
                }
            }
        }
        self.in_block = known.routine.is_some();
        if repeated.is_some() {
            breakpoint::set(known.instruction.next_ip() as usize);
        }
    }

    /// Counts an access of `bytes` bytes by a memory operand.
    fn count_access(
        &mut self,
        tally: &mut Tally,
        memory: &UsedMemory,
        bytes: u64,
        surroundings: &Surroundings,
        registers: &Registers<'_>,
    ) {
        use OpAccess as A;
        let (reads, writes) = match memory.access() {
            A::Read | A::CondRead => (1, 0),
            A::Write | A::CondWrite => (0, 1),
            A::ReadWrite | A::ReadCondWrite => (1, 1),
            A::None | A::NoMemAccess => return,
        };
        let address = memory.virtual_address(0, |register, _, _| match register {
            Register::ES | Register::CS | Register::SS | Register::DS => Some(0),
            // The displacement is the address already.
            Register::RIP | Register::EIP => Some(0),
            other => registers.value(other).ok(),
        });
        if address.is_some_and(bus::decodes) {
            tally.register_reads += reads;
            tally.register_writes += writes;
            return;
        }
        tally.bytes_read += reads * bytes;
        tally.bytes_written += writes * bytes;
        let Some(address) = address.filter(|_| bytes > 0) else {
            return;
        };
        if surroundings.shared.contains(&address) {
            self.lines.extend(lines(address, bytes));
        }
        tally.record(surroundings, address, bytes, Accesses { reads, writes });
    }
}

/// The numbers of the cache lines of `bytes` bytes at `address`.
fn lines(address: u64, bytes: u64) -> RangeInclusive<u64> {
    address / LINE..=(address + bytes - 1) / LINE
}

impl Tally {
    /// Records an access of `bytes` bytes at `address`, at least one.
    fn record(&mut self, within: &Surroundings, address: u64, bytes: u64, accesses: Accesses) {
        if within.recorded.iter().any(|range| range.contains(&address)) {
            for line in lines(address, bytes) {
                *self.lines.entry(line).or_default() += accesses;
            }
        }
    }

    fn add_block(&mut self, block: Block, bytes: u64) {
        match block {
            Block::Fill => self.filled += bytes,
            Block::Copy => self.copied += bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, atomic::AtomicUsize};

    use super::*;
    use crate::trap::{in_driver, install, watch};
    use testbed_loader::sample::{ADDRESSES, Sample, TEXT};

    static INNER: AtomicUsize = AtomicUsize::new(0);
    /// The address of the driver's object that the port driver writes.
    static OBJECT: AtomicUsize = AtomicUsize::new(0);

    /// A routine of the port driver that acquires a lock in an object of the driver, and calls the
    /// driver back.
    extern "win64" fn call_back() {
        acquired(&"Dpc 7");
        wrote(OBJECT.load(Ordering::Relaxed), 72);
        let routine = INNER.load(Ordering::Relaxed);
        // SAFETY: the code at INNER_AT, which keeps the ABI.
        let inner: extern "win64" fn() = unsafe { std::mem::transmute(routine) };
        counted("inner", routine, || inner());
    }

    const INNER_AT: usize = 0x40;

    fn sample() -> Sample {
        let call = (ADDRESSES as i32 - (TEXT as i32 + 0x1f)).to_le_bytes();
        #[rustfmt::skip]
        let outer = [
            &[
                0x57,                   // push rdi
                0x48, 0x83, 0xec, 0x20, // sub rsp, 32
                0x48, 0x89, 0xcf,       // mov rdi, rcx
                0xb9, 100, 0, 0, 0,     // mov ecx, 100
                0x31, 0xc0,             // xor eax, eax
                0xf3, 0xaa,             // rep stosb
                0xf0, 0xff, 0x07,       // lock inc dword [rdi]
                0x87, 0x07,             // xchg [rdi], eax
                0x0f, 0xae, 0xf0,       // mfence
                0xff, 0x15,             // call [import]
            ][..],
            &call,
            &[
                0x48, 0x83, 0xc4, 0x20, // add rsp, 32
                0x5f,                   // pop rdi
                0xc3,                   // ret
            ],
        ]
        .concat();
        let mut code = outer;
        code.resize(INNER_AT, 0xcc);
        // xor eax, eax; ret
        code.extend([0x31, 0xc0, 0xc3]);
        Sample {
            code,
            imports: vec![("storport.sys", "StorPortSynchronizeAccess")],
            ..Sample::default()
        }
    }

    #[test]
    fn each_instruction_is_counted_once_also_around_a_callback_in_a_callback() {
        #[repr(align(64))]
        struct Shared([u8; 192]);

        install().expect("handlers");
        let import = call_back as *const () as usize;
        let image = sample().load(&|_, _| Some(import)).expect("a good file");
        let image = Arc::new(image);
        watch(&image);
        INNER.store(image.entry() + INNER_AT, Ordering::Relaxed);
        // SAFETY: the code at the entry, which takes an address and keeps the ABI.
        let outer: extern "win64" fn(*mut u8) = unsafe { std::mem::transmute(image.entry()) };
        let mut shared = Shared([1; 192]);
        let first = shared.0.as_mut_ptr();
        OBJECT.store(first.addr() + 64, Ordering::Relaxed);

        begin(Surroundings {
            imports: HashMap::from([(import, "StorPortSynchronizeAccess".to_owned())]),
            shared: first as u64..first as u64 + 128,
            recorded: vec![
                first as u64..first as u64 + 64,
                first as u64 + 64..first as u64 + 192,
            ],
            name: None,
        });
        in_driver("a callback of a test", || {
            counted("outer", image.entry(), || outer(first));
        });
        let tallies = end();

        let outer = Tally {
            entered: 1,
            instructions: 13,
            calls: BTreeMap::from([("StorPortSynchronizeAccess".to_owned(), 1)]),
            locked: 2,
            fences: 1,
            bytes_read: 4 + 4 + 8 + 8 + 8,
            bytes_written: 8 + 100 + 4 + 4 + 8,
            filled: 100,
            stack: 8 + 32 + 8,
            shared_lines: 2,
            locks: BTreeMap::from([("Dpc 7".to_owned(), 1)]),
            // Line 0 is only filled. Lines 1 and 2 have the object.
            lines: [(0, 0, 1), (1, 2, 4), (2, 0, 1)]
                .map(|(line, reads, writes)| {
                    (first as u64 / LINE + line, Accesses { reads, writes })
                })
                .into(),
            ..Tally::default()
        };
        let inner = Tally {
            entered: 1,
            instructions: 2,
            bytes_read: 8,
            ..Tally::default()
        };
        assert_eq!(
            tallies,
            BTreeMap::from([("outer", outer), ("inner", inner)])
        );
        assert_eq!(shared.0[..100], [0; 100]);
    }
}
