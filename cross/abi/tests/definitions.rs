//! The import libraries export what the headers declare. The tests compare `cross/def` with the
//! table and with the prototypes in wdm.h.

use std::{collections::BTreeSet, fs, path::Path};

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn exports(definition: &str) -> BTreeSet<String> {
    read(&format!("../def/{definition}.def"))
        .lines()
        .skip_while(|line| *line != "EXPORTS")
        .skip(1)
        .map(|line| line.trim().to_owned())
        .collect()
}

#[test]
fn storport_exports_are_those_of_the_table() {
    let table: serde_json::Value =
        serde_json::from_str(&read("storport-wdk.json")).expect("the table is JSON");
    let of_table: BTreeSet<String> = table["exports"]
        .as_object()
        .expect("exports by name")
        .keys()
        .cloned()
        .collect();

    assert_eq!(of_table.len(), 60);
    assert_eq!(exports("storport"), of_table);
}

#[test]
fn every_function_that_wdm_h_declares_can_be_linked() {
    let linkable: BTreeSet<String> = exports("ntoskrnl")
        .union(&exports("hal"))
        .cloned()
        .collect();
    let header = read("../include/10.0.22621.0/km/wdm.h");
    // A prototype is not indented and not a typedef: `TYPE Name(...`.
    let declared: Vec<&str> = header
        .lines()
        .filter(|line| line.starts_with(|first: char| first.is_ascii_uppercase() || first == '_'))
        .filter_map(|line| line.split_once('(').map(|(head, _)| (line, head)))
        .filter_map(|(line, head)| {
            let head = if head == "__declspec" {
                line.split('(').nth(1)?
            } else {
                head
            };
            head.split_whitespace().last()
        })
        .collect();

    assert!(declared.contains(&"DbgPrint") && declared.contains(&"KeBugCheckEx"));
    for function in declared {
        assert!(linkable.contains(function), "{function} is in no def file");
    }
}
