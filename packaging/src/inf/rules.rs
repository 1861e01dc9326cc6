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

use std::fmt;

use time::Date;

use super::{
    Entry, Inf, Section,
    install::{Copied, Installation, Models, Reference, RegistryValue, Service},
};
use crate::{
    architecture::Architecture,
    check::{Check, Fault, Outcome, Source},
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
    check: fn(&Installation<'_>, Date) -> Vec<Fault>,
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id)
    }
}

/// Checks a driver's stamped INF file for `architecture`. `today` is for dates in
/// the future.
#[must_use]
pub fn lint(inf: &Inf, architecture: Architecture, today: Date) -> Vec<Check> {
    let installation = Installation::of(inf, architecture);
    rules()
        .map(|rule| {
            let mut faults = Vec::new();
            // Faults of a section that is reached twice are reported once.
            for fault in (rule.check)(&installation, today) {
                if !faults.contains(&fault) {
                    faults.push(fault);
                }
            }
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
