//! Tests that THIRD-PARTY.md names every crate that is linked into the driver, that the versions
//! of libraries are in the root manifest, and that the workflow pins its actions.

use std::{collections::BTreeSet, env, fs, path::Path, process::Command};

use cargo_metadata::MetadataCommand;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// `name version licence` of each crate from a registry that is linked into the
/// driver.
fn linked() -> BTreeSet<String> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["tree", "--manifest-path", "cross/Cargo.toml"])
        .args([
            "--package",
            "ferrostor",
            "--target",
            "x86_64-pc-windows-msvc",
        ])
        .args(["--edges", "normal,no-proc-macro"])
        .args(["--prefix", "none", "--no-dedupe", "--format", "{p} {l}"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout)
        .expect("a text")
        .lines()
        // Crates of this repository have a path.
        .filter(|line| !line.contains("(/"))
        .map(|line| line.replacen(" v", " ", 1))
        .collect()
}

/// The crates in the table, `| [name](address) | version | licence |`.
fn named() -> BTreeSet<String> {
    let text = fs::read_to_string(root().join("THIRD-PARTY.md")).expect("a text");
    let rows = text.lines().filter(|line| line.starts_with("| ["));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let name = cells[1].trim_start_matches('[');
        let name = name.split_once("](").expect("a link").0;
        format!("{name} {} {}", cells[2], cells[3])
    })
    .collect()
}

#[test]
fn the_table_names_what_the_driver_is_linked_with() {
    let (linked, named) = (linked(), named());
    assert_eq!(
        linked.difference(&named).collect::<Vec<_>>(),
        named.difference(&linked).collect::<Vec<_>>(),
        "left: linked and not named; right: named and not linked"
    );
}

#[test]
fn each_crate_may_be_used_under_the_apache_license() {
    for crate_and_licence in linked() {
        assert!(
            crate_and_licence.contains("Apache-2.0"),
            "{crate_and_licence}"
        );
    }
}

/// The drivers, which use wdk-sys, name their own versions.
#[test]
fn only_the_root_manifest_has_versions_of_libraries() {
    let workspace = MetadataCommand::new().no_deps().exec().expect("cargo runs");
    for package in workspace.packages {
        if package
            .dependencies
            .iter()
            .any(|it| it.name.starts_with("wdk-"))
        {
            continue;
        }
        let manifest = fs::read_to_string(&package.manifest_path).expect("a manifest");
        let (_, dependencies) = manifest.split_once("dependencies]").unwrap_or_default();
        let mut lines = dependencies.lines().filter(|line| !line.starts_with('['));
        let version = lines.find(|line| line.contains("= \""));
        assert_eq!(version, None, "{}: use `workspace = true`", package.name);
    }
}

/// A tag can be moved to other code, a commit cannot.
#[test]
fn the_workflow_names_each_action_by_its_commit() {
    let workflow = fs::read_to_string(root().join(".github/workflows/ci.yml")).expect("a text");
    for line in workflow.lines().filter(|line| line.contains("uses:")) {
        let (_, version) = line.split_once('@').expect(line);
        let hash = version.split(' ').next().unwrap_or_default();
        let is_hash = hash.len() == 40 && hash.chars().all(|c| c.is_ascii_hexdigit());
        assert!(is_hash, "{line}");
    }
}
