//! What the digest of an image covers, and what signing does to an image.

mod sample;

use std::{ops::Range, sync::OnceLock};

use object::{
    LittleEndian,
    pe::IMAGE_DIRECTORY_ENTRY_SECURITY,
    read::pe::{ImageOptionalHeader, PeFile64},
};
use packaging::{
    authenticode::{self, AuthenticodeError},
    checksum,
    signer::{Signer, SigningTime},
};
use proptest::prelude::*;

/// 2026-10-01T00:00:00Z.
const TIME: u64 = 1_790_812_800;

fn signer() -> &'static Signer {
    static SIGNER: OnceLock<Signer> = OnceLock::new();
    SIGNER.get_or_init(|| Signer::test(tempfile::tempdir().unwrap().path()).unwrap())
}

fn sign(image: &[u8]) -> Vec<u8> {
    authenticode::sign(image, signer(), SigningTime::from(TIME)).unwrap()
}

/// The signed sample.
fn signed() -> &'static [u8] {
    static SIGNED: OnceLock<Vec<u8>> = OnceLock::new();
    SIGNED.get_or_init(|| sign(&sample::driver()))
}

/// Where CheckSum is: 4 + 20 bytes after the start of the NT headers comes the
/// optional header, and 64 bytes into that the field.
fn checksum_field(image: &[u8]) -> usize {
    u32::from_le_bytes(image[0x3c..0x40].try_into().unwrap()) as usize + 24 + 64
}

/// Where the data directory's entry of the certificate table is.
fn directory(image: &[u8]) -> Range<usize> {
    let start = checksum_field(image) - 64 + 112 + 8 * IMAGE_DIRECTORY_ENTRY_SECURITY;
    start..start + 8
}

/// Where the certificate table is.
fn certificates(image: &[u8]) -> Range<usize> {
    let file = PeFile64::parse(image).unwrap();
    let directory = file
        .data_directory(IMAGE_DIRECTORY_ENTRY_SECURITY)
        .expect("the image is signed");
    let start = directory.virtual_address.get(LittleEndian) as usize;
    start..start + directory.size.get(LittleEndian) as usize
}

proptest! {
    #[test]
    fn every_byte_but_those_that_signing_changes_changes_the_digest(
        offset in 0..signed().len(),
        change in 1..=u8::MAX,
    ) {
        let field = checksum_field(signed());
        prop_assume!(!(field..field + 4).contains(&offset));
        prop_assume!(!directory(signed()).contains(&offset));
        prop_assume!(!certificates(signed()).contains(&offset));
        let mut changed = signed().to_vec();

        changed[offset] ^= change;

        if let Ok(digest) = authenticode::digest(&changed) {
            prop_assert_ne!(digest, authenticode::digest(signed()).unwrap());
        }
    }

    #[test]
    fn checksum_and_certificate_table_are_not_in_the_digest(
        offset in 0..certificates(signed()).len() + 4,
        change in 1..=u8::MAX,
    ) {
        let field = checksum_field(signed());
        let offset = match offset.checked_sub(4) {
            Some(offset) => certificates(signed()).start + offset,
            None => field + offset,
        };
        let mut changed = signed().to_vec();

        changed[offset] ^= change;

        prop_assert_eq!(
            authenticode::digest(&changed).unwrap(),
            authenticode::digest(signed()).unwrap()
        );
    }

    #[test]
    fn nothing_that_is_read_as_an_image_ends_in_a_panic(
        edits in proptest::collection::vec((0..0x400_usize, any::<u8>()), 1..8),
        length in 0..signed().len(),
    ) {
        let mut damaged = signed().to_vec();
        for (offset, byte) in edits {
            damaged[offset] = byte;
        }
        let _ = authenticode::digest(&damaged);
        let _ = authenticode::digest(&damaged[..length]);
    }
}

#[test]
fn signing_leaves_the_digest_as_it_is() {
    let digest = authenticode::digest(&sample::driver()).unwrap();
    assert_eq!(authenticode::digest(signed()).unwrap(), digest);
}

#[test]
fn an_image_of_uneven_length_is_filled_up_before_it_is_hashed() {
    let mut image = sample::driver();
    image.extend([0xaa; 3]);
    let signed = sign(&image);
    assert_eq!(certificates(&signed).start, image.len() + 5);
    assert_eq!(
        authenticode::digest(&signed).unwrap(),
        authenticode::digest(&image).unwrap()
    );
}

#[test]
fn another_reader_finds_the_digest_and_the_certificate_in_the_signature() {
    let table = &signed()[certificates(signed())];
    // WIN_CERTIFICATE: length, revision 2.0, PKCS#7.
    assert_eq!(table[..4], (table.len() as u32).to_le_bytes());
    assert_eq!(table[4..8], [0, 2, 2, 0]);
    assert_eq!(table.len() % 8, 0);
    let signature = ::authenticode::AuthenticodeSignature::from_bytes(&table[8..]).unwrap();

    assert_eq!(
        signature.digest(),
        authenticode::digest(signed()).unwrap().as_slice()
    );
    let certificates = signature
        .certificates()
        .map(|certificate| der::Encode::to_der(certificate).unwrap())
        .collect::<Vec<_>>();
    assert_eq!(certificates, [signer().certificate_der().unwrap()]);
}

#[test]
fn the_checksum_is_that_of_the_signed_image() {
    let file = PeFile64::parse(signed()).unwrap();
    let written = file.nt_headers().optional_header.check_sum();
    assert_ne!(written, 0);
    assert_eq!(
        written,
        checksum::of_image(signed(), checksum_field(signed()))
    );
}

#[test]
fn the_same_image_key_and_time_give_the_same_bytes() {
    assert_eq!(sign(&sample::driver()), signed());
}

#[test]
fn another_time_gives_another_signature_of_the_same_digest() {
    let later = SigningTime::from(TIME + 1);
    let other = authenticode::sign(&sample::driver(), signer(), later).unwrap();
    assert_ne!(other, signed());
    assert_eq!(
        authenticode::digest(&other).unwrap(),
        authenticode::digest(signed()).unwrap()
    );
}

#[test]
fn a_signed_image_is_not_signed_again() {
    let again = authenticode::sign(signed(), signer(), SigningTime::from(TIME));
    assert!(matches!(again, Err(AuthenticodeError::Signed)), "{again:?}");
}

#[test]
fn what_follows_the_certificate_table_is_refused() {
    let mut longer = signed().to_vec();
    longer.push(0);
    let digest = authenticode::digest(&longer);
    assert!(
        matches!(digest, Err(AuthenticodeError::Damaged)),
        "{digest:?}"
    );
}

#[test]
fn text_is_no_image() {
    let digest = authenticode::digest(b"[Version]\r\n");
    assert!(
        matches!(digest, Err(AuthenticodeError::NotAnImage(_))),
        "{digest:?}"
    );
}

#[test]
fn nothing_is_signed_with_a_certificate_that_has_expired() {
    // 2046-01-01T00:00:01Z: the test certificate is one second too old.
    let late = SigningTime::from(2_398_377_601);
    let error = authenticode::sign(&sample::driver(), signer(), late).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the certificate of CN=Ferrostor test signing (not for production) expired at \
         2046-01-01T00:00:00Z, before the signing time: sign with one that is valid"
    );
}
