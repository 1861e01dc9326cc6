//! A PCI function that only sends interrupts, on request, for miniports that keep a disk in
//! memory.
//!
//! PCI 1234:BE11, with MSI-X. Its registers are in BAR 0, 4 bytes each:
//!
//! | offset | | |
//! |---|---|---|
//! | 0 | RING, write | sends the message with the written number; with MSI-X off, asserts the pin |
//! | 4 | RUNG, read | 1 if the pin was asserted, otherwise 0; de-asserts it |

use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicU64, Ordering},
};

use testbed_machine::pci::{Bar, FunctionCounters, Interrupts, PciFunction};

use testbed_virtio::driver_errors::DriverErrors;

use super::{
    config_space::{BELL_BAR, ConfigSpace, MSIX_BAR},
    interrupt_sender::{ISR_QUEUE, InterruptSender},
    msix,
};

/// The registers' offsets.
const RING: u64 = 0;
const RUNG: u64 = 4;

/// The function.
pub struct Bell {
    config_space: Mutex<ConfigSpace>,
    interrupts: InterruptSender,
    rings: AtomicU64,
    driver_errors: DriverErrors,
}

impl Bell {
    /// A bell with `vectors` MSI-X vectors, as firmware leaves it: BARs placed, memory decoding
    /// on, MSI-X off and every vector masked.
    ///
    /// # Panics
    /// If `vectors` is 0 or above 2048.
    #[must_use]
    pub fn new(vectors: u16) -> Arc<Self> {
        assert!(
            (1..=msix::MOST_VECTORS).contains(&vectors),
            "{vectors} MSI-X vectors"
        );
        Arc::new(Self {
            config_space: Mutex::new(ConfigSpace::of_bell(vectors)),
            interrupts: InterruptSender::new(vectors),
            rings: AtomicU64::new(0),
            driver_errors: DriverErrors::default(),
        })
    }

    fn config_space(&self) -> MutexGuard<'_, ConfigSpace> {
        self.config_space.lock().expect("no holder panics")
    }

    /// Whether the access reaches a BAR. Otherwise records a driver error.
    fn decodes(&self, index: usize) -> bool {
        let decodes = self.config_space().decodes_memory();
        if !decodes {
            self.driver_errors.add(format!(
                "BAR {index} was accessed while the command register has memory decoding off"
            ));
        }
        decodes
    }

    fn ring(&self, message: u32) {
        self.rings.fetch_add(1, Ordering::Relaxed);
        match u16::try_from(message) {
            // Like a used virtqueue: sends its message, or asserts the pin.
            Ok(message) if message < self.interrupts.vectors() => {
                self.interrupts.queue_used(message);
            }
            _ => self.driver_errors.add(format!(
                "RING: message {message} of {}",
                self.interrupts.vectors()
            )),
        }
    }

    fn record_bad_access(&self, access: &str, offset: u64, bytes: usize) {
        self.driver_errors.add(format!(
            "a {access} of {bytes} bytes at {offset:#x} of BAR {BELL_BAR}: RING at {RING:#x} is \
             written and RUNG at {RUNG:#x} is read, 4 bytes each"
        ));
    }
}

impl PciFunction for Bell {
    fn config_read(&self, offset: u16, data: &mut [u8]) {
        let interrupt = self.interrupts.line_pending();
        self.config_space().read(offset, data, interrupt);
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        let (msix_control, pin_disabled) = {
            let mut space = self.config_space();
            space.write(offset, data, &self.driver_errors);
            (space.msix_control(), space.pin_disabled())
        };
        self.interrupts.configure(msix_control, pin_disabled);
    }

    fn bar(&self, index: usize) -> Option<Bar> {
        self.config_space().bar(index)
    }

    fn bar_read(&self, index: usize, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        if !self.decodes(index) {
            return;
        }
        match (index, offset, data.len()) {
            (MSIX_BAR, ..) => self
                .interrupts
                .read_table(offset, data, &self.driver_errors),
            (BELL_BAR, RUNG, 4) => {
                let rung = u32::from(self.interrupts.take_isr() & ISR_QUEUE);
                data.copy_from_slice(&rung.to_le_bytes());
            }
            _ => self.record_bad_access("read", offset, data.len()),
        }
    }

    fn bar_write(&self, index: usize, offset: u64, data: &[u8]) {
        if !self.decodes(index) {
            return;
        }
        match (index, offset, <[u8; 4]>::try_from(data)) {
            (MSIX_BAR, ..) => self
                .interrupts
                .write_table(offset, data, &self.driver_errors),
            (BELL_BAR, RING, Ok(message)) => self.ring(u32::from_le_bytes(message)),
            _ => self.record_bad_access("write", offset, data.len()),
        }
    }

    fn msix_vectors(&self) -> u16 {
        self.interrupts.vectors()
    }

    fn connect(&self, interrupts: Arc<dyn Interrupts>) {
        self.interrupts.connect(interrupts);
    }

    fn counters(&self) -> FunctionCounters {
        FunctionCounters {
            notifications: self.rings.load(Ordering::Relaxed),
            interrupts: self.interrupts.sent(),
            requests: 0,
            driver_errors: self.driver_errors.count(),
        }
    }

    fn driver_errors(&self) -> Vec<String> {
        self.driver_errors.list()
    }

    fn power_cycle(&self) {
        let vectors = self.interrupts.vectors();
        *self.config_space() = ConfigSpace::of_bell(vectors).unplaced();
        self.interrupts.power_cycle();
    }

    fn stop(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Ears {
        messages: Mutex<Vec<u16>>,
        levels: Mutex<Vec<bool>>,
    }

    impl Interrupts for Ears {
        fn message(&self, id: u16) {
            self.messages.lock().expect("no panic").push(id);
        }
        fn line(&self, asserted: bool) {
            self.levels.lock().expect("no panic").push(asserted);
        }
    }

    fn bell() -> (Arc<Bell>, Arc<Ears>) {
        let (bell, ears) = (Bell::new(4), Arc::<Ears>::default());
        bell.connect(ears.clone());
        (bell, ears)
    }

    /// Enables MSI-X and unmasks all vectors.
    fn use_messages(bell: &Bell) {
        for vector in 0..4 {
            bell.bar_write(MSIX_BAR, vector * 16 + 12, &[0; 4]);
        }
        let [mut capability] = [0; 1];
        bell.config_read(0x34, std::slice::from_mut(&mut capability));
        let mut control = [0; 2];
        bell.config_read(u16::from(capability) + 2, &mut control);
        control[1] |= 0x80;
        bell.config_write(u16::from(capability) + 2, &control);
    }

    fn rung(bell: &Bell) -> u32 {
        let mut data = [0; 4];
        bell.bar_read(BELL_BAR, RUNG, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn a_ring_sends_the_message_that_it_names() {
        let (bell, ears) = bell();
        use_messages(&bell);

        bell.bar_write(BELL_BAR, RING, &3_u32.to_le_bytes());

        assert_eq!(*ears.messages.lock().expect("no panic"), [3]);
        assert_eq!(*ears.levels.lock().expect("no panic"), [false; 0]);
        assert_eq!(rung(&bell), 0);
        assert_eq!(bell.driver_errors(), [""; 0]);
    }

    #[test]
    fn without_messages_a_ring_asserts_the_pin_until_rung_is_read() {
        let (bell, ears) = bell();

        bell.bar_write(BELL_BAR, RING, &[0; 4]);
        assert_eq!(*ears.levels.lock().expect("no panic"), [true]);

        assert_eq!((rung(&bell), rung(&bell)), (1, 0));
        assert_eq!(*ears.levels.lock().expect("no panic"), [true, false]);
        assert_eq!(bell.driver_errors(), [""; 0]);
    }

    #[test]
    fn an_access_outside_the_registers_is_a_driver_error() {
        let (bell, ears) = bell();

        bell.bar_write(BELL_BAR, RING, &4_u32.to_le_bytes());
        bell.bar_write(BELL_BAR, RING, &[0; 2]);
        bell.bar_write(BELL_BAR, RUNG, &[0; 4]);
        bell.bar_read(BELL_BAR, RING, &mut [0; 4]);

        assert_eq!(bell.counters().driver_errors, 4);
        assert_eq!(*ears.levels.lock().expect("no panic"), [false; 0]);
    }
}
