//! The end of the machine: one message, then the process is gone.

use std::{
    cell::Cell,
    fmt::{self, Write as _},
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

thread_local! {
    static STOPPING_HERE: Cell<bool> = const { Cell::new(false) };
}

/// Ends the process with one message about the driver and exit code 3; callable
/// from signal handlers and from any thread. The first caller's message is the
/// one that is seen; nothing is flushed.
pub fn stop_machine(message: fmt::Arguments<'_>) -> ! {
    static STOPPING: AtomicBool = AtomicBool::new(false);
    if STOPPING.swap(true, Ordering::Relaxed) {
        if STOPPING_HERE.get() {
            // It crashed while it told why.
            say(format_args!("the message about it could not be finished"));
            exit();
        }
        loop {
            // The other thread ends this one.
            // SAFETY: waits for a signal.
            unsafe { libc::pause() };
        }
    }
    STOPPING_HERE.set(true);
    say(message);
    if let Some(command) = REPEAT.get() {
        say(format_args!("the same run again: {command}"));
    }
    exit()
}

/// The command that gives the same run again.
static REPEAT: OnceLock<String> = OnceLock::new();

/// Has the end of the machine be told with the command that repeats the run;
/// the first one stays.
pub fn repeat_with(command: &str) {
    let _ = REPEAT.set(command.to_owned());
}

/// Writes `testbed: ` and the message to the standard error output, in one
/// write, without allocating and with little of the stack.
pub(super) fn say(message: fmt::Arguments<'_>) {
    static TEXT: Mutex<[u8; 32768]> = Mutex::new([0; 32768]);
    match TEXT.try_lock() {
        Ok(mut text) => write(message, &mut *text),
        // Another message is being made, perhaps by this very thread.
        Err(_) => write(message, &mut [0; 256]),
    }
}

fn write(message: fmt::Arguments<'_>, text: &mut [u8]) {
    let mut line = Line { text, length: 0 };
    // What does not fit is cut off.
    let _ = write!(line, "testbed: {message}");
    let length = line.length.min(line.text.len() - 1);
    line.text[length] = b'\n';
    // SAFETY: writes the line's own bytes. There is nobody to tell if it fails.
    unsafe { libc::write(2, line.text.as_ptr().cast(), length + 1) };
}

fn exit() -> ! {
    // SAFETY: ends the process without running anything of it.
    unsafe { libc::_exit(3) }
}

struct Line<'a> {
    text: &'a mut [u8],
    length: usize,
}

impl fmt::Write for Line<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = &mut self.text[self.length..];
        let length = room.len().min(text.len());
        room[..length].copy_from_slice(&text.as_bytes()[..length]);
        self.length += length;
        if length == text.len() {
            Ok(())
        } else {
            Err(fmt::Error)
        }
    }
}
