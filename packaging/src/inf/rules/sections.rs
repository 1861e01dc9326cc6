//! Sections, directives and strings: that each is there that is named, and
//! each named that is there.

use super::{
    Fault, Rule,
    Source::{Advice, Windows},
    at,
    devices::earliest_build,
    repeated,
};
use crate::inf::{
    Entry, Section,
    install::{Installation, Place, names_sections, tokens},
};

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "preface",
        claim: "Only comments precede the first section",
        source: Advice("General Syntax Rules for INF Files"),
        check: |inf, _| {
            let line = inf.inf.preface().into_iter();
            line.map(|line| at(line, "this is not a comment: start it with a semicolon"))
                .collect()
        },
    },
    Rule {
        id: "sections-defined",
        claim: "Each named section exists",
        source: Windows("InfVerif 1203, 1261, 2006"),
        check: |inf, _| {
            let references = inf.references.iter();
            references
                .filter(|reference| inf.named(&reference.section).is_empty())
                .map(|reference| {
                    let text = format!(
                        "{} names [{}], which does not exist",
                        reference.directive, reference.section
                    );
                    at(reference.line, text)
                })
                .collect()
        },
    },
    Rule {
        id: "sections-used",
        claim: "Each section is used",
        source: Advice("InfVerif 2083"),
        check: |inf, _| {
            let sections = inf.inf.sections().iter();
            sections
                .filter(|section| !is_used(inf, section))
                .map(|section| at(section.line, format!("nothing uses [{}]", section.name)))
                .collect()
        },
    },
    Rule {
        id: "sections-once",
        claim: "No section is defined twice",
        source: Windows("InfVerif 1209; General Syntax Rules for INF Files"),
        check: |inf, _| {
            let sections: Vec<&Section> = inf.inf.sections().iter().collect();
            let twice = repeated(&sections, |section| section.name.to_ascii_lowercase());
            twice
                .into_iter()
                .map(|(second, first)| {
                    let text = format!("[{}] is already on line {}", second.name, first.line);
                    at(second.line, text)
                })
                .collect()
        },
    },
    Rule {
        id: "sections-one-use",
        claim: "No section is used for two purposes",
        source: Windows("InfVerif 1205, 1206"),
        check: |inf, _| {
            let references: Vec<_> = inf.references.iter().collect();
            let again = repeated(&references, |reference| {
                reference.section.to_ascii_lowercase()
            });
            again
                .into_iter()
                .filter(|(second, first)| {
                    let pair = [&*first.directive, &*second.directive];
                    let undoes = [["CopyFiles", "DelFiles"], ["AddReg", "DelReg"]]
                        .iter()
                        .any(|[does, undoes]| pair == [*does, *undoes] || pair == [*undoes, *does]);
                    !undoes && (pair[0] != pair[1] || second.place != first.place)
                })
                .map(|(second, first)| {
                    let text = format!(
                        "{} names [{}], which {} also names on line {}",
                        second.directive, second.section, first.directive, first.line
                    );
                    at(second.line, text)
                })
                .collect()
        },
    },
    Rule {
        id: "sections-legacy",
        claim: "There is no section for installation code (co-installers) or for old hardware",
        source: Advice("InfVerif 1285, 1300, 1303, 1307; Using a Universal INF File"),
        check: |inf, _| {
            let sections = inf.inf.sections().iter();
            sections
                .filter(|section| {
                    let name = section.name.to_ascii_lowercase();
                    name.starts_with("classinstall32")
                        || LEGACY_SECTIONS.iter().any(|suffix| name.ends_with(suffix))
                })
                .map(|section| at(section.line, format!("[{}] is one", section.name)))
                .collect()
        },
    },
    Rule {
        id: "sections-purpose",
        claim: "The file installs only devices",
        source: Windows("InfVerif 1212; INF DefaultInstall section"),
        check: |inf, _| {
            let sections = inf.inf.sections().iter();
            sections
                .filter(|section| {
                    let name = section.name.to_ascii_lowercase();
                    name.starts_with("defaultinstall") && !inf.named("Manufacturer").is_empty()
                })
                .map(|section| {
                    at(
                        section.line,
                        format!("[{}] does not belong to a device", section.name),
                    )
                })
                .collect()
        },
    },
    Rule {
        id: "directives-known",
        claim: "Each directive is allowed in its section",
        source: Windows(
            "InfVerif 1290, 2402; INF DDInstall section, INF DDInstall.HW section, \
                 INF DDInstall.Services section, INF AddService directive",
        ),
        check: |inf, _| {
            let mut faults = Vec::new();
            for (place, section) in &inf.reached {
                let Some(known) = directives(*place) else {
                    continue;
                };
                // The installers of other classes have directives of their own.
                if *place == Place::Install && !inf.is_storage() {
                    continue;
                }
                for entry in &section.entries {
                    let is = |names: &[&str]| names.iter().any(|name| entry.is(name));
                    if !is(known) && !is(&LEGACY_DIRECTIVES) {
                        let text = format!("[{}] does not allow {}", section.name, word(entry));
                        faults.push(at(entry.line, text));
                    }
                }
            }
            faults
        },
    },
    Rule {
        id: "directives-section",
        claim: "Each directive that needs a section names one",
        source: Windows("InfVerif 1005"),
        check: |inf, _| {
            let mut faults = Vec::new();
            for (place, section) in &inf.reached {
                if directives(*place).is_none() {
                    continue;
                }
                for entry in &section.entries {
                    let named = (0..entry.values.len()).any(|i| !inf.value(entry, i).is_empty());
                    if names_sections(entry) && (entry.key.is_none() || !named) {
                        faults.push(at(entry.line, format!("{} names no section", word(entry))));
                    }
                }
            }
            faults
        },
    },
    Rule {
        id: "directives-build",
        claim: "Each directive is known to all supported versions of Windows",
        source: Windows("InfVerif 1199; INF AddService directive"),
        check: |inf, _| {
            let Some(earliest) = earliest_build(inf) else {
                return Vec::new();
            };
            let services = inf.reached.iter().filter(|(at, _)| *at == Place::Service);
            let entries = services.flat_map(|(_, section)| &section.entries);
            entries
                .filter_map(|entry| {
                    let (name, build) = BUILDS.iter().find(|(name, _)| entry.is(name))?;
                    let text = format!(
                        "{name} needs build {build}, but the file supports builds from {earliest}"
                    );
                    (earliest < *build).then(|| at(entry.line, text))
                })
                .collect()
        },
    },
    Rule {
        id: "directives-once",
        claim: "No directive is repeated if only one is used",
        source: Windows("InfVerif 1088"),
        check: |inf, _| {
            let services = inf.reached.iter().filter(|(at, _)| *at == Place::Service);
            let sections = services.map(|(_, section)| section.entries.iter().collect());
            std::iter::once(inf.entries("Version"))
                .chain(sections)
                .flat_map(|entries: Vec<&Entry>| {
                    repeated(&entries, |entry| word(entry).to_ascii_lowercase())
                })
                .filter(|(second, _)| !second.is("AddReg") && !second.is("AddTrigger"))
                .map(|(second, first)| {
                    let text = format!("{} is already on line {}", word(second), first.line);
                    at(second.line, text)
                })
                .collect()
        },
    },
    Rule {
        id: "directives-legacy",
        claim: "No old directive undoes, renames or registers something",
        source: Advice("InfVerif 1301, 1302, 1308, 1309; Using a Universal INF File"),
        check: |inf, _| {
            let mut faults = Vec::new();
            for (place, section) in &inf.reached {
                // To undo is what [DefaultUninstall] is for.
                if matches!(
                    place,
                    Place::Models
                        | Place::Files
                        | Place::Registry
                        | Place::Uninstall
                        | Place::UninstallServices
                ) {
                    continue;
                }
                for entry in &section.entries {
                    if LEGACY_DIRECTIVES.iter().any(|name| entry.is(name)) {
                        let text = format!("{} is obsolete", word(entry));
                        faults.push(at(entry.line, text));
                    }
                }
            }
            faults
        },
    },
    Rule {
        id: "needs-include",
        claim: "A section with Needs has an Include for the other file",
        source: Windows("InfVerif 1319, 2651"),
        check: |inf, _| {
            let mut faults = Vec::new();
            for (_, section) in &inf.reached {
                let included = section.entries.iter().any(|entry| entry.is("Include"));
                let needs = section.entries.iter().filter(|entry| {
                    let local = |index| !inf.named(&inf.value(entry, index)).is_empty();
                    entry.is("Needs") && !(0..entry.values.len()).all(local)
                });
                if !included {
                    faults.extend(needs.map(|entry| at(entry.line, "the section has no Include")));
                }
            }
            faults
        },
    },
    Rule {
        id: "strings-defined",
        claim: "Each used string is in [Strings]",
        source: Windows("InfVerif 1235; INF Strings Section"),
        check: |inf, _| {
            let mut faults: Vec<Fault> = Vec::new();
            for (line, name) in used_strings(inf) {
                let fault = at(
                    line,
                    format!("%{name}% is not defined in [Strings]; for a percent sign, write %%"),
                );
                if !inf.has_string(name) && !is_directory(name) && !faults.contains(&fault) {
                    faults.push(fault);
                }
            }
            faults
        },
    },
    Rule {
        id: "strings-used",
        claim: "Each string in [Strings] is used",
        source: Advice("this project: a string that nothing uses is a mistake or waste"),
        check: |inf, _| {
            let used = used_strings(inf);
            let entries = inf.entries("Strings").into_iter();
            entries
                .filter(|entry| {
                    let is = |(_, name): &(usize, &str)| entry.is(name);
                    !used.iter().any(is)
                })
                .map(|entry| at(entry.line, format!("nothing uses {}", word(entry))))
                .collect()
        },
    },
    Rule {
        id: "strings-once",
        claim: "No string is defined twice",
        source: Windows("InfVerif 1294; INF Strings Section"),
        check: |inf, _| {
            let sections = languages(inf);
            let sections = sections.into_iter();
            sections
                .flat_map(|section| {
                    let entries: Vec<&Entry> = section.entries.iter().collect();
                    repeated(&entries, |entry| word(entry).to_ascii_lowercase())
                })
                .map(|(second, first)| {
                    let text = format!("{} is already on line {}", word(second), first.line);
                    at(second.line, text)
                })
                .collect()
        },
    },
    Rule {
        id: "strings-languages",
        claim: "Each language has all strings",
        source: Windows("InfVerif 1295; INF Strings Section"),
        check: |inf, _| {
            let strings = inf.entries("Strings");
            let mut faults = Vec::new();
            for section in languages(inf) {
                for string in &strings {
                    let same = |entry: &Entry| entry.is(word(string));
                    if !section.entries.iter().any(same) {
                        let text = format!("[{}] has no {}", section.name, word(string));
                        faults.push(at(section.line, text));
                    }
                }
            }
            faults
        },
    },
    Rule {
        id: "lengths",
        claim: "Section names have at most 255 characters, and fields at most 4095",
        source: Windows("General Syntax Rules for INF Files (INF Size Limits)"),
        check: |inf, _| {
            let mut faults = Vec::new();
            for section in inf.inf.sections() {
                if section.name.chars().count() > 255 {
                    faults.push(at(section.line, "the section name is too long"));
                }
                for entry in &section.entries {
                    let fields = entry.key.iter().chain(&entry.values);
                    for field in fields {
                        if inf.expand(&field.text).chars().count() > 4095 {
                            faults.push(at(
                                entry.line,
                                "a field, with its strings replaced, is too long",
                            ));
                        }
                    }
                }
            }
            faults
        },
    },
];

const LEGACY_SECTIONS: [&str; 3] = [".coinstallers", ".factdef", ".logconfigoverride"];

const LEGACY_DIRECTIVES: [&str; 13] = [
    "BitReg",
    "DelFiles",
    "DelProperty",
    "DelReg",
    "DelService",
    "Ini2Reg",
    "LogConfig",
    "ProfileItems",
    "RegisterDlls",
    "RenFiles",
    "UnregisterDlls",
    "UpdateIniFields",
    "UpdateInis",
];

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
        Place::Models | Place::Files | Place::Registry | Place::Other => None,
    }
}

/// The directive, or whatever stands first.
fn word(entry: &Entry) -> &str {
    let word = entry.key.as_ref().or(entry.values.first());
    word.map_or("", |word| &word.text)
}

/// The sections of strings.
fn languages<'a>(inf: &Installation<'a>) -> Vec<&'a Section> {
    let sections = inf.inf.sections().iter();
    sections
        .filter(|section| {
            let name = section.name.to_ascii_lowercase();
            name == "strings" || name.starts_with("strings.")
        })
        .collect()
}

/// The strings that are used, and where.
fn used_strings<'a>(inf: &Installation<'a>) -> Vec<(usize, &'a str)> {
    let strings = |section: &Section| {
        let name = section.name.to_ascii_lowercase();
        name == "strings" || name.starts_with("strings.")
    };
    let sections = inf.inf.sections().iter();
    sections
        .filter(|section| !strings(section))
        .flat_map(|section| &section.entries)
        .flat_map(|entry| {
            let fields = entry.key.iter().chain(&entry.values);
            fields.flat_map(|field| {
                tokens(&field.text)
                    .into_iter()
                    .map(|name| (entry.line, name))
            })
        })
        .collect()
}

/// Whether a token is a directory's number.
fn is_directory(name: &str) -> bool {
    name.parse::<i64>().is_ok()
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
