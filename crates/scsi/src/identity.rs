//! The identity of a disk: vendor, product, revision and serial number. Initiators distinguish
//! disks by it.

/// The identity of a disk.
///
/// Vendor, product and revision are ASCII, 20h to 7Eh, left-aligned and padded with spaces
/// (SPC-4, "ASCII data field requirements"). They are sent to initiators unchanged.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// T10 VENDOR IDENTIFICATION
    pub vendor: [u8; 8],
    /// PRODUCT IDENTIFICATION
    pub product: [u8; 16],
    /// PRODUCT REVISION LEVEL
    pub revision: [u8; 4],
    /// The serial number. It distinguishes disks of the same product.
    pub serial: Serial,
}

/// The serial number of a disk, as printable text. It may be empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Serial {
    text: [u8; Self::MAX_LENGTH],
    length: u8,
}

impl Serial {
    /// No serial number.
    pub const EMPTY: Self = Self {
        text: [0; Self::MAX_LENGTH],
        length: 0,
    };

    /// The length of 20 bytes that are all escaped.
    const MAX_LENGTH: usize = 60;

    /// Makes the serial number from a device's identifier of 20 bytes. The identifier ends at
    /// the first NUL, if it has one (VIRTIO 1.3 §5.2.6: GET_ID).
    ///
    /// SCSI requires ASCII. A byte that is not printable is written as `%` and two hexadecimal
    /// digits, and so is `%` itself. So different identifiers give different serial numbers.
    /// An identifier of spaces only counts as no serial number
    /// (SPC-4, "Unit Serial Number VPD page").
    #[must_use]
    pub fn new(id: &[u8; 20]) -> Self {
        let id = id.iter().copied().take_while(|&byte| byte != 0);
        let mut serial = Self::EMPTY;
        if id.clone().all(|byte| byte == b' ') {
            return serial;
        }
        for byte in id {
            if matches!(byte, b' '..=b'~') && byte != b'%' {
                serial.push(byte);
            } else {
                serial.push(b'%');
                serial.push(hex_digit(byte >> 4));
                serial.push(hex_digit(byte & 0xF));
            }
        }
        serial
    }

    /// The text, 0 to 60 bytes of ASCII.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.text.get(..usize::from(self.length)).unwrap_or(&[])
    }

    /// Whether there is no serial number.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The length of the text in bytes, 0 to 60.
    pub(crate) const fn length(&self) -> u8 {
        self.length
    }

    fn push(&mut self, byte: u8) {
        if let Some(place) = self.text.get_mut(usize::from(self.length)) {
            *place = byte;
            self.length = self.length.saturating_add(1);
        }
    }
}

const fn hex_digit(nibble: u8) -> u8 {
    match nibble {
        0..=9 => b'0'.wrapping_add(nibble),
        _ => b'A'.wrapping_sub(10).wrapping_add(nibble),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serial(id: &[u8]) -> Serial {
        let mut padded = [0; 20];
        padded[..id.len()].copy_from_slice(id);
        Serial::new(&padded)
    }

    #[test]
    fn an_identifier_ends_at_its_first_nul() {
        assert_eq!(serial(b"disk-7\0rubbish").as_bytes(), b"disk-7");
    }

    #[test]
    fn an_identifier_of_20_bytes_has_no_nul() {
        let id = b"01234567890123456789";
        assert_eq!(serial(id).as_bytes(), id);
    }

    #[test]
    fn an_identifier_of_nul_or_spaces_is_no_serial_number() {
        assert_eq!(serial(b""), Serial::EMPTY);
        assert_eq!(serial(b"    "), Serial::EMPTY);
        assert_eq!(Serial::EMPTY.as_bytes(), b"");
    }

    #[test]
    fn unprintable_bytes_are_escaped_so_serial_numbers_stay_distinct() {
        assert_eq!(serial(b"a\n\xFFb").as_bytes(), b"a%0A%FFb");
        assert_eq!(serial(b"a%0A").as_bytes(), b"a%250A");
    }

    #[test]
    fn a_serial_number_of_twenty_unprintable_bytes_fits() {
        assert_eq!(serial(&[0xAB; 20]).as_bytes(), b"%AB".repeat(20));
    }
}
