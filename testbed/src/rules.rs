//! `testbed rules`: what a driver is watched for, and what no run can see.

use std::io::{self, Write};

use crate::storport::{self, report::RuleList};

/// What the verifier cannot see, and what covers it instead.
const BEYOND: &[&str] = &[
    "HwBuildIo touches the adapter's state without a lock or an interlocked operation. A race \
     between plain memory accesses leaves no trace here. The types of crates/storport rule it \
     out for drivers that use them.",
    "A device or a driver writes to a data buffer after its request was completed. The device \
     accesses memory directly, and data buffers stay mapped.",
    "Locks are held or callbacks run too long (25 us, 50 us, 100 us). Times on this host are not \
     those of Windows. Each run prints them.",
    "Pageable code or data is used at DISPATCH_LEVEL. Nothing is paged out here.",
    "A fault is on a path that the run does not reach. --seed chooses another order of events.",
    "StorPortAllocatePool overwrites the address of a buffer (StorPortAllocatePool2). Each run \
     prints what was not freed at the end.",
    "Rules for virtual miniports. The adapters here are physical.",
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
    writeln!(out, "Not seen by the testbed:")?;
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
        assert!(
            text.contains("\nNot seen by the testbed:\n  - HwBuildIo touches the adapter's state")
        );
    }
}
