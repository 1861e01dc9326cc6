//! The examples are what the README says of them.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Every Rust source under `folder`.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry of it").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../examples")
        .join(name)
}

#[test]
fn the_ramdisk_has_fewer_than_250_lines() {
    let lines: usize = sources(&example("ramdisk"))
        .iter()
        .map(|path| fs::read_to_string(path).expect("a text").lines().count())
        .sum();

    assert!((1..250).contains(&lines), "{lines} lines");
}

#[test]
fn every_example_forbids_unsafe_code() {
    for example in fs::read_dir(example("")).expect("the folder of examples") {
        let root = example.expect("an example").path().join("src/lib.rs");
        let text = fs::read_to_string(&root).expect("a text");
        assert!(
            text.lines().any(|line| line == "#![forbid(unsafe_code)]"),
            "{}",
            root.display()
        );
    }
}
