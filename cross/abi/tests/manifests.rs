//! The manifests in `cross/` agree with those that they repeat: `cross/Cargo.toml` with the
//! driver's part of the root manifest, and one for each example.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use toml::{Table, Value};

fn read(path: &str) -> Table {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .parse()
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
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

#[test]
fn both_manifests_describe_the_same_driver() {
    let mut root = read("../Cargo.toml");
    let mut cross = read("Cargo.toml");

    // These differ because one manifest is a folder deeper, and each has its own
    // workspace.
    for key in ["members", "default-members", "exclude"] {
        remove(&mut root, &["workspace", key]);
    }
    // The testbed's fixtures are not part of the driver.
    remove(&mut cross, &["profile", "fixtures"]);
    // Programs of the host are not built from cross/, and the libraries of those are not used
    // by drivers.
    remove(&mut root, &["workspace", "dependencies"]);
    remove(&mut root, &["profile", "host"]);
    remove(&mut root, &["profile", "dev", "package"]);
    for path in [
        &["workspace", "members"][..],
        &["package", "build"],
        &["lib", "path"],
        &["patch"],
    ] {
        remove(&mut cross, path);
    }
    for table in ["dependencies", "build-dependencies"] {
        let dependencies = cross[table].as_table_mut().expect("a table");
        for (_, dependency) in dependencies.iter_mut() {
            if let Some(Value::String(path)) = dependency.get_mut("path") {
                *path = path.trim_start_matches("../").to_owned();
            }
        }
    }

    assert_same("Cargo.toml", root, cross);
}

/// Fails if a manifest of cross/ differs from the one at `path`.
fn assert_same(path: &str, there: Table, here: Table) {
    let [there, here] = [there, here].map(|manifest| entries("", &Value::from(manifest)));
    assert_eq!(
        here.difference(&there).collect::<Vec<_>>(),
        there.difference(&here).collect::<Vec<_>>(),
        "left: in cross/{path} only; right: in its original only"
    );
}

/// The folders of examples/.
fn examples() -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    fs::read_dir(folder)
        .expect("the folder of examples")
        .map(|example| example.expect("a folder in it").file_name())
        .map(|name| name.into_string().expect("a name in UTF-8"))
        .collect()
}

#[test]
fn both_manifests_of_an_example_describe_the_same_driver() {
    for example in examples() {
        let original = read(&format!("../examples/{example}/Cargo.toml"));
        let path = format!("{example}/Cargo.toml");
        let mut cross = read(&path);

        for (key, value) in [
            (["package", "build"], "build.rs"),
            (["lib", "path"], "src/lib.rs"),
        ] {
            assert_eq!(
                cross[key[0]][key[1]].as_str(),
                Some(format!("../../examples/{example}/{value}").as_str()),
                "cross/{path}: {key:?}"
            );
            remove(&mut cross, &key);
        }
        assert_same(&path, original, cross);
    }
}

#[test]
fn cross_builds_every_example() {
    let cross = read("Cargo.toml");
    let members: BTreeSet<String> = cross["workspace"]["members"]
        .as_array()
        .expect("an array")
        .iter()
        .map(|member| member.as_str().expect("a folder").to_owned())
        .collect();

    let examples = examples();
    assert!(examples.contains("ramdisk"));
    assert_eq!(examples.difference(&members).collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn cross_builds_the_sources_of_the_root_package() {
    let cross = read("Cargo.toml");

    assert_eq!(cross["package"]["build"].as_str(), Some("../build.rs"));
    assert_eq!(cross["lib"]["path"].as_str(), Some("../src/lib.rs"));
    assert_eq!(
        cross["patch"],
        Value::from(Table::from_iter([(
            "crates-io".to_owned(),
            Value::from(Table::from_iter([(
                "wdk-build".to_owned(),
                Value::from(Table::from_iter([(
                    "path".to_owned(),
                    Value::from("wdk-build")
                )]))
            )]))
        )]))
    );
}

/// The versions in a lock file, by package and range. Cargo treats versions that differ in the
/// leftmost number other than 0 as different packages.
fn locked(path: &str) -> BTreeMap<(String, String), String> {
    let lock = read(path);
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
    let root = locked("../Cargo.lock");
    let cross = locked("Cargo.lock");

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
