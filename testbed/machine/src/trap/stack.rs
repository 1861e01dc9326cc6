//! Walks a thread's stack in the driver: finds the return addresses of the driver's calls,
//! newest first, with the unwind information of its image.
//!
//! A walk begins at a fault, or at the driver's call of a function of the testbed, which saved
//! the driver's registers (see `variadic_entry`). Callbacks nest: a call of the driver may lead
//! to another callback. Nothing here allocates, because crash messages use it.

#![cfg_attr(test, expect(unsafe_code, reason = "runs a driver's code"))]

use std::cell::Cell;

use super::{images, process_memory};
use testbed_loader::Registers;

/// The maximum number of nested callbacks that are distinguished.
const DEEPEST: usize = 8;

/// The maximum number of return addresses in a walk, so that a cycle ends.
const MOST: usize = 32;

/// The callee-saved registers by their numbers in unwind codes, in the order in which
/// `variadic_entry` pushes them: RBX, RBP, RSI, RDI, R12 to R15.
const KEPT: [usize; 8] = [3, 5, 6, 7, 12, 13, 14, 15];

thread_local! {
    /// For each callback that the thread is in, the address of the arguments of its latest
    /// call. 0 if it made none.
    static CALLS: [Cell<usize>; DEEPEST] = const { [const { Cell::new(0) }; DEEPEST] };
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// The calls of the driver that the calling thread is in. Another thread can walk them while
/// this one waits.
#[derive(Clone, Copy, Debug, Default)]
pub struct Calls([usize; DEEPEST]);

impl Calls {
    /// Those of the calling thread, which must be in a call that the driver made.
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

    /// Walks the return addresses in the driver.
    pub fn walk(self) -> Walk {
        Walk {
            at: None,
            calls: self,
            next: 0,
            left: MOST,
        }
    }

    /// Walks the return addresses of a thread that faulted, beginning with the fault if it is
    /// in the driver.
    pub(super) fn walk_from(self, registers: Registers, fetched: bool) -> Walk {
        let in_driver = images::of(registers.rip).is_some();
        let at = match (in_driver, fetched) {
            (true, _) => Some(At {
                registers,
                is_return: false,
            }),
            // The driver called a bad address: the return address is on top of the stack.
            (false, true) => {
                let mut registers = registers;
                registers.pop_return(word).map(|()| At {
                    registers,
                    is_return: true,
                })
            }
            // The fault is in a function of the testbed that the driver called.
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

/// Records a call that the driver made. Its arguments are at `arguments`, with the saved
/// registers and the return address below.
pub fn record_call(arguments: usize) {
    CALLS.with(|all| all[DEPTH.get().min(DEEPEST - 1)].set(arguments));
}

/// Records that the calling thread enters a callback.
pub(super) fn enter() {
    DEPTH.set(DEPTH.get() + 1);
    record_call(0);
}

/// Records that it leaves the callback.
pub(super) fn leave() {
    DEPTH.set(DEPTH.get() - 1);
}

/// A position of a walk.
#[derive(Clone, Copy, Debug)]
struct At {
    registers: Registers,
    is_return: bool,
}

/// The positions of a thread in the driver, newest first.
#[derive(Clone, Debug)]
pub struct Walk {
    at: Option<At>,
    calls: Calls,
    /// The call to continue with when `at` is exhausted.
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

/// The position to which the call with these arguments returns.
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
    // The return address may be the start of the next function.
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

    /// DriverEntry allocates 40 bytes of stack and calls a function, which pushes RBX,
    /// allocates 32 bytes and calls the import.
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
