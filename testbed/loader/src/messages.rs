//! The message table of a driver file, in which the Event Viewer looks up the text of an event
//! (MESSAGE_RESOURCE_DATA in Microsoft's reference of winnt.h).

use std::collections::BTreeMap;

use object::{LittleEndian as LE, read::pe::ResourceDirectory};

/// RT_MESSAGETABLE of winuser.h.
const MESSAGE_TABLE: u16 = 11;

/// The maximum number of messages. It bounds the work for a damaged range of codes.
const MOST: usize = 4096;

/// The messages by event code.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Messages(BTreeMap<u32, String>);

impl Messages {
    /// Parses the messages of an image whose resource directory is at `directory`. Empty if the
    /// message table is missing or damaged.
    pub(super) fn parse(image: &[u8], directory: u32) -> Self {
        Self(
            table(image, directory)
                .and_then(entries)
                .unwrap_or_default(),
        )
    }

    /// The message for `code`, with `inserts` in place of `%1` and following.
    pub(super) fn sentence(&self, code: u32, inserts: &[&str]) -> Option<String> {
        Some(fill(self.0.get(&code)?, inserts))
    }
}

/// The bytes of the message table in its first language.
fn table(image: &[u8], directory: u32) -> Option<&[u8]> {
    let directory = ResourceDirectory::new(image.get(directory as usize..)?);
    let root = directory.root().ok()?;
    let kind = root
        .entries
        .iter()
        .find(|entry| entry.name_or_id().id() == Some(MESSAGE_TABLE))?;
    let names = kind.data(directory).ok()?.table()?;
    let languages = names.entries.first()?.data(directory).ok()?.table()?;
    let data = languages.entries.first()?.data(directory).ok()?.data()?;
    let start = data.offset_to_data.get(LE) as usize;
    image.get(start..)?.get(..data.size.get(LE) as usize)
}

/// All messages of a table.
fn entries(table: &[u8]) -> Option<BTreeMap<u32, String>> {
    let mut messages = BTreeMap::new();
    let word = |at: usize| Some(u32::from_le_bytes(*table.get(at..)?.first_chunk()?));
    for block in 0..(word(0)? as usize).min(MOST) {
        let block = 4 + 12 * block;
        let (low, high) = (word(block)?, word(block + 4)?);
        let mut at = word(block + 8)? as usize;
        for code in low..=high {
            if messages.len() == MOST {
                return None;
            }
            let header = word(at)?;
            let (length, flags) = (header as u16 as usize, header >> 16);
            let text = table.get(at..)?.get(..length)?.get(4..)?;
            messages.insert(code, decode(text, flags));
            at += length;
        }
    }
    Some(messages)
}

/// Decodes a text of 16-bit or 8-bit characters, without trailing zeros and line ends.
fn decode(text: &[u8], flags: u32) -> String {
    const UNICODE: u32 = 1;
    let text = if flags & UNICODE == 0 {
        String::from_utf8_lossy(text).into_owned()
    } else {
        let units = text
            .chunks_exact(2)
            .map(|unit| u16::from_le_bytes([unit[0], unit[1]]));
        char::decode_utf16(units)
            .map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER))
            .collect()
    };
    text.trim_end_matches(['\0', '\r', '\n']).to_owned()
}

/// Replaces the placeholders (`%1` to `%99`, with or without a format) and the escape sequences
/// of FormatMessage, and joins the lines. Keeps a placeholder that has no insert.
fn fill(text: &str, inserts: &[&str]) -> String {
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        filled += before;
        let digits = after.bytes().take(2).take_while(u8::is_ascii_digit).count();
        let (number, tail) = after.split_at(digits);
        rest = tail;
        match number.parse::<usize>() {
            // %0 ends the message.
            Ok(0) => {
                rest = "";
                break;
            }
            Ok(insert) => match inserts.get(insert - 1) {
                Some(insert) => {
                    filled += insert;
                    let format = tail.strip_prefix('!').and_then(|tail| tail.split_once('!'));
                    rest = format.map_or(tail, |(_, tail)| tail);
                }
                None => filled += &format!("%{number}"),
            },
            Err(_) => {
                let mut characters = tail.chars();
                match characters.next() {
                    Some('n' | 'r' | 't' | 'b') => filled.push(' '),
                    Some(character) => filled.push(character),
                    None => filled.push('%'),
                }
                rest = characters.as_str();
            }
        }
    }
    filled += rest;
    filled.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table with one block of a message in 16 bits and one in 8 bits.
    fn sample() -> Vec<u8> {
        let mut table = Vec::new();
        for word in [1_u32, 0xe001_03e9, 0xe001_03ea, 16] {
            table.extend(word.to_le_bytes());
        }
        table.extend([20, 0, 1, 0]);
        table.extend("%1: %2.\r".encode_utf16().flat_map(u16::to_le_bytes));
        table.extend([12, 0, 0, 0]);
        table.extend(b"short\r\n\0");
        table
    }

    fn messages() -> Messages {
        Messages(entries(&sample()).expect("a sound table"))
    }

    #[test]
    fn a_code_has_its_text_with_the_inserts_in_place() {
        let sentence = |code| messages().sentence(code, &["disk", "it failed"]);
        assert_eq!(sentence(0xe001_03e9).unwrap(), "disk: it failed.");
        assert_eq!(sentence(0xe001_03ea).unwrap(), "short");
        assert_eq!(sentence(0xe001_03eb), None);
    }

    #[test]
    fn placeholders_and_escapes_are_those_of_formatmessage() {
        for (text, sentence) in [
            ("%2 and %1", "b and a"),
            ("%1!s!, %3 is missing", "a, %3 is missing"),
            ("100%% of%n%1%. %0 hidden", "100% of a."),
            ("one\r\n\r\ntwo", "one two"),
            ("%", "%"),
        ] {
            assert_eq!(fill(text, &["a", "b"]), sentence);
        }
    }

    #[test]
    fn a_truncated_table_has_no_messages() {
        let table = sample();
        for length in 0..table.len() {
            assert_eq!(entries(&table[..length]), None, "{length}");
        }
        let mut endless = table;
        endless[8..12].fill(0xff);
        assert_eq!(entries(&endless), None);
    }
}
