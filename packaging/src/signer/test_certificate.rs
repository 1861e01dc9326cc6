//! The key and the self-signed certificate for tests.
//!
//! The certificate is what `New-SelfSignedCertificate -Type CodeSigningCert`
//! makes on Windows: version 3, key usage digitalSignature, extended key usage
//! code signing, a subject key identifier, and no basic constraints, so that it
//! can issue no other.

use std::{fs, io::Write, path::Path};

use const_oid::db::{rfc5280::ID_KP_CODE_SIGNING, rfc5912::SHA_256_WITH_RSA_ENCRYPTION};
use der::{
    Decode, Encode, EncodePem,
    asn1::{BitString, OctetString},
    pem::LineEnding,
};
use rsa::{
    Generate, PrivateKey,
    pkcs8::EncodePrivateKey,
    sha2::{Digest, Sha256},
};
use time::{OffsetDateTime, macros::datetime};
use x509_cert::{
    Certificate, TbsCertificate, Version,
    ext::{
        AsExtension, Extension,
        pkix::{ExtendedKeyUsage, KeyUsage, KeyUsages, SubjectKeyIdentifier},
    },
    name::RdnSequence,
    serial_number::SerialNumber,
    spki::SubjectPublicKeyInfoOwned,
    time::Validity,
};

use super::{Problem, SignerError, bad_key, public_key_info, x509_time};
use crate::pkcs7::algorithm;

const SUBJECT: &str = "CN=Ferrostor test signing (not for production)";

/// Before any time that a package of this project is signed at.
const NOT_BEFORE: OffsetDateTime = datetime!(2026-01-01 00:00 UTC);
const NOT_AFTER: OffsetDateTime = datetime!(2046-01-01 00:00 UTC);

/// Makes a key and its certificate, and keeps them in `file`, unless another
/// process was faster: then what is there stays.
pub(super) fn make(file: &Path) -> Result<(), SignerError> {
    let failed = |source| Problem::Write(source).of(file);
    let folder = file.parent().unwrap_or(Path::new("."));
    make_folder(folder).map_err(failed)?;

    let key = PrivateKey::generate();
    let pem = key
        .to_pkcs8_pem(LineEnding::LF)
        .map_err(|error| bad_key(error).of(file))?;
    let public = public_key_info(&key).map_err(|error| bad_key(error).of(file))?;
    let certificate = certificate(&key, &public)?.to_pem(LineEnding::LF)?;

    // Mode 0600, and a name of its own, until it is complete.
    let mut draft = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    draft
        .write_all(pem.as_bytes())
        .and_then(|()| draft.write_all(certificate.as_bytes()))
        .and_then(|()| draft.as_file().sync_all())
        .map_err(failed)?;
    match draft.persist_noclobber(file) {
        Ok(_) => Ok(()),
        Err(_) if file.exists() => Ok(()),
        Err(error) => Err(failed(error.error)),
    }
}

/// Makes a folder that no one but the user can look into.
fn make_folder(folder: &Path) -> std::io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

/// The certificate of a key, signed with that key.
fn certificate(key: &PrivateKey, public: &[u8]) -> Result<Certificate, SignerError> {
    let public = SubjectPublicKeyInfoOwned::from_der(public)?;
    // Random as the key is. RFC 7093, 2, method 1, for the key's identifier.
    let digest = Sha256::digest(public.subject_public_key.raw_bytes());
    let (serial, identifier) = (&digest[..16], &digest[..20]);
    let subject: RdnSequence = SUBJECT.parse()?;
    let algorithm = algorithm(SHA_256_WITH_RSA_ENCRYPTION);

    let extensions = vec![
        KeyUsage(KeyUsages::DigitalSignature.into()).to_extension(&subject, &[])?,
        Extension {
            critical: false,
            ..ExtendedKeyUsage(vec![ID_KP_CODE_SIGNING]).to_extension(&subject, &[])?
        },
        SubjectKeyIdentifier(OctetString::new(identifier)?).to_extension(&subject, &[])?,
    ];
    let certificate = TbsCertificate {
        version: Version::V3,
        serial_number: SerialNumber::new(serial)?,
        signature: algorithm.clone(),
        issuer: subject.clone(),
        validity: Validity {
            not_before: x509_time(NOT_BEFORE)?,
            not_after: x509_time(NOT_AFTER)?,
        },
        subject,
        subject_public_key_info: public,
        issuer_unique_id: None,
        subject_unique_id: None,
        extensions: Some(extensions),
    };
    let signature = key.pkcs1v15_sign::<Sha256>(&certificate.to_der()?)?;
    Ok(Certificate {
        tbs_certificate: certificate,
        signature_algorithm: algorithm,
        signature: BitString::from_bytes(&signature)?,
    })
}
