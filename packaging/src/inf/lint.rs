//! The linter of INF files: it asks every rule.

use std::fmt;

use time::Date;

use super::{Inf, install::Installation, rules::ALL};
use crate::{
    architecture::Architecture,
    check::{Check, Fault, Outcome, Source},
};

/// A rule for INF files.
pub struct Rule {
    /// Its name, as `pnp-lockdown`.
    pub id: &'static str,
    /// What should hold.
    pub claim: &'static str,
    /// Who asks for it: InfVerif's numbers, and pages of Microsoft's
    /// windows-driver-docs.
    pub source: Source,
    pub(super) check: fn(&Installation<'_>, Date) -> Vec<Fault>,
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id)
    }
}

/// Judges an INF file as a driver's for `architecture`, stamped. `today` tells dates
/// that are still to come.
///
/// ```
/// use packaging::{architecture::Architecture, inf};
/// use time::{Date, Month};
///
/// let inf = inf::Inf::parse(b"[Version]\nSignature = 1\n")?;
/// let today = Date::from_calendar_date(2026, Month::May, 4)?;
/// let checks = inf::lint(&inf, Architecture::X64, today);
/// let fault = checks.iter().find_map(packaging::check::Check::fault);
/// assert_eq!(fault.unwrap(), "line 2: Signature is \"1\"");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub fn lint(inf: &Inf, architecture: Architecture, today: Date) -> Vec<Check> {
    let installation = Installation::of(inf, architecture);
    rules()
        .map(|rule| {
            let mut faults = Vec::new();
            // A section that is reached twice has its faults once.
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
