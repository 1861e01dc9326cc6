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

/// The cases in crates/storport/tests/rules, as `FILE::NAME`. The last lines of a case's comment
/// cite its source.
fn cases() -> BTreeSet<String> {
    let files = fs::read_dir(root().join("crates/storport/tests/rules")).expect("the cases");
    let files = files.map(|file| file.expect("a file").path());
    let mut cases = BTreeSet::new();
    for file in files.filter(|file| !file.ends_with("lib.rs")) {
        let text = fs::read_to_string(&file).expect("a case");
        let name = file.file_stem().expect("a name").to_string_lossy();
        let mut is_cited = false;
        for line in text.lines().map(str::trim) {
            if let Some(comment) = line.strip_prefix("/// ") {
                is_cited |= ["storport-rules.md", "storport.h"]
                    .iter()
                    .any(|source| comment.starts_with(source));
                continue;
            }
            if is_cited && !line.starts_with('#') {
                let item = line.split([' ', '(', '<']).nth(1).expect("an item");
                cases.insert(format!("{name}::{item}"));
                is_cited = false;
            }
            let in_case = cases.iter().any(|case| case.starts_with(&*name));
            assert!(
                in_case || !line.starts_with("//~"),
                "{name}: {line} is in no case"
            );
        }
    }
    cases
}

/// Whether the test of this name exists: `rights`, `fixtures/NAME`, `PATH::FUNCTION`, or a case
/// that does not compile.
fn exists(name: &str) -> bool {
    let root = root();
    if let Some(fixture) = name.strip_prefix("fixtures/") {
        return root
            .join(format!("testbed/fixtures/examples/{fixture}.rs"))
            .is_file();
    }
    match name.split_once("::") {
        Some((path, function)) if path.contains('/') => {
            let text = fs::read_to_string(root.join(path)).unwrap_or_default();
            text.contains(&format!("fn {function}("))
        }
        Some(_) => cases().contains(name),
        None => name == "rights" && root.join("cross/rules/tests/rules/rights.rs").is_file(),
    }
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
fn every_case_shows_a_rule() {
    let shown: BTreeSet<_> = rows().into_iter().flat_map(|row| row.shown).collect();
    let cases = cases();

    let missing: Vec<_> = cases.difference(&shown).collect();

    assert!(!cases.is_empty());
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
