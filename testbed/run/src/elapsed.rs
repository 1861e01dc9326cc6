//! Prints durations in a suitable unit.

use std::{
    fmt::{self, Display, Formatter},
    time::Duration,
};

/// A duration that prints as `1.50 ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed(pub Duration);

impl Display for Elapsed {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let nanoseconds = self.0.as_nanos() as f64;
        let text = match nanoseconds {
            ..1e3 => format!("{nanoseconds:.0} ns"),
            1e3..1e6 => format!("{:.2} us", nanoseconds / 1e3),
            1e6..1e9 => format!("{:.2} ms", nanoseconds / 1e6),
            _ => format!("{:.2} s", nanoseconds / 1e9),
        };
        out.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_has_its_unit() {
        for (nanoseconds, text) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_500, "1.50 us"),
            (2_000_000, "2.00 ms"),
            (61_250_000_000, "61.25 s"),
        ] {
            assert_eq!(Elapsed(Duration::from_nanos(nanoseconds)).to_string(), text);
        }
    }
}
