//! Compiles the cases of `crates/storport/tests/rules`, whose lib.rs says how they are written,
//! and the call of every entry in the tables of docs/locking.md that say what each callback may
//! do.
#![cfg(not(windows))]

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

#[path = "rules/rights.rs"]
mod rights;

/// An error or a warning of the compiler.
#[derive(Debug)]
struct Diagnostic {
    is_error: bool,
    /// The name of the file, and the line.
    place: (String, usize),
    /// The code, or "-" if it has none.
    code: String,
    /// The message, the labels and the notes.
    text: String,
}

/// An error that a case requires.
struct Expected {
    place: (String, usize),
    code: String,
    words: String,
}

/// The root folder of the project.
fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors()
        .nth(2)
        .expect("cross/rules is in the project")
}

fn read(file: impl AsRef<Path>) -> String {
    let file = root().join(file);
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// Compiles the cases for Windows with `cfg(rules)`. `rights` is the file of calls. It uses cargo's
/// target folder of the driver, where the dependencies are compiled already.
fn compile(rules: &str, rights: &Path) -> Vec<Diagnostic> {
    let cargo = Command::new(env::var_os("CARGO").expect("cargo runs the tests"))
        .args([
            "check",
            "--release",
            "--lib",
            "--package",
            "ferrostor-rules",
        ])
        .args([
            "--target",
            "x86_64-pc-windows-msvc",
            "--message-format",
            "json",
        ])
        .arg("--target-dir")
        .arg(Path::new(env!("CARGO_TARGET_TMPDIR")).join(".."))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .envs([("RULES", rules.as_ref()), ("RIGHTS", rights.as_os_str())])
        .output()
        .expect("cargo runs");
    let messages = String::from_utf8(cargo.stdout).expect("cargo writes UTF-8");
    let messages = messages
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"));
    let diagnostics: Vec<_> = messages
        .filter_map(|message| diagnostic(&message))
        .collect();
    let failed = diagnostics.iter().any(|diagnostic| diagnostic.is_error);
    let stderr = String::from_utf8_lossy(&cargo.stderr);
    assert_eq!(cargo.status.success(), !failed, "{rules}: {stderr}");
    diagnostics
}

/// A line of cargo's output, if it is an error or a warning that has a place in a case.
fn diagnostic(line: &serde_json::Value) -> Option<Diagnostic> {
    let message = &line["message"];
    let spans = message["spans"].as_array()?;
    let place = spans.iter().find(|span| span["is_primary"] == true)?;
    // Errors inside of a macro are in the line that calls the macro.
    let place = match &place["expansion"]["span"] {
        serde_json::Value::Null => place,
        call => call,
    };
    let file = Path::new(place["file_name"].as_str()?)
        .file_name()?
        .to_str()?;
    let children = message["children"].as_array()?;
    let texts = [&message["message"]]
        .into_iter()
        .chain(spans.iter().map(|span| &span["label"]))
        .chain(children.iter().map(|child| &child["message"]));
    Some(Diagnostic {
        is_error: message["level"] == "error",
        place: (
            file.to_owned(),
            place["line_start"].as_u64()?.try_into().ok()?,
        ),
        code: message["code"]["code"].as_str().unwrap_or("-").to_owned(),
        text: texts
            .filter_map(|text| text.as_str())
            .collect::<Vec<_>>()
            .join("\n"),
    })
}

/// The errors that the comments in `text` require.
fn expected(file: &str, text: &str) -> Vec<Expected> {
    let mut line_of_code = 0;
    let mut expected = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let Some(error) = line.trim().strip_prefix("//~ ") else {
            line_of_code = number;
            continue;
        };
        let (code, words) = error.split_once(' ').unwrap_or((error, ""));
        expected.push(Expected {
            place: (file.to_owned(), line_of_code),
            code: code.to_owned(),
            words: words.to_owned(),
        });
    }
    expected
}

/// What differs between the errors that cases require, and those that the compiler reports.
fn differences(mut expected: Vec<Expected>, found: &[Diagnostic]) -> Vec<String> {
    let mut differences = Vec::new();
    for found in found.iter().filter(|found| found.is_error) {
        let matching = expected.iter().position(|expected| {
            expected.place == found.place
                && expected.code == found.code
                && found.text.contains(&expected.words)
        });
        match matching {
            Some(index) => drop(expected.swap_remove(index)),
            None => differences.push(format!("unexpected: {found:?}")),
        }
    }
    differences.extend(
        expected
            .into_iter()
            .map(|Expected { place, code, words }| format!("missing: {place:?}: {code} {words}")),
    );
    differences
}

/// The cases: each file's name and text.
fn cases() -> BTreeMap<String, String> {
    let folder = root().join("crates/storport/tests/rules");
    let files = fs::read_dir(folder).expect("the folder of the cases");
    let files = files.map(|file| file.expect("a file").path());
    let name = |file: &PathBuf| {
        file.file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned()
    };
    let cases = files.filter(|file| !file.ends_with("lib.rs"));
    cases.map(|file| (name(&file), read(&file))).collect()
}

#[test]
fn wrong_code_has_the_expected_errors_and_right_code_has_none() {
    let nowhere = Path::new("");
    let expected: Vec<_> = cases()
        .iter()
        .flat_map(|(name, text)| expected(name, text))
        .collect();
    assert!(expected.len() > 50, "the cases were not found");

    let differences = differences(expected, &compile("wrong", nowhere));
    assert!(differences.is_empty(), "{}", differences.join("\n\n"));
    let right = compile("right", nowhere);
    assert!(right.is_empty(), "{right:#?}");
}

/// The comparison of the cases notices each way in which an error can differ.
#[test]
fn a_difference_is_reported() {
    let case = "drop(srb);\ndrop(srb);\n//~ E0382 moved\n";
    let error = |line, code: &str, text: &str| Diagnostic {
        is_error: true,
        place: ("case.rs".to_owned(), line),
        code: code.to_owned(),
        text: text.to_owned(),
    };
    let right = || error(2, "E0382", "use of moved value");
    for (found, is_right) in [
        (vec![right()], true),
        (vec![], false),
        (vec![right(), right()], false),
        (vec![right(), error(1, "E0425", "not found")], false),
        (vec![error(1, "E0382", "use of moved value")], false),
        (vec![error(2, "E0505", "use of moved value")], false),
        (vec![error(2, "E0382", "use of freed value")], false),
    ] {
        let differences = differences(expected("case.rs", case), &found);
        assert_eq!(
            differences.is_empty(),
            is_right,
            "{found:?}: {differences:?}"
        );
    }
}
