//! `cargo xtask cost`: what one I/O costs a driver, counted by `testbed cost`; two
//! drivers side by side, as a table or a picture; and the budget of the driver.

use std::{
    ffi::{OsStr, OsString},
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    process::{Command, ExitCode, ExitStatus},
};

use clap::ValueEnum as _;
use packaging::architecture::Architecture::X64;
use serde_json::Value;

use crate::{
    build::{self, BuildError},
    driver::Driver,
    tool::{self, ToolError, cargo},
    workspace,
};

/// The budget, from the project's root.
const BUDGET: &str = "xtask/cost-budget.toml";

const HELP: &str = "\
The driver file runs in the testbed, one instruction at a time: about a minute.
docs/cost.md says what the figures are. The exit code is the testbed's own: not 0
if nothing was counted.

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
    /// Count this driver of the project, ferrostor, ramdisk or locks, or this driver
    /// file
    #[arg(long, value_name = "NAME|FILE", default_value = "ferrostor")]
    driver: OsString,

    /// Compare with another driver: prints a table in Markdown
    #[arg(long, value_name = "NAME|FILE", conflicts_with_all = ["json", "set_budget"])]
    beside: Option<OsString>,

    /// Draw the instructions of both drivers into this file instead
    #[arg(long, value_name = "FILE", requires = "beside")]
    svg: Option<PathBuf>,

    /// How many requests are in flight at a time, 1 to 256 [default: 1,32,256]
    #[arg(long, value_name = "DEPTH,...", conflicts_with = "set_budget")]
    depth: Option<String>,

    /// What driver files drive: virtio-blk, or bell for a disk of their own
    #[arg(long, value_name = "KIND", default_value = "virtio-blk")]
    function: String,

    /// Print all figures as JSON
    #[arg(long, conflicts_with = "set_budget")]
    json: bool,

    /// Make the figures of today the budget that the tests hold the driver to
    #[arg(long)]
    set_budget: bool,
}

/// Why there are no figures, or too high ones.
#[derive(Debug, thiserror::Error)]
pub enum CostError {
    /// Driver code can't run on this machine.
    #[error("the testbed runs x64 drivers on the processor itself: it needs Linux on x86-64")]
    Machine,
    /// There is no driver.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The testbed can't be built or started.
    #[error("nothing was counted: {0}")]
    Testbed(#[from] ToolError),
    /// The testbed said why on standard error.
    #[error("nothing was counted; the testbed says why above")]
    Told(ExitStatus),
    /// The testbed printed something else than figures.
    #[error("what the testbed printed is no JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A file can't be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The budget is no TOML.
    #[error("{BUDGET}: {0}")]
    Budget(#[from] toml::de::Error),
    /// Figures exceed the budget.
    #[error(
        "{} figures are not within {BUDGET}:\n  {}\nmake the driver cheaper, or, if the cost buys \
         something, run `cargo xtask cost --set-budget` and say in the commit what it buys",
        .0.len(), .0.join("\n  ")
    )]
    Exceeded(Vec<String>),
}

/// Counts, and prints or draws the figures.
///
/// # Errors
/// See [`CostError`].
pub fn command(options: &Options) -> Result<ExitCode, CostError> {
    match figures(options) {
        // Its message is the one line that there is to be.
        Err(CostError::Told(status)) => {
            let code = status.code().and_then(|code| u8::try_from(code).ok());
            Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
        }
        result => result.map(|()| ExitCode::SUCCESS),
    }
}

fn figures(options: &Options) -> Result<(), CostError> {
    let mut words: Vec<OsString> = Vec::new();
    if let Some(depth) = &options.depth {
        words.push(format!("--depth={depth}").into());
    }
    let count = |driver: &OsStr, json: bool| -> Result<String, CostError> {
        let mut words = words.clone();
        if json {
            words.push("--json".into());
        }
        testbed(driver, &options.function, &words)
    };
    if options.set_budget {
        let cost = serde_json::from_str(&count(&options.driver, true)?)?;
        write(&workspace::root().join(BUDGET), &budget_of(&cost))?;
        println!("{BUDGET} has the figures of today");
        return Ok(());
    }
    let Some(beside) = &options.beside else {
        print!("{}", count(&options.driver, options.json)?);
        return Ok(());
    };
    if let Some(file) = &options.svg {
        // Told before minutes have passed.
        let folder = file.parent().filter(|folder| *folder != Path::new(""));
        if let Some(Err(source)) = folder.map(fs::metadata) {
            let path = file.clone();
            return Err(CostError::File { path, source });
        }
    }
    let left = serde_json::from_str(&count(&options.driver, true)?)?;
    let right = serde_json::from_str(&count(beside, true)?)?;
    match &options.svg {
        Some(file) => {
            write(file, &draw(&left, &right))?;
            println!("{} is drawn", file.display());
        }
        None => print!("{}", compare(&left, &right)),
    }
    Ok(())
}

/// Fails if a figure of the driver exceeds its budget.
///
/// # Errors
/// See [`CostError`].
pub fn check() -> Result<(), CostError> {
    let path = workspace::root().join(BUDGET);
    let text = fs::read_to_string(&path).map_err(|source| CostError::File { path, source })?;
    let budget = toml::from_str(&text)?;
    let words = ["--json".into()];
    let cost = testbed(OsStr::new(Driver::Ferrostor.name()), "virtio-blk", &words)?;
    let exceeded = exceeded(&budget, &serde_json::from_str(&cost)?);
    if exceeded.is_empty() {
        return Ok(());
    }
    Err(CostError::Exceeded(exceeded))
}

/// What `testbed cost` prints of a driver, which is built if it is one of the
/// project's. `function` is that of other drivers.
fn testbed(driver: &OsStr, function: &str, words: &[OsString]) -> Result<String, CostError> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Err(CostError::Machine);
    }
    let named = Driver::from_str(&driver.to_string_lossy(), false).ok();
    let (file, function) = match named {
        Some(driver) => (build::driver(driver, X64)?.into(), driver.function()),
        None => (driver.to_owned(), function),
    };
    tool::run(cargo("build").args(["--profile", "host", "--package", "ferrostor-testbed"]))?;
    // Where the user stands, so that a relative path is the user's.
    let mut command = Command::new(workspace::target().join("host/testbed"));
    command
        .env("TESTBED_CALLER", "cargo xtask cost")
        .arg("cost")
        .arg(format!("--function={function}"))
        .args(words)
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

/// The columns of instructions that a budget and a comparison have.
const CALLBACKS: [&str; 5] = [
    "HwBuildIo",
    "HwStartIo",
    "interrupt",
    "HwDpcRoutine",
    "others",
];

/// Further figures of a budget, by their totals.
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

/// A budget that `cost` just keeps.
fn budget_of(cost: &Value) -> String {
    let mut text = String::from(
        "# What one request may cost the driver, in the figures of docs/cost.md. The step `cost`\n\
         # of `cargo xtask test` fails if a figure is higher; `cargo xtask cost --set-budget`\n\
         # writes this file.\n\n[adapter]\n",
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
            let _ = writeln!(text, "{name} = {}", row[name]["total"]);
        }
    }
    text
}

/// What of `cost` is not within `budget`, a line each.
fn exceeded(budget: &toml::Table, cost: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    for (request, parts) in budget {
        let Some(parts) = parts.as_table() else {
            faults.push(format!("{request}: the budget has no figures"));
            continue;
        };
        if request == "adapter" {
            check_figures("the adapter", parts, &cost["adapter"], &mut faults);
            continue;
        }
        for (depth, figures) in parts {
            let place = format!("{request} at depth {depth}");
            let row = rows(cost).iter().find(|row| {
                row["request"] == request.as_str() && row["depth"].as_u64() == depth.parse().ok()
            });
            match (figures.as_table(), row) {
                (Some(figures), Some(row)) => check_figures(&place, figures, row, &mut faults),
                _ => faults.push(format!("{place} has a budget and was not counted")),
            }
        }
    }
    for row in rows(cost) {
        let request = row["request"].as_str().unwrap_or_default();
        let depth = row["depth"].to_string();
        let budget = budget.get(request).and_then(|parts| parts.get(&depth));
        if budget.is_none() {
            faults.push(format!("{request} at depth {depth} has no budget"));
        }
    }
    faults
}

/// Compares figures with those counted. A number is the budget of a total.
fn check_figures(place: &str, budget: &toml::Table, counted: &Value, faults: &mut Vec<String>) {
    for (name, allowed) in budget {
        if let Some(parts) = allowed.as_table() {
            let place = format!("{place}, {name}");
            check_figures(&place, parts, &counted[name], faults);
            continue;
        }
        let allowed = allowed
            .as_float()
            .or_else(|| allowed.as_integer().map(|number| number as f64));
        let counted = match &counted[name] {
            Value::Object(parts) => parts.get("total").and_then(Value::as_f64),
            number => number.as_f64(),
        };
        match (counted, allowed) {
            (Some(counted), Some(allowed)) if counted <= allowed => {}
            (Some(counted), Some(allowed)) => faults.push(format!(
                "{place}: {name} is {counted}, its budget is {allowed}"
            )),
            _ => faults.push(format!("{place}: there is no figure {name}")),
        }
    }
}

/// The row of `cost` that counts what `row` counts.
fn same<'c>(cost: &'c Value, row: &Value) -> Option<&'c Value> {
    rows(cost)
        .iter()
        .find(|other| other["request"] == row["request"] && other["depth"] == row["depth"])
}

/// The file's name.
fn name(cost: &Value) -> &str {
    cost["driver"].as_str().unwrap_or("a driver")
}

/// Two drivers' instructions as a table in Markdown.
fn compare(left: &Value, right: &Value) -> String {
    let cell = |row: &Value| {
        let [build, start, interrupt, dpc, others] =
            CALLBACKS.map(|callback| instructions(row, callback));
        let total = instructions(row, "total");
        format!("{total} ({build} + {start} + {interrupt} + {dpc} + {others})")
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

/// Where bars begin, and how wide the longest one is.
const BARS_AT: f64 = 330.0;
const BARS_WIDTH: f64 = 580.0;

/// Two drivers' instructions as a picture: a pair of bars for each request.
fn draw(left: &Value, right: &Value) -> String {
    let most = [left, right]
        .into_iter()
        .flat_map(rows)
        .map(|row| instructions(row, "total"))
        .fold(1.0, f64::max);
    let height = 90 + 46 * rows(left).len();
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1000 {height}" font-family="sans-serif" font-size="12" role="img" aria-labelledby="title">
<title id="title">Instructions a request, by callback: {} above, {} below</title>
<style>text{{fill:#222}}</style>
<rect width="1000" height="{height}" fill="#fff"/>
<text x="20" y="28" font-size="15" font-weight="bold">Instructions a request: {} above, {} below</text>
"##,
        escaped(name(left)),
        escaped(name(right)),
        escaped(name(left)),
        escaped(name(right)),
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

/// A file's name as text of a picture.
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

    fn budget(cost: &Value) -> toml::Table {
        toml::from_str(&budget_of(cost)).unwrap()
    }

    #[test]
    fn what_a_budget_was_made_of_is_within_it_and_so_is_less() {
        let budget = budget(&cost(805.25));

        assert_eq!(exceeded(&budget, &cost(805.25)), [""; 0]);
        assert_eq!(exceeded(&budget, &cost(700.0)), [""; 0]);
    }

    #[test]
    fn a_figure_above_its_budget_is_named_with_its_request_and_depth() {
        let exceeded = exceeded(&budget(&cost(805.25)), &cost(805.26));

        assert_eq!(
            exceeded,
            [
                "READ 4 KiB at depth 32, instructions: HwBuildIo is 805.26, its budget is 805.25",
                "READ 4 KiB at depth 32, instructions: total is 805.26, its budget is 805.25",
            ]
        );
        let text = CostError::Exceeded(exceeded).to_string();
        assert!(text.contains("cargo xtask cost --set-budget"), "{text}");
    }

    #[test]
    fn memory_of_the_adapter_has_a_budget_too() {
        let budget = budget(&cost(1.0));
        let mut cost = cost(1.0);
        cost["adapter"]["uncached_extension_bytes"] = 4097.into();

        assert_eq!(
            exceeded(&budget, &cost),
            ["the adapter: uncached_extension_bytes is 4097, its budget is 4096"]
        );
    }

    #[test]
    fn a_budget_without_a_figure_and_a_figure_without_a_budget_are_faults() {
        let budget = budget(&cost(1.0));
        let mut other = cost(1.0);
        other["rows"][0]["depth"] = 1.into();

        assert_eq!(
            exceeded(&budget, &other),
            [
                "READ 4 KiB at depth 32 has a budget and was not counted",
                "READ 4 KiB at depth 1 has no budget",
            ]
        );
        other["rows"][0]["depth"] = 32.into();
        other["rows"][0]["locked"] = Value::Null;
        assert_eq!(
            exceeded(&budget, &other),
            ["READ 4 KiB at depth 32: there is no figure locked"]
        );
    }

    #[test]
    fn the_budget_in_the_repository_can_be_read() {
        let text = fs::read_to_string(workspace::root().join(BUDGET)).unwrap();
        let budget: toml::Table = toml::from_str(&text).unwrap();
        assert!(budget["READ 4 KiB"]["1"]["instructions"]["total"].is_integer());
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
