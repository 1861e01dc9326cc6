//! The message table of a driver file, from which Event Viewer reads the texts of events
//! (MESSAGE_RESOURCE_DATA, MESSAGE_RESOURCE_BLOCK and MESSAGE_RESOURCE_ENTRY in Microsoft's
//! reference of winnt.h).

use std::collections::BTreeMap;

/// A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// The whole code of the event, severity and facility included.
    pub id: u32,
    /// The text. `%1` is the name of the device, `%2` and following are the strings
    /// of the event.
    pub text: &'a str,
}

/// The messages do not form a valid table.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// Two messages have the same code.
    #[error("two messages have the code {id:#010x}: give each its own code")]
    Twice {
        /// The code.
        id: u32,
    },
    /// A message is too long for the 16-bit length of its entry.
    #[error("message {id:#010x} is too long: shorten it to less than 64 KiB of UTF-16")]
    Length {
        /// The code.
        id: u32,
    },
}

/// The bytes of the table.
///
/// # Errors
/// See [`MessageError`].
pub(crate) fn resource(messages: &[Message<'_>]) -> Result<Vec<u8>, MessageError> {
    let mut entries = BTreeMap::new();
    for message in messages {
        if entries.insert(message.id, entry(message)?).is_some() {
            return Err(MessageError::Twice { id: message.id });
        }
    }
    // A block has the entries of consecutive codes.
    let entries: Vec<_> = entries.into_iter().collect();
    let blocks: Vec<_> = entries
        .chunk_by(|(id, _), (next, _)| id.checked_add(1) == Some(*next))
        .collect();
    let mut table = Vec::from(number(blocks.len()));
    let mut offset = 4 + 12 * blocks.len();
    for block in &blocks {
        let (low, high) = (block[0].0, block[block.len() - 1].0);
        table.extend(low.to_le_bytes());
        table.extend(high.to_le_bytes());
        table.extend(number(offset));
        offset += block.iter().map(|(_, entry)| entry.len()).sum::<usize>();
    }
    table.extend(entries.into_iter().flat_map(|(_, entry)| entry));
    Ok(table)
}

/// A message's entry: length, Unicode flag, text, padding to a multiple of four bytes. The text
/// ends with a line break, as the message compiler writes it.
fn entry(message: &Message<'_>) -> Result<Vec<u8>, MessageError> {
    const UNICODE: u16 = 1;
    let text = format!("{}\r\n\0", message.text);
    let text: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let length = (4 + text.len()).next_multiple_of(4);
    let field = u16::try_from(length).map_err(|_| MessageError::Length { id: message.id })?;
    let mut entry = Vec::with_capacity(length);
    entry.extend(field.to_le_bytes());
    entry.extend(UNICODE.to_le_bytes());
    entry.extend(text);
    entry.resize(length, 0);
    Ok(entry)
}

/// A count or an offset. All messages together would need gigabytes to exceed it.
fn number(value: usize) -> [u8; 4] {
    u32::try_from(value)
        .expect("a message table has less than 4 GiB")
        .to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(id: u32, text: &str) -> Message<'_> {
        Message { id, text }
    }

    #[test]
    fn the_table_has_the_documented_layout() {
        let messages = [
            message(0xe001_0007, "c"),
            message(0x6001_0001, "ab"),
            message(0x6001_0002, ""),
        ];

        let table = resource(&messages).unwrap();

        let words: Vec<u32> = table
            .chunks_exact(4)
            .map(|word| u32::from_le_bytes(word.try_into().unwrap()))
            .collect();
        assert_eq!(
            words,
            [
                // NumberOfBlocks, then LowId, HighId and OffsetToEntries of each.
                2,
                0x6001_0001,
                0x6001_0002,
                28,
                0xe001_0007,
                0xe001_0007,
                28 + 16 + 12,
                // Flags and Length, then the text: "ab\r\n", NUL, padding.
                1 << 16 | 16,
                u32::from(b'b') << 16 | u32::from(b'a'),
                0x000a_000d,
                0,
                // "\r\n", NUL, padding.
                1 << 16 | 12,
                0x000a_000d,
                0,
                // "c\r\n", NUL.
                1 << 16 | 12,
                0x000d << 16 | u32::from(b'c'),
                0x0000_000a,
            ]
        );
    }

    #[test]
    fn repeated_codes_and_texts_that_no_entry_can_hold_are_refused() {
        let error = resource(&[message(7, "a"), message(7, "b")]).unwrap_err();
        assert!(matches!(error, MessageError::Twice { id: 7 }), "{error}");

        let longest = "x".repeat((0xfffc - 4) / 2 - 3);
        assert!(resource(&[message(7, &longest)]).is_ok());
        let error = resource(&[message(7, &(longest + "x"))]).unwrap_err();
        assert!(matches!(error, MessageError::Length { id: 7 }), "{error}");
    }
}
