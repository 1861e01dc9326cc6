//! `osslsigncode`, which shares no code with this project, on the INF file in a catalog, and the
//! lint on what `osslsigncode` signed. The tests of packages in xtask have its verdicts on the
//! signatures of drivers and catalogs.

use std::{fs, path::Path, process::Command, sync::LazyLock};

use sha2::{Digest as _, Sha256};

use crate::{
    architecture::Architecture,
    bench::{self, KEYS, SIGNERS, TIME, TODAY},
    catalog::Catalog,
    package::File,
    signer::TEST_FILE,
};

/// Runs osslsigncode in a folder with `file`, which it must accept. Returns what it says.
fn osslsigncode(folder: &Path, file: &[u8], arguments: &[&str]) -> String {
    fs::write(folder.join("file"), file).unwrap();
    let output = Command::new("osslsigncode")
        .args(arguments)
        .args(["-in", "file"])
        .current_dir(folder)
        .output()
        .expect("osslsigncode is installed (Debian package osslsigncode)");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

/// The file with the key and certificate of the first signer.
fn pem() -> String {
    LazyLock::force(&SIGNERS);
    let path = KEYS.path().join("one").join(TEST_FILE);
    path.to_str().unwrap().to_owned()
}

#[test]
#[ignore = "needs osslsigncode"]
fn the_inf_is_listed_in_the_catalog() {
    let inf = b"[Version]\r\nSignature = \"$WINDOWS NT$\"\r\nCatalogFile = ferrostor.cat\r\n";
    let catalog = Catalog::new(Architecture::X64, &[r"PCI\VEN_1AF4&DEV_1042"], None)
        .file("ferrostor.sys", &bench::driver())
        .file("ferrostor.inf", inf)
        .sign(&SIGNERS[0], TIME)
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["verify", "-verbose", "-CAfile", &pem()];
    let said = osslsigncode(folder.path(), &catalog, &arguments);
    let digest = Sha256::digest(inf);
    // Versions before 2.8 do not list the members.
    if said.contains("Catalog members:") {
        let digest = format!("{digest:X}");
        let mut members = said.split("\n\n");
        let is_inf =
            |member: &str| member.contains("File name: ferrostor.inf") && member.contains(&digest);
        assert!(members.any(is_inf), "{said}");
    } else {
        assert!(catalog.windows(32).any(|window| window == &digest[..]));
    }
}

#[test]
#[ignore = "needs osslsigncode"]
fn what_osslsigncode_signed_is_accepted_by_the_lint() {
    let (key, folder) = (pem(), tempfile::tempdir().unwrap());
    for hash in ["sha1", "sha256", "sha384", "sha512"] {
        let arguments = [
            "sign", "-h", hash, "-certs", &key, "-key", &key, "-out", hash,
        ];
        osslsigncode(folder.path(), &bench::driver(), &arguments);
        let signed = fs::read(folder.path().join(hash)).unwrap();
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
