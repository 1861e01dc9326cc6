//! Tests what the README says about the examples.

use std::{
    fs,
    path::{Path, PathBuf},
};

use toml::Table;

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../examples")
        .join(name)
}

#[test]
fn the_ramdisk_has_fewer_than_250_lines() {
    let sources = fs::read_dir(example("ramdisk/src")).expect("a folder");
    let lines: usize = sources
        .map(|source| fs::read_to_string(source.expect("a file of it").path()))
        .map(|text| text.expect("a text").lines().count())
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

/// The blocks of the storport crate's README in a language.
fn readme_blocks(language: &str) -> Vec<String> {
    let text = fs::read_to_string(example("../crates/storport/README.md")).expect("a text");
    let blocks = text.split("\n```").skip(1).step_by(2);
    let of = |block: &str| Some(block.strip_prefix(language)?.strip_prefix('\n')?.to_owned());
    blocks.filter_map(of).collect()
}

#[test]
fn the_code_in_the_storport_crates_readme_is_the_ramdisks() {
    let sources: Vec<String> = ["build.rs", "src/lib.rs"]
        .map(|file| fs::read_to_string(example("ramdisk").join(file)).expect("a text"))
        .into();
    let blocks = readme_blocks("rust");
    assert!(blocks.len() > 3, "{} blocks", blocks.len());

    for block in blocks {
        let pieces: Vec<&str> = block
            .split("// ...\n")
            .map(|piece| piece.trim_end_matches(' ').trim_matches('\n'))
            .collect();
        assert!(
            sources
                .iter()
                .any(|source| pieces.iter().all(|piece| source.contains(piece))),
            "not in the example: {block}"
        );
    }
}

#[test]
fn the_manifest_and_flags_in_the_storport_crates_readme_are_the_ramdisks() {
    let [shown, flags] = readme_blocks("toml").try_into().expect("two files");
    let shown: Table = shown.replace("git = \"...\", ", "").parse().expect("TOML");
    let flags: Table = flags.parse().expect("TOML");
    let parse = |path: PathBuf| -> Table {
        let text = fs::read_to_string(path).expect("a text");
        text.parse().expect("TOML")
    };
    let mut manifest = parse(example("ramdisk/Cargo.toml"));
    let workspace = parse(example("../Cargo.toml"));
    let cargo = parse(example("../.cargo/config.toml"));

    // The example also has paths and a version, but no tests.
    let dependencies = manifest["dependencies"].as_table_mut().expect("a table");
    for name in ["scsi", "storport"] {
        let dependency = dependencies[name].as_table_mut().expect("a table");
        dependency.remove("path");
    }
    assert_eq!(shown["dependencies"], manifest["dependencies"]);
    assert_eq!(
        shown["build-dependencies"]["wdk-build"],
        manifest["build-dependencies"]["wdk-build"]
    );
    assert_eq!(
        shown["package"]["metadata"],
        manifest["package"]["metadata"]
    );
    assert_eq!(shown["lib"]["crate-type"], manifest["lib"]["crate-type"]);
    for (profile, key) in [("dev", "panic"), ("release", "panic"), ("release", "lto")] {
        assert_eq!(
            shown["profile"][profile][key], workspace["profile"][profile][key],
            "{profile}: {key}"
        );
    }
    let target = "x86_64-pc-windows-msvc";
    assert_eq!(flags["target"][target], cargo["target"][target]);
}
