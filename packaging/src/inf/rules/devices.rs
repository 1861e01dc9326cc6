//! Rules for `[Manufacturer]` and the models: the devices, and the versions of Windows.

use std::iter::repeat;

use super::{
    In, Rule,
    Source::{Advice, Windows},
    at, each, missing, repeated,
};
use crate::inf::{
    Entry,
    install::{Installation, Place, is_root, number},
    stamp::placeholders,
};

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "stamped",
        claim: "No placeholder of an .inx file is left",
        source: Windows("InfVerif 1274"),
        faults: In::File(|inf, _| {
            let sections = inf.inf.sections.iter();
            sections
                .flat_map(placeholders)
                .map(|(line, name)| at(line, format!("{name} is not replaced: stamp the .inx")))
                .collect()
        }),
    },
    Rule {
        id: "manufacturer",
        claim: "[Manufacturer] names models sections",
        source: Windows("InfVerif 1011, 1297; INF Manufacturer section"),
        faults: In::File(|inf, _| {
            let entries = inf.entries("Manufacturer");
            let mut sections = inf.inf.sections.iter();
            if entries.is_empty() && !sections.any(|section| is_root(section, "DefaultInstall")) {
                return vec![missing("[Manufacturer] has no entry")];
            }
            each(entries, |entry| {
                let is_bare = inf.value(entry, 0).is_empty();
                is_bare.then(|| "the entry names no models section".into())
            })
        }),
    },
    Rule {
        id: "decoration",
        claim: "Models sections are decorated with an architecture",
        source: Windows("InfVerif 2010; INF Manufacturer section"),
        faults: In::Decorations(|_, text, decoration| {
            let bare = decoration.is_none_or(|d| d.architecture.is_empty());
            (text.is_empty() || decoration.is_some() && bare)
                .then(|| "without NTamd64 or NTarm64, the models are for 32-bit Windows".into())
        }),
    },
    Rule {
        id: "decoration-form",
        claim: "The decorations of models sections are valid",
        source: Windows("InfVerif 1287; INF Manufacturer section"),
        faults: In::Decorations(|_, text, decoration| {
            (!text.is_empty() && decoration.is_none()).then(|| {
                format!("{text:?} is not of the form NTarchitecture.major.minor.type.suite.build")
            })
        }),
    },
    Rule {
        id: "decoration-build",
        claim: "Builds in decorations are those of Windows 10 1607 (14310) or later",
        source: Windows("InfVerif 1288; INF Manufacturer section"),
        faults: In::Decorations(|_, text, decoration| {
            decoration
                .is_some_and(Decoration::build_is_too_early)
                .then(|| format!("{text}: decorations can have builds from 10.0...14310"))
        }),
    },
    Rule {
        id: "decoration-product",
        claim: "The models are for every edition of Windows",
        source: Advice("Using a Universal INF File"),
        faults: In::Decorations(|_, text, decoration| {
            let narrow = |d: &Decoration| !d.product.is_empty() || !d.suite.is_empty();
            decoration
                .is_some_and(narrow)
                .then(|| format!("{text} requires a product type or a suite"))
        }),
    },
    Rule {
        id: "decoration-driver-store",
        claim: "Files in the driver store (DIRID 13) are for Windows 10 1709 or later",
        source: Advice("InfVerif 1199; Run From Driver Store"),
        faults: In::Decorations(|inf, text, decoration| {
            let directories = inf.entries("DestinationDirs").into_iter();
            let store = directories.into_iter().any(|e| inf.value(e, 0) == "13");
            let early = |d: &Decoration| {
                !d.architecture.is_empty() && !d.build_is_too_early() && !d.at_least(16299)
            };
            (store && decoration.is_some_and(early))
                .then(|| format!("{text} allows Windows before 10.0...16299"))
        }),
    },
    Rule {
        id: "architecture",
        claim: "There are models for the requested architecture",
        source: Windows("INF Manufacturer section"),
        faults: In::File(|inf, _| {
            let asked = inf.architecture.decoration();
            let mut decorations = inf.models.iter().map(|models| parse(&models.decoration));
            let found = decorations
                .any(|d| d.is_some_and(|d| d.architecture.is_empty() || d.architecture == asked));
            if found || inf.models.is_empty() {
                return Vec::new();
            }
            vec![missing(format!("no models are decorated with NT{asked}"))]
        }),
    },
    Rule {
        id: "model-install",
        claim: "Each model names its install section",
        source: Windows("InfVerif 1271; INF Models section"),
        faults: In::Models(|inf, entry| {
            let is_bare = inf.value(entry, 0).is_empty();
            is_bare.then(|| "the entry names no install section".into())
        }),
    },
    Rule {
        id: "feature-score",
        claim: "A driver's feature score is one byte",
        source: Windows("InfVerif 1245; INF FeatureScore directive"),
        faults: In::File(|inf, _| {
            each(inf.entries_for(Place::Install), |entry| {
                let score = inf.value(entry, 0);
                let digits = score.strip_prefix("0x").unwrap_or(&score);
                let is_score = entry.key.is_some() && entry.is("FeatureScore");
                (is_score && u8::from_str_radix(digits, 16).is_err())
                    .then(|| format!("{score:?} is not from 00 to FF"))
            })
        }),
    },
    Rule {
        id: "device-id",
        claim: "Each model has a hardware id",
        source: Windows("InfVerif 1297; INF Models section"),
        faults: In::Models(|inf, entry| {
            let has_none = inf.after_first(entry).is_empty();
            has_none.then(|| "the entry has no hardware id".into())
        }),
    },
    Rule {
        id: "device-id-form",
        claim: "Hardware ids are written as their bus reports them",
        source: Windows("Identifiers for PCI devices; Device identification strings"),
        faults: In::File(|inf, _| {
            let models = inf.entries_for(Place::Models);
            let ids =
                models.flat_map(|entry| inf.after_first(entry).into_iter().zip(repeat(entry.line)));
            ids.filter_map(|(id, line)| Some(at(line, format!("{id}: {}", misspelt(&id)?))))
                .collect()
        }),
    },
    Rule {
        id: "device-once",
        claim: "No two models of a section have the same ids",
        source: Windows("InfVerif 1294"),
        faults: In::File(|inf, _| {
            let sections = inf.sections_for(Place::Models);
            let faults = sections.map(|section| {
                let same_ids = |entry: &Entry| {
                    let ids = inf.after_first(entry).into_iter();
                    ids.map(|id| id.to_ascii_lowercase()).collect::<Vec<_>>()
                };
                repeated(&section.entries, same_ids, |entry, first| {
                    let has_ids = !inf.after_first(entry).is_empty();
                    has_ids.then(|| format!("the id is on line {}, too", first.line))
                })
            });
            faults.flatten().collect()
        }),
    },
];

/// What a decoration asks of Windows.
pub(super) struct Decoration {
    /// In small letters; may be empty.
    architecture: String,
    /// Major and minor.
    version: (u64, u64),
    product: String,
    suite: String,
    build: Option<u64>,
}

impl Decoration {
    fn build_is_too_early(&self) -> bool {
        let early = |build| self.version < (10, 0) || (self.version == (10, 0) && build < 14310);
        self.build.is_some_and(early)
    }

    /// Whether only builds of Windows 10 from `build` on are meant.
    fn at_least(&self, build: u64) -> bool {
        self.version > (10, 0)
            || (self.version == (10, 0) && self.build.is_some_and(|own| own >= build))
    }
}

/// `NT[architecture][.major[.minor[.product[.suite[.build]]]]]`
pub(super) fn parse(text: &str) -> Option<Decoration> {
    let text = text.to_ascii_lowercase();
    let mut parts = text.strip_prefix("nt")?.split('.');
    let architecture = parts.next()?.to_owned();
    if !["", "x86", "ia64", "amd64", "arm", "arm64"].contains(&&*architecture) {
        return None;
    }
    let parts: Vec<&str> = parts.collect();
    let numbers = parts
        .iter()
        .all(|part| part.is_empty() || number(part).is_some());
    if parts.len() > 5 || !numbers {
        return None;
    }
    let part = |index: usize| parts.get(index).copied().unwrap_or_default();
    Some(Decoration {
        architecture,
        version: (number(part(0)).unwrap_or(0), number(part(1)).unwrap_or(0)),
        product: part(2).to_owned(),
        suite: part(3).to_owned(),
        build: number(part(4)),
    })
}

/// The earliest build of Windows 10 that a decoration for the architecture
/// lets the file be installed on; none if it is not said.
pub(in crate::inf) fn earliest_build(inf: &Installation<'_>) -> Option<u64> {
    let asked = inf.architecture.decoration();
    let decorations = inf
        .models
        .iter()
        .filter_map(|models| parse(&models.decoration));
    let own = decorations.filter(|d| d.architecture == asked && d.version == (10, 0));
    own.filter_map(|d| d.build).min()
}

/// What is wrong with an id.
fn misspelt(id: &str) -> Option<&'static str> {
    if id.contains(|c: char| c.is_whitespace() || c.is_control() || c == ',') {
        return Some("an id has no spaces");
    }
    // Longer than any id that Windows takes (MAX_DEVICE_ID_LEN).
    if id.len() > 200 {
        return Some("an id has at most 200 characters");
    }
    let (bus, device) = id.split_once('\\')?;
    if !bus.eq_ignore_ascii_case("PCI") {
        return None;
    }
    let hex = |text: &str, digits: &[usize]| {
        digits.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
    };
    let fields: Option<Vec<(&str, &str)>> = device.split('&').map(|f| f.split_once('_')).collect();
    let upper = |name: &str| name.to_ascii_uppercase();
    let Some(fields) = fields else {
        return Some("its parts are NAME_digits, separated by &");
    };
    let names: Vec<String> = fields.iter().map(|(name, _)| upper(name)).collect();
    let known = [
        "VEN DEV SUBSYS REV",
        "VEN DEV SUBSYS",
        "VEN DEV REV",
        "VEN DEV",
        "VEN DEV CC",
        "VEN CC",
        "VEN",
        "CC DT",
        "CC",
    ];
    if !known.contains(&&*names.join(" ")) {
        return Some("PCI reports VEN, DEV, SUBSYS and REV, or CC, in this order");
    }
    let digits = fields.iter().all(|(name, value)| match &*upper(name) {
        "VEN" | "DEV" => hex(value, &[4]),
        "SUBSYS" => hex(value, &[8]),
        "REV" => hex(value, &[2]),
        "CC" => hex(value, &[4, 6]),
        _ => hex(value, &[1, 4]),
    });
    (!digits).then_some("VEN and DEV have four digits, SUBSYS eight, REV two")
}
