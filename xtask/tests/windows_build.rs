//! Tests that `cargo make` and `cargo wdk build` on Windows find the files that they need.
//!
//! The tests need no Windows. They compare our files with the source of the wdk-build in
//! Cargo.lock, whose makefile `cargo make` follows. cargo-wdk is a program, not
//! a dependency; version 0.2.0 looks for the same files at the same places.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use serde_json::Value;
use toml::Table;

#[path = "../../build/inx.rs"]
mod inx;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The text of a file, without the carriage returns of wdk-build's files.
fn read(path: &Path) -> String {
    fs::read_to_string(path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .replace("\r\n", "\n")
}

/// All packages of a build for Windows, from `cargo metadata`.
fn packages() -> Vec<Value> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1"])
        .args(["--filter-platform", "x86_64-pc-windows-msvc"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON of cargo");
    match metadata["packages"].take() {
        Value::Array(packages) => packages,
        other => panic!("packages: {other}"),
    }
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_else(|| panic!("no {key}"))
}

fn folder(package: &Value) -> PathBuf {
    let manifest = Path::new(text(package, "manifest_path"));
    manifest.parent().expect("a manifest's folder").to_owned()
}

/// The wdk-build that the build uses.
fn wdk_build() -> Value {
    let mut found = packages();
    found.retain(|package| package["name"] == "wdk-build");
    assert_eq!(found.len(), 1, "wdk-build's makefile refuses several");
    found.remove(0)
}

/// The packages that the tools treat as drivers.
fn drivers() -> Vec<Value> {
    let mut found = packages();
    found.retain(|package| !package["metadata"]["wdk"].is_null());
    found
}

fn our_makefile() -> Table {
    read(&root().join("Makefile.toml")).parse().expect("TOML")
}

fn makefile_of_wdk_build() -> Table {
    read(&folder(&wdk_build()).join("rust-driver-makefile.toml"))
        .parse()
        .expect("TOML")
}

#[test]
fn our_makefile_extends_the_one_that_its_load_script_links_into_target() {
    let ours = our_makefile();
    let wdk_build = wdk_build();
    let source = read(&folder(&wdk_build).join("src/cargo_make.rs"));

    let extended = ours["extend"].as_str().expect("a path");
    let name = extended.strip_prefix("target/").expect("a file in target/");
    assert!(source.contains(&format!("RUST_DRIVER_MAKEFILE_NAME: &str = \"{name}\";")));
    let script = ours["config"]["load_script"].as_str().expect("a script");
    let version = text(&wdk_build, "version");
    assert!(script.contains(&format!("//! wdk-build = \"{version}\"\n")));
    assert!(script.contains("wdk_build::cargo_make::load_rust_driver_makefile()?"));
    assert!(source.contains("pub fn load_rust_driver_makefile() -> Result<(), ConfigError>"));
}

#[test]
fn cargo_make_builds_the_driver_and_not_the_default_members() {
    const FLAGS: &str = "CARGO_MAKE_CARGO_BUILD_TEST_FLAGS";
    let root_manifest: Table = read(&root().join("Cargo.toml")).parse().expect("TOML");
    let driver = root_manifest["package"]["name"].as_str().expect("a name");

    // wdk-build empties the variable, unless a makefile that extends its own
    // sets it, and adds --release and its like to what it holds then.
    assert_eq!(
        our_makefile()["env"][FLAGS].as_str(),
        Some(format!("--package {driver}").as_str())
    );
    assert!(makefile_of_wdk_build()["env"].get(FLAGS).is_some());
    let source = read(&folder(&wdk_build()).join("src/cargo_make.rs"));
    assert!(source.contains(&format!("{FLAGS}_ENV_VAR: &str = \"{FLAGS}\";")));
    assert!(source.contains("env_var_value.push_str(string_to_append);"));
}

#[test]
fn our_makefile_changes_no_task_that_wdk_build_does_not_have() {
    let theirs = makefile_of_wdk_build();
    let known = theirs["tasks"].as_table().expect("tasks");
    let ours = our_makefile();
    let changed = ours.get("tasks").and_then(|tasks| tasks.as_table());
    for task in changed.into_iter().flat_map(Table::keys) {
        assert!(known.contains_key(task), "wdk-build has no task {task}");
    }
    // The files that only `cargo make` uses.
    assert_eq!(
        known["default"]["alias"].as_str(),
        Some("package-driver-flow")
    );
    assert_eq!(
        known["package-driver-flow"]["run_task"].as_str(),
        Some("package-driver")
    );
}

#[test]
fn all_drivers_have_the_one_configuration_that_wdk_build_allows() {
    let drivers = drivers();
    assert!(drivers.iter().any(|driver| driver["name"] == "ferrostor"));

    for driver in &drivers {
        assert_eq!(
            driver["metadata"]["wdk"],
            serde_json::json!({ "driver-model": { "driver-type": "WDM" } }),
            "{}",
            driver["name"]
        );
    }
    let source = read(&folder(&wdk_build()).join("src/lib.rs"));
    let models = source
        .split_once("pub enum DriverConfig {")
        .and_then(|(_, rest)| rest.split_once("\n}"))
        .expect("wdk-build's driver models")
        .0;
    assert!(models.lines().any(|line| line.trim() == "Wdm,"));
}

#[test]
fn every_driver_is_a_cdylib_that_has_its_packages_name() {
    for driver in drivers() {
        let targets = driver["targets"].as_array().expect("targets");
        assert!(
            targets.iter().any(|target| target["name"] == driver["name"]
                && target["kind"] == serde_json::json!(["cdylib"])),
            "{}: {targets:?}",
            driver["name"]
        );
    }
}

#[test]
fn the_inf_file_of_every_driver_is_where_the_tools_look_for_it() {
    let task = &makefile_of_wdk_build()["tasks"]["copy-inx-to-output"];
    let script = task["script"].as_str().expect("a script");
    assert!(script.contains("cargo_make_working_directory,\n    format!(\"{}.inx\", wdk_build::cargo_make::get_current_package_name())"));

    for driver in drivers() {
        let name = text(&driver, "name");
        // The build copies the root package's file: see below.
        let inx = match name {
            "ferrostor" => folder(&driver).join("inf/ferrostor.inx"),
            _ => folder(&driver).join(format!("{name}.inx")),
        };
        assert!(
            read(&inx).contains(&format!("CatalogFile = {name}.cat")),
            "stampinf and inf2cat name the catalog so: {}",
            inx.display()
        );
    }
}

#[test]
fn the_build_copies_the_inf_file_beside_the_manifest_and_keeps_it_current() {
    let package = tempfile::tempdir().expect("a folder");
    let original = package.path().join("inf/ferrostor.inx");
    let copy = package.path().join("ferrostor.inx");
    fs::create_dir(package.path().join("inf")).expect("a folder in it");

    for text in ["first", "second"] {
        fs::write(&original, text).expect("an INF file");
        inx::copy_beside_manifest(package.path()).expect("a copy");
        assert_eq!(read(&copy), text);
    }
    fs::remove_file(&copy).expect("a copy to remove");
    inx::copy_beside_manifest(package.path()).expect("a copy");
    assert_eq!(read(&copy), "second");
}

#[test]
fn a_current_inf_file_is_not_written_again() {
    let package = tempfile::tempdir().expect("a folder");
    let copy = package.path().join("ferrostor.inx");
    fs::create_dir(package.path().join("inf")).expect("a folder in it");
    fs::write(package.path().join("inf/ferrostor.inx"), "text").expect("an INF file");
    inx::copy_beside_manifest(package.path()).expect("a copy");
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
    let open = File::options().append(true).open(&copy);
    open.and_then(|file| file.set_modified(long_ago))
        .expect("the copy is an old one");

    inx::copy_beside_manifest(package.path()).expect("nothing to do");

    let modified = fs::metadata(&copy).and_then(|of| of.modified());
    assert_eq!(modified.expect("a time"), long_ago);
}

#[test]
fn a_folder_without_an_inf_file_is_not_changed() {
    let cross = tempfile::tempdir().expect("a folder");

    inx::copy_beside_manifest(cross.path()).expect("nothing to do");

    assert!(!cross.path().join("ferrostor.inx").exists());
}
