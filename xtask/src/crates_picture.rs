//! Draws docs/crates.svg: the crates of the workspace, and an arrow from each to the ones that
//! it depends on.
//!
//! Crates are in layers: a crate stands to the right of everything that it depends on. So all
//! arrows point left, and a cycle, which cargo refuses, could not be drawn. An arrow is left out
//! where other arrows lead to the same crate.

use std::{collections::BTreeMap, fmt::Write as _};

use serde_json::Value;

use crate::tool::{self, ToolError, cargo};

/// The picture, from the project's root.
pub const FILE: &str = "docs/crates.svg";

const BOX: (usize, usize) = (150, 40);
const GAP: (usize, usize) = (70, 26);
const MARGIN: usize = 20;

/// The names of the workspace's crates, each with the ones that it depends on, without build
/// and development dependencies.
type Crates = BTreeMap<String, Vec<String>>;

/// The workspace cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    /// `cargo metadata` fails.
    #[error(transparent)]
    Cargo(#[from] ToolError),
    /// Its output is not JSON.
    #[error("the output of `cargo metadata`: {0}")]
    Output(#[from] serde_json::Error),
}

/// The picture of the workspace as it is.
///
/// # Errors
/// See [`WorkspaceError`].
pub fn draw() -> Result<String, WorkspaceError> {
    Ok(picture(&workspace_crates()?))
}

fn workspace_crates() -> Result<Crates, WorkspaceError> {
    let metadata =
        tool::output(cargo("metadata").args(["--format-version", "1", "--no-deps", "--offline"]))?;
    Ok(crates(&serde_json::from_str(&metadata)?))
}

fn crates(metadata: &Value) -> Crates {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let packages = list(&metadata["packages"]);
    let is_ours = |dependency: &Value| dependency["path"].is_string();
    packages
        .iter()
        .map(|package| {
            let needs = list(&package["dependencies"])
                .iter()
                .filter(|dependency| is_ours(dependency) && dependency["kind"].is_null())
                .map(|dependency| text(&dependency["name"]))
                .collect();
            (text(&package["name"]), needs)
        })
        .collect()
}

/// The layer of a crate: 0 if it depends on none.
fn layer(crates: &Crates, name: &str) -> usize {
    let needs = crates.get(name).into_iter().flatten();
    needs.map(|need| layer(crates, need) + 1).max().unwrap_or(0)
}

/// Whether `name` depends on `other`, perhaps through others.
fn reaches(crates: &Crates, name: &str, other: &str) -> bool {
    let needs = crates.get(name).into_iter().flatten();
    needs
        .into_iter()
        .any(|need| need == other || reaches(crates, need, other))
}

fn picture(crates: &Crates) -> String {
    let mut layers: Vec<Vec<&str>> = Vec::new();
    for name in crates.keys() {
        let layer = layer(crates, name);
        layers.resize(layers.len().max(layer + 1), Vec::new());
        layers[layer].push(name);
    }
    let position = |name: &str| {
        layers.iter().enumerate().find_map(|(column, names)| {
            let row = names.iter().position(|other| *other == name)?;
            Some((
                MARGIN + column * (BOX.0 + GAP.0),
                MARGIN + row * (BOX.1 + GAP.1),
            ))
        })
    };
    let rows = layers.iter().map(Vec::len).max().unwrap_or(0);
    let (width, height) = (
        2 * MARGIN + layers.len() * (BOX.0 + GAP.0) - GAP.0,
        2 * MARGIN + rows * (BOX.1 + GAP.1) - GAP.1,
    );
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="13" role="img" aria-labelledby="title">
<title id="title">The crates of the workspace: each arrow leads from a crate to one that it depends on</title>
<style>rect.crate{{fill:#eef3fa;stroke:#33609c}}text{{fill:#222}}path{{stroke:#8aa3c4;stroke-width:1.5;fill:none}}</style>
<rect width="{width}" height="{height}" fill="#fff"/>
<defs><marker id="tip" markerWidth="9" markerHeight="9" refX="8" refY="4" orient="auto"><path d="M0,0 L8,4 L0,8 z" style="fill:#33609c;stroke:none"/></marker></defs>
"##
    );
    for (name, needs) in crates {
        let is_drawn = |need: &&String| !needs.iter().any(|other| reaches(crates, other, need));
        for need in needs.iter().filter(is_drawn) {
            if let (Some((x, y)), Some((to_x, to_y))) = (position(name), position(need)) {
                let (y, to_x, to_y) = (y + BOX.1 / 2, to_x + BOX.0, to_y + BOX.1 / 2);
                let bend = GAP.0 * 2 / 3;
                let _ = writeln!(
                    svg,
                    r#"<path d="M{x},{y} C{},{y} {},{to_y} {to_x},{to_y}" marker-end="url(#tip)"/>"#,
                    x - bend,
                    to_x + bend
                );
            }
        }
    }
    for name in crates.keys() {
        if let Some((x, y)) = position(name) {
            let _ = writeln!(
                svg,
                r#"<rect x="{x}" y="{y}" width="{}" height="{}" rx="5" class="crate"/>
<text x="{}" y="{}" text-anchor="middle">{}</text>"#,
                BOX.0,
                BOX.1,
                x + BOX.0 / 2,
                y + BOX.1 / 2 + 5,
                name.trim_start_matches("ferrostor-")
            );
        }
    }
    svg.push_str("</svg>\n");
    svg
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::workspace;

    #[test]
    fn the_file_is_what_the_command_draws() {
        let file = fs::read_to_string(workspace::root().join(FILE)).expect(FILE);
        assert!(
            file == draw().expect("cargo runs"),
            "{FILE} is out of date: run `cargo xtask picture`"
        );
    }

    #[test]
    fn the_testbed_knows_none_of_the_drivers_crates() {
        let crates = workspace_crates().expect("the workspace can be read");
        let testbed = crates
            .iter()
            .filter(|(name, _)| name.starts_with("testbed"));
        for (name, needs) in testbed {
            let others: Vec<_> = needs
                .iter()
                .filter(|need| !need.starts_with("testbed"))
                .collect();
            assert!(others.is_empty(), "{name} depends on {others:?}");
        }
    }
}
