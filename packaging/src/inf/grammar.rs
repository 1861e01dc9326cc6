//! Parses the text of an INF file into sections, entries and fields ("General Syntax Rules for
//! INF Files"), without interpreting them.

/// A parsed INF file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inf {
    /// The encoding of the file.
    pub encoding: Encoding,
    /// The first line before the first section, if it is not a comment. Windows ignores it.
    pub preface: Option<usize>,
    /// The sections, in the file's order. Two can have the same name.
    pub sections: Vec<Section>,
}

/// The encoding of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// 7-bit ASCII, which every code page reads alike.
    Ascii,
    /// Bytes of some code page; read as Latin 1.
    Ansi,
    /// UTF-8, with a byte order mark or bytes that are valid in it.
    Utf8,
    /// UTF-16, little-endian, with a byte order mark.
    Utf16,
}

/// `[name]` and what follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// The name as written. Names are case-insensitive.
    pub name: String,
    /// Its line, from 1.
    pub line: usize,
    /// Its entries, in the file's order.
    pub entries: Vec<Entry>,
}

/// `key = value, value`, or values alone. Quotation marks are resolved, `%tokens%` are not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its first line, from 1.
    pub line: usize,
    /// The text before the equals sign, if there is one.
    pub key: Option<String>,
    /// The values; at least one, which may be empty.
    pub values: Vec<String>,
}

/// A file is not a valid INF file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InfError {
    /// Its characters cannot be decoded.
    #[error("the file is UTF-16, but {fault}: save it as UTF-16, little-endian, or as ASCII")]
    Encoding {
        /// What is wrong with them.
        fault: &'static str,
    },
    /// A line cannot be parsed.
    #[error("line {line}: {fault}")]
    Syntax {
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        fault: &'static str,
    },
}

impl Inf {
    /// Reads the file's bytes.
    ///
    /// # Errors
    /// The bytes are not text, or the text is not a valid INF file.
    pub fn parse(bytes: &[u8]) -> Result<Self, InfError> {
        let (encoding, text) = decode(bytes)?;
        let lines = text.lines().enumerate();
        let (preface, sections) = Reader { lines }.sections()?;
        Ok(Self {
            encoding,
            preface,
            sections,
        })
    }
}

/// The text of an INF file, and how it is encoded.
///
/// # Errors
/// It is UTF-16, and damaged or big-endian.
pub fn decode(bytes: &[u8]) -> Result<(Encoding, String), InfError> {
    let fault = |fault| InfError::Encoding { fault };
    if let Some(bytes) = bytes.strip_prefix(b"\xff\xfe") {
        let (units, rest) = bytes.as_chunks();
        if !rest.is_empty() {
            return Err(fault("its last character is truncated"));
        }
        let units = units.iter().map(|unit| u16::from_le_bytes(*unit));
        return char::decode_utf16(units)
            .collect::<Result<_, _>>()
            .map(|text| (Encoding::Utf16, text))
            .map_err(|_| fault("has half a surrogate pair"));
    }
    if bytes.starts_with(b"\xfe\xff") {
        return Err(fault("big-endian"));
    }
    if let Some(rest) = bytes.strip_prefix(b"\xef\xbb\xbf")
        && let Ok(text) = str::from_utf8(rest)
    {
        return Ok((Encoding::Utf8, text.to_owned()));
    }
    Ok(match str::from_utf8(bytes) {
        Ok(text) if text.is_ascii() => (Encoding::Ascii, text.to_owned()),
        Ok(text) => (Encoding::Utf8, text.to_owned()),
        Err(_) => (
            Encoding::Ansi,
            bytes.iter().copied().map(char::from).collect(),
        ),
    })
}

/// The bytes of an INF file with this text: ASCII where that suffices, else UTF-16,
/// which Windows reads the same with every code page.
#[must_use]
pub fn encode(text: &str) -> Vec<u8> {
    if text.is_ascii() {
        return text.as_bytes().to_vec();
    }
    let units = text.encode_utf16().flat_map(u16::to_le_bytes);
    [0xff, 0xfe].into_iter().chain(units).collect()
}

/// The remaining lines.
struct Reader<'a> {
    lines: std::iter::Enumerate<std::str::Lines<'a>>,
}

/// The end of a field.
enum End {
    Key,
    Comma,
    Line,
}

impl<'a> Reader<'a> {
    fn sections(mut self) -> Result<(Option<usize>, Vec<Section>), InfError> {
        let mut sections = Vec::<Section>::new();
        let mut preface = None;
        while let Some((line, text)) = self.next() {
            let fault = |fault| InfError::Syntax { line, fault };
            if text.chars().any(|c| c.is_control() && c != '\t') {
                return Err(fault("the line contains a control character: remove it"));
            }
            let text = text.trim();
            if text.is_empty() || text.starts_with(';') {
                continue;
            }
            if let Some(rest) = text.strip_prefix('[') {
                let (name, rest) = rest
                    .split_once(']')
                    .ok_or(fault("the section name has no closing bracket: add ]"))?;
                let rest = rest.trim_start();
                if name.trim().is_empty() {
                    return Err(fault(
                        "the section has no name: put one between the brackets",
                    ));
                }
                if !rest.is_empty() && !rest.starts_with(';') {
                    return Err(fault(
                        "only a comment may follow the section's closing bracket",
                    ));
                }
                sections.push(Section {
                    name: name.trim().to_owned(),
                    line,
                    entries: Vec::new(),
                });
                continue;
            }
            match sections.last_mut() {
                Some(section) => section.entries.push(self.entry(line, text)?),
                None => preface = preface.or(Some(line)),
            }
        }
        Ok((preface, sections))
    }

    /// The next line and its number.
    fn next(&mut self) -> Option<(usize, &'a str)> {
        self.lines
            .next()
            .map(|(index, text)| (index.saturating_add(1), text))
    }

    /// The entry that starts with `text`, the line `first`.
    fn entry(&mut self, first: usize, text: &'a str) -> Result<Entry, InfError> {
        let mut cursor = Cursor { line: first, text };
        let mut key = None;
        let mut values = Vec::new();
        loop {
            // An equals sign after the first comma is a character as any other.
            let keyed = key.is_none() && values.is_empty();
            let (field, end) = self.field(&mut cursor, keyed)?;
            match end {
                End::Key => key = Some(field),
                End::Comma => values.push(field),
                End::Line => {
                    values.push(field);
                    return Ok(Entry {
                        line: first,
                        key,
                        values,
                    });
                }
            }
        }
    }

    fn field(&mut self, cursor: &mut Cursor<'a>, keyed: bool) -> Result<(String, End), InfError> {
        let mut text = String::new();
        // White space at the end is not part of it, unless it was quoted.
        let mut kept = 0;
        let end = loop {
            let Some(c) = cursor.take() else {
                break End::Line;
            };
            match c {
                ';' => {
                    cursor.text = "";
                    break End::Line;
                }
                ',' => break End::Comma,
                '=' if keyed => break End::Key,
                '"' => {
                    cursor.quotation(&mut text)?;
                    kept = text.len();
                }
                '%' => {
                    text.push('%');
                    // A token may hold any character, as a semicolon.
                    if let Some((token, rest)) = cursor.text.split_once('%') {
                        text.push_str(token);
                        text.push('%');
                        cursor.text = rest;
                    }
                    kept = text.len();
                }
                '\\' if cursor.goes_on() => {
                    let (line, next) = self.next().ok_or(InfError::Syntax {
                        line: cursor.line,
                        fault: "the backslash continues the line, but the file ends: remove it",
                    })?;
                    *cursor = Cursor { line, text: next };
                }
                c if c.is_whitespace() => {
                    if !text.is_empty() {
                        text.push(c);
                    }
                }
                c => {
                    text.push(c);
                    kept = text.len();
                }
            }
        };
        text.truncate(kept);
        Ok((text, end))
    }
}

/// The rest of a line.
struct Cursor<'a> {
    line: usize,
    text: &'a str,
}

impl Cursor<'_> {
    fn take(&mut self) -> Option<char> {
        let mut rest = self.text.chars();
        let c = rest.next();
        self.text = rest.as_str();
        c
    }

    /// Whether nothing but backslashes and a comment follows: the first
    /// backslash of several is ignored, the last continues the line.
    fn goes_on(&self) -> bool {
        let rest = self.text.trim_start_matches('\\').trim_start();
        rest.is_empty() || rest.starts_with(';')
    }

    /// Reads up to the closing quotation mark; two together are one that does
    /// not close.
    fn quotation(&mut self, text: &mut String) -> Result<(), InfError> {
        loop {
            let Some((before, rest)) = self.text.split_once('"') else {
                return Err(InfError::Syntax {
                    line: self.line,
                    fault: "the quoted text has no closing quotation mark on its line",
                });
            };
            text.push_str(before);
            match rest.strip_prefix('"') {
                Some(rest) => {
                    text.push('"');
                    self.text = rest;
                }
                None => {
                    self.text = rest;
                    return Ok(());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The one entry of a section, which `text` is.
    fn entry(text: &str) -> Entry {
        let inf = Inf::parse(format!("[A]\n{text}").as_bytes()).unwrap();
        let [entry] = &inf.sections[0].entries[..] else {
            panic!("not one entry: {inf:?}");
        };
        entry.clone()
    }

    #[test]
    fn a_text_is_encoded_so_that_it_is_read_back() {
        for (text, encoding) in [
            ("[A]", Encoding::Ascii),
            ("[\u{c4}]", Encoding::Utf16),
            ("[\u{1f4be}]", Encoding::Utf16),
        ] {
            assert_eq!(decode(&encode(text)), Ok((encoding, text.to_owned())));
        }
    }

    #[test]
    fn sections_and_entries_know_their_lines() {
        let inf =
            Inf::parse(b"; what\n\n[Version] ; it is\nClass = Net\n\n[Files]\r\na.sys,,,2\r\n");
        assert_eq!(
            inf.unwrap().sections,
            [
                Section {
                    name: "Version".into(),
                    line: 3,
                    entries: vec![Entry {
                        line: 4,
                        key: Some("Class".into()),
                        values: vec!["Net".into()],
                    }],
                },
                Section {
                    name: "Files".into(),
                    line: 6,
                    entries: vec![Entry {
                        line: 7,
                        key: None,
                        values: ["a.sys", "", "", "2"].map(String::from).into(),
                    }],
                },
            ]
        );
    }

    #[test]
    fn entries_are_divided_into_values() {
        for (text, expected) in [
            ("a =\tb  c , d\t", &["b  c", "d"][..]),
            // Only the first equals sign before a comma ends the key.
            ("a = b = c", &["b = c"]),
            ("HKR,,a=b", &["HKR", "", "a=b"]),
            // Quotation marks keep what they hold.
            (r#"a = " b, c; = ""d"" ""#, &[" b, c; = \"d\" "]),
            (r#"a = """%13%\b c.dll""""#, &[r#""%13%\b c.dll""#]),
            ("a = \"\"", &[""]),
            // A token can hold a semicolon. A lone percent sign is itself.
            ("a = %b;c%, d ; e", &["%b;c%", "d"]),
            ("a = 5 % ; what", &["5 %"]),
            ("a = 100%%, b", &["100%%", "b"]),
            // A backslash at the end continues the line.
            ("a = b, \\\n c, \\ ; more\n d", &["b", "c", "d"]),
            ("a = \"b\\\"\\\n,c", &["b\\", "c"]),
            ("a = b\\\\\n,c", &["b", "c"]),
            (r"a = %13%\b.sys", &[r"%13%\b.sys"]),
        ] {
            assert_eq!(entry(text).values, expected, "{text}");
        }
        assert_eq!(entry("HKR,,a=b").key, None);
        assert_eq!(entry("\"a = b\" = c").key.unwrap(), "a = b");
    }

    #[test]
    fn the_first_line_is_a_continued_entrys_line() {
        let inf = Inf::parse(b"[A]\na = b,\\\nc\nd = e").unwrap();
        let lines = inf.sections[0].entries.iter().map(|entry| entry.line);
        assert_eq!(lines.collect::<Vec<_>>(), [2, 4]);
    }

    #[test]
    fn a_line_that_cannot_be_read_is_refused_by_its_number() {
        for (text, start) in [
            ("\n[A", "line 2: the section name has no closing bracket"),
            ("[ ]", "line 1: the section has no name"),
            ("[A] a = b", "line 1: only a comment may follow"),
            ("[A]\na = \"b\nc", "line 2: the quoted text has no closing"),
            ("[A]\na = b,\\", "line 2: the backslash continues the line"),
            (
                "[A]\na = \u{1}",
                "line 2: the line contains a control character",
            ),
        ] {
            let error = Inf::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with(start), "{error}");
        }
    }

    #[test]
    fn lines_before_the_first_section_are_noted_and_are_not_entries() {
        let inf = Inf::parse(b"; what\n/*++\n\"\n[A]\na = b").unwrap();
        assert_eq!(inf.preface, Some(2));
        assert_eq!(inf.sections.len(), 1);
        assert_eq!(Inf::parse(b"; what\n[A]").unwrap().preface, None);
    }

    #[test]
    fn the_first_bytes_determine_the_encoding() {
        let utf16 = |text: &str| {
            let units = text.encode_utf16().flat_map(u16::to_le_bytes);
            [0xff, 0xfe].into_iter().chain(units).collect::<Vec<u8>>()
        };
        let inf = |bytes: &[u8]| {
            let inf = Inf::parse(bytes).unwrap();
            (inf.encoding, inf.sections[0].name.clone())
        };
        assert_eq!(inf(b"[A]"), (Encoding::Ascii, "A".into()));
        assert_eq!(inf("[Ä]".as_bytes()), (Encoding::Utf8, "Ä".into()));
        assert_eq!(inf(b"\xef\xbb\xbf[A]"), (Encoding::Utf8, "A".into()));
        assert_eq!(inf(b"[\xc4]"), (Encoding::Ansi, "Ä".into()));
        assert_eq!(inf(&utf16("[Ä]")), (Encoding::Utf16, "Ä".into()));
    }

    #[test]
    fn invalid_utf16_is_refused() {
        for bytes in [&b"\xff\xfe["[..], b"\xff\xfe\x00\xd8", b"\xfe\xff\0["] {
            assert!(matches!(Inf::parse(bytes), Err(InfError::Encoding { .. })));
        }
    }
}
