//! `cargo xtask cost`: prints the cost of one I/O, which `testbed cost` counts. Compares two
//! drivers in a table, and checks Ferrostor's costs against a budget.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fmt::Write as _,
    io,
    process::{ExitCode, Stdio},
};

use fs_err as fs;
use packaging::architecture::Architecture::X64;
use serde_json::{Map, Value};
use toml::{Table, Value as Toml};

use crate::{
    build::{self, BuildError},
    driver::{Chosen, Driver, NoDriver},
    tool::{self, ToolError},
    workspace,
};

/// The budget's path in the project.
const BUDGET: &str = "xtask/cost-budget.toml";

const HELP: &str = "\
The testbed single-steps the driver file, which takes about a minute. docs/cost.md
describes the figures. The exit code is 0 if the count succeeded, otherwise that of
the testbed.

Examples:
  cargo xtask cost
  cargo xtask cost --depth 1 --json
  cargo xtask cost --driver OTHER.sys
  cargo xtask cost --driver ferrostor --beside ramdisk
  cargo xtask cost --beside OTHER.sys
  cargo xtask cost --set-budget";

/// The options of `cargo xtask cost`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Options {
    /// Driver of this project (ferrostor, ramdisk, locks), or path of a .sys file
    #[arg(long, value_name = "NAME|FILE", default_value = "ferrostor")]
    driver: OsString,

    /// Second driver, to compare with in a Markdown table
    #[arg(long, value_name = "NAME|FILE", conflicts_with_all = ["json", "set_budget"])]
    beside: Option<OsString>,

    /// Requests in flight at a time, 1 to 256 [default: 1,32,256]
    #[arg(
        long,
        value_name = "DEPTH,...",
        value_delimiter = ',',
        value_parser = clap::value_parser!(u32).range(1..=256),
        conflicts_with = "set_budget"
    )]
    depth: Vec<u32>,

    /// PCI function for a .sys file: virtio-blk, or bell for a driver with its own RAM disk
    #[arg(
        long,
        value_name = "KIND",
        value_parser = ["virtio-blk", "bell"],
        default_value = "virtio-blk"
    )]
    function: String,

    /// Properties of the disk that differ from the default, with QEMU's names: packed=on
    #[arg(long, value_name = "PROPERTY=VALUE,...", conflicts_with = "set_budget")]
    device: Option<String>,

    /// Print the figures as JSON
    #[arg(long, conflicts_with = "set_budget")]
    json: bool,

    /// Write the current figures to xtask/cost-budget.toml, the budget that the tests check
    #[arg(long, conflicts_with_all = ["driver", "function"])]
    set_budget: bool,
}

/// The cost was not counted, or exceeds the budget.
#[derive(Debug, thiserror::Error)]
pub enum CostError {
    #[error(transparent)]
    NoDriver(#[from] NoDriver),
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error("nothing was counted: {0}")]
    Testbed(#[from] ToolError),
    /// The testbed failed with this exit code, and has printed the reason.
    #[error("nothing was counted: see the testbed's error above")]
    Told(ExitCode),
    #[error("the testbed's output is not valid JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    File(#[from] io::Error),
    #[error("{BUDGET}: {0}")]
    Budget(#[from] toml::de::Error),
    #[error(
        "{} figures exceed {BUDGET}:\n  {}\nreduce the cost; or run `cargo xtask cost \
         --set-budget`, and justify the higher cost in the commit",
        .0.len(), .0.join("\n  ")
    )]
    Exceeded(Vec<String>),
}

/// Counts the cost and prints it. Returns the testbed's exit code if that fails.
pub fn command(options: &Options) -> Result<ExitCode, CostError> {
    match figures(options) {
        Err(CostError::Told(code)) => Ok(code),
        result => result.map(|()| ExitCode::SUCCESS),
    }
}

fn figures(options: &Options) -> Result<(), CostError> {
    // Reports a wrong file before anything is built.
    let driver = Chosen::parse(&options.driver)?;
    let beside = options.beside.as_deref().map(Chosen::parse).transpose()?;
    let depth = options.depth.iter().map(|depth| format!("--depth={depth}"));
    let device = options
        .device
        .iter()
        .map(|device| format!("--device={device}"));
    let mut flags: Vec<String> = depth.chain(device).collect();
    let count = |driver| count(driver, &options.function, &flags);
    if options.set_budget {
        let budget = budget_of(&count(&driver)?);
        fs::write(workspace::root().join(BUDGET), budget)?;
        println!("wrote the current figures to {BUDGET}");
    } else if let Some(beside) = &beside {
        print!("{}", compare(&count(&driver)?, &count(beside)?));
    } else {
        flags.extend(options.json.then(|| "--json".to_owned()));
        print!("{}", testbed(&driver, &options.function, &flags)?);
    }
    Ok(())
}

/// Fails if a figure of Ferrostor exceeds its budget.
pub fn check() -> Result<(), CostError> {
    let budget = fs::read_to_string(workspace::root().join(BUDGET))?;
    let cost = count(&Chosen::Project(Driver::Ferrostor), "virtio-blk", &[])?;
    let mut faults = Vec::new();
    let counted = toml::from_str(&budget_of(&cost))?;
    exceeded("", &toml::from_str(&budget)?, &counted, &mut faults);
    if faults.is_empty() {
        return Ok(());
    }
    Err(CostError::Exceeded(faults))
}

/// Runs `testbed cost` and returns the figures.
fn count(driver: &Chosen, function: &str, flags: &[String]) -> Result<Value, CostError> {
    let flags = [flags, &["--json".to_owned()]].concat();
    Ok(serde_json::from_str(&testbed(driver, function, &flags)?)?)
}

/// Runs `testbed cost` and returns its output. Builds a driver of this project first.
/// `function` is the PCI function for another driver.
fn testbed(driver: &Chosen, function: &str, flags: &[String]) -> Result<String, CostError> {
    let (file, function) = match driver {
        Chosen::Project(driver) => (build::driver(*driver, X64)?, driver.function()),
        Chosen::File(file) => (file.clone(), function),
    };
    let mut command = tool::testbed(&tool::build_testbed()?, "cost");
    command
        .arg(format!("--function={function}"))
        .args(flags)
        .arg("--")
        .arg(file)
        .stderr(Stdio::inherit());
    let output = command
        .output()
        .map_err(|source| tool::not_started(&command, source))?;
    if !output.status.success() {
        return Err(CostError::Told(tool::exit_code(&command, output.status)?));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The parts of the instructions in a comparison.
const CALLBACKS: [&str; 5] = [
    "HwBuildIo",
    "HwStartIo",
    "interrupt",
    "HwDpcRoutine",
    "others",
];

/// The members of an object.
fn members(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
    object.as_object().into_iter().flat_map(Map::iter)
}

fn rows(cost: &Value) -> &[Value] {
    cost["rows"].as_array().map_or(&[], Vec::as_slice)
}

fn instructions(row: &Value, callback: &str) -> f64 {
    row["instructions"][callback].as_f64().unwrap_or_default()
}

/// The budget with the figures of `cost`.
fn budget_of(cost: &Value) -> String {
    let mut text = String::from(
        "# The budget of one request; docs/cost.md describes the figures. The step `cost` of\n\
         # `cargo xtask test` fails if a figure is higher. `cargo xtask cost --set-budget` writes\n\
         # this file.\n\n[adapter]\n",
    );
    for (name, bytes) in members(&cost["adapter"]) {
        let _ = writeln!(text, "{name} = {bytes}");
    }
    // The figures of each request, with their values by depth.
    let mut requests: BTreeMap<_, BTreeMap<String, Vec<String>>> = BTreeMap::new();
    for row in rows(cost) {
        let figures = requests.entry(row["request"].as_str()).or_default();
        let mut add = |name, value| {
            let depths = figures.entry(name).or_default();
            depths.push(format!("{} = {value}", row["depth"]));
        };
        for (callback, value) in members(&row["instructions"]) {
            add(format!("instructions.{callback}"), value);
        }
        // Of the other figures, the totals.
        for (name, figure) in members(row) {
            if !["instructions", "callbacks"].contains(&name.as_str())
                && let Some(total) = figure.get("total")
            {
                add(name.clone(), total);
            }
        }
    }
    for (request, figures) in requests {
        let _ = writeln!(text, "\n[\"{}\"]", request.unwrap_or_default());
        for (name, depths) in figures {
            let _ = writeln!(text, "{name} = {{ {} }}", depths.join(", "));
        }
    }
    text
}

/// Compares counted figures with a budget of the same form. Adds a line for each figure that is
/// not within the budget.
fn exceeded(place: &str, budget: &Table, counted: &Table, faults: &mut Vec<String>) {
    let names: BTreeSet<_> = budget.keys().chain(counted.keys()).collect();
    for name in names {
        let (allowed, found) = (budget.get(name), counted.get(name));
        let place = match name.parse::<u32>() {
            _ if place.is_empty() => name.clone(),
            Ok(depth) => format!("{place} at depth {depth}"),
            Err(_) => format!("{place}, {name}"),
        };
        let number = |figure: &Toml| {
            let integer = figure.as_integer().map(|integer| integer as f64);
            figure.as_float().or(integer)
        };
        match (allowed, found) {
            (Some(Toml::Table(allowed)), Some(Toml::Table(found))) => {
                exceeded(&place, allowed, found, faults);
            }
            (Some(allowed), Some(found)) if number(found) <= number(allowed) => {}
            (Some(allowed), Some(found)) => {
                faults.push(format!("{place} is {found}, budget {allowed}"));
            }
            (Some(_), None) => faults.push(format!("{place} has a budget, but was not counted")),
            (None, _) => faults.push(format!("{place} was counted, but has no budget")),
        }
    }
}

/// The row of `cost` with the request and depth of `row`.
fn same<'c>(cost: &'c Value, row: &Value) -> Option<&'c Value> {
    rows(cost)
        .iter()
        .find(|other| other["request"] == row["request"] && other["depth"] == row["depth"])
}

/// Two drivers' instructions as a table in Markdown.
fn compare(left: &Value, right: &Value) -> String {
    let cell = |row: &Value| {
        let parts = CALLBACKS.map(|callback| instructions(row, callback).to_string());
        format!("{} ({})", instructions(row, "total"), parts.join(" + "))
    };
    let mut text = format!(
        "| Request | Depth | {} | {} |\n|---|---|---|---|\n",
        left["driver"].as_str().unwrap_or_default(),
        right["driver"].as_str().unwrap_or_default()
    );
    for row in rows(left) {
        let request = row["request"].as_str().unwrap_or_default();
        let right = same(right, row).map_or_else(|| "not counted".to_owned(), cell);
        let _ = writeln!(
            text,
            "| {request} | {} | {} | {right} |",
            row["depth"],
            cell(row)
        );
    }
    for (of, what) in [
        (
            "uncached_extension_bytes_per_queue",
            "uncached bytes a queue",
        ),
        ("device_extension_bytes", "bytes of the device extension"),
        ("srb_extension_bytes", "bytes of an SRB extension"),
    ] {
        let [left, right] = [left, right].map(|cost| &cost["adapter"][of]);
        let _ = writeln!(text, "| {what} | | {left} | {right} |");
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn figure(total: f64) -> Value {
        json!({"total": total, "HwBuildIo": total, "HwStartIo": 0, "interrupt": 0,
               "HwDpcRoutine": 0, "others": 0})
    }

    fn cost(instructions: f64) -> Value {
        let mut row = json!({"request": "READ 4 KiB", "depth": 32, "in_flight": 32});
        row["instructions"] = figure(instructions);
        row["locked"] = figure(2.0);
        json!({
            "driver": "a.sys",
            "adapter": {
                "uncached_extension_bytes": 4096,
                "uncached_extension_bytes_per_queue": 4096,
                "device_extension_bytes": 100,
                "srb_extension_bytes": 8,
            },
            "rows": [row],
        })
    }

    fn budget(cost: &Value) -> Table {
        toml::from_str(&budget_of(cost)).unwrap()
    }

    fn faults(budget: &Table, cost: &Value) -> Vec<String> {
        let counted = toml::from_str(&budget_of(cost)).unwrap();
        let mut faults = Vec::new();
        exceeded("", budget, &counted, &mut faults);
        faults
    }

    #[test]
    fn figures_at_or_below_the_budget_pass() {
        let budget = budget(&cost(805.25));

        assert_eq!(faults(&budget, &cost(805.25)), [""; 0]);
        assert_eq!(faults(&budget, &cost(700.0)), [""; 0]);
    }

    #[test]
    fn a_figure_above_its_budget_is_named_with_its_request_and_depth() {
        let faults = faults(&budget(&cost(805.25)), &cost(805.26));

        assert_eq!(
            faults,
            [
                "READ 4 KiB, instructions, HwBuildIo at depth 32 is 805.26, budget 805.25",
                "READ 4 KiB, instructions, total at depth 32 is 805.26, budget 805.25",
            ]
        );
        let text = CostError::Exceeded(faults).to_string();
        assert!(text.contains("cargo xtask cost --set-budget"), "{text}");
    }

    #[test]
    fn memory_of_the_adapter_has_a_budget_too() {
        let budget = budget(&cost(1.0));
        let mut cost = cost(1.0);
        cost["adapter"]["uncached_extension_bytes"] = 4097.into();

        assert_eq!(
            faults(&budget, &cost),
            ["adapter, uncached_extension_bytes is 4097, budget 4096"]
        );
    }

    #[test]
    fn a_budget_without_a_figure_and_a_figure_without_a_budget_are_faults() {
        let budget = budget(&cost(1.0));
        let mut other = cost(1.0);
        other["rows"][0]["depth"] = 1.into();

        let mut found = faults(&budget, &other);
        found.retain(|fault| fault.contains("locked"));
        assert_eq!(
            found,
            [
                "READ 4 KiB, locked at depth 1 was counted, but has no budget",
                "READ 4 KiB, locked at depth 32 has a budget, but was not counted",
            ]
        );
        other["rows"][0]["depth"] = 32.into();
        other["rows"][0]["locked"] = Value::Null;
        assert_eq!(
            faults(&budget, &other),
            ["READ 4 KiB, locked has a budget, but was not counted"]
        );
    }

    #[test]
    fn the_page_of_costs_has_the_budget_in_the_repository() {
        let read = |path: &str| fs::read_to_string(workspace::root().join(path)).unwrap();
        let (page, budget) = (read("docs/cost.md"), read(BUDGET));
        let mut budget: Table = toml::from_str(&budget).unwrap();
        budget.remove("adapter");
        assert!(!budget.is_empty());
        for (request, figures) in &budget {
            for (depth, total) in figures["instructions"]["total"].as_table().unwrap() {
                let cells = format!("| {request} | {depth} | {total} (");
                assert!(page.contains(&cells), "docs/cost.md has no {cells}");
            }
        }
    }

    #[test]
    fn two_drivers_are_compared_in_a_table() {
        let (left, mut right) = (cost(805.25), cost(600.0));
        let table = compare(&left, &right);
        let row =
            "| READ 4 KiB | 32 | 805.25 (805.25 + 0 + 0 + 0 + 0) | 600 (600 + 0 + 0 + 0 + 0) |\n";
        assert!(table.contains(row), "{table}");

        right["rows"] = json!([]);
        assert!(compare(&left, &right).contains("| not counted |"));
    }
}
