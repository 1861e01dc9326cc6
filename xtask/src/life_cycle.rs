//! Draws docs/life-cycle.svg, the state diagram of the device.
//!
//! Tests compare the numbers and stages in the picture with `src/device.rs`, and the file
//! with the output of this module.

use std::fmt::Write as _;

/// The picture, from the project's root.
pub const FILE: &str = "docs/life-cycle.svg";

/// The driver gives up the device after more resets than this within [`WINDOW_SECONDS`], or
/// after as many failed starts in a row.
const MAX_RESETS: u32 = 8;
const WINDOW_SECONDS: u32 = 60;

/// Time that the device has to confirm a reset before requests fail.
const PATIENCE_SECONDS: u32 = 10;

/// Delay before the second attempt to start the device.
const FIRST_RETRY_MILLISECONDS: u32 = 100;

/// A stage: the position of its box, its name, the fate of requests in it, and the CSS class
/// of its colour.
struct Stage {
    x: u32,
    y: u32,
    width: u32,
    name: &'static str,
    lines: Vec<String>,
    class: &'static str,
}

const BOX_HEIGHT: u32 = 84;

fn stages() -> Vec<Stage> {
    let wait = "new requests: BUSY";
    let paused = "Storport is paused";
    let stage = |(x, y, width), name, lines: &[&str], class| Stage {
        x,
        y,
        width,
        name,
        lines: lines.iter().map(ToString::to_string).collect(),
        class,
    };
    let late = format!("later than {PATIENCE_SECONDS} s: NO_HBA");
    vec![
        stage((40, 150, 220), "Reset", &[wait, paused], "wait"),
        stage(
            (390, 150, 220),
            "Live",
            &["requests go to the device"],
            "live",
        ),
        stage(
            (740, 150, 220),
            "Resetting",
            &["new requests: BUSY, paused", &late],
            "wait",
        ),
        stage(
            (390, 380, 220),
            "Given up",
            &["the device is reset and stays so", "new requests: NO_HBA"],
            "closed",
        ),
        stage(
            (820, 380, 140),
            "Removed",
            &["new requests:", "NO_DEVICE"],
            "closed",
        ),
    ]
}

/// SVG paths of the arrows.
const ARROWS: [&str; 8] = [
    // HwFindAdapter.
    "M100,84 V148",
    // A start.
    "M260,192 H388",
    // A reset begins.
    "M610,192 H738",
    // The device confirms the reset.
    "M760,234 V290 H150 V236",
    // A start failed.
    "M200,150 V48 H780 V148",
    // ScsiRestartAdapter.
    "M890,106 V148",
    // Given up.
    "M785,234 V422 H612",
    // Removed.
    "M890,234 V378",
];

/// Texts beside the arrows: x, y of the first line, text anchor, lines.
fn labels() -> Vec<(u32, u32, &'static str, Vec<String>)> {
    let lines = |lines: &[&str]| lines.iter().map(ToString::to_string).collect();
    vec![
        (
            40,
            60,
            "start",
            lines(&["HwFindAdapter", "resets the device"]),
        ),
        (324, 184, "middle", lines(&["start"])),
        (
            324,
            212,
            "middle",
            lines(&["first in", "HwPassiveInitialize"]),
        ),
        (
            674,
            62,
            "middle",
            lines(&[
                "protocol violation",
                "DEVICE_NEEDS_RESET",
                "HwResetBus",
                "RESET_LOGICAL_UNIT",
                "RESET_DEVICE",
                "RESET_BUS",
            ]),
        ),
        (
            674,
            212,
            "middle",
            lines(&["requests in flight", "stay in flight"]),
        ),
        (
            450,
            282,
            "middle",
            lines(&[
                "the device confirms (status 0): requests in flight are completed as BUS_RESET",
            ]),
        ),
        (
            490,
            40,
            "middle",
            vec![format!(
                "a start failed: reset again, next start after {FIRST_RETRY_MILLISECONDS} ms; the pause doubles each time"
            )],
        ),
        (
            890,
            80,
            "middle",
            lines(&["ScsiRestartAdapter,", "at any stage"]),
        ),
        (
            775,
            310,
            "end",
            vec![
                format!("more than {MAX_RESETS} resets by the driver"),
                format!("in {WINDOW_SECONDS} s, or {MAX_RESETS} failed starts"),
                "in a row; once confirmed, requests".to_owned(),
                "in flight are completed as NO_HBA".to_owned(),
            ],
        ),
        (
            900,
            290,
            "start",
            lines(&["it reads as", "all ones:", "in flight:", "NO_DEVICE"]),
        ),
    ]
}

/// The picture.
#[must_use]
pub fn draw() -> String {
    let mut svg = String::from(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1000 540" font-family="sans-serif" font-size="15" role="img" aria-labelledby="title">
<title id="title">The life cycle of the device: its stages, what leads from one to the next, and what requests get in each</title>
<style>.live{fill:#e3f1e5;stroke:#3b7d46}.wait{fill:#fff4d6;stroke:#a77b12}.closed{fill:#eee;stroke:#888}text{fill:#222}.small{font-size:12px;fill:#444}.head{font-weight:bold}path{stroke:#33609c;stroke-width:2;fill:none}</style>
<rect width="1000" height="540" fill="#fff"/>
<defs><marker id="tip" markerWidth="9" markerHeight="9" refX="8" refY="4" orient="auto"><path d="M0,0 L8,4 L0,8 z" style="fill:#33609c;stroke:none"/></marker></defs>
"##,
    );
    for arrow in ARROWS {
        let _ = writeln!(svg, r#"<path d="{arrow}" marker-end="url(#tip)"/>"#);
    }
    for stage in stages() {
        let Stage {
            x,
            y,
            width,
            name,
            lines,
            class,
        } = stage;
        let middle = x + width / 2;
        let _ = writeln!(
            svg,
            r#"<rect x="{x}" y="{y}" width="{width}" height="{BOX_HEIGHT}" rx="5" class="{class}"/>
<text x="{middle}" y="{}" text-anchor="middle" class="head">{name}</text>"#,
            y + 26
        );
        write_lines(&mut svg, middle, y + 50, "middle", &lines);
    }
    for (x, y, anchor, lines) in labels() {
        write_lines(&mut svg, x, y, anchor, &lines);
    }
    for (x, class, text) in [
        (40, "live", "requests are served"),
        (
            250,
            "wait",
            "requests wait: Storport sends them again, without limit",
        ),
        (
            650,
            "closed",
            "requests fail until the device is started anew",
        ),
    ] {
        let _ = writeln!(
            svg,
            r#"<rect x="{x}" y="500" width="16" height="16" class="{class}"/>"#
        );
        write_lines(&mut svg, x + 24, 513, "start", &[text.to_owned()]);
    }
    svg.push_str("</svg>\n");
    svg
}

/// Writes lines of small text.
fn write_lines(svg: &mut String, x: u32, y: u32, anchor: &str, lines: &[String]) {
    for (line, y) in lines.iter().zip((y..).step_by(16)) {
        let _ = writeln!(
            svg,
            r#"<text x="{x}" y="{y}" text-anchor="{anchor}" class="small">{line}</text>"#
        );
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::workspace;

    fn read(file: &str) -> String {
        fs::read_to_string(workspace::root().join(file)).expect(file)
    }

    #[test]
    fn the_file_is_what_the_command_draws() {
        assert!(
            read(FILE) == draw(),
            "{FILE} is out of date: run `cargo xtask picture`"
        );
    }

    #[test]
    fn the_numbers_are_those_of_the_driver() {
        let driver = read("src/device.rs");
        for line in [
            format!("const MAX_RESETS: usize = {MAX_RESETS};"),
            format!("const RESET_WINDOW: Microseconds = {WINDOW_SECONDS} * SECOND;"),
            format!("const RESET_PATIENCE: Microseconds = {PATIENCE_SECONDS} * SECOND;"),
            format!("const FIRST_RETRY: Microseconds = {FIRST_RETRY_MILLISECONDS} * MILLISECOND;"),
        ] {
            assert!(driver.contains(&line), "src/device.rs has no `{line}`");
        }
    }

    #[test]
    fn the_stages_are_those_of_the_driver() {
        let driver = read("src/device.rs");
        let (_, stage) = driver.split_once("enum Stage<'a> {").expect("the stages");
        let (stage, _) = stage.split_once("\n}").expect("their end");
        let variants: Vec<&str> = stage
            .lines()
            .filter_map(|line| line.trim().strip_suffix(','))
            .map(|line| line.split('(').next().unwrap_or(line))
            // Between two stages.
            .filter(|name| !["Stopping", "Taken"].contains(name))
            .collect();
        // A device that is given up is in the stage Reset.
        let drawn: Vec<&str> = stages()
            .iter()
            .map(|stage| stage.name)
            .filter(|name| *name != "Given up")
            .collect();
        assert_eq!(drawn, variants);
    }
}
