//! Tests that a reader of the repository can open every cited source: rows of the
//! pages in docs/reference, and pages and anchors in docs.

use std::{fs, path::Path, sync::LazyLock};

use regex::Regex;

use super::page::{self, Page};
use crate::workspace;

/// Extensions of files with citations.
const CITING: [&str; 7] = ["rs", "md", "toml", "ps1", "psm1", "inx", "yml"];

/// The samples in this folder are wrong on purpose.
const SAMPLES: &str = "xtask/src/docs";

/// The pages whose rows are cited by page and row, or by row alone.
const PAGES: [&str; 3] = ["storport-rules", "virtio-requirements", "hostile-device"];

static ALL: LazyLock<Vec<Page>> = LazyLock::new(|| page::all().unwrap());

/// Whether the page at this path has this row or anchor.
fn has(path: &str, row: &str) -> bool {
    let anchor = row.to_lowercase().replace('/', "-");
    let mut pages = ALL.iter().filter(|page| page.path == Path::new(path));
    pages.any(|page| page.anchors.contains(&anchor))
}

fn is_row(page: &str, row: &str) -> bool {
    has(&format!("docs/reference/{page}.md"), row)
}

/// The faults of the citations in a file with this text.
fn citations(path: &Path, text: &str) -> Vec<String> {
    static NAMED: LazyLock<Regex> = LazyLock::new(|| {
        // Words can be separated by a line break in a comment or a string.
        let gap = r"(?:[\s\\]|//[/!]?)+";
        let row = r"[A-Z0-9][\w/]*";
        let rows = format!("{row}(?:(?:,|{gap}to){gap}{row})*");
        Regex::new(&format!(
            r"(?:^|[^/])\b({})\.md{gap}({rows})",
            PAGES.join("|")
        ))
        .unwrap()
    });
    static ROW: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\b[A-Z0-9][\w/]*").unwrap());
    static SHORT: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\b[VA]\d{1,2}\b").unwrap());
    static PATH: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"(?:^|[^-\w/.])(docs/[\w/.-]*\.(?:md|svg))(?:#([\w-]+))?").unwrap()
    });

    let mut wrong = Vec::new();
    let mut complain = |at: usize, cited: &str, why: &str| {
        let line = text[..at].matches('\n').count() + 1;
        wrong.push(format!("{}:{line}: {cited}: {why}", path.display()));
    };
    for cited in NAMED.captures_iter(text) {
        for row in ROW
            .find_iter(&cited[2])
            .filter(|row| !is_row(&cited[1], row.as_str()))
        {
            complain(
                cited.get(2).unwrap().start(),
                row.as_str(),
                "the page has no such row",
            );
        }
    }
    for cited in SHORT.find_iter(text) {
        let before = text[..cited.start()]
            .rsplit('\n')
            .next()
            .unwrap_or_default();
        let is_prose = path.extension() == Some("md".as_ref());
        let cites = is_prose || before.contains("//") || before.ends_with('"');
        if cites && !PAGES.iter().any(|page| is_row(page, cited.as_str())) {
            complain(
                cited.start(),
                cited.as_str(),
                "no page in docs/reference has this row",
            );
        }
    }
    for cited in PATH.captures_iter(text) {
        let at = cited.get(1).unwrap().start();
        if !workspace::root().join(&cited[1]).is_file() {
            complain(at, &cited[1], "there is no such file");
        } else if let Some(anchor) = cited.get(2).filter(|it| !has(&cited[1], it.as_str())) {
            complain(at, anchor.as_str(), "the page has no such anchor");
        }
    }
    wrong
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
    for (faults, text) in [
        (1, "// storport-rules.md L99"),
        (1, "// storport-rules.md L1, O99"),
        (1, "// storport-rules.md O1 to O99"),
        (1, "// (storport-rules.md\n// HwNothing)"),
        (1, "// storport-rules.md V41"),
        (1, "/// V99."),
        (1, "\"V99: the index\""),
        (1, "// A31, A49: twice"),
        (1, "// docs/no-such.md"),
        (1, "// docs/locking.md#no-such"),
        (0, "// storport-rules.md L1, O4 to O6. Then more"),
        (0, "// (storport-rules.md\n    /// HwStartIo; 0xF1/0x2004)"),
        (0, "//! storport-rules.md 0xF1/0x2004, STOR_SPINLOCK."),
        (0, "// docs/reference/storport-rules.md, which has rows"),
        (0, "/// V08, A31: the halves"),
        (0, "\"M200,150 V48 H780 V148\""),
        (0, "// docs/locking.md#taking-a-lock and docs/locking.svg"),
    ] {
        let found = citations(Path::new("src/sample.rs"), text);
        assert_eq!(found.len(), faults, "{text}: {found:?}");
    }
}
