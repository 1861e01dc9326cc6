//! The nested blocks of a version resource (VS_VERSIONINFO and its children, in Microsoft's
//! reference of menurc).

/// A block: length, length and kind of its value, key, value, children. Value and children are
/// aligned to four bytes.
pub(crate) struct Block {
    bytes: Vec<u8>,
}

impl Block {
    /// A block with a binary value.
    pub(crate) fn binary(key: &str, value: &[u8]) -> Self {
        Self::new(key, Kind::Binary, value.len(), value)
    }

    /// A block with a zero-terminated string. Its value length is in characters.
    pub(crate) fn string(key: &str, value: &str) -> Self {
        let value = utf_16(value);
        Self::new(key, Kind::Text, value.len() / 2, &value)
    }

    /// A block that has only children.
    pub(crate) fn parent(key: &str) -> Self {
        Self::new(key, Kind::Text, 0, &[])
    }

    fn new(key: &str, kind: Kind, value_length: usize, value: &[u8]) -> Self {
        let mut block = Self { bytes: vec![0; 2] };
        block.bytes.extend(short(value_length));
        block.bytes.extend((kind as u16).to_le_bytes());
        block.bytes.extend(utf_16(key));
        if !value.is_empty() {
            block.align();
            block.bytes.extend(value);
        }
        block
    }

    /// Appends a child.
    pub(crate) fn with(mut self, child: Self) -> Self {
        self.align();
        self.bytes.extend(child.bytes());
        self
    }

    /// The bytes of the block in the resource.
    pub(crate) fn bytes(mut self) -> Vec<u8> {
        let length = short(self.bytes.len());
        self.bytes.splice(..2, length);
        self.bytes
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Binary = 0,
    Text = 1,
}

/// A length in a block's header. Only a description of 30,000 characters would exceed it.
fn short(length: usize) -> [u8; 2] {
    u16::try_from(length)
        .expect("a version resource has less than 64 KiB")
        .to_le_bytes()
}

fn utf_16(text: &str) -> Vec<u8> {
    text.encode_utf16()
        .chain([0])
        .flat_map(u16::to_le_bytes)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::Block;

    #[test]
    fn a_string_begins_and_ends_where_its_block_says() {
        let bytes = Block::string("Key", "ab").bytes();

        // 6 bytes of header, 8 of the key, 2 to align, 6 of the value.
        assert_eq!(bytes.len(), 22);
        assert_eq!(bytes[..6], [22, 0, 3, 0, 1, 0]);
        assert_eq!(bytes[6..14], *b"K\0e\0y\0\0\0");
        assert_eq!(bytes[16..], *b"a\0b\0\0\0");
    }

    #[test]
    fn a_child_begins_at_a_multiple_of_four_and_counts_as_its_parents() {
        let bytes = Block::parent("P").with(Block::binary("C", &[7])).bytes();

        // 10 bytes of the parent's own, 2 to align; 10 and 2 of the child, 1 value.
        assert_eq!(bytes.len(), 25);
        assert_eq!(bytes[0], 25);
        assert_eq!(bytes[12..16], [13, 0, 1, 0]);
        assert_eq!(bytes[24], 7);
    }
}
