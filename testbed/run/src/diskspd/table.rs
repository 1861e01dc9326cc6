//! Prints a workload and its results in the format of diskspd: the parameters, the CPUs, the
//! total, read and write tables, the percentiles.
//!
//! The columns and their order are diskspd's, for tools that parse its tables.

use std::fmt::{self, Display, Formatter};

use super::{
    latency::Latencies,
    options::{Access, Affinity, Options, WriteSource},
    results::{Results, Tally, ThreadResults},
};
use crate::size::Size;

/// Prints the parameters of a workload, one per line.
pub struct Parameters<'a> {
    /// The options.
    pub options: &'a Options,
    /// The disk's name.
    pub target: &'a str,
    /// How the disk performs write-through (`-Sw`).
    pub write_through: &'a str,
}

impl Display for Parameters<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let options = self.options;
        writeln!(out, "Command Line: diskspd {}", options.given.join(" "))?;
        writeln!(out)?;
        writeln!(out, "Input parameters:")?;
        writeln!(out)?;
        writeln!(out, "  duration: {}s", options.duration_s)?;
        writeln!(out, "  warm up time: {}s", options.warm_up_s)?;
        writeln!(out, "  cool down time: {}s", options.cool_down_s)?;
        if let Affinity::Of(cpus) = &options.affinity {
            let cpus: Vec<String> = cpus.iter().map(u32::to_string).collect();
            writeln!(out, "  affinity round robin: {}", cpus.join(", "))?;
        }
        if options.latency {
            writeln!(out, "  measuring latency")?;
        }
        if let Some(interval_ms) = options.interval_ms {
            writeln!(out, "  gathering IOPS at intervals of {interval_ms}ms")?;
        }
        writeln!(out, "  random seed: {}", options.seed)?;
        writeln!(out, "  path: '{}'", self.target)?;
        writeln!(
            out,
            "    software cache: none{}",
            if options.unbuffered { " (-Su)" } else { "" }
        )?;
        writeln!(out, "    write-through: {}", self.write_through)?;
        self.source(out)?;
        match options.write_percent {
            0 => writeln!(out, "    performing read test")?,
            100 => writeln!(out, "    performing write test")?,
            writes => writeln!(
                out,
                "    performing mix test (read/write ratio: {}/{writes})",
                100 - writes
            )?,
        }
        writeln!(
            out,
            "    block size: {}",
            Size(u64::from(options.block_bytes))
        )?;
        self.access(out)?;
        writeln!(
            out,
            "    number of outstanding I/O operations per thread: {}",
            options.outstanding
        )?;
        if options.base != 0 {
            writeln!(out, "    base offset: {}", Size(options.base))?;
        }
        if let Some(end) = options.end {
            writeln!(out, "    maximum offset: {}", Size(end))?;
        }
        if options.thread_stride != 0 {
            writeln!(
                out,
                "    thread stride size: {}",
                Size(options.thread_stride)
            )?;
        }
        writeln!(out, "    threads: {}", options.threads)?;
        for warning in &options.warnings {
            writeln!(out, "  WARNING: {warning}")?;
        }
        Ok(())
    }
}

impl Parameters<'_> {
    fn source(&self, out: &mut Formatter<'_>) -> fmt::Result {
        if self.options.write_percent == 0 {
            return Ok(());
        }
        match &self.options.source {
            WriteSource::Pattern => writeln!(out, "    write buffers: 0, 1, 2, ... 255, 0, ..."),
            WriteSource::Zeros => writeln!(out, "    write buffers: zeros"),
            WriteSource::RandomEach => writeln!(
                out,
                "    write buffers: random for each write (costs CPU: compare only with -Zr)"
            ),
            WriteSource::RandomBuffer { bytes } => {
                writeln!(
                    out,
                    "    write buffers: from {} of random data",
                    Size(*bytes)
                )
            }
            WriteSource::FileBuffer { bytes, path } => writeln!(
                out,
                "    write buffers: from {} of '{}'",
                Size(*bytes),
                path.display()
            ),
        }
    }

    fn access(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let step = Size(self.options.access.step());
        match self.options.access {
            Access::Sequential { .. } => {
                writeln!(out, "    using sequential I/O (stride: {step})")
            }
            Access::Interlocked { .. } => {
                writeln!(out, "    using interlocked sequential I/O (stride: {step})")
            }
            Access::Parallel { .. } => {
                writeln!(out, "    using parallel sequential I/O (stride: {step})")
            }
            Access::Random { .. } => writeln!(out, "    using random I/O (alignment: {step})"),
            Access::Mixed { random_percent, .. } => writeln!(
                out,
                "    using mixed random/sequential I/O ({random_percent}% random) \
                 (alignment/stride: {step})"
            ),
        }
    }
}

/// The tables of results.
pub struct Tables<'a> {
    /// The options, which determine the columns.
    pub options: &'a Options,
    /// The results.
    pub results: &'a Results,
}

/// The I/Os of a section.
#[derive(Clone, Copy)]
enum Section {
    Total,
    Read,
    Write,
}

impl Section {
    fn of(self, thread: &ThreadResults) -> Tally {
        match self {
            Self::Total => thread.reads.clone().plus(&thread.writes),
            Self::Read => thread.reads.clone(),
            Self::Write => thread.writes.clone(),
        }
    }
}

impl Display for Tables<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let seconds = self.results.measured.as_secs_f64();
        writeln!(out, "actual test time:   {seconds:.2}s")?;
        writeln!(out, "thread count:       {}", self.results.threads.len())?;
        self.cpus(out)?;
        for (title, section) in [
            ("Total IO", Section::Total),
            ("Read IO", Section::Read),
            ("Write IO", Section::Write),
        ] {
            writeln!(out)?;
            writeln!(out, "{title}")?;
            self.section(out, section)?;
        }
        if self.options.latency {
            writeln!(out)?;
            writeln!(out, "Total latency distribution:")?;
            self.percentiles(out)?;
        }
        Ok(())
    }
}

impl Tables<'_> {
    fn cpus(&self, out: &mut Formatter<'_>) -> fmt::Result {
        if self.results.cpus.is_empty() {
            return Ok(());
        }
        let width = self
            .results
            .cpus
            .iter()
            .map(|cpu| cpu.name.len())
            .fold("CPU".len(), usize::max);
        let border = "-".repeat(width + 36);
        writeln!(out)?;
        writeln!(out, "{:width$} |  Usage |  User  | Kernel |  Idle", "CPU")?;
        writeln!(out, "{border}")?;
        for cpu in &self.results.cpus {
            let (user, kernel) = (cpu.user * 100.0, cpu.kernel * 100.0);
            let usage = user + kernel;
            let idle = (100.0 - usage).max(0.0);
            writeln!(
                out,
                "{:width$} | {usage:6.2}%| {user:6.2}%| {kernel:6.2}%| {idle:6.2}%",
                cpu.name
            )?;
        }
        writeln!(out, "{border}")?;
        let used: f64 = self
            .results
            .cpus
            .iter()
            .map(|cpu| cpu.user + cpu.kernel)
            .sum();
        writeln!(out, "sum: {used:.2} CPUs of the host")
    }

    fn section(&self, out: &mut Formatter<'_>, section: Section) -> fmt::Result {
        let latency = self.options.latency;
        let deviation = self.options.interval_ms.is_some();
        let heading = format!(
            "thread |       bytes     |     I/Os     |    MiB/s   |  I/O per s {}{}{}|  file",
            if latency { "|  AvgLat  " } else { "" },
            if deviation { "| IopsStdDev " } else { "" },
            if latency { "| LatStdDev " } else { "" },
        );
        let border = "-".repeat(heading.len() + 5);
        writeln!(out, "{heading}")?;
        writeln!(out, "{border}")?;
        let mut total = Tally::new(self.options);
        for (number, thread) in self.results.threads.iter().enumerate() {
            let tally = section.of(thread);
            self.row(out, &format!("{number:6} | "), &tally)?;
            writeln!(
                out,
                " | {} ({})",
                self.results.target,
                Size(self.results.target_bytes)
            )?;
            total = total.plus(&tally);
        }
        writeln!(out, "{border}")?;
        self.row(out, "total:   ", &total)?;
        writeln!(out)
    }

    fn row(&self, out: &mut Formatter<'_>, name: &str, tally: &Tally) -> fmt::Result {
        let seconds = self.results.measured.as_secs_f64();
        let per_second = |amount: f64| {
            if seconds > 0.0 { amount / seconds } else { 0.0 }
        };
        write!(
            out,
            "{name}{:15} | {:12} | {:10.2} | {:10.2}",
            tally.bytes,
            tally.ios,
            per_second(tally.bytes as f64 / f64::from(1 << 20)),
            per_second(tally.ios as f64),
        )?;
        if let Some(latencies) = &tally.latencies {
            write!(out, " | {}", Milliseconds(latencies.mean_ms(), 8))?;
        }
        if let Some(intervals) = &tally.intervals {
            write!(out, " | {:10.2}", intervals.deviation())?;
        }
        if let Some(latencies) = &tally.latencies {
            write!(out, " | {}", Milliseconds(latencies.deviation_ms(), 9))?;
        }
        Ok(())
    }

    fn percentiles(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let merged = |section: Section| {
            let mut all = Latencies::new();
            for thread in &self.results.threads {
                if let Some(latencies) = &section.of(thread).latencies {
                    all.merge(latencies);
                }
            }
            all
        };
        let [read, write, total] = [Section::Read, Section::Write, Section::Total].map(merged);
        writeln!(out, "  %-ile |  Read (ms) | Write (ms) | Total (ms)")?;
        writeln!(out, "{}", "-".repeat(46))?;
        let row =
            |out: &mut Formatter<'_>, name: &str, value: &dyn Fn(&Latencies) -> Option<f64>| {
                let [read, write, total] =
                    [&read, &write, &total].map(|latencies| Milliseconds(value(latencies), 10));
                writeln!(out, "{name:>7} | {read} | {write} | {total}")
            };
        row(out, "min", &Latencies::least_ms)?;
        for (name, quantile) in PERCENTILES {
            row(out, name, &|latencies| latencies.quantile_ms(quantile))?;
        }
        row(out, "max", &Latencies::most_ms)
    }
}

/// The percentiles between min and max.
const PERCENTILES: [(&str, f64); 13] = [
    ("25th", 0.25),
    ("50th", 0.50),
    ("75th", 0.75),
    ("90th", 0.90),
    ("95th", 0.95),
    ("99th", 0.99),
    ("3-nines", 0.999),
    ("4-nines", 0.9999),
    ("5-nines", 0.99999),
    ("6-nines", 0.999_999),
    ("7-nines", 0.999_999_9),
    ("8-nines", 0.999_999_99),
    ("9-nines", 0.999_999_999),
];

/// Milliseconds with three decimals in a column of this width, or `N/A`.
struct Milliseconds(Option<f64>, usize);

impl Display for Milliseconds {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let width = self.1;
        match self.0 {
            Some(value) => write!(out, "{value:width$.3}"),
            None => write!(out, "{:>width$}", "N/A"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::results::CpuShare, *};

    fn options(line: &str) -> Options {
        let given: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Options::parse(&given).expect("the test's options are valid")
    }

    /// Two threads in two seconds: 4 reads of 1 ms to 4 ms, one write of 8 ms.
    fn results(options: &Options) -> Results {
        let mut first = ThreadResults {
            reads: Tally::new(options),
            writes: Tally::new(options),
        };
        let mut second = first.clone();
        for milliseconds in 1..=4 {
            let thread = if milliseconds < 3 {
                &mut first
            } else {
                &mut second
            };
            thread.reads.record(
                1 << 20,
                Duration::from_millis(milliseconds),
                Duration::from_millis(500 * (milliseconds - 1)),
            );
        }
        second
            .writes
            .record(1 << 20, Duration::from_millis(8), Duration::ZERO);
        Results {
            measured: Duration::from_secs(2),
            threads: vec![first, second],
            cpus: vec![
                CpuShare {
                    name: "cpu 0".to_owned(),
                    user: 0.25,
                    kernel: 0.5,
                },
                CpuShare {
                    name: "device".to_owned(),
                    user: 0.0,
                    kernel: 0.25,
                },
            ],
            target: "disk.img".to_owned(),
            target_bytes: 256 << 20,
        }
    }

    #[test]
    fn the_tables_are_laid_out_as_diskspd_lays_them_out() {
        let options = options("-b1M -t2 -L -D1000 -d2 -W0 -r");
        let text = Tables {
            options: &options,
            results: &results(&options),
        }
        .to_string();

        let expected = "\
actual test time:   2.00s
thread count:       2

CPU    |  Usage |  User  | Kernel |  Idle
------------------------------------------
cpu 0  |  75.00%|  25.00%|  50.00%|  25.00%
device |  25.00%|   0.00%|  25.00%|  75.00%
------------------------------------------
sum: 1.00 CPUs of the host

Total IO
thread |       bytes     |     I/Os     |    MiB/s   |  I/O per s |  AvgLat  | IopsStdDev | LatStdDev |  file
------------------------------------------------------------------------------------------------------------------
     0 |         2097152 |            2 |       1.00 |       1.00 |    1.500 |       1.00 |     0.500 | disk.img (256MiB)
     1 |         3145728 |            3 |       1.50 |       1.50 |    5.000 |       0.50 |     2.160 | disk.img (256MiB)
------------------------------------------------------------------------------------------------------------------
total:           5242880 |            5 |       2.50 |       2.50 |    3.600 |       0.50 |     2.417

Read IO
thread |       bytes     |     I/Os     |    MiB/s   |  I/O per s |  AvgLat  | IopsStdDev | LatStdDev |  file
------------------------------------------------------------------------------------------------------------------
     0 |         2097152 |            2 |       1.00 |       1.00 |    1.500 |       1.00 |     0.500 | disk.img (256MiB)
     1 |         2097152 |            2 |       1.00 |       1.00 |    3.500 |       1.00 |     0.500 | disk.img (256MiB)
------------------------------------------------------------------------------------------------------------------
total:           4194304 |            4 |       2.00 |       2.00 |    2.500 |       0.00 |     1.118

Write IO
thread |       bytes     |     I/Os     |    MiB/s   |  I/O per s |  AvgLat  | IopsStdDev | LatStdDev |  file
------------------------------------------------------------------------------------------------------------------
     0 |               0 |            0 |       0.00 |       0.00 |      N/A |       0.00 |       N/A | disk.img (256MiB)
     1 |         1048576 |            1 |       0.50 |       0.50 |    8.000 |       0.50 |     0.000 | disk.img (256MiB)
------------------------------------------------------------------------------------------------------------------
total:           1048576 |            1 |       0.50 |       0.50 |    8.000 |       0.50 |     0.000

Total latency distribution:
  %-ile |  Read (ms) | Write (ms) | Total (ms)
----------------------------------------------
    min |      1.000 |      8.000 |      1.000
   25th |      1.000 |      8.000 |      2.001
   50th |      2.001 |      8.000 |      3.000
   75th |      3.000 |      8.000 |      4.002
   90th |      4.000 |      8.000 |      8.000
   95th |      4.000 |      8.000 |      8.000
   99th |      4.000 |      8.000 |      8.000
3-nines |      4.000 |      8.000 |      8.000
4-nines |      4.000 |      8.000 |      8.000
5-nines |      4.000 |      8.000 |      8.000
6-nines |      4.000 |      8.000 |      8.000
7-nines |      4.000 |      8.000 |      8.000
8-nines |      4.000 |      8.000 |      8.000
9-nines |      4.000 |      8.000 |      8.000
    max |      4.000 |      8.000 |      8.000
";
        assert_eq!(text, expected);
    }

    #[test]
    fn columns_that_were_not_asked_for_are_left_out() {
        let options = options("-b1M -d2");
        let text = Tables {
            options: &options,
            results: &results(&options),
        }
        .to_string();

        assert!(text.contains("|  I/O per s |  file\n"));
        for absent in ["AvgLat", "IopsStdDev", "LatStdDev", "%-ile"] {
            assert!(!text.contains(absent), "{absent}");
        }
    }

    #[test]
    fn the_parameters_echo_every_choice() {
        let options = options("-b8K -o32 -t4 -r -w30 -Sh -L -d5 -W1 -Z1M -B1M:64M -a0,1");
        let text = Parameters {
            options: &options,
            target: "disk.img",
            write_through: "FUA on each write",
        }
        .to_string();

        let expected = "\
Command Line: diskspd -b8K -o32 -t4 -r -w30 -Sh -L -d5 -W1 -Z1M -B1M:64M -a0,1

Input parameters:

  duration: 5s
  warm up time: 1s
  cool down time: 0s
  affinity round robin: 0, 1
  measuring latency
  random seed: 0
  path: 'disk.img'
    software cache: none (-Su)
    write-through: FUA on each write
    write buffers: from 1MiB of random data
    performing mix test (read/write ratio: 70/30)
    block size: 8KiB
    using random I/O (alignment: 8KiB)
    number of outstanding I/O operations per thread: 32
    base offset: 1MiB
    maximum offset: 65MiB
    threads: 4
";
        assert_eq!(text, expected);
    }
}
