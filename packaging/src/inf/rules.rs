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

use super::lint::Rule;
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

/// Items with a repeated key, each with the earlier item.
fn repeated<T: Copy, K: PartialEq>(items: &[T], key: impl Fn(T) -> K) -> Vec<(T, T)> {
    let mut found = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let before = items.iter().take(index);
        if let Some(first) = before.into_iter().find(|first| key(**first) == key(*item)) {
            found.push((*item, *first));
        }
    }
    found
}
