//! `cargo xtask cost`: prints the cost of one I/O, which `testbed cost` counts. Compares two
//! drivers in a table or a picture, and checks Ferrostor's costs against a budget.

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    process::{Command, ExitCode, ExitStatus},
};

use clap::ValueEnum as _;
use packaging::architecture::Architecture::X64;
use serde_json::Value;
use toml::{Table, Value as Toml};

use crate::{
    build::{self, BuildError},
    driver::Driver,
    tool::{self, ToolError},
    workspace,
};

/// The budget's path in the project.
const BUDGET: &str = "xtask/cost-budget.toml";

const HELP: &str = "\
The testbed single-steps the driver file, which takes about a minute. docs/cost.md
describes the figures. The exit code is 0 if they were counted, else the testbed's.

Examples:
  cargo xtask cost
  cargo xtask cost --depth 1 --json
  cargo xtask cost --driver OTHER.sys
  cargo xtask cost --driver ferrostor --beside ramdisk
  cargo xtask cost --beside OTHER.sys --svg cost.svg
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

    /// Draw a bar chart of both drivers' instructions to this SVG file, instead of the table
    #[arg(long, value_name = "FILE", requires = "beside")]
    svg: Option<PathBuf>,

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
    /// The driver is neither one of this project nor a file.
    #[error(
        "{given}: no such file; give the path of a .sys file, or a driver of this project: {}",
        crate::run::known_drivers()
    )]
    NoDriver {
        /// The argument.
        given: String,
    },
    /// The driver was not built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The testbed cannot be built or started.
    #[error("nothing was counted: {0}")]
    Testbed(#[from] ToolError),
    /// The testbed failed, and has printed the reason.
    #[error("nothing was counted: see the testbed's error above")]
    Told(ExitStatus),
    /// The testbed's output is not JSON.
    #[error("the testbed's output is not valid JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The budget is not valid TOML.
    #[error("{BUDGET}: {0}")]
    Budget(#[from] toml::de::Error),
    /// Figures exceed the budget.
    #[error(
        "{} figures exceed {BUDGET}:\n  {}\nreduce the cost; or run `cargo xtask cost \
         --set-budget`, and justify the higher cost in the commit",
        .0.len(), .0.join("\n  ")
    )]
    Exceeded(Vec<String>),
}

/// Counts the cost, and prints or draws it.
///
/// # Errors
/// See [`CostError`].
pub fn command(options: &Options) -> Result<ExitCode, CostError> {
    match figures(options) {
        // The testbed has printed its error already.
        Err(CostError::Told(status)) => {
            let code = status.code().and_then(|code| u8::try_from(code).ok());
            Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
        }
        result => result.map(|()| ExitCode::SUCCESS),
    }
}

fn figures(options: &Options) -> Result<(), CostError> {
    // Reports a wrong file before anything is built.
    for driver in [Some(&options.driver), options.beside.as_ref()] {
        if let Some(driver) = driver.filter(|it| named(it).is_none() && !Path::new(it).exists()) {
            let given = driver.to_string_lossy().into_owned();
            return Err(CostError::NoDriver { given });
        }
    }
    let depth = options.depth.iter().map(|depth| format!("--depth={depth}"));
    let flags: Vec<String> = depth.collect();
    let count = |driver| count(driver, &options.function, &flags);
    if options.set_budget {
        write(
            &workspace::root().join(BUDGET),
            &budget_of(&count(&options.driver)?),
        )?;
        println!("wrote the current figures to {BUDGET}");
        return Ok(());
    }
    let Some(beside) = &options.beside else {
        let json = options.json.then(|| "--json".to_owned());
        let flags: Vec<String> = flags.into_iter().chain(json).collect();
        print!("{}", testbed(&options.driver, &options.function, &flags)?);
        return Ok(());
    };
    if let Some(file) = &options.svg {
        // Reports a missing folder before the counting, which takes minutes.
        let folder = file.parent().filter(|folder| *folder != Path::new(""));
        if let Some(Err(source)) = folder.map(fs::metadata) {
            let path = file.clone();
            return Err(CostError::File { path, source });
        }
    }
    let [left, right] = [count(&options.driver)?, count(beside)?];
    match &options.svg {
        Some(file) => {
            write(file, &draw(&left, &right))?;
            println!("wrote {}", file.display());
        }
        None => print!("{}", compare(&left, &right)),
    }
    Ok(())
}

/// Fails if a figure of Ferrostor exceeds its budget.
///
/// # Errors
/// See [`CostError`].
pub fn check() -> Result<(), CostError> {
    let path = workspace::root().join(BUDGET);
    let text = fs::read_to_string(&path).map_err(|source| CostError::File { path, source })?;
    let cost = count(OsStr::new(Driver::Ferrostor.name()), "virtio-blk", &[])?;
    let mut faults = Vec::new();
    let counted = toml::from_str(&budget_of(&cost))?;
    exceeded("", &toml::from_str(&text)?, &counted, &mut faults);
    if faults.is_empty() {
        return Ok(());
    }
    Err(CostError::Exceeded(faults))
}

/// Runs `testbed cost` and returns the figures.
fn count(driver: &OsStr, function: &str, flags: &[String]) -> Result<Value, CostError> {
    let flags = [flags, &["--json".to_owned()]].concat();
    Ok(serde_json::from_str(&testbed(driver, function, &flags)?)?)
}

/// The driver of this project with this name.
fn named(driver: &OsStr) -> Option<Driver> {
    Driver::from_str(&driver.to_string_lossy(), false).ok()
}

/// Runs `testbed cost` and returns its output. Builds a driver of this project first.
/// `function` is the PCI function for another driver.
fn testbed(driver: &OsStr, function: &str, flags: &[String]) -> Result<String, CostError> {
    let (file, function) = match named(driver) {
        Some(driver) => (build::driver(driver, X64)?.into(), driver.function()),
        None => (driver.to_owned(), function),
    };
    // In the user's current folder, so that relative paths work.
    let mut command = Command::new(tool::build_testbed()?);
    command
        .env("TESTBED_CALLER", "cargo xtask cost")
        .arg("cost")
        .arg(format!("--function={function}"))
        .args(flags)
        .arg("--")
        .arg(file)
        .stderr(std::process::Stdio::inherit());
    let output = command
        .output()
        .map_err(|source| tool::not_started(&command, source))?;
    if !output.status.success() {
        return Err(CostError::Told(output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn write(path: &Path, text: &str) -> Result<(), CostError> {
    fs::write(path, text).map_err(|source| CostError::File {
        path: path.to_owned(),
        source,
    })
}

/// The columns of instructions in a budget and in a comparison.
const CALLBACKS: [&str; 5] = [
    "HwBuildIo",
    "HwStartIo",
    "interrupt",
    "HwDpcRoutine",
    "others",
];

/// The other figures of a budget, of which it has the totals.
const FIGURES: [&str; 11] = [
    "calls",
    "register_reads",
    "register_writes",
    "locked",
    "fences",
    "bytes_read",
    "bytes_written",
    "block_bytes_filled",
    "block_bytes_copied",
    "shared_lines",
    "stack_bytes",
];

const ADAPTER: [&str; 3] = [
    "uncached_extension_bytes",
    "device_extension_bytes",
    "srb_extension_bytes",
];

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
    for name in ADAPTER {
        let _ = writeln!(text, "{name} = {}", cost["adapter"][name]);
    }
    for row in rows(cost) {
        let _ = writeln!(text, "\n[{}.{}]", row["request"], row["depth"]);
        let of = &row["instructions"];
        let parts: Vec<_> = ["total"]
            .iter()
            .chain(&CALLBACKS)
            .map(|name| format!("{name} = {}", of[name]))
            .collect();
        let _ = writeln!(text, "instructions = {{ {} }}", parts.join(", "));
        for name in FIGURES {
            let figure = &row[name]["total"];
            if !figure.is_null() {
                let _ = writeln!(text, "{name} = {figure}");
            }
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
        let place = match allowed.or(found) {
            _ if place.is_empty() => name.clone(),
            Some(Toml::Table(_)) if name.parse::<u32>().is_ok() => {
                format!("{place} at depth {name}")
            }
            Some(Toml::Table(_)) => format!("{place}, {name}"),
            _ => format!("{place}: {name}"),
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

/// The driver's file name.
fn name(cost: &Value) -> &str {
    cost["driver"].as_str().unwrap_or("a driver")
}

/// Two drivers' instructions as a table in Markdown.
fn compare(left: &Value, right: &Value) -> String {
    let cell = |row: &Value| {
        let parts = CALLBACKS.map(|callback| instructions(row, callback).to_string());
        format!("{} ({})", instructions(row, "total"), parts.join(" + "))
    };
    let mut text = format!(
        "| Request | Depth | {} | {} |\n|---|---|---|---|\n",
        name(left),
        name(right)
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

/// The colour of each callback.
const COLOURS: [&str; 5] = ["#33609c", "#3b7d46", "#a77b12", "#8a3f73", "#888"];

/// The x coordinate of the bars, and the width of the longest one.
const BARS_AT: f64 = 330.0;
const BARS_WIDTH: f64 = 580.0;

/// Two drivers' instructions as an SVG picture: a pair of bars for each request.
fn draw(left: &Value, right: &Value) -> String {
    let most = [left, right]
        .into_iter()
        .flat_map(rows)
        .map(|row| instructions(row, "total"))
        .fold(1.0, f64::max);
    let height = 90 + 46 * rows(left).len();
    let [above, below] = [left, right].map(|cost| escaped(name(cost)));
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1000 {height}" font-family="sans-serif" font-size="12" role="img" aria-labelledby="title">
<title id="title">Instructions per request, by callback: {above} above, {below} below</title>
<style>text{{fill:#222}}</style>
<rect width="1000" height="{height}" fill="#fff"/>
<text x="20" y="28" font-size="15" font-weight="bold">Instructions per request: {above} above, {below} below</text>
"##
    );
    for (place, (callback, colour)) in CALLBACKS.iter().zip(COLOURS).enumerate() {
        let x = 20 + 130 * place;
        let _ = writeln!(
            svg,
            r#"<rect x="{x}" y="44" width="14" height="14" fill="{colour}"/><text x="{}" y="56">{callback}</text>"#,
            x + 20
        );
    }
    for (row, y) in rows(left).iter().zip((82..).step_by(46)) {
        let request = row["request"].as_str().unwrap_or_default();
        let _ = writeln!(
            svg,
            r#"<text x="{}" y="{}" text-anchor="end">{request}, depth {}</text>"#,
            BARS_AT - 10.0,
            y + 18,
            row["depth"]
        );
        bar(&mut svg, row, y, most);
        if let Some(row) = same(right, row) {
            bar(&mut svg, row, y + 18, most);
        }
    }
    svg.push_str("</svg>\n");
    svg
}

fn bar(svg: &mut String, row: &Value, y: u32, most: f64) {
    let mut x = BARS_AT;
    for (callback, colour) in CALLBACKS.iter().zip(COLOURS) {
        let width = instructions(row, callback) / most * BARS_WIDTH;
        if width > 0.0 {
            let _ = writeln!(
                svg,
                r#"<rect x="{x:.1}" y="{y}" width="{width:.1}" height="14" fill="{colour}"/>"#
            );
        }
        x += width;
    }
    let _ = writeln!(
        svg,
        r#"<text x="{:.1}" y="{}">{}</text>"#,
        x + 6.0,
        y + 11,
        instructions(row, "total")
    );
}

/// Escapes text for SVG.
fn escaped(name: &str) -> String {
    name.replace('&', "&amp;").replace('<', "&lt;")
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
        for name in FIGURES {
            row[name] = figure(2.0);
        }
        json!({
            "driver": "a<b.sys",
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
    fn what_a_budget_was_made_of_is_within_it_and_so_is_less() {
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
                "READ 4 KiB at depth 32, instructions: HwBuildIo is 805.26, budget 805.25",
                "READ 4 KiB at depth 32, instructions: total is 805.26, budget 805.25",
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
            ["adapter: uncached_extension_bytes is 4097, budget 4096"]
        );
    }

    #[test]
    fn a_budget_without_a_figure_and_a_figure_without_a_budget_are_faults() {
        let budget = budget(&cost(1.0));
        let mut other = cost(1.0);
        other["rows"][0]["depth"] = 1.into();

        assert_eq!(
            faults(&budget, &other),
            [
                "READ 4 KiB at depth 1 was counted, but has no budget",
                "READ 4 KiB at depth 32 has a budget, but was not counted",
            ]
        );
        other["rows"][0]["depth"] = 32.into();
        other["rows"][0]["locked"] = Value::Null;
        assert_eq!(
            faults(&budget, &other),
            ["READ 4 KiB at depth 32: locked has a budget, but was not counted"]
        );
    }

    #[test]
    fn the_page_of_costs_has_the_budget_in_the_repository() {
        let read = |path: &str| fs::read_to_string(workspace::root().join(path)).unwrap();
        let (page, budget) = (read("docs/cost.md"), read(BUDGET));
        let mut budget: Table = toml::from_str(&budget).unwrap();
        budget.remove("adapter");
        assert!(!budget.is_empty());
        for (request, depths) in &budget {
            for (depth, row) in depths.as_table().unwrap() {
                let total = &row["instructions"]["total"];
                let cells = format!("| {request} | {depth} | {total} (");
                assert!(page.contains(&cells), "docs/cost.md has no {cells}");
            }
        }
    }

    #[test]
    fn two_drivers_stand_side_by_side() {
        let (left, mut right) = (cost(805.25), cost(600.0));
        let table = compare(&left, &right);
        let row =
            "| READ 4 KiB | 32 | 805.25 (805.25 + 0 + 0 + 0 + 0) | 600 (600 + 0 + 0 + 0 + 0) |\n";
        assert!(table.contains(row), "{table}");

        let picture = draw(&left, &right);
        assert_eq!(picture.matches("height=\"14\" fill=\"#33609c\"").count(), 3);
        assert!(picture.contains("a&lt;b.sys above"), "{picture}");

        right["rows"] = json!([]);
        assert!(compare(&left, &right).contains("| not counted |"));
    }
}
