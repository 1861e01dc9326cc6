//! `cargo xtask conformance`: writes docs/conformance.md, which says for each requirement of
//! VIRTIO what shows that the driver keeps it.
//!
//! The rows are those of docs/reference/virtio-requirements.md. A comment that begins with the
//! numbers of rows (`V08, V11: …`) says what its code shows: a check of the testbed's device, a
//! test that violates one, a test with the driver file, or a unit test of crates/virtio.
//! xtask/conformance.toml has the reasons for the rows without any of them, and the features.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use fs_err as fs;
use regex::Regex;
use serde::Deserialize;

use crate::workspace;

const REQUIREMENTS: &str = "docs/reference/virtio-requirements.md";
const LIST: &str = "xtask/conformance.toml";
const PAGE: &str = "docs/conformance.md";

const HELP: &str = "\
Run the command after you change a check of the testbed's device, the rows that a test
cites, a row of docs/reference/virtio-requirements.md, or xtask/conformance.toml. A test
fails if the page is out of date.

Examples:
  cargo xtask conformance";

/// The options of `cargo xtask conformance`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Options {}

/// The page was not written.
#[derive(Debug, thiserror::Error)]
pub enum ConformanceError {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] io::Error),
    /// The list is malformed.
    #[error("{LIST}: {0}")]
    List(#[from] toml::de::Error),
    /// Rows, tests and reasons do not fit together.
    #[error("{0}")]
    Rows(String),
}

/// Writes the page.
pub fn command(Options {}: &Options) -> Result<(), ConformanceError> {
    let page = page()?;
    fs::write(workspace::root().join(PAGE), page)?;
    println!("wrote {PAGE}");
    Ok(())
}

/// The page, if every row has something that shows it, or a reason.
fn page() -> Result<String, ConformanceError> {
    let list: List = toml::from_str(&read(LIST)?)?;
    let requirements = requirements(&read(REQUIREMENTS)?);
    let citations = citations()?;
    let faults = faults(&requirements, &citations, &list);
    if faults.is_empty() {
        Ok(written(&requirements, &citations, &list))
    } else {
        Err(ConformanceError::Rows(faults.join("\n")))
    }
}

fn read(file: &str) -> io::Result<String> {
    fs::read_to_string(workspace::root().join(file))
}

/// xtask/conformance.toml. The keys of the tables are rows.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct List {
    other_device: BTreeMap<String, String>,
    not_negotiated: BTreeMap<String, String>,
    not_used: BTreeMap<String, String>,
    deliberate_deviation: BTreeMap<String, String>,
    /// The parts of a row that its tests do not show.
    except: BTreeMap<String, String>,
    /// The reasons why the device cannot see a row that unit tests show.
    unseen: BTreeMap<String, String>,
    feature: Vec<Feature>,
}

impl List {
    /// The tables of reasons, with the names that the page has for them.
    fn reasons(&self) -> [(&'static str, &BTreeMap<String, String>); 4] {
        [
            ("other device", &self.other_device),
            ("not negotiated", &self.not_negotiated),
            ("not used", &self.not_used),
            ("deliberate deviation", &self.deliberate_deviation),
        ]
    }
}

/// A feature bit.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Feature {
    bit: u8,
    name: String,
    accepted: bool,
    why: String,
}

/// A row of docs/reference/virtio-requirements.md.
struct Requirement {
    row: String,
    section: String,
    /// The first sentence.
    summary: String,
}

fn requirements(page: &str) -> Vec<Requirement> {
    static ROW: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r#"(?m)^\| <a id="v\d+"></a>(V\d+) \| ([^|]+) \|[^|]*\| ([^|]+) \|$"#)
            .expect("a regular expression")
    });
    ROW.captures_iter(page)
        .map(|row| {
            let (_, [row, section, text]) = row.extract();
            let summary = text.split_inclusive(". ").next().unwrap_or(text);
            Requirement {
                row: row.to_owned(),
                section: section.to_owned(),
                summary: summary.trim().to_owned(),
            }
        })
        .collect()
}

/// How a citation shows its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// A check of the testbed's device. A run with the driver file fails if the driver violates
    /// it.
    Check,
    /// A test that violates a check, and sees the device find it.
    Violation,
    /// A test with the driver file.
    Run,
    /// A test of the crate virtio, without the driver file.
    Unit,
}

/// What shows each row, by name.
type Citations = BTreeMap<String, BTreeSet<(Kind, String)>>;

/// The folders with citations, and what each name begins with.
const FOLDERS: [(&str, &str); 6] = [
    ("testbed/virtio/src", "virtio/"),
    ("testbed/devices/src", "devices/"),
    ("testbed/devices/tests", ""),
    ("testbed/run/tests", ""),
    ("crates/virtio/src", ""),
    ("crates/virtio/tests", ""),
];

/// The split ring of unit tests. The driver file runs with that of the crate `virtio-queue`.
const ONLY_FOR_UNIT_TESTS: &str = "testbed/virtio/src/split_ring.rs";

fn citations() -> io::Result<Citations> {
    let mut citations = Citations::new();
    for (folder, prefix) in FOLDERS {
        let root = workspace::root().join(folder);
        for path in rust_files(&root)? {
            let inside = path.strip_prefix(&root).unwrap_or(&path);
            if Path::new(folder).join(inside) == Path::new(ONLY_FOR_UNIT_TESTS) {
                continue;
            }
            let module = inside.with_extension("").display().to_string();
            let text = fs::read_to_string(&path)?;
            for (kind, function, rows) in cited(folder, &text) {
                for row in rows {
                    let name = format!("{prefix}{module}::{function}");
                    citations.entry(row).or_default().insert((kind, name));
                }
            }
        }
    }
    Ok(citations)
}

fn rust_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|it| it == "rs") {
            files.push(path);
        }
    }
    Ok(files)
}

/// The citations in the text of a file in `folder`: the kind, the function and the rows.
fn cited(folder: &str, text: &str) -> Vec<(Kind, String, Vec<String>)> {
    static ROWS: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"^(///?) ((?:[VA]\d{1,2}, )*[VA]\d{1,2})[.:,]").expect("a regular expression")
    });
    static FUNCTION: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"^(?:pub(?:\([a-z]+\))? )?(?:const )?fn (\w+)").expect("a regular expression")
    });
    let is_device = folder.starts_with("testbed/virtio") || folder.starts_with("testbed/devices");
    let is_run = folder.starts_with("testbed/run");
    let mut found = Vec::new();
    // The rows of the comment above, and whether its function is a test.
    let mut documented = Vec::new();
    let mut is_test = false;
    let mut is_in_tests = false;
    let mut function = "";
    for line in text.lines().map(str::trim) {
        is_in_tests |= line.starts_with("mod tests");
        if let Some(rows) = ROWS.captures(line) {
            let (_, [slashes, rows]) = rows.extract();
            let rows = rows.split(", ").map(str::to_owned).collect();
            if slashes == "///" {
                documented = rows;
            } else if is_device && !is_in_tests {
                found.push((Kind::Check, function.to_owned(), rows));
            }
        } else if let Some(name) = FUNCTION.captures(line) {
            function = name.extract::<1>().1[0];
            let rows = std::mem::take(&mut documented);
            let kind = match (is_device, is_run) {
                (true, _) if is_test => Some(Kind::Violation),
                // A scenario: a macro makes tests of these functions.
                (_, true) => Some(Kind::Run),
                (false, false) if is_test => Some(Kind::Unit),
                _ => None,
            };
            if let Some(kind) = kind.filter(|_| !rows.is_empty()) {
                found.push((kind, function.to_owned(), rows));
            }
            is_test = false;
        } else if line == "#[test]" {
            is_test = true;
        } else if !line.starts_with("///") && !line.starts_with("#[") {
            documented.clear();
            is_test = false;
        }
    }
    found
}

/// What shows a row, in the order of preference.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shown<'a> {
    Outside,
    Unit,
    Reason(&'static str, &'a str),
    Not,
}

fn shown<'a>(row: &str, citations: &Citations, list: &'a List) -> Shown<'a> {
    let has = |kind| {
        let mut cited = citations.get(row).into_iter().flatten();
        cited.any(|(it, _)| *it == kind)
    };
    if has(Kind::Check) || has(Kind::Run) {
        return Shown::Outside;
    }
    if has(Kind::Unit) {
        return Shown::Unit;
    }
    let reasons = list.reasons();
    let mut reasons = reasons.into_iter().filter_map(|(name, rows)| {
        let text = rows.get(row)?;
        Some(Shown::Reason(name, text))
    });
    reasons.next().unwrap_or(Shown::Not)
}

/// What does not fit together.
fn faults(requirements: &[Requirement], citations: &Citations, list: &List) -> Vec<String> {
    let mut faults = Vec::new();
    for row in requirements.iter().map(|it| &it.row) {
        let has = |kind| {
            citations
                .get(row)
                .is_some_and(|it| it.iter().any(|it| it.0 == kind))
        };
        let reasons = list
            .reasons()
            .iter()
            .filter(|it| it.1.contains_key(row))
            .count();
        let shown = shown(row, citations, list);
        if shown == Shown::Not {
            faults.push(format!("{row}: no test shows it, and {LIST} has no reason"));
        }
        if matches!(shown, Shown::Outside | Shown::Unit) && reasons > 0 || reasons > 1 {
            faults.push(format!(
                "{row}: {LIST} has a reason too many: tests or another show it"
            ));
        }
        if has(Kind::Check) != has(Kind::Violation) {
            faults.push(format!(
                "{row}: a check of the device needs a test that violates it, and the reverse"
            ));
        }
        if (shown == Shown::Unit) != list.unseen.contains_key(row) {
            faults.push(format!(
                "{row}: [unseen] of {LIST} says why the device cannot see what only unit tests \
                 show, and nothing else"
            ));
        }
        if list.except.contains_key(row) && !matches!(shown, Shown::Outside | Shown::Unit) {
            faults.push(format!("{row}: [except] of {LIST} is for rows with a test"));
        }
    }
    let is_row = |row: &&String| requirements.iter().any(|it| it.row == **row);
    let tables = list.reasons().map(|it| it.1);
    let listed = tables.into_iter().chain([&list.except, &list.unseen]);
    for row in listed.flat_map(BTreeMap::keys).filter(|row| !is_row(row)) {
        faults.push(format!(
            "{row}: {LIST} names it, and {REQUIREMENTS} does not"
        ));
    }
    faults
}

const HEAD: &str = "\
# Conformance to VIRTIO

[`cargo xtask conformance`](../xtask/src/conformance.rs) writes this page. Its rows are the
[requirements of VIRTIO for a driver](reference/virtio-requirements.md), each with what shows
that Ferrostor keeps it.

| Column \"By\" | Meaning |
|---|---|
| **driver file** | The driver file itself shows it, from outside: the testbed loads the `.sys` and is its device. A *check* is code of the device that examines a register access, a descriptor or a request. It runs in every test with a driver file, and a violation fails the test. Another test violates each check. A *test* shows a behaviour that a check cannot see. |
| **unit tests** | Only unit tests of `crates/virtio` show it. The last column says why the device cannot see it. |
| any other | Nothing shows it. The last column has the reason. |

A row counts as shown even if its tests show only a part of it. *Except* names the parts that
the tests of the row do not show.

";

const FEATURES: &str = "
## Feature bits

The driver accepts each bit that is marked here if the device offers it, and no other. A test
offers all 64 bits to the driver file and compares what it accepts with this table
(`driver_faults/requirements::a_device_that_offers_every_feature_gets_those_of_the_table`).

| Bit | Feature | Accepted | Why |
|---|---|---|---|
";

/// The text of the page.
fn written(requirements: &[Requirement], citations: &Citations, list: &List) -> String {
    let mut counts = BTreeMap::new();
    let mut rows = String::new();
    for requirement in requirements {
        let row = &requirement.row;
        let names = |kinds: &[Kind]| {
            let cited = citations.get(row).into_iter().flatten();
            let names = cited.filter(|(kind, _)| kinds.contains(kind));
            names
                .map(|(_, name)| format!("`{name}`"))
                .collect::<Vec<_>>()
        };
        let join = |name: &str, names: Vec<String>| match names.len() {
            0 => None,
            1 => Some(format!("{name} {}", names[0])),
            _ => Some(format!("{name}s {}", names.join(", "))),
        };
        let (by, mut what) = match shown(row, citations, list) {
            Shown::Outside => {
                let parts = [
                    join("check", names(&[Kind::Check])),
                    join("test", names(&[Kind::Run])),
                ];
                (
                    "driver file",
                    parts.into_iter().flatten().collect::<Vec<_>>().join("; "),
                )
            }
            Shown::Unit => {
                let tests = join("test", names(&[Kind::Unit])).unwrap_or_default();
                let why = list.unseen.get(row).map_or("", String::as_str);
                ("unit tests", format!("{tests}. {why}"))
            }
            Shown::Reason(name, text) => (name, text.to_owned()),
            Shown::Not => ("", String::new()),
        };
        if let Some(except) = list.except.get(row) {
            let _ = write!(what, ". *Except:* {except}");
        }
        *counts.entry(by).or_insert(0) += 1;
        let Requirement {
            section, summary, ..
        } = requirement;
        let anchor = row.to_lowercase();
        let _ = writeln!(
            rows,
            "| [{row}](reference/virtio-requirements.md#{anchor}) | {section} | {summary} | {by} | \
             {what} |"
        );
    }
    let mut page = HEAD.to_owned();
    let _ = writeln!(page, "| By | Rows |\n|---|---|");
    let reasons = list.reasons().map(|it| it.0);
    for by in ["driver file", "unit tests"].iter().chain(&reasons) {
        let _ = writeln!(page, "| {by} | {} |", counts.get(by).unwrap_or(&0));
    }
    let _ = writeln!(page, "| all | {} |", requirements.len());
    let _ = writeln!(
        page,
        "\n| Row | Section | Requirement | By | What shows it, or why nothing does |\n|---|---|---|---|---|"
    );
    page.push_str(&rows);
    page.push_str(FEATURES);
    for Feature {
        bit,
        name,
        accepted,
        why,
    } in &list.feature
    {
        let accepted = if *accepted { "yes" } else { "no" };
        let _ = writeln!(page, "| {bit} | `{name}` | {accepted} | {why} |");
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_what_the_command_writes() {
        let page = page().unwrap_or_else(|error| panic!("{error}"));
        assert!(
            read(PAGE).expect(PAGE) == page,
            "{PAGE} is out of date: run `cargo xtask conformance`"
        );
    }

    #[test]
    fn a_comment_that_begins_with_rows_cites_them_for_its_function() {
        const DEVICE: &str = "
            fn write() {
                // V01, A2: a check.
                // (V02), which is no citation.
                add();
            }
            mod tests {
                /// V01: it is violated.
                #[test]
                fn a_violation() {
                    // V03: no check.
                }
                /// V04.
                fn no_test() {}
            }";
        const RUN: &str = "
            /// V05, V06: a scenario.
            ///
            /// More.
            fn a_scenario() {}
            /// V07.
            struct NoFunction;
            fn other() {}";
        let found = |folder, text| {
            let cited = cited(folder, text).into_iter();
            cited
                .map(|(kind, function, rows)| (kind, format!("{function} {}", rows.join(" "))))
                .collect::<Vec<_>>()
        };

        assert_eq!(
            found("testbed/virtio/src", DEVICE),
            [
                (Kind::Check, "write V01 A2".to_owned()),
                (Kind::Violation, "a_violation V01".to_owned()),
            ]
        );
        assert_eq!(
            found("crates/virtio/src", DEVICE),
            [(Kind::Unit, "a_violation V01".to_owned())]
        );
        assert_eq!(
            found("testbed/run/tests", RUN),
            [(Kind::Run, "a_scenario V05 V06".to_owned())]
        );
    }

    /// The faults of the row V01 with these citations and this list.
    fn faults_of(citations: &[(Kind, &str)], list: &str) -> Vec<String> {
        let empty = "[other-device]\n[not-negotiated]\n[not-used]\n[deliberate-deviation]\n\
                     [except]\n[unseen]\n";
        let list = list
            .split_once('\n')
            .map_or(empty.to_owned(), |(table, row)| {
                empty.replace(table, &format!("{table}\n{row}"))
            });
        let list: List = toml::from_str(&format!("feature = []\n{list}")).expect("a list");
        let requirements = requirements("| <a id=\"v01\"></a>V01 | 2.1 | MUST | It. And more. |");
        let names = citations
            .iter()
            .map(|(kind, name)| (*kind, (*name).to_owned()));
        let citations = [("V01".to_owned(), names.collect())].into();
        assert_eq!(requirements[0].summary, "It.");
        faults(&requirements, &citations, &list)
    }

    #[test]
    fn each_row_has_what_shows_it_or_one_reason() {
        use Kind::*;
        let reason = "[not-used]\nV01 = 'why'";
        let unseen = "[unseen]\nV01 = 'why'";
        for (citations, list, fault) in [
            (&[][..], "", "has no reason"),
            (&[(Run, "a")], reason, "a reason too many"),
            (&[(Check, "a")], "", "needs a test that violates it"),
            (&[(Violation, "a"), (Run, "b")], "", "and the reverse"),
            (&[(Unit, "a")], "", "[unseen]"),
            (&[(Run, "a")], unseen, "[unseen]"),
            (&[(Run, "a")], "[except]\nV02 = 'no row'", "V02: "),
        ] {
            let found = faults_of(citations, list);
            assert_eq!(found.len(), 1, "{citations:?} {list}: {found:?}");
            assert!(found[0].contains(fault), "{}", found[0]);
        }
        for (citations, list) in [
            (&[][..], reason),
            (
                &[(Check, "a"), (Violation, "b")],
                "[except]\nV01 = 'a part'",
            ),
            (&[(Run, "a"), (Unit, "b")], ""),
            (&[(Unit, "a")], unseen),
        ] {
            assert_eq!(faults_of(citations, list), [""; 0], "{citations:?} {list}");
        }
    }
}
