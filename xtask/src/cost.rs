//! `cargo xtask cost`: prints the cost of one I/O, which `testbed cost` counts. Compares two
//! drivers in a table, and checks Ferrostor's costs against a budget: with both kinds of ring, and
//! with several queues.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fmt::Write as _,
    io,
    process::{ExitCode, Stdio},
    slice,
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

/// The paths in the project of the budget, and of the page with its tables.
const BUDGET: &str = "xtask/cost-budget.toml";
const PAGE: &str = "docs/cost.md";

/// The kinds of ring, and the properties of a disk that has them.
const RINGS: [(&str, &str); 2] = [("split", "packed=off"), ("packed", "packed=on")];

/// The parts of the budget that the page's first table compares, and their headings.
const COLUMNS: [(&str, &str); 3] = [
    ("split", "Ferrostor, split ring"),
    ("packed", "Ferrostor, packed ring"),
    (EXAMPLE, "ramdisk.sys"),
];

/// The part of the budget for the example driver.
const EXAMPLE: &str = "ramdisk";

/// The numbers of queues, each with a CPU of its own, whose costs are compared.
const QUEUES: [u32; 3] = [1, 2, 4];

/// The request whose costs with several queues are compared, and at which depths. More would take
/// minutes.
const COMPARED: &str = "READ 4 KiB";
const COMPARED_DEPTHS: [u32; 2] = [1, 8];

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
  cargo xtask cost --device packed=on
  cargo xtask cost --cpus 4
      count 4 CPUs with a queue each, and list the locks and cache lines that they share
  cargo xtask cost --set-budget
      make the current figures the budget, and update the tables in docs/cost.md";

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

    /// CPUs of the machine, 1 to 64, each with a queue of the disk [default: 1]
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=64),
        conflicts_with_all = ["set_budget", "beside"]
    )]
    cpus: Option<u32>,

    /// Print the figures as JSON
    #[arg(long, conflicts_with = "set_budget")]
    json: bool,

    /// Write the current figures to xtask/cost-budget.toml, the budget that the tests check, and to
    /// the tables in docs/cost.md
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
    #[error("{PAGE} has no lines `{BEGIN}` and `{END}`, between which the tables belong")]
    NoPlace,
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
    let cpus = options.cpus.iter().map(|cpus| format!("--cpus={cpus}"));
    let mut flags: Vec<String> = depth.chain(device).chain(cpus).collect();
    let count = |driver| count(driver, &options.function, &flags);
    if options.set_budget {
        let example = count(&Chosen::Project(Driver::Ramdisk))?;
        let text = current()? + &budget_of(EXAMPLE, &example);
        let page = workspace::root().join(PAGE);
        let updated = with_tables(&fs::read_to_string(&page)?, &toml::from_str(&text)?);
        fs::write(workspace::root().join(BUDGET), text)?;
        fs::write(page, updated.ok_or(CostError::NoPlace)?)?;
        println!("wrote the current figures to {BUDGET} and {PAGE}");
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
    let mut budget: Table = toml::from_str(&fs::read_to_string(workspace::root().join(BUDGET))?)?;
    // The example's figures are only for the page.
    budget.remove(EXAMPLE);
    let mut faults = Vec::new();
    exceeded("", &budget, &toml::from_str(&current()?)?, &mut faults);
    if faults.is_empty() {
        return Ok(());
    }
    Err(CostError::Exceeded(faults))
}

/// Counts Ferrostor's costs, in the form of the budget.
fn current() -> Result<String, CostError> {
    let driver = Chosen::Project(Driver::Ferrostor);
    let count = |flags: &[String]| count(&driver, "virtio-blk", flags);
    let mut text = String::from(BUDGET_HEAD);
    let mut scaling = String::new();
    for (ring, device) in RINGS {
        let device = format!("--device={device}");
        text += &budget_of(ring, &count(slice::from_ref(&device))?);
        for queues in QUEUES {
            let depths = COMPARED_DEPTHS.map(|depth| format!("--depth={depth}"));
            let flags = [&[device.clone(), format!("--cpus={queues}")], &depths[..]];
            scaling += &scaling_of(ring, queues, &count(&flags.concat())?);
        }
    }
    Ok(text + &scaling)
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

const BUDGET_HEAD: &str = "\
# The budget of one request; docs/cost.md describes the figures. The step `cost` of
# `cargo xtask test` fails if a figure is higher. `cargo xtask cost --set-budget` writes
# this file.
";

/// The part `part` of the budget, with the figures of `cost`.
fn budget_of(part: &str, cost: &Value) -> String {
    let mut text = format!("\n[{part}.adapter]\n");
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
        add("interrupts".to_owned(), &row["callbacks"]["interrupt"]);
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
        let _ = writeln!(text, "\n[{part}.\"{}\"]", request.unwrap_or_default());
        for (name, depths) in figures {
            let _ = writeln!(text, "{name} = {{ {} }}", depths.join(", "));
        }
    }
    text
}

/// The part of the budget for a number of queues with a CPU each: the most instructions of a CPU,
/// and what the CPUs share.
fn scaling_of(ring: &str, queues: u32, cost: &Value) -> String {
    let mut instructions = BTreeMap::<_, f64>::new();
    let mut cpus_of_lock = BTreeMap::<_, BTreeSet<_>>::new();
    for row in rows(cost) {
        for (lock, _) in members(&row["locks"]) {
            let cpus = cpus_of_lock.entry(lock).or_default();
            cpus.extend(row["cpu"].as_u64());
        }
        if row["request"] == COMPARED {
            let most = instructions.entry(row["depth"].as_u64()).or_default();
            *most = most.max(self::instructions(row, "total"));
        }
    }
    let by_depth: Vec<_> = instructions
        .iter()
        .map(|(depth, most)| format!("{} = {most}", depth.unwrap_or_default()))
        .collect();
    let locks = cpus_of_lock.values().filter(|cpus| cpus.len() > 1).count();
    let lines = cost["contended_lines"].as_array().map_or(0, Vec::len);
    format!(
        "\n[scaling.{ring}.{queues}]\ninstructions = {{ {} }}\nlocks_of_several_cpus = {locks}\n\
         lines_of_several_cpus = {lines}\n",
        by_depth.join(", ")
    )
}

/// The lines of the page around the tables.
const BEGIN: &str = "<!-- `cargo xtask cost --set-budget` writes the tables from here -->\n";
const END: &str = "<!-- to here -->\n";

/// `page` with the tables of `budget`. `None` if it has no place for them.
fn with_tables(page: &str, budget: &Table) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}{}{END}{after}", tables(budget)))
}

/// The tables of the page, in Markdown.
fn tables(budget: &Table) -> String {
    let [split, packed] = RINGS.map(|(ring, _)| &budget[ring]);
    let requests: Vec<_> = split.as_table().into_iter().flat_map(Table::keys).collect();
    let depths_of = |figure: &Toml| {
        let depths = figure.as_table().into_iter().flat_map(Table::keys);
        let mut depths: Vec<u32> = depths.filter_map(|depth| depth.parse().ok()).collect();
        depths.sort_unstable();
        depths.into_iter().map(|depth| depth.to_string())
    };
    let mut text = String::from(
        "\nInstructions per request: the total, and in parentheses HwBuildIo + HwStartIo + interrupt \
         + HwDpcRoutine + others.\n\n",
    );
    let headings = COLUMNS.map(|(_, heading)| heading).join(" | ");
    let _ = writeln!(
        text,
        "| Request | Depth | {headings} |\n|---|---|---|---|---|"
    );
    for request in requests.iter().filter(|name| **name != "adapter") {
        for depth in depths_of(&split[request.as_str()]["locked"]) {
            let cells = COLUMNS.map(|(part, _)| {
                let Some(figures) = budget[part].get(request.as_str()) else {
                    return "not counted".to_owned();
                };
                let part = |callback| figures["instructions"][callback][&depth].to_string();
                format!("{} ({})", part("total"), CALLBACKS.map(part).join(" + "))
            });
            let _ = writeln!(text, "| {request} | {depth} | {} |", cells.join(" | "));
        }
    }
    for (of, what) in MEMORY {
        let cells = COLUMNS.map(|(part, _)| budget[part]["adapter"][of].to_string());
        let _ = writeln!(text, "| {what} | | {} |", cells.join(" | "));
    }
    text += "\nNotifications of the device and interrupts per request. The other requests cost as many as \
             READ 4 KiB.\n\n\
             | Request | Depth | Notifications, split | Notifications, packed | \
             Interrupts, split | Interrupts, packed |\n|---|---|---|---|---|---|\n";
    for request in [COMPARED, "WRITE 4 KiB with FUA"] {
        for depth in depths_of(&split[request]["locked"]) {
            let cells = ["register_writes", "interrupts"].map(|figure| {
                [split, packed].map(|ring| ring[request][figure][&depth].to_string())
            });
            let cells = cells.concat().join(" | ");
            let _ = writeln!(text, "| {request} | {depth} | {cells} |");
        }
    }
    let _ = writeln!(
        text,
        "\n{COMPARED} with several queues, each used by one CPU: the most instructions per request \
         of a CPU, the locks that several CPUs acquired, and the cache lines that one CPU wrote and \
         another accessed:\n\n\
         | Ring | Queues | Depth 1 | Depth 8 | Locks | Lines |\n|---|---|---|---|---|---|"
    );
    for (ring, _) in RINGS {
        for queues in QUEUES {
            let figures = &budget["scaling"][ring][&queues.to_string()];
            let mut cells = vec![ring.to_owned(), queues.to_string()];
            let depths = depths_of(&figures["instructions"]);
            cells.extend(depths.map(|depth| figures["instructions"][&depth].to_string()));
            for figure in ["locks_of_several_cpus", "lines_of_several_cpus"] {
                cells.push(figures[figure].to_string());
            }
            let _ = writeln!(text, "| {} |", cells.join(" | "));
        }
    }
    text + "\n"
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

/// The figures of memory in a comparison, and what they are.
const MEMORY: [(&str, &str); 3] = [
    (
        "uncached_extension_bytes_per_queue",
        "uncached bytes a queue",
    ),
    ("device_extension_bytes", "bytes of the device extension"),
    ("srb_extension_bytes", "bytes of an SRB extension"),
];

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
    for (of, what) in MEMORY {
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
        let mut row = json!({"request": "READ 4 KiB", "depth": 32, "cpu": 0, "in_flight": 32});
        row["instructions"] = figure(instructions);
        row["callbacks"] = figure(1.0);
        row["locked"] = figure(2.0);
        row["register_writes"] = figure(0.03);
        row["locks"] = json!({"Dpc 0": 2});
        json!({
            "driver": "a.sys",
            "adapter": {
                "uncached_extension_bytes": 4096,
                "uncached_extension_bytes_per_queue": 4096,
                "device_extension_bytes": 100,
                "srb_extension_bytes": 8,
            },
            "rows": [row],
            "contended_lines": [],
        })
    }

    fn budget(cost: &Value) -> Table {
        toml::from_str(&budget_of("split", cost)).unwrap()
    }

    fn faults(budget: &Table, cost: &Value) -> Vec<String> {
        let counted = toml::from_str(&budget_of("split", cost)).unwrap();
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
                "split, READ 4 KiB, instructions, HwBuildIo at depth 32 is 805.26, budget 805.25",
                "split, READ 4 KiB, instructions, total at depth 32 is 805.26, budget 805.25",
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
            ["split, adapter, uncached_extension_bytes is 4097, budget 4096"]
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
                "split, READ 4 KiB, locked at depth 1 was counted, but has no budget",
                "split, READ 4 KiB, locked at depth 32 has a budget, but was not counted",
            ]
        );
        other["rows"][0]["depth"] = 32.into();
        other["rows"][0]["locked"] = Value::Null;
        assert_eq!(
            faults(&budget, &other),
            ["split, READ 4 KiB, locked has a budget, but was not counted"]
        );
    }

    #[test]
    fn the_page_of_costs_has_the_budget_in_the_repository() {
        let read = |path: &str| fs::read_to_string(workspace::root().join(path)).unwrap();
        let (page, budget) = (read(PAGE), read(BUDGET));
        let budget: Table = toml::from_str(&budget).unwrap();
        assert_eq!(with_tables(&page, &budget).unwrap(), page);
    }

    #[test]
    fn what_several_cpus_share_has_a_budget() {
        let own = cost(10.0);
        let mut shared = cost(12.5);
        let mut other = shared["rows"][0].clone();
        other["cpu"] = 1.into();
        other["instructions"] = figure(13.0);
        shared["rows"].as_array_mut().unwrap().push(other);
        shared["contended_lines"] = json!([{"place": "image+0x40"}]);

        assert_eq!(
            scaling_of("split", 2, &own),
            "\n[scaling.split.2]\ninstructions = { 32 = 10 }\nlocks_of_several_cpus = 0\n\
             lines_of_several_cpus = 0\n"
        );
        assert_eq!(
            scaling_of("split", 2, &shared),
            "\n[scaling.split.2]\ninstructions = { 32 = 13 }\nlocks_of_several_cpus = 1\n\
             lines_of_several_cpus = 1\n"
        );
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
