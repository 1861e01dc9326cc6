//! Events for the system's log (StorPortLogSystemEvent).
#![expect(unsafe_code, reason = "Storport gets pointers to an event's texts")]

use core::ptr;

use wdk_sys::{_STOR_EVENT_ASSOCIATION_ENUM as association, PWSTR, STOR_LOG_EVENT_DETAILS, ULONG};

use crate::{extension::Header, port, status::StorStatus};

/// The maximum number of texts that an event inserts into its message.
pub const MAX_INSERTS: usize = 3;

/// The maximum number of characters of an insert.
pub const INSERT_LENGTH: usize = 24;

const _: () = assert!(
    MAX_INSERTS * (INSERT_LENGTH + 1) * size_of::<u16>() <= 150,
    "an event has room for 150 bytes of strings with their terminators (STOR_LOG_EVENT_DETAILS): \
     reduce MAX_INSERTS or INSERT_LENGTH"
);

/// A short text that is inserted into an event's message. The first replaces `%2`.
#[derive(Clone, Copy, Debug)]
pub struct Insert {
    /// UTF-16; a zero follows the text.
    characters: [u16; INSERT_LENGTH + 1],
}

impl Insert {
    /// The empty text.
    pub const EMPTY: Self = Self {
        characters: [0; INSERT_LENGTH + 1],
    };

    /// Makes an insert of the first [`INSERT_LENGTH`] characters of `text`. A character that is not
    /// ASCII becomes a question mark.
    #[must_use]
    pub fn text(text: &str) -> Self {
        let mut insert = Self::EMPTY;
        let places = insert.characters.iter_mut().take(INSERT_LENGTH);
        for (place, character) in places.zip(text.chars()) {
            *place = if character.is_ascii() {
                u16::try_from(u32::from(character)).unwrap_or(0)
            } else {
                u16::from(b'?')
            };
        }
        insert
    }

    /// Makes an insert of `number` in decimal digits.
    #[must_use]
    pub fn decimal(number: u64) -> Self {
        Self::digits(number, 10, &[])
    }

    /// Makes an insert of "0x" and `number` in hexadecimal digits.
    #[must_use]
    pub fn hexadecimal(number: u64) -> Self {
        Self::digits(number, 16, b"0x")
    }

    /// Makes an insert of the text `before` and `number` in digits of `base`. A number has at most
    /// 20 decimal or 16 hexadecimal digits.
    fn digits(number: u64, base: u64, before: &[u8]) -> Self {
        let mut digits = [0_u8; 20];
        let mut rest = number;
        let mut count = 0_usize;
        for place in digits.iter_mut().rev() {
            let digit = rest.checked_rem(base).unwrap_or(0) as u8;
            *place = match digit {
                0..=9 => digit.wrapping_add(b'0'),
                _ => digit.wrapping_sub(10).wrapping_add(b'A'),
            };
            count = count.wrapping_add(1);
            rest = rest.checked_div(base).unwrap_or(0);
            if rest == 0 {
                break;
            }
        }
        let mut insert = Self::EMPTY;
        let skipped = digits.len().saturating_sub(count);
        let text = before.iter().chain(digits.iter().skip(skipped));
        for (place, digit) in insert.characters.iter_mut().zip(text) {
            *place = u16::from(*digit);
        }
        insert
    }
}

/// An event. Its code selects the message in the message table of the driver's
/// file.
#[derive(Clone, Copy, Debug)]
pub struct Event<'e> {
    /// The message's identifier in the message table: severity, facility and code.
    pub code: u32,
    /// Distinguishes events of one code (`UniqueId`).
    pub unique_id: u32,
    /// The texts for the message. Those after the first [`MAX_INSERTS`] are ignored.
    pub inserts: &'e [Insert],
}

impl Event<'_> {
    /// Logs the event.
    ///
    /// # Safety
    /// At or below DISPATCH_LEVEL, not in a dump stack.
    pub(crate) unsafe fn log(&self, adapter: &Header) -> Result<(), StorStatus> {
        let mut strings: [PWSTR; MAX_INSERTS] = [ptr::null_mut(); MAX_INSERTS];
        for (place, insert) in strings.iter_mut().zip(self.inserts) {
            *place = insert.characters.as_ptr().cast_mut();
        }
        let count = self.inserts.len().min(MAX_INSERTS);
        let mut details = STOR_LOG_EVENT_DETAILS {
            InterfaceRevision: wdk_sys::STOR_CURRENT_LOG_INTERFACE_REVISION,
            Size: size_of::<STOR_LOG_EVENT_DETAILS>() as ULONG,
            EventAssociation: association::StorEventAdapterAssociation,
            ErrorCode: self.code,
            UniqueId: self.unique_id,
            StringCount: count as ULONG,
            StringList: strings.as_mut_ptr(),
            ..STOR_LOG_EVENT_DETAILS::default()
        };
        let mut most_bytes: ULONG = 0;
        // SAFETY: The caller's promise. The memory that the details point to outlives the call, and
        // Storport only reads it.
        unsafe { port::log_system_event(adapter, &raw mut details, &raw mut most_bytes) }
    }
}
