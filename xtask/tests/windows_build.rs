//! Tests that `cargo make` and `cargo wdk build` on Windows find the files that they need.
//!
//! The tests need no Windows. They compare our files with the source of the wdk-build in
//! Cargo.lock, whose makefile `cargo make` follows. cargo-wdk is a program, not
//! a dependency; version 0.2.0 looks for the same files at the same places.

use std::{
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use cargo_metadata::{MetadataCommand, Package, TargetKind};
use fs_err as fs;
use toml::Table;

#[path = "../../build/inx.rs"]
mod inx;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// All packages of a build for Windows.
static PACKAGES: LazyLock<Vec<Package>> = LazyLock::new(|| {
    let mut metadata = MetadataCommand::new();
    metadata.current_dir(ROOT);
    let windows = ["--filter-platform", "x86_64-pc-windows-msvc"];
    metadata.other_options(windows.map(str::to_owned));
    metadata.exec().expect("cargo metadata").packages
});

/// The wdk-build that the build uses.
static WDK_BUILD: LazyLock<&Package> = LazyLock::new(|| {
    let mut found = PACKAGES.iter().filter(|it| *it.name == "wdk-build");
    let wdk_build = found.next().expect("wdk-build");
    assert!(
        found.next().is_none(),
        "wdk-build's makefile refuses several"
    );
    wdk_build
});

/// The packages that the tools treat as drivers.
fn drivers() -> impl Iterator<Item = &'static Package> {
    PACKAGES.iter().filter(|it| !it.metadata["wdk"].is_null())
}

/// A file of the package, without the carriage returns of wdk-build's files.
fn read(package: &Package, file: &str) -> String {
    let folder = package.manifest_path.parent().expect("a folder");
    let text = fs::read_to_string(folder.join(file));
    text.expect("a text").replace("\r\n", "\n")
}

fn our_makefile() -> Table {
    let text = fs::read_to_string(format!("{ROOT}/Makefile.toml"));
    text.expect("a makefile").parse().expect("TOML")
}

fn makefile_of_wdk_build() -> Table {
    let text = read(&WDK_BUILD, "rust-driver-makefile.toml");
    text.parse().expect("TOML")
}

#[test]
fn our_makefile_extends_the_one_that_its_load_script_links_into_target() {
    let ours = our_makefile();
    let source = read(&WDK_BUILD, "src/cargo_make.rs");

    let extended = ours["extend"].as_str().expect("a path");
    let name = extended.strip_prefix("target/").expect("a file in target/");
    assert!(source.contains(&format!("RUST_DRIVER_MAKEFILE_NAME: &str = \"{name}\";")));
    let script = ours["config"]["load_script"].as_str().expect("a script");
    let version = &WDK_BUILD.version;
    assert!(script.contains(&format!("//! wdk-build = \"{version}\"\n")));
    assert!(script.contains("wdk_build::cargo_make::load_rust_driver_makefile()?"));
    assert!(source.contains("pub fn load_rust_driver_makefile() -> Result<(), ConfigError>"));
}

#[test]
fn cargo_make_builds_the_driver_and_not_the_default_members() {
    const FLAGS: &str = "CARGO_MAKE_CARGO_BUILD_TEST_FLAGS";
    // wdk-build empties the variable, unless a makefile that extends its own
    // sets it, and adds --release and its like to what it holds then.
    assert_eq!(
        our_makefile()["env"][FLAGS].as_str(),
        Some("--package ferrostor")
    );
    assert!(makefile_of_wdk_build()["env"].get(FLAGS).is_some());
    let source = read(&WDK_BUILD, "src/cargo_make.rs");
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
fn every_driver_has_the_one_configuration_that_wdk_build_allows_and_its_packages_name() {
    assert!(drivers().any(|driver| *driver.name == "ferrostor"));
    for driver in drivers() {
        let name = driver.name.as_str();
        let wdm = serde_json::json!({ "driver-model": { "driver-type": "WDM" } });
        assert_eq!(driver.metadata["wdk"], wdm, "{name}");
        let is_driver = |target: &cargo_metadata::Target| {
            target.name == name && target.kind == [TargetKind::CDyLib]
        };
        assert!(driver.targets.iter().any(is_driver), "{name}");
    }
    let source = read(&WDK_BUILD, "src/lib.rs");
    let models = source
        .split_once("pub enum DriverConfig {")
        .and_then(|(_, rest)| rest.split_once("\n}"))
        .expect("wdk-build's driver models")
        .0;
    assert!(models.lines().any(|line| line.trim() == "Wdm,"));
}

#[test]
fn the_inf_file_of_every_driver_is_where_the_tools_look_for_it() {
    let task = &makefile_of_wdk_build()["tasks"]["copy-inx-to-output"];
    let script = task["script"].as_str().expect("a script");
    assert!(script.contains("cargo_make_working_directory,\n    format!(\"{}.inx\", wdk_build::cargo_make::get_current_package_name())"));

    for driver in drivers() {
        let name = driver.name.as_str();
        // The build copies the root package's file: see below.
        let folder = if name == "ferrostor" { "inf/" } else { "" };
        assert!(
            read(driver, &format!("{folder}{name}.inx"))
                .contains(&format!("CatalogFile = {name}.cat")),
            "stampinf and inf2cat name the catalog so: {name}"
        );
    }
}

#[test]
fn the_build_copies_the_inf_file_beside_the_manifest_and_writes_only_a_changed_one() {
    let package = tempfile::tempdir().expect("a folder");
    let original = package.path().join("inf/ferrostor.inx");
    let copy = package.path().join("ferrostor.inx");
    let build = || inx::copy_beside_manifest(package.path()).expect("a copy");
    let is_copied = |text: &str| fs::read_to_string(&copy).expect("a copy") == text;

    // A folder without an INF file, such as cross/.
    build();
    assert!(!copy.exists());
    fs::create_dir(package.path().join("inf")).expect("a folder in it");
    for text in ["first", "second"] {
        fs::write(&original, text).expect("an INF file");
        build();
        assert!(is_copied(text));
    }
    fs::remove_file(&copy).expect("a copy to remove");
    build();
    assert!(is_copied("second"));

    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
    let open = fs::OpenOptions::new().append(true).open(&copy);
    open.and_then(|file| file.set_modified(long_ago))
        .expect("the copy is an old one");
    build();
    let modified = fs::metadata(&copy).and_then(|of| of.modified());
    assert_eq!(modified.expect("a time"), long_ago);
}
