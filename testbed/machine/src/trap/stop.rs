//! Stops the machine: prints one message and ends the process.

use std::{
    cell::Cell,
    fmt,
    io::{self, Write as _},
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

thread_local! {
    static STOPPING_HERE: Cell<bool> = const { Cell::new(false) };
}

/// Ends the process with a message about the driver and exit code 3. Any thread and any signal
/// handler can call it. Only the first caller's message is printed, and nothing is flushed.
pub fn stop_machine(message: fmt::Arguments<'_>) -> ! {
    static STOPPING: AtomicBool = AtomicBool::new(false);
    if STOPPING.swap(true, Ordering::Relaxed) {
        if STOPPING_HERE.get() {
            // Formatting the message crashed.
            say(format_args!(
                "the message was not printed, because its formatting crashed"
            ));
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
        say(format_args!("to repeat this run: {command}"));
    }
    exit()
}

/// The command that repeats the run.
static REPEAT: OnceLock<String> = OnceLock::new();

/// Sets the command that [`stop_machine`] prints after its message. Later calls do nothing.
pub fn repeat_with(command: &str) {
    let _ = REPEAT.set(command.to_owned());
}

/// Writes `testbed: ` and the message to standard error in one write, without allocation and
/// with little stack.
pub(super) fn say(message: fmt::Arguments<'_>) {
    static TEXT: Mutex<[u8; 32768]> = Mutex::new([0; 32768]);
    match TEXT.try_lock() {
        Ok(mut text) => write(message, &mut *text),
        // A message is being formatted, perhaps by this thread.
        Err(_) => write(message, &mut [0; 256]),
    }
}

fn write(message: fmt::Arguments<'_>, text: &mut [u8]) {
    let mut line = io::Cursor::new(&mut *text);
    // A message that does not fit is truncated.
    let _ = write!(line, "testbed: {message}");
    let length = (line.position() as usize).min(text.len() - 1);
    text[length] = b'\n';
    // SAFETY: writes initialized bytes of `text`. A failure cannot be reported.
    unsafe { libc::write(2, text.as_ptr().cast(), length + 1) };
}

fn exit() -> ! {
    // SAFETY: ends the process without running exit handlers.
    unsafe { libc::_exit(3) }
}
