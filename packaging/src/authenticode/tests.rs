//! Tests of the digest of an image, and of signing an image.

use std::{ops::Range, sync::LazyLock};

use object::{
    pe::IMAGE_DIRECTORY_ENTRY_SECURITY,
    read::pe::{ImageOptionalHeader, PeFile64},
};
use proptest::prelude::*;
use sha2::Sha256;
use time::{Duration, macros::datetime};

use crate::{
    authenticode::{self, AuthenticodeError},
    checksum,
    test_data::{SIGNED, SIGNERS, TIME, certificates, driver},
};

fn sign(image: &[u8]) -> Vec<u8> {
    authenticode::sign(image, &SIGNERS[0], TIME).unwrap()
}

fn digest(image: &[u8]) -> Result<Vec<u8>, AuthenticodeError> {
    authenticode::digest::<Sha256>(image)
}

/// The offset of CheckSum: the optional header is 4 + 20 bytes after the start of the NT headers,
/// and the field 64 bytes after that.
fn checksum_field(image: &[u8]) -> usize {
    u32::from_le_bytes(image[0x3c..0x40].try_into().unwrap()) as usize + 24 + 64
}

/// The entry of the certificate table in the data directory.
fn directory(image: &[u8]) -> Range<usize> {
    let start = checksum_field(image) - 64 + 112 + 8 * IMAGE_DIRECTORY_ENTRY_SECURITY;
    start..start + 8
}

/// What signing changes: the checksum, the entry in the data directory, and the table.
static UNSIGNED: LazyLock<[Range<usize>; 3]> = LazyLock::new(|| {
    let field = checksum_field(&SIGNED);
    [field..field + 4, directory(&SIGNED), certificates(&SIGNED)]
});

proptest! {
    #[test]
    fn every_byte_but_those_that_signing_changes_changes_the_digest(
        offset in 0..SIGNED.len(),
        change in 1..=u8::MAX,
    ) {
        prop_assume!(!UNSIGNED.iter().any(|range| range.contains(&offset)));
        let mut changed = SIGNED.to_vec();

        changed[offset] ^= change;

        if let Ok(changed) = digest(&changed) {
            prop_assert_ne!(changed, digest(&SIGNED).unwrap());
        }
    }

    #[test]
    fn checksum_and_certificate_table_are_not_in_the_digest(
        offset in UNSIGNED[0].clone().prop_union(UNSIGNED[2].clone()),
        change in 1..=u8::MAX,
    ) {
        let mut changed = SIGNED.to_vec();

        changed[offset] ^= change;

        prop_assert_eq!(digest(&changed).unwrap(), digest(&SIGNED).unwrap());
    }

    #[test]
    fn parsing_an_image_does_not_panic(
        edits in proptest::collection::vec((0..0x400_usize, any::<u8>()), 1..8),
        length in 0..SIGNED.len(),
    ) {
        let mut damaged = SIGNED.to_vec();
        for (offset, byte) in edits {
            damaged[offset] = byte;
        }
        let _ = digest(&damaged);
        let _ = digest(&damaged[..length]);
    }
}

#[test]
fn signing_leaves_the_digest_as_it_is() {
    assert_eq!(digest(&SIGNED).unwrap(), digest(&driver()).unwrap());
}

#[test]
fn an_image_of_uneven_length_is_filled_up_before_it_is_hashed() {
    let mut image = driver();
    image.extend([0xaa; 3]);
    let signed = sign(&image);
    assert_eq!(certificates(&signed).start, image.len() + 5);
    assert_eq!(digest(&signed).unwrap(), digest(&image).unwrap());
}

#[test]
fn another_reader_finds_the_digest_and_the_certificate_in_the_signature() {
    let table = &SIGNED[certificates(&SIGNED)];
    // WIN_CERTIFICATE: length, revision 2.0, PKCS#7.
    assert_eq!(table[..4], (table.len() as u32).to_le_bytes());
    assert_eq!(table[4..8], [0, 2, 2, 0]);
    assert_eq!(table.len() % 8, 0);
    let signature = ::authenticode::AuthenticodeSignature::from_bytes(&table[8..]).unwrap();

    assert_eq!(signature.digest(), digest(&SIGNED).unwrap().as_slice());
    let certificates = signature
        .certificates()
        .map(|certificate| der::Encode::to_der(certificate).unwrap())
        .collect::<Vec<_>>();
    assert_eq!(certificates, [SIGNERS[0].certificate_der().unwrap()]);
}

#[test]
fn the_checksum_is_that_of_the_signed_image() {
    let file = PeFile64::parse(&SIGNED[..]).unwrap();
    let written = file.nt_headers().optional_header.check_sum();
    assert_ne!(written, 0);
    assert_eq!(
        written,
        checksum::of_image(&SIGNED, checksum_field(&SIGNED))
    );
}

#[test]
fn the_same_image_key_and_time_give_the_same_bytes() {
    assert_eq!(sign(&driver()), *SIGNED);
}

#[test]
fn another_time_gives_another_signature_of_the_same_digest() {
    let later = TIME + Duration::SECOND;
    let other = authenticode::sign(&driver(), &SIGNERS[0], later).unwrap();
    assert_ne!(other, *SIGNED);
    assert_eq!(digest(&other).unwrap(), digest(&SIGNED).unwrap());
}

#[test]
fn other_files_and_signed_images_are_refused() {
    let again = authenticode::sign(&SIGNED, &SIGNERS[0], TIME).unwrap_err();
    assert!(matches!(again, AuthenticodeError::Signed), "{again}");

    let longer = digest(&[&SIGNED[..], &[0]].concat()).unwrap_err();
    assert!(matches!(longer, AuthenticodeError::Damaged), "{longer}");

    let text = digest(b"[Version]\r\n").unwrap_err();
    assert!(matches!(text, AuthenticodeError::NotAnImage(_)), "{text}");
}

#[test]
fn nothing_is_signed_with_a_certificate_that_has_expired() {
    // The test certificate is one second too old.
    let late = datetime!(2046-01-01 00:00:01 UTC);
    let error = authenticode::sign(&driver(), &SIGNERS[0], late).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the certificate of CN=Ferrostor test signing (not for production) expired at \
         2046-01-01T00:00:00Z, before the signing time: sign with one that is valid"
    );
}
