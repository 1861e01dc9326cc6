//! The rules for INF files, by the part of the file that they check. A source is the title of a
//! page of Microsoft's driver documentation, or a number of InfVerif, which "INF
//! Validation Errors and Warnings" lists there.

mod devices;
mod files;
mod registry;
mod sections;
mod service;
mod version;

pub(super) use devices::earliest_build;

use time::Date;

use self::devices::Decoration;
use super::{
    Entry, Inf, Section,
    install::{Copied, Installation, Models, Place, Reference, RegistryValue, Service},
};
use crate::{
    architecture::Architecture,
    check::{Check, Fault, Outcome, Source, distinct},
};

/// A rule for INF files.
pub struct Rule {
    /// Its name, such as `pnp-lockdown`.
    pub id: &'static str,
    /// The claim that is checked.
    pub claim: &'static str,
    /// Its source: numbers of InfVerif, and pages of Microsoft's
    /// windows-driver-docs.
    pub source: Source,
    faults: In,
}

/// The parts of the file in which a rule looks for faults. A function returns the fault of a
/// part.
enum In {
    /// The whole file. The date is that of the check.
    File(fn(&Installation<'_>, Date) -> Vec<Fault>),
    Sections(fn(&Installation<'_>, &Section) -> Option<String>),
    /// The entries of reached sections, with the section and its purpose.
    Entries(fn(&Installation<'_>, Place, &Section, &Entry) -> Option<String>),
    /// The entries of `[Version]`.
    Version(fn(&Installation<'_>, &Entry) -> Option<String>),
    /// The decorations in `[Manufacturer]`: the text, and its meaning if it is valid.
    Decorations(fn(&Installation<'_>, &str, Option<&Decoration>) -> Option<String>),
    /// The entries of models sections.
    Models(fn(&Installation<'_>, &Entry) -> Option<String>),
    /// The entries of `[SourceDisksFiles]`.
    Sources(fn(&Installation<'_>, &Entry) -> Option<String>),
    /// The entries of `[DestinationDirs]`.
    Destinations(fn(&Installation<'_>, &Entry) -> Option<String>),
    Copies(fn(&Installation<'_>, &Copied) -> Option<String>),
    Services(fn(&Installation<'_>, &Service<'_>) -> Option<String>),
    /// The entries of this name in the install sections of services: whether the value is right.
    ServiceValues(
        &'static str,
        fn(&Installation<'_>, &Service<'_>, &str) -> bool,
    ),
    RegistryValues(fn(&Installation<'_>, &RegistryValue<'_>) -> Option<String>),
}

impl In {
    fn find(&self, inf: &Installation<'_>, today: Date) -> Vec<Fault> {
        match self {
            Self::File(faults) => faults(inf, today),
            Self::Sections(fault) => each(&inf.inf.sections, |section| fault(inf, section)),
            Self::Entries(fault) => {
                let reached = inf.reached.iter();
                let faults = reached.flat_map(|(place, section)| {
                    each(&section.entries, |entry| fault(inf, *place, section, entry))
                });
                faults.collect()
            }
            Self::Version(fault) => each(inf.entries("Version"), |entry| fault(inf, entry)),
            Self::Decorations(fault) => each(&inf.models, |models| {
                let decoration = devices::parse(&models.decoration);
                fault(inf, &models.decoration, decoration.as_ref())
            }),
            Self::Models(fault) => each(inf.entries_for(Place::Models), |entry| fault(inf, entry)),
            Self::Sources(fault) => each(files::sources(inf), |entry| fault(inf, entry)),
            Self::Destinations(fault) => each(files::directories(inf), |entry| fault(inf, entry)),
            Self::Copies(fault) => each(&inf.copies, |copy| fault(inf, copy)),
            Self::Services(fault) => each(&inf.services, |service| fault(inf, service)),
            Self::ServiceValues(name, is_right) => {
                let services = inf.services.iter();
                let faults = services.flat_map(|service| {
                    each(service.entries(name), |entry| {
                        let value = inf.value(entry, 0);
                        (!is_right(inf, service, &value)).then(|| format!("{name} is {value:?}"))
                    })
                });
                faults.collect()
            }
            Self::RegistryValues(fault) => each(&inf.values, |value| fault(inf, value)),
        }
    }
}

/// Checks a driver's stamped INF file for `architecture`. `today` is for dates in
/// the future.
#[must_use]
pub fn lint(inf: &Inf, architecture: Architecture, today: Date) -> Vec<Check> {
    let installation = Installation::of(inf, architecture);
    rules()
        .map(|rule| {
            // Faults of a section that is reached twice are reported once.
            let faults = distinct(rule.faults.find(&installation, today));
            Check {
                rule: Some(rule.id),
                claim: rule.claim,
                source: rule.source,
                outcome: match faults.is_empty() {
                    true => Outcome::Holds,
                    false => Outcome::Faults(faults),
                },
            }
        })
        .collect()
}

/// All rules, in the order of the report.
pub fn rules() -> impl Iterator<Item = &'static Rule> {
    ALL.iter().copied().flatten()
}

const ALL: [&[Rule]; 6] = [
    version::RULES,
    devices::RULES,
    files::RULES,
    service::RULES,
    registry::RULES,
    sections::RULES,
];

/// A fault on a line.
fn at(line: usize, text: impl Into<String>) -> Fault {
    Fault {
        line: Some(line),
        text: text.into(),
    }
}

/// A fault without a line.
fn missing(text: impl Into<String>) -> Fault {
    Fault {
        line: None,
        text: text.into(),
    }
}

/// A part of the file that begins on a line.
trait OnLine {
    fn line(&self) -> usize;
}

macro_rules! on_line {
    ($($part:ty),*) => {
        $(impl OnLine for $part {
            fn line(&self) -> usize {
                self.line
            }
        })*
    };
}

on_line!(
    Section,
    Entry,
    Copied,
    Reference,
    Models<'_>,
    Service<'_>,
    RegistryValue<'_>
);

/// The faults that `fault` finds in the parts, each on the line of its part.
fn each<'p, P: OnLine + 'p>(
    parts: impl IntoIterator<Item = &'p P>,
    mut fault: impl FnMut(&'p P) -> Option<String>,
) -> Vec<Fault> {
    let parts = parts.into_iter();
    parts
        .filter_map(|part| Some(at(part.line(), fault(part)?)))
        .collect()
}

/// The faults that `fault` finds in the parts with a repeated key. It gets the part and the
/// first one with the same key.
fn repeated<'p, P: OnLine + 'p, K: PartialEq>(
    parts: impl IntoIterator<Item = &'p P>,
    key: impl Fn(&'p P) -> K,
    fault: impl Fn(&'p P, &'p P) -> Option<String>,
) -> Vec<Fault> {
    let mut earlier: Vec<&'p P> = Vec::new();
    each(parts, |part| {
        let mut before = earlier.iter().copied();
        let first = before.find(|first| key(first) == key(part));
        earlier.push(part);
        fault(part, first?)
    })
}

/// The text of a fault: what is defined a second time, and where it is defined first.
fn already(name: &str, first: &impl OnLine) -> Option<String> {
    Some(format!("{name} is already on line {}", first.line()))
}
