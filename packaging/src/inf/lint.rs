//! Checks an INF file with every rule.

use std::fmt;

use time::Date;

use super::{Inf, install::Installation, rules::ALL};
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
    pub(super) check: fn(&Installation<'_>, Date) -> Vec<Fault>,
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
