//! Where a thread is in the driver: the return addresses of the driver's calls,
//! newest first, found by the unwind information of its image.
//!
//! A walk begins at the driver's call of one of the testbed's functions, which
//! kept the driver's registers (see `variadic_entry`), or at a fault. Callbacks
//! nest: below the first one's lies what the driver was in when it called what
//! led to it. Nothing here allocates: crash messages use it.

#![cfg_attr(test, expect(unsafe_code, reason = "runs a driver's code"))]

use std::cell::Cell;

use super::{images, process_memory};
use testbed_loader::Registers;

/// Callbacks in callbacks that are told apart.
const DEEPEST: usize = 8;

/// The most return addresses of a walk: what goes round is cut off.
const MOST: usize = 32;

/// The registers that a function must not change, below the return address in
/// the order in which `variadic_entry` pushes them, by their numbers in unwind
/// codes: RBX, RBP, RSI, RDI, R12 to R15.
const KEPT: [usize; 8] = [3, 5, 6, 7, 12, 13, 14, 15];

thread_local! {
    /// For each callback that the thread is in: the arguments of the call that
    /// it made last; 0 for none yet.
    static CALLS: [Cell<usize>; DEEPEST] = const { [const { Cell::new(0) }; DEEPEST] };
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// The driver's calls that the calling thread is in, for another thread to walk
/// while this one waits.
#[derive(Clone, Copy, Debug, Default)]
pub struct Calls([usize; DEEPEST]);

impl Calls {
    /// Those of the calling thread, which is in a call of the driver's.
    pub fn here() -> Self {
        let depth = DEPTH.get().min(DEEPEST - 1);
        let mut calls = [0; DEEPEST];
        CALLS.with(|all| {
            for (call, place) in calls.iter_mut().zip(all[..=depth].iter().rev()) {
                *call = place.get();
            }
        });
        Self(calls)
    }

    /// The return addresses in the driver.
    pub fn walk(self) -> Walk {
        Walk {
            at: None,
            calls: self,
            next: 0,
            left: MOST,
        }
    }

    /// The return addresses in the driver of a thread that faulted: its place
    /// first, unless that is not in the driver.
    pub(super) fn walk_from(self, registers: Registers, fetched: bool) -> Walk {
        let in_driver = images::of(registers.rip).is_some();
        let at = match (in_driver, fetched) {
            (true, _) => Some(At {
                registers,
                is_return: false,
            }),
            // It jumped away: the call's return address is on top.
            (false, true) => {
                let mut registers = registers;
                registers.pop_return(word).map(|()| At {
                    registers,
                    is_return: true,
                })
            }
            // In a function of the testbed that it called.
            (false, false) => None,
        };
        Walk {
            next: usize::from(at.is_some()),
            at,
            calls: self,
            left: MOST,
        }
    }
}

/// Notes a call of the driver's whose arguments lie at `arguments`, the kept
/// registers and the return address below them.
pub fn record_call(arguments: usize) {
    CALLS.with(|all| all[DEPTH.get().min(DEEPEST - 1)].set(arguments));
}

/// The calling thread enters a callback, which has made no call yet.
pub(super) fn enter() {
    DEPTH.set(DEPTH.get() + 1);
    record_call(0);
}

/// It leaves it.
pub(super) fn leave() {
    DEPTH.set(DEPTH.get() - 1);
}

/// A place of a walk.
#[derive(Clone, Copy, Debug)]
struct At {
    registers: Registers,
    is_return: bool,
}

/// The places of a thread in the driver, newest first.
#[derive(Clone, Debug)]
pub struct Walk {
    at: Option<At>,
    calls: Calls,
    /// The call that follows what `at` leads to.
    next: usize,
    left: usize,
}

impl Iterator for Walk {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        loop {
            self.left = self.left.checked_sub(1)?;
            match self.at.take() {
                Some(at) => {
                    if let Some((image, offset)) = images::of(at.registers.rip) {
                        self.at = caller(at, image, offset);
                        return Some(at.registers.rip);
                    }
                }
                None => {
                    let call = *self.calls.0.get(self.next)?;
                    self.next += 1;
                    self.at = begin(call);
                }
            }
        }
    }
}

/// Where the call with these arguments returns to.
fn begin(arguments: usize) -> Option<At> {
    if arguments == 0 {
        return None;
    }
    let mut registers = Registers {
        rip: word(arguments - 8)?,
        ..Registers::default()
    };
    let mut at = arguments - 8;
    for register in KEPT {
        at -= 8;
        registers.general[register] = word(at)?;
    }
    registers.set_stack(arguments);
    Some(At {
        registers,
        is_return: true,
    })
}

fn caller(at: At, image: &testbed_loader::Image, offset: u32) -> Option<At> {
    let mut registers = at.registers;
    // What a call returns to may be the next function.
    let inside = offset.saturating_sub(u32::from(at.is_return));
    let below = registers.stack();
    image.unwind(inside, &mut registers, word)?;
    (registers.stack() > below).then_some(At {
        registers,
        is_return: true,
    })
}

fn word(address: usize) -> Option<usize> {
    let mut bytes = [0; 8];
    process_memory::read(address, &mut bytes)?;
    Some(usize::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::{
        trap::{in_driver, place_in_driver, watch},
        variadic::VariadicArguments,
        variadic_entry,
    };
    use testbed_loader::sample::{ADDRESSES, Sample, TEXT};

    static SEEN: Mutex<Vec<String>> = Mutex::new(Vec::new());

    extern "win64" fn look(arguments: VariadicArguments) -> usize {
        record_call(arguments.address());
        let places = Calls::here().walk().filter_map(place_in_driver);
        SEEN.lock().expect("no panic").extend(places);
        7
    }

    variadic_entry!(fn look_entry => look);

    /// DriverEntry takes 40 bytes of stack and calls a function, which keeps RBX,
    /// takes 32 bytes and calls the import.
    fn nested() -> Sample {
        let mut code = vec![0xcc; 0x40];
        let call = (ADDRESSES as i32 - (TEXT as i32 + 0x2b)).to_le_bytes();
        let outer = [
            0x48, 0x83, 0xec, 40, 0xe8, 0x17, 0, 0, 0, 0x48, 0x83, 0xc4, 40, 0xc3,
        ];
        let inner = [
            &[0x53, 0x48, 0x83, 0xec, 32, 0xff, 0x15][..],
            &call,
            &[0x48, 0x83, 0xc4, 32, 0x5b, 0xc3],
        ]
        .concat();
        code[..outer.len()].copy_from_slice(&outer);
        code[0x20..0x20 + inner.len()].copy_from_slice(&inner);
        Sample {
            code,
            imports: vec![("storport.sys", "StorPortNotification")],
            functions: vec![
                (0, 14, &[1, 4, 1, 0, 4, 0x42]),
                (0x20, 0x31, &[1, 5, 2, 0, 5, 0x32, 1, 0x30]),
            ],
        }
    }

    #[test]
    fn a_call_is_followed_to_its_callers_and_no_further() {
        let image = nested()
            .load(&|_, _| Some(look_entry as *const () as usize))
            .expect("a good file");
        let image = Arc::new(image);
        watch(&image);
        // SAFETY: the code is `nested`, which keeps the ABI.
        let entry: extern "win64" fn() -> usize = unsafe { std::mem::transmute(image.entry()) };

        let result = in_driver("a callback of a test", || entry());

        assert_eq!(result, 7);
        assert_eq!(
            *SEEN.lock().expect("no panic"),
            ["sample.sys+0x102b", "sample.sys+0x1009"]
        );
        assert_eq!(Calls::default().walk().count(), 0);
    }
}
