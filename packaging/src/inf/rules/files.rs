//! Rules for the files that are copied: their sources and destinations.

use super::{
    In, Rule,
    Source::{Advice, Windows},
    each,
};
use crate::inf::{
    Entry,
    install::{Copied, Installation, number},
};

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "disk-number",
        claim: "Each source disk has a number",
        source: Windows("InfVerif 1008; INF SourceDisksNames section"),
        faults: In::File(|inf, _| {
            each(inf.decorated("SourceDisksNames"), |disk| {
                let disk = name(disk);
                let is_none = number(disk).is_none();
                is_none.then(|| format!("{disk:?} is not a number"))
            })
        }),
    },
    Rule {
        id: "file-disk",
        claim: "Each source file is on a source disk",
        source: Windows("InfVerif 1008, 1273; INF SourceDisksFiles section"),
        faults: In::File(|inf, _| {
            let disks = inf.decorated("SourceDisksNames");
            each(sources(inf), |entry| {
                let disk = inf.value(entry, 0);
                let is_known = disks.iter().any(|known| name(known) == disk);
                (!is_known).then(|| format!("[SourceDisksNames] has no disk {disk:?}"))
            })
        }),
    },
    Rule {
        id: "file-listed",
        claim: "Each copied file is in [SourceDisksFiles]",
        source: Windows("InfVerif 1230"),
        faults: In::Copies(|inf, copy| {
            let is_missing = source(inf, copy).is_none();
            is_missing.then(|| format!("{:?} is missing there", copy.source))
        }),
    },
    Rule {
        id: "file-name",
        claim: "Each line of a file list names a file",
        source: Windows("InfVerif 1229; INF CopyFiles directive"),
        faults: In::Copies(|_, copy| {
            let is_nameless = copy.destination.is_empty();
            is_nameless.then(|| "the file name must come first".into())
        }),
    },
    Rule {
        id: "file-compressed",
        claim: "Files are listed by their own names, not by names of compressed files",
        source: Windows("InfVerif 1231"),
        faults: In::Sources(|_, entry| {
            let is_compressed = name(entry).ends_with('_');
            is_compressed.then(|| format!("{} is compressed", name(entry)))
        }),
    },
    Rule {
        id: "file-copied",
        claim: "Each file in [SourceDisksFiles] is copied",
        source: Advice("this project: a file of the package that nothing installs is a mistake"),
        faults: In::File(|inf, _| {
            let copied = |name: &str| {
                let mut copies = inf.copies.iter();
                copies.any(|copy| copy.source.eq_ignore_ascii_case(name))
            };
            each(sources(inf), |entry| {
                let name = name(entry);
                (!copied(name) && !is_catalog(name) && !name.ends_with('_'))
                    .then(|| format!("no CopyFiles list has {name:?}"))
            })
        }),
    },
    Rule {
        id: "catalog-apart",
        claim: "No CopyFiles list has the catalog",
        source: Windows("InfVerif 1213"),
        faults: In::Sources(|_, entry| {
            let is_catalog = is_catalog(name(entry));
            is_catalog.then(|| "Windows finds the catalog by CatalogFile".into())
        }),
    },
    Rule {
        id: "destination",
        claim: "Each copied file has a destination directory",
        source: Windows("InfVerif 1275; INF DestinationDirs section"),
        faults: In::Copies(|inf, copy| {
            let list = copy.list.as_deref();
            let is_missing = inf.destination(list).is_none();
            let name = list.unwrap_or("DefaultDestDir");
            is_missing.then(|| format!("[DestinationDirs] has no {name}"))
        }),
    },
    Rule {
        id: "destination-list",
        claim: "[DestinationDirs] has only file lists that are copied",
        source: Advice("this project: if a list is misspelt, its files go elsewhere"),
        faults: In::Destinations(|inf, entry| {
            let mut copies = inf.copies.iter();
            let is_copied = copies.any(|copy| copy.list.as_deref().is_some_and(|l| entry.is(l)));
            let mut references = inf.references.iter();
            let is_deleted =
                references.any(|one| one.directive == "DelFiles" && entry.is(&one.section));
            (!entry.is("DefaultDestDir") && !is_copied && !is_deleted)
                .then(|| format!("no CopyFiles names {}", name(entry)))
        }),
    },
    Rule {
        id: "destination-number",
        claim: "Directories are given by number (DIRID)",
        source: Windows("InfVerif 1243; using-dirids"),
        faults: In::Destinations(|inf, entry| {
            let number = inf.value(entry, 0);
            let is_number = number.parse::<i64>().is_ok();
            (!is_number).then(|| format!("{number:?} is not a number"))
        }),
    },
    Rule {
        id: "destination-driver-store",
        claim: "Files stay in the driver store (DIRID 13)",
        source: Advice("InfVerif 1322; Driver package isolation"),
        faults: In::Destinations(|inf, entry| {
            let number = inf.value(entry, 0);
            let is_elsewhere = number.parse::<i64>().is_ok_and(|dirid| dirid != 13);
            is_elsewhere.then(|| format!("DIRID {number} is elsewhere"))
        }),
    },
    Rule {
        id: "destination-path",
        claim: "Files in the driver store keep their names and folders",
        source: Windows("InfVerif 1100; Run From Driver Store"),
        faults: In::Copies(|inf, copy| {
            let place = inf.destination(copy.list.as_deref())?;
            if place.number != "13" || copy.destination.is_empty() {
                return None;
            }
            if !copy.source.eq_ignore_ascii_case(&copy.destination) {
                return Some(format!(
                    "{} is renamed to {}",
                    copy.source, copy.destination
                ));
            }
            let bare = |path: &str| path.trim_matches('\\').to_ascii_lowercase();
            let folder = inf.value(source(inf, copy)?, 1);
            (bare(&folder) != bare(&place.subdirectory))
                .then(|| format!("{} changes its folder", copy.source))
        }),
    },
    Rule {
        id: "copy-flags",
        claim: "Copy flags are known",
        source: Windows("InfVerif 1083; INF CopyFiles directive"),
        faults: In::File(|inf, _| {
            let known = |text: &str| number(text).is_some_and(|flags| flags & !COPY_FLAGS == 0);
            each(&inf.copies, |copy| {
                (!copy.flags.is_empty() && !known(&copy.flags))
                    .then(|| format!("{:?} is not a known set of flags", copy.flags))
            })
        }),
    },
    Rule {
        id: "copy-security",
        claim: "Files in the driver store have no security section",
        source: Windows("InfVerif 1101"),
        faults: In::File(|inf, _| {
            let lists = inf.copies.iter().filter_map(|copy| copy.list.as_deref());
            let sections = lists.flat_map(|list| inf.named(&format!("{list}.security")));
            each(sections, |_| Some("security cannot be set there".into()))
        }),
    },
];

/// The COPYFLG_* bits, and 0x100, which is not documented but in samples of
/// Microsoft's.
const COPY_FLAGS: u64 = 0x7d7f;

fn is_catalog(name: &str) -> bool {
    name.to_ascii_lowercase().ends_with(".cat")
}

/// The source files' entries.
pub(super) fn sources<'a>(inf: &Installation<'a>) -> impl Iterator<Item = &'a Entry> + use<'a> {
    inf.decorated("SourceDisksFiles").into_iter()
}

/// What stands before the equals sign.
fn name(entry: &Entry) -> &str {
    entry.key.as_deref().unwrap_or_default()
}

/// The entry of the file that is copied.
fn source<'a>(inf: &Installation<'a>, copy: &Copied) -> Option<&'a Entry> {
    sources(inf).find(|entry| name(entry).eq_ignore_ascii_case(&copy.source))
}

/// The lines of `[DestinationDirs]`.
pub(super) fn directories<'a>(inf: &Installation<'a>) -> impl Iterator<Item = &'a Entry> + use<'a> {
    let entries = inf.entries("DestinationDirs").into_iter();
    entries.filter(|entry| entry.key.is_some())
}
