//! Sends an event as an interrupt: a message if MSI-X is on, otherwise the level of the INTx
//! pin (VIRTIO 1.3 §4.1.5.3 and 4.1.5.4).

use std::sync::{
    Arc, Mutex, MutexGuard, OnceLock,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

use testbed_machine::pci::Interrupts;

use testbed_virtio::driver_errors::DriverErrors;

use super::msix::Msix;

/// ISR status: a virtqueue was used.
pub(super) const ISR_QUEUE: u8 = 1 << 0;
/// ISR status: the device configuration changed, or the device needs a reset.
pub(super) const ISR_CONFIGURATION: u8 = 1 << 1;

/// The ISR status register and the pin, whose level follows it.
#[derive(Debug, Default)]
struct Pin {
    isr: u8,
    /// Whether MSI-X is on, or the command register disables the pin.
    off: bool,
    asserted: bool,
}

/// A function's interrupts.
pub(super) struct InterruptSender {
    receiver: OnceLock<Arc<dyn Interrupts>>,
    msix: Mutex<Msix>,
    pin: Mutex<Pin>,
    sent: AtomicU64,
    /// The number of messages to lose.
    losing: AtomicU32,
}

impl InterruptSender {
    /// Interrupts of a function with `vectors` MSI-X vectors.
    pub(super) fn new(vectors: u16) -> Self {
        Self {
            receiver: OnceLock::new(),
            msix: Mutex::new(Msix::new(vectors)),
            pin: Mutex::default(),
            sent: AtomicU64::new(0),
            losing: AtomicU32::new(0),
        }
    }

    /// Sets the receiver. Later calls do nothing.
    pub(super) fn connect(&self, receiver: Arc<dyn Interrupts>) {
        let _ = self.receiver.set(receiver);
    }

    /// Sends message `id`, though no event is mapped to it.
    pub(super) fn send_stray(&self, id: u16) {
        if let Some(receiver) = self.receiver.get() {
            receiver.message(id);
        }
    }

    /// The number of interrupts: messages, and changes of the pin to asserted.
    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Loses the next `count` messages.
    pub(super) fn lose(&self, count: u32) {
        self.losing.store(count, Ordering::Relaxed);
    }

    /// The number of MSI-X vectors.
    pub(super) fn vectors(&self) -> u16 {
        self.msix().vectors()
    }

    /// Whether MSI-X is enabled.
    pub(super) fn msix_enabled(&self) -> bool {
        self.msix().enabled()
    }

    /// Signals a used queue with the vector `vector`.
    pub(super) fn queue_used(&self, vector: u16) {
        if !self.message(vector) {
            self.raise(ISR_QUEUE);
        }
    }

    /// Signals with `vector` that the configuration changed or the device needs a reset.
    pub(super) fn configuration_changed(&self, vector: u16) {
        // The bit is set with MSI-X too (VIRTIO 1.3 §4.1.4.5.1).
        self.raise(ISR_CONFIGURATION);
        self.message(vector);
    }

    /// Reads and clears the ISR status, which de-asserts the pin.
    pub(super) fn take_isr(&self) -> u8 {
        let mut pin = self.pin();
        let isr = std::mem::take(&mut pin.isr);
        self.drive(&mut pin);
        isr
    }

    /// The interrupt bit of the PCI status register, whether or not the command register
    /// disables the pin (PCI 3.0, 6.2.3).
    pub(super) fn line_pending(&self) -> bool {
        !self.msix_enabled() && self.pin().isr != 0
    }

    /// Drops all events, as a reset of the device does.
    pub(super) fn clear(&self) {
        self.take_isr();
    }

    /// Restores the state after power-on.
    pub(super) fn power_cycle(&self) {
        {
            let mut msix = self.msix();
            *msix = Msix::new(msix.vectors());
        }
        let mut pin = self.pin();
        pin.isr = 0;
        pin.off = false;
        self.drive(&mut pin);
    }

    /// Takes the state from configuration space: the MSI-X message control, and whether the
    /// command register disables the pin.
    pub(super) fn configure(&self, msix_control: u16, pin_disabled: bool) {
        let (messages, enabled) = {
            let mut msix = self.msix();
            (msix.set_control(msix_control), msix.enabled())
        };
        self.send(&messages);
        let mut pin = self.pin();
        pin.off = enabled || pin_disabled;
        self.drive(&mut pin);
    }

    /// Reads the BAR of the MSI-X table.
    pub(super) fn read_table(&self, offset: u64, data: &mut [u8], driver_errors: &DriverErrors) {
        self.msix().read(offset, data, driver_errors);
    }

    /// Writes the BAR of the MSI-X table.
    pub(super) fn write_table(&self, offset: u64, data: &[u8], driver_errors: &DriverErrors) {
        let messages = self.msix().write(offset, data, driver_errors);
        self.send(&messages);
    }

    /// Sends the message of `vector`, or leaves it pending. Returns false if MSI-X is off.
    fn message(&self, vector: u16) -> bool {
        let message = {
            let mut msix = self.msix();
            if !msix.enabled() {
                return false;
            }
            msix.signal(vector)
        };
        let lost = message.is_some()
            && self
                .losing
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                    left.checked_sub(1)
                })
                .is_ok();
        if !lost {
            self.send(message.as_slice());
        }
        true
    }

    fn send(&self, messages: &[u16]) {
        self.sent
            .fetch_add(messages.len() as u64, Ordering::Relaxed);
        if let Some(receiver) = self.receiver.get() {
            messages.iter().for_each(|id| receiver.message(*id));
        }
    }

    fn raise(&self, event: u8) {
        let mut pin = self.pin();
        pin.isr |= event;
        self.drive(&mut pin);
    }

    /// Sets the level of the pin by the ISR status. The caller holds the lock until the
    /// receiver returns, so that two changes arrive in order.
    fn drive(&self, pin: &mut MutexGuard<'_, Pin>) {
        let level = pin.isr != 0 && !pin.off;
        if level == pin.asserted {
            return;
        }
        pin.asserted = level;
        self.sent.fetch_add(level.into(), Ordering::Relaxed);
        if let Some(receiver) = self.receiver.get() {
            receiver.line(level);
        }
    }

    fn msix(&self) -> MutexGuard<'_, Msix> {
        self.msix.lock().expect("no holder panics")
    }

    fn pin(&self) -> MutexGuard<'_, Pin> {
        self.pin.lock().expect("no holder panics")
    }
}

#[cfg(test)]
mod tests {
    use testbed_virtio::common_config::NO_VECTOR;

    use super::*;

    const MSIX_ON: u16 = 1 << 15;

    /// The levels of the pin. There are no messages.
    #[derive(Default)]
    struct Recorder(Mutex<Vec<bool>>);

    impl Recorder {
        fn take(&self) -> Vec<bool> {
            std::mem::take(&mut self.0.lock().expect("a lock"))
        }
    }

    impl Interrupts for Recorder {
        fn message(&self, id: u16) {
            panic!("message {id}");
        }
        fn line(&self, asserted: bool) {
            self.0.lock().expect("a lock").push(asserted);
        }
    }

    fn connected() -> (InterruptSender, Arc<Recorder>) {
        let sender = InterruptSender::new(2);
        let recorder = Arc::new(Recorder::default());
        sender.connect(recorder.clone());
        (sender, recorder)
    }

    #[test]
    fn one_level_can_mean_a_queue_and_the_configuration() {
        let (sender, recorder) = connected();

        sender.queue_used(NO_VECTOR);
        sender.configuration_changed(NO_VECTOR);

        assert_eq!(recorder.take(), [true]);
        assert_eq!(sender.take_isr(), ISR_QUEUE | ISR_CONFIGURATION);
    }

    #[test]
    fn enabling_msix_deasserts_the_pin() {
        let (sender, recorder) = connected();

        sender.queue_used(NO_VECTOR);
        sender.configure(MSIX_ON, false);

        assert_eq!(recorder.take(), [true, false]);
        assert!(!sender.line_pending());
    }

    #[test]
    fn a_reset_de_asserts_the_pin() {
        let (sender, recorder) = connected();

        sender.queue_used(NO_VECTOR);
        sender.clear();

        assert_eq!(recorder.take(), [true, false]);
    }
}
