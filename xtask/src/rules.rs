//! `cargo xtask rules`: writes the column "Shown by" of the tables of rules in docs/locking.md.
//!
//! The tables are the list of rules. A row's column "Source" names rows, or a section, of
//! docs/reference/storport-rules.md. The command writes the cases of crates/storport/tests/rules
//! and the rules of the testbed that cite one of them. It keeps the names that are written by
//! hand: a path with a function, and `rights`, the tables of what each callback may do.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::LazyLock,
};

use fs_err as fs;
use regex::Regex;

use crate::workspace;

const BOOK: &str = "docs/locking.md";
const CASES: &str = "crates/storport/tests/rules";
const TESTBED: &str = "testbed/storport/src/violations.rs";

const HELP: &str = "\
Run the command after you change a case in crates/storport/tests/rules, a rule of the
testbed, or a row in docs/locking.md. A test fails if the page is out of date.

Examples:
  cargo xtask rules";

/// The options of `cargo xtask rules`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Options {}

/// Writes the column.
pub fn command(Options {}: &Options) -> io::Result<()> {
    let proofs = proofs()?;
    let page = with_rows(&read(BOOK)?, |row| row.shown(&proofs));
    fs::write(workspace::root().join(BOOK), page)?;
    println!("wrote {BOOK}");
    Ok(())
}

fn read(file: &str) -> io::Result<String> {
    fs::read_to_string(workspace::root().join(file))
}

/// A row of a table of rules.
struct Row<'a> {
    rule: &'a str,
    source: &'a str,
    enforced: &'a str,
    shown: &'a str,
}

impl Row<'_> {
    /// The rows and sections that it names.
    fn named(&self) -> BTreeSet<String> {
        self.source.split("; ").map(str::to_owned).collect()
    }

    /// The names of other tests than those of `proofs`.
    fn by_hand(&self) -> impl Iterator<Item = &str> {
        let names = self.shown.split('`').skip(1).step_by(2);
        names.filter(|name| name.contains('/') || *name == "rights")
    }

    /// The text of the column "Shown by".
    fn shown(&self, proofs: &BTreeMap<String, BTreeSet<String>>) -> String {
        let named = self.named();
        let proofs = proofs
            .iter()
            .filter(|(_, cited)| !cited.is_disjoint(&named));
        let names = self.by_hand().chain(proofs.map(|(name, _)| name.as_str()));
        names
            .map(|name| format!("`{name}`"))
            .collect::<Vec<_>>()
            .join(", ")
    }
}

/// The page, with another text in the last column of each row of the tables of rules.
fn with_rows(page: &str, mut shown: impl FnMut(&Row<'_>) -> String) -> String {
    let mut is_of_rules = false;
    let mut text = String::new();
    for line in page.lines() {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        match cells[..] {
            ["", "Rule", "Source", "Enforced by", "Shown by", ""] => is_of_rules = true,
            ["", rule, source, enforced, old, ""] if is_of_rules && !rule.starts_with("---") => {
                let row = Row {
                    rule,
                    source,
                    enforced,
                    shown: old,
                };
                let new = shown(&row);
                let Row {
                    rule,
                    source,
                    enforced,
                    ..
                } = row;
                text.push_str(&format!("| {rule} | {source} | {enforced} | {new} |\n"));
                continue;
            }
            [_] => is_of_rules = false,
            _ => {}
        }
        text.push_str(line);
        text.push('\n');
    }
    text
}

/// The tests of rules, by name, and the rows that each cites: the cases, as
/// `file::name`, and the testbed's rules.
fn proofs() -> io::Result<BTreeMap<String, BTreeSet<String>>> {
    let mut proofs = BTreeMap::new();
    for file in fs::read_dir(workspace::root().join(CASES))? {
        let file = file?.path();
        if let Some(stem) = file.file_stem().filter(|stem| *stem != "lib") {
            let name = |case: &str| format!("{}::{case}", stem.display());
            let text = fs::read_to_string(&file)?;
            proofs.extend(cases(&text).map(|(case, source)| (name(case), words(source))));
        }
    }
    let testbed = read(TESTBED)?;
    let rules = testbed.split("\nrules! {\n").nth(1).unwrap_or_default();
    let rules = rules.split("\n}\n").next().unwrap_or_default();
    // Each rule has three texts: its name, its source and its summary.
    let texts: Vec<_> = rules.split('"').skip(1).step_by(2).collect();
    let rules = texts.chunks_exact(3);
    proofs.extend(rules.map(|rule| (rule[0].to_owned(), words(rule[1]))));
    Ok(proofs)
}

/// The cases in a file, and their sources. The last lines of a case's comment are its source. A
/// function or a module of the file that is described without a source has an empty one.
fn cases(text: &str) -> impl Iterator<Item = (&str, &str)> {
    static DESCRIBED: LazyLock<Regex> = LazyLock::new(|| {
        let item = r"(?m)((?:^ */// .*\n)+)(?:^ *#.*\n)*^( *)(\w+) (\w+)";
        Regex::new(item).expect("a regular expression")
    });
    DESCRIBED.captures_iter(text).filter_map(|described| {
        let (_, [comment, indentation, kind, name]) = described.extract();
        let pages = ["/// storport-rules.md", "/// storport.h"];
        let source = pages.iter().filter_map(|page| comment.find(page)).min();
        let is_item = indentation.is_empty() && ["fn", "mod"].contains(&kind);
        let source = match source {
            Some(at) => &comment[at..],
            None if is_item => "",
            None => return None,
        };
        Some((name, source))
    })
}

/// The words of a source that may be the names of rows and sections.
fn words(source: &str) -> BTreeSet<String> {
    let is_separator = |c: char| !(c.is_alphanumeric() || c == '_' || c == '/');
    source.split(is_separator).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFERENCE: &str = "docs/reference/storport-rules.md";

    /// The names of the rows in docs/reference/storport-rules.md, each with its section and whether
    /// its table is one of rules.
    fn reference() -> BTreeMap<String, (String, bool)> {
        let page = read(REFERENCE).expect(REFERENCE);
        let (mut section, mut is_of_rules) = ("", false);
        let mut rows = BTreeMap::new();
        for line in page.lines() {
            if let Some((_, title)) = line.split_once("# ") {
                section = title;
            }
            match line.split('|').map(str::trim).nth(1) {
                Some("Rule") => is_of_rules = true,
                Some(cell) if cell.starts_with("<a id=") => {
                    let (_, name) = cell.split_once("</a>").expect("the end of the anchor");
                    let name = name.split([',', ' ']).next().unwrap_or(name);
                    rows.insert(name.to_owned(), (section.to_owned(), is_of_rules));
                }
                Some(_) => {}
                None => is_of_rules = false,
            }
        }
        rows
    }

    fn for_each_row(mut visit: impl FnMut(&Row<'_>)) {
        with_rows(&read(BOOK).expect(BOOK), |row| {
            visit(row);
            String::new()
        });
    }

    #[test]
    fn the_page_is_what_the_command_writes() {
        let proofs = proofs().expect("the cases and the testbed's rules");
        let page = read(BOOK).expect(BOOK);
        assert!(
            page == with_rows(&page, |row| row.shown(&proofs)),
            "{BOOK} is out of date: run `cargo xtask rules`"
        );
    }

    #[test]
    fn every_rule_has_one_row_and_every_row_a_source() {
        let reference = reference();
        let sections: BTreeSet<_> = reference
            .values()
            .map(|(section, _)| section.as_str())
            .collect();
        let mut named = BTreeSet::new();
        for_each_row(|row| {
            for source in row.named() {
                let is_known = reference.contains_key(&source) || sections.contains(&*source);
                assert!(is_known, "{BOOK} names {source}, which {REFERENCE} has not");
                assert!(
                    named.insert(source.clone()),
                    "two rows of {BOOK} name {source}"
                );
            }
        });
        for (rule, _) in reference.iter().filter(|(_, (_, is_rule))| *is_rule) {
            assert!(named.contains(rule), "no row of {BOOK} names {rule}");
        }
    }

    /// Each row, or the row of its section, has a test, or says why nothing enforces the rule.
    #[test]
    fn a_rule_without_a_test_says_why_nothing_enforces_it() {
        let reference = reference();
        let mut shown = BTreeSet::new();
        for_each_row(|row| {
            if !row.shown.is_empty() {
                shown.extend(row.named());
            }
        });
        for_each_row(|row| {
            let of_section = |name: &String| reference.get(name).map(|(section, _)| section);
            let is_shown = row.named().iter().any(|name| {
                shown.contains(name) || of_section(name).is_some_and(|of| shown.contains(of))
            });
            assert!(
                is_shown || row.enforced.starts_with("Not enforced"),
                "{}: {}",
                row.source,
                row.rule
            );
        });
    }

    #[test]
    fn every_case_and_every_rule_of_the_testbed_shows_a_rule() {
        let page = read(BOOK).expect(BOOK);
        let proofs = proofs().expect("the cases and the testbed's rules");
        assert!(proofs.len() > 90, "{} proofs", proofs.len());
        let missing: Vec<_> = proofs
            .into_iter()
            .filter(|(name, _)| !page.contains(&format!("`{name}`")))
            .collect();
        assert!(
            missing.is_empty(),
            "these cite no rule of {BOOK}: {missing:#?}"
        );
    }
}
