//! The content of an Authenticode signature: the kind of a file, and its digest.
//!
//! SpcIndirectDataContent and its parts are defined in "Windows Authenticode Portable
//! Executable Signature Format" (Microsoft, 2008). The names of the object identifiers are
//! those of WinTrust.h.

use authenticode::{
    DigestInfo, SPC_INDIRECT_DATA_OBJID, SpcAttributeTypeAndOptionalValue, SpcIndirectDataContent,
};
use const_oid::db::rfc5912::ID_SHA_256;
use der::{
    Any, Decode,
    asn1::{ObjectIdentifier, OctetString},
};

use crate::pkcs7::algorithm;

/// SPC_INDIRECT_DATA_OBJID.
pub(crate) const INDIRECT_DATA: ObjectIdentifier = SPC_INDIRECT_DATA_OBJID;
/// SPC_PE_IMAGE_DATA_OBJID.
const PE_IMAGE_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.2.1.15");
/// SPC_CAB_DATA_OBJID, for all files whose digest covers the whole file.
const CAB_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.2.1.25");

/// SpcLink in DER: a file without a name, as a Unicode SpcString.
const FILE: &[u8] = &[0xa2, 2, 0x80, 0];
/// SpcPeImageData in DER: no flags, and the same SpcLink.
const IMAGE: &[u8] = &[0x30, 9, 3, 1, 0, 0xa0, 4, 0xa2, 2, 0x80, 0];
/// SpcPeImageData in DER with the flags includeResources (bit 0) and includeImportAddressTable
/// (bit 2).
const IMAGE_WITH_FLAGS: &[u8] = &[0x30, 10, 3, 2, 5, 0b1010_0000, 0xa0, 4, 0xa2, 2, 0x80, 0];

/// The content for an image's embedded signature, in which signtool sets no flag.
pub(crate) fn of_signed_image(digest: &[u8]) -> der::Result<SpcIndirectDataContent> {
    indirect_data(PE_IMAGE_DATA, IMAGE, digest)
}

/// The content for an image in a catalog, in which Inf2Cat sets two flags.
pub(crate) fn of_listed_image(digest: &[u8]) -> der::Result<SpcIndirectDataContent> {
    indirect_data(PE_IMAGE_DATA, IMAGE_WITH_FLAGS, digest)
}

/// The content for another file in a catalog.
pub(crate) fn of_listed_file(digest: &[u8]) -> der::Result<SpcIndirectDataContent> {
    indirect_data(CAB_DATA, FILE, digest)
}

fn indirect_data(
    value_type: ObjectIdentifier,
    value: &[u8],
    digest: &[u8],
) -> der::Result<SpcIndirectDataContent> {
    let value = Any::from_der(value)?;
    Ok(SpcIndirectDataContent {
        data: SpcAttributeTypeAndOptionalValue { value_type, value },
        message_digest: DigestInfo {
            digest_algorithm: algorithm(ID_SHA_256),
            digest: OctetString::new(digest)?,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use der::Encode;

    #[test]
    fn the_content_is_what_signtool_and_inf2cat_write() {
        let sha_256 = [
            0x30, 0x31, 0x30, 13, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1, 5, 0, 4, 32,
        ];
        for (content, kind) in [
            // An image without flags and file.
            (
                of_signed_image(&[7; 32]),
                &[
                    0x30, 0x17, 6, 10, 0x2b, 6, 1, 4, 1, 0x82, 0x37, 2, 1, 15, //
                    0x30, 0x09, 3, 1, 0, 0xa0, 4, 0xa2, 2, 0x80, 0,
                ][..],
            ),
            // Two flags.
            (
                of_listed_image(&[7; 32]),
                &[
                    0x30, 0x18, 6, 10, 0x2b, 6, 1, 4, 1, 0x82, 0x37, 2, 1, 15, //
                    0x30, 0x0a, 3, 2, 5, 0xa0, 0xa0, 4, 0xa2, 2, 0x80, 0,
                ],
            ),
            // A link without a name.
            (
                of_listed_file(&[7; 32]),
                &[
                    0x30, 0x10, 6, 10, 0x2b, 6, 1, 4, 1, 0x82, 0x37, 2, 1, 25, //
                    0xa2, 2, 0x80, 0,
                ],
            ),
        ] {
            let content = content.unwrap();
            assert_eq!(content.data.to_der().unwrap(), kind);
            let digest = content.message_digest.to_der().unwrap();
            assert_eq!(digest, [&sha_256[..], &[7; 32]].concat());
        }
    }
}
