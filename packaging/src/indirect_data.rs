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

/// The kind of a file: the type and the DER of SpcAttributeTypeAndOptionalValue.
type Kind = (ObjectIdentifier, &'static [u8]);

/// An image in its embedded signature. Signtool writes SpcPeImageData without flags, and with an
/// SpcLink to a file without a name, as a Unicode SpcString.
pub(crate) const SIGNED_IMAGE: Kind = (
    PE_IMAGE_DATA,
    &[0x30, 9, 3, 1, 0, 0xa0, 4, 0xa2, 2, 0x80, 0],
);
/// An image in a catalog. Inf2Cat sets the flags includeResources (bit 0) and
/// includeImportAddressTable (bit 2).
pub(crate) const LISTED_IMAGE: Kind = (
    PE_IMAGE_DATA,
    &[0x30, 10, 3, 2, 5, 0b1010_0000, 0xa0, 4, 0xa2, 2, 0x80, 0],
);
/// Another file in a catalog: the same SpcLink.
pub(crate) const LISTED_FILE: Kind = (CAB_DATA, &[0xa2, 2, 0x80, 0]);

/// The content for a file with this SHA-256 digest.
pub(crate) fn content(
    (value_type, value): Kind,
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
        for (kind, expected) in [
            // An image without flags and file.
            (
                SIGNED_IMAGE,
                &[
                    0x30, 0x17, 6, 10, 0x2b, 6, 1, 4, 1, 0x82, 0x37, 2, 1, 15, //
                    0x30, 0x09, 3, 1, 0, 0xa0, 4, 0xa2, 2, 0x80, 0,
                ][..],
            ),
            // Two flags.
            (
                LISTED_IMAGE,
                &[
                    0x30, 0x18, 6, 10, 0x2b, 6, 1, 4, 1, 0x82, 0x37, 2, 1, 15, //
                    0x30, 0x0a, 3, 2, 5, 0xa0, 0xa0, 4, 0xa2, 2, 0x80, 0,
                ],
            ),
            // A link without a name.
            (
                LISTED_FILE,
                &[
                    0x30, 0x10, 6, 10, 0x2b, 6, 1, 4, 1, 0x82, 0x37, 2, 1, 25, //
                    0xa2, 2, 0x80, 0,
                ],
            ),
        ] {
            let content = content(kind, &[7; 32]).unwrap();
            assert_eq!(content.data.to_der().unwrap(), expected);
            let digest = content.message_digest.to_der().unwrap();
            assert_eq!(digest, [&sha_256[..], &[7; 32]].concat());
        }
    }
}
