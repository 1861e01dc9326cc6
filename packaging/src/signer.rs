//! Who signs: a private key and the certificate that vouches for it.
//!
//! A [`Signer`] comes from one of three places: a test certificate that is made
//! on first use ([`Signer::test`]), PEM files ([`Signer::from_pem`]) or a
//! PKCS#12 file ([`Signer::from_pkcs12`]). Each is held to the same: the key is
//! RSA's, a certificate is of that key, and that certificate may sign code.

mod test_certificate;

use std::{
    env, fmt, fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use der::{
    DateTime, Decode, DecodePem, Encode,
    asn1::{GeneralizedTime, ObjectIdentifier, UtcTime},
};
use p12_keystore::KeyStore;
use rsa::{
    PrivateKey,
    pkcs1::DecodeRsaPrivateKey,
    pkcs8::{DecodePrivateKey, EncodePublicKey},
    sha2::Sha256,
};
use x509_cert::{Certificate, ext::pkix::ExtendedKeyUsage, time::Time};

/// id-kp-codeSigning, RFC 5280, 4.2.1.12.
const CODE_SIGNING: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.3");
/// anyExtendedKeyUsage, RFC 5280, 4.2.1.12.
const ANY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37.0");

/// The variable that names the folder of the test certificate.
pub const FOLDER_VARIABLE: &str = "FERROSTOR_SIGNING_DIR";

/// Key and certificate of the test, in one file: what is of one piece can't be
/// half replaced.
const TEST_FILE: &str = "test-signing.pem";

/// A private key, its certificate, and the certificates that lead from there to
/// a root.
pub struct Signer {
    key: PrivateKey,
    certificate: Certificate,
    issuers: Vec<Certificate>,
}

/// When something is signed, in seconds since 1970-01-01T00:00:00Z.
///
/// It is the caller's to say, as in SOURCE_DATE_EPOCH, so that the same input
/// gives the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SigningTime(u64);

/// Why there is no signer.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// A file can't be read.
    #[error("{}: can't be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The test certificate can't be kept.
    #[error(
        "{}: the test certificate can't be written: {source}; \
         let {FOLDER_VARIABLE} name a folder that can be written to", path.display()
    )]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No variable of the environment says where the user's data are.
    #[error(
        "no folder for the test certificate: neither {FOLDER_VARIABLE} nor XDG_DATA_HOME, HOME or \
         LOCALAPPDATA is set; let {FOLDER_VARIABLE} name one outside the repository"
    )]
    NoFolder,
    /// A PEM file has no private key.
    #[error(
        "{}: no private key in it; a PEM file with BEGIN PRIVATE KEY or BEGIN RSA PRIVATE KEY \
         is expected", path.display()
    )]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// A private key needs a password.
    #[error(
        "{}: the private key is encrypted; give key and certificate as a PKCS#12 file with its \
         password, or decrypt the key: openssl pkey -in KEY.pem -out PLAIN.pem", path.display()
    )]
    EncryptedKey {
        /// The file.
        path: PathBuf,
    },
    /// A private key is damaged or not RSA's.
    #[error("{}: the private key can't be used: {reason}; an RSA key is expected", path.display())]
    BadKey {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A PEM file has no certificate.
    #[error(
        "{}: no certificate in it; a PEM file with BEGIN CERTIFICATE is expected \
         (of a .cer file: openssl x509 -inform DER -in FILE.cer -out FILE.pem)", path.display()
    )]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// A certificate is damaged.
    #[error("{}: certificate {number} can't be read: {reason}", path.display())]
    BadCertificate {
        /// The file.
        path: PathBuf,
        /// Which of the file's certificates, from 1 on.
        number: usize,
        /// What is wrong with it.
        reason: der::Error,
    },
    /// Key and certificate don't belong together.
    #[error(
        "{}: none of its certificates is of the private key in {}; give the certificate that was \
         issued for this key", certificates.display(), key.display()
    )]
    NotOfTheKey {
        /// The file with the key.
        key: PathBuf,
        /// The file with the certificates.
        certificates: PathBuf,
    },
    /// The certificate was issued for something else.
    #[error(
        "{}: the certificate of {subject} is not for code: its extended key usage lacks \
         {CODE_SIGNING} (code signing)", path.display()
    )]
    NotForCode {
        /// The file with the certificate.
        path: PathBuf,
        /// The certificate's subject.
        subject: String,
    },
    /// A PKCS#12 file doesn't open with this password.
    #[error("{}: the password is wrong", path.display())]
    WrongPassword {
        /// The file.
        path: PathBuf,
    },
    /// A PKCS#12 file is damaged or of an unknown form.
    #[error(
        "{}: not a PKCS#12 file that can be read: {reason}; this may help: openssl pkcs12 -in \
         FILE -nodes -out ALL.pem, then openssl pkcs12 -export -in ALL.pem -out NEW.p12",
        path.display()
    )]
    BadPkcs12 {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: p12_keystore::error::Error,
    },
    /// A PKCS#12 file has no private key with a certificate.
    #[error("{}: no private key with a certificate of its own in it", path.display())]
    EmptyPkcs12 {
        /// The file.
        path: PathBuf,
    },
    /// The certificate for the test can't be made.
    #[error("the test certificate can't be made: {0}")]
    Certificate(#[from] der::Error),
    /// RSA's computation failed.
    #[error("RSA: {0}")]
    Rsa(#[from] rsa::Error),
}

/// The folder of the test certificate: what [`FOLDER_VARIABLE`] names, or
/// `ferrostor/test-signing` among the user's data.
///
/// # Errors
/// [`SignerError::NoFolder`]
pub fn test_folder() -> Result<PathBuf, SignerError> {
    let folder = |variable| {
        env::var_os(variable)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    folder(FOLDER_VARIABLE)
        .or_else(|| {
            folder("XDG_DATA_HOME")
                .or_else(|| folder("HOME").map(|home| home.join(".local/share")))
                .or_else(|| folder("LOCALAPPDATA"))
                .map(|data| data.join("ferrostor").join("test-signing"))
        })
        .ok_or(SignerError::NoFolder)
}

impl Signer {
    /// The signer for tests, of a key and a self-signed certificate that are
    /// made in `folder` at the first use and stay there.
    ///
    /// Of several processes that come first at the same time, one makes them
    /// and the others take them.
    ///
    /// # Errors
    /// The folder can't be written to, or what is in it can't be used.
    pub fn test(folder: &Path) -> Result<Self, SignerError> {
        let file = folder.join(TEST_FILE);
        if !file.exists() {
            test_certificate::make(&file)?;
        }
        Self::from_pem(&file, &file)
    }

    /// The signer of an RSA key in PEM (PKCS#8 or PKCS#1, not encrypted) and a
    /// file of certificates in PEM, in any order: the key's, and those that
    /// lead to a root. It may be one file.
    ///
    /// # Errors
    /// Says which file is wrong, and what is to be done.
    pub fn from_pem(key: &Path, certificates: &Path) -> Result<Self, SignerError> {
        let private_key = private_key(key, &text(key)?)?;
        let text = text(certificates)?;
        let blocks = pem_blocks(&text, "CERTIFICATE");
        let found = blocks
            .into_iter()
            .zip(1..)
            .map(|(block, number)| {
                Certificate::from_pem(block).map_err(|reason| SignerError::BadCertificate {
                    path: certificates.to_owned(),
                    number,
                    reason,
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        if found.is_empty() {
            let path = certificates.to_owned();
            return Err(SignerError::NoCertificate { path });
        }
        Self::new(private_key, found, key, certificates)
    }

    /// The signer of a PKCS#12 file (.p12, .pfx).
    ///
    /// # Errors
    /// The password is wrong, or the file can't be used.
    pub fn from_pkcs12(path: &Path, password: &str) -> Result<Self, SignerError> {
        let bytes = fs::read(path).map_err(|source| SignerError::Read {
            path: path.to_owned(),
            source,
        })?;
        let store = KeyStore::from_pkcs12(&bytes, password).map_err(|reason| match reason {
            p12_keystore::error::Error::MacError(_) => SignerError::WrongPassword {
                path: path.to_owned(),
            },
            reason => SignerError::BadPkcs12 {
                path: path.to_owned(),
                reason,
            },
        })?;
        let (_, entry) = store
            .private_key_chain()
            .ok_or_else(|| SignerError::EmptyPkcs12 {
                path: path.to_owned(),
            })?;
        let key =
            PrivateKey::from_pkcs8_der(entry.key()).map_err(|reason| bad_key(path, reason))?;
        let certificates = entry
            .chain()
            .iter()
            .zip(1..)
            .map(|(certificate, number)| {
                Certificate::from_der(certificate.as_der()).map_err(|reason| {
                    SignerError::BadCertificate {
                        path: path.to_owned(),
                        number,
                        reason,
                    }
                })
            })
            .collect::<Result<_, _>>()?;
        Self::new(key, certificates, path, path)
    }

    /// Takes the certificate of the key out of `certificates`.
    fn new(
        key: PrivateKey,
        mut certificates: Vec<Certificate>,
        key_file: &Path,
        certificate_file: &Path,
    ) -> Result<Self, SignerError> {
        let public = public_key_info(&key).map_err(|reason| bad_key(key_file, reason))?;
        let is_of_the_key = |certificate: &Certificate| {
            certificate
                .tbs_certificate
                .subject_public_key_info
                .to_der()
                .is_ok_and(|info| info == public)
        };
        let Some(place) = certificates.iter().position(is_of_the_key) else {
            return Err(SignerError::NotOfTheKey {
                key: key_file.to_owned(),
                certificates: certificate_file.to_owned(),
            });
        };
        let certificate = certificates.remove(place);
        if !may_sign_code(&certificate) {
            return Err(SignerError::NotForCode {
                path: certificate_file.to_owned(),
                subject: certificate.tbs_certificate.subject.to_string(),
            });
        }
        Ok(Self {
            key,
            certificate,
            issuers: certificates,
        })
    }

    /// The certificate of the key, as a `.cer` file has it.
    ///
    /// # Errors
    /// It can't be encoded.
    pub fn certificate_der(&self) -> Result<Vec<u8>, der::Error> {
        self.certificate.to_der()
    }

    /// The certificate of the key, as `openssl` and `osslsigncode` read it.
    ///
    /// # Errors
    /// It can't be encoded.
    pub fn certificate_pem(&self) -> Result<String, der::Error> {
        use der::EncodePem as _;
        self.certificate.to_pem(der::pem::LineEnding::LF)
    }

    pub(crate) fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    pub(crate) fn issuers(&self) -> &[Certificate] {
        &self.issuers
    }

    /// The signature of `message`: RSASSA-PKCS1-v1_5 with SHA-256 (RFC 8017,
    /// 8.2), which is the same each time.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rsa::Error> {
        self.key.pkcs1v15_sign::<Sha256>(message)
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subject = &self.certificate.tbs_certificate.subject;
        f.debug_struct("Signer")
            .field("subject", &subject.to_string())
            .finish_non_exhaustive()
    }
}

impl From<u64> for SigningTime {
    fn from(seconds: u64) -> Self {
        Self(seconds)
    }
}

impl SigningTime {
    /// As X.509 writes it: UTCTime until the end of 2049 (RFC 5280, 4.1.2.5).
    ///
    /// # Errors
    /// It is after the year 9999.
    pub(crate) fn to_x509(self) -> Result<Time, der::Error> {
        let time = DateTime::from_unix_duration(Duration::from_secs(self.0))?;
        Ok(UtcTime::from_date_time(time).map_or_else(
            |_| Time::GeneralTime(GeneralizedTime::from_date_time(time)),
            Time::UtcTime,
        ))
    }

    pub(crate) fn is_after(self, time: Time) -> bool {
        Duration::from_secs(self.0) > time.to_unix_duration()
    }
}

fn text(path: &Path) -> Result<String, SignerError> {
    fs::read_to_string(path).map_err(|source| SignerError::Read {
        path: path.to_owned(),
        source,
    })
}

/// The private key in the text of a PEM file.
fn private_key(path: &Path, text: &str) -> Result<PrivateKey, SignerError> {
    if let [block, ..] = pem_blocks(text, "PRIVATE KEY").as_slice() {
        return PrivateKey::from_pkcs8_pem(block).map_err(|reason| bad_key(path, reason));
    }
    if let [block, ..] = pem_blocks(text, "RSA PRIVATE KEY").as_slice() {
        // RFC 1421, 4.6.1.1: what OpenSSL writes into a key that it encrypts.
        if block.contains("Proc-Type:") {
            let path = path.to_owned();
            return Err(SignerError::EncryptedKey { path });
        }
        return PrivateKey::from_pkcs1_pem(block).map_err(|reason| bad_key(path, reason));
    }
    if !pem_blocks(text, "EC PRIVATE KEY").is_empty() {
        return Err(bad_key(path, "it is a key of elliptic curves"));
    }
    let path = path.to_owned();
    Err(match pem_blocks(text, "ENCRYPTED PRIVATE KEY").as_slice() {
        [] => SignerError::NoKey { path },
        _ => SignerError::EncryptedKey { path },
    })
}

/// The blocks of this label, from BEGIN to END, in the text of a PEM file,
/// which may hold others, and words between them (RFC 7468, 2).
fn pem_blocks<'t>(text: &'t str, label: &str) -> Vec<&'t str> {
    let begin = format!("-----BEGIN {label}-----");
    let end = format!("-----END {label}-----");
    text.match_indices(&begin)
        .filter_map(|(start, _)| {
            let rest = text.get(start..)?;
            rest.get(..rest.find(&end)? + end.len())
        })
        .collect()
}

fn bad_key(path: &Path, reason: impl fmt::Display) -> SignerError {
    SignerError::BadKey {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

/// The SubjectPublicKeyInfo of a key's public half, in DER.
fn public_key_info(key: &PrivateKey) -> Result<Vec<u8>, rsa::pkcs8::spki::Error> {
    Ok(key.to_public_key().to_public_key_der()?.into_vec())
}

/// Whether the extended key usage allows it. A certificate without this
/// extension is for any use (RFC 5280, 4.2.1.12).
fn may_sign_code(certificate: &Certificate) -> bool {
    match certificate.tbs_certificate.get::<ExtendedKeyUsage>() {
        Ok(None) => true,
        Ok(Some((_, ExtendedKeyUsage(usages)))) => {
            usages.contains(&CODE_SIGNING) || usages.contains(&ANY_USAGE)
        }
        Err(_) => false,
    }
}
