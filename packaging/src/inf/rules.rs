//! The rules, by the part of the file that they check. A source is the title of a
//! page of Microsoft's driver documentation, or a number of InfVerif, which "INF
//! Validation Errors and Warnings" lists there.

mod devices;
mod files;
mod registry;
mod sections;
mod service;
mod version;

pub(super) use devices::earliest_build;

use super::{
    Entry, Section,
    install::{Copied, Models, Reference, RegistryValue, Service},
    lint::Rule,
};
use crate::check::{Fault, Source};

pub(super) const ALL: [&[Rule]; 6] = [
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
