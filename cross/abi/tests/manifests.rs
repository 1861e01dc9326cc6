//! The manifests in `cross/` agree with those that they repeat: `cross/Cargo.toml` with the
//! driver's part of the root manifest, and one for each example. So do the two lock files.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Component, Path, PathBuf},
};

use toml::{Table, Value};

/// Parses a file of the repository.
fn read(path: &Path) -> Table {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(path);
    fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .parse()
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Reads a manifest. Its paths become those in the repository.
fn manifest(folder: &str) -> Table {
    let mut manifest = read(&Path::new(folder).join("Cargo.toml"));
    let package = manifest["package"].as_table_mut().expect("a table");
    in_repository(folder, package.entry("build").or_insert("build.rs".into()));
    let library = manifest["lib"].as_table_mut().expect("a table");
    in_repository(folder, library.entry("path").or_insert("src/lib.rs".into()));
    for table in ["dependencies", "build-dependencies"] {
        let dependencies = manifest[table].as_table_mut().expect("a table");
        for (_, dependency) in dependencies.iter_mut() {
            if let Some(path) = dependency.get_mut("path") {
                in_repository(folder, path);
            }
        }
    }
    manifest
}

/// Replaces a path in the manifest of `folder` with the path in the repository.
fn in_repository(folder: &str, path: &mut Value) {
    let mut whole = PathBuf::from(folder);
    for component in Path::new(path.as_str().expect("a path")).components() {
        if component == Component::ParentDir {
            assert!(whole.pop(), "{path} is in the repository");
        } else {
            whole.push(component);
        }
    }
    *path = Value::from(whole.to_str().expect("a path in UTF-8"));
}

fn remove(manifest: &mut Table, path: &[&str]) {
    let (last, tables) = path.split_last().expect("a path has a key");
    let table = tables.iter().fold(manifest, |table, key| {
        table[*key].as_table_mut().expect("a table")
    });
    assert!(table.remove(*last).is_some(), "{path:?} is in the manifest");
}

/// Every entry of a manifest, as `path.to.key = value`.
fn entries(path: &str, value: &Value) -> BTreeSet<String> {
    match value {
        Value::Table(table) => table
            .iter()
            .flat_map(|(key, value)| entries(&format!("{path}.{key}"), value))
            .collect(),
        _ => BTreeSet::from([format!("{path} = {value}")]),
    }
}

/// Fails if a manifest in `cross/` differs from its original in `folder`.
fn assert_same(folder: &str, original: Table, cross: Table) {
    let [original, cross] = [original, cross].map(|manifest| entries("", &Value::from(manifest)));
    assert_eq!(
        cross.difference(&original).collect::<Vec<_>>(),
        original.difference(&cross).collect::<Vec<_>>(),
        "left: only in cross/; right: only in the original in /{folder}"
    );
}

#[test]
fn both_manifests_describe_the_same_driver() {
    let (mut root, mut cross) = (manifest(""), manifest("cross"));
    assert_eq!(
        entries("", &cross["patch"]),
        [".crates-io.wdk-build.path = \"wdk-build\"".to_owned()].into()
    );

    // Each has its own workspace. Programs of the host are not built from cross/, and drivers do
    // not use their libraries. The testbed's fixtures are not part of the driver.
    for path in [
        &["workspace", "members"][..],
        &["workspace", "default-members"],
        &["workspace", "exclude"],
        &["workspace", "dependencies"],
        &["profile", "host"],
        &["profile", "dev", "package"],
    ] {
        remove(&mut root, path);
    }
    for path in [
        &["workspace", "members"][..],
        &["profile", "dev", "package"],
        &["profile", "fixtures"],
        &["patch"],
    ] {
        remove(&mut cross, path);
    }
    assert_same("", root, cross);
}

#[test]
fn cross_builds_every_example_by_a_manifest_that_agrees() {
    let workspace = manifest("cross");
    let members = workspace["workspace"]["members"]
        .as_array()
        .expect("an array");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut examples = 0;
    for example in fs::read_dir(folder).expect("the folder of examples") {
        let name = example.expect("a folder in it").file_name();
        let name = name.to_str().expect("a name in UTF-8");
        assert!(members.contains(&name.into()), "cross/ builds {name}");
        let folder = format!("examples/{name}");
        assert_same(
            &folder,
            manifest(&folder),
            manifest(&format!("cross/{name}")),
        );
        examples += 1;
    }
    assert!(examples > 0);
}

/// The versions in a lock file, by package and range. Cargo treats versions that differ in the
/// leftmost number other than 0 as different packages.
fn locked(path: &str) -> BTreeMap<(String, String), String> {
    let lock = read(Path::new(path));
    let packages = lock["package"].as_array().expect("an array");
    packages
        .iter()
        .map(|package| {
            let field = |name: &str| package[name].as_str().expect("a string").to_owned();
            let version = field("version");
            let mut numbers = version.split('.');
            let mut range = numbers.next().expect("a number").to_owned();
            if range == "0" {
                range = format!("0.{}", numbers.next().expect("a number"));
            }
            ((field("name"), range), version)
        })
        .collect()
}

#[test]
fn packages_in_both_lock_files_have_the_same_versions() {
    let (root, cross) = (locked("Cargo.lock"), locked("cross/Cargo.lock"));

    let shared: Vec<_> = cross
        .iter()
        .filter_map(|(package, here)| Some((package, here, root.get(package)?)))
        .collect();
    let drifted: Vec<_> = shared
        .iter()
        .filter(|(_, here, there)| here != there)
        .collect();

    assert!(shared.iter().any(|((name, _), ..)| name == "wdk-sys"));
    assert!(
        drifted.is_empty(),
        "(package, cross/Cargo.lock, Cargo.lock); settle them with cargo update --precise: {drifted:#?}"
    );
}
