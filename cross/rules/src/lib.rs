//! Compiles the cases of `crates/storport/tests/rules`, each twice for Windows:
//! what breaks a rule must not compile, its legal twin must.
//!
//! A case is one file, named after its rule. `#[cfg(wrong)]` marks what breaks
//! the rule, `#[cfg(right)]` what a driver writes instead; the rest is common
//! to both. The faulty line says which error is meant, by code and words:
//!
//! ```text
//! queue.with(cx, |again| **again += 1); //~[wrong] ERROR: [E0499] cannot borrow `*cx`
//! ```
//!
//! Beside it, `<rule>.wrong.stderr` is the whole message that a person gets.
//! Another error, an error on another line, one more, other words, or none: the
//! case fails. So does a twin that does not compile without a warning.
//!
//! ```text
//! cargo xtask test --only lock-rules      # all cases
//! cd cross
//! cargo test --target-dir ../target/cross --package ferrostor-rules --test rules --
//!     srb double     # only the cases whose path has one of these words
//!     --bless        # writes the messages anew: read what git shows of them
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

/// The rustc that wrote the messages. Another one may word and draw them in
/// its own way: then the code, the words and the line of the error are compared
/// as ever, and the message is not.
const MESSAGES_ARE_OF: &str = "rustc 1.95.";

/// What cases are compiled for, as the driver is.
const TARGET: &str = "x86_64-pc-windows-msvc";

/// The project's root folder.
#[must_use]
pub fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here)
}

/// How the cases in `folder`, and in the folders in it, are compiled and
/// compared. `target` is where cargo puts what it builds.
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
    // The compiler's suggestions are tried on the text of a case, and seldom
    // are what the rule asks for: the twin is.
    base.custom.remove("rustfix");

    if !rustc_wrote_the_messages() {
        config.output_conflict_handling = ignore_messages;
    }
    forget_what_says_nothing(&mut config, folder);
    config
}

/// The crate whose rules these are, built where the driver's crates are.
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

/// Leaves messages unread. A twin must be silent all the same.
fn ignore_messages(path: &Path, output: &[u8], errors: &mut Vec<Error>, config: &TestConfig) {
    if !is_message(path) {
        error_on_output_conflict(path, output, errors, config);
    }
}

/// Writes messages instead of comparing them. There is none to be written of a
/// twin.
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

/// What rustc says, each message with its code in front, so that a case can
/// ask for both.
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

/// Takes from messages what changes without changing what they say: where the
/// project lies, line numbers, and the crate's own lines.
fn forget_what_says_nothing(config: &mut Config, folder: &Path) {
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
