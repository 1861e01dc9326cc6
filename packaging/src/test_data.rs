//! Test data for signatures: two signers, a driver file, dates.

use std::{fs, sync::LazyLock};

use object::{LittleEndian, pe::IMAGE_DIRECTORY_ENTRY_SECURITY, read::pe::PeFile64};
use tempfile::TempDir;
use time::{
    Date, OffsetDateTime,
    macros::{date, datetime},
};

use crate::{
    authenticode,
    check::Report,
    image,
    lint::{self, Terms},
    package::File,
    signer::{Signer, TEST_FILE},
};

/// The time of signatures.
pub(crate) const TIME: OffsetDateTime = datetime!(2026-10-01 00:00 UTC);
/// The date of checks.
pub(crate) const TODAY: Date = date!(2026 - 11 - 30);
/// The offset of the code in the driver file.
pub(crate) const CODE: usize = 0x200;

/// The folder with the keys of the signers, in `one` and `two`.
pub(crate) static KEYS: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());

/// Two signers. The second one's file also has the certificate of the first.
pub(crate) static SIGNERS: LazyLock<[Signer; 2]> = LazyLock::new(|| {
    let [one, two] = ["one", "two"].map(|name| KEYS.path().join(name));
    let first = Signer::test(&one).unwrap();
    Signer::test(&two).unwrap();
    let [one, two] = [one, two].map(|folder| folder.join(TEST_FILE));
    let both = KEYS.path().join("both.pem");
    let text = [&two, &one].map(|file| fs::read_to_string(file).unwrap());
    fs::write(&both, text.concat()).unwrap();
    [first, Signer::from_pem(&two, &both).unwrap()]
});

/// The driver file, signed by the first signer.
pub(crate) static SIGNED: LazyLock<Vec<u8>> =
    LazyLock::new(|| authenticode::sign(&driver(), &SIGNERS[0], TIME).unwrap());

/// A driver file for x64, not signed.
pub(crate) fn driver() -> Vec<u8> {
    image::sample::sound().write()
}

/// The range of the certificate table.
pub(crate) fn certificates(image: &[u8]) -> std::ops::Range<usize> {
    let file = PeFile64::parse(image).unwrap();
    let directory = file.data_directory(IMAGE_DIRECTORY_ENTRY_SECURITY);
    let directory = directory.expect("the image is signed");
    let start = directory.virtual_address.get(LittleEndian) as usize;
    start..start + directory.size.get(LittleEndian) as usize
}

/// The reports of `files`, which are compared with those `beside` them.
pub(crate) fn lint(files: &[File], beside: &[File], today: Date) -> Vec<Report> {
    let terms = Terms {
        today,
        advice_decides: false,
    };
    lint::files(files, beside, terms)
}
