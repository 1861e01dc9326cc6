//! Tests of the suite itself: a case fails for each way in which it can be faulty.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use ferrostor_rules::{cases, root, write_messages};
use ui_test::{
    default_file_filter, default_per_file_config, error_on_output_conflict, status_emitter,
};

/// A correct case.
const CASE: &str = "\
#![no_std]

use storport::Srb;

pub fn end(srb: Srb<'_>) {
    drop(srb);
    #[cfg(wrong)]
    drop(srb);
    //~[wrong]^ ERROR: [E0382] use of moved value: `srb`
}
";

/// A folder with one case and its message.
struct Sample {
    folder: tempfile::TempDir,
}

impl Sample {
    fn new() -> Self {
        let sample = Self {
            folder: tempfile::tempdir().expect("a folder"),
        };
        fs::write(sample.case(), CASE).expect("the case is written");
        assert!(sample.run(true), "the message is written");
        assert!(sample.message().is_file());
        sample
    }

    fn case(&self) -> PathBuf {
        self.folder.path().join("case.rs")
    }

    fn message(&self) -> PathBuf {
        self.folder.path().join("case.wrong.stderr")
    }

    fn passes(&self) -> bool {
        self.run(false)
    }

    fn run(&self, bless: bool) -> bool {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("..");
        let mut config = cases(self.folder.path(), &target);
        config.out_dir = self.folder.path().join("out");
        // Messages are compared with any version of rustc, because this one wrote the message.
        config.output_conflict_handling = if bless {
            write_messages
        } else {
            error_on_output_conflict
        };
        ui_test::run_tests_generic(
            vec![config],
            default_file_filter,
            default_per_file_config,
            status_emitter::Text::quiet(),
        )
        .is_ok()
    }

    /// Whether the case passes after `old` is replaced by `new`.
    fn passes_with(&self, old: &str, new: &str) -> bool {
        assert_eq!(CASE.matches(old).count(), 1, "{old:?} must occur once");
        fs::write(self.case(), CASE.replace(old, new)).expect("the case is written");
        self.passes()
    }
}

#[test]
fn a_correct_case_passes() {
    assert!(Sample::new().passes());
}

#[test]
fn a_case_that_compiles_fails() {
    assert!(!Sample::new().passes_with("    drop(srb);\n    #[cfg", "    #[cfg"));
}

#[test]
fn a_case_with_another_error_fails() {
    assert!(
        !Sample::new().passes_with("[cfg(wrong)]\n    drop(srb)", "[cfg(wrong)]\n    drop(sr)")
    );
}

#[test]
fn a_case_with_another_code_fails() {
    assert!(!Sample::new().passes_with("E0382", "E0505"));
}

#[test]
fn a_case_with_another_error_text_fails() {
    assert!(!Sample::new().passes_with("use of moved value: `srb`", "use of freed value: `srb`"));
}

#[test]
fn a_case_with_its_error_on_another_line_fails() {
    assert!(!Sample::new().passes_with("[wrong]^", "[wrong]^^^"));
}

#[test]
fn a_case_with_a_second_error_fails() {
    assert!(!Sample::new().passes_with("srb`\n}", "srb`\n    #[cfg(wrong)]\n    drop(srb);\n}"));
}

#[test]
fn a_case_that_expects_no_error_fails() {
    assert!(!Sample::new().passes_with("//~[wrong]^ ERROR: [E0382]", "//"));
}

#[test]
fn a_case_whose_twin_does_not_compile_fails() {
    assert!(!Sample::new().passes_with("#[cfg(wrong)]", "#[cfg(any(wrong, right))]"));
}

#[test]
fn a_case_whose_twin_compiles_with_a_warning_fails() {
    assert!(
        !Sample::new().passes_with("srb`\n}", "srb`\n    #[cfg(right)]\n    let unused = 0;\n}")
    );
}

#[test]
fn a_case_with_another_message_fails() {
    let sample = Sample::new();
    let message = fs::read_to_string(sample.message()).expect("a message");
    fs::write(sample.message(), message.replace("moved", "gone")).expect("the message is written");
    assert!(!sample.passes());
}

#[test]
fn a_case_without_its_message_fails() {
    let sample = Sample::new();
    fs::remove_file(sample.message()).expect("there was a message");
    assert!(!sample.passes());
}

/// Every file under `folder`.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .flat_map(|path| {
            if path.is_dir() {
                files(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

#[test]
fn cases_are_formatted_by_rustfmt() {
    let all = files(&root().join("crates/storport/tests/rules"));
    let cases = all
        .iter()
        .filter(|file| file.extension() == Some("rs".as_ref()));
    let rustfmt = Command::new("rustfmt")
        .args(["--edition", "2024", "--check"])
        .args(cases)
        .output()
        .expect("rustfmt runs");
    assert!(
        rustfmt.status.success(),
        "{}",
        String::from_utf8_lossy(&rustfmt.stdout)
    );
}

#[test]
fn every_message_belongs_to_a_case_and_every_case_cites_its_rule() {
    let files = files(&root().join("crates/storport/tests/rules"));
    assert!(files.len() > 2, "there are cases");
    for file in files {
        let name = file.display();
        if let Some(case) = name.to_string().strip_suffix(".wrong.stderr") {
            assert!(Path::new(&format!("{case}.rs")).is_file(), "{name}");
            let message = fs::read_to_string(&file).expect("a message");
            assert!(
                !message.contains("warning: "),
                "{name}: a message must not contain warnings"
            );
            continue;
        }
        assert_eq!(file.extension(), Some("rs".as_ref()), "{name}");
        let text = fs::read_to_string(&file).expect("a case");
        let head = text.split("\n\n").next().unwrap_or_default();
        let cited = ["storport-rules.md", "storport.h"]
            .iter()
            .any(|source| head.contains(source));
        assert!(
            head.starts_with("//! ") && cited,
            "{name}: the header must state the rule and cite its source"
        );
    }
}
