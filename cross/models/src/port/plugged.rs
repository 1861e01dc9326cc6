//! An adapter, the events that must not happen while it is being found or stopped, and processors
//! that make random callbacks.

use std::{
    sync::{
        Arc, OnceLock, RwLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use super::{Adapter, Done, Interrupts, Random, Request};

/// How many threads make random callbacks.
const PROCESSORS: usize = 2;

/// An adapter. Storport keeps its promises: while the adapter is stopped or being found, no request
/// is sent; while it is being found, the interrupt is not connected.
pub struct Plugged {
    /// The adapter.
    pub adapter: Adapter,
    /// Locked for reading while a request is sent, and for writing while none may be sent.
    sends: RwLock<()>,
    /// Locked for reading during an interrupt, and for writing while the interrupt is not
    /// connected.
    connected: RwLock<()>,
    callbacks: AtomicUsize,
    over: AtomicBool,
}

/// Tries again until `tried` returns true, a limited number of times. Returns false if it never
/// does.
pub fn tries(tried: impl Fn() -> bool) -> bool {
    (0..200).any(|_| {
        let done = tried();
        thread::yield_now();
        done
    })
}

/// Tries as [`tries`] does.
///
/// # Panics
/// `tried` never returns true.
pub fn until(what: &str, tried: impl Fn() -> bool) {
    assert!(tries(tried), "never happened: {what}");
}

impl Plugged {
    /// No callback was made yet.
    #[must_use]
    pub fn new(adapter: Adapter) -> Self {
        Self {
            adapter,
            sends: RwLock::new(()),
            connected: RwLock::new(()),
            callbacks: AtomicUsize::new(0),
            over: AtomicBool::new(false),
        }
    }

    /// Sends a request, as [`Adapter::send`] does.
    pub fn send(&self, processor: usize, request: &Request) -> Arc<OnceLock<Done>> {
        let _sends = self.sends.read().expect("no panic");
        self.adapter.send(processor, request)
    }

    /// Interrupts by `message` or by the line, if `wanted` returns true.
    pub fn interrupt(&self, message: u32, wanted: impl FnOnce() -> bool) {
        let _connected = self.connected.read().expect("no panic");
        if wanted() {
            match self.adapter.machine.interrupts {
                Interrupts::Line => self.adapter.interrupt(),
                // HwFindAdapter registers the routine.
                Interrupts::Messages(_) => self.adapter.message(message),
            };
        }
    }

    /// Calls `callback` repeatedly on other processors while `run` runs.
    pub fn beside(&self, callback: impl Fn(usize, &mut Random) + Sync, run: impl FnOnce()) {
        thread::scope(|scope| {
            for processor in 0..PROCESSORS {
                let (mut random, callback) = (Random::new(), &callback);
                scope.spawn(move || {
                    while !self.over.load(Ordering::Relaxed) {
                        callback(processor, &mut random);
                        self.callbacks.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            run();
            self.over.store(true, Ordering::Relaxed);
        });
    }

    /// Waits for `count` callbacks.
    pub fn wait(&self, count: usize) {
        let until = self.callbacks.load(Ordering::Relaxed) + count;
        while self.callbacks.load(Ordering::Relaxed) < until {
            thread::yield_now();
        }
    }

    /// Calls HwFindAdapter until it is exclusive, after `prepare`.
    pub fn find(&self, prepare: impl FnOnce()) {
        let _sends = self.sends.write().expect("no panic");
        let _connected = self.connected.write().expect("no panic");
        prepare();
        until("HwFindAdapter is exclusive", || self.adapter.find());
    }

    /// Calls `settle`, which waits until no request is outstanding, then ScsiStopAdapter and
    /// `then`. No request is sent meanwhile.
    pub fn stop(&self, settle: impl FnOnce(), then: impl FnOnce()) {
        let _sends = self.sends.write().expect("no panic");
        settle();
        assert!(self.adapter.stop());
        then();
    }

    /// Restarts the adapter as soon as the restart is exclusive.
    pub fn restart(&self) {
        until("a restart is exclusive", || self.adapter.restart());
    }
}
