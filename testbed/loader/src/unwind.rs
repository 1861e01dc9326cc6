//! Steps from a function of the driver to its caller, with the unwind information of x64 images
//! (.pdata and .xdata, see Microsoft's "x64 exception handling").

/// The maximum number of chained descriptions.
const LONGEST_CHAIN: usize = 32;

/// The number of RSP in unwind codes.
const RSP: usize = 4;

/// The registers that a walk follows: RIP, and the general registers in the order of the unwind
/// codes (RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// The address of the instruction.
    pub rip: usize,
    /// The general registers by their numbers in unwind codes.
    pub general: [usize; 16],
}

impl Registers {
    /// RSP.
    pub fn stack(&self) -> usize {
        self.general[RSP]
    }

    /// Sets RSP.
    pub fn set_stack(&mut self, stack: usize) {
        self.general[RSP] = stack;
    }

    /// Pops the return address from the stack, as `ret` does. `read` returns the word at an
    /// address.
    pub fn pop_return(&mut self, read: impl Fn(usize) -> Option<usize>) -> Option<()> {
        self.rip = read(self.general[RSP])?;
        self.general[RSP] = self.general[RSP].checked_add(8)?;
        Some(())
    }
}

/// An effect of a function's prologue on the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Code {
    /// A register was pushed.
    Push(usize),
    /// Some bytes were allocated.
    Allocate(usize),
    /// The frame register was set to RSP plus some bytes.
    SetFrame(usize, usize),
    /// A register was saved, some bytes above the end of the fixed allocation.
    Save(usize, usize),
    /// The frame of an interrupt, with the size of its error code.
    Machine(usize),
}

/// A range of code with one description.
#[derive(Debug)]
struct Function {
    begin: u32,
    end: u32,
    /// The codes, latest first, each with the offset from `begin` of the end of its
    /// instruction.
    codes: Vec<(u8, Code)>,
}

/// The unwind information of an image; functions by address.
#[derive(Debug, Default)]
pub(super) struct Unwind(Vec<Function>);

impl Unwind {
    /// Parses the table of `bytes` bytes at `table` in the image. Skips broken entries, as only
    /// messages use them.
    pub(super) fn parse(image: &[u8], table: u32, bytes: u32) -> Self {
        let entries = image
            .get(table as usize..)
            .and_then(|rest| rest.get(..bytes as usize))
            .unwrap_or_default();
        let mut functions: Vec<_> = entries
            .as_chunks::<12>()
            .0
            .iter()
            .filter_map(|entry| {
                let [begin, end, information] = words(entry);
                let mut codes = Vec::new();
                describe(image, information, &mut codes)?;
                Some(Function { begin, end, codes })
            })
            .collect();
        functions.sort_by_key(|function| function.begin);
        Self(functions)
    }

    /// Changes the registers to those of the caller after the call. `offset` is the offset of
    /// RIP in the image. `read` returns the word at an address of the stack.
    pub(super) fn step(
        &self,
        offset: u32,
        registers: &mut Registers,
        read: impl Fn(usize) -> Option<usize>,
    ) -> Option<()> {
        let after = self.0.partition_point(|function| function.begin <= offset);
        let function = after
            .checked_sub(1)
            .map(|index| &self.0[index])
            .filter(|function| offset < function.end);
        // A function without a description is a leaf, which does not move RSP.
        let Some(function) = function else {
            return registers.pop_return(read);
        };
        let done = |at: u8| u32::from(at) <= offset - function.begin;
        let passed = || function.codes.iter().filter(|(at, _)| done(*at));
        let base = passed()
            .find_map(|(_, code)| match code {
                Code::SetFrame(register, above) => registers.general[*register].checked_sub(*above),
                _ => None,
            })
            .unwrap_or(registers.general[RSP]);
        for (_, code) in passed() {
            let stack = registers.general[RSP];
            match *code {
                Code::Push(register) => {
                    registers.general[register] = read(stack)?;
                    registers.general[RSP] = stack.checked_add(8)?;
                }
                Code::Allocate(bytes) => registers.general[RSP] = stack.checked_add(bytes)?,
                Code::SetFrame(..) => registers.general[RSP] = base,
                Code::Save(register, at) => {
                    registers.general[register] = read(base.checked_add(at)?)?;
                }
                Code::Machine(error) => {
                    registers.rip = read(stack.checked_add(error)?)?;
                    registers.general[RSP] = read(stack.checked_add(error + 24)?)?;
                    return Some(());
                }
            }
        }
        registers.pop_return(read)
    }
}

fn words(bytes: &[u8; 12]) -> [u32; 3] {
    let (words, _) = bytes.as_chunks::<4>();
    [0, 1, 2].map(|index| u32::from_le_bytes(words[index]))
}

/// Appends the codes of the UNWIND_INFO at `at` and of those that it is chained to. `None` if
/// one is broken or has an unknown version.
fn describe(image: &[u8], at: u32, codes: &mut Vec<(u8, Code)>) -> Option<()> {
    const CHAINED: u8 = 4;
    let mut at = at as usize;
    for link in 0..LONGEST_CHAIN {
        let [first, _prologue, count, frame] = *image.get(at..)?.first_chunk()?;
        if !matches!(first & 7, 1 | 2) {
            return None;
        }
        let slots: Vec<[u8; 2]> = image
            .get(at + 4..)?
            .get(..usize::from(count) * 2)?
            .as_chunks()
            .0
            .to_vec();
        decode(&slots, frame, link > 0, codes)?;
        if first >> 3 & CHAINED == 0 {
            return Some(());
        }
        // Codes take an even number of slots.
        let next = at + 4 + usize::from(count).div_ceil(2) * 4;
        let [_, _, information] = words(image.get(next..)?.first_chunk()?);
        at = information as usize;
    }
    None
}

/// Decodes UNWIND_CODEs. `before` marks a later link of a chain, whose effects all precede the
/// function.
fn decode(slots: &[[u8; 2]], frame: u8, before: bool, codes: &mut Vec<(u8, Code)>) -> Option<()> {
    let mut slots = slots.iter();
    while let Some(&[at, operation]) = slots.next() {
        let at = if before { 0 } else { at };
        let information = usize::from(operation >> 4);
        let mut short = || {
            slots
                .next()
                .map(|slot| usize::from(u16::from_le_bytes(*slot)))
        };
        let code = match operation & 15 {
            0 => Code::Push(information),
            1 if information == 0 => Code::Allocate(short()? * 8),
            1 => Code::Allocate(short()? | short()? << 16),
            2 => Code::Allocate(information * 8 + 8),
            3 => Code::SetFrame(usize::from(frame & 15), usize::from(frame >> 4) * 16),
            4 => Code::Save(information, short()? * 8),
            5 => Code::Save(information, short()? | short()? << 16),
            // The ends of the function (version 2), and vector registers, which lead nowhere.
            6 | 8 => {
                short()?;
                continue;
            }
            9 => {
                short()?;
                short()?;
                continue;
            }
            10 => Code::Machine(information * 8),
            _ => return None,
        };
        codes.push((at, code));
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::{RSP, Registers, Unwind};

    const RBX: usize = 3;
    const RBP: usize = 5;
    const RSI: usize = 6;

    /// An image with one function from 1000h to 1100h, described by these
    /// bytes at 2000h.
    fn image(description: &[u8]) -> Unwind {
        let mut image = vec![0; 0x4000];
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        for (index, word) in [0x1000_u32, 0x1100, 0x2000].into_iter().enumerate() {
            put(0x3000 + index * 4, &word.to_le_bytes());
        }
        put(0x2000, description);
        // What a chain leads to: one push of RSI.
        put(0x2800, &[1, 1, 1, 0, 1, 0x60]);
        Unwind::parse(&image, 0x3000, 12)
    }

    fn at(stack: usize, set: &[(usize, usize)]) -> Registers {
        let mut registers = Registers::default();
        registers.general[RSP] = stack;
        for &(register, value) in set {
            registers.general[register] = value;
        }
        registers
    }

    /// The registers of the caller.
    fn caller(
        unwind: &Unwind,
        offset: u32,
        registers: Registers,
        memory: &[(usize, usize)],
    ) -> Option<Registers> {
        let memory: HashMap<_, _> = memory.iter().copied().collect();
        let mut registers = registers;
        unwind.step(offset, &mut registers, |address| {
            memory.get(&address).copied()
        })?;
        Some(registers)
    }

    #[test]
    fn a_function_without_description_is_left_by_its_return_address() {
        let found = caller(&Unwind::default(), 7, at(0x100, &[]), &[(0x100, 42)]);

        let mut expected = at(0x108, &[]);
        expected.rip = 42;
        assert_eq!(found, Some(expected));
    }

    #[test]
    fn pushes_allocations_and_saved_registers_are_undone() {
        // push rbx; sub rsp, 20h; mov [rsp + 40h], rbp
        let unwind = image(&[1, 9, 4, 0, 9, 0x54, 8, 0, 5, 0x32, 1, 0x30]);
        let memory = [(0x120, 7), (0x128, 0x5555), (0x140, 9)];

        let found = caller(&unwind, 0x1050, at(0x100, &[]), &memory).expect("a caller");

        assert_eq!(found.rip, 0x5555);
        assert_eq!(found.stack(), 0x130);
        assert_eq!((found.general[RBX], found.general[RBP]), (7, 9));
    }

    #[test]
    fn unfinished_parts_of_the_prologue_are_not_undone() {
        let unwind = image(&[1, 9, 4, 0, 9, 0x54, 8, 0, 5, 0x32, 1, 0x30]);

        // Behind the push.
        let found = caller(&unwind, 0x1001, at(0x100, &[]), &[(0x100, 7), (0x108, 8)]);

        assert_eq!(
            found.map(|found| (found.rip, found.stack())),
            Some((8, 0x110))
        );
    }

    #[test]
    fn a_frame_register_locates_the_frame() {
        // push rbp; sub rsp, 120h (large); lea rbp, [rsp + 20h]; the stack was
        // moved further since.
        let unwind = image(&[1, 12, 4, 0x25, 12, 0x03, 7, 0x01, 0x24, 0, 1, 0x50]);
        let memory = [(0x420 - 0x20 + 0x120, 77), (0x420 - 0x20 + 0x128, 88)];

        let found = caller(&unwind, 0x1080, at(0x10, &[(RBP, 0x420)]), &memory);

        let found = found.expect("a caller");
        assert_eq!((found.rip, found.general[RBP]), (88, 77));
        assert_eq!(found.stack(), 0x420 - 0x20 + 0x130);
    }

    #[test]
    fn a_chained_description_continues_with_the_other() {
        // Chained (flag 4): one allocation of 8, then the chain's push of RSI.
        let chained = [
            0x21, 4, 1, 0, 4, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x28, 0, 0,
        ];
        let unwind = image(&chained);
        let memory = [(0x108, 66), (0x110, 5)];

        let found = caller(&unwind, 0x1050, at(0x100, &[]), &memory).expect("a caller");

        assert_eq!(
            (found.rip, found.general[RSI], found.stack()),
            (5, 66, 0x118)
        );
    }

    #[test]
    fn unreadable_memory_ends_the_walk() {
        let unwind = image(&[1, 1, 1, 0, 1, 0x30]);

        assert_eq!(caller(&unwind, 0x1050, at(0x100, &[]), &[]), None);
    }

    #[test]
    fn a_broken_description_is_skipped() {
        for broken in [
            &[7_u8, 0, 0, 0][..],
            &[1, 0, 1, 0, 1, 0x0f],
            &[1, 0, 1, 0, 1, 0x04],
        ] {
            let unwind = image(broken);
            assert!(unwind.0.is_empty(), "{broken:?}");
        }
        assert!(Unwind::parse(&[0; 16], 8, 12).0.is_empty());
    }
}
