//! The results of a workload: I/Os, bytes, latencies and rates of each thread, and their tables.

use std::{
    fmt::{self, Display, Formatter},
    time::Duration,
};

use hdrhistogram::Histogram;
use nix::sys::resource::Usage;

use super::options::{Access, Options};
use crate::{size::Size, summary::table};

/// Reads or writes that completed in the measured time.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// The number of I/Os.
    pub ios: u64,
    /// The number of bytes.
    pub bytes: u64,
    /// The latencies in nanoseconds, to three significant digits, with `-L`.
    pub latencies: Option<Histogram<u64>>,
    /// The number of completions in each interval, with `-D`.
    pub intervals: Vec<u64>,
}

impl Tally {
    /// An empty tally for `options`.
    #[must_use]
    pub fn new(options: &Options) -> Self {
        let intervals = options.interval_ms.map_or(0, |interval_ms| {
            (u64::from(options.duration_s) * 1000).div_ceil(interval_ms.into())
        });
        Self {
            ios: 0,
            bytes: 0,
            latencies: options.latency.then(|| {
                // Up to an hour: no request lives longer than Storport's time-out.
                Histogram::new_with_max(3_600_000_000_000, 3)
                    .expect("the range and digits are valid")
            }),
            intervals: vec![0; usize::try_from(intervals).unwrap_or(usize::MAX)],
        }
    }

    /// Counts an I/O that took `latency` and completed `at` after the start of the measured time.
    pub fn record(&mut self, options: &Options, latency: Duration, at: Duration) {
        self.ios += 1;
        self.bytes += u64::from(options.block_bytes);
        if let Some(latencies) = &mut self.latencies {
            latencies.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
        }
        let interval = at.as_millis() / u128::from(options.interval_ms.unwrap_or(u32::MAX));
        let index = usize::try_from(interval).unwrap_or(usize::MAX);
        if let Some(count) = self.intervals.get_mut(index) {
            *count += 1;
        }
    }

    /// Adds a tally of the same options.
    pub fn add(&mut self, other: &Self) {
        self.ios += other.ios;
        self.bytes += other.bytes;
        if let (Some(latencies), Some(others)) = (&mut self.latencies, &other.latencies) {
            latencies
                .add(others)
                .expect("all histograms have one range");
        }
        for (count, others) in self.intervals.iter_mut().zip(&other.intervals) {
            *count += others;
        }
    }

    /// The standard deviation of the intervals' I/Os per second.
    fn deviation(&self, interval_ms: u32) -> f64 {
        let number = self.intervals.len() as f64;
        let mean = self.intervals.iter().sum::<u64>() as f64 / number;
        let squares = self
            .intervals
            .iter()
            .map(|&count| (count as f64 - mean).powi(2));
        (squares.sum::<f64>() / number).sqrt() * 1000.0 / f64::from(interval_ms)
    }
}

/// Reads and writes of one thread.
#[derive(Clone, Debug, Default)]
pub struct ThreadResults {
    /// Its reads.
    pub reads: Tally,
    /// Its writes.
    pub writes: Tally,
}

/// The results of a workload.
#[derive(Clone, Debug)]
pub struct Results {
    /// The options, which determine the columns.
    pub options: Options,
    /// One for each thread.
    pub threads: Vec<ThreadResults>,
    /// The mean number of the host's CPUs that the testbed used in the measured time.
    pub host_cpus: f64,
}

impl ThreadResults {
    /// Empty results for `options`.
    #[must_use]
    pub fn new(options: &Options) -> Self {
        Self {
            reads: Tally::new(options),
            writes: Tally::new(options),
        }
    }
}

impl Results {
    fn sum<'a>(&self, tallies: impl IntoIterator<Item = &'a Tally>) -> Tally {
        let mut sum = Tally::new(&self.options);
        tallies.into_iter().for_each(|tally| sum.add(tally));
        sum
    }

    fn row(&self, name: String, tally: &Tally) -> Vec<String> {
        let seconds = f64::from(self.options.duration_s);
        let mut row = vec![
            name,
            tally.ios.to_string(),
            tally.bytes.to_string(),
            format!("{:.2}", tally.bytes as f64 / f64::from(1 << 20) / seconds),
            format!("{:.2}", tally.ios as f64 / seconds),
        ];
        if let Some(interval_ms) = self.options.interval_ms {
            row.push(format!("{:.2}", tally.deviation(interval_ms)));
        }
        if let Some(latencies) = &tally.latencies {
            row.push(milliseconds(latencies, Histogram::mean));
            row.push(milliseconds(latencies, Histogram::stdev));
        }
        row
    }
}

impl Display for Results {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let reads = self.sum(self.threads.iter().map(|thread| &thread.reads));
        let writes = self.sum(self.threads.iter().map(|thread| &thread.writes));
        let total = self.sum([&reads, &writes]);
        let mut heading = vec!["", "I/Os", "bytes", "MiB/s", "I/O per s"];
        if self.options.interval_ms.is_some() {
            heading.push("I/O per s dev.");
        }
        if self.options.latency {
            heading.extend(["mean ms", "ms dev."]);
        }
        let kinds = [("read", &reads), ("write", &writes), ("total", &total)];
        let rows = kinds.map(|(name, tally)| self.row(name.to_owned(), tally));
        let threads = self.threads.iter().enumerate().map(|(number, thread)| {
            let both = self.sum([&thread.reads, &thread.writes]);
            self.row(format!("thread {number}"), &both)
        });
        table(out, &heading, rows.into_iter().chain(threads))?;
        writeln!(out, "host CPU time: {:.2} CPUs", self.host_cpus)?;
        let (Some(reads), Some(writes), Some(total)) =
            (reads.latencies, writes.latencies, total.latencies)
        else {
            return Ok(());
        };
        writeln!(out)?;
        let rows = QUANTILES.iter().map(|&(name, quantile)| {
            let value = |latencies: &Histogram<u64>| {
                milliseconds(latencies, |all| all.value_at_quantile(quantile) as f64)
            };
            vec![
                name.to_owned(),
                value(&reads),
                value(&writes),
                value(&total),
            ]
        });
        table(out, &["latency", "read ms", "write ms", "total ms"], rows)
    }
}

/// The rows of the table of latencies.
const QUANTILES: [(&str, f64); 8] = [
    ("min", 0.0),
    ("50%", 0.5),
    ("90%", 0.9),
    ("99%", 0.99),
    ("99.9%", 0.999),
    ("99.99%", 0.9999),
    ("99.999%", 0.99999),
    ("max", 1.0),
];

/// A figure of `latencies`, or `-` if there are none.
fn milliseconds(latencies: &Histogram<u64>, of: impl Fn(&Histogram<u64>) -> f64) -> String {
    match latencies.len() {
        0 => "-".to_owned(),
        _ => format!("{:.3}", of(latencies) / 1e6),
    }
}

/// The CPU time between two moments, in seconds.
#[must_use]
pub fn cpu_seconds(from: &Usage, to: &Usage) -> f64 {
    let seconds = |usage: &Usage| {
        let times = [usage.user_time(), usage.system_time()];
        times
            .map(|time| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6)
            .iter()
            .sum::<f64>()
    };
    seconds(to) - seconds(from)
}

/// Describes a workload before it runs. `write_through` says how the disk performs `-Sw`.
#[must_use]
pub fn describe(options: &Options, write_through: &str) -> String {
    let step = Size(options.step);
    let access = match options.access {
        Access::Sequential => format!("sequential (stride {step})"),
        Access::Interlocked => format!("interlocked sequential (stride {step})"),
        Access::Parallel => format!("parallel sequential (stride {step})"),
        Access::Random => format!("random (alignment {step})"),
        Access::Mixed { random_percent } => {
            format!("{random_percent}% random, else sequential (alignment {step})")
        }
    };
    let mut lines = vec![
        format!("workload  {}", options.given.join(" ")),
        format!(
            "          {} threads with {} I/Os in flight of {}, {access}, {}% writes",
            options.threads,
            options.outstanding,
            Size(options.block_bytes.into()),
            options.write_percent
        ),
        format!(
            "          {} s warm-up, {} s measured, {} s cool-down; seed {}; write-through: \
             {write_through}",
            options.warm_up_s, options.duration_s, options.cool_down_s, options.seed
        ),
    ];
    let warnings = options.warnings.iter();
    lines.extend(warnings.map(|warning| format!("          warning: {warning}")));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::{super::options::tests::accepted, *};

    /// Two threads in two seconds: 4 reads of 1 ms to 4 ms, one write of 8 ms.
    fn results(line: &str) -> Results {
        let options = accepted(line);
        let mut threads = vec![ThreadResults::new(&options); 2];
        for number in 0..4 {
            let at = Duration::from_millis(500 * number);
            let reads = &mut threads[number as usize / 2].reads;
            reads.record(&options, Duration::from_millis(number + 1), at);
        }
        threads[1]
            .writes
            .record(&options, Duration::from_millis(8), Duration::ZERO);
        Results {
            options,
            threads,
            host_cpus: 1.25,
        }
    }

    #[test]
    fn the_tables_have_rates_deviations_and_quantiles_to_three_digits() {
        let text = results("-b1M -t2 -L -D1000 -d2 -r").to_string();

        // Read latencies: mean 2.5, variance (2.25 + 0.25 + 0.25 + 2.25) / 4, root 1.118.
        // Intervals of all I/Os: 3 and 2, deviation 0.5.
        let expected = "\
\u{20}         I/Os    bytes  MiB/s  I/O per s  I/O per s dev.  mean ms  ms dev.
read         4  4194304   2.00       2.00            0.00    2.500    1.118
write        1  1048576   0.50       0.50            0.50    8.002    0.000
total        5  5242880   2.50       2.50            0.50    3.600    2.417
thread 0     2  2097152   1.00       1.00            1.00    1.500    0.500
thread 1     3  3145728   1.50       1.50            0.50    5.001    2.161
host CPU time: 1.25 CPUs

latency  read ms  write ms  total ms
min        1.000     7.999     1.000
50%        2.001     8.004     3.000
90%        4.002     8.004     8.004
99%        4.002     8.004     8.004
99.9%      4.002     8.004     8.004
99.99%     4.002     8.004     8.004
99.999%    4.002     8.004     8.004
max        4.002     8.004     8.004
";
        assert_eq!(text, expected);
    }

    #[test]
    fn columns_that_were_not_asked_for_are_left_out() {
        let text = results("-b1M -d2 -r").to_string();
        assert!(text.contains("  I/O per s\n"), "{text}");
        assert!(!text.contains("latency"), "{text}");
    }

    #[test]
    fn figures_without_an_io_are_dashes() {
        let mut results = results("-L -d1");
        results.threads.clear();
        let text = results.to_string();
        let row = text.lines().find(|line| line.starts_with("max"));
        let cells: Vec<&str> = row.expect("a row").split_whitespace().collect();
        assert_eq!(cells, ["max", "-", "-", "-"]);
    }

    #[test]
    fn an_interval_that_begins_in_the_measured_time_counts_and_a_later_one_does_not() {
        let options = accepted("-d1 -D400");
        let mut tally = Tally::new(&options);
        for at in [0, 399, 400, 999, 1200, 5000] {
            tally.record(&options, Duration::ZERO, Duration::from_millis(at));
        }
        assert_eq!((tally.ios, &tally.intervals[..]), (6, &[2, 1, 1][..]));
    }

    #[test]
    fn the_parameters_have_every_choice() {
        let options = accepted("-b8K -o32 -t2 -s -w30 -Sh -d5 -W1 -Z1M -z9");
        let expected = "\
workload  -b8K -o32 -t2 -s -w30 -Sh -d5 -W1 -Z1M -z9
          2 threads with 32 I/Os in flight of 8KiB, sequential (stride 8KiB), 30% writes
          1 s warm-up, 5 s measured, 0 s cool-down; seed 9; write-through: FUA on each write
          warning: the threads' sequential I/Os overlap, so the disk does not see one sequential stream: consider -si or -T";
        assert_eq!(describe(&options, "FUA on each write"), expected);
    }
}
