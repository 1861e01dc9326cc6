//! `testbed rules`: prints the rules that the testbed checks, and what it cannot check.

use std::io::{self, Write};

use testbed_storport::{self, report::RuleList};

/// Faults that the testbed cannot detect, and what helps instead.
const BEYOND: &[&str] = &[
    "HwBuildIo accesses the adapter's state without a lock or an interlocked operation. The \
     testbed does not detect races between plain memory accesses. The types of crates/storport \
     prevent them in drivers that use them.",
    "A device or a driver writes to a data buffer after its request was completed. The device \
     accesses memory directly, and data buffers stay mapped.",
    "A lock is held or a callback runs too long (25 us, 50 us, 100 us). Times on this host are \
     not those on Windows. Each run prints them.",
    "Pageable code or data is accessed at DISPATCH_LEVEL. The testbed pages nothing out.",
    "A fault on a path that the run does not reach. Another --seed gives another order of events.",
    "StorPortAllocatePool overwrites the address of a buffer (StorPortAllocatePool2). Each run \
     prints what was not freed at the end.",
    "Rules for virtual miniports. The testbed's adapters are physical.",
];

/// The two lists, with their headings.
const LISTS: [(RuleList, &str); 2] = [
    (
        RuleList::Windows,
        "Rules of Windows. A broken rule is a violation, and the run fails:",
    ),
    (
        RuleList::House,
        "House rules: rules of this project, where Microsoft's documentation is silent or \
         contradicts itself. A broken rule is advice; with --house-rules the run fails:",
    ),
];

/// Prints the rules in two lists, each with its source, then what the testbed cannot check.
///
/// # Errors
/// The output cannot be written.
pub fn print(out: &mut dyn Write) -> io::Result<()> {
    for (list, title) in LISTS {
        writeln!(out, "{title}")?;
        for rule in testbed_storport::rules().filter(|rule| rule.list == list) {
            writeln!(out, "  {}", rule.name)?;
            writeln!(out, "      {}", rule.summary)?;
            writeln!(out, "      source: {}", rule.source)?;
        }
        writeln!(out)?;
    }
    writeln!(out, "Not checked by the testbed:")?;
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
        let (windows, house) = text.split_once("\nHouse rules: ").expect("a second list");
        for rule in testbed_storport::rules() {
            let entry = format!("  {}\n      {}\n      source: ", rule.name, rule.summary);
            let is_in = [windows, house].map(|list| list.matches(&entry).count());
            let expected = match rule.list {
                RuleList::Windows => [1, 0],
                RuleList::House => [0, 1],
            };
            assert_eq!(is_in, expected, "{}", rule.name);
        }
        assert!(text.starts_with("Rules of Windows."));
        assert!(
            text.contains("\nNot checked by the testbed:\n  - HwBuildIo accesses the adapter's")
        );
    }
}
