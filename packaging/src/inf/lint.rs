//! The linter: every rule is asked, and the report says what each asked and
//! what it found.

use std::fmt;

use time::Date;

use super::{Inf, install::Installation, rules::ALL};
use crate::architecture::Architecture;

/// A rule for setup files.
pub struct Rule {
    /// Its name, as `pnp-lockdown`.
    pub id: &'static str,
    /// What must hold.
    pub claim: &'static str,
    /// Who asks for it: InfVerif's numbers, and the page of Microsoft's
    /// windows-driver-docs.
    pub source: &'static str,
    pub(super) check: fn(&Installation<'_>, Date) -> Vec<Fault>,
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id)
    }
}

/// Something that is against a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The line, from 1; none for what is missing from the whole file.
    pub line: Option<usize>,
    /// What is there, and what should be.
    pub text: String,
}

/// What a rule found.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The rule.
    pub rule: &'static Rule,
    /// What is against it.
    pub faults: Vec<Fault>,
}

/// What all rules found. Displayed, it says of each claim whether it holds, and
/// what to look at if it does not.
#[derive(Clone, Debug)]
pub struct Report {
    verdicts: Vec<Verdict>,
}

impl Report {
    /// Whether no rule found a fault.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.verdicts
            .iter()
            .all(|verdict| verdict.faults.is_empty())
    }

    /// What each rule found, in the rules' order.
    #[must_use]
    pub fn verdicts(&self) -> &[Verdict] {
        &self.verdicts
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Verdict { rule, faults } in &self.verdicts {
            if faults.is_empty() {
                writeln!(f, "  yes  {}", rule.claim)?;
                continue;
            }
            writeln!(f, "  NO   {}", rule.claim)?;
            for fault in faults {
                match fault.line {
                    Some(line) => writeln!(f, "         line {line}: {}", fault.text)?,
                    None => writeln!(f, "         {}", fault.text)?,
                }
            }
            writeln!(f, "         ({}: {})", rule.id, rule.source)?;
        }
        Ok(())
    }
}

/// Judges a setup file as that of a Storport miniport, stamped for
/// `architecture`. `today` tells dates that are still to come.
///
/// ```
/// use packaging::{architecture::Architecture, inf};
/// use time::{Date, Month};
///
/// let inf = inf::Inf::parse(b"[Version]\nPnpLockdown = 0\n")?;
/// let today = Date::from_calendar_date(2026, Month::May, 4)?;
/// let report = inf::lint(&inf, Architecture::X64, today);
/// assert!(!report.holds());
/// assert!(report.to_string().contains("line 2: PnpLockdown is 0"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub fn lint(inf: &Inf, architecture: Architecture, today: Date) -> Report {
    let installation = Installation::of(inf, architecture);
    let verdicts = rules()
        .map(|rule| Verdict {
            rule,
            faults: (rule.check)(&installation, today),
        })
        .collect();
    Report { verdicts }
}

/// All rules, in the order of the report.
pub fn rules() -> impl Iterator<Item = &'static Rule> {
    ALL.iter().copied().flatten()
}
