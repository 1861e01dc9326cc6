//! The verdicts of `osslsigncode`, which shares no code with this project, on what is signed
//! here: the driver file, the catalog, and the driver file by the catalog. And the verdict of
//! the lint on what `osslsigncode` signed.
//!
//! The driver file is the one that FERROSTOR_DRIVER names, else a sample.
//!
//! Other tests show that a change of a signed byte changes the digest. Here the digest is
//! compared with that of `osslsigncode`, so one refusal shows that this can fail.

use std::{env, fs, process::Command, sync::LazyLock};

use sha2::{Digest as _, Sha256};

use crate::{
    architecture::Architecture,
    authenticode,
    bench::{self, CODE, KEYS, SIGNERS, TIME, TODAY},
    catalog::Catalog,
    package::File,
    signer::TEST_FILE,
};

const INF: &[u8] = b"[Version]\r\nSignature = \"$WINDOWS NT$\"\r\nCatalogFile = ferrostor.cat\r\n";

static DRIVER: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let driver = match env::var_os("FERROSTOR_DRIVER") {
        Some(file) => fs::read(&file).unwrap(),
        None => bench::driver(),
    };
    authenticode::sign(&driver, &SIGNERS[0], TIME).unwrap()
});

static CATALOG: LazyLock<Vec<u8>> = LazyLock::new(|| {
    Catalog::new(Architecture::X64, &[r"PCI\VEN_1AF4&DEV_1042"], None)
        .file("ferrostor.sys", &DRIVER)
        .file("ferrostor.inf", INF)
        .sign(&SIGNERS[0], TIME)
        .unwrap()
});

/// Runs osslsigncode in a folder with the catalog and `file`.
fn osslsigncode(file: &[u8], arguments: &[&str]) -> (bool, String, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("catalog.cat"), &*CATALOG).unwrap();
    fs::write(folder.path().join("file"), file).unwrap();
    let output = Command::new("osslsigncode")
        .args(arguments)
        .current_dir(folder.path())
        .output()
        .expect("osslsigncode is installed (Debian package osslsigncode)");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    (output.status.success(), said, folder)
}

/// Whether osslsigncode accepts a file if it trusts only the signer with this key, and what it
/// says.
fn verify(key: &str, options: &[&str], file: &[u8]) -> (bool, String) {
    let trusted = pem(key);
    let mut arguments = vec!["verify", "-CAfile", &trusted, "-in", "file"];
    arguments.extend(options);
    let (accepted, said, _) = osslsigncode(file, &arguments);
    let agrees = said.contains("Signature verification: ok") && said.contains("Succeeded");
    assert_eq!(accepted, agrees, "exit code and text differ: {said}");
    (accepted, said)
}

/// The file with a signer's key and certificate.
fn pem(key: &str) -> String {
    LazyLock::force(&SIGNERS);
    let path = KEYS.path().join(key).join(TEST_FILE);
    path.to_str().unwrap().to_owned()
}

const BY_CATALOG: &[&str] = &["-catalog", "catalog.cat"];

#[test]
#[ignore = "needs osslsigncode"]
fn what_is_signed_here_is_accepted_by_who_trusts_the_certificate() {
    let cases: [(&[&str], &[u8]); 3] = [(&[], &DRIVER), (BY_CATALOG, &DRIVER), (&[], &CATALOG)];
    for (options, file) in cases {
        let (accepted, said) = verify("one", options, file);
        assert!(
            accepted && !said.contains("MISMATCH"),
            "{options:?}: {said}"
        );
        let (accepted, said) = verify("two", options, file);
        assert!(!accepted, "{options:?}: {said}");
    }
}

#[test]
#[ignore = "needs osslsigncode"]
fn another_driver_is_accepted_by_neither_signature_nor_catalog() {
    let mut other = DRIVER.clone();
    other[CODE] ^= 1;
    for options in [&[], BY_CATALOG] {
        let (accepted, said) = verify("one", options, &other);
        assert!(!accepted, "{options:?}: {said}");
    }
}

#[test]
#[ignore = "needs osslsigncode"]
fn the_inf_is_listed_in_the_catalog() {
    let (accepted, said) = verify("one", &["-verbose"], &CATALOG);
    assert!(accepted, "{said}");
    let digest = Sha256::digest(INF);
    // Versions before 2.8 do not list the members.
    if said.contains("Catalog members:") {
        let digest = format!("{digest:X}");
        let mut members = said.split("\n\n");
        let is_inf =
            |member: &str| member.contains("File name: ferrostor.inf") && member.contains(&digest);
        assert!(members.any(is_inf), "{said}");
    } else {
        assert!(CATALOG.windows(32).any(|window| window == &digest[..]));
    }
}

#[test]
#[ignore = "needs osslsigncode"]
fn what_osslsigncode_signed_is_accepted_by_the_lint() {
    let key = pem("one");
    for hash in ["sha1", "sha256", "sha384", "sha512"] {
        let arguments = ["sign", "-h", hash, "-certs", &key, "-key", &key];
        let arguments = [&arguments[..], &["-in", "file", "-out", "signed"]].concat();
        let (done, said, folder) = osslsigncode(&bench::driver(), &arguments);
        assert!(done, "{said}");
        let signed = fs::read(folder.path().join("signed")).unwrap();
        let text = bench::lint(&[File::new("a.sys", signed)], &[], TODAY)[0].to_string();
        for claim in [
            "the signed attributes match the content: type and digest",
            "the signature matches the signer's key",
            "each certificate is signed by its issuer, as far as the signature contains the issuer",
            "the signed digest is that of this file",
        ] {
            assert!(
                text.contains(&format!("    yes  {claim}\n")),
                "{hash}: {text}"
            );
        }
    }
}
