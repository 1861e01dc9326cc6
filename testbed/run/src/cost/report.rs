//! Prints the counted costs as a table or as JSON.

use std::{collections::BTreeMap, fmt};

use serde::{Serialize, Serializer};

use crate::summary::table;
use testbed_machine::trap::count::Tally;
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

/// The cost of a driver.
#[derive(Debug, Serialize)]
pub struct Cost {
    driver: String,
    adapter: Adapter,
    /// A row for each kind of request and depth.
    rows: Vec<Row>,
    left_out: Vec<LeftOut>,
}

/// The memory of the adapter.
#[derive(Debug, Serialize)]
struct Adapter {
    /// Virtqueues of the device; 0 if it is not a virtio device.
    queues: u32,
    uncached_extension_bytes: u64,
    uncached_extension_bytes_per_queue: u64,
    device_extension_bytes: u64,
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
    /// Requests in the batch: fewer than `depth` if the driver's queue is shorter.
    in_flight: u32,
    #[serde(flatten)]
    figures: Figures,
    /// Calls out of the driver, by callback and name.
    calls_by_name: BTreeMap<&'static str, BTreeMap<String, Number>>,
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

/// A number that is printed with at most two decimals.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Number(f64);

impl Number {
    fn of(sum: u64, requests: u32) -> Self {
        Self(sum as f64 / f64::from(requests.max(1)))
    }

    fn rounded(self) -> f64 {
        (self.0 * 100.0).round() / 100.0
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

impl Cost {
    pub(super) fn new(driver: &str, extensions: &Extensions, is_virtio: bool) -> Self {
        let queues = u32::from(is_virtio);
        let uncached = extensions.uncached.len() as u64;
        Self {
            driver: driver.to_owned(),
            adapter: Adapter {
                queues,
                uncached_extension_bytes: uncached,
                uncached_extension_bytes_per_queue: uncached / u64::from(queues.max(1)),
                device_extension_bytes: extensions.device_bytes.into(),
                srb_extension_bytes: extensions.srb_bytes,
            },
            rows: Vec::new(),
            left_out: Vec::new(),
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
        in_flight: u32,
        tallies: &BTreeMap<&'static str, Tally>,
    ) {
        let mut figures = Figures::default();
        let mut calls_by_name = BTreeMap::new();
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
        }
        self.rows.push(Row {
            request,
            depth,
            in_flight,
            figures,
            calls_by_name,
        });
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
    /// Prints a table with a line for each request and depth.
    fn table(
        &self,
        formatter: &mut fmt::Formatter<'_>,
        title: &str,
        headings: &[&str],
        numbers: impl Fn(&Figures) -> Vec<Number>,
    ) -> fmt::Result {
        let heading = [&[title, "depth"], headings].concat();
        let rows = self.rows.iter().map(|row| {
            let mut cells = vec![row.request.to_owned(), row.depth.to_string()];
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

    /// A report of a callback's figures in a batch of `in_flight` requests.
    fn cost(callback: &'static str, in_flight: u32) -> Cost {
        let extensions = Extensions {
            uncached: 0x1000..0x1400,
            device_bytes: 16,
            srb_bytes: 8,
        };
        let tally = Tally {
            entered: 1,
            instructions: 100,
            calls: BTreeMap::from([("StorPortPause".to_owned(), 2)]),
            stack: 48,
            ..Tally::default()
        };
        let mut cost = Cost::new("some.sys", &extensions, true);
        let tallies = BTreeMap::from([(callback, tally)]);
        cost.add("READ 4 KiB", in_flight, in_flight, &tallies);
        cost
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
