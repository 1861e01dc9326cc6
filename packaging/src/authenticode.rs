//! Authenticode: the digest of a PE image, and its embedded signature.
//!
//! Sources: "Windows Authenticode Portable Executable Signature Format" (Microsoft, 2008) and
//! "PE Format" (learn.microsoft.com), The Attribute Certificate Table. The digest does not
//! cover what signing changes: the checksum, the data directory entry of the certificate
//! table, and that table.

#[cfg(test)]
mod tests;

use std::ops::Range;

use ::authenticode::{
    PeOffsetError, PeOffsets, PeTrait, SpcIndirectDataContent, authenticode_digest,
};
use der::{AnyRef, Reader, SliceReader, Tag};
use object::{
    LittleEndian,
    pe::{IMAGE_DIRECTORY_ENTRY_SECURITY, ImageDataDirectory},
    read::pe::{ImageNtHeaders, ImageOptionalHeader, PeFile, PeFile32, PeFile64},
};
use sha2::{Digest, Sha256, digest::Update};
use time::{Date, OffsetDateTime};

use crate::{
    check::{Check, Outcome, Source},
    checksum,
    indirect_data::{self, INDIRECT_DATA, SIGNED_IMAGE},
    pkcs7::{self, SignError},
    signer::Signer,
    verify::{self, Hash, Judgement},
};

/// The alignment of the certificate table and of its entries.
const ALIGNMENT: usize = 8;
/// WIN_CERTIFICATE without its contents: length, revision and type.
const CERTIFICATE_HEADER: usize = 8;
/// Offset of CheckSum in the optional header.
const CHECKSUM: usize = 64;
/// Offset of the optional header from the PE signature.
const OPTIONAL_HEADER: usize = 24;

/// An image cannot be digested or signed.
#[derive(Debug, thiserror::Error)]
pub enum AuthenticodeError {
    /// The file is not a PE image.
    #[error("not a PE image: {0}")]
    NotAnImage(#[from] object::Error),
    /// The image has too few data directories.
    #[error("the image has no certificate table directory")]
    NoDirectory,
    /// A header refers to data beyond the file.
    #[error("the image is truncated, or a section or the certificate table is misplaced")]
    Damaged,
    /// The image has a signature already.
    #[error("the image is signed already: sign the file that the linker wrote")]
    Signed,
    /// The signed image would exceed the limits of the format.
    #[error("the image is too long to be signed")]
    TooLong,
    /// The signature cannot be made.
    #[error(transparent)]
    Sign(#[from] SignError),
}

/// An image, and the offsets of its parts.
struct Image<'d> {
    data: &'d [u8],
    /// Offset and size of each section, in the order of the headers.
    sections: Vec<(usize, usize)>,
    offsets: PeOffsets,
    certificates: Option<Range<usize>>,
}

/// The digest of an image, signed or not.
pub(crate) fn digest<D: Digest + Update>(image: &[u8]) -> Result<Vec<u8>, AuthenticodeError> {
    let image = Image::parse(image)?;
    let mut digest = D::new();
    authenticode_digest(&image, &mut digest)?;
    // The padding that signing would add between the image and the certificate table.
    if image.certificates.is_none() {
        Update::update(&mut digest, padding(image.data.len()));
    }
    Ok(digest.finalize().to_vec())
}

/// Signs an image: appends the certificate table, and sets its data directory and the checksum.
pub(crate) fn sign(
    image: &[u8],
    signer: &Signer,
    time: OffsetDateTime,
) -> Result<Vec<u8>, AuthenticodeError> {
    let parsed = Image::parse(image)?;
    if parsed.certificates.is_some() {
        return Err(AuthenticodeError::Signed);
    }
    let digest = digest::<Sha256>(image)?;
    let content = indirect_data::content(SIGNED_IMAGE, &digest).map_err(SignError::from)?;
    let signature = pkcs7::sign(INDIRECT_DATA, &content, signer, time)?;

    let mut signed = image.to_vec();
    signed.extend(padding(image.len()));
    let table = signed.len();
    signed.extend(certificate_entry(&signature));
    // If the length of the file fits, the offset and the length of the entry fit too.
    let length = u32::try_from(signed.len()).map_err(|_| AuthenticodeError::TooLong)?;

    let directory = parsed.offsets.security_data_dir;
    put(&mut signed, directory, table as u32)?;
    put(&mut signed, directory + 4, length - table as u32)?;
    let sum = checksum::of_image(&signed, parsed.offsets.check_sum);
    put(&mut signed, parsed.offsets.check_sum, sum)?;
    Ok(signed)
}

/// Checks each signature in the image.
pub(crate) fn judge(image: &[u8], today: Date) -> Vec<Judgement> {
    let Ok(parsed) = Image::parse(image) else {
        return Vec::new();
    };
    let table = parsed.certificates.and_then(|range| image.get(range));
    let of = |signature: &[u8]| {
        let (signature, padding) = der_and_rest(signature);
        let mut judgement = verify::judge(signature, INDIRECT_DATA, today);
        judgement.checks.push(Check::advice(
            "only padding follows the signature in the certificate table",
            "Windows ignores it unless EnableCertPaddingCheck is set",
            (padding.len() >= ALIGNMENT || padding.iter().any(|byte| *byte != 0))
                .then(|| format!("{} bytes follow", padding.len())),
        ));
        if let Some(content) = judgement.content.take() {
            judgement.checks.push(Check::new(
                "the signed digest is that of this file",
                Source::Windows("Windows Authenticode Portable Executable Signature Format"),
                outcome_of_digest(image, &content),
            ));
        }
        judgement
    };
    let signatures = entries(table.unwrap_or_default()).into_iter();
    signatures
        .filter_map(|entry| Some(of(entry.contents?)))
        .collect()
}

/// An entry of the certificate table (WIN_CERTIFICATE of wintrust.h).
pub(crate) struct Entry<'d> {
    pub(crate) length: u32,
    pub(crate) revision: u16,
    pub(crate) kind: u16,
    /// `None` if the entry is longer than the table, or shorter than its header.
    contents: Option<&'d [u8]>,
}

/// The entries of a certificate table.
pub(crate) fn entries(mut table: &[u8]) -> Vec<Entry<'_>> {
    let mut entries = Vec::new();
    while let Some(([a, b, c, d, revision @ .., e, f], _)) =
        table.split_first_chunk::<CERTIFICATE_HEADER>()
    {
        let length = u32::from_le_bytes([*a, *b, *c, *d]);
        entries.push(Entry {
            length,
            revision: u16::from_le_bytes(*revision),
            kind: u16::from_le_bytes([*e, *f]),
            contents: table.get(CERTIFICATE_HEADER..length as usize),
        });
        let whole = (length as usize).max(CERTIFICATE_HEADER);
        table = table
            .get(whole.next_multiple_of(ALIGNMENT)..)
            .unwrap_or_default();
    }
    entries
}

/// Splits bytes after the first DER value.
fn der_and_rest(bytes: &[u8]) -> (&[u8], &[u8]) {
    let length = SliceReader::new(bytes).and_then(|mut reader| Ok(reader.tlv_bytes()?.len()));
    bytes.split_at(length.unwrap_or(bytes.len()))
}

/// Compares the digest in SpcIndirectDataContent, given without its tag and length, with that
/// of the image.
fn outcome_of_digest(image: &[u8], content: &[u8]) -> Outcome {
    let read = AnyRef::new(Tag::Sequence, content)
        .and_then(|content| content.decode_as::<SpcIndirectDataContent>());
    let stated = match read {
        Ok(content) => content.message_digest,
        Err(error) => return Some(format!("it cannot be parsed: {error}")).into(),
    };
    let Some(hash) = Hash::of(stated.digest_algorithm.oid) else {
        return verify::unsupported_hash(stated.digest_algorithm.oid);
    };
    match (hash.of_image)(image) {
        Ok(digest) if digest == stated.digest.as_bytes() => Outcome::Holds,
        Ok(_) => Some("the file was changed after it was signed".into()).into(),
        Err(error) => Some(error.to_string()).into(),
    }
}

/// WIN_CERTIFICATE: length with padding, WIN_CERT_REVISION_2_0,
/// WIN_CERT_TYPE_PKCS_SIGNED_DATA, signature, padding.
fn certificate_entry(signature: &[u8]) -> Vec<u8> {
    let padding = padding(CERTIFICATE_HEADER + signature.len());
    let length = CERTIFICATE_HEADER + signature.len() + padding.len();
    [
        &(length as u32).to_le_bytes()[..],
        &::authenticode::WIN_CERT_REVISION_2_0.to_le_bytes(),
        &::authenticode::WIN_CERT_TYPE_PKCS_SIGNED_DATA.to_le_bytes(),
        signature,
        padding,
    ]
    .concat()
}

/// The padding of a length to a multiple of [`ALIGNMENT`].
fn padding(length: usize) -> &'static [u8] {
    &[0; ALIGNMENT][..length.next_multiple_of(ALIGNMENT) - length]
}

fn put(image: &mut [u8], offset: usize, value: u32) -> Result<(), AuthenticodeError> {
    image
        .get_mut(offset..offset + 4)
        .ok_or(AuthenticodeError::Damaged)?
        .copy_from_slice(&value.to_le_bytes());
    Ok(())
}

impl<'d> Image<'d> {
    /// Parses a 64-bit or 32-bit image.
    fn parse(bytes: &'d [u8]) -> Result<Self, AuthenticodeError> {
        match PeFile64::parse(bytes) {
            Ok(file) => Self::of(&file),
            Err(error) => match PeFile32::parse(bytes) {
                Ok(file) => Self::of(&file),
                Err(_) => Err(error.into()),
            },
        }
    }

    fn of<H: ImageNtHeaders>(file: &PeFile<'d, H>) -> Result<Self, AuthenticodeError> {
        let data = file.data();
        let directory = file
            .data_directories()
            .iter()
            .nth(IMAGE_DIRECTORY_ENTRY_SECURITY)
            .ok_or(AuthenticodeError::NoDirectory)?;
        let start = directory.virtual_address.get(LittleEndian) as usize;
        let size = directory.size.get(LittleEndian) as usize;
        let certificates = (start, size) != (0, 0);
        // The digest does not cover the table, so it must be the last part.
        if certificates && start.checked_add(size) != Some(data.len()) {
            return Err(AuthenticodeError::Damaged);
        }

        let optional = file.dos_header().nt_headers_offset() as usize + OPTIONAL_HEADER;
        let check_sum = optional + CHECKSUM;
        let header = file.nt_headers().optional_header();
        // The data directories follow the optional header.
        let security_data_dir = optional
            + size_of_val(header)
            + IMAGE_DIRECTORY_ENTRY_SECURITY * size_of::<ImageDataDirectory>();
        let offsets = PeOffsets {
            check_sum,
            after_check_sum: check_sum + size_of::<u32>(),
            security_data_dir,
            after_security_data_dir: security_data_dir + size_of::<ImageDataDirectory>(),
            after_header: header.size_of_headers() as usize,
        };
        let sections = file.section_table().iter().map(|section| {
            let offset = section.pointer_to_raw_data.get(LittleEndian) as usize;
            (offset, section.size_of_raw_data.get(LittleEndian) as usize)
        });
        Ok(Self {
            data,
            sections: sections.collect(),
            offsets,
            certificates: certificates.then_some(start..data.len()),
        })
    }
}

impl PeTrait for Image<'_> {
    fn data(&self) -> &[u8] {
        self.data
    }

    fn num_sections(&self) -> usize {
        self.sections.len()
    }

    /// `index` is that of the header, from 1.
    fn section_data_range(&self, index: usize) -> Result<Range<usize>, PeOffsetError> {
        let section = index
            .checked_sub(1)
            .and_then(|index| self.sections.get(index));
        let (start, size) = *section.ok_or(PeOffsetError)?;
        Ok(start..start.checked_add(size).ok_or(PeOffsetError)?)
    }

    fn certificate_table_range(&self) -> Result<Option<Range<usize>>, PeOffsetError> {
        Ok(self.certificates.clone())
    }

    fn offsets(&self) -> Result<PeOffsets, PeOffsetError> {
        Ok(self.offsets.clone())
    }
}

impl From<PeOffsetError> for AuthenticodeError {
    fn from(_: PeOffsetError) -> Self {
        Self::Damaged
    }
}
