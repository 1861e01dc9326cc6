//! Drivers can be built with the headers of old WDKs: their sources and crates use no name of
//! `wdk_sys` that the WDKs 10.0.10240 and 10.0.16299 lack. `newer-than-10.0.10240.txt` lists these
//! names.

use std::{collections::BTreeMap, fs, path::Path};

fn read(path: impl AsRef<Path>) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The constants that crates/storport declares itself, by name.
fn own() -> BTreeMap<String, i64> {
    read("../../crates/storport/src/newer.rs")
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pub const "))
        .filter_map(|line| line.strip_suffix(';')?.split_once(": Type = "))
        .map(|(name, value)| (name.to_owned(), value.parse().expect("a number")))
        .collect()
}

#[test]
fn the_values_of_newer_names_are_those_of_the_table() {
    let table: serde_json::Value =
        serde_json::from_str(&read("storport-wdk.json")).expect("the table is JSON");
    let enums = table["enums"].as_object().expect("enums by name");
    let own = own();
    assert_eq!(own.len(), 5);
    for (name, value) in own {
        let expected: Vec<i64> = enums.values().filter_map(|of| of[&name].as_i64()).collect();
        assert_eq!(expected, [value], "{name}");
    }
}

#[test]
fn drivers_name_nothing_that_old_kits_lack() {
    let newer = read("newer-than-10.0.10240.txt");
    let newer: Vec<&str> = newer.lines().collect();
    let own = own();
    let mut found = 0;
    for folder in [
        "crates/storport/src",
        "src",
        "examples/ramdisk/src",
        "examples/locks/src",
    ] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../..")
            .join(folder);
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            for (line, text) in (1..).zip(read(&path).lines()) {
                let code = text.split("//").next().unwrap_or_default();
                let words = code.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                for word in words.filter(|word| newer.contains(word)) {
                    found += 1;
                    assert!(
                        own.contains_key(word),
                        "{}:{line}: the WDK 10.0.16299 lacks {word}: declare it in \
                         crates/storport/src/newer.rs",
                        path.display()
                    );
                }
            }
        }
    }
    assert!(found >= 5, "the names of newer.rs are among them");
}
