//! MSI-X: sends messages, or keeps them pending while masked (PCI 3.0, 6.8.2).
//!
//! The machine also acts as the firmware that fills the vector table. Message `n` is table
//! entry `n`, whatever address and data the entry holds.

use testbed_virtio::driver_errors::DriverErrors;

/// The length of a table entry: address (8), data (4), vector control (4).
const ENTRY: u64 = 16;
/// The mask bit of an entry's vector control.
const MASKED: u32 = 1;
/// The offset of the pending bits in a small table's BAR, as in QEMU.
const PENDING_OFFSET: u64 = 0x800;
/// The enable bit of the capability's message control register.
const ENABLE: u16 = 1 << 15;
/// The function mask of the capability's message control register.
const FUNCTION_MASK: u16 = 1 << 14;

/// The maximum number of vectors of a function.
pub(super) const MOST_VECTORS: u16 = 2048;

/// The places of the table and the pending bits in their BAR.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// The offset of the pending bits. The table is at 0.
    pub(super) pending: u64,
    /// The length of the BAR, a power of two of at least a page.
    pub(super) bytes: u64,
}

impl Layout {
    /// The layout for `vectors` vectors.
    pub(super) fn of(vectors: u16) -> Self {
        let vectors = u64::from(vectors);
        let pending = PENDING_OFFSET.max(vectors * ENTRY);
        let bytes = (pending + vectors.div_ceil(64) * 8)
            .next_power_of_two()
            .max(4096);
        Self { pending, bytes }
    }
}

/// One entry of the table.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// The four words in the order of the BAR.
    words: [u32; 4],
    /// Whether an event came while the vector was masked.
    pending: bool,
}

impl Entry {
    /// An entry after reset, which is masked (PCI 3.0, 6.8.2.9).
    const RESET: Self = Self {
        words: [0, 0, 0, MASKED],
        pending: false,
    };
}

/// The state of a function's MSI-X.
#[derive(Debug)]
pub(super) struct Msix {
    layout: Layout,
    entries: Vec<Entry>,
    enabled: bool,
    function_masked: bool,
}

impl Msix {
    /// MSI-X with `vectors` vectors, after reset: disabled, and every vector masked.
    pub(super) fn new(vectors: u16) -> Self {
        Self {
            layout: Layout::of(vectors),
            entries: vec![Entry::RESET; vectors.into()],
            enabled: false,
            function_masked: false,
        }
    }

    /// The number of vectors.
    pub(super) fn vectors(&self) -> u16 {
        // Cannot truncate: `new` took a u16.
        self.entries.len() as u16
    }

    /// Whether messages are enabled.
    pub(super) fn enabled(&self) -> bool {
        self.enabled
    }

    /// Sets the capability's message control register. Returns the pending messages to send
    /// now.
    pub(super) fn set_control(&mut self, control: u16) -> Vec<u16> {
        self.enabled = control & ENABLE != 0;
        self.function_masked = control & FUNCTION_MASK != 0;
        self.release()
    }

    /// Signals an event for `vector`. Returns the message to send now, if it is not masked.
    pub(super) fn signal(&mut self, vector: u16) -> Option<u16> {
        let entry = self
            .entries
            .get_mut(usize::from(vector))
            .filter(|_| self.enabled)?;
        if self.function_masked || entry.words[3] & MASKED != 0 {
            entry.pending = true;
            return None;
        }
        Some(vector)
    }

    /// Reads the table or the pending bits at `offset` of the BAR.
    pub(super) fn read(&self, offset: u64, data: &mut [u8], driver_errors: &DriverErrors) {
        data.fill(0);
        if !well_formed(offset, data.len(), driver_errors) {
            return;
        }
        for (index, word) in data.chunks_exact_mut(4).enumerate() {
            let value = self.word(offset + 4 * index as u64);
            word.copy_from_slice(&value.to_le_bytes());
        }
    }

    /// Writes the table at `offset` of the BAR. Returns the pending messages to send now.
    pub(super) fn write(
        &mut self,
        offset: u64,
        data: &[u8],
        driver_errors: &DriverErrors,
    ) -> Vec<u16> {
        if !well_formed(offset, data.len(), driver_errors) {
            return Vec::new();
        }
        for (index, word) in data.chunks_exact(4).enumerate() {
            let offset = offset + 4 * index as u64;
            let value = word.try_into().map_or(0, u32::from_le_bytes);
            match self.entries.get_mut((offset / ENTRY) as usize) {
                // Reserved bits of vector control read as zero.
                Some(entry) if offset % ENTRY == 12 => entry.words[3] = value & MASKED,
                Some(entry) => entry.words[(offset % ENTRY / 4) as usize] = value,
                None => driver_errors.add(format!(
                    "MSI-X: a write at {offset:#x}, outside the vector table (PCI 3.0, 6.8.2)"
                )),
            }
        }
        self.release()
    }

    /// The word at `offset` of the BAR. Outside the table and the pending bits it is zero.
    fn word(&self, offset: u64) -> u32 {
        if let Some(entry) = self.entries.get((offset / ENTRY) as usize) {
            return entry.words[(offset % ENTRY / 4) as usize];
        }
        let Some(first) = offset.checked_sub(self.layout.pending) else {
            return 0;
        };
        let waiting = self.entries.iter().skip(first as usize * 8).take(32);
        waiting.enumerate().fold(0, |bits, (bit, entry)| {
            bits | u32::from(entry.pending) << bit
        })
    }

    /// Removes the pending messages that are no longer masked, and returns them.
    fn release(&mut self) -> Vec<u16> {
        if !self.enabled || self.function_masked {
            return Vec::new();
        }
        let entries = self.entries.iter_mut().zip(0..);
        entries
            .filter(|(entry, _)| entry.pending && entry.words[3] & MASKED == 0)
            .map(|(entry, vector)| {
                entry.pending = false;
                vector
            })
            .collect()
    }
}

/// Whether the specification allows the access to the table or the pending bits: a whole,
/// aligned DWORD or QWORD (PCI 3.0, 6.8.2).
fn well_formed(offset: u64, bytes: usize, driver_errors: &DriverErrors) -> bool {
    let whole = matches!(bytes, 4 | 8) && offset.is_multiple_of(bytes as u64);
    if !whole {
        driver_errors.add(format!(
            "MSI-X: an access of {bytes} bytes at {offset:#x}: the table takes aligned accesses \
             of 4 or 8 (PCI 3.0, 6.8.2)"
        ));
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enabled(vectors: u16) -> Msix {
        let mut msix = Msix::new(vectors);
        msix.set_control(ENABLE);
        msix
    }

    fn control(msix: &mut Msix, vector: u64, value: u32) -> Vec<u16> {
        let driver_errors = DriverErrors::default();
        let sent = msix.write(vector * ENTRY + 12, &value.to_le_bytes(), &driver_errors);
        assert_eq!(driver_errors.count(), 0);
        sent
    }

    fn pending(msix: &Msix, word: u64) -> u32 {
        let driver_errors = DriverErrors::default();
        let mut data = [0; 4];
        msix.read(msix.layout.pending + 4 * word, &mut data, &driver_errors);
        assert_eq!(driver_errors.count(), 0);
        u32::from_le_bytes(data)
    }

    #[test]
    fn a_vector_is_masked_after_reset_and_unmasking_sends_what_is_pending_once() {
        let mut msix = enabled(2);
        assert_eq!((msix.signal(1), msix.signal(1)), (None, None));
        assert_eq!(pending(&msix, 0), 0b10);

        assert_eq!(control(&mut msix, 1, 0), [1]);
        assert_eq!(control(&mut msix, 1, 0), [0_u16; 0]);
        assert_eq!(pending(&msix, 0), 0);
        assert_eq!(msix.signal(1), Some(1));
    }

    #[test]
    fn the_function_mask_holds_all_vectors() {
        let mut msix = enabled(2);
        control(&mut msix, 0, 0);
        control(&mut msix, 1, 0);
        msix.set_control(ENABLE | FUNCTION_MASK);

        assert_eq!(msix.signal(0), None);
        assert_eq!(msix.signal(1), None);
        assert_eq!(msix.set_control(ENABLE), [0, 1]);
    }

    #[test]
    fn nothing_is_sent_while_msix_is_off() {
        let mut msix = Msix::new(1);
        control(&mut msix, 0, 0);

        assert_eq!(msix.signal(0), None);
        assert_eq!(pending(&msix, 0), 0);
    }

    #[test]
    fn a_vector_beyond_the_table_sends_nothing() {
        let mut msix = enabled(2);
        control(&mut msix, 0, 0);
        control(&mut msix, 1, 0);

        assert_eq!(msix.signal(2), None);
    }

    #[test]
    fn the_table_reads_back_what_was_written() {
        let mut msix = Msix::new(2);
        let driver_errors = DriverErrors::default();
        let mut data = [0; 8];

        msix.write(16, &0x1122_3344_fee0_1000_u64.to_le_bytes(), &driver_errors);
        msix.write(24, &0x4041_u32.to_le_bytes(), &driver_errors);
        msix.read(16, &mut data, &driver_errors);

        assert_eq!(u64::from_le_bytes(data), 0x1122_3344_fee0_1000);
        assert_eq!(driver_errors.list(), [""; 0]);
    }

    #[test]
    fn pending_bits_of_a_large_table_follow_it() {
        let mut msix = enabled(MOST_VECTORS);
        msix.signal(2047);

        assert_eq!(msix.layout.pending, 2048 * 16);
        assert_eq!(msix.layout.bytes, 65536);
        assert_eq!(pending(&msix, 63), 1 << 31);
    }

    #[test]
    fn odd_accesses_and_writes_behind_the_table_are_driver_errors() {
        let mut msix = Msix::new(2);
        let driver_errors = DriverErrors::default();

        msix.write(2, &[0; 2], &driver_errors);
        msix.read(4, &mut [0; 8], &driver_errors);
        msix.write(PENDING_OFFSET, &[0; 4], &driver_errors);

        assert_eq!(driver_errors.count(), 3);
    }
}
