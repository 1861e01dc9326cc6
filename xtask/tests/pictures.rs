//! Tests that docs/life-cycle.svg agrees with `src/device.rs`, and the graph of crates in
//! CONTRIBUTING.md with the manifests.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use cargo_metadata::{DependencyKind, MetadataCommand};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

fn read(file: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(file)).expect(file)
}

/// The text between `start` and the next `end`.
fn between<'t>(text: &'t str, start: &str, end: &str) -> &'t str {
    let (_, rest) = text.split_once(start).expect(start);
    rest.split_once(end).expect(end).0
}

#[test]
fn the_life_cycle_has_the_numbers_of_the_driver() {
    let (driver, picture) = (read("src/device.rs"), read("docs/life-cycle.svg"));
    for (constant, sentence) in [
        ("MAX_RESETS: usize", "more than # resets by the driver"),
        ("MAX_RESETS: usize", "or # failed starts"),
        ("RESET_WINDOW: Microseconds", "in #, or"),
        ("RESET_PATIENCE: Microseconds", "later than #: NO_HBA"),
        ("FIRST_RETRY: Microseconds", "next start after #; "),
    ] {
        let value = between(&driver, &format!("const {constant} = "), ";");
        let value = value.replace(" * SECOND", " s");
        let value = value.replace(" * MILLISECOND", " ms");
        let sentence = sentence.replace('#', &value);
        assert!(picture.contains(&sentence), "no \"{sentence}\"");
    }
}

#[test]
fn the_life_cycle_has_the_stages_of_the_driver() {
    let (driver, picture) = (read("src/device.rs"), read("docs/life-cycle.svg"));
    let stages: Vec<&str> = between(&driver, "enum Stage<'a> {", "\n}")
        .lines()
        .filter_map(|line| line.trim().strip_suffix(','))
        .map(|line| line.split('(').next().unwrap_or(line))
        // Between two stages.
        .filter(|name| !["Stopping", "Taken"].contains(name))
        .collect();
    let drawn: Vec<&str> = picture
        .split("class=\"head\">")
        .skip(1)
        .filter_map(|text| text.split('<').next())
        // A device that is given up is in the stage Reset.
        .filter(|name| *name != "Given up")
        .collect();
    assert_eq!(drawn, stages);
}

/// The workspace's crates, each with those that it depends on, without build and development
/// dependencies.
fn crates() -> BTreeMap<String, Vec<String>> {
    let mut metadata = MetadataCommand::new();
    metadata.current_dir(ROOT).no_deps();
    let name = |name: &str| name.trim_start_matches("ferrostor-").to_owned();
    let packages = metadata.exec().expect("cargo metadata").packages;
    let crates = packages.iter().map(|package| {
        let needs = package.dependencies.iter();
        let ours = needs.filter(|it| it.path.is_some() && it.kind == DependencyKind::Normal);
        (name(&package.name), ours.map(|it| name(&it.name)).collect())
    });
    crates.collect()
}

#[test]
fn the_graph_of_crates_has_the_dependencies_of_the_manifests() {
    /// Whether `name` depends on `other`, perhaps through others.
    fn reaches(crates: &BTreeMap<String, Vec<String>>, name: &str, other: &str) -> bool {
        let mut needs = crates[name].iter();
        needs.any(|need| need == other || reaches(crates, need, other))
    }
    let crates = crates();
    let mut arrows = BTreeSet::new();
    for (name, needs) in &crates {
        for need in needs {
            if !needs.iter().any(|other| reaches(&crates, other, need)) {
                arrows.insert(format!("{name} --> {need}"));
            }
        }
    }
    let page = read("CONTRIBUTING.md");
    let graph = between(&page, "```mermaid\ngraph LR\n", "\n```").lines();
    let drawn: BTreeSet<_> = graph.map(|line| line.trim().to_owned()).collect();
    assert_eq!(drawn, arrows, "left: CONTRIBUTING.md, right: the manifests");
}

#[test]
fn the_testbed_knows_none_of_the_drivers_crates() {
    for (name, needs) in crates() {
        let others = needs.iter().find(|need| !need.starts_with("testbed"));
        assert!(
            !name.starts_with("testbed") || others.is_none(),
            "{name}: {others:?}"
        );
    }
}
