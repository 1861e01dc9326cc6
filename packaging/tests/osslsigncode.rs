//! The verdicts of `osslsigncode`, which no one here wrote, on what is signed
//! here: the driver file, the catalog, and the driver file by the catalog.
//!
//! It knows no INF. Of an INF it says by its list of a catalog's members which
//! digest the signed catalog has (`-verbose`, from 2.8 on; where an older
//! one says nothing, the digest is sought among the bytes of the catalog that it
//! accepted), and `sha256sum` says which digest the INF has.
//!
//! The driver file is the one that FERROSTOR_DRIVER names, else a sample.

mod sample;

use std::{env, fs, path::Path, process::Command, sync::OnceLock};

use packaging::{
    architecture::Architecture,
    authenticode,
    catalog::Catalog,
    lint::{self, Terms},
    package::File,
    signer::{Signer, SigningTime},
};
use tempfile::TempDir;
use time::macros::date;

/// 2026-10-01T00:00:00Z.
const TIME: u64 = 1_790_812_800;
const INF: &[u8] = b"[Version]\r\nSignature = \"$WINDOWS NT$\"\r\nCatalogFile = ferrostor.cat\r\n";

/// Offset of the code in the sample and in what lld-link writes, if the headers
/// take less than two pages of the file.
const FIRST_OF_TEXT: usize = 0x400;

/// A signed package in a folder of its own.
struct Package {
    folder: TempDir,
    driver: Vec<u8>,
    catalog: Vec<u8>,
}

/// What osslsigncode said.
struct Verdict {
    accepted: bool,
    said: String,
}

fn package() -> &'static Package {
    static PACKAGE: OnceLock<Package> = OnceLock::new();
    PACKAGE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let driver = match env::var_os("FERROSTOR_DRIVER") {
            Some(file) => fs::read(&file).unwrap(),
            None => sample::driver(),
        };
        let time = SigningTime::from(TIME);
        let signer = Signer::test(&folder.path().join("key")).unwrap();
        let driver = authenticode::sign(&driver, &signer, time).unwrap();
        let catalog = Catalog::new(Architecture::X64, [r"PCI\VEN_1AF4&DEV_1042"])
            .image("ferrostor.sys", &driver)
            .unwrap()
            .file("ferrostor.inf", INF)
            .sign(&signer, time)
            .unwrap();
        let certificate = signer.certificate_pem().unwrap();
        fs::write(folder.path().join("test.pem"), certificate).unwrap();
        Package {
            folder,
            driver,
            catalog,
        }
    })
}

/// osslsigncode's verdict on `file`, which trusts the test certificate alone.
fn verify(options: &[&str], file: &[u8], kind: &str) -> Verdict {
    let trusted = package().folder.path().join("test.pem");
    verify_with(&trusted, options, file, kind)
}

fn verify_with(trusted: &Path, options: &[&str], file: &[u8], kind: &str) -> Verdict {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("catalog.cat"), &package().catalog).unwrap();
    let name = format!("file.{kind}");
    fs::write(folder.path().join(&name), file).unwrap();

    let output = Command::new("osslsigncode")
        .arg("verify")
        .arg("-CAfile")
        .arg(trusted)
        .args(options)
        .arg(name)
        .current_dir(folder.path())
        .output()
        .expect("osslsigncode is installed (Debian package osslsigncode)");
    let said = [output.stdout, output.stderr]
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .concat();
    let accepted = output.status.success();
    // The exit code and the words must be of one mind.
    assert_eq!(
        accepted,
        said.contains("Signature verification: ok") && said.contains("Succeeded"),
        "{said}"
    );
    Verdict { accepted, said }
}

const BY_CATALOG: &[&str] = &["-catalog", "catalog.cat"];

fn flipped(file: &[u8], offset: usize) -> Vec<u8> {
    let mut changed = file.to_vec();
    changed[offset] ^= 1;
    changed
}

/// Where `part`, or the first of several, lies in `file`.
fn find(file: &[u8], part: &[u8]) -> usize {
    file.windows(part.len())
        .position(|window| window == part)
        .expect("the file has this part")
}

fn certificates(driver: &[u8]) -> usize {
    // id-signedData in the certificate table, less the headers before it.
    let signed_data = [
        0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02,
    ];
    find(driver, &signed_data) - 12
}

/// What `sha256sum` says of `bytes`.
fn sha256sum(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, bytes).unwrap();
    let output = Command::new("sha256sum").arg(&file).output().unwrap();
    assert!(output.status.success());
    let said = String::from_utf8(output.stdout).unwrap();
    said.split_whitespace().next().unwrap().to_owned()
}

/// Whether the catalog, which osslsigncode must accept, has the digest of `inf`.
fn lists_inf(catalog: &[u8], inf: &[u8]) -> bool {
    let Verdict { accepted, said } = verify(&["-verbose"], catalog, "cat");
    assert!(accepted, "{said}");
    let digest = sha256sum(inf);
    if said.contains("Catalog members:") {
        let members = said.split("\n\n");
        return members
            .filter(|member| member.contains("File name: ferrostor.inf"))
            .any(|member| member.to_lowercase().contains(&digest));
    }
    let bytes = (0..digest.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digest[at..at + 2], 16).unwrap())
        .collect::<Vec<_>>();
    catalog.windows(bytes.len()).any(|window| window == bytes)
}

#[test]
#[ignore = "needs osslsigncode"]
fn the_driver_is_accepted_by_its_own_signature() {
    let Verdict { accepted, said } = verify(&[], &package().driver, "sys");
    assert!(accepted, "{said}");
    assert!(!said.contains("MISMATCH"), "{said}");
}

#[test]
#[ignore = "needs osslsigncode"]
fn the_catalog_is_accepted() {
    let Verdict { accepted, said } = verify(&[], &package().catalog, "cat");
    assert!(accepted, "{said}");
}

#[test]
#[ignore = "needs osslsigncode"]
fn the_driver_is_accepted_by_the_catalog() {
    let Verdict { accepted, said } = verify(BY_CATALOG, &package().driver, "sys");
    assert!(accepted, "{said}");
}

#[test]
#[ignore = "needs osslsigncode"]
fn the_inf_is_listed_in_the_catalog() {
    assert!(lists_inf(&package().catalog, INF));
}

#[test]
#[ignore = "needs osslsigncode"]
fn a_changed_byte_of_the_inf_is_not_listed() {
    for offset in [0, INF.len() / 2, INF.len() - 1] {
        let changed = flipped(INF, offset);
        assert!(!lists_inf(&package().catalog, &changed), "{offset}");
    }
}

#[test]
#[ignore = "needs osslsigncode"]
fn a_changed_byte_anywhere_in_the_driver_is_refused_by_signature_and_catalog() {
    let driver = &package().driver;
    let end = certificates(driver);
    let pe = u32::from_le_bytes(driver[0x3c..0x40].try_into().unwrap()) as usize;
    // TimeDateStamp, the optional header's versions, the first section's name
    // and size, code, and places all over the file.
    let named = [
        0x20,
        pe + 8,
        pe + 24 + 40,
        pe + 24 + 240,
        FIRST_OF_TEXT,
        end - 1,
    ];
    let spread = (1..32).map(|part| end * part / 32);
    // Not covered by the digest: see below.
    let uncovered = [pe + 24 + 64..pe + 24 + 68, pe + 24 + 144..pe + 24 + 152];
    for offset in named.into_iter().chain(spread) {
        if uncovered.iter().any(|range| range.contains(&offset)) {
            continue;
        }
        let changed = flipped(driver, offset);
        for options in [&[], BY_CATALOG] {
            let Verdict { accepted, said } = verify(options, &changed, "sys");
            assert!(!accepted, "{offset:#x} {options:?}: {said}");
        }
    }
}

#[test]
#[ignore = "needs osslsigncode"]
fn a_changed_byte_of_the_drivers_signature_is_refused() {
    let driver = &package().driver;
    let table = certificates(driver);
    let digest = authenticode::digest(driver).unwrap();
    let entry = u32::from_le_bytes(driver[table..table + 4].try_into().unwrap()) as usize;
    assert_eq!(table + entry, driver.len());
    let places = [
        // The digest of the image, in SpcIndirectDataContent.
        table + find(&driver[table..], &digest),
        // The subject, and the modulus of the public key, in the certificate.
        table + find(&driver[table..], b"Ferrostor test signing"),
        table + entry / 3,
        // The signature itself, whose 384 bytes end in the last 8.
        driver.len() - 100,
        driver.len() - 300,
    ];
    for offset in places {
        let Verdict { accepted, said } = verify(&[], &flipped(driver, offset), "sys");
        assert!(!accepted, "{offset:#x}: {said}");
    }
}

#[test]
#[ignore = "needs osslsigncode"]
fn a_changed_byte_of_the_catalog_is_refused() {
    let catalog = &package().catalog;
    let driver = authenticode::digest(&package().driver).unwrap();
    let name = "ferrostor.sys"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect::<Vec<_>>();
    let places = [
        // The digest as the member's identifier.
        find(catalog, &driver),
        find(catalog, &name),
        // The extension with the hardware ID.
        find(catalog, &[0, b'H', 0, b'W', 0, b'I', 0, b'D']),
        find(catalog, b"Ferrostor test signing"),
        catalog.len() - 100,
        catalog.len() - 384,
        catalog.len() - 1,
    ];
    for offset in places {
        let Verdict { accepted, said } = verify(&[], &flipped(catalog, offset), "cat");
        assert!(!accepted, "{offset:#x}: {said}");
    }
}

#[test]
#[ignore = "needs osslsigncode"]
fn a_catalog_of_another_driver_does_not_speak_for_this_one() {
    let Verdict { accepted, said } = verify(BY_CATALOG, &other_driver(), "sys");
    assert!(!accepted, "{said}");
}

#[test]
#[ignore = "needs osslsigncode"]
fn who_does_not_trust_the_certificate_accepts_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let other = Signer::test(folder.path()).unwrap();
    let trusted = folder.path().join("other.pem");
    fs::write(&trusted, other.certificate_pem().unwrap()).unwrap();

    let Package {
        driver, catalog, ..
    } = package();
    for (options, file, kind) in [
        (&[][..], driver, "sys"),
        (BY_CATALOG, driver, "sys"),
        (&[], catalog, "cat"),
    ] {
        let Verdict { accepted, said } = verify_with(&trusted, options, file, kind);
        assert!(!accepted, "{kind} {options:?}: {said}");
    }
}

/// What the lint says of a driver that osslsigncode signed, by each hash function.
#[test]
#[ignore = "needs osslsigncode"]
fn what_osslsigncode_signed_is_accepted_by_the_lint() {
    let folder = tempfile::tempdir().unwrap();
    Signer::test(folder.path()).unwrap();
    fs::write(folder.path().join("plain.sys"), sample::driver()).unwrap();
    for hash in ["sha1", "sha256", "sha384", "sha512"] {
        let signed = folder.path().join(format!("{hash}.sys"));
        let output = Command::new("osslsigncode")
            .args(["sign", "-h", hash, "-certs", "test-signing.pem"])
            .args(["-key", "test-signing.pem", "-in", "plain.sys", "-out"])
            .arg(&signed)
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let terms = Terms {
            today: date!(2026 - 11 - 30),
            advice_decides: false,
        };
        let file = File::new("a.sys", fs::read(&signed).unwrap());
        let text = lint::files(&[file], &[], terms)[0].to_string();
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

/// A driver that the catalog doesn't list, signed by the one who signed it.
fn other_driver() -> Vec<u8> {
    let signer = Signer::test(&package().folder.path().join("key")).unwrap();
    let mut driver = sample::driver();
    driver[FIRST_OF_TEXT] ^= 1;
    authenticode::sign(&driver, &signer, SigningTime::from(TIME)).unwrap()
}
