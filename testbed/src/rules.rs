//! `testbed rules`: what a driver is watched for, and what no run can see.

use std::io::{self, Write};

use crate::storport;

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

/// Prints the rules in the order of violations, each with where it comes from
/// and what it demands, then what is beyond.
///
/// # Errors
/// The output's.
pub fn print(out: &mut dyn Write) -> io::Result<()> {
    for rule in storport::rules() {
        writeln!(out, "{}", rule.name)?;
        writeln!(out, "    {}", rule.summary)?;
        writeln!(out, "    from: {}", rule.source)?;
    }
    writeln!(out, "\nBeyond the verifier:")?;
    for text in BEYOND {
        writeln!(out, "  - {text}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_is_listed_once_with_source_and_demand() {
        let mut out = Vec::new();

        print(&mut out).expect("memory");

        let text = String::from_utf8(out).expect("text");
        let names: Vec<_> = storport::rules().map(|rule| rule.name).collect();
        for (index, name) in names.iter().enumerate() {
            assert!(!names[..index].contains(name), "{name}");
            let lines = text.lines().filter(|line| line == name).count();
            assert_eq!(lines, 1, "{name}");
        }
        assert!(text.starts_with(
            "lock-recursion\n    No lock is taken that the thread holds already, by itself or by \
             Storport.\n    from: StorPortSpinLock; storport-rules.md L5, O8\n"
        ));
        assert!(text.contains("\nBeyond the verifier:\n  - HwBuildIo that touches state"));
    }
}
