//! The description of a workload before it runs, and the tables of its results.

use std::{
    fmt::{self, Display, Formatter},
    time::Duration,
};

use hdrhistogram::Histogram;

use super::options::Options;
use crate::{size::Size, summary::table};

/// The latencies of I/Os in nanoseconds, to three significant digits.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Latencies {
    pub(super) fn record(&mut self, latency: Duration) {
        let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.0.saturating_record(nanoseconds);
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("all have one range");
    }

    /// The number of I/Os.
    #[must_use]
    pub fn ios(&self) -> u64 {
        self.0.len()
    }

    /// A figure, or `-` if there is no I/O.
    fn milliseconds(&self, of: impl Fn(&Histogram<u64>) -> f64) -> String {
        match self.ios() {
            0 => "-".to_owned(),
            _ => format!("{:.3}", of(&self.0) / 1e6),
        }
    }
}

impl Default for Latencies {
    fn default() -> Self {
        // Up to an hour: no request lives longer than Storport's time-out.
        let histogram = Histogram::new_with_max(3_600_000_000_000, 3);
        Self(histogram.expect("the range and digits are valid"))
    }
}

/// The I/Os of a workload that completed in the measured time.
#[derive(Clone, Debug)]
pub struct Results {
    /// The options.
    pub options: Options,
    /// Reads.
    pub reads: Latencies,
    /// Writes.
    pub writes: Latencies,
}

/// A row of the table of latencies: its name, and its figure.
type Row = (&'static str, fn(&Histogram<u64>) -> f64);

/// The rows of the table of latencies.
const ROWS: [Row; 7] = [
    ("mean", |all| all.mean()),
    ("min", |all| all.min() as f64),
    ("50%", |all| all.value_at_quantile(0.5) as f64),
    ("90%", |all| all.value_at_quantile(0.9) as f64),
    ("99%", |all| all.value_at_quantile(0.99) as f64),
    ("99.9%", |all| all.value_at_quantile(0.999) as f64),
    ("max", |all| all.max() as f64),
];

impl Display for Results {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let seconds = f64::from(self.options.duration_s);
        let mut total = self.reads.clone();
        total.add(&self.writes);
        let kinds = [
            ("read", &self.reads),
            ("write", &self.writes),
            ("total", &total),
        ];
        let rows = kinds.map(|(name, latencies)| {
            let ios = latencies.ios();
            let mebibytes = ios as f64 * f64::from(self.options.block_bytes) / f64::from(1 << 20);
            vec![
                name.to_owned(),
                ios.to_string(),
                format!("{:.2}", mebibytes / seconds),
                format!("{:.2}", ios as f64 / seconds),
            ]
        });
        table(out, &["", "I/Os", "MiB/s", "I/O per s"], rows.into_iter())?;
        if !self.options.latency {
            return Ok(());
        }
        writeln!(out)?;
        let rows = ROWS.iter().map(|(name, figure)| {
            let cells = kinds.map(|(_, latencies)| latencies.milliseconds(figure));
            [vec![(*name).to_owned()], cells.to_vec()].concat()
        });
        table(out, &["latency", "read ms", "write ms", "total ms"], rows)
    }
}

/// Describes a workload before it runs. `write_through` says how the disk performs `-Sw`.
#[must_use]
pub fn describe(options: &Options, write_through: &str) -> String {
    format!(
        "workload  {}\n          {} threads with {} I/Os in flight of {}, {}, {}% writes\n          \
         {} s warm-up, {} s measured; write-through: {write_through}",
        options.given.join(" "),
        options.threads,
        options.outstanding,
        Size(options.block_bytes.into()),
        if options.random {
            "random"
        } else {
            "sequential"
        },
        options.write_percent,
        options.warm_up_s,
        options.duration_s,
    )
}

#[cfg(test)]
mod tests {
    use super::{super::options::tests::accepted, *};

    /// 4 reads of 1 ms to 4 ms and one write of 8 ms, in two seconds.
    fn results(line: &str) -> Results {
        let mut results = Results {
            options: accepted(line),
            reads: Latencies::default(),
            writes: Latencies::default(),
        };
        for number in 1..=4 {
            results.reads.record(Duration::from_millis(number));
        }
        results.writes.record(Duration::from_millis(8));
        results
    }

    #[test]
    fn the_tables_have_rates_and_quantiles_to_three_digits() {
        let text = results("-b1M -L -d2").to_string();

        let expected = "\
\u{20}      I/Os  MiB/s  I/O per s
read      4   2.00       2.00
write     1   0.50       0.50
total     5   2.50       2.50

latency  read ms  write ms  total ms
mean       2.500     8.002     3.600
min        1.000     7.999     1.000
50%        2.001     8.004     3.000
90%        4.002     8.004     8.004
99%        4.002     8.004     8.004
99.9%      4.002     8.004     8.004
max        4.002     8.004     8.004
";
        assert_eq!(text, expected);
        assert!(!results("-d2").to_string().contains("latency"));
    }

    #[test]
    fn figures_without_an_io_are_dashes() {
        let none = Results {
            reads: Latencies::default(),
            writes: Latencies::default(),
            ..results("-L")
        };
        let text = none.to_string();
        let row = text.lines().find(|line| line.starts_with("max"));
        let cells: Vec<&str> = row.expect("a row").split_whitespace().collect();
        assert_eq!(cells, ["max", "-", "-", "-"]);
    }

    #[test]
    fn the_description_has_every_choice() {
        let options = accepted("-b8K -o32 -t2 -w30 -Sh -d5 -W1");
        let expected = "\
workload  -b8K -o32 -t2 -w30 -Sh -d5 -W1
          2 threads with 32 I/Os in flight of 8KiB, sequential, 30% writes
          1 s warm-up, 5 s measured; write-through: FUA on each write";
        assert_eq!(describe(&options, "FUA on each write"), expected);
    }
}
