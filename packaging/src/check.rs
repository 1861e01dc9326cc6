//! A check of a file with its source and outcome, and the report of all checks of a file.

use std::fmt;

/// The source of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Windows does not install or load a file that fails the check, or Microsoft documents it
    /// as an error. The text is the number of an InfVerif error, or the title of a page.
    Windows(&'static str),
    /// A house rule of this project, or a rule of Microsoft for some kinds of drivers only. The
    /// text is the reason or the source.
    Advice(&'static str),
}

/// A fault that a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The line, from 1; `None` for a binary file, or if something is missing.
    pub line: Option<usize>,
    /// What is wrong.
    pub text: String,
}

/// The outcome of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The claim is true.
    Holds,
    /// The claim is false.
    Faults(Vec<Fault>),
    /// The claim could not be checked, for this reason.
    NotJudged(String),
}

/// A check and its outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// The rule's name, if it has one, such as `pnp-lockdown`.
    pub rule: Option<&'static str>,
    /// The claim that is checked.
    pub claim: &'static str,
    /// The source of the claim.
    pub source: Source,
    /// The outcome.
    pub outcome: Outcome,
}

impl Check {
    /// A check of a requirement of Windows, with its fault if there is one.
    pub(crate) fn requirement(
        claim: &'static str,
        source: &'static str,
        fault: impl Into<Option<String>>,
    ) -> Self {
        Self::new(claim, Source::Windows(source), fault.into().into())
    }

    /// A check of a house rule, with its fault if there is one.
    pub(crate) fn advice(
        claim: &'static str,
        why: &'static str,
        fault: impl Into<Option<String>>,
    ) -> Self {
        Self::new(claim, Source::Advice(why), fault.into().into())
    }

    pub(crate) fn new(claim: &'static str, source: Source, outcome: Outcome) -> Self {
        Self {
            rule: None,
            claim,
            source,
            outcome,
        }
    }

    /// Whether this is a house rule, not a requirement of Windows.
    #[must_use]
    pub fn is_advice(&self) -> bool {
        matches!(self.source, Source::Advice(_))
    }

    /// All faults in one line; `None` if there is no fault.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        let Outcome::Faults(faults) = &self.outcome else {
            return None;
        };
        let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
        Some(faults.join("; "))
    }

    /// Writes the check's lines of a report.
    fn write(&self, f: &mut fmt::Formatter<'_>, advice_decides: bool) -> fmt::Result {
        let Self { claim, .. } = self;
        let faults = match &self.outcome {
            Outcome::Holds => return writeln!(f, "    yes  {claim}"),
            Outcome::NotJudged(why) => return writeln!(f, "    not judged: {claim}: {why}"),
            Outcome::Faults(faults) => faults,
        };
        let word = if self.is_advice() && !advice_decides {
            "advice:"
        } else {
            "NO  "
        };
        match &faults[..] {
            [Fault { line: None, text }] => writeln!(f, "    {word} {claim}: {text}")?,
            faults => {
                writeln!(f, "    {word} {claim}")?;
                for fault in faults {
                    writeln!(f, "           {fault}")?;
                }
            }
        }
        let (Source::Windows(source) | Source::Advice(source)) = self.source;
        match self.rule {
            Some(rule) => writeln!(f, "           ({rule}: {source})"),
            None => writeln!(f, "           ({source})"),
        }
    }
}

impl From<Option<String>> for Outcome {
    fn from(fault: Option<String>) -> Self {
        match fault {
            Some(text) => Self::Faults(vec![Fault { line: None, text }]),
            None => Self::Holds,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

/// The items without duplicates.
pub(crate) fn distinct<T: PartialEq>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut found = Vec::new();
    for item in items {
        if !found.contains(&item) {
            found.push(item);
        }
    }
    found
}

/// All checks of a file.
#[derive(Clone, Debug)]
pub struct Report {
    /// The file's path as given, and the architecture if it matters.
    pub subject: String,
    /// The checks.
    pub checks: Vec<Check>,
    /// What the lint cannot check for any file of this kind.
    pub beyond: Vec<&'static str>,
    /// Why the whole file was not checked.
    pub not_judged: Option<String>,
    /// Whether a broken house rule makes the verdict `Wrong`.
    pub advice_decides: bool,
}

/// The verdict of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Every check passed.
    Holds,
    /// No check failed, but one could not be performed.
    NotJudged,
    /// A check failed.
    Wrong,
}

impl Report {
    /// The verdict.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let of = |check: &Check| match check.outcome {
            Outcome::Holds => Verdict::Holds,
            Outcome::NotJudged(_) => Verdict::NotJudged,
            Outcome::Faults(_) if check.is_advice() && !self.advice_decides => Verdict::Holds,
            Outcome::Faults(_) => Verdict::Wrong,
        };
        let whole = match self.not_judged {
            Some(_) => Verdict::NotJudged,
            None => Verdict::Holds,
        };
        self.checks.iter().map(of).max().unwrap_or(whole)
    }
}

/// Prints both lists of checks, then what was not judged.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}:", self.subject)?;
        for (heading, is_advice) in [
            ("requirements of Windows", false),
            ("house rules of this project", true),
        ] {
            let mut checks = self.checks.iter().filter(|c| c.is_advice() == is_advice);
            let Some(first) = checks.next() else {
                continue;
            };
            writeln!(f, "  {heading}:")?;
            for check in std::iter::once(first).chain(checks) {
                check.write(f, self.advice_decides)?;
            }
        }
        let whole = self.not_judged.as_deref();
        self.beyond
            .iter()
            .copied()
            .chain(whole)
            .try_for_each(|what| writeln!(f, "  not judged: {what}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(line: Option<usize>, text: &str) -> Fault {
        Fault {
            line,
            text: text.into(),
        }
    }

    /// A check of each kind and outcome.
    fn checks() -> [Check; 4] {
        let lines = vec![fault(Some(2), "a"), fault(Some(3), "b")];
        let unjudged = Outcome::NotJudged("ECDSA".into());
        [
            Check::advice("it is named well", "this project", Some("it is not".into())),
            Check::requirement("it is whole", "a page", None),
            Check::new("it is signed", Source::Windows("a page"), unjudged),
            Check {
                rule: Some("a-rule"),
                ..Check::new(
                    "it is sound",
                    Source::Windows("InfVerif 1"),
                    Outcome::Faults(lines),
                )
            },
        ]
    }

    fn report(advice_decides: bool, checks: impl Into<Vec<Check>>) -> Report {
        Report {
            subject: "a.sys".into(),
            checks: checks.into(),
            beyond: vec!["the root"],
            not_judged: None,
            advice_decides,
        }
    }

    #[test]
    fn requirements_and_advice_are_two_lists() {
        let text = "a.sys:\n  \
            requirements of Windows:\n    \
              yes  it is whole\n    \
              not judged: it is signed: ECDSA\n    \
              NO   it is sound\n           \
                     line 2: a\n           \
                     line 3: b\n           \
                     (a-rule: InfVerif 1)\n  \
            house rules of this project:\n    \
              advice: it is named well: it is not\n           \
                     (this project)\n  \
            not judged: the root\n";
        assert_eq!(report(false, checks()).to_string(), text);
        assert_eq!(
            report(true, checks()).to_string(),
            text.replace("advice:", "NO  ")
        );
    }

    #[test]
    fn a_fault_is_worse_than_what_was_not_judged_and_advice_decides_only_if_asked() {
        let [advice, whole, unjudged, wrong] = checks();
        for (advice_decides, checks, verdict) in [
            (false, vec![advice.clone(), whole.clone()], Verdict::Holds),
            (true, vec![advice, whole.clone()], Verdict::Wrong),
            (false, vec![whole, unjudged.clone()], Verdict::NotJudged),
            (false, vec![unjudged, wrong], Verdict::Wrong),
        ] {
            assert_eq!(report(advice_decides, checks).verdict(), verdict);
        }
    }
}
