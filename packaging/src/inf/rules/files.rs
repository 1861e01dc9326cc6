//! The files that are copied: from where, and where to.

use super::{
    Rule,
    Source::{Advice, Windows},
    at,
};
use crate::inf::{
    Entry,
    install::{Copied, Directory, Installation, number},
};

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "disk-number",
        claim: "Each source disk has a number",
        source: Windows("InfVerif 1008; INF SourceDisksNames section"),
        check: |inf, _| {
            disks(inf)
                .filter(|(_, disk)| number(disk).is_none())
                .map(|(line, disk)| at(line, format!("{disk:?} is not a number")))
                .collect()
        },
    },
    Rule {
        id: "file-disk",
        claim: "Each source file is on a source disk",
        source: Windows("InfVerif 1008, 1273; INF SourceDisksFiles section"),
        check: |inf, _| {
            sources(inf)
                .map(|entry| (entry.line, inf.value(entry, 0)))
                .filter(|(_, disk)| !disks(inf).any(|(_, known)| known == *disk))
                .map(|(line, disk)| at(line, format!("[SourceDisksNames] has no disk {disk:?}")))
                .collect()
        },
    },
    Rule {
        id: "file-listed",
        claim: "Each copied file is in [SourceDisksFiles]",
        source: Windows("InfVerif 1230"),
        check: |inf, _| {
            let copies = inf.copies.iter();
            copies
                .filter(|copy| source(inf, copy).is_none())
                .map(|copy| at(copy.line, format!("{:?} is missing there", copy.source)))
                .collect()
        },
    },
    Rule {
        id: "file-name",
        claim: "Each line of a file list names a file",
        source: Windows("InfVerif 1229; INF CopyFiles directive"),
        check: |inf, _| {
            let copies = inf.copies.iter();
            copies
                .filter(|copy| copy.destination.is_empty())
                .map(|copy| at(copy.line, "the file name must come first"))
                .collect()
        },
    },
    Rule {
        id: "file-compressed",
        claim: "Files are listed by their own names, not by names of compressed files",
        source: Windows("InfVerif 1231"),
        check: |inf, _| {
            sources(inf)
                .filter(|entry| name(entry).ends_with('_'))
                .map(|entry| at(entry.line, format!("{} is compressed", name(entry))))
                .collect()
        },
    },
    Rule {
        id: "file-copied",
        claim: "Each file in [SourceDisksFiles] is copied",
        source: Advice("this project: a file of the package that nothing installs is a mistake"),
        check: |inf, _| {
            let copied = |name: &str| {
                let mut copies = inf.copies.iter();
                copies.any(|copy| copy.source.eq_ignore_ascii_case(name))
            };
            sources(inf)
                .map(|entry| (entry.line, name(entry)))
                .filter(|(_, name)| !copied(name) && !is_catalog(name) && !name.ends_with('_'))
                .map(|(line, name)| at(line, format!("no CopyFiles list has {name:?}")))
                .collect()
        },
    },
    Rule {
        id: "catalog-apart",
        claim: "No CopyFiles list has the catalog",
        source: Windows("InfVerif 1213"),
        check: |inf, _| {
            sources(inf)
                .filter(|entry| is_catalog(name(entry)))
                .map(|entry| at(entry.line, "Windows finds the catalog by CatalogFile"))
                .collect()
        },
    },
    Rule {
        id: "destination",
        claim: "Each copied file has a destination directory",
        source: Windows("InfVerif 1275; INF DestinationDirs section"),
        check: |inf, _| {
            let copies = inf.copies.iter();
            copies
                .filter(|copy| inf.destination(copy.list.as_deref()).is_none())
                .map(|copy| {
                    let list = copy.list.as_deref().unwrap_or("DefaultDestDir");
                    at(copy.line, format!("[DestinationDirs] has no {list}"))
                })
                .collect()
        },
    },
    Rule {
        id: "destination-list",
        claim: "[DestinationDirs] has only file lists that are copied",
        source: Advice("this project: if a list is misspelt, its files go elsewhere"),
        check: |inf, _| {
            let entries = inf.entries("DestinationDirs").into_iter();
            let copied = |list: &str| {
                let mut copies = inf.copies.iter();
                copies.any(|copy| {
                    let own = copy.list.as_deref();
                    own.is_some_and(|own| own.eq_ignore_ascii_case(list))
                })
            };
            let deleted = |list: &str| {
                let mut references = inf.references.iter();
                references.any(|one| {
                    one.directive == "DelFiles" && one.section.eq_ignore_ascii_case(list)
                })
            };
            entries
                .filter(|entry| entry.key.is_some() && !entry.is("DefaultDestDir"))
                .filter(|entry| !copied(name(entry)) && !deleted(name(entry)))
                .map(|entry| at(entry.line, format!("no CopyFiles names {}", name(entry))))
                .collect()
        },
    },
    Rule {
        id: "destination-number",
        claim: "Directories are given by number (DIRID)",
        source: Windows("InfVerif 1243; using-dirids"),
        check: |inf, _| {
            directories(inf)
                .filter(|place| place.number.parse::<i64>().is_err())
                .map(|place| at(place.line, format!("{:?} is not a number", place.number)))
                .collect()
        },
    },
    Rule {
        id: "destination-driver-store",
        claim: "Files stay in the driver store (DIRID 13)",
        source: Advice("InfVerif 1322; Driver package isolation"),
        check: |inf, _| {
            directories(inf)
                .filter(|place| place.number.parse::<i64>().is_ok_and(|dirid| dirid != 13))
                .map(|place| at(place.line, format!("DIRID {} is elsewhere", place.number)))
                .collect()
        },
    },
    Rule {
        id: "destination-path",
        claim: "Files in the driver store keep their names and folders",
        source: Windows("InfVerif 1100; Run From Driver Store"),
        check: |inf, _| {
            let mut faults = Vec::new();
            for copy in &inf.copies {
                let Some(place) = inf.destination(copy.list.as_deref()) else {
                    continue;
                };
                if place.number != "13" || copy.destination.is_empty() {
                    continue;
                }
                let folder = source(inf, copy).map(|entry| inf.value(entry, 1));
                let moved = folder.is_some_and(|folder| {
                    let bare = |path: &str| path.trim_matches('\\').to_ascii_lowercase();
                    bare(&folder) != bare(&place.subdirectory)
                });
                if !copy.source.eq_ignore_ascii_case(&copy.destination) {
                    faults.push(at(
                        copy.line,
                        format!("{} is renamed to {}", copy.source, copy.destination),
                    ));
                } else if moved {
                    faults.push(at(copy.line, format!("{} changes its folder", copy.source)));
                }
            }
            faults
        },
    },
    Rule {
        id: "copy-flags",
        claim: "Copy flags are known",
        source: Windows("InfVerif 1083; INF CopyFiles directive"),
        check: |inf, _| {
            let known = |text: &str| number(text).is_some_and(|flags| flags & !COPY_FLAGS == 0);
            let copies = inf.copies.iter();
            copies
                .filter(|copy| !copy.flags.is_empty() && !known(&copy.flags))
                .map(|copy| {
                    at(
                        copy.line,
                        format!("{:?} is not a known set of flags", copy.flags),
                    )
                })
                .collect()
        },
    },
    Rule {
        id: "copy-security",
        claim: "Files in the driver store have no security section",
        source: Windows("InfVerif 1101"),
        check: |inf, _| {
            let lists = inf.copies.iter().filter_map(|copy| copy.list.as_deref());
            let sections = lists.flat_map(|list| inf.named(&format!("{list}.security")));
            let mut lines: Vec<_> = sections.map(|section| section.line).collect();
            lines.dedup();
            lines
                .into_iter()
                .map(|line| at(line, "security cannot be set there"))
                .collect()
        },
    },
];

/// The COPYFLG_* bits, and 0x100, which is not documented but in samples of
/// Microsoft's.
const COPY_FLAGS: u64 = 0x7d7f;

fn is_catalog(name: &str) -> bool {
    name.to_ascii_lowercase().ends_with(".cat")
}

/// The source disks' lines and numbers.
fn disks(inf: &Installation<'_>) -> impl Iterator<Item = (usize, String)> {
    let disks = inf.decorated("SourceDisksNames").into_iter();
    disks.map(|entry| (entry.line, name(entry).to_owned()))
}

/// The source files' entries.
fn sources<'a>(inf: &Installation<'a>) -> impl Iterator<Item = &'a Entry> + use<'a> {
    inf.decorated("SourceDisksFiles").into_iter()
}

/// What stands before the equals sign.
fn name(entry: &Entry) -> &str {
    entry.key.as_ref().map_or("", |key| &key.text)
}

/// The entry of the file that is copied.
fn source<'a>(inf: &Installation<'a>, copy: &Copied) -> Option<&'a Entry> {
    sources(inf).find(|entry| name(entry).eq_ignore_ascii_case(&copy.source))
}

/// The lines of `[DestinationDirs]`.
fn directories(inf: &Installation<'_>) -> impl Iterator<Item = Directory> {
    let entries = inf.entries("DestinationDirs").into_iter();
    entries
        .filter(|entry| entry.key.is_some())
        .map(|entry| inf.directory(entry))
}
