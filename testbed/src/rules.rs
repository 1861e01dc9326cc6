//! `testbed rules`: what a driver is watched for, and what no run can see.

use std::io::{self, Write};

use crate::storport::{self, report::RuleList};

/// What is beyond the verifier, and where it is looked after instead.
const BEYOND: &[&str] = &[
    "HwBuildIo that touches state of the adapter's without a lock or an interlocked operation: \
     races between plain accesses of memory leave no trace here. The types of crates/storport \
     rule it out for drivers that use them.",
    "A device that writes into a request's memory after the request was completed: devices have \
     their own way to memory. So has a driver that keeps the data buffer's address: data buffers \
     are not taken away at completion.",
    "How long locks are held and callbacks run (25 us, 50 us, 100 us): the host's times are not \
     Windows'. They are printed with each run.",
    "Pageable code and data at DISPATCH_LEVEL: everything here is resident.",
    "Paths that a run does not come to. Schedules differ by --seed; a fault that no schedule of \
     the run reaches is not seen.",
    "StorPortAllocatePool into a variable that still holds a buffer (StorPortAllocatePool2): what \
     a variable is for is not known. What was not freed at the end is told.",
    "Rules of virtual miniports: the adapters here are physical.",
];

/// The two lists, each under what a broken rule of it means.
const LISTS: [(RuleList, &str); 2] = [
    (
        RuleList::Windows,
        "Demanded by Windows. A broken rule is a violation, and the run fails:",
    ),
    (
        RuleList::House,
        "Chosen by this project, where Microsoft's documentation is silent or contradicts \
         itself. A broken rule is advice; with --house-rules the run fails:",
    ),
];

/// Prints the rules in two lists, each with its demand and its source, then what
/// is beyond.
///
/// # Errors
/// The output's.
pub fn print(out: &mut dyn Write) -> io::Result<()> {
    for (list, title) in LISTS {
        writeln!(out, "{title}")?;
        for rule in storport::rules().filter(|rule| rule.list == list) {
            writeln!(out, "  {}", rule.name)?;
            writeln!(out, "      {}", rule.summary)?;
            writeln!(out, "      from: {}", rule.source)?;
        }
        writeln!(out)?;
    }
    writeln!(out, "Beyond the verifier:")?;
    for text in BEYOND {
        writeln!(out, "  - {text}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_is_in_one_of_the_two_lists_with_source_and_demand() {
        let mut out = Vec::new();

        print(&mut out).expect("memory");

        let text = String::from_utf8(out).expect("text");
        let (windows, house) = text
            .split_once("\nChosen by this project")
            .expect("a second list");
        for rule in storport::rules() {
            let entry = format!("  {}\n      {}\n      from: ", rule.name, rule.summary);
            let is_in = [windows, house].map(|list| list.matches(&entry).count());
            let expected = match rule.list {
                RuleList::Windows => [1, 0],
                RuleList::House => [0, 1],
            };
            assert_eq!(is_in, expected, "{}", rule.name);
        }
        assert!(text.starts_with("Demanded by Windows."));
        assert!(text.contains("\nBeyond the verifier:\n  - HwBuildIo that touches state"));
    }
}
