//! Checks the machine code of an ARM64 driver file: device register accesses have their
//! memory barriers, and memory is copied 16 bytes at a time.
//!
//! ARM64 can reorder device accesses with memory accesses. On ARM64, the framework's register
//! accesses are separate functions, so the linker's map has their names. A `dmb osh` must
//! precede each store. A `dmb oshld` must follow each load.
//!
//! The compiler calls `memcpy`, `memmove` and `memset`. A loop of single bytes there would
//! cost more than the rest of a request.

use std::path::Path;

use crate::linked::{Function, Linked, LinkedError};

/// The register access functions that a virtio driver uses: their type and their name.
const ACCESSES: [(&str, &str); 7] = [
    ("MappedRegisters", "read_u8"),
    ("MappedRegisters", "read_u16"),
    ("MappedRegisters", "read_u32"),
    ("MappedRegisters", "write_u8"),
    ("MappedRegisters", "write_u16"),
    ("MappedRegisters", "write_u32"),
    ("RegisterU16", "write"),
];

/// The routines that the compiler calls to copy and fill memory.
const BLOCK_ROUTINES: [&str; 3] = ["memcpy", "memmove", "memset"];

const DMB_OSH: u32 = 0xD503_33BF;
const DMB_OSHLD: u32 = 0xD503_31BF;

/// A driver file failed the check, or could not be checked.
#[derive(Debug, thiserror::Error)]
pub enum BarrierError {
    #[error(transparent)]
    Linked(#[from] LinkedError),
    #[error(
        "the driver file has no function {0} of the linker map: it was inlined, renamed or \
         removed; adapt xtask/src/barriers.rs"
    )]
    Missing(String),
    #[error(
        "{0}: the {1} at offset {2:#x} has no memory barrier: dmb osh must precede a store, \
         dmb oshld must follow a load"
    )]
    NoBarrier(String, &'static str, usize),
    #[error("{0} has no loop that stores 16 bytes at a time, so block copies are slow")]
    Narrow(String),
    #[error("{0} has no load or store: the check does not see its register access")]
    NoAccess(String),
}

/// Checks the ARM64 driver file at `path`, with the `.map` beside it. Returns the number of
/// register accesses, all of which have barriers.
pub fn check(path: &Path) -> Result<usize, BarrierError> {
    let functions = Linked::read(path)?.functions;
    let mut accesses = 0;
    for (of_type, access) in ACCESSES {
        let mut found = functions
            .iter()
            .filter(|function| is_access(&function.name, of_type, access))
            .peekable();
        if found.peek().is_none() {
            return Err(BarrierError::Missing(format!("{of_type}::{access}")));
        }
        for function in found {
            accesses += check_function(&function.name, &instructions(function))?;
        }
    }
    // The linker drops a routine that nothing calls.
    let mut routines = functions
        .iter()
        .filter(|function| BLOCK_ROUTINES.contains(&function.name.as_str()))
        .peekable();
    if routines.peek().is_none() {
        return Err(BarrierError::Missing(BLOCK_ROUTINES.join(" or ")));
    }
    match routines.find(|routine| !has_wide_loop(&instructions(routine))) {
        Some(routine) => Err(BarrierError::Narrow(routine.name.clone())),
        None => Ok(accesses),
    }
}

fn instructions(function: &Function) -> Vec<u32> {
    let (words, _) = function.code.as_chunks();
    words.iter().map(|word| u32::from_le_bytes(*word)).collect()
}

/// Whether a loop stores 16 bytes at a time, from a pair of X registers or from a Q register
/// (Arm Architecture Reference Manual, "Loads and stores").
fn has_wide_loop(code: &[u32]) -> bool {
    let stores_16 = |instruction: &u32| {
        // STP of X or Q registers, STR of a Q register.
        let pair = matches!(instruction & 0xFE40_0000, 0xA800_0000 | 0xAC00_0000);
        let single = matches!(instruction & 0xFFC0_0000, 0x3C80_0000 | 0x3D80_0000);
        (pair || single) && instruction >> 5 & 31 != STACK_POINTER
    };
    code.iter().enumerate().any(|(index, instruction)| {
        loop_begin(index, *instruction)
            .and_then(|begin| code.get(begin..index))
            .is_some_and(|body| body.iter().any(stores_16))
    })
}

/// The target of the conditional branch at `index`, if it is a backward branch.
fn loop_begin(index: usize, instruction: u32) -> Option<usize> {
    // B.cond, CBZ and CBNZ have a signed distance in words in bits 5 to 23.
    let branches =
        instruction & 0xFF00_0010 == 0x5400_0000 || instruction & 0x7E00_0000 == 0x3400_0000;
    let distance = (instruction << 8).cast_signed() >> 13;
    let back = usize::try_from(distance.checked_neg()?).ok()?;
    index.checked_sub(back).filter(|_| branches && back > 0)
}

/// Whether a mangled name is that of `access`. The hash `17h…` must follow the name, so
/// `write_u8` does not match `write_u8_volatile`.
fn is_access(name: &str, of_type: &str, access: &str) -> bool {
    let length_and_name = format!("{}{access}17h", access.len());
    name.contains(of_type) && name.contains(&length_and_name)
}

const STACK_POINTER: u32 = 31;

/// An instruction's access to memory outside the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Load,
    Store,
}

/// Decodes an instruction (Arm Architecture Reference Manual, "Loads and stores").
fn access(instruction: u32) -> Option<Access> {
    let is_load_or_store = instruction & 0x0A00_0000 == 0x0800_0000;
    let base = instruction >> 5 & 31;
    if !is_load_or_store || base == STACK_POINTER {
        return None;
    }
    // Bits 22 and 23 are the direction of a single register, bit 22 that of a pair.
    let is_single = instruction & 0x3A00_0000 == 0x3800_0000;
    let mask = if is_single { 3 } else { 1 };
    Some(if instruction >> 22 & mask == 0 {
        Access::Store
    } else {
        Access::Load
    })
}

/// Checks each access of a function. Returns the number of accesses.
fn check_function(name: &str, code: &[u32]) -> Result<usize, BarrierError> {
    let mut accesses = 0;
    for (index, instruction) in code.iter().enumerate() {
        let before = index.checked_sub(1).and_then(|before| code.get(before));
        let (kind, barrier, wanted) = match access(*instruction) {
            None => continue,
            Some(Access::Store) => ("store", before, DMB_OSH),
            Some(Access::Load) => ("load", code.get(index + 1), DMB_OSHLD),
        };
        if barrier != Some(&wanted) {
            return Err(BarrierError::NoBarrier(name.to_owned(), kind, index * 4));
        }
        accesses += 1;
    }
    if accesses == 0 {
        return Err(BarrierError::NoAccess(name.to_owned()));
    }
    Ok(accesses)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `strb w3, [x0, x2]`, `strh w3, [x0, #2]`, `str w3, [x0]`, `stp x0, x1, [x2]`.
    const STORES: [u32; 4] = [0x3822_6803, 0x7900_0403, 0xB900_0003, 0xA900_0440];
    /// `ldrb w0, [x0, x2]`, `ldrh w0, [x8]`, `ldr w0, [x8, x2]`.
    const LOADS: [u32; 3] = [0x3862_6800, 0x7940_0100, 0xB862_6900];
    const RET: u32 = 0xD65F_03C0;
    /// `cmp x2, x1`, `add x8, x2, #2`, `tbnz w2, #0, +24`.
    const OTHERS: [u32; 3] = [0xEB01_005F, 0x9100_0848, 0x3700_00C2];

    #[test]
    fn loads_and_stores_are_distinguished_from_other_instructions() {
        for store in STORES {
            assert_eq!(access(store), Some(Access::Store), "{store:#x}");
        }
        for load in LOADS {
            assert_eq!(access(load), Some(Access::Load), "{load:#x}");
        }
        for other in OTHERS.into_iter().chain([RET, DMB_OSH, DMB_OSHLD]) {
            assert_eq!(access(other), None, "{other:#x}");
        }
        // `stp x29, x30, [sp, #-16]!`
        assert_eq!(access(0xA9BF_7BFD), None);
    }

    #[test]
    fn a_store_needs_its_barrier_before_it_and_a_load_after_it() {
        let [cmp, ..] = OTHERS;
        let mut cases = Vec::new();
        for store in STORES {
            cases.extend([
                (true, vec![cmp, DMB_OSH, store, RET]),
                (false, vec![store, RET]),
                (false, vec![DMB_OSHLD, store, RET]),
                (false, vec![store, DMB_OSH, RET]),
                (false, vec![DMB_OSH, cmp, store, RET]),
                (false, vec![DMB_OSH, store, store, RET]),
            ]);
        }
        for load in LOADS {
            cases.extend([
                (true, vec![load, DMB_OSHLD, RET]),
                (false, vec![load, RET]),
                (false, vec![DMB_OSHLD, load, RET]),
                (false, vec![load]),
            ]);
        }
        for (is_ordered, code) in cases {
            match check_function("f", &code) {
                Ok(accesses) => assert!(is_ordered && accesses == 1, "{code:x?}"),
                Err(BarrierError::NoBarrier(..)) => assert!(!is_ordered, "{code:x?}"),
                Err(other) => panic!("{code:x?}: {other}"),
            }
        }
    }

    /// `ldp x9, x10, [x1], #16`, `stp x9, x10, [x0], #16`, `subs x2, x2, #16`,
    /// `b.hs -12`.
    const WIDE_LOOP: [u32; 4] = [0xA8C1_2829, 0xA881_2809, 0xF100_4042, 0x54FF_FFA2];
    /// `ldrb w9, [x1], #1`, `strb w9, [x0], #1`, `subs x2, x2, #1`, `b.ne -12`.
    const NARROW_LOOP: [u32; 4] = [0x3840_1429, 0x3800_1409, 0xF100_0442, 0x54FF_FFA1];

    #[test]
    fn a_loop_of_16_bytes_is_distinguished_from_one_of_single_bytes() {
        assert!(has_wide_loop(
            &[&WIDE_LOOP[..], &NARROW_LOOP, &[RET]].concat()
        ));
        // `stp q0, q1, [x0], #32` and `b.hs -8`.
        assert!(has_wide_loop(&[0xAC81_0400, 0xF100_8042, 0x54FF_FFC2, RET]));
        for narrow in [
            &NARROW_LOOP[..],
            // Not in a loop.
            &WIDE_LOOP[..3],
            // `stp x29, x30, [sp, #-16]!` in a loop of single bytes.
            &[0xA9BF_7BFD, 0x3800_1409, 0xF100_0442, 0x54FF_FFA1],
        ] {
            assert!(!has_wide_loop(narrow), "{narrow:x?}");
        }
    }

    #[test]
    fn a_function_without_an_access_is_refused() {
        let checked = check_function("f", &[RET]);
        assert!(matches!(checked, Err(BarrierError::NoAccess(_))));
    }

    #[test]
    fn a_register_access_is_known_by_its_whole_name() {
        let name = "_ZN8storport9registers15MappedRegisters8write_u817habcE";
        let longer = name.replace("8write_u8", "9write_u16");
        assert!(is_access(name, "MappedRegisters", "write_u8"));
        assert!(!is_access(name, "RegisterU16", "write_u8"));
        assert!(!is_access(name, "MappedRegisters", "write_u"));
        assert!(!is_access(&longer, "MappedRegisters", "write_u8"));
    }
}
