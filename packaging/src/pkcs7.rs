//! PKCS#7 SignedData of Authenticode, whose content is the digest of an image or a catalog.
//!
//! It differs from CMS (RFC 5652) in two ways: the content is a SEQUENCE instead of an OCTET
//! STRING, and the hash does not cover the tag and length of the content (RFC 2315, 9.3).

use cms::{
    cert::IssuerAndSerialNumber,
    content_info::{CmsVersion, ContentInfo},
    signed_data::{EncapsulatedContentInfo, SignerIdentifier, SignerInfo, SignerInfos},
};
use const_oid::db::{
    rfc5911::{ID_CONTENT_TYPE, ID_MESSAGE_DIGEST, ID_SIGNED_DATA, ID_SIGNING_TIME},
    rfc5912::{ID_SHA_256, RSA_ENCRYPTION},
};
use der::{
    Any, Encode, EncodeValue, Sequence, Tagged,
    asn1::{Null, ObjectIdentifier, OctetString, SetOfVec},
};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use x509_cert::{attr::Attribute, spki::AlgorithmIdentifierOwned};

use crate::signer::{Signer, x509_time};

/// SPC_STATEMENT_TYPE_OBJID.
const STATEMENT_TYPE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.2.1.11");
/// SPC_INDIVIDUAL_SP_KEY_PURPOSE_OBJID, which all tools of Microsoft write.
const INDIVIDUAL: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.2.1.21");
/// SPC_SP_OPUS_INFO_OBJID.
const OPUS_INFO: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.2.1.12");

/// The content cannot be signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The certificate has expired.
    #[error(
        "the certificate of {subject} expired at {not_after}, before the signing time: \
         sign with one that is valid"
    )]
    Expired {
        /// The certificate's subject.
        subject: String,
        /// The end of its validity.
        not_after: String,
    },
    /// The RSA computation failed.
    #[error("RSA: {0}")]
    Rsa(#[from] rsa::Error),
    /// A value cannot be encoded in DER, such as a signing time after the year 9999.
    #[error("cannot encode the signature in DER: {0}")]
    Der(#[from] der::Error),
}

/// Signs `content`, a SEQUENCE, at `time`. The same arguments give the same
/// bytes.
pub(crate) fn sign(
    content_type: ObjectIdentifier,
    content: &(impl EncodeValue + Tagged),
    signer: &Signer,
    time: OffsetDateTime,
) -> Result<Vec<u8>, SignError> {
    let certificate = &signer.certificate.tbs_certificate;
    let time = x509_time(time)?;
    if time.to_unix_duration() > certificate.validity.not_after.to_unix_duration() {
        return Err(SignError::Expired {
            subject: certificate.subject.to_string(),
            not_after: certificate.validity.not_after.to_string(),
        });
    }

    let content = Any::encode_from(content)?;
    let attributes = SetOfVec::try_from(vec![
        attribute(ID_CONTENT_TYPE, &content_type)?,
        attribute(
            ID_MESSAGE_DIGEST,
            &OctetString::new(Sha256::digest(content.value()).as_slice())?,
        )?,
        // signtool omits it, but osslsigncode before 2.9 requires it.
        attribute(ID_SIGNING_TIME, &time)?,
        attribute(STATEMENT_TYPE, &vec![INDIVIDUAL])?,
        // SpcSpOpusInfo, without a program name and address.
        attribute(OPUS_INFO, &Vec::<Any>::new())?,
    ])?;
    // Signed as a SET, although they have another tag in the SignerInfo (RFC 2315, 9.3).
    let signature = signer.sign(&attributes.to_der()?)?;

    let certificates = std::iter::once(&signer.certificate)
        .chain(&signer.issuers)
        .map(Any::encode_from)
        .collect::<der::Result<Vec<_>>>()?;
    let signed = SignedData {
        version: CmsVersion::V1,
        digest_algorithms: SetOfVec::try_from(vec![algorithm(ID_SHA_256)])?,
        encap_content_info: EncapsulatedContentInfo {
            econtent_type: content_type,
            econtent: Some(content),
        },
        certificates: Some(SetOfVec::try_from(certificates)?),
        signer_infos: SignerInfos(SetOfVec::try_from(vec![SignerInfo {
            version: CmsVersion::V1,
            sid: SignerIdentifier::IssuerAndSerialNumber(IssuerAndSerialNumber {
                issuer: certificate.issuer.clone(),
                serial_number: certificate.serial_number.clone(),
            }),
            digest_alg: algorithm(ID_SHA_256),
            signed_attrs: Some(attributes),
            signature_algorithm: algorithm(RSA_ENCRYPTION),
            signature: OctetString::new(signature)?,
            unsigned_attrs: None,
        }])?),
    };
    Ok(ContentInfo {
        content_type: ID_SIGNED_DATA,
        content: Any::encode_from(&signed)?,
    }
    .to_der()?)
}

/// `SignedData` (RFC 2315, 9.1).
///
/// The `cms` crate's type is not usable: it sorts the set of certificates as sequences of
/// numbers, not in DER order, and Windows rejects such a set.
#[derive(Sequence)]
struct SignedData {
    version: CmsVersion,
    digest_algorithms: SetOfVec<AlgorithmIdentifierOwned>,
    encap_content_info: EncapsulatedContentInfo,
    #[asn1(context_specific = "0", tag_mode = "IMPLICIT", optional = "true")]
    certificates: Option<SetOfVec<Any>>,
    signer_infos: SignerInfos,
}

/// An algorithm identifier with NULL parameters, which all tools of Microsoft write.
pub(crate) fn algorithm(oid: ObjectIdentifier) -> AlgorithmIdentifierOwned {
    AlgorithmIdentifierOwned {
        oid,
        parameters: Some(Null.into()),
    }
}

/// An attribute with one value.
pub(crate) fn attribute(
    oid: ObjectIdentifier,
    value: &(impl EncodeValue + Tagged),
) -> der::Result<Attribute> {
    Ok(Attribute {
        oid,
        values: SetOfVec::try_from(vec![Any::encode_from(value)?])?,
    })
}
