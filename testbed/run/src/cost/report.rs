//! Prints the counted costs as a table or as JSON.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::Range,
};

use serde::{Serialize, Serializer};

use crate::summary::table;
use testbed_machine::trap::count::{Accesses, LINE, Tally};
use testbed_storport::adapter::Extensions;

/// The parts of a figure: the total, the callbacks of every request, and all others.
const COLUMNS: [&str; 6] = [
    "total",
    "HwBuildIo",
    "HwStartIo",
    "interrupt",
    "HwDpcRoutine",
    "others",
];

/// The index of a callback in [`COLUMNS`].
fn column(callback: &str) -> usize {
    match callback {
        "HwBuildIo" => 1,
        "HwStartIo" => 2,
        "HwInterrupt" | "HwMSInterruptRoutine" => 3,
        "HwDpcRoutine" => 4,
        _ => 5,
    }
}

/// A figure's name, and its value in a tally.
type Figure = (&'static str, fn(&Tally) -> u64);

/// The figures, which docs/cost.md describes. All are means per request, except the stack's,
/// which is a maximum.
const FIGURES: [Figure; 13] = [
    ("callbacks", |tally| tally.entered),
    ("instructions", |tally| tally.instructions),
    ("calls", |tally| tally.calls.values().sum()),
    ("register_reads", |tally| tally.register_reads),
    ("register_writes", |tally| tally.register_writes),
    ("locked", |tally| tally.locked),
    ("fences", |tally| tally.fences),
    ("bytes_read", |tally| tally.bytes_read),
    ("bytes_written", |tally| tally.bytes_written),
    ("block_bytes_filled", |tally| tally.filled),
    ("block_bytes_copied", |tally| tally.copied),
    ("shared_lines", |tally| tally.shared_lines),
    (STACK, |tally| tally.stack),
];

const STACK: &str = "stack_bytes";

/// The second table: headings, and the figures whose totals it has.
const OTHERS: [(&str, &str); 11] = [
    ("calls", "calls"),
    ("reg reads", "register_reads"),
    ("reg writes", "register_writes"),
    ("locked", "locked"),
    ("fences", "fences"),
    ("read", "bytes_read"),
    ("written", "bytes_written"),
    ("filled", "block_bytes_filled"),
    ("copied", "block_bytes_copied"),
    ("stack", STACK),
    ("lines", "shared_lines"),
];

/// A part of the driver's memory whose cache lines are recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Region {
    Device,
    Uncached,
    Image,
}

impl Region {
    pub(super) const ALL: [Self; 3] = [Self::Device, Self::Uncached, Self::Image];

    fn name(self) -> &'static str {
        match self {
            Self::Device => "device extension",
            Self::Uncached => "uncached extension",
            Self::Image => "image",
        }
    }
}

/// The driver's memory, except for stacks and requests.
#[derive(Clone, Debug)]
pub(super) struct DriverMemory {
    pub(super) image: Range<usize>,
    pub(super) extensions: Extensions,
}

impl DriverMemory {
    pub(super) fn addresses(&self, region: Region) -> Range<u64> {
        let range = match region {
            Region::Device => &self.extensions.device,
            Region::Uncached => &self.extensions.uncached,
            Region::Image => &self.image,
        };
        range.start as u64..range.end as u64
    }

    /// The region of a cache line, and the offset of the line's first byte in it: negative if the
    /// region begins within the line.
    fn place_of(&self, line: u64) -> String {
        let line = line * LINE..(line + 1) * LINE;
        let region = Region::ALL.into_iter().find_map(|region| {
            let memory = self.addresses(region);
            let overlaps = memory.start < line.end && line.start < memory.end;
            overlaps.then(|| {
                (
                    region,
                    line.start.cast_signed() - memory.start.cast_signed(),
                )
            })
        });
        match region {
            Some((region, offset)) if offset < 0 => format!("{}-{:#x}", region.name(), -offset),
            Some((region, offset)) => format!("{}+{offset:#x}", region.name()),
            None => format!("{:#x}", line.start),
        }
    }
}

/// The cost of a driver.
#[derive(Debug, Serialize)]
pub struct Cost {
    driver: String,
    adapter: Adapter,
    /// A row for each kind of request, depth and CPU.
    rows: Vec<Row>,
    left_out: Vec<LeftOut>,
    /// The cache lines that one CPU wrote and another accessed.
    contended_lines: Vec<ContendedLine>,
    #[serde(skip)]
    memory: DriverMemory,
    /// The accesses to each cache line, by CPU and callback.
    #[serde(skip)]
    lines: BTreeMap<u64, BTreeMap<(u32, &'static str), Accesses>>,
}

/// A cache line that one CPU wrote and another accessed.
#[derive(Debug, Serialize)]
struct ContendedLine {
    /// A part of the driver's memory, and the offset in it.
    place: String,
    written_by: BTreeSet<u32>,
    read_by: BTreeSet<u32>,
    /// The callbacks that wrote it.
    writers: BTreeSet<&'static str>,
    /// The callbacks that read it.
    readers: BTreeSet<&'static str>,
    writes: u64,
}

/// The memory of the adapter.
#[derive(Debug, Serialize)]
struct Adapter {
    /// Virtqueues that the driver uses; 0 if the device is not a virtio device.
    queues: usize,
    uncached_extension_bytes: usize,
    uncached_extension_bytes_per_queue: usize,
    device_extension_bytes: usize,
    srb_extension_bytes: u64,
}

/// A request that was not counted.
#[derive(Debug, Serialize)]
struct LeftOut {
    request: &'static str,
    depth: u32,
    why: String,
}

/// The cost of one request, as a mean of a batch.
#[derive(Debug, Serialize)]
struct Row {
    request: &'static str,
    depth: u32,
    cpu: u32,
    /// Requests in the batch: fewer than `depth` if the driver's queue is shorter.
    in_flight: u32,
    #[serde(flatten)]
    figures: Figures,
    /// Calls out of the driver, by callback and name.
    calls_by_name: BTreeMap<&'static str, BTreeMap<String, Number>>,
    /// Acquisitions of locks by the driver, by lock.
    locks: BTreeMap<String, Number>,
}

/// The figures of a request, in the order of [`FIGURES`], each with its [`COLUMNS`].
#[derive(Debug, Default)]
struct Figures([[Number; COLUMNS.len()]; FIGURES.len()]);

impl Figures {
    fn add(&mut self, callback: &str, tally: &Tally, requests: u32) {
        for ((name, of), figure) in FIGURES.iter().zip(&mut self.0) {
            for part in [0, column(callback)] {
                let Number(part) = &mut figure[part];
                if *name == STACK {
                    *part = part.max(of(tally) as f64);
                } else {
                    *part += Number::of(of(tally), requests).0;
                }
            }
        }
    }

    fn get(&self, name: &str) -> [Number; COLUMNS.len()] {
        let index = FIGURES.iter().position(|(known, _)| *known == name);
        index.map_or_else(Default::default, |index| self.0[index])
    }
}

impl Serialize for Figures {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let names = FIGURES.iter().map(|(name, _)| name);
        serializer.collect_map(names.zip(self.0.iter().map(Parts)))
    }
}

/// A figure, serialized as a map.
struct Parts<'a>(&'a [Number; COLUMNS.len()]);

impl Serialize for Parts<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(COLUMNS.iter().zip(self.0))
    }
}

/// A number that is printed with at most two decimals, or four if it is less than 0.01.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Number(f64);

impl Number {
    fn of(sum: u64, requests: u32) -> Self {
        Self(sum as f64 / f64::from(requests.max(1)))
    }

    fn rounded(self) -> f64 {
        let scale = if self.0 < 0.01 { 10_000.0 } else { 100.0 };
        (self.0 * scale).round() / scale
    }
}

impl fmt::Display for Number {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.rounded())
    }
}

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let rounded = self.rounded();
        if rounded.fract() == 0.0 {
            serializer.serialize_u64(rounded as u64)
        } else {
            serializer.serialize_f64(rounded)
        }
    }
}

impl ContendedLine {
    /// `None` if no CPU wrote the line, or if no other CPU accessed it.
    fn new(place: String, accesses: &BTreeMap<(u32, &'static str), Accesses>) -> Option<Self> {
        let mut line = Self {
            place,
            written_by: BTreeSet::new(),
            read_by: BTreeSet::new(),
            writers: BTreeSet::new(),
            readers: BTreeSet::new(),
            writes: 0,
        };
        for ((cpu, callback), Accesses { reads, writes }) in accesses {
            if *reads > 0 {
                line.read_by.insert(*cpu);
                line.readers.insert(callback);
            }
            if *writes > 0 {
                line.written_by.insert(*cpu);
                line.writers.insert(callback);
            }
            line.writes += writes;
        }
        let cpus = line.written_by.union(&line.read_by).count();
        (!line.written_by.is_empty() && cpus > 1).then_some(line)
    }
}

/// How many of these lines the text lists.
const LISTED: usize = 20;

/// Names, comma-separated.
fn list(names: &BTreeSet<impl ToString>) -> String {
    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
    names.join(", ")
}

impl fmt::Display for ContendedLine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{}: written by CPU {} in {}, {} times",
            self.place,
            list(&self.written_by),
            list(&self.writers),
            self.writes
        )?;
        if !self.read_by.is_empty() {
            let (cpus, callbacks) = (list(&self.read_by), list(&self.readers));
            write!(formatter, "; read by CPU {cpus} in {callbacks}")?;
        }
        Ok(())
    }
}

impl Cost {
    pub(super) fn new(driver: &str, memory: DriverMemory, queues: usize) -> Self {
        let Extensions {
            uncached,
            device,
            srb_bytes,
        } = &memory.extensions;
        Self {
            driver: driver.to_owned(),
            adapter: Adapter {
                queues,
                uncached_extension_bytes: uncached.len(),
                uncached_extension_bytes_per_queue: uncached.len() / queues.max(1),
                device_extension_bytes: device.len(),
                srb_extension_bytes: *srb_bytes,
            },
            rows: Vec::new(),
            left_out: Vec::new(),
            contended_lines: Vec::new(),
            memory,
            lines: BTreeMap::new(),
        }
    }

    pub(super) fn leave_out(&mut self, request: &'static str, depth: u32, why: String) {
        self.left_out.push(LeftOut {
            request,
            depth,
            why,
        });
    }

    pub(super) fn add(
        &mut self,
        request: &'static str,
        depth: u32,
        cpu: u32,
        in_flight: u32,
        tallies: &BTreeMap<&'static str, Tally>,
    ) {
        let mut figures = Figures::default();
        let mut calls_by_name = BTreeMap::new();
        let mut locks = BTreeMap::<_, u64>::new();
        for (callback, tally) in tallies {
            figures.add(callback, tally, in_flight);
            let calls: BTreeMap<_, _> = tally
                .calls
                .iter()
                .map(|(name, count)| (name.clone(), Number::of(*count, in_flight)))
                .collect();
            if !calls.is_empty() {
                calls_by_name.insert(*callback, calls);
            }
            for (lock, count) in &tally.locks {
                *locks.entry(lock.clone()).or_default() += count;
            }
            for (line, accesses) in &tally.lines {
                let of_line = self.lines.entry(*line).or_default();
                *of_line.entry((cpu, *callback)).or_default() += *accesses;
            }
        }
        self.rows.push(Row {
            request,
            depth,
            cpu,
            in_flight,
            figures,
            calls_by_name,
            locks: locks
                .into_iter()
                .map(|(lock, count)| (lock, Number::of(count, in_flight)))
                .collect(),
        });
        let lines = self.lines.iter();
        self.contended_lines = lines
            .filter_map(|(line, accesses)| {
                ContendedLine::new(self.memory.place_of(*line), accesses)
            })
            .collect();
    }

    /// The cost as JSON, with a line break at the end.
    #[must_use]
    pub fn json(&self) -> String {
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        format!("{text}\n")
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let adapter = &self.adapter;
        writeln!(formatter, "driver    {}", self.driver)?;
        writeln!(
            formatter,
            "memory    uncached extension {} bytes, {} a queue; device extension {} bytes; SRB \
             extension {} bytes",
            adapter.uncached_extension_bytes,
            adapter.uncached_extension_bytes_per_queue,
            adapter.device_extension_bytes,
            adapter.srb_extension_bytes
        )?;
        if self.cpus() > 1 {
            self.scaling(formatter)?;
        }
        self.table(formatter, "Instructions", &COLUMNS, |figures| {
            figures.get("instructions").to_vec()
        })?;
        self.table(
            formatter,
            "Others",
            &OTHERS.map(|(heading, _)| heading),
            |figures| OTHERS.map(|(_, figure)| figures.get(figure)[0]).to_vec(),
        )?;
        for left_out in &self.left_out {
            writeln!(
                formatter,
                "not counted: {} at depth {}: {}",
                left_out.request, left_out.depth, left_out.why
            )?;
        }
        Ok(())
    }
}

impl Cost {
    /// The number of CPUs that sent requests.
    fn cpus(&self) -> usize {
        let cpus: BTreeSet<_> = self.rows.iter().map(|row| row.cpu).collect();
        cpus.len()
    }

    /// Prints what the CPUs share: locks and cache lines.
    fn scaling(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut locks = BTreeMap::<u32, BTreeSet<&str>>::new();
        for row in &self.rows {
            let of_cpu = locks.entry(row.cpu).or_default();
            of_cpu.extend(row.locks.keys().map(String::as_str));
        }
        writeln!(formatter, "queues    {} in use", self.adapter.queues)?;
        for (cpu, locks) in locks {
            writeln!(formatter, "locks     CPU {cpu} acquired {}", list(&locks))?;
        }
        writeln!(
            formatter,
            "lines     {} that one CPU wrote and another accessed",
            self.contended_lines.len()
        )?;
        for line in self.contended_lines.iter().take(LISTED) {
            writeln!(formatter, "          {line}")?;
        }
        match self.contended_lines.len().saturating_sub(LISTED) {
            0 => Ok(()),
            more => writeln!(formatter, "          and {more} more, which --json lists"),
        }
    }

    /// Prints a table with a line for each request, depth and CPU.
    fn table(
        &self,
        formatter: &mut fmt::Formatter<'_>,
        title: &str,
        headings: &[&str],
        numbers: impl Fn(&Figures) -> Vec<Number>,
    ) -> fmt::Result {
        let cpu: &[&str] = if self.cpus() > 1 { &["CPU"] } else { &[] };
        let heading = [&[title, "depth"], cpu, headings].concat();
        let rows = self.rows.iter().map(|row| {
            let mut cells = vec![row.request.to_owned(), row.depth.to_string()];
            cells.extend(cpu.iter().map(|_| row.cpu.to_string()));
            cells.extend(numbers(&row.figures).iter().map(ToString::to_string));
            cells
        });
        writeln!(formatter)?;
        table(formatter, &heading, rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> DriverMemory {
        DriverMemory {
            image: 0x8000..0x9000,
            extensions: Extensions {
                uncached: 0x1000..0x1400,
                device: 0x4010..0x5000,
                srb_bytes: 8,
            },
        }
    }

    /// A report of a callback's figures in a batch of `in_flight` requests.
    fn cost(callback: &'static str, in_flight: u32) -> Cost {
        let tally = Tally {
            entered: 1,
            instructions: 100,
            calls: BTreeMap::from([("StorPortPause".to_owned(), 2)]),
            stack: 48,
            ..Tally::default()
        };
        let mut cost = Cost::new("some.sys", memory(), 1);
        let tallies = BTreeMap::from([(callback, tally)]);
        cost.add("READ 4 KiB", in_flight, 0, in_flight, &tallies);
        cost
    }

    /// A tally with accesses to cache lines, given by an address in each, and their numbers of
    /// reads and writes.
    fn tally(accesses: &[(u64, u64, u64)]) -> Tally {
        let lines = accesses
            .iter()
            .map(|&(address, reads, writes)| (address / LINE, Accesses { reads, writes }));
        Tally {
            lines: lines.collect(),
            ..Tally::default()
        }
    }

    #[test]
    fn a_line_that_one_cpu_writes_and_another_accesses_is_reported_with_its_place() {
        let mut cost = Cost::new("some.sys", memory(), 2);
        let (own_0, own_1) = (0x4040, 0x4080);
        let (written, read, only_read) = (0x1040, 0x4010, 0x8000);
        let first = tally(&[
            (own_0, 1, 1),
            (written, 0, 1),
            (read, 0, 2),
            (only_read, 1, 0),
        ]);
        let second = tally(&[
            (own_1, 1, 1),
            (written, 0, 1),
            (read, 1, 0),
            (only_read, 1, 0),
        ]);
        for (cpu, tally) in [(0, first), (1, second)] {
            let tallies = BTreeMap::from([("HwStartIo", tally)]);
            cost.add("READ 4 KiB", 1, cpu, 1, &tallies);
        }

        let lines = cost.contended_lines.iter().map(ToString::to_string);
        assert_eq!(
            lines.collect::<Vec<_>>(),
            [
                "uncached extension+0x40: written by CPU 0, 1 in HwStartIo, 2 times",
                "device extension-0x10: written by CPU 0 in HwStartIo, 2 times; read by CPU 1 in \
                 HwStartIo",
            ]
        );
        let text = cost.to_string();
        let heading = "lines     2 that one CPU wrote and another accessed\n          uncached";
        assert!(text.contains(heading), "{text}");
    }

    #[test]
    fn the_text_lists_the_first_lines_and_counts_the_others() {
        let mut cost = Cost::new("some.sys", memory(), 1);
        let all: Vec<_> = (0..63).map(|line| (0x4040 + line * LINE, 0, 1)).collect();
        for cpu in [0, 1] {
            let tallies = BTreeMap::from([("HwStartIo", tally(&all))]);
            cost.add("READ 4 KiB", 1, cpu, 1, &tallies);
        }

        let text = cost.to_string();
        assert_eq!(text.matches("device extension+").count(), LISTED);
        assert!(
            text.contains("          and 43 more, which --json lists\n"),
            "{text}"
        );
    }

    fn json(cost: &Cost) -> serde_json::Value {
        serde_json::from_str(&cost.json()).expect("it is JSON")
    }

    #[test]
    fn figures_are_per_request_with_two_decimals_and_the_stack_is_not_divided() {
        let cost = json(&cost("HwInterrupt", 3));

        let row = &cost["rows"][0];
        assert_eq!(row["instructions"]["total"].to_string(), "33.33");
        assert_eq!(row["instructions"]["interrupt"].to_string(), "33.33");
        assert_eq!(row["instructions"]["HwStartIo"].to_string(), "0");
        assert_eq!(row["stack_bytes"]["total"].to_string(), "48");
        let calls = &row["calls_by_name"]["HwInterrupt"]["StorPortPause"];
        assert_eq!(calls.to_string(), "0.67");
        assert_eq!(cost["adapter"]["uncached_extension_bytes"], 1024);
        assert_eq!(Number::of(1, 256).to_string(), "0.0039");
    }

    #[test]
    fn the_table_has_each_request_with_its_figures() {
        let text = cost("HwTimer", 1).to_string();

        assert!(text.contains("uncached extension 1024 bytes"), "{text}");
        let line = text.lines().find(|line| line.starts_with("READ 4 KiB"));
        let words: Vec<_> = line.expect("a row").split_whitespace().collect();
        // Depth, total, and a timer is none of the named callbacks.
        assert_eq!(words[3..], ["1", "100", "0", "0", "0", "0", "100"]);
    }
}
