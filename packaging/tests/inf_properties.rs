//! Properties of arbitrary INF files: parsing does not panic, and stamping changes only what it
//! should.

use packaging::{
    architecture::Architecture,
    inf::{Entry, Inf, Stamp, Version, lint, stamp},
};
use proptest::prelude::*;
use time::macros::date;

fn today(architecture: Architecture) -> Stamp {
    Stamp {
        architecture,
        date: date!(2026 - 05 - 04),
        version: Version([0, 1, 0, 0]),
    }
}

/// A field as an INF file may hold it.
fn field() -> impl Strategy<Value = String> {
    prop_oneof![
        "[A-Za-z0-9_.&]{1,12}",
        r#""[ -!#&-~]{0,12}""#,
        "%[A-Za-z0-9]{1,8}%",
        r"%13%\\[a-z]{1,8}\.sys",
        Just("$ARCH$".to_owned()),
        Just(String::new()),
    ]
}

/// A line between the sections' names.
fn line() -> impl Strategy<Value = String> {
    let values = || prop::collection::vec(field(), 1..5).prop_map(|fields| fields.join(", "));
    prop_oneof![
        ("[A-Za-z]{1,8}", values()).prop_map(|(key, values)| format!("{key} = {values}")),
        values(),
        " *;[ -~]{0,20}",
        Just(String::new()),
    ]
}

/// An INF file's text, with a `[Version]` first.
fn text() -> impl Strategy<Value = String> {
    let section = (
        "[A-Za-z][A-Za-z.0-9]{0,12}",
        prop::collection::vec(line(), 0..6),
    )
        .prop_map(|(name, lines)| format!("[{name}]\n{}\n", lines.join("\n")));
    prop::collection::vec(section, 0..6)
        .prop_map(|sections| format!("[Version]\nDriverVer = 1\n{}", sections.concat()))
}

/// Pieces of INF files, which a test joins in any order.
fn words() -> Vec<&'static str> {
    const GOOD: &str = include_str!("inf/good.inf");
    let lines = GOOD.split_inclusive('\n');
    let pieces = GOOD.split_inclusive(&[' ', ',', '%', '\\', '\n'][..]);
    lines
        .chain(pieces)
        .chain(["\"", "=", "[", "]\n", "0x", "Install", "\n"])
        .collect()
}

/// The entries but the stamped one, with `$ARCH$` filled in.
fn entries(text: &str, architecture: Architecture) -> Vec<(String, Vec<Entry>)> {
    let inf = Inf::parse(text.as_bytes()).unwrap();
    let fill = |text: &str| text.replace("$ARCH$", architecture.decoration());
    inf.sections
        .iter()
        .enumerate()
        .map(|(index, section)| {
            let mut entries = section.entries.clone();
            if index == 0 {
                entries.remove(0);
            }
            for field in entries
                .iter_mut()
                .flat_map(|entry| entry.key.iter_mut().chain(&mut entry.values))
            {
                *field = fill(field);
            }
            (fill(&section.name), entries)
        })
        .collect()
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_read_or_refused(bytes: Vec<u8>) {
        let _ = Inf::parse(&bytes);
    }

    #[test]
    fn arbitrary_lines_are_read_or_refused(text in r#"[\[\]%"\\;=, a$\n]{0,60}"#) {
        let _ = Inf::parse(text.as_bytes());
        let _ = stamp(&text, &today(Architecture::X64));
    }

    #[test]
    fn whatever_can_be_read_can_be_judged(
        lines in prop::collection::vec(prop::sample::select(words()), 0..60),
    ) {
        if let Ok(inf) = Inf::parse(lines.concat().as_bytes()) {
            let report = lint(&inf, Architecture::X64, today(Architecture::X64).date);
            prop_assert!(!report.is_empty());
            let _ = inf.hardware_ids(Architecture::X64);
        }
    }

    #[test]
    fn stamping_keeps_all_other_entries_and_their_lines(
        text in text(),
        arm in any::<bool>(),
    ) {
        let architecture = if arm { Architecture::Arm64 } else { Architecture::X64 };
        let stamped = stamp(&text, &today(architecture)).unwrap();
        prop_assert!(stamped.starts_with("[Version]\r\nDriverVer = 05/04/2026,0.1.0.0\r\n"));
        prop_assert_eq!(entries(&stamped, architecture), entries(&text, architecture));
    }
}
