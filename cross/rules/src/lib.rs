//! Compiles the cases of `crates/storport/tests/rules` for Windows, each twice: the code that
//! breaks a rule must not compile, and its legal twin must.
//!
//! A case is one file, named after its rule. `#[cfg(wrong)]` marks the code that breaks the rule,
//! and `#[cfg(right)]` the code that a driver uses instead. The rest is common to both. A comment
//! after the wrong line has the code and the text of the expected error:
//!
//! ```text
//! queue.with(cx, |again| **again += 1); //~[wrong] ERROR: [E0499] cannot borrow `*cx`
//! ```
//!
//! The file `<rule>.wrong.stderr` has the compiler's whole message. A case fails if there is no
//! error, a second error, a different error or message, or an error on another line. A case also
//! fails if its twin does not compile without a warning.
//!
//! ```text
//! cargo xtask test --only lock-rules      # all cases
//! cd cross
//! cargo test --target-dir ../target/cross --package ferrostor-rules --test rules --
//!     srb double     # only the cases whose path has one of these words
//!     --bless        # writes the messages again: check them with `git diff`
//! ```
#![cfg(not(windows))]

use std::{path::Path, process::Command};

use ui_test::{
    CommandBuilder, Config, Error, Match, bless_output_files,
    custom_flags::edition::Edition,
    dependencies::DependencyBuilder,
    diagnostics::{Diagnostics, rustc::rustc_diagnostics_extractor},
    error_on_output_conflict,
    per_test_config::{Revisioned, TestConfig},
    spanned::Spanned,
};

/// The rustc that wrote the messages. Another version may format them differently. With another
/// version, only the code, the text and the line of each error are compared.
const MESSAGES_ARE_OF: &str = "rustc 1.95.";

/// The target of the cases, which is also that of the driver.
const TARGET: &str = "x86_64-pc-windows-msvc";

/// The root folder of the project.
#[must_use]
pub fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here)
}

/// The configuration for the cases in `folder` and in its subfolders. `target` is cargo's target
/// folder.
#[must_use]
pub fn cases(folder: &Path, target: &Path) -> Config {
    let mut config = Config {
        target: Some(TARGET.to_owned()),
        out_dir: target.join("rules"),
        diagnostic_extractor: diagnostics_with_codes,
        ..Config::rustc(folder)
    };
    config
        .program
        .args
        .extend(["--emit=metadata", "--check-cfg=cfg(wrong,right)"].map(Into::into));

    let comments = &mut config.comment_defaults;
    comments.revisions = Some(["wrong", "right"].map(str::to_owned).to_vec());
    let mut right = Revisioned::default();
    right.exit_status = Spanned::dummy(0).into();
    right.require_annotations = Spanned::dummy(false).into();
    comments.revisioned.insert(vec!["right".to_owned()], right);
    let base = comments.base();
    base.set_custom("edition", Edition("2024".to_owned()));
    base.set_custom("dependencies", dependencies(target));
    // By default ui_test applies the compiler's suggestions and compiles the result. They are
    // seldom what the rule requires, which the twin shows.
    base.custom.remove("rustfix");

    if !rustc_wrote_the_messages() {
        config.output_conflict_handling = ignore_messages;
    }
    remove_varying_parts(&mut config, folder);
    config
}

/// Builds `crates/storport`, in the target folder of the driver's crates.
fn dependencies(target: &Path) -> DependencyBuilder {
    let mut program = CommandBuilder::cargo();
    program.args = ["check", "--release", "--target-dir"]
        .map(Into::into)
        .to_vec();
    program.args.push(target.into());
    program.out_dir_flag = None;
    DependencyBuilder {
        crate_manifest_path: Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"),
        program,
        ..DependencyBuilder::default()
    }
}

fn rustc_wrote_the_messages() -> bool {
    let rustc = Command::new(CommandBuilder::rustc().program)
        .arg("--version")
        .output();
    rustc.is_ok_and(|rustc| rustc.stdout.starts_with(MESSAGES_ARE_OF.as_bytes()))
}

/// Does not compare messages. A twin must still compile without one.
fn ignore_messages(path: &Path, output: &[u8], errors: &mut Vec<Error>, config: &TestConfig) {
    if !is_message(path) {
        error_on_output_conflict(path, output, errors, config);
    }
}

/// Writes messages instead of comparing them. A twin must still compile without one.
pub fn write_messages(path: &Path, output: &[u8], errors: &mut Vec<Error>, config: &TestConfig) {
    if is_message(path) {
        bless_output_files(path, output, errors, config);
    } else {
        error_on_output_conflict(path, output, errors, config);
    }
}

fn is_message(path: &Path) -> bool {
    path.to_string_lossy().ends_with(".wrong.stderr")
}

/// The messages of rustc, each with its code in front, so that a case can require both.
fn diagnostics_with_codes(file: &Path, stderr: &[u8]) -> Diagnostics {
    let mut diagnostics = rustc_diagnostics_extractor(file, stderr);
    let elsewhere = diagnostics.messages_from_unknown_file_or_line.iter_mut();
    for message in diagnostics.messages.iter_mut().flatten().chain(elsewhere) {
        if let Some(code) = &message.code {
            message.message = format!("[{code}] {}", message.message);
        }
    }
    diagnostics
}

/// Removes from messages what changes without a change of their meaning: the project's folder, line
/// numbers, and source lines of the crate.
fn remove_varying_parts(config: &mut Config, folder: &Path) {
    for path in [folder, root()] {
        let here = Match::Exact(format!("{}/", path.display()).into_bytes());
        let filters = &mut config.comment_defaults.base().normalize_stderr;
        filters.push((here, Vec::new()));
    }
    for (pattern, replacement) in [
        (r"(?m)^(.*(?:-->|:::) .*\.rs):\d+:\d+$", "$1"),
        // Where the sources of the standard library are installed, rustc shows
        // their path and lines.
        (
            r"(?m)^( *--> ).*/library/(core|alloc|std)/",
            "$1/rustc/library/$2/",
        ),
        (r"(?m)^ *\d+( +)(\||[+~-]|\.\.\.)", "LL $2"),
        (r"(?m)^ +(\||=|:::)", "   $1"),
        (r"(?m)^ +-->", "  -->"),
        (
            r"(?m)^(  --> (?:crates/storport/src|/rustc)/.*\n)(?:(?:   \||LL \||\.\.\.).*\n)+",
            "$1",
        ),
    ] {
        config.stderr_filter(pattern, replacement);
    }
}
