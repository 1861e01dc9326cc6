//! Tests that a reader of the repository can open every cited source: rows of the
//! pages in docs/reference, and pages and anchors in docs.

use std::{fs, ops::Range, path::Path, sync::LazyLock};

use regex::{Captures, Regex};

use super::page::{self, Page};
use crate::workspace;

/// Extensions of files with citations.
const CITING: [&str; 8] = ["rs", "md", "toml", "stderr", "ps1", "psm1", "inx", "yml"];

/// The samples in this folder are wrong on purpose.
const SAMPLES: &str = "xtask/src/docs";

/// The pages whose rows are cited by page and row.
const PAGES: [&str; 3] = ["storport-rules", "virtio-requirements", "hostile-device"];

static REFERENCE: LazyLock<Vec<Page>> = LazyLock::new(|| {
    PAGES
        .map(|name| Page::read(&Path::new("docs/reference").join(name).with_extension("md")))
        .into_iter()
        .collect::<Result<_, _>>()
        .unwrap()
});

fn regex(pattern: &str) -> Regex {
    // Words can be separated by a line break in a comment or a string.
    Regex::new(&pattern.replace("GAP", r"(?:[\s\\]|//[/!]?)+")).unwrap()
}

/// Whether one of the pages has this row.
fn has(pages: &[Page], row: &str) -> bool {
    let anchor = row.to_lowercase().replace('/', "-");
    pages.iter().any(|page| page.anchors.contains(&anchor))
}

/// The faults of the citations in a file with this text.
fn citations(path: &Path, text: &str) -> Vec<String> {
    static NAMED: LazyLock<Regex> = LazyLock::new(|| {
        regex(
            r#"(?:^|[^/])\b(storport-rules|virtio-requirements|hostile-device)\.md(?:GAP([A-Z0-9][\w/]*(?:(?:,|GAPto)GAP[A-Z0-9][\w/]*)*)|([`#)\]"]))?"#,
        )
    });
    static SHORT: LazyLock<Regex> = LazyLock::new(|| regex(r"\b[VA]\d{1,2}\b"));
    // Tools find the rows that a test covers: a comment that begins with rows has one form.
    static HEAD: LazyLock<Regex> =
        LazyLock::new(|| regex(r"(?m)^ *///? (?:[VA]\d+, )*[VA]\d+(?:$|[^\d,.:]|,[^ ]|, [^VA])"));
    static PATH: LazyLock<Regex> =
        LazyLock::new(|| regex(r"(?:^|[^-\w/.])(docs/[\w/.-]*\.(?:md|svg))(?:#([\w-]+))?"));
    static VAGUE: LazyLock<Regex> = LazyLock::new(|| {
        regex(
            r"(?i)ruleGAPbook|\b(?:project's|our) (?:notes|lists?)\b|\battacks?[ _]\d+|\bfn v\d\d_|VIRTIOGAP1\.\d,GAP\d",
        )
    });

    let mut wrong = Vec::new();
    let mut complain = |at: Range<usize>, why: &str| {
        let line = text[..at.start].matches('\n').count() + 1;
        wrong.push(format!("{}:{line}: {}: {why}", path.display(), &text[at]));
    };
    for cited in NAMED.captures_iter(text) {
        let place = cited.get(1).unwrap();
        let page = PAGES
            .iter()
            .position(|name| *name == place.as_str())
            .unwrap();
        match (rows(&cited), cited.get(3)) {
            (None, None) => complain(place.range(), "name a row of the page, or its path"),
            (None, Some(_)) => {}
            (Some(rows), _) => {
                for row in rows {
                    if !has(&REFERENCE[page..=page], &text[row.clone()]) {
                        complain(row, "the page has no such row");
                    }
                }
            }
        }
    }
    for cited in SHORT.find_iter(text) {
        let before = text[..cited.start()]
            .rsplit('\n')
            .next()
            .unwrap_or_default();
        let is_prose = path.extension() == Some("md".as_ref());
        let cites = is_prose || before.contains("//") || before.ends_with('"');
        if cites && !has(&REFERENCE, cited.as_str()) {
            complain(cited.range(), "no page in docs/reference has this row");
        }
    }
    for cited in PATH.captures_iter(text) {
        let file = cited.get(1).unwrap();
        match (Page::read(Path::new(file.as_str())), cited.get(2)) {
            (Err(_), _) => complain(file.range(), "there is no such file"),
            (Ok(page), Some(anchor)) if !has(std::slice::from_ref(&page), anchor.as_str()) => {
                complain(anchor.range(), "the page has no such anchor");
            }
            _ => {}
        }
    }
    for head in HEAD.find_iter(text) {
        complain(head.range(), "begin a comment with rows as `V08, A31: …`");
    }
    for vague in VAGUE.find_iter(text) {
        complain(vague.range(), "cite a row, a page, or `VIRTIO 1.3 §2.7`");
    }
    wrong
}

/// The position of the cited rows, if there are any.
fn rows(cited: &Captures<'_>) -> Option<Vec<Range<usize>>> {
    static ROW: LazyLock<Regex> = LazyLock::new(|| regex(r"\b[A-Z0-9][\w/]*"));
    let rows = cited.get(2)?;
    let row = |row: regex::Match<'_>| rows.start() + row.start()..rows.start() + row.end();
    Some(ROW.find_iter(rows.as_str()).map(row).collect())
}

#[test]
fn every_citation_can_be_followed() {
    let files = page::files(&CITING).unwrap();
    let wrong: Vec<_> = files
        .iter()
        .filter(|path| !path.starts_with(SAMPLES))
        .flat_map(|path| {
            let text = fs::read_to_string(workspace::root().join(path)).unwrap();
            citations(path, &text)
        })
        .collect();

    assert!(files.len() > 100);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_citation_that_cannot_be_followed_is_found() {
    for text in [
        "// storport-rules.md L99",
        "// storport-rules.md L1, O99",
        "// storport-rules.md O1 to O99",
        "// (storport-rules.md\n// HwNothing)",
        "// storport-rules.md has no row",
        "// storport-rules.md V41",
        "/// V99.",
        "/// V39; the rest",
        "/// V35, over the wrap.",
        "\"V99: the index\"",
        "// A31, A49: twice",
        "// docs/no-such.md",
        "// docs/locking.md#no-such",
        "// Rule book 1.3, L1.",
        "// as the project's notes say",
        "/// Attack 31.",
        "fn attack_8_a_drain_ends() {}",
        "fn v41_an_index_is_announced() {}",
        "// VIRTIO 1.3, 2.7.13",
    ] {
        let found = citations(Path::new("src/sample.rs"), text);
        assert_eq!(found.len(), 1, "{text}: {found:?}");
    }
    for text in [
        "// storport-rules.md L1, O4 to O6. Then more",
        "// (storport-rules.md\n    /// HwStartIo; 0xF1/0x2004)",
        "//! storport-rules.md 0xF1/0x2004, STOR_SPINLOCK.",
        "// docs/reference/storport-rules.md, which has rows",
        "/// V08, A31: the halves",
        "\"M200,150 V48 H780 V148\"",
        "// docs/locking.md#taking-a-lock and docs/locking.svg",
        "// VIRTIO 1.3 §2.7.13",
    ] {
        assert_eq!(
            citations(Path::new("src/sample.rs"), text),
            [""; 0],
            "{text}"
        );
    }
}
