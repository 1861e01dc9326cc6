//! Checks a PKCS#7 signature of Authenticode, as far as the file
//! itself shows. The file does not show whether Windows trusts the signer.

#[cfg(test)]
mod tests;

use ::authenticode::DigestInfo;
use cms::signed_data::{SignerIdentifier, SignerInfo};
use const_oid::db::{
    rfc5911::{
        ID_CONTENT_TYPE, ID_COUNTERSIGNATURE, ID_MESSAGE_DIGEST, ID_SIGNED_DATA, ID_SIGNING_TIME,
    },
    rfc5912::{
        ID_SHA_1, ID_SHA_256, ID_SHA_384, ID_SHA_512, RSA_ENCRYPTION, SHA_1_WITH_RSA_ENCRYPTION,
        SHA_256_WITH_RSA_ENCRYPTION, SHA_384_WITH_RSA_ENCRYPTION, SHA_512_WITH_RSA_ENCRYPTION,
    },
};
use der::{
    AnyRef, Decode, Encode, Reader, SliceReader, Tag, TagNumber, Tagged,
    asn1::{ObjectIdentifier, OctetString},
};
use rsa::{Pkcs1v15Sign, PublicKey, pkcs8::DecodePublicKey};
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha384, Sha512, digest::Update};
use time::{Date, OffsetDateTime};
use x509_cert::{
    Certificate, attr::Attributes, ext::pkix::SubjectKeyIdentifier, time::Time, time::Validity,
};

use crate::{
    authenticode::{self, AuthenticodeError},
    check::{Check, Outcome, Source},
    pkcs7::algorithm,
    signer,
};

/// szOID_RFC3161_counterSign.
const RFC3161_TIMESTAMP: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.3.3.1");
/// szOID_NESTED_SIGNATURE.
const NESTED_SIGNATURE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.2.4.1");

const AUTHENTICODE: &str = "Windows Authenticode Portable Executable Signature Format";
const DER_ORDER: &str = "October 13, 2020—KB4579311 (known issues); X.690, 11.6";
const CHAIN: &str = "Authenticode Digital Signatures";

/// The checks of a signature.
pub(crate) struct Judgement {
    pub(crate) checks: Vec<Check>,
    /// What cannot be checked.
    pub(crate) beyond: Vec<&'static str>,
    /// The signed content without its tag and length, if it could be parsed.
    pub(crate) content: Option<Vec<u8>>,
}

/// A hash function of signatures.
pub(crate) struct Hash {
    oid: ObjectIdentifier,
    /// Identifies RSA signatures with this function.
    rsa: ObjectIdentifier,
    digest: fn(&[u8]) -> Vec<u8>,
    pub(crate) of_image: fn(&[u8]) -> Result<Vec<u8>, AuthenticodeError>,
}

const HASHES: [Hash; 4] = [
    Hash::new::<Sha1>(ID_SHA_1, SHA_1_WITH_RSA_ENCRYPTION),
    Hash::new::<Sha256>(ID_SHA_256, SHA_256_WITH_RSA_ENCRYPTION),
    Hash::new::<Sha384>(ID_SHA_384, SHA_384_WITH_RSA_ENCRYPTION),
    Hash::new::<Sha512>(ID_SHA_512, SHA_512_WITH_RSA_ENCRYPTION),
];

impl Hash {
    const fn new<D: Digest + Update>(oid: ObjectIdentifier, rsa: ObjectIdentifier) -> Self {
        Self {
            oid,
            rsa,
            digest: |bytes| D::digest(bytes).to_vec(),
            of_image: authenticode::digest::<D>,
        }
    }

    pub(crate) fn of(algorithm: ObjectIdentifier) -> Option<&'static Self> {
        HASHES.iter().find(|hash| hash.oid == algorithm)
    }

    /// What RSA signs for `message` (RFC 8017, 9.2).
    fn digest_info(&self, message: &[u8]) -> der::Result<Vec<u8>> {
        DigestInfo {
            digest_algorithm: algorithm(self.oid),
            digest: OctetString::new((self.digest)(message))?,
        }
        .to_der()
    }
}

pub(crate) fn unsupported_hash(algorithm: ObjectIdentifier) -> Outcome {
    Outcome::NotJudged(format!("the digest algorithm {algorithm} is not supported"))
}

/// The parts of a SignedData, in their original bytes: a parser
/// that sorts sets would hide their order.
struct Parts<'a> {
    content_type: ObjectIdentifier,
    content: Option<AnyRef<'a>>,
    /// The sets, with their descriptions.
    sets: Vec<(&'static str, Vec<&'a [u8]>)>,
    certificates: Vec<&'a [u8]>,
    signers: Vec<&'a [u8]>,
}

impl<'a> Parts<'a> {
    /// Reads a ContentInfo.
    fn read(info: AnyRef<'a>) -> der::Result<Self> {
        let fields = fields(info)?;
        let [kind, content] = fields[..] else {
            return Err(der::ErrorKind::Failed.into());
        };
        let kind = kind.decode_as::<ObjectIdentifier>()?;
        if kind != ID_SIGNED_DATA {
            return Err(der::ErrorKind::OidUnknown { oid: kind }.into());
        }
        let mut sets = Vec::new();
        let mut rest = self::fields(AnyRef::from_der(content.value())?)?.into_iter();
        let mut next = || rest.next().ok_or(der::Error::from(der::ErrorKind::Failed));
        next()?.decode_as::<u8>()?;
        sets.push(("digest algorithms", elements(next()?.value())?));
        let signed = self::fields(next()?)?;
        let mut field = next()?;
        let certificates = match is_context(field, TagNumber::N0) {
            true => elements(field.value())?,
            false => Vec::new(),
        };
        for (number, what) in [(TagNumber::N0, "certificates"), (TagNumber::N1, "CRLs")] {
            if is_context(field, number) {
                sets.push((what, elements(field.value())?));
                field = next()?;
            }
        }
        field.tag().assert_eq(Tag::Set)?;
        let signers = elements(field.value())?;
        sets.push(("signers", signers.clone()));
        for signer in &signers {
            for field in self::fields(AnyRef::from_der(signer)?)? {
                if is_context(field, TagNumber::N0) && field.tag().is_constructed() {
                    sets.push(("signed attributes", elements(field.value())?));
                }
                if is_context(field, TagNumber::N1) {
                    sets.push(("unsigned attributes", elements(field.value())?));
                }
            }
        }
        Ok(Self {
            content_type: signed.first().ok_or(der::ErrorKind::Failed)?.decode_as()?,
            content: match signed.get(1) {
                Some(explicit) => Some(AnyRef::from_der(explicit.value())?),
                None => None,
            },
            sets,
            certificates,
            signers,
        })
    }
}

/// The encoded members of a SET OF.
fn elements(value: &[u8]) -> der::Result<Vec<&[u8]>> {
    let mut reader = SliceReader::new(value)?;
    let mut found = Vec::new();
    while !reader.is_finished() {
        found.push(reader.tlv_bytes()?);
    }
    Ok(found)
}

/// The fields of a SEQUENCE.
fn fields(sequence: AnyRef<'_>) -> der::Result<Vec<AnyRef<'_>>> {
    sequence.tag().assert_eq(Tag::Sequence)?;
    elements(sequence.value())?
        .into_iter()
        .map(AnyRef::from_der)
        .collect()
}

fn is_context(field: AnyRef<'_>, wanted: TagNumber) -> bool {
    matches!(field.tag(), Tag::ContextSpecific { number, .. } if number == wanted)
}

/// Checks the signature `bytes`, whose content should have the type `content_type`.
pub(crate) fn judge(bytes: &[u8], content_type: ObjectIdentifier, today: Date) -> Judgement {
    let mut judgement = Judgement {
        checks: Vec::new(),
        beyond: Vec::new(),
        content: None,
    };
    let parts = read(bytes);
    judgement.require(
        "the signature is PKCS#7 in DER, and ends the file",
        AUTHENTICODE,
        parts.as_ref().err().cloned(),
    );
    let Ok(parts) = parts else {
        return judgement;
    };
    judgement.content = parts.content.map(|content| content.value().to_vec());
    judgement.require(
        "the signed content has the right type",
        AUTHENTICODE,
        match parts.content {
            Some(_) if parts.content_type == content_type => None,
            Some(_) => Some(format!(
                "its content type is {}, not {content_type}",
                parts.content_type
            )),
            None => Some("it has no content".into()),
        },
    );
    let unordered: Vec<&str> = parts
        .sets
        .iter()
        .filter(|(_, members)| !members.is_sorted())
        .map(|(what, _)| *what)
        .collect();
    judgement.require(
        "the members of the signature's sets are in DER order",
        DER_ORDER,
        (!unordered.is_empty()).then(|| format!("not in order: {}", unordered.join(" and the "))),
    );
    let fault = match parts.signers.len() {
        0 => Some("it is not signed".into()),
        1 => None,
        count => Some(format!("it has {count}")),
    };
    judgement.require("the signature has one signer", AUTHENTICODE, fault);
    let [signer] = parts.signers[..] else {
        return judgement;
    };
    judgement.beyond.push(
        "whether Windows trusts the root that the signer's certificate leads to, and whether a \
         certificate was revoked",
    );
    if let Err(error) = judgement.signer(signer, &parts, today) {
        judgement.require(
            "the signer can be parsed",
            AUTHENTICODE,
            Some(error.to_string()),
        );
    }
    judgement
}

/// Parses a signature that ends with `bytes`.
fn read(bytes: &[u8]) -> Result<Parts<'_>, String> {
    let mut reader = SliceReader::new(bytes).map_err(|error| error.to_string())?;
    let info: AnyRef<'_> = reader.decode().map_err(|error| error.to_string())?;
    match u32::from(reader.remaining_len()) {
        0 => Parts::read(info).map_err(|error| error.to_string()),
        more => Err(format!("{more} bytes follow")),
    }
}

impl Judgement {
    fn require(&mut self, claim: &'static str, source: &'static str, fault: Option<String>) {
        self.checks.push(Check::requirement(claim, source, fault));
    }

    fn outcome(&mut self, claim: &'static str, source: &'static str, outcome: Outcome) {
        let check = Check::new(claim, Source::Windows(source), outcome);
        self.checks.push(check);
    }

    /// Checks the signer.
    fn signer(&mut self, bytes: &[u8], parts: &Parts<'_>, today: Date) -> der::Result<()> {
        let info = SignerInfo::from_der(bytes)?;
        let unsigned = info.unsigned_attrs.as_ref();
        let has = |oid| unsigned.is_some_and(|attributes| find(attributes, oid).is_some());
        let timestamped = has(RFC3161_TIMESTAMP) || has(ID_COUNTERSIGNATURE);
        if timestamped {
            self.beyond.push("the timestamp's countersignature");
        }
        if has(NESTED_SIGNATURE) {
            self.beyond
                .push("a second signature that is nested in the first");
        }

        let hash = Hash::of(info.digest_alg.oid);
        self.attributes(&info, hash, parts);

        let certificates: Vec<(&[u8], Certificate)> = parts
            .certificates
            .iter()
            .filter_map(|bytes| Some((*bytes, Certificate::from_der(bytes).ok()?)))
            .collect();
        let own = certificates
            .iter()
            .find(|(_, certificate)| is_of(&info.sid, certificate));
        let none = || match parts.certificates.len() {
            0 => "it has no certificates".into(),
            count => format!("none of the {count} certificates is the signer's"),
        };
        self.require(
            "the signature contains the signer's certificate",
            AUTHENTICODE,
            own.is_none().then(none),
        );
        let Some((_, certificate)) = own else {
            return Ok(());
        };

        // Signed as a SET, whatever tag they have in the SignerInfo (RFC 2315, 9.3).
        let attributes = fields(AnyRef::from_der(bytes)?)?
            .into_iter()
            .find(|field| is_context(*field, TagNumber::N0) && field.tag().is_constructed())
            .map(|field| AnyRef::new(Tag::Set, field.value())?.to_der())
            .transpose()?;
        self.outcome(
            "the signature matches the signer's key",
            AUTHENTICODE,
            match (attributes, hash) {
                (None, _) => Some("it has no signed attributes".into()).into(),
                (Some(attributes), hash) => verify(
                    certificate,
                    info.signature_algorithm.oid,
                    hash,
                    &attributes,
                    info.signature.as_bytes(),
                ),
            },
        );
        self.outcome(
            "each certificate is signed by its issuer, as far as the signature contains the issuer",
            CHAIN,
            issuers(&certificates),
        );
        self.require(
            "the signer's certificate is for code signing",
            CHAIN,
            (!signer::may_sign_code(certificate))
                .then(|| "its extended key usage lacks code signing".into()),
        );
        let validity = certificate.tbs_certificate.validity;
        let signed_at = info
            .signed_attrs
            .as_ref()
            .and_then(|attributes| find(attributes, ID_SIGNING_TIME)?.to_der().ok())
            .and_then(|time| Time::from_der(&time).ok());
        self.require(
            "the signer's certificate had not expired at the signing time",
            CHAIN,
            signed_at
                .filter(|time| time.to_unix_duration() > validity.not_after.to_unix_duration())
                .map(|time| {
                    format!(
                        "it expired at {}, and the signing time is {time}",
                        validity.not_after
                    )
                }),
        );
        if !timestamped {
            self.require(
                "the signer's certificate is valid today, because the signature has no timestamp",
                CHAIN,
                fault_of_validity(validity, today),
            );
        }
        Ok(())
    }

    /// Checks that the signed attributes match the content.
    fn attributes(&mut self, info: &SignerInfo, hash: Option<&Hash>, parts: &Parts<'_>) {
        let attribute = |oid| find(info.signed_attrs.as_ref()?, oid);
        let kind: Option<ObjectIdentifier> =
            attribute(ID_CONTENT_TYPE).and_then(|value| value.decode_as().ok());
        let digest =
            attribute(ID_MESSAGE_DIGEST).and_then(|value| value.decode_as::<OctetString>().ok());
        let content = parts.content.map_or(&[][..], |content| content.value());
        let fault = |hash: &Hash| match (kind, digest) {
            (None, _) => Some("it has no contentType".into()),
            (Some(kind), _) if kind != parts.content_type => Some(format!("contentType is {kind}")),
            (_, None) => Some("it has no messageDigest".into()),
            (_, Some(digest)) if digest.as_bytes() != (hash.digest)(content) => {
                Some("messageDigest is not the digest of the content".into())
            }
            _ => None,
        };
        self.outcome(
            "the signed attributes match the content: type and digest",
            AUTHENTICODE,
            match hash {
                Some(hash) => fault(hash).into(),
                None => unsupported_hash(info.digest_alg.oid),
            },
        );
    }
}

/// The one value of an attribute.
fn find(attributes: &Attributes, oid: ObjectIdentifier) -> Option<&der::Any> {
    let mut attributes = attributes.iter();
    let attribute = attributes.find(|attribute| attribute.oid == oid)?;
    attribute.values.get(0)
}

/// Whether the certificate is the one that a signer names.
fn is_of(signer: &SignerIdentifier, certificate: &Certificate) -> bool {
    let own = &certificate.tbs_certificate;
    match signer {
        SignerIdentifier::IssuerAndSerialNumber(id) => {
            id.issuer == own.issuer && id.serial_number == own.serial_number
        }
        SignerIdentifier::SubjectKeyIdentifier(id) => own
            .get::<SubjectKeyIdentifier>()
            .is_ok_and(|own| own.is_some_and(|(_, own)| own == *id)),
    }
}

/// Verifies a signature of `message` with the certificate's key.
fn verify(
    certificate: &Certificate,
    algorithm: ObjectIdentifier,
    hash: Option<&Hash>,
    message: &[u8],
    signature: &[u8],
) -> Outcome {
    let key = &certificate.tbs_certificate.subject_public_key_info;
    let hash = match algorithm {
        RSA_ENCRYPTION => hash,
        algorithm => HASHES.iter().find(|hash| hash.rsa == algorithm),
    };
    let (Some(hash), RSA_ENCRYPTION) = (hash, key.algorithm.oid) else {
        return Outcome::NotJudged(format!(
            "the signature has the algorithm {algorithm}, and the key {}: only RSA with PKCS#1 \
             v1.5 padding is supported",
            key.algorithm.oid
        ));
    };
    let key = key
        .to_der()
        .map_err(|error| error.to_string())
        .and_then(|info| PublicKey::from_public_key_der(&info).map_err(|e| e.to_string()));
    let key = match key {
        Ok(key) => key,
        Err(error) => {
            return Outcome::NotJudged(format!("the signer's key cannot be parsed: {error}"));
        }
    };
    let matches = hash.digest_info(message).is_ok_and(|info| {
        let scheme = Pkcs1v15Sign::new_unprefixed();
        key.verify(scheme, &info, signature).is_ok()
    });
    (!matches).then(|| "it does not match".to_owned()).into()
}

/// Verifies each certificate whose issuer's certificate is in the
/// file.
fn issuers(certificates: &[(&[u8], Certificate)]) -> Outcome {
    for (bytes, certificate) in certificates {
        let own = &certificate.tbs_certificate;
        let issuers = certificates
            .iter()
            .filter(|(_, other)| other.tbs_certificate.subject == own.issuer);
        let signed = AnyRef::from_der(bytes)
            .and_then(|whole| elements(whole.value()))
            .ok()
            .and_then(|parts| parts.first().copied())
            .unwrap_or_default();
        let outcomes = issuers.map(|(_, issuer)| {
            let algorithm = certificate.signature_algorithm.oid;
            verify(
                issuer,
                algorithm,
                None,
                signed,
                certificate.signature.raw_bytes(),
            )
        });
        // Two certificates of one subject can have different keys.
        match outcomes.min_by_key(|outcome| match outcome {
            Outcome::Holds => 0,
            Outcome::NotJudged(_) => 1,
            Outcome::Faults(_) => 2,
        }) {
            Some(Outcome::Faults(_)) => {
                return Some(format!("the certificate of {} is not", own.subject)).into();
            }
            Some(unclear @ Outcome::NotJudged(_)) => return unclear,
            _ => {}
        }
    }
    Outcome::Holds
}

fn fault_of_validity(validity: Validity, today: Date) -> Option<String> {
    let date = |time: Time| OffsetDateTime::from(time.to_system_time()).date();
    if date(validity.not_after) < today {
        return Some(format!("it expired at {}", validity.not_after));
    }
    (date(validity.not_before) > today)
        .then(|| format!("it becomes valid at {}", validity.not_before))
}
