//! `cargo xtask guard-cost`: how many instructions a guard costs, counted in
//! the linked file.
//!
//! The file has pairs of functions that do the same: `guard_X` takes a lock by
//! a guard of crates/storport, `calls_X` by the calls that a C miniport makes.
//! Of each the shortest way is counted that takes the lock, from the function's
//! entry to its return.

use std::{collections::BTreeMap, fmt::Write as _, fs, io, path::PathBuf};

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Formatter, Instruction, IntelFormatter, OpKind, Register,
};
use object::{
    LittleEndian as LE,
    pe::ImageNtHeaders64,
    read::pe::{ExportTarget, ImageThunkData, PeFile64},
};

use crate::{
    architecture::Architecture::X64,
    build::{self, cross},
    setup::{self, SetupError},
    tool::{self, ToolError},
};

/// What the reader is told of `cargo xtask guard-cost --help`.
const HELP: &str = "\
Counted are the instructions from a function's entry to its return where it
takes the lock, adds to a counter and releases the lock: by a guard, and by the
calls that a C miniport makes. What the guard has more is what it costs.

Examples:
  cargo xtask guard-cost
  cargo xtask guard-cost --disassemble dpc_lock";

/// The package whose functions are compared.
pub const PACKAGE: &str = "ferrostor-guard-cost";

/// The options of `cargo xtask guard-cost`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Options {
    /// Show both ways to this lock, instruction by instruction
    #[arg(long, value_name = "LOCK")]
    disassemble: Option<String>,
}

/// Why nothing was counted.
#[derive(Debug, thiserror::Error)]
pub enum CostError {
    /// The machine lacks something.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The file was not built.
    #[error("the functions to compare were not built: {0}")]
    Cargo(#[from] ToolError),
    /// The file can't be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is no sound 64-bit PE file.
    #[error("not a sound 64-bit PE file: {0}")]
    Malformed(#[from] object::Error),
    /// It has not what is to be compared.
    #[error("{0}")]
    Missing(String),
    /// A guard costs more than it may.
    #[error("a guard of {0} costs more instructions than {MOST}")]
    TooMuch(String),
}

/// The most instructions that a guard may cost: two that look whether there
/// are locks, which a dump stack has not; and for a message's lock four that
/// look whether messages have any, and whether Storport gave it.
const MOST: isize = 6;

/// Counts, and prints a table.
///
/// # Errors
/// See [`CostError`].
pub fn command(options: &Options) -> Result<(), CostError> {
    setup::ensure(&build::needs(X64))?;
    let pairs = measure()?;
    match &options.disassemble {
        None => print!("{}", table(&pairs)),
        Some(lock) => {
            let pair = pairs.iter().find(|pair| pair.lock == *lock);
            let pair = pair.ok_or_else(|| {
                let known: Vec<&str> = pairs.iter().map(|pair| pair.lock.as_str()).collect();
                CostError::Missing(format!("no lock {lock}: there are {}", known.join(", ")))
            })?;
            print!("guard:\n{}calls:\n{}", pair.guard.text, pair.calls.text);
        }
    }
    Ok(())
}

/// Fails if a guard costs more than it may.
///
/// # Errors
/// See [`CostError`].
pub fn check() -> Result<(), CostError> {
    let pairs = measure()?;
    print!("{}", table(&pairs));
    match pairs.into_iter().find(|pair| pair.cost() > MOST) {
        None => Ok(()),
        Some(pair) => Err(CostError::TooMuch(pair.lock)),
    }
}

/// The two ways to take one lock.
struct Pair {
    lock: String,
    guard: Way,
    calls: Way,
}

impl Pair {
    /// What the guard has more.
    fn cost(&self) -> isize {
        self.guard.instructions - self.calls.instructions
    }
}

/// A way through a function.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Way {
    instructions: isize,
    /// The imported functions that it calls, in order.
    calls: Vec<String>,
    text: String,
}

fn measure() -> Result<Vec<Pair>, CostError> {
    tool::run(cross("build", X64).args(["--package", PACKAGE]))?;
    let path = build::target()
        .join(X64.target())
        .join("release/guard_cost.dll");
    let bytes = fs::read(&path).map_err(|source| CostError::Read { path, source })?;
    pairs(&Code::parse(&bytes)?)
}

fn table(pairs: &[Pair]) -> String {
    let mut text = String::from("lock                 calls  guard  cost\n");
    for pair in pairs {
        let (calls, guard) = (pair.calls.instructions, pair.guard.instructions);
        let _ = writeln!(
            text,
            "{:20} {calls:5}  {guard:5}  {:4}",
            pair.lock,
            pair.cost()
        );
    }
    text
}

/// The pairs of functions in `code`.
fn pairs(code: &Code<'_>) -> Result<Vec<Pair>, CostError> {
    let locks = code
        .exports
        .keys()
        .filter_map(|name| name.strip_prefix("calls_"));
    let mut pairs = Vec::new();
    for lock in locks {
        let calls = code
            .ways(&format!("calls_{lock}"))?
            .into_iter()
            .filter(|way| way.calls.len() == 2)
            .min_by_key(|way| way.instructions)
            .ok_or_else(|| CostError::Missing(format!("calls_{lock} makes no two calls")))?;
        let guard = code
            .ways(&format!("guard_{lock}"))?
            .into_iter()
            .filter(|way| way.calls == calls.calls)
            .min_by_key(|way| way.instructions)
            .ok_or_else(|| {
                CostError::Missing(format!("guard_{lock} makes no such calls as calls_{lock}"))
            })?;
        pairs.push(Pair {
            lock: lock.to_owned(),
            guard,
            calls,
        });
    }
    if pairs.is_empty() {
        return Err(CostError::Missing(
            "the file has no functions to compare".into(),
        ));
    }
    Ok(pairs)
}

/// A file's code, by relative address.
struct Code<'b> {
    /// What the sections hold, from which address on.
    sections: Vec<(u32, &'b [u8])>,
    /// Addresses by name.
    exports: BTreeMap<String, u32>,
    /// Imported functions, by the address of the slot that holds theirs.
    slots: BTreeMap<u32, String>,
}

impl<'b> Code<'b> {
    fn parse(bytes: &'b [u8]) -> Result<Self, CostError> {
        let file = PeFile64::parse(bytes)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut exports = BTreeMap::new();
        if let Some(table) = file.export_table()? {
            for export in table.exports()? {
                if let (Some(name), ExportTarget::Address(address)) = (export.name, export.target) {
                    exports.insert(text(name), address);
                }
            }
        }
        let mut slots = BTreeMap::new();
        if let Some(table) = file.import_table()? {
            let mut modules = table.descriptors()?;
            while let Some(module) = modules.next()? {
                let mut slot = module.first_thunk.get(LE);
                let mut thunks = table.thunks(module.original_first_thunk.get(LE))?;
                while let Some(thunk) = thunks.next::<ImageNtHeaders64>()? {
                    if !thunk.is_ordinal() {
                        let (_, name) = table.hint_name(thunk.address())?;
                        slots.insert(slot, text(name));
                    }
                    slot += 8;
                }
            }
        }
        let sections = file.section_table();
        let sections = sections.iter().map(|section| {
            let start = section.virtual_address.get(LE);
            Ok((start, section.pe_data(bytes)?))
        });
        Ok(Self {
            sections: sections.collect::<object::Result<_>>()?,
            exports,
            slots,
        })
    }

    /// The instruction at `address`.
    fn at(&self, address: u64) -> Result<Instruction, CostError> {
        let code = self.sections.iter().find_map(|(start, bytes)| {
            let offset = address.checked_sub(u64::from(*start))?;
            bytes.get(usize::try_from(offset).ok()?..)
        });
        let code = code.filter(|code| !code.is_empty());
        let code = code.ok_or_else(|| CostError::Missing(format!("no code at {address:#x}")))?;
        let instruction = Decoder::with_ip(64, code, address, DecoderOptions::NONE).decode();
        if instruction.is_invalid() {
            return Err(CostError::Missing(format!(
                "no instruction at {address:#x}"
            )));
        }
        Ok(instruction)
    }

    /// Every way from the entry of `function` to a return, but those that come
    /// by an instruction twice.
    fn ways(&self, function: &str) -> Result<Vec<Way>, CostError> {
        let entry = self
            .exports
            .get(function)
            .ok_or_else(|| CostError::Missing(format!("there is no function {function}")))?;
        let mut ways = Vec::new();
        // What was passed, and where it goes on.
        let mut open: Vec<(Way, Vec<u64>)> = vec![(Way::default(), vec![u64::from(*entry)])];
        while let Some((mut way, mut passed)) = open.pop() {
            let instruction = self.at(*passed.last().unwrap_or(&0))?;
            way.instructions += 1;
            way.text.push_str(&line(&instruction));
            let mut next = Vec::new();
            match instruction.flow_control() {
                FlowControl::Return => ways.push(way.clone()),
                FlowControl::ConditionalBranch => {
                    next.extend([instruction.next_ip(), instruction.near_branch_target()]);
                }
                FlowControl::UnconditionalBranch => match self.imported(&instruction)? {
                    None => next.push(instruction.near_branch_target()),
                    Some(name) => {
                        way.calls.push(name);
                        ways.push(way.clone());
                    }
                },
                FlowControl::Call | FlowControl::IndirectCall => {
                    let target = self.imported(&instruction)?;
                    way.calls
                        .push(target.unwrap_or_else(|| "another function".into()));
                    next.push(instruction.next_ip());
                }
                FlowControl::IndirectBranch => {
                    way.calls
                        .push(self.slot(&instruction).unwrap_or("another function").into());
                    ways.push(way.clone());
                }
                FlowControl::Next => next.push(instruction.next_ip()),
                // The end of the machine.
                _ => {}
            }
            for address in next {
                if !passed.contains(&address) {
                    passed.push(address);
                    open.push((way.clone(), passed.clone()));
                    passed.pop();
                }
            }
        }
        Ok(ways)
    }

    /// The imported function that a branch or call leads to, itself or by the
    /// linker's jump to it.
    fn imported(&self, instruction: &Instruction) -> Result<Option<String>, CostError> {
        if let Some(name) = self.slot(instruction) {
            return Ok(Some(name.to_owned()));
        }
        if instruction.near_branch_target() == 0 {
            return Ok(None);
        }
        let target = self.at(instruction.near_branch_target())?;
        Ok(match target.flow_control() {
            FlowControl::IndirectBranch => self.slot(&target).map(str::to_owned),
            _ => None,
        })
    }

    /// The imported function whose slot an instruction reads.
    fn slot(&self, instruction: &Instruction) -> Option<&str> {
        if instruction.op0_kind() != OpKind::Memory || instruction.memory_base() != Register::RIP {
            return None;
        }
        let slot = u32::try_from(instruction.memory_displacement64()).ok()?;
        self.slots.get(&slot).map(String::as_str)
    }
}

fn line(instruction: &Instruction) -> String {
    let mut text = String::from("  ");
    IntelFormatter::new().format(instruction, &mut text);
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the code of a test lies, and the slots of the functions that it
    /// imports.
    const START: u32 = 0x1000;
    const TAKE: u32 = 0x2000;
    const GIVE: u32 = 0x2008;

    /// Assembles functions one after another.
    #[derive(Default)]
    struct Assembler {
        bytes: Vec<u8>,
        exports: BTreeMap<String, u32>,
    }

    impl Assembler {
        fn function(mut self, name: &str) -> Self {
            self.exports
                .insert(name.into(), START + self.bytes.len() as u32);
            self
        }

        fn code(mut self, bytes: &[u8]) -> Self {
            self.bytes.extend(bytes);
            self
        }

        fn call(self, slot: u32) -> Self {
            let next = START + self.bytes.len() as u32 + 6;
            let distance = slot.wrapping_sub(next).to_le_bytes();
            self.code(&[0xFF, 0x15]).code(&distance)
        }

        fn pairs(&self) -> Result<Vec<Pair>, CostError> {
            pairs(&Code {
                sections: vec![(START, &self.bytes)],
                exports: self.exports.clone(),
                slots: [(TAKE, "Take".into()), (GIVE, "Give".into())].into(),
            })
        }
    }

    const NOP: &[u8] = &[0x90];
    const RET: &[u8] = &[0xC3];
    /// `test rdi, rdi`
    const TEST: &[u8] = &[0x48, 0x85, 0xFF];
    /// `je` over a call by a slot and a `nop`.
    const SKIP: &[u8] = &[0x74, 7];

    /// Three instructions, two of which are calls.
    fn calls(assembler: Assembler) -> Assembler {
        assembler
            .function("calls_lock")
            .call(TAKE)
            .call(GIVE)
            .code(RET)
    }

    #[test]
    fn a_guard_costs_the_instructions_that_it_has_more() {
        let pairs = calls(Assembler::default())
            .function("guard_lock")
            .code(NOP)
            .call(TAKE)
            .code(NOP)
            .call(GIVE)
            .code(RET)
            .pairs()
            .unwrap();

        assert_eq!(pairs.len(), 1);
        assert_eq!((pairs[0].lock.as_str(), pairs[0].cost()), ("lock", 2));
        assert_eq!(
            table(&pairs),
            "lock                 calls  guard  cost\n\
             lock                     3      5     2\n"
        );
    }

    #[test]
    fn a_way_that_does_not_take_the_lock_does_not_count() {
        let pairs = calls(Assembler::default())
            .function("guard_lock")
            .code(TEST)
            .code(SKIP)
            .call(TAKE)
            .code(NOP)
            .call(GIVE)
            .code(RET)
            .pairs()
            .unwrap();

        assert_eq!(pairs[0].cost(), 3);
        assert_eq!(pairs[0].guard.calls, ["Take", "Give"]);
    }

    #[test]
    fn a_loop_ends_the_way_that_runs_into_it() {
        let pairs = calls(Assembler::default())
            .function("guard_lock")
            .call(TAKE)
            .call(GIVE)
            // jne to the function's entry.
            .code(&[0x75, 0xF2])
            .code(RET)
            .pairs()
            .unwrap();

        assert_eq!(pairs[0].cost(), 1);
    }

    #[test]
    fn a_guard_that_makes_other_calls_is_refused() {
        let error = calls(Assembler::default())
            .function("guard_lock")
            .call(GIVE)
            .call(TAKE)
            .code(RET)
            .pairs()
            .err()
            .unwrap();

        assert_eq!(
            error.to_string(),
            "guard_lock makes no such calls as calls_lock"
        );
    }

    #[test]
    fn code_without_an_end_is_an_error() {
        let error = calls(Assembler::default())
            .function("guard_lock")
            .code(NOP)
            .pairs()
            .err()
            .unwrap();

        assert!(error.to_string().starts_with("no code at 0x"), "{error}");
    }
}
