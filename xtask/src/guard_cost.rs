//! `cargo xtask guard-cost`: counts the instructions that a lock guard adds, by static analysis
//! of a linked file.
//!
//! The file has pairs of functions: `guard_X` acquires a lock with a guard of crates/storport,
//! `calls_X` with the calls of a C miniport. The count of a function is that of its shortest
//! path from entry to return that acquires the lock.

use std::{collections::BTreeMap, fmt::Write as _, fs, io, path::PathBuf};

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Formatter, Instruction, IntelFormatter, OpKind, Register,
};
use object::{
    LittleEndian as LE,
    pe::ImageNtHeaders64,
    read::pe::{ExportTarget, ImageThunkData, PeFile64},
};
use packaging::architecture::Architecture::X64;

use crate::{reproducible::Place, tool::ToolError, workspace};
use clap::builder::PossibleValuesParser;

const HELP: &str = "\
For each lock, the command counts the instructions of two functions that acquire the
lock, increment a counter and release the lock. One uses a guard of crates/storport,
the other the calls of a C miniport. The difference is the cost of the guard.

Examples:
  cargo xtask guard-cost
  cargo xtask guard-cost --disassemble dpc_lock";

/// The package whose functions are compared.
pub const PACKAGE: &str = "ferrostor-guard-cost";

/// The options of `cargo xtask guard-cost`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Options {
    /// Print the counted instructions of both functions for this lock
    #[arg(long, value_name = "LOCK", value_parser = PossibleValuesParser::new(LOCKS.map(|(functions, _)| functions)))]
    disassemble: Option<String>,
}

/// The cost was not counted, or differs from the documentation.
#[derive(Debug, thiserror::Error)]
pub enum CostError {
    /// The file was not built.
    #[error("the functions to compare were not built: {0}")]
    Cargo(#[from] ToolError),
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file is malformed.
    #[error("malformed PE file: {0}")]
    Malformed(#[from] object::Error),
    /// The file lacks a function, or a function does not have the expected form.
    #[error("{0}")]
    Missing(String),
    /// The documentation has other figures.
    #[error(
        "{} does not have the table that `cargo xtask guard-cost` prints: copy it there",
        path.display()
    )]
    Documented {
        /// The documentation.
        path: PathBuf,
    },
}

/// The suffixes of the functions' names, and the locks' names in the documentation.
const LOCKS: [(&str, &str); 6] = [
    ("start_io_lock", "StartIoLock"),
    ("dpc_lock", "DpcLock"),
    ("dpc_level_lock", "DpcLevelLock"),
    ("threaded_dpc_lock", "ThreadedDpcLock"),
    ("interrupt_lock", "InterruptLock"),
    ("message_lock", "a message's lock"),
];

/// Counts the instructions and prints a table.
///
/// # Errors
/// See [`CostError`].
pub fn command(options: &Options) -> Result<(), CostError> {
    let pairs = measure()?;
    match &options.disassemble {
        None => print!("{}", table(&pairs)),
        Some(lock) => {
            let pair = pairs.iter().find(|pair| pair.functions == lock);
            let pair = pair.ok_or_else(|| CostError::Missing(format!("{lock} was not counted")))?;
            print!("guard:\n{}calls:\n{}", pair.guard.text, pair.calls.text);
        }
    }
    Ok(())
}

/// Compares the table in docs/locking.md with the counts.
///
/// # Errors
/// See [`CostError`].
pub fn check() -> Result<(), CostError> {
    let measured = table(&measure()?);
    print!("{measured}");
    let path = workspace::root().join("docs/locking.md");
    match fs::read_to_string(&path) {
        Ok(text) if text.contains(&measured) => Ok(()),
        Ok(_) => Err(CostError::Documented { path }),
        Err(source) => Err(CostError::Read { path, source }),
    }
}

/// The two functions for one lock.
struct Pair {
    /// The suffix of the functions' names.
    functions: &'static str,
    lock: &'static str,
    guard: Way,
    calls: Way,
}

/// A path through a function.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Way {
    instructions: isize,
    /// The names of the imported functions that it calls, in order.
    calls: Vec<String>,
    text: String,
}

fn measure() -> Result<Vec<Pair>, CostError> {
    let here = Place::here();
    here.build(PACKAGE, X64)?;
    let path = here.built("guard_cost.dll", X64);
    let bytes = fs::read(&path).map_err(|source| CostError::Read { path, source })?;
    pairs(&Code::parse(&bytes)?, &LOCKS)
}

/// The table of the documentation.
fn table(pairs: &[Pair]) -> String {
    let mut text = String::from(
        "| Lock | The raw calls | With the guard | The guard's own |\n|---|---|---|---|\n",
    );
    for pair in pairs {
        let (calls, guard) = (pair.calls.instructions, pair.guard.instructions);
        let own = guard - calls;
        let _ = writeln!(text, "| {} | {calls} | {guard} | {own} |", pair.lock);
    }
    text
}

/// Finds the functions of `locks` in `code` and counts their instructions.
fn pairs(code: &Code<'_>, locks: &[(&'static str, &'static str)]) -> Result<Vec<Pair>, CostError> {
    let pair = |&(functions, lock)| {
        let calls = code
            .ways(&format!("calls_{functions}"))?
            .into_iter()
            .filter(|way| way.calls.len() == 2)
            .min_by_key(|way| way.instructions)
            .ok_or_else(|| {
                CostError::Missing(format!(
                    "calls_{functions} has no path with two calls (acquire and release)"
                ))
            })?;
        let guard = code
            .ways(&format!("guard_{functions}"))?
            .into_iter()
            .filter(|way| way.calls == calls.calls)
            .min_by_key(|way| way.instructions)
            .ok_or_else(|| {
                CostError::Missing(format!(
                    "guard_{functions} has no path with the same calls as calls_{functions}"
                ))
            })?;
        Ok(Pair {
            functions,
            lock,
            guard,
            calls,
        })
    };
    locks.iter().map(pair).collect()
}

/// A file's code. All addresses are relative to the image base.
struct Code<'b> {
    /// The start address and bytes of each section.
    sections: Vec<(u32, &'b [u8])>,
    /// Addresses of exported functions.
    exports: BTreeMap<String, u32>,
    /// Names of imported functions, by their address in the import address table.
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
                "invalid instruction at {address:#x}"
            )));
        }
        Ok(instruction)
    }

    /// Every path from the entry of `function` to a return that does not repeat an instruction.
    fn ways(&self, function: &str) -> Result<Vec<Way>, CostError> {
        let entry = self.exports.get(function).ok_or_else(|| {
            CostError::Missing(format!("the file exports no function {function}"))
        })?;
        let mut ways = Vec::new();
        // Unfinished paths, with the addresses of their instructions; the last one is next.
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
                // Interrupts and exceptions end the path without a return.
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

    /// The imported function that a branch or call reaches, directly or through an import thunk.
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

    /// The imported function whose entry in the import address table the instruction reads.
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

    /// The addresses of a test's code and of its import address table entries.
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
            let code = Code {
                sections: vec![(START, &self.bytes)],
                exports: self.exports.clone(),
                slots: [(TAKE, "Take".into()), (GIVE, "Give".into())].into(),
            };
            pairs(&code, &[("lock", "a lock")])
        }
    }

    const NOP: &[u8] = &[0x90];
    const RET: &[u8] = &[0xC3];
    /// `test rdi, rdi`
    const TEST: &[u8] = &[0x48, 0x85, 0xFF];
    /// `je` over a call by a slot and a `nop`.
    const SKIP: &[u8] = &[0x74, 7];

    /// Appends `calls_lock`: three instructions, two of which are calls.
    fn calls(assembler: Assembler) -> Assembler {
        assembler
            .function("calls_lock")
            .call(TAKE)
            .call(GIVE)
            .code(RET)
    }

    #[test]
    fn a_guard_costs_the_difference_in_instructions() {
        let pairs = calls(Assembler::default())
            .function("guard_lock")
            .code(NOP)
            .call(TAKE)
            .code(NOP)
            .call(GIVE)
            .code(RET)
            .pairs()
            .unwrap();

        assert_eq!(
            table(&pairs),
            "| Lock | The raw calls | With the guard | The guard's own |\n\
             |---|---|---|---|\n\
             | a lock | 3 | 5 | 2 |\n"
        );
    }

    #[test]
    fn a_path_that_does_not_acquire_the_lock_does_not_count() {
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

        assert_eq!(pairs[0].guard.instructions, 6);
        assert_eq!(pairs[0].guard.calls, ["Take", "Give"]);
    }

    #[test]
    fn a_path_that_enters_a_loop_again_is_dropped() {
        let pairs = calls(Assembler::default())
            .function("guard_lock")
            .call(TAKE)
            .call(GIVE)
            // jne to the function's entry.
            .code(&[0x75, 0xF2])
            .code(RET)
            .pairs()
            .unwrap();

        assert_eq!(pairs[0].guard.instructions, 4);
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
            "guard_lock has no path with the same calls as calls_lock"
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
