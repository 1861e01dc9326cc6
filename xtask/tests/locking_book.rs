//! Tests that docs/locking.md has a row for each rule of docs/reference/storport-rules.md,
//! cites no other rules, and names only existing tests.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

struct Row {
    source: String,
    held: String,
    shown: Vec<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies in the workspace")
        .to_owned()
}

/// The words between backticks.
fn code(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(Into::into).collect()
}

/// The rows of all tables of rules.
fn rows() -> Vec<Row> {
    let book = fs::read_to_string(root().join("docs/locking.md")).expect("the book is there");
    let mut rows = Vec::new();
    let mut is_of_rules = false;
    for line in book.lines() {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        match cells[..] {
            ["", "Rule", "Source", "Held by", "Shown by", ""] => is_of_rules = true,
            ["", _, source, held, shown, ""] if is_of_rules && !source.starts_with("---") => {
                rows.push(Row {
                    source: source.to_owned(),
                    held: held.to_owned(),
                    shown: code(shown),
                });
            }
            [_] => is_of_rules = false,
            _ => {}
        }
    }
    rows
}

/// Whether the test of this name exists: `fixtures/NAME`, `PATH::FUNCTION`, or
/// `ROOM/NAME` of the rules that do not compile when broken.
fn exists(name: &str) -> bool {
    let root = root();
    if let Some((path, function)) = name.split_once("::") {
        let text = fs::read_to_string(root.join(path)).unwrap_or_default();
        return text.contains(&format!("fn {function}("));
    }
    let path = match name.strip_prefix("fixtures/") {
        Some(fixture) => format!("testbed/fixtures/examples/{fixture}.rs"),
        None => format!("crates/storport/tests/rules/{name}.rs"),
    };
    root.join(path).is_file()
}

/// The names of the rows in the tables of rules in docs/reference/storport-rules.md,
/// whose first column is "Rule".
fn rules() -> BTreeSet<String> {
    let page = fs::read_to_string(root().join("docs/reference/storport-rules.md"))
        .expect("the page of rules");
    let mut is_of_rules = false;
    let mut rules = BTreeSet::new();
    for line in page.lines() {
        match line.split('|').map(str::trim).nth(1) {
            Some("Rule") => is_of_rules = true,
            Some(cell) if is_of_rules && cell.starts_with("<a id=") => {
                let (_, name) = cell.split_once("</a>").expect("the end of the anchor");
                rules.extend(name.split([',', ' ']).next().map(Into::into));
            }
            Some(_) => {}
            None => is_of_rules = false,
        }
    }
    rules
}

#[test]
fn every_rule_has_a_row_and_every_row_a_rule() {
    let rules = rules();
    let rows = rows();
    let cited: BTreeSet<_> = rows
        .iter()
        .flat_map(|row| row.source.split("; "))
        .map(str::to_owned)
        .collect();

    let missing: Vec<_> = rules.difference(&cited).collect();
    let unknown: Vec<_> = cited.difference(&rules).collect();

    assert!(
        missing.is_empty(),
        "docs/locking.md has no row for {missing:?}"
    );
    assert!(
        unknown.is_empty(),
        "docs/locking.md cites {unknown:?}, which docs/reference/storport-rules.md has not"
    );
}

#[test]
fn every_test_that_is_named_exists() {
    let rows = rows();

    let missing: Vec<_> = rows
        .iter()
        .flat_map(|row| &row.shown)
        .filter(|name| !exists(name))
        .collect();

    assert!(missing.is_empty(), "docs/locking.md names {missing:?}");
}

#[test]
fn every_pair_shows_a_rule() {
    let shown: BTreeSet<_> = rows().into_iter().flat_map(|row| row.shown).collect();
    let rooms = fs::read_dir(root().join("crates/storport/tests/rules")).expect("rooms of pairs");
    let pairs: Vec<_> = rooms
        .map(|room| room.expect("a room").path())
        .flat_map(|room| fs::read_dir(&room).expect("pairs"))
        .map(|file| file.expect("a file").path())
        .filter(|file| file.extension() == Some("rs".as_ref()))
        .filter_map(|file| {
            let room = file.parent()?.file_name()?.to_str()?;
            Some(format!("{room}/{}", file.file_stem()?.to_str()?))
        })
        .collect();

    let missing: Vec<_> = pairs.iter().filter(|pair| !shown.contains(*pair)).collect();

    assert!(!pairs.is_empty());
    assert!(
        missing.is_empty(),
        "no row of docs/locking.md names {missing:?}"
    );
}

#[test]
fn a_rule_without_a_test_says_why_nothing_holds_it() {
    for row in rows() {
        assert!(
            !row.shown.is_empty() || row.held.starts_with("Not held"),
            "{}: {}",
            row.source,
            row.held
        );
    }
}
