//! Parses a page of the documentation: links, anchors and code.

use std::{
    io,
    path::{Path, PathBuf},
};

use fs_err as fs;
use pulldown_cmark::{BrokenLink, CodeBlockKind, Event, LinkType, Options, Parser, Tag, TagEnd};

use crate::workspace;

/// A page of the documentation.
#[derive(Debug, Default)]
pub struct Page {
    /// Its path from the project's root.
    pub path: PathBuf,
    /// Anchors: headings, as GitHub names them, and `<a id="…">`.
    pub anchors: Vec<String>,
    /// Targets of links and pictures; for an undefined reference, its name in brackets.
    pub links: Vec<Found>,
    /// Inline code.
    pub codes: Vec<Found>,
    /// Code blocks.
    pub blocks: Vec<Block>,
    /// HTML, whose links are not checked.
    pub html: Vec<Found>,
}

/// A piece of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The line that it begins in.
    pub line: usize,
    /// Its text.
    pub text: String,
}

/// A fenced block of code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The line of its first fence.
    pub line: usize,
    /// The info string: the language, then the word that `xtask/src/docs.rs` describes.
    pub info: String,
    /// The text between the fences.
    pub text: String,
}

impl Block {
    /// The second word of the info string; empty if there is none.
    #[must_use]
    pub fn word(&self) -> &str {
        self.info.split_whitespace().nth(1).unwrap_or_default()
    }
}

impl Page {
    /// The page at `path`, from the project's root.
    pub fn read(path: &Path) -> io::Result<Self> {
        let text = fs::read_to_string(workspace::root().join(path))?;
        Ok(Self::parse(path, &text))
    }

    /// A page of this `text`.
    #[must_use]
    pub fn parse(path: &Path, text: &str) -> Self {
        let mut page = Self {
            path: path.to_owned(),
            ..Self::default()
        };
        let mut heading: Option<String> = None;
        let mut block: Option<Block> = None;
        let options = Options::ENABLE_TABLES | Options::ENABLE_FOOTNOTES;
        // The parser reports references that are not defined.
        let mut undefined = Vec::new();
        let mut note = |link: BrokenLink<'_>| {
            if matches!(link.link_type, LinkType::Reference | LinkType::Collapsed) {
                undefined.push(Found {
                    line: line_of(text, link.span.start),
                    text: format!("[{}]", link.reference),
                });
            }
            None
        };
        let parser = Parser::new_with_broken_link_callback(text, options, Some(&mut note));
        for (event, range) in parser.into_offset_iter() {
            let line = line_of(text, range.start);
            let found = |text: &str| Found {
                line,
                text: text.to_owned(),
            };
            match event {
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => {
                    if let Some(title) = heading.take() {
                        page.add_anchor(&title);
                    }
                }
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    page.links.push(found(&dest_url));
                }
                Event::Start(Tag::CodeBlock(kind)) => {
                    block = Some(Block {
                        line,
                        info: match kind {
                            CodeBlockKind::Fenced(info) => info.to_string(),
                            CodeBlockKind::Indented => String::new(),
                        },
                        text: String::new(),
                    });
                }
                Event::End(TagEnd::CodeBlock) => page.blocks.extend(block.take()),
                Event::Text(words) => {
                    if let Some(block) = &mut block {
                        block.text.push_str(&words);
                    } else if let Some(title) = &mut heading {
                        title.push_str(&words);
                    }
                }
                Event::Code(code) => {
                    if let Some(title) = &mut heading {
                        title.push_str(&code);
                    }
                    page.codes.push(found(&code));
                }
                Event::Html(html) | Event::InlineHtml(html) => {
                    let anchor = html
                        .strip_prefix("<a id=\"")
                        .and_then(|a| a.split('"').next());
                    page.anchors.extend(anchor.map(Into::into));
                    page.html.push(found(&html));
                }
                _ => {}
            }
        }
        page.links.extend(undefined);
        page
    }

    /// A location in this page, `path:line`.
    #[must_use]
    pub fn at(&self, line: usize) -> String {
        format!("{}:{line}", self.path.display())
    }

    /// Adds a heading's anchor: lower case, with hyphens for spaces, and only letters, digits,
    /// hyphens and underscores. A repeated anchor gets a number.
    fn add_anchor(&mut self, title: &str) {
        let plain: String = title
            .to_lowercase()
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        let mut anchor = plain.clone();
        for number in 1.. {
            if !self.anchors.contains(&anchor) {
                break;
            }
            anchor = format!("{plain}-{number}");
        }
        self.anchors.push(anchor);
    }
}

/// The line number of byte `at` of `text`.
fn line_of(text: &str, at: usize) -> usize {
    let before = text.get(..at).unwrap_or_default();
    before.matches('\n').count().saturating_add(1)
}

/// Every page of the project: its Markdown files, except in hidden and output folders.
pub fn all() -> io::Result<Vec<Page>> {
    files(&["md"])?
        .iter()
        .map(|path| Page::read(path))
        .collect()
}

/// The project's files with these extensions, except in hidden and output folders.
pub fn files(extensions: &[&str]) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    find(Path::new(""), extensions, &mut paths)?;
    paths.sort();
    Ok(paths)
}

fn find(folder: &Path, extensions: &[&str], paths: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(workspace::root().join(folder))? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let path = folder.join(&*name);
        if entry.file_type()?.is_dir() {
            let made = name.starts_with('.') || name == "target" || name == "dist";
            if !made {
                find(&path, extensions, paths)?;
            }
        } else if path
            .extension()
            .is_some_and(|found| extensions.iter().any(|of| found == *of))
        {
            paths.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headings_have_the_anchors_that_github_gives_them() {
        let page = Page::parse(
            Path::new("docs/a.md"),
            "# With libvirt\n## 0x7B (`INACCESSIBLE_BOOT_DEVICE`)\n# With libvirt\n# A, b & c-d\n",
        );

        assert_eq!(
            page.anchors,
            [
                "with-libvirt",
                "0x7b-inaccessible_boot_device",
                "with-libvirt-1",
                "a-b--c-d"
            ]
        );
    }

    #[test]
    fn links_pictures_code_and_html_are_found_in_their_lines() {
        let page = Page::parse(
            Path::new("docs/a.md"),
            "a [b](c.md#d)\n\n![e](f.svg) `g/h.rs`\n\n[i]\n\n[i]: j.md\n\n<img src=k>\n\n\
             ```sh run\ncargo x \\\n  -y\n```\n",
        );

        let of = |found: &[Found]| -> Vec<_> {
            found
                .iter()
                .map(|f| format!("{}: {}", f.line, f.text))
                .collect()
        };
        assert_eq!(of(&page.links), ["1: c.md#d", "3: f.svg", "5: j.md"]);
        assert_eq!(of(&page.codes), ["3: g/h.rs"]);
        assert_eq!(of(&page.html), ["9: <img src=k>\n"]);
        let [block] = &*page.blocks else {
            panic!("{:?}", page.blocks);
        };
        assert_eq!(
            (block.line, block.word(), &*block.text),
            (11, "run", "cargo x \\\n  -y\n")
        );
    }
}
