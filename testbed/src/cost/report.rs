//! The figures as a table for people and as JSON.

use std::{collections::BTreeMap, fmt};

use comfy_table::{CellAlignment, Table, presets};
use serde::{Serialize, Serializer, ser::SerializeMap as _};

use crate::{storport::adapter::Extensions, trap::count::Tally};

/// Where figures are counted: callbacks that every request passes, and the rest.
const COLUMNS: [&str; 5] = [
    "HwBuildIo",
    "HwStartIo",
    "interrupt",
    "HwDpcRoutine",
    "others",
];

/// The column of a callback.
fn column(callback: &str) -> usize {
    match callback {
        "HwBuildIo" => 0,
        "HwStartIo" => 1,
        "HwInterrupt" | "HwMSInterruptRoutine" => 2,
        "HwDpcRoutine" => 3,
        _ => 4,
    }
}

/// What was counted of a driver.
#[derive(Debug, Serialize)]
pub struct Cost {
    /// The driver's file name.
    pub driver: String,
    /// Its memory.
    pub adapter: Adapter,
    /// A row for each kind of request and depth.
    pub rows: Vec<Row>,
    /// What could not be counted.
    pub left_out: Vec<LeftOut>,
}

/// What the adapter takes in memory.
#[derive(Debug, Serialize)]
pub struct Adapter {
    /// Virtqueues of the device; none if it is no virtio device.
    pub queues: u32,
    /// Bytes of the uncached extension,
    pub uncached_extension_bytes: u64,
    /// and for each queue.
    pub uncached_extension_bytes_per_queue: u64,
    /// Bytes of the device extension.
    pub device_extension_bytes: u64,
    /// Bytes of the SRB extension.
    pub srb_extension_bytes: u64,
}

/// A request that was not counted.
#[derive(Debug, Serialize)]
pub struct LeftOut {
    /// Its kind.
    pub request: &'static str,
    /// How many there were to be at a time.
    pub depth: u32,
    /// Why.
    pub why: String,
}

/// What one request costs, on average over a batch.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Its kind.
    pub request: &'static str,
    /// How many there are at a time,
    pub depth: u32,
    /// or as many as the driver takes.
    pub in_flight: u32,
    /// The figures.
    #[serde(flatten)]
    pub figures: Figures,
    /// Calls out of the driver by callback and name.
    pub calls_by_name: BTreeMap<&'static str, BTreeMap<String, Number>>,
}

macro_rules! figures {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Figures a request, each by callback.
        #[derive(Debug, Default, Serialize)]
        pub struct Figures {
            $($(#[$doc])* pub $name: PerCallback,)*
            /// The deepest stack, in bytes: the most of all calls.
            pub stack_bytes: PerCallback,
        }

        impl Figures {
            /// All but the stack's add up.
            fn add(&mut self, column: usize, figures: &Sums, in_flight: u32) {
                $(self.$name.add(column, figures.$name, in_flight);)*
                self.stack_bytes.deepen(column, figures.stack_bytes);
            }
        }

        struct Sums {
            $($name: u64,)*
            stack_bytes: u64,
        }
    };
}

figures! {
    /// How often the callback is called.
    callbacks,
    /// Instructions in the driver.
    instructions,
    /// Calls out of the driver.
    calls,
    /// Reads of device registers.
    register_reads,
    /// Writes of device registers.
    register_writes,
    /// Locked instructions.
    locked,
    /// Full fences.
    fences,
    /// Bytes read by the driver's instructions.
    bytes_read,
    /// Bytes written by them.
    bytes_written,
    /// Bytes filled in blocks.
    block_bytes_filled,
    /// Bytes copied in blocks.
    block_bytes_copied,
    /// Cache lines of the uncached extension that are touched.
    shared_lines,
}

/// A figure for all callbacks and for each.
#[derive(Debug, Default)]
pub struct PerCallback {
    /// For all.
    pub total: Number,
    columns: [Number; COLUMNS.len()],
}

impl PerCallback {
    fn add(&mut self, column: usize, sum: u64, requests: u32) {
        let number = Number::of(sum, requests);
        self.columns[column].0 += number.0;
        self.total.0 += number.0;
    }

    fn deepen(&mut self, column: usize, bytes: u64) {
        let number = Number::of(bytes, 1);
        self.columns[column].0 = self.columns[column].0.max(number.0);
        self.total.0 = self.total.0.max(number.0);
    }
}

impl Serialize for PerCallback {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1 + COLUMNS.len()))?;
        map.serialize_entry("total", &self.total)?;
        for (name, number) in COLUMNS.iter().zip(&self.columns) {
            map.serialize_entry(name, number)?;
        }
        map.end()
    }
}

/// A number with two decimals at most.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Number(f64);

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
            let sums = Sums {
                callbacks: tally.entered,
                instructions: tally.instructions,
                calls: tally.calls.values().sum(),
                register_reads: tally.register_reads,
                register_writes: tally.register_writes,
                locked: tally.locked,
                fences: tally.fences,
                bytes_read: tally.bytes_read,
                bytes_written: tally.bytes_written,
                block_bytes_filled: tally.filled,
                block_bytes_copied: tally.copied,
                shared_lines: tally.shared_lines,
                stack_bytes: tally.stack,
            };
            figures.add(column(callback), &sums, in_flight);
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

    /// As JSON, with a line's end.
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
        let heading = ["Instructions", "depth", "total"]
            .into_iter()
            .chain(COLUMNS);
        let rows = self.rows.iter().map(|row| {
            let of = &row.figures.instructions;
            [of.total].into_iter().chain(of.columns).collect()
        });
        self.table(formatter, heading.collect(), rows)?;
        let heading = vec![
            "Others",
            "depth",
            "calls",
            "reg reads",
            "reg writes",
            "locked",
            "fences",
            "read",
            "written",
            "filled",
            "copied",
            "stack",
            "lines",
        ];
        let rows = self.rows.iter().map(|row| {
            let of = &row.figures;
            [
                &of.calls,
                &of.register_reads,
                &of.register_writes,
                &of.locked,
                &of.fences,
                &of.bytes_read,
                &of.bytes_written,
                &of.block_bytes_filled,
                &of.block_bytes_copied,
                &of.stack_bytes,
                &of.shared_lines,
            ]
            .map(|figure| figure.total)
            .to_vec()
        });
        self.table(formatter, heading, rows)?;
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
    /// A table with a line for each request and depth.
    fn table(
        &self,
        formatter: &mut fmt::Formatter<'_>,
        heading: Vec<&str>,
        rows: impl Iterator<Item = Vec<Number>>,
    ) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(heading);
        for (row, numbers) in self.rows.iter().zip(rows) {
            let mut cells = vec![row.request.to_owned(), row.depth.to_string()];
            cells.extend(numbers.iter().map(ToString::to_string));
            table.add_row(cells);
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
            if column.index > 0 {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        writeln!(formatter)?;
        for line in table.lines() {
            writeln!(formatter, "{}", line.trim_end())?;
        }
        Ok(())
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
