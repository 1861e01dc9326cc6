//! Checks the machine code of an ARM64 driver file: device register accesses have their
//! memory barriers, and memory is copied 16 bytes at a time.
//!
//! ARM64 can reorder device accesses with memory accesses. On ARM64, the framework's register
//! accesses are separate functions, so the linker's map has their names. A `dmb osh` must
//! precede each store. A `dmb oshld` must follow each load.
//!
//! The compiler calls `memcpy`, `memmove` and `memset`. A loop of single bytes there would
//! cost more than the rest of a request.

use std::{fs, io, path::Path};

use object::{LittleEndian as LE, read::pe::PeFile64};

/// Part of the names of the register access functions, mangled or not.
const TYPE: &str = "MappedRegisters";

/// The register access functions that a virtio driver uses.
const ACCESSES: [&str; 6] = [
    "read_u8",
    "read_u16",
    "read_u32",
    "write_u8",
    "write_u16",
    "write_u32",
];

/// The routines that the compiler calls to copy and fill memory.
const BLOCK_ROUTINES: [&str; 3] = ["memcpy", "memmove", "memset"];

const DMB_OSH: u32 = 0xD503_33BF;
const DMB_OSHLD: u32 = 0xD503_31BF;

/// A driver file failed the check, or could not be checked.
#[derive(Debug, thiserror::Error)]
pub enum BarrierError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// The system's error.
        source: io::Error,
    },
    /// The driver file is not a PE file.
    #[error("not a 64-bit PE file: {0}")]
    Image(#[from] object::Error),
    /// The map does not have a register access function.
    #[error(
        "the linker map has no function {TYPE}::{0}: it was inlined, renamed or removed; adapt \
         xtask/src/barriers.rs"
    )]
    Missing(&'static str),
    /// A function's address lies outside the file.
    #[error("the driver file has no code for {0}, which the linker map names")]
    NoCode(String),
    /// An access without its barrier.
    #[error(
        "{function}: the {access} at offset {offset:#x} has no memory barrier: dmb osh must \
         precede a store, dmb oshld must follow a load"
    )]
    NoBarrier {
        /// The function.
        function: String,
        /// "load" or "store".
        access: &'static str,
        /// Bytes from the function's start.
        offset: usize,
    },
    /// A routine moves single bytes.
    #[error("{0} has no loop that stores 16 bytes at a time, so block copies are slow")]
    Narrow(String),
    /// The map has none of the routines.
    #[error(
        "the linker map has none of {}: they were renamed or removed; adapt \
         xtask/src/barriers.rs", BLOCK_ROUTINES.join(", ")
    )]
    NoRoutine,
    /// A function has no load or store.
    #[error("{0} has no load or store: the check does not see its register access")]
    NoAccess(String),
}

/// Checks the ARM64 driver file at `path`, with the `.map` beside it. Returns the number of
/// register accesses, all of which have barriers.
///
/// # Errors
/// The first failed check.
pub fn check(path: &Path) -> Result<usize, BarrierError> {
    let read = |path: &Path| {
        fs::read(path).map_err(|source| BarrierError::Read {
            path: path.display().to_string(),
            source,
        })
    };
    let bytes = read(path)?;
    let map = read(&path.with_extension("map"))?;
    let functions = functions(&String::from_utf8_lossy(&map));
    let file = PeFile64::parse(&*bytes)?;
    let base = file.nt_headers().optional_header.image_base.get(LE);
    let mut accesses = 0;
    for access in ACCESSES {
        let found: Vec<_> = functions
            .iter()
            .filter(|function| is_access(&function.name, access))
            .collect();
        if found.is_empty() {
            return Err(BarrierError::Missing(access));
        }
        for function in found {
            let code = code(&file, base, function)
                .ok_or_else(|| BarrierError::NoCode(function.name.clone()))?;
            accesses += check_function(&function.name, &code)?;
        }
    }
    // The linker drops a routine that nothing calls.
    let routines = functions
        .iter()
        .filter(|function| BLOCK_ROUTINES.contains(&function.name.as_str()));
    let mut found = 0;
    for function in routines {
        let code = code(&file, base, function)
            .ok_or_else(|| BarrierError::NoCode(function.name.clone()))?;
        if !has_wide_loop(&code) {
            return Err(BarrierError::Narrow(function.name.clone()));
        }
        found += 1;
    }
    if found == 0 {
        return Err(BarrierError::NoRoutine);
    }
    Ok(accesses)
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

/// A function of the linker map, with its address range.
struct Function {
    name: String,
    start: u64,
    end: u64,
}

/// The functions of a linker map, sorted by address.
fn functions(map: &str) -> Vec<Function> {
    let mut symbols: Vec<(u64, String)> = map
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            // Section 1 is the code.
            words.next().filter(|place| place.starts_with("0001:"))?;
            let name = words.next()?.to_owned();
            let address = u64::from_str_radix(words.next()?, 16).ok()?;
            Some((address, name))
        })
        .collect();
    symbols.sort();
    let ends: Vec<u64> = symbols.iter().skip(1).map(|(start, _)| *start).collect();
    symbols
        .into_iter()
        .zip(ends)
        .map(|((start, name), end)| Function { name, start, end })
        .collect()
}

/// Whether a mangled name is that of `access`. The hash `17h…` must follow the name, so
/// `write_u8` does not match `write_u8_volatile`.
fn is_access(name: &str, access: &str) -> bool {
    let length_and_name = format!("{}{access}17h", access.len());
    name.contains(TYPE) && name.contains(&length_and_name)
}

/// The instructions of a function.
fn code(file: &PeFile64<'_>, base: u64, function: &Function) -> Option<Vec<u32>> {
    let sections = file.section_table();
    let start = u32::try_from(function.start.checked_sub(base)?).ok()?;
    let length = usize::try_from(function.end.checked_sub(function.start)?).ok()?;
    let bytes = sections.pe_data_at(file.data(), start)?.get(..length)?;
    let (words, _) = bytes.as_chunks();
    Some(words.iter().map(|word| u32::from_le_bytes(*word)).collect())
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
    let direction = if is_single {
        instruction >> 22 & 3
    } else {
        instruction >> 22 & 1
    };
    Some(if direction == 0 {
        Access::Store
    } else {
        Access::Load
    })
}

/// Checks each access of a function. Returns the number of accesses.
fn check_function(name: &str, code: &[u32]) -> Result<usize, BarrierError> {
    let mut accesses = 0;
    for (index, instruction) in code.iter().enumerate() {
        let beside = match access(*instruction) {
            None => continue,
            Some(Access::Store) => {
                index.checked_sub(1).and_then(|before| code.get(before)) == Some(&DMB_OSH)
            }
            Some(Access::Load) => code.get(index + 1) == Some(&DMB_OSHLD),
        };
        if !beside {
            return Err(BarrierError::NoBarrier {
                function: name.to_owned(),
                access: if access(*instruction) == Some(Access::Store) {
                    "store"
                } else {
                    "load"
                },
                offset: index * 4,
            });
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
    fn a_store_needs_its_barrier_before_it() {
        for store in STORES {
            assert!(matches!(
                check_function("f", &[OTHERS[0], DMB_OSH, store, RET]),
                Ok(1)
            ));
            for without in [
                &[store, RET][..],
                &[DMB_OSHLD, store, RET],
                &[store, DMB_OSH, RET],
                &[DMB_OSH, OTHERS[0], store, RET],
                &[DMB_OSH, store, store, RET],
            ] {
                let checked = check_function("f", without);
                assert!(matches!(checked, Err(BarrierError::NoBarrier { .. })));
            }
        }
    }

    #[test]
    fn a_load_needs_its_barrier_after_it() {
        for load in LOADS {
            assert!(matches!(
                check_function("f", &[load, DMB_OSHLD, RET]),
                Ok(1)
            ));
            for without in [&[load, RET][..], &[DMB_OSHLD, load, RET], &[load]] {
                let checked = check_function("f", without);
                assert!(matches!(checked, Err(BarrierError::NoBarrier { .. })));
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
    fn a_function_ends_where_the_next_begins() {
        let map = " 0001:00000010  _ZN8storport9registers15MappedRegisters9write_u1617habcE 0000000180001010 f\n \
                   0001:00000000  _ZN8storport9registers15MappedRegisters8write_u817habcE 0000000180001000 f\n \
                   0002:00000000  data 0000000180002000 f\n \
                   0001:00000020  last 0000000180001020 f\n";
        let functions = functions(map);
        let places: Vec<_> = functions
            .iter()
            .map(|function| (function.start & 0xFF, function.end & 0xFF))
            .collect();
        assert_eq!(places, [(0, 0x10), (0x10, 0x20)]);
        assert!(is_access(&functions[0].name, "write_u8"));
        assert!(!is_access(&functions[0].name, "write_u16"));
        assert!(is_access(&functions[1].name, "write_u16"));
    }
}
