//! Emulates one instruction of the driver on the registers of the interrupted thread, with the
//! effect that it would have on real devices.
//!
//! It knows what compilers generate for register access: all kinds of moves, arithmetic on
//! memory, string moves, SSE moves, port instructions and CR8. It refuses all others.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};
use libc::_libc_xmmreg as Vector;

/// Everything outside the processor.
pub(super) trait Bus {
    /// Reads memory: a register window or ordinary memory.
    fn read(&self, address: u64, data: &mut [u8]) -> Result<(), Refusal>;
    /// Writes memory.
    fn write(&self, address: u64, data: &[u8]) -> Result<(), Refusal>;
    /// Reads a port.
    fn input(&self, port: u16, data: &mut [u8]);
    /// Writes a port.
    fn output(&self, port: u16, data: &[u8]);
    /// Reads the task priority register, which holds the IRQL.
    fn irql(&self) -> u8;
    /// Sets the IRQL.
    fn set_irql(&self, level: u8);
}

/// Why an instruction was not emulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The emulator does not know the instruction.
    Unknown,
    /// Nothing is mapped there, or not for this access.
    Fault { address: u64, write: bool },
    /// The access begins in a register window and ends beyond the mapped range.
    Beyond {
        bar: usize,
        offset: u64,
        bytes: usize,
    },
    /// Nothing is emulated at this offset of the processor control region.
    ControlRegion { offset: u64 },
}

/// The registers of a thread, as the kernel saved them for a signal handler.
#[derive(Debug)]
pub(super) struct Registers<'a> {
    /// Indexed by the `REG_` constants of `ucontext.h`.
    pub(super) general: &'a mut [i64; 23],
    /// XMM0 to XMM15.
    pub(super) vectors: Option<&'a mut [Vector; 16]>,
}

/// The emulated GS base. It is non-canonical for mappings of user space, so the bus recognizes
/// the processor control region by its address.
pub(super) const CONTROL_REGION: u64 = 0xffff_f780_1000_0000;

/// The general registers in the order of their numbers in instructions and in unwind codes.
pub(super) const GENERAL: [(&str, libc::c_int); 16] = [
    ("rax", libc::REG_RAX),
    ("rcx", libc::REG_RCX),
    ("rdx", libc::REG_RDX),
    ("rbx", libc::REG_RBX),
    ("rsp", libc::REG_RSP),
    ("rbp", libc::REG_RBP),
    ("rsi", libc::REG_RSI),
    ("rdi", libc::REG_RDI),
    ("r8 ", libc::REG_R8),
    ("r9 ", libc::REG_R9),
    ("r10", libc::REG_R10),
    ("r11", libc::REG_R11),
    ("r12", libc::REG_R12),
    ("r13", libc::REG_R13),
    ("r14", libc::REG_R14),
    ("r15", libc::REG_R15),
];

const CARRY: u64 = 1 << 0;
const PARITY: u64 = 1 << 2;
const ADJUST: u64 = 1 << 4;
const ZERO: u64 = 1 << 6;
const SIGN: u64 = 1 << 7;
const DIRECTION: u64 = 1 << 10;
const OVERFLOW: u64 = 1 << 11;
const ARITHMETIC: u64 = CARRY | PARITY | ADJUST | ZERO | SIGN | OVERFLOW;

impl Registers<'_> {
    pub(super) fn get(&self, index: libc::c_int) -> u64 {
        self.general[index as usize] as u64
    }

    pub(super) fn set(&mut self, index: libc::c_int, value: u64) {
        self.general[index as usize] = value as i64;
    }

    /// Reads a general register at its width.
    pub(super) fn value(&self, register: Register) -> Result<u64, Refusal> {
        let whole = self.get(index(register)?);
        Ok(if is_high_byte(register) {
            whole >> 8 & 0xff
        } else {
            whole & mask(register.size())
        })
    }

    /// Writes a general register. A 32-bit write clears the upper half. Narrower writes leave
    /// the other bits.
    fn assign(&mut self, register: Register, value: u64) -> Result<(), Refusal> {
        let at = index(register)?;
        let before = self.get(at);
        self.set(
            at,
            match register.size() {
                8 => value,
                4 => value & mask(4),
                _ if is_high_byte(register) => before & !0xff00 | (value & 0xff) << 8,
                width => before & !mask(width) | value & mask(width),
            },
        );
        Ok(())
    }

    fn set_flags(&mut self, which: u64, flags: u64) {
        let before = self.get(libc::REG_EFL);
        self.set(libc::REG_EFL, before & !which | flags & which);
    }

    /// The address of memory operand number `operand`.
    fn address(&self, instruction: &Instruction, operand: u32) -> Result<u64, Refusal> {
        let address = instruction.virtual_address(operand, 0, |register, _, _| match register {
            Register::GS => Some(CONTROL_REGION),
            Register::ES | Register::CS | Register::SS | Register::DS => Some(0),
            other => self.value(other).ok(),
        });
        address.ok_or(Refusal::Unknown)
    }
}

/// Emulates `instruction` and moves RIP to the next one. A refused instruction leaves the
/// registers unchanged, except that a string instruction may have finished some elements.
pub(super) fn execute(
    instruction: &Instruction,
    registers: &mut Registers<'_>,
    bus: &dyn Bus,
) -> Result<(), Refusal> {
    use Mnemonic as M;

    let mut step = Step {
        instruction,
        registers,
        bus,
    };
    if instruction.is_string_instruction() {
        step.string()?;
    } else {
        match instruction.mnemonic() {
            M::Mov => step.mov()?,
            M::Movnti | M::Movzx => step.copy(|value, _| value)?,
            M::Movsx | M::Movsxd => step.copy(sign_extended)?,
            M::Xchg => step.exchange()?,
            M::Add | M::Sub | M::Cmp | M::And | M::Or | M::Xor | M::Test => step.binary()?,
            M::Inc | M::Dec | M::Neg | M::Not => step.unary()?,
            M::Bt | M::Bts | M::Btr | M::Btc => step.bit()?,
            M::Movups
            | M::Movupd
            | M::Movdqu
            | M::Lddqu
            | M::Movaps
            | M::Movapd
            | M::Movdqa
            | M::Movntps
            | M::Movntpd
            | M::Movntdq
            | M::Movntdqa => step.vector(16)?,
            M::Movq | M::Movsd => step.vector(8)?,
            M::Movd | M::Movss => step.vector(4)?,
            M::In | M::Out => step.port()?,
            _ => return Err(Refusal::Unknown),
        }
    }
    registers.set(libc::REG_RIP, instruction.next_ip());
    Ok(())
}

struct Step<'a, 'r> {
    instruction: &'a Instruction,
    registers: &'a mut Registers<'r>,
    bus: &'a dyn Bus,
}

impl Step<'_, '_> {
    /// The width of the memory operand in bytes, if general registers have that width too.
    fn width(&self) -> Result<usize, Refusal> {
        match self.instruction.memory_size().size() {
            width @ (1 | 2 | 4 | 8) => Ok(width),
            _ => Err(Refusal::Unknown),
        }
    }

    fn get(&self, operand: u32) -> Result<u64, Refusal> {
        match self.instruction.op_kind(operand) {
            OpKind::Register => self.registers.value(self.instruction.op_register(operand)),
            OpKind::Memory => self.load(self.address(operand)?, self.width()?),
            _ => self
                .instruction
                .try_immediate(operand)
                .map_err(|_| Refusal::Unknown),
        }
    }

    fn put(&mut self, operand: u32, value: u64) -> Result<(), Refusal> {
        match self.instruction.op_kind(operand) {
            OpKind::Register => {
                let register = self.instruction.op_register(operand);
                self.registers.assign(register, value)
            }
            OpKind::Memory => self.store(self.address(operand)?, self.width()?, value),
            _ => Err(Refusal::Unknown),
        }
    }

    fn address(&self, operand: u32) -> Result<u64, Refusal> {
        self.registers.address(self.instruction, operand)
    }

    fn load(&self, address: u64, width: usize) -> Result<u64, Refusal> {
        let mut data = [0; 8];
        self.bus.read(address, &mut data[..width])?;
        Ok(u64::from_le_bytes(data))
    }

    fn store(&self, address: u64, width: usize, value: u64) -> Result<(), Refusal> {
        self.bus.write(address, &value.to_le_bytes()[..width])
    }

    fn mov(&mut self) -> Result<(), Refusal> {
        if self.instruction.op0_register() == Register::CR8 {
            let level = self.get(1)?;
            self.bus.set_irql(level as u8);
            return Ok(());
        }
        if self.instruction.op1_register() == Register::CR8 {
            return self.put(0, u64::from(self.bus.irql()));
        }
        self.copy(|value, _| value)
    }

    fn copy(&mut self, convert: fn(u64, usize) -> u64) -> Result<(), Refusal> {
        let value = self.get(1)?;
        self.put(0, convert(value, self.width()?))
    }

    fn exchange(&mut self) -> Result<(), Refusal> {
        let (first, second) = (self.get(0)?, self.get(1)?);
        // Memory first, because it may refuse.
        let memory = u32::from(self.instruction.op1_kind() == OpKind::Memory);
        let (into_memory, into_register) = match memory {
            0 => (second, first),
            _ => (first, second),
        };
        self.put(memory, into_memory)?;
        self.put(1 - memory, into_register)
    }

    fn binary(&mut self) -> Result<(), Refusal> {
        use Mnemonic as M;

        let width = self.width()?;
        let (a, b) = (self.get(0)? & mask(width), self.get(1)? & mask(width));
        let (result, flags) = match self.instruction.mnemonic() {
            M::Add => sum(a, b, width),
            M::Sub | M::Cmp => difference(a, b, width),
            M::And | M::Test => (a & b, 0),
            M::Or => (a | b, 0),
            M::Xor => (a ^ b, 0),
            _ => return Err(Refusal::Unknown),
        };
        if !matches!(self.instruction.mnemonic(), M::Cmp | M::Test) {
            self.put(0, result & mask(width))?;
        }
        self.registers
            .set_flags(ARITHMETIC, flags | of_result(result, width));
        Ok(())
    }

    fn unary(&mut self) -> Result<(), Refusal> {
        use Mnemonic as M;

        let width = self.width()?;
        let a = self.get(0)? & mask(width);
        let ((result, flags), changed) = match self.instruction.mnemonic() {
            M::Inc => (sum(a, 1, width), ARITHMETIC & !CARRY),
            M::Dec => (difference(a, 1, width), ARITHMETIC & !CARRY),
            M::Neg => (difference(0, a, width), ARITHMETIC),
            M::Not => ((!a, 0), 0),
            _ => return Err(Refusal::Unknown),
        };
        self.put(0, result & mask(width))?;
        self.registers
            .set_flags(changed, flags | of_result(result, width));
        Ok(())
    }

    fn bit(&mut self) -> Result<(), Refusal> {
        use Mnemonic as M;

        // A bit number in a register can address a bit far beyond the operand.
        if self.instruction.op1_kind() == OpKind::Register {
            return Err(Refusal::Unknown);
        }
        let bit = 1_u64 << (self.get(1)? % (self.width()? as u64 * 8));
        let value = self.get(0)?;
        match self.instruction.mnemonic() {
            M::Bts => self.put(0, value | bit)?,
            M::Btr => self.put(0, value & !bit)?,
            M::Btc => self.put(0, value ^ bit)?,
            _ => {}
        }
        self.registers
            .set_flags(CARRY, u64::from(value & bit != 0) * CARRY);
        Ok(())
    }

    /// Moves the lowest `width` bytes between memory and an XMM register. A load clears the
    /// rest.
    fn vector(&mut self, width: usize) -> Result<(), Refusal> {
        let mut data = [0; 16];
        let part = &mut data[..width];
        if self.instruction.op1_kind() == OpKind::Memory {
            let place = vector_index(self.instruction.op0_register())?;
            self.bus.read(self.address(1)?, part)?;
            let vectors = self.registers.vectors.as_mut().ok_or(Refusal::Unknown)?;
            vectors[place].element = elements(&data);
            return Ok(());
        }
        let place = vector_index(self.instruction.op1_register())?;
        let vectors = self.registers.vectors.as_ref().ok_or(Refusal::Unknown)?;
        for (bytes, element) in data.chunks_exact_mut(4).zip(vectors[place].element) {
            bytes.copy_from_slice(&element.to_le_bytes());
        }
        self.bus.write(self.address(0)?, &data[..width])
    }

    fn port(&mut self) -> Result<(), Refusal> {
        // `in` has the port as its last operand, `out` as its first.
        let output = self.instruction.mnemonic() == Mnemonic::Out;
        let port = self.get(u32::from(!output))? as u16;
        let register = self.instruction.op_register(u32::from(output));
        let mut data = [0; 8];
        let part = &mut data[..register.size().min(4)];
        if output {
            let value = self.registers.value(register)?;
            part.copy_from_slice(&value.to_le_bytes()[..part.len()]);
            self.bus.output(port, part);
        } else {
            self.bus.input(port, part);
            let value = u64::from_le_bytes(data);
            self.registers.assign(register, value)?;
        }
        Ok(())
    }

    fn string(&mut self) -> Result<(), Refusal> {
        let has = |kind| self.instruction.op_kinds().any(|operand| operand == kind);
        // Comparisons write flags.
        let compares = self.instruction.rflags_written() != 0;
        if compares || has(OpKind::MemoryESEDI) || has(OpKind::MemorySegESI) {
            return Err(Refusal::Unknown);
        }
        let reads = has(OpKind::MemorySegRSI);
        let writes = has(OpKind::MemoryESRDI);
        // The operand that is not memory is DX, for ports, or the accumulator.
        let (first, second) = (
            self.instruction.op0_register(),
            self.instruction.op1_register(),
        );
        let (ports_in, ports_out) = (second == Register::DX, first == Register::DX);
        let accumulator = if writes { second } else { first };
        let width = self.width()?;
        let backward = self.registers.get(libc::REG_EFL) & DIRECTION != 0;
        let stride = if backward {
            (width as u64).wrapping_neg()
        } else {
            width as u64
        };
        let repeated = self.instruction.has_rep_prefix() || self.instruction.has_repne_prefix();
        while !repeated || self.registers.get(libc::REG_RCX) != 0 {
            let source = self.registers.get(libc::REG_RSI);
            let target = self.registers.get(libc::REG_RDI);
            let port = self.registers.get(libc::REG_RDX) as u16;
            let mut data = [0; 8];
            let part = &mut data[..width];
            if reads {
                self.bus.read(source, part)?;
                self.registers
                    .set(libc::REG_RSI, source.wrapping_add(stride));
            } else if ports_in {
                self.bus.input(port, part);
            } else {
                let value = self.registers.value(accumulator)?;
                part.copy_from_slice(&value.to_le_bytes()[..width]);
            }
            if writes {
                if let Err(refusal) = self.bus.write(target, part) {
                    self.registers.set(libc::REG_RSI, source);
                    return Err(refusal);
                }
                self.registers
                    .set(libc::REG_RDI, target.wrapping_add(stride));
            } else if ports_out {
                self.bus.output(port, part);
            } else {
                self.registers
                    .assign(accumulator, u64::from_le_bytes(data))?;
            }
            if !repeated {
                break;
            }
            let count = self.registers.get(libc::REG_RCX);
            self.registers.set(libc::REG_RCX, count - 1);
        }
        Ok(())
    }
}

fn sum(a: u64, b: u64, width: usize) -> (u64, u64) {
    let result = a.wrapping_add(b);
    let carry = result & mask(width) < a;
    let overflow = !(a ^ b) & (a ^ result) & sign(width) != 0;
    (result, carries(a, b, result, carry, overflow))
}

fn difference(a: u64, b: u64, width: usize) -> (u64, u64) {
    let result = a.wrapping_sub(b);
    let overflow = (a ^ b) & (a ^ result) & sign(width) != 0;
    (result, carries(a, b, result, a < b, overflow))
}

fn carries(a: u64, b: u64, result: u64, carry: bool, overflow: bool) -> u64 {
    (u64::from(carry) * CARRY) | (u64::from(overflow) * OVERFLOW) | ((a ^ b ^ result) & ADJUST)
}

/// The flags that depend on the result alone.
fn of_result(result: u64, width: usize) -> u64 {
    let parity = (result as u8).count_ones().is_multiple_of(2);
    (u64::from(parity) * PARITY)
        | (u64::from(result & mask(width) == 0) * ZERO)
        | (u64::from(result & sign(width) != 0) * SIGN)
}

fn sign_extended(value: u64, width: usize) -> u64 {
    let unused = 64 - width as u32 * 8;
    ((value << unused) as i64 >> unused) as u64
}

fn mask(width: usize) -> u64 {
    u64::MAX >> (64 - width as u32 * 8)
}

fn sign(width: usize) -> u64 {
    1 << (width as u32 * 8 - 1)
}

fn elements(data: &[u8; 16]) -> [u32; 4] {
    std::array::from_fn(|index| std::array::from_fn(|byte| data[index * 4 + byte]))
        .map(u32::from_le_bytes)
}

fn vector_index(register: Register) -> Result<usize, Refusal> {
    match register.number() {
        number @ 0..16 if register.is_xmm() => Ok(number),
        _ => Err(Refusal::Unknown),
    }
}

fn is_high_byte(register: Register) -> bool {
    matches!(
        register,
        Register::AH | Register::BH | Register::CH | Register::DH
    )
}

fn index(register: Register) -> Result<libc::c_int, Refusal> {
    let whole = register.full_register();
    match whole.is_gpr64() {
        true => Ok(GENERAL[whole.number()].1),
        false => Err(Refusal::Unknown),
    }
}
