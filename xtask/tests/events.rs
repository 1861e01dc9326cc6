//! Tests the driver's events in `src/events.rs`: numbers, codes and texts, and that
//! docs/troubleshooting.md has the same ones.

use std::{collections::BTreeSet, fs, path::Path};

#[path = "../../src/events.rs"]
mod events;

use events::{Event, Severity};

const PAGE: &str = "../docs/troubleshooting.md";

/// The row of an event in the page's table.
fn row(event: Event) -> String {
    let severity = match event.severity() {
        Severity::Informational => "information",
        Severity::Warning => "warning",
        Severity::Error => "error",
    };
    format!(
        "| {} | {severity} | {} | {} | {} |",
        event.id(),
        event.text(),
        event.cause(),
        event.remedy()
    )
}

#[test]
fn the_page_has_each_event_of_the_list() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    let page = fs::read_to_string(path).expect("the page");
    let rows: Vec<&str> = page
        .lines()
        .skip_while(|line| *line != "## Events of the driver")
        .filter(|line| line.starts_with("| 1"))
        .collect();
    let list: Vec<String> = Event::ALL.iter().copied().map(row).collect();
    assert!(
        rows == list,
        "the table in {PAGE} must be:\n{}",
        list.join("\n")
    );
}

#[test]
fn numbers_rise_and_none_is_one_of_storports() {
    let ids: Vec<u16> = Event::ALL.iter().map(|event| event.id()).collect();
    assert!(ids.is_sorted_by(|one, other| one < other), "{ids:?}");
    // Storport logs events with lower numbers for the driver.
    assert!(ids[0] > 1000);
}

#[test]
fn a_code_has_severity_customer_bit_facility_and_number() {
    let codes = [
        (Event::ConfigurationInvalid, 0xe001_03f2),
        (Event::DeviceReset, 0xa001_044f),
        (Event::UsedLengthShort, 0x6001_0454),
    ];
    for (event, code) in codes {
        assert_eq!(event.code(), code, "{event:?}");
    }
}

#[test]
fn placeholders_are_percent_1_to_the_number_of_strings() {
    for event in Event::ALL {
        let text = event.text();
        let numbers: BTreeSet<u32> = text
            .split('%')
            .skip(1)
            .map(|rest| {
                let number = rest.chars().next().and_then(|digit| digit.to_digit(10));
                let next = rest.chars().nth(1).unwrap_or(' ');
                assert!(!next.is_ascii_digit() && next != '!', "{event:?}: {text}");
                number.unwrap_or_else(|| panic!("{event:?}: a % without a number: {text}"))
            })
            .collect();
        let last = numbers.len() as u32;
        assert_eq!(numbers, (1..=last).collect(), "{event:?}: {text}");
        // An event has room for three strings.
        assert!(last <= 4, "{event:?}");
        // The remedy is part of the message, without placeholders.
        assert!(!event.remedy().contains('%'), "{event:?}");
        // A cell of a table.
        let cells = [text, event.cause(), event.remedy()];
        assert!(cells.iter().all(|cell| !cell.contains(['|', '\n'])));
    }
}
