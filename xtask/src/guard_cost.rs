//! `cargo xtask guard-cost`: counts the instructions that a lock guard adds, by static analysis
//! of a linked file.
//!
//! The file has pairs of functions: `guard_X` acquires a lock with a guard of crates/storport,
//! `calls_X` with the calls of a C miniport. The count of a function is that of its shortest
//! path from entry to return that acquires the lock.

use std::{
    collections::{BTreeSet, VecDeque},
    fmt::Write as _,
    io,
};

use fs_err as fs;
use iced_x86::{Decoder, DecoderOptions, FlowControl};
use packaging::architecture::Architecture::X64;

use crate::{
    linked::{Function, Linked, LinkedError},
    reproducible::Place,
    tool::ToolError,
    workspace,
};

const HELP: &str = "\
For each lock, the command counts the instructions of two functions that acquire the
lock, increment a counter and release the lock. One uses a guard of crates/storport,
the other the calls of a C miniport. The difference is the cost of the guard.

Examples:
  cargo xtask guard-cost";

/// The package whose functions are compared.
pub const PACKAGE: &str = "ferrostor-guard-cost";

/// The options of `cargo xtask guard-cost`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Options {}

/// The cost was not counted, or differs from the documentation.
#[derive(Debug, thiserror::Error)]
pub enum CostError {
    #[error("the functions to compare were not built: {0}")]
    Cargo(#[from] ToolError),
    #[error(transparent)]
    Linked(#[from] LinkedError),
    #[error("the linked file has no function {0}")]
    Missing(String),
    #[error("{0} has no path that makes the calls {1}")]
    NoPath(String, String),
    #[error(transparent)]
    Read(#[from] io::Error),
    #[error("{PAGE} does not have the table that `cargo xtask guard-cost` prints: copy it there")]
    Documented,
}

const PAGE: &str = "docs/locking.md";

/// The suffixes of the functions' names, the locks' names in the documentation, and what the
/// functions call to acquire and to release the lock.
const LOCKS: &str = "\
    start_io_lock     | StartIoLock      | StorPortNotification StorPortNotification
    dpc_lock          | DpcLock          | StorPortNotification StorPortNotification
    dpc_level_lock    | DpcLevelLock     | StorPortExtendedFunction StorPortNotification
    threaded_dpc_lock | ThreadedDpcLock  | StorPortExtendedFunction StorPortNotification
    interrupt_lock    | InterruptLock    | StorPortNotification StorPortNotification
    message_lock      | a message's lock | StorPortExtendedFunction StorPortExtendedFunction";

/// Counts the instructions and prints a table.
pub fn command(Options {}: &Options) -> Result<(), CostError> {
    print!("{}", measure()?);
    Ok(())
}

/// Compares the table in docs/locking.md with the counts.
pub fn check() -> Result<(), CostError> {
    let measured = measure()?;
    print!("{measured}");
    let page = fs::read_to_string(workspace::root().join(PAGE))?;
    if page.contains(&measured) {
        Ok(())
    } else {
        Err(CostError::Documented)
    }
}

/// The table of the documentation.
fn measure() -> Result<String, CostError> {
    let here = Place::here();
    here.build(PACKAGE, X64)?;
    let file = Linked::read(&here.built("deps/guard_cost.dll", X64))?;
    let mut text = String::from(
        "| Lock | The raw calls | With the guard | The guard's own |\n|---|---|---|---|\n",
    );
    for lock in LOCKS.lines() {
        let cells: Vec<_> = lock.split('|').map(str::trim).collect();
        let (functions, lock) = (cells[0], cells[1]);
        let calls: Vec<_> = cells[2].split(' ').collect();
        let raw = shortest(&file, &format!("calls_{functions}"), &calls)?;
        let guard = shortest(&file, &format!("guard_{functions}"), &calls)?;
        let own = guard - raw;
        let _ = writeln!(text, "| {lock} | {raw} | {guard} | {own} |");
    }
    Ok(text)
}

/// The fewest instructions on a path from the entry of `function` to a return that makes these
/// `calls`.
fn shortest(file: &Linked, function: &str, calls: &[&str]) -> Result<isize, CostError> {
    let named = |it: &&Function| it.name == function;
    let Some(Function {
        address: entry,
        code,
        ..
    }) = file.functions.iter().find(named)
    else {
        return Err(CostError::Missing(function.to_owned()));
    };
    // Unfinished paths, the shortest first: the next instruction's address, the number of calls
    // made, and the number of instructions.
    let mut open = VecDeque::from([(*entry, 0, 1)]);
    let mut seen = BTreeSet::new();
    while let Some((address, made, count)) = open.pop_front() {
        let offset = address
            .checked_sub(*entry)
            .and_then(|it| usize::try_from(it).ok());
        let Some(code) = offset.and_then(|offset| code.get(offset..)) else {
            continue;
        };
        if !seen.insert((address, made)) {
            continue;
        }
        let instruction = Decoder::with_ip(64, code, address, DecoderOptions::NONE).decode();
        let (next, target) = (instruction.next_ip(), instruction.near_branch_target());
        // A branch leads to a function's import thunk, or reads its slot.
        let slot = instruction.is_ip_rel_memory_operand();
        let named = if slot {
            instruction.ip_rel_memory_address()
        } else {
            target
        };
        let named = file
            .names
            .get(&named)
            .map(|name| name.trim_start_matches("__imp_"));
        let is_wanted = named.is_some() && named == calls.get(made).copied();
        let mut go = |address, made| open.push_back((address, made, count + 1));
        match instruction.flow_control() {
            FlowControl::Return if made == calls.len() => return Ok(count),
            FlowControl::Next => go(next, made),
            FlowControl::ConditionalBranch => {
                go(next, made);
                go(target, made);
            }
            FlowControl::Call | FlowControl::IndirectCall if is_wanted => go(next, made + 1),
            // A jump to a function is a call at the end of this one.
            FlowControl::UnconditionalBranch | FlowControl::IndirectBranch
                if is_wanted && made + 1 == calls.len() =>
            {
                return Ok(count);
            }
            FlowControl::UnconditionalBranch => go(target, made),
            // Another call or an interrupt ends the path.
            _ => {}
        }
    }
    Err(CostError::NoPath(function.to_owned(), calls.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The code of a function, what it is, and the instructions of its shortest path.
    const FUNCTIONS: &str = "\
        take give ret                 | two calls                 | 3
        nop take nop give ret         | more instructions         | 5
        test skip take nop give ret   | a path without a call     | 6
        take give loop ret            | a loop                    | 4
        nop nop endless               | an endless loop           |
        give take ret                 | the calls in another order |
        take give take ret            | a call too many           |
        take ret                      | a call too few            |
        take jump-to-give             | a jump at the end         | 2
        take jump-to-take             | another jump at the end   |
        take give nop                 | no end                    |";

    /// An instruction that stands at 0x1000.
    fn assembled(instruction: &str) -> Vec<u8> {
        match instruction {
            "nop" => vec![0x90],
            "ret" => vec![0xC3],
            // `test rdi, rdi`
            "test" => vec![0x48, 0x85, 0xFF],
            // `je` over two calls and a `nop`.
            "skip" => vec![0x74, 12],
            // `jne` over itself and two calls, backward.
            "loop" => vec![0x75, 0xF3],
            // `jmp` over itself and a `nop`, backward.
            "endless" => vec![0xEB, 0xFD],
            // They call and jump to 0x2000.
            "take" => vec![0xE8, 0xFB, 0x0F, 0, 0],
            "jump-to-take" => vec![0xE9, 0xFB, 0x0F, 0, 0],
            // They call and jump through the slot at 0x3000.
            "give" => vec![0xFF, 0x15, 0xFA, 0x1F, 0, 0],
            "jump-to-give" => vec![0xFF, 0x25, 0xFA, 0x1F, 0, 0],
            _ => panic!("{instruction}"),
        }
    }

    #[test]
    fn the_shortest_path_that_acquires_and_releases_the_lock_counts() {
        for line in FUNCTIONS.lines() {
            let cells: Vec<_> = line.split('|').map(str::trim).collect();
            let mut code = Vec::new();
            for instruction in cells[0].split(' ') {
                let mut bytes = assembled(instruction);
                // The distance is from where the instruction stands.
                if let [.., low, _, _, _] = &mut *bytes {
                    *low -= code.len() as u8;
                }
                code.extend(bytes);
            }
            let (name, address) = ("f".to_owned(), 0x1000);
            let names = [(0x1000, "f"), (0x2000, "Take"), (0x3000, "__imp_Give")];
            let file = Linked {
                functions: vec![Function {
                    name,
                    address,
                    code,
                }],
                names: names.map(|(address, name)| (address, name.into())).into(),
            };
            let count = shortest(&file, "f", &["Take", "Give"]).ok();
            assert_eq!(count, cells[2].parse().ok(), "{line}");
        }
    }
}
