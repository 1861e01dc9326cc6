//! Makes an INF file from an `.inx`: inserts architecture, date and version, like
//! stampinf, but independently of clock and environment.

use std::{fmt, str::FromStr};

use time::Date;

use super::{Inf, InfError, Section};
use crate::architecture::Architecture;

/// The values that are inserted into an `.inx`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The architecture that `$ARCH$` stands for.
    pub architecture: Architecture,
    /// The driver's date.
    pub date: Date,
    /// The driver's version.
    pub version: Version,
}

/// A driver's version: four numbers below 65535 (INF DriverVer directive).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub [u16; 4]);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d] = self.0;
        write!(f, "{a}.{b}.{c}.{d}")
    }
}

/// A text is not a version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VersionError {
    /// The text does not have four numbers.
    #[error("a driver version consists of four numbers, such as 1.2.3.0")]
    Parts,
    /// A part is not a number, or too large.
    #[error("{part:?} is not a number from 0 to 65534")]
    Number {
        /// The part.
        part: String,
    },
}

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let parts: Vec<&str> = text.split('.').collect();
        let parts: [&str; 4] = parts.try_into().map_err(|_| VersionError::Parts)?;
        let mut version = [0; 4];
        for (place, part) in version.iter_mut().zip(parts) {
            *place = part
                .parse()
                .ok()
                .filter(|number| *number < u16::MAX)
                .ok_or_else(|| VersionError::Number {
                    part: part.to_owned(),
                })?;
        }
        Ok(Self(version))
    }
}

/// An `.inx` cannot be stamped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StampError {
    /// The file has no `[Version]` section.
    #[error("the file has no [Version] section for DriverVer: add one")]
    NoVersion,
    /// The result is not a valid INF file.
    #[error(transparent)]
    Malformed(#[from] InfError),
    /// A placeholder that is not supported, such as `$KMDFVERSION$`.
    #[error("line {line}: the placeholder {placeholder} is unknown: only $ARCH$ is replaced")]
    Placeholder {
        /// The line, from 1.
        line: usize,
        /// The placeholder.
        placeholder: String,
    },
}

const DRIVER_VER: &str = "DriverVer";

/// Inserts `stamp` into the text of an `.inx`: replaces `$ARCH$` with the
/// architecture's decoration, and sets `DriverVer` in `[Version]`. The lines of the
/// result end with CR LF.
///
/// # Errors
/// There is no `[Version]`, the file has another placeholder, or the result is not a valid
/// INF file.
pub fn stamp(inx: &str, stamp: &Stamp) -> Result<String, StampError> {
    let driver_ver = format!(
        "{DRIVER_VER} = {:02}/{:02}/{:04},{}",
        u8::from(stamp.date.month()),
        stamp.date.day(),
        stamp.date.year(),
        stamp.version
    );
    let filled = inx.replace("$ARCH$", stamp.architecture.decoration());
    let before = Inf::parse(filled.as_bytes())?;
    let version = before
        .sections
        .iter()
        .find(|section| section.name.eq_ignore_ascii_case("Version"))
        .ok_or(StampError::NoVersion)?;
    let place = version.entries.iter().find(|entry| {
        let key = entry.key.as_ref();
        key.is_some_and(|key| key.eq_ignore_ascii_case(DRIVER_VER))
    });

    let mut text = String::new();
    for (index, line) in filled.lines().enumerate() {
        let number = index.saturating_add(1);
        let replaced = place.is_some_and(|entry| entry.line == number);
        text.push_str(if replaced { &driver_ver } else { line });
        text.push_str("\r\n");
        if place.is_none() && version.line == number {
            text.push_str(&driver_ver);
            text.push_str("\r\n");
        }
    }
    let after = Inf::parse(text.as_bytes())?;
    match after.sections.iter().flat_map(placeholders).next() {
        Some((line, placeholder)) => Err(StampError::Placeholder {
            line,
            placeholder: placeholder.to_owned(),
        }),
        None => Ok(text),
    }
}

/// The first placeholder in the section's name and in each field, and their lines.
pub(super) fn placeholders(section: &Section) -> impl Iterator<Item = (usize, &str)> {
    let entries = section.entries.iter();
    let entries = entries.flat_map(|entry| entry.fields().map(|field| (entry.line, field)));
    std::iter::once((section.line, &*section.name))
        .chain(entries)
        .filter_map(|(line, text)| Some((line, placeholder(text)?)))
}

/// The first `$NAME$` in `text`: capitals and digits, but not `$CHICAGO$`, a
/// signature.
fn placeholder(text: &str) -> Option<&str> {
    text.match_indices('$').find_map(|(start, _)| {
        let name = text.get(start.checked_add(1)?..)?.split_once('$')?.0;
        let named = !name.is_empty()
            && name
                .bytes()
                .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
            && name != "CHICAGO";
        named.then(|| text.get(start..)?.get(..name.len().checked_add(2)?))?
    })
}

#[cfg(test)]
mod tests {
    use time::macros::date;

    use super::*;

    fn today() -> Stamp {
        Stamp {
            architecture: Architecture::Arm64,
            date: date!(2026 - 11 - 03),
            version: Version([1, 20, 0, 65534]),
        }
    }

    #[test]
    fn architecture_date_and_version_are_put_in() {
        for (inx, inf) in [
            (
                "[Version]\nSignature = \"$WINDOWS NT$\"\ndriverver = 01/01/2000,1.0 ; old\n\
                 [Disks.NT$ARCH$.10.0...17134] ; $ARCH$\n",
                "[Version]\r\nSignature = \"$WINDOWS NT$\"\r\n\
                 DriverVer = 11/03/2026,1.20.0.65534\r\n\
                 [Disks.NTarm64.10.0...17134] ; arm64\r\n",
            ),
            // Without a DriverVer.
            (
                "[Files]\na.sys\n[version]\n",
                "[Files]\r\na.sys\r\n[version]\r\nDriverVer = 11/03/2026,1.20.0.65534\r\n",
            ),
            // With the line ends of Windows.
            (
                "[Version]\r\nDriverVer=\r\n",
                "[Version]\r\nDriverVer = 11/03/2026,1.20.0.65534\r\n",
            ),
        ] {
            assert_eq!(stamp(inx, &today()).unwrap(), inf);
        }
    }

    #[test]
    fn what_cannot_be_stamped_is_refused() {
        for (inx, error) in [
            (
                "[Version]\n[Wdf]\nKmdfLibraryVersion = $KMDFVERSION$\n",
                "line 4: the placeholder $KMDFVERSION$ is unknown: only $ARCH$ is replaced",
            ),
            (
                "[Files]\n",
                "the file has no [Version] section for DriverVer: add one",
            ),
            (
                "[Version\n",
                "line 1: the section name has no closing bracket: add ]",
            ),
        ] {
            assert_eq!(stamp(inx, &today()).unwrap_err().to_string(), error);
        }
    }

    #[test]
    fn signatures_are_no_placeholders() {
        for text in ["$WINDOWS NT$", "$Windows NT$", "$CHICAGO$", "$$", "5 $"] {
            assert_eq!(placeholder(text), None);
        }
        assert_eq!(placeholder("a $b $ARCH$"), Some("$ARCH$"));
    }

    #[test]
    fn a_version_is_four_numbers() {
        assert_eq!("1.2.3.4".parse(), Ok(Version([1, 2, 3, 4])));
        assert_eq!(Version([1, 2, 3, 4]).to_string(), "1.2.3.4");
        for text in ["1.2.3", "1.2.3.4.5", "1.2.3.65535", "1.2.3.b"] {
            assert!(text.parse::<Version>().is_err(), "{text}");
        }
    }
}
