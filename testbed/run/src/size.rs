//! Parses and prints sizes: `64M` on a command line, `64MiB` in the output.

use std::{
    fmt::{self, Display, Formatter},
    str::FromStr,
};

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// A text is not a size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a size: give a number of bytes, or a number with K, M, G or T (64M)")]
pub struct NoSize(String);

impl FromStr for Size {
    type Err = NoSize;

    fn from_str(text: &str) -> Result<Self, NoSize> {
        let digits = text.trim_end_matches(|last: char| !last.is_ascii_digit());
        let shift = match &text[digits.len()..] {
            "" => Some(0),
            "K" | "k" | "KiB" => Some(10),
            "M" | "m" | "MiB" => Some(20),
            "G" | "g" | "GiB" => Some(30),
            "T" | "t" | "TiB" => Some(40),
            _ => None,
        };
        digits
            .parse::<u64>()
            .ok()
            .zip(shift)
            .and_then(|(count, shift)| count.checked_mul(1 << shift))
            .map(Self)
            .ok_or_else(|| NoSize(text.to_owned()))
    }
}

impl Display for Size {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
        match units.into_iter().find(|(shift, _)| self.0 >> shift > 0) {
            Some((shift, unit)) if self.0.is_multiple_of(1 << shift) => {
                write!(out, "{}{unit}", self.0 >> shift)
            }
            Some((shift, unit)) => {
                write!(out, "{:.2}{unit}", self.0 as f64 / (1_u64 << shift) as f64)
            }
            None => write!(out, "{}B", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_and_without_a_unit() {
        for (text, bytes) in [
            ("512", 512),
            ("4k", 4096),
            ("64M", 64 << 20),
            ("2GiB", 2 << 30),
            ("1T", 1 << 40),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
    }

    #[test]
    fn invalid_sizes_are_refused() {
        for text in ["", "M", "-1", "1.5M", "64MB", "64 M", "0x10", "16777216T"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_printed_in_the_largest_unit_that_fits() {
        for (bytes, text) in [
            (511, "511B"),
            (1536, "1.50KiB"),
            (8192, "8KiB"),
            (256 << 20, "256MiB"),
            (3 << 40, "3TiB"),
        ] {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }
}
