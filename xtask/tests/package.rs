//! Tests packages of `cargo xtask package`: they are reproducible and complete, and
//! osslsigncode, an independent program, accepts their signatures.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::LazyLock,
};

use packaging::signer::{Signer, TEST_FILE};
use tempfile::TempDir;

const NAME: &str = concat!("ferrostor-", env!("CARGO_PKG_VERSION"));
const FOLDERS: [&str; 2] = ["x64", "arm64"];

/// A package for both architectures, made once for all tests.
struct Made {
    /// The folder of the test key and of the output.
    root: TempDir,
    /// The output of the command.
    said: String,
}

static MADE: LazyLock<Made> = LazyLock::new(|| {
    let root = TempDir::new().expect("a temporary folder");
    let out = root.path().join("dist");
    let said = succeeded(&package(root.path(), &out).output().expect("xtask runs"));
    Made { root, said }
});

impl Made {
    fn path(&self, file: &str) -> PathBuf {
        self.root.path().join("dist").join(file)
    }

    fn file(&self, file: &str) -> PathBuf {
        self.path(NAME).join(file)
    }
}

/// `cargo xtask package`, with a test key of its own in `root`.
fn package(root: &Path, out: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command
        .arg("package")
        .arg("--out")
        .arg(out)
        .env("FERROSTOR_SIGNING_DIR", root.join("key"))
        .env("SOURCE_DATE_EPOCH", "1790000000");
    command
}

fn text(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    format!("{out}{err}")
}

fn succeeded(output: &Output) -> String {
    let text = text(output);
    assert!(output.status.success(), "{text}");
    text
}

/// Runs `cargo xtask lint`.
fn lint(arguments: &[&Path]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.arg("lint").args(arguments);
    command.output().expect("xtask runs")
}

/// The files below `folder` by their paths in it, with their contents.
fn tree(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let entry = entry.expect("an entry");
        let (name, path) = (PathBuf::from(entry.file_name()), entry.path());
        if path.is_dir() {
            let inner = tree(&path).into_iter();
            files.extend(inner.map(|(path, bytes)| (name.join(path), bytes)));
        } else {
            files.insert(name, fs::read(path).expect("a file"));
        }
    }
    files
}

/// A folder with copies of the package's files for x64.
fn copy_of_x64() -> TempDir {
    let folder = TempDir::new().expect("a temporary folder");
    for ending in ["sys", "inf", "cat"] {
        let name = format!("ferrostor.{ending}");
        fs::copy(MADE.file(&format!("x64/{name}")), folder.path().join(name)).expect("a copy");
    }
    folder
}

/// Runs osslsigncode on a file, with its embedded signature or with a catalog. It trusts the
/// package's test certificate.
fn verify(file: &Path, catalog: Option<&Path>) -> Output {
    verify_with(&MADE.root.path().join("key").join(TEST_FILE), file, catalog)
}

fn verify_with(certificate: &Path, file: &Path, catalog: Option<&Path>) -> Output {
    let mut command = Command::new("osslsigncode");
    command.args(["verify", "-CAfile"]).arg(certificate);
    if let Some(catalog) = catalog {
        command.arg("-catalog").arg(catalog);
    }
    command.arg("-in").arg(file);
    command.output().expect("osslsigncode runs")
}

/// Checks that osslsigncode accepts the signatures of a `.sys` and of the `.cat` beside it, and
/// the `.sys` by the `.cat`.
fn verify_both(sys: &Path) {
    let cat = sys.with_extension("cat");
    succeeded(&verify(sys, None));
    succeeded(&verify(&cat, None));
    succeeded(&verify(sys, Some(&cat)));
}

#[test]
#[ignore = "makes packages: the step 'package' of cargo xtask test runs it"]
fn the_package_has_what_an_installation_needs() {
    for folder in FOLDERS {
        for ending in ["sys", "inf", "cat", "pdb"] {
            let file = MADE.file(&format!("{folder}/ferrostor.{ending}"));
            assert!(file.is_file(), "{}", file.display());
        }
    }
    for file in [
        "README.txt",
        "ferrostor-test.cer",
        "LICENSE-MIT",
        "LICENSE-APACHE",
        "THIRD-PARTY.md",
    ] {
        assert!(MADE.file(file).is_file(), "{file}");
        assert!(MADE.said.contains(file), "{}", MADE.said);
    }
}

#[test]
#[ignore = "makes packages: the step 'package' of cargo xtask test runs it"]
fn two_packages_of_one_commit_key_and_date_have_the_same_bytes() {
    let again = TempDir::new().expect("a temporary folder");
    succeeded(
        &package(MADE.root.path(), again.path())
            .output()
            .expect("xtask runs"),
    );

    let [first, second] = [tree(&MADE.path("")), tree(again.path())];
    assert!(first.keys().eq(second.keys()), "other files");
    for (path, bytes) in first {
        assert!(bytes == second[&path], "{} differs", path.display());
    }
}

#[test]
#[ignore = "makes packages: the step 'package' of cargo xtask test runs it"]
fn osslsigncode_accepts_the_driver_and_its_catalog() {
    for folder in FOLDERS {
        verify_both(&MADE.file(&format!("{folder}/ferrostor.sys")));
    }
}

#[test]
#[ignore = "makes packages: the step 'package' of cargo xtask test runs it"]
fn osslsigncode_refuses_driver_and_catalog_when_a_byte_is_changed() {
    let changed = TempDir::new().expect("a temporary folder");
    let by_catalog = MADE.file("x64/ferrostor.cat");
    for (ending, catalog) in [("sys", None), ("sys", Some(&*by_catalog)), ("cat", None)] {
        let file = MADE.file(&format!("x64/ferrostor.{ending}"));
        let sound = fs::read(&file).expect("a file");
        // A byte in the first third: code of the driver, or the list of the
        // catalog.
        let place = sound.len() / 3;
        let mut bytes = sound.clone();
        bytes[place] ^= 1;
        let copy = changed.path().join("changed").with_extension(ending);
        fs::write(&copy, bytes).expect("it can be written");

        let verdict = verify(&copy, catalog);

        assert!(!verdict.status.success(), "{}", text(&verdict));
    }
}

#[test]
#[ignore = "makes packages: the step 'package' of cargo xtask test runs it"]
fn osslsigncode_refuses_driver_and_catalog_when_it_trusts_another_certificate() {
    let folder = TempDir::new().expect("a temporary folder");
    Signer::test(folder.path()).expect("a key");
    let other = folder.path().join(TEST_FILE);
    let [sys, cat] = ["sys", "cat"].map(|ending| MADE.file(&format!("x64/ferrostor.{ending}")));
    for (file, catalog) in [(&sys, None), (&sys, Some(&*cat)), (&cat, None)] {
        let verdict = verify_with(&other, file, catalog);

        assert!(!verdict.status.success(), "{}", text(&verdict));
    }
}

#[test]
#[ignore = "makes packages: the step 'package' of cargo xtask test runs it"]
fn the_disc_has_the_files_of_the_package() {
    let out = TempDir::new().expect("a temporary folder");
    let copy = out.path().join("copy");
    succeeded(
        &Command::new("xorriso")
            .args(["-osirrox", "on", "-indev"])
            .arg(MADE.path(&format!("{NAME}.iso")))
            .args(["-extract", "/"])
            .arg(&copy)
            .output()
            .expect("xorriso runs"),
    );

    assert!(
        tree(&copy) == tree(&MADE.path(NAME)),
        "other names or other bytes"
    );
}

#[test]
#[ignore = "makes packages: the step 'package' of cargo xtask test runs it"]
fn the_lint_accepts_a_package_and_names_each_change_of_one() {
    succeeded(&lint(&["--house-rules".as_ref(), &MADE.path(NAME)]));

    let changed = copy_of_x64();
    let inf = changed.path().join("ferrostor.inf");
    let text_of = fs::read_to_string(&inf).expect("text");
    fs::write(&inf, text_of.replace("PnpLockdown = 1", "PnpLockdown = 0"))
        .expect("it can be written");
    let verdict = lint(&[changed.path()]);

    let said = text(&verdict);
    assert_eq!(verdict.status.code(), Some(1), "{said}");
    assert!(said.contains("(pnp-lockdown: "), "{said}");
    assert!(
        said.contains(
            "NO   the INF file and each file that it installs are listed with their digests: \
             ferrostor.inf"
        ),
        "{said}"
    );
}

#[test]
#[ignore = "makes packages: the step 'package' of cargo xtask test runs it"]
fn single_files_are_compared_with_the_files_beside_them() {
    let file = |ending| MADE.file(&format!("x64/ferrostor.{ending}"));
    for ending in ["sys", "inf", "cat"] {
        let said = succeeded(&lint(&["--house-rules".as_ref(), &file(ending)]));
        assert_eq!(
            said.matches("requirements of Windows:").count(),
            1,
            "{said}"
        );
    }
    assert!(text(&lint(&[&file("cat")])).contains("yes  the catalog lists no other file"));
}

#[test]
#[ignore = "makes packages: the step 'package' of cargo xtask test runs it"]
fn a_file_that_cannot_be_judged_does_not_hide_the_others() {
    let folder = copy_of_x64();
    fs::write(folder.path().join("autorun.inf"), "[autorun]\n").expect("it can be written");

    let output = lint(&[folder.path()]);

    let said = text(&output);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(
        said.contains("autorun.inf:\n  not judged: not a driver's INF file"),
        "{said}"
    );
    assert!(
        said.contains("yes  the signature matches the signer's key"),
        "{said}"
    );
}

#[test]
fn a_file_that_cannot_be_read_does_not_hide_the_others() {
    let folder = TempDir::new().expect("a temporary folder");
    std::os::unix::fs::symlink("absent", folder.path().join("a.sys")).expect("a link");
    fs::write(folder.path().join("b.inf"), "[Version]\n").expect("it can be written");

    let output = lint(&[folder.path()]);

    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("a.sys:\n  not judged: failed to open file "),
        "{said}"
    );
    assert!(said.contains("b.inf (x64):\n"), "{said}");
}

/// Builds the example driver.
fn ramdisk() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut build = Command::new(env!("CARGO_BIN_EXE_xtask"));
    build.args(["build", "--driver", "ramdisk"]);
    succeeded(&build.output().expect("xtask runs"));
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), PathBuf::from);
    target.join("driver/x64/ramdisk.sys")
}

/// Runs `cargo xtask package` for the example driver, like for another project's driver.
fn package_other(root: &Path, driver: &Path, more: &[&str]) -> Output {
    let inx = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/ramdisk/ramdisk.inx");
    let mut command = package(MADE.root.path(), &root.join("out"));
    command
        .arg("--inx")
        .arg(inx)
        .arg("--driver-file")
        .arg(format!("x64={}", driver.display()))
        .args(more);
    command.output().expect("xtask runs")
}

#[test]
#[ignore = "makes packages: the step 'package' of cargo xtask test runs it"]
fn another_driver_is_packaged_and_signed() {
    let root = TempDir::new().expect("a temporary folder");
    succeeded(&package_other(root.path(), &ramdisk(), &[]));

    let folder = root
        .path()
        .join("out")
        .join(concat!("ramdisk-", env!("CARGO_PKG_VERSION"), ".0"));
    let expected = [
        "ramdisk-test.cer",
        "x64/ramdisk.cat",
        "x64/ramdisk.inf",
        "x64/ramdisk.pdb",
        "x64/ramdisk.sys",
    ];
    let names: Vec<_> = tree(&folder).into_keys().collect();
    assert_eq!(names, expected.map(PathBuf::from));
    succeeded(&lint(&["--house-rules".as_ref(), &folder]));
    verify_both(&folder.join("x64/ramdisk.sys"));

    let options = ["--name", "disk", "--driver-version", "1.2.3.4"];
    succeeded(&package_other(root.path(), &ramdisk(), &options));
    let inf = fs::read_to_string(root.path().join("out/disk-1.2.3.4/x64/disk.inf"));
    assert!(inf.expect("an INF file").contains(",1.2.3.4\r\n"));
}

#[test]
#[ignore = "makes packages: the step 'package' of cargo xtask test runs it"]
fn a_driver_that_cannot_be_packaged_is_named() {
    let root = TempDir::new().expect("a temporary folder");
    let other = root.path().join("other.sys");
    fs::copy(ramdisk(), &other).expect("a copy");
    let absent = root.path().join("absent.sys");
    let signed = root.path().join("ramdisk.sys");
    fs::copy(MADE.file("x64/ferrostor.sys"), &signed).expect("a copy");
    for (driver, error) in [
        (&other, "[SourceDisksFiles] does not list other.sys for x64"),
        (&absent, "absent.sys`: No such file"),
        (&signed, "the image is signed already"),
    ] {
        let output = package_other(root.path(), driver, &[]);
        let said = text(&output);
        assert!(!output.status.success(), "{said}");
        assert!(
            said.lines().last().unwrap_or_default().contains(error),
            "{said}"
        );
    }
    let again = format!("--driver-file=x64={}", other.display());
    let said = text(&package_other(root.path(), &other, &[&again]));
    assert!(
        said.contains("error: --driver-file is given twice for x64: keep one file"),
        "{said}"
    );
}

#[test]
#[ignore = "makes packages: the step 'package' of cargo xtask test runs it"]
fn two_packages_at_once_do_not_disturb_one_another() {
    let root = TempDir::new().expect("a temporary folder");
    let out = root.path().join("dist");
    for _ in 0..2 {
        let runs = [0, 1].map(|_| {
            let mut command = package(MADE.root.path(), &out);
            command
                .args(["--arch", "x64"])
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::piped());
            command.spawn().expect("xtask runs")
        });
        for run in runs {
            succeeded(&run.wait_with_output().expect("xtask ends"));
        }
    }
    let names: Vec<_> = fs::read_dir(&out).expect("a folder").collect();
    assert_eq!(names.len(), 3, "{names:?}");
}

#[test]
#[ignore = "makes packages: the step 'package' of cargo xtask test runs it"]
fn a_key_that_others_can_read_is_reported() {
    use std::os::unix::fs::PermissionsExt as _;
    let root = TempDir::new().expect("a temporary folder");
    let key = root.path().join("key.pem");
    fs::copy(MADE.root.path().join("key/test-signing.pem"), &key).expect("a copy");
    let driver = ramdisk();
    let path = key.display().to_string();
    let said = [0o600, 0o644].map(|mode| {
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).expect("a mode");
        let options = ["--key", &path, "--certificate", &path];
        succeeded(&package_other(root.path(), &driver, &options))
    });
    let warning = format!("warning: {path}: other users can access the signing key (mode 0644)");
    assert!(!said[0].contains("warning: "), "{}", said[0]);
    assert!(said[1].contains(&warning), "{}", said[1]);
}

#[test]
#[ignore = "makes packages: the step 'package' of cargo xtask test runs it"]
fn a_missing_key_is_named_and_the_earlier_package_is_kept() {
    let before = tree(&MADE.path(""));
    let out = MADE.path("");
    let mut command = package(MADE.root.path(), &out);
    command.args(["--key", "absent.key", "--certificate", "absent.pem"]);

    let output = command.output().expect("xtask runs");

    let said = text(&output);
    assert!(!output.status.success(), "{said}");
    let error = said.lines().last().unwrap_or_default();
    assert!(error.starts_with("error: absent.key: "), "{said}");
    assert!(tree(&out) == before, "the package was changed");
}
