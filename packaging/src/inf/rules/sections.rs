//! Rules for sections, directives and strings: each one that is named exists, and each one that
//! exists is named.

use super::{
    Fault, In, Rule,
    Source::{Advice, Windows},
    already, at,
    devices::earliest_build,
    each, repeated,
};
use crate::inf::{
    Entry, Section,
    install::{Installation, Place, Reference, is_legacy, names_sections, tokens},
};

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "preface",
        claim: "Only comments precede the first section",
        source: Advice("General Syntax Rules for INF Files"),
        faults: In::File(|inf, _| {
            let line = inf.inf.preface.into_iter();
            line.map(|line| at(line, "this is not a comment: start it with a semicolon"))
                .collect()
        }),
    },
    Rule {
        id: "sections-defined",
        claim: "Each named section exists",
        source: Windows("InfVerif 1203, 1261, 2006"),
        faults: In::File(|inf, _| {
            each(&inf.references, |reference| {
                let (by, name) = (&reference.directive, &reference.section);
                let is_missing = inf.named(name).is_empty();
                is_missing.then(|| format!("{by} names [{name}], which does not exist"))
            })
        }),
    },
    Rule {
        id: "sections-used",
        claim: "Each section is used",
        source: Advice("InfVerif 2083"),
        faults: In::Sections(|inf, section| {
            (!is_used(inf, section)).then(|| format!("nothing uses [{}]", section.name))
        }),
    },
    Rule {
        id: "sections-once",
        claim: "No section is defined twice",
        source: Windows("InfVerif 1209; General Syntax Rules for INF Files"),
        faults: In::File(|inf, _| {
            let key = |section: &Section| section.name.to_ascii_lowercase();
            repeated(&inf.inf.sections, key, |second, first| {
                already(&format!("[{}]", second.name), first)
            })
        }),
    },
    Rule {
        id: "sections-one-use",
        claim: "No section is used for two purposes",
        source: Windows("InfVerif 1205, 1206"),
        faults: In::File(|inf, _| {
            let key = |reference: &Reference| reference.section.to_ascii_lowercase();
            repeated(&inf.references, key, |second, first| {
                let mut pair = [&*first.directive, &*second.directive];
                pair.sort_unstable();
                let undoes = pair == ["CopyFiles", "DelFiles"] || pair == ["AddReg", "DelReg"];
                let is_same = pair[0] == pair[1] && second.place == first.place;
                (!undoes && !is_same).then(|| {
                    format!(
                        "{} names [{}], which {} also names on line {}",
                        second.directive, second.section, first.directive, first.line
                    )
                })
            })
        }),
    },
    Rule {
        id: "sections-legacy",
        claim: "There is no section for installation code (co-installers) or for old hardware",
        source: Advice("InfVerif 1285, 1300, 1303, 1307; Using a Universal INF File"),
        faults: In::Sections(|_, section| {
            let name = section.name.to_ascii_lowercase();
            let is_legacy = name.starts_with("classinstall32")
                || LEGACY_SECTIONS.iter().any(|suffix| name.ends_with(suffix));
            is_legacy.then(|| format!("[{}] is one", section.name))
        }),
    },
    Rule {
        id: "sections-purpose",
        claim: "The file installs only devices",
        source: Windows("InfVerif 1212; INF DefaultInstall section"),
        faults: In::Sections(|inf, section| {
            let name = section.name.to_ascii_lowercase();
            (name.starts_with("defaultinstall") && !inf.named("Manufacturer").is_empty())
                .then(|| format!("[{}] does not belong to a device", section.name))
        }),
    },
    Rule {
        id: "directives-known",
        claim: "Each directive is allowed in its section",
        source: Windows(
            "InfVerif 1290, 2402; INF DDInstall section, INF DDInstall.HW section, \
                 INF DDInstall.Services section, INF AddService directive",
        ),
        faults: In::Entries(|inf, place, section, entry| {
            // The installers of other classes have directives of their own.
            let is_known = place == Place::Install && !inf.is_storage()
                || is_one(entry, directives(place)?)
                || is_legacy(entry);
            (!is_known).then(|| format!("[{}] does not allow {}", section.name, entry.word()))
        }),
    },
    Rule {
        id: "directives-section",
        claim: "Each directive that needs a section names one",
        source: Windows("InfVerif 1005"),
        faults: In::Entries(|inf, place, _, entry| {
            let named = (0..entry.values.len()).any(|i| !inf.value(entry, i).is_empty());
            let is_bare = names_sections(entry) && (entry.key.is_none() || !named);
            (directives(place).is_some() && is_bare)
                .then(|| format!("{} names no section", entry.word()))
        }),
    },
    Rule {
        id: "directives-build",
        claim: "Each directive is known to all supported versions of Windows",
        source: Windows("InfVerif 1199; INF AddService directive"),
        faults: In::File(|inf, _| {
            let Some(earliest) = earliest_build(inf) else {
                return Vec::new();
            };
            each(inf.entries_for(Place::Service), |entry| {
                let (name, build) = BUILDS.iter().find(|(name, _)| entry.is(name))?;
                (earliest < *build).then(|| {
                    format!(
                        "{name} needs build {build}, but the file supports builds from {earliest}"
                    )
                })
            })
        }),
    },
    Rule {
        id: "directives-once",
        claim: "No directive is repeated if only one is used",
        source: Windows("InfVerif 1088"),
        faults: In::File(|inf, _| {
            let sections = inf.sections_for(Place::Service);
            std::iter::once(inf.entries("Version"))
                .chain(sections.map(|section| section.entries.iter().collect()))
                .flat_map(|mut entries| {
                    entries.retain(|entry| !entry.is("AddReg") && !entry.is("AddTrigger"));
                    repeated_words(entries)
                })
                .collect()
        }),
    },
    Rule {
        id: "directives-legacy",
        claim: "No old directive undoes, renames or registers something",
        source: Advice("InfVerif 1301, 1302, 1308, 1309; Using a Universal INF File"),
        faults: In::Entries(|_, place, _, entry| {
            // To undo is what [DefaultUninstall] is for.
            let is_allowed = matches!(
                place,
                Place::Models
                    | Place::Files
                    | Place::Registry
                    | Place::Uninstall
                    | Place::UninstallServices
            );
            (!is_allowed && is_legacy(entry)).then(|| format!("{} is obsolete", entry.word()))
        }),
    },
    Rule {
        id: "needs-include",
        claim: "A section with Needs has an Include for the other file",
        source: Windows("InfVerif 1319, 2651"),
        faults: In::Entries(|inf, _, section, entry| {
            let is_included = section.entries.iter().any(|entry| entry.is("Include"));
            let is_local = |index| !inf.named(&inf.value(entry, index)).is_empty();
            (!is_included && entry.is("Needs") && !(0..entry.values.len()).all(is_local))
                .then(|| "the section has no Include".into())
        }),
    },
    Rule {
        id: "strings-defined",
        claim: "Each used string is in [Strings]",
        source: Windows("InfVerif 1235; INF Strings Section"),
        faults: In::File(|inf, _| {
            used_strings(inf)
                .into_iter()
                // A number is that of a directory.
                .filter(|(_, name)| !inf.has_string(name) && name.parse::<i64>().is_err())
                .map(|(line, name)| {
                    at(
                        line,
                        format!(
                            "%{name}% is not defined in [Strings]; for a percent sign, write %%"
                        ),
                    )
                })
                .collect()
        }),
    },
    Rule {
        id: "strings-used",
        claim: "Each string in [Strings] is used",
        source: Advice("this project: a string that nothing uses is a mistake or waste"),
        faults: In::File(|inf, _| {
            let used = used_strings(inf);
            each(inf.entries("Strings"), |entry| {
                let is_used = used.iter().any(|(_, name)| entry.is(name));
                (!is_used).then(|| format!("nothing uses {}", entry.word()))
            })
        }),
    },
    Rule {
        id: "strings-once",
        claim: "No string is defined twice",
        source: Windows("InfVerif 1294; INF Strings Section"),
        faults: In::File(|inf, _| {
            let sections = languages(inf);
            let faults = sections.map(|section| repeated_words(&section.entries));
            faults.flatten().collect()
        }),
    },
    Rule {
        id: "strings-languages",
        claim: "Each language has all strings",
        source: Windows("InfVerif 1295; INF Strings Section"),
        faults: In::File(|inf, _| {
            let strings = inf.entries("Strings");
            let mut faults = Vec::new();
            for section in languages(inf) {
                for string in &strings {
                    let name = string.word();
                    if !section.entries.iter().any(|entry| entry.is(name)) {
                        faults.push(at(
                            section.line,
                            format!("[{}] has no {name}", section.name),
                        ));
                    }
                }
            }
            faults
        }),
    },
    Rule {
        id: "lengths",
        claim: "Section names have at most 255 characters, and fields at most 4095",
        source: Windows("General Syntax Rules for INF Files (INF Size Limits)"),
        faults: In::File(|inf, _| {
            let sections = &inf.inf.sections;
            let names = each(sections, |section| {
                let is_long = section.name.chars().count() > 255;
                is_long.then(|| "the section name is too long".into())
            });
            let entries = sections.iter().flat_map(|section| &section.entries);
            let fields = each(entries, |entry| {
                let is_long = |field: &str| inf.expand(field).chars().count() > 4095;
                let is_long = entry.fields().any(is_long);
                is_long.then(|| "a field, with its strings replaced, is too long".into())
            });
            [names, fields].concat()
        }),
    },
];

const LEGACY_SECTIONS: [&str; 3] = [".coinstallers", ".factdef", ".logconfigoverride"];

/// The builds of Windows that brought directives.
const BUILDS: [(&str, u64); 5] = [
    ("AddTrigger", 19041),
    ("BootFlags", 25398),
    ("DelayedAutoStart", 19041),
    ("FailureActions", 22621),
    ("ServiceSidType", 19041),
];

/// What a section may hold; none if that is not judged.
fn directives(place: Place) -> Option<&'static [&'static str]> {
    match place {
        Place::Install => Some(&[
            "AddPowerSetting",
            "AddProperty",
            "AddReg",
            "CopyFiles",
            "CopyINF",
            "DriverVer",
            "ExcludeID",
            "FeatureScore",
            "Include",
            "Needs",
            "OptionDesc",
            "Reboot",
        ]),
        Place::Uninstall => Some(&["Include", "LegacyUninstall", "Needs"]),
        Place::Hardware => Some(&["AddReg", "Include", "Needs"]),
        Place::Services => Some(&["AddService", "Include", "Needs"]),
        Place::UninstallServices => Some(&["Include", "LegacyUninstall", "Needs"]),
        Place::Service => Some(&[
            "AddReg",
            "AddTrigger",
            "BootFlags",
            "DelayedAutoStart",
            "Dependencies",
            "Description",
            "DisplayName",
            "ErrorControl",
            "FailureActions",
            "LoadOrderGroup",
            "RequiredPrivileges",
            "Security",
            "ServiceBinary",
            "ServiceSidType",
            "ServiceType",
            "StartName",
            "StartType",
        ]),
        Place::Events => Some(&["AddReg"]),
        Place::Models | Place::Files | Place::Registry | Place::Legacy | Place::Other => None,
    }
}

/// Whether the entry is one of these directives.
fn is_one(entry: &Entry, names: &[&str]) -> bool {
    names.iter().any(|name| entry.is(name))
}

/// The faults of directives or strings that are repeated.
fn repeated_words<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Vec<Fault> {
    let key = |entry: &Entry| entry.word().to_ascii_lowercase();
    repeated(entries, key, |second, first| already(second.word(), first))
}

/// Whether these are strings, of any language.
fn is_strings(section: &Section) -> bool {
    let name = section.name.to_ascii_lowercase();
    name == "strings" || name.starts_with("strings.")
}

/// The sections of strings.
fn languages<'a>(inf: &Installation<'a>) -> impl Iterator<Item = &'a Section> {
    let sections = inf.inf.sections.iter();
    sections.filter(|section| is_strings(section))
}

/// The strings that are used, and where.
fn used_strings<'a>(inf: &Installation<'a>) -> Vec<(usize, &'a str)> {
    let mut used = Vec::new();
    let sections = inf.inf.sections.iter();
    for section in sections.filter(|section| !is_strings(section)) {
        for entry in &section.entries {
            for field in entry.fields() {
                used.extend(tokens(field).into_iter().map(|name| (entry.line, name)));
            }
        }
    }
    used
}

/// Whether Windows comes to the section.
fn is_used(inf: &Installation<'_>, section: &Section) -> bool {
    const ROOTS: [&str; 12] = [
        "classinstall32",
        "controlflags",
        "defaultinstall",
        "defaultuninstall",
        "destinationdirs",
        "interfaceinstall32",
        "manufacturer",
        "signatureattributes",
        "sourcedisksfiles",
        "sourcedisksnames",
        "strings",
        "version",
    ];
    let name = section.name.to_ascii_lowercase();
    let reached = |name: &str| {
        let mut sections = inf.reached.iter();
        sections.any(|(_, section)| section.name.eq_ignore_ascii_case(name))
    };
    ROOTS
        .iter()
        .any(|root| name == *root || name.strip_prefix(root).is_some_and(|r| r.starts_with('.')))
        || reached(&name)
        || name.strip_suffix(".security").is_some_and(reached)
}
