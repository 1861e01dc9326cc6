//! The signer: a private key and its certificate.
//!
//! A [`Signer`] has one of three sources: a test certificate, generated on first use
//! ([`Signer::test`]), PEM files ([`Signer::from_pem`]) or a PKCS#12 file
//! ([`Signer::from_pkcs12`]). In each case, the key must be an RSA key, and its certificate
//! must allow code signing.

mod test_certificate;

use std::{
    env,
    ffi::OsString,
    fmt, fs, io,
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

/// The environment variable with the folder of the test certificate.
pub const FOLDER_VARIABLE: &str = "FERROSTOR_SIGNING_DIR";

/// The file with the test key and its certificate. One file cannot be replaced partly.
pub const TEST_FILE: &str = "test-signing.pem";

/// A private key, its certificate, and the certificates of the issuers.
pub struct Signer {
    key: PrivateKey,
    certificate: Certificate,
    issuers: Vec<Certificate>,
}

/// The signing time, in seconds since 1970-01-01T00:00:00Z.
///
/// The caller chooses it, for example from SOURCE_DATE_EPOCH, so that the same input gives the
/// same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SigningTime(u64);

/// The signer's key or certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// A file cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The test certificate cannot be written.
    #[error(
        "{}: the test certificate cannot be written: {source}; \
         set {FOLDER_VARIABLE} to a writable folder", path.display()
    )]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// No environment variable gives the folder of the user's data.
    #[error(
        "no folder for the test certificate: neither {FOLDER_VARIABLE} nor XDG_DATA_HOME, HOME or \
         LOCALAPPDATA is set: set {FOLDER_VARIABLE} to a folder outside the repository"
    )]
    NoFolder,
    /// A PEM file has no private key.
    #[error(
        "{}: the file has no private key: give a PEM file with BEGIN PRIVATE KEY or BEGIN RSA \
         PRIVATE KEY", path.display()
    )]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// A private key needs a password.
    #[error(
        "{}: the private key is encrypted: give key and certificate as a PKCS#12 file with its \
         password, or decrypt the key: openssl pkey -in KEY.pem -out PLAIN.pem", path.display()
    )]
    EncryptedKey {
        /// The file.
        path: PathBuf,
    },
    /// A private key is damaged, or not an RSA key.
    #[error("{}: the private key cannot be used, because {reason}: give an RSA key", path.display())]
    BadKey {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A PEM file has no certificate.
    #[error(
        "{}: the file has no certificate: give a PEM file with BEGIN CERTIFICATE \
         (to convert a .cer: openssl x509 -inform DER -in FILE.cer -out FILE.pem)", path.display()
    )]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// A certificate is damaged.
    #[error("{}: certificate {number} cannot be parsed: {reason}", path.display())]
    BadCertificate {
        /// The file.
        path: PathBuf,
        /// The number of the certificate in the file, from 1.
        number: usize,
        /// What is wrong.
        reason: der::Error,
    },
    /// The certificate does not match the key.
    #[error(
        "{}: no certificate matches the private key in {}: give the certificate that was \
         issued for this key", certificates.display(), key.display()
    )]
    NotOfTheKey {
        /// The file with the key.
        key: PathBuf,
        /// The file with the certificates.
        certificates: PathBuf,
    },
    /// The certificate does not allow code signing.
    #[error(
        "{}: the certificate of {subject} is not for code signing: its extended key usage lacks \
         {CODE_SIGNING} (code signing)", path.display()
    )]
    NotForCode {
        /// The file with the certificate.
        path: PathBuf,
        /// The certificate's subject.
        subject: String,
    },
    /// The password of a PKCS#12 file is wrong.
    #[error("{}: the password is wrong", path.display())]
    WrongPassword {
        /// The file.
        path: PathBuf,
    },
    /// A PKCS#12 file is damaged or has an unsupported form.
    #[error(
        "{}: not a PKCS#12 file, or a wrong password, or an unsupported encryption: \
         {reason}; if openssl can read the file, convert it with: openssl pkcs12 -in \
         FILE -nodes -out ALL.pem, then openssl pkcs12 -export -in ALL.pem -out NEW.p12",
        path.display()
    )]
    BadPkcs12 {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: p12_keystore::error::Error,
    },
    /// A PKCS#12 file has no private key with a certificate.
    #[error("{}: the file has no private key with a matching certificate", path.display())]
    EmptyPkcs12 {
        /// The file.
        path: PathBuf,
    },
    /// The test certificate cannot be made.
    #[error("cannot make the test certificate: {0}")]
    Certificate(#[from] der::Error),
    /// The RSA computation failed.
    #[error("RSA: {0}")]
    Rsa(#[from] rsa::Error),
}

/// The folder of the test certificate: the value of [`FOLDER_VARIABLE`], or
/// `ferrostor/test-signing` in the folder of the user's data.
///
/// # Errors
/// [`SignerError::NoFolder`]
pub fn test_folder() -> Result<PathBuf, SignerError> {
    folder_by(|variable| env::var_os(variable))
}

/// [`test_folder`], with `variable` as the source of environment variables.
fn folder_by(variable: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, SignerError> {
    let folder = |name| {
        variable(name)
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

/// The permissions of a key's file, if other users can read or write it.
#[must_use]
pub fn exposed_to_others(key: &Path) -> Option<u32> {
    #[cfg(unix)]
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(key).ok()?.permissions());
    // Windows has access control lists instead.
    #[cfg(not(unix))]
    let mode = fs::metadata(key).map_or(0, |_| 0);
    (mode & 0o077 != 0).then_some(mode & 0o777)
}

impl Signer {
    /// The signer for tests. Its key and self-signed certificate are generated in `folder` on
    /// first use, and remain there.
    ///
    /// If several processes do this at the same time, all use the same key.
    ///
    /// # Errors
    /// The folder cannot be written, or its key or certificate cannot be used.
    pub fn test(folder: &Path) -> Result<Self, SignerError> {
        let file = folder.join(TEST_FILE);
        if !file.exists() {
            test_certificate::make(&file)?;
        }
        Self::from_pem(&file, &file)
    }

    /// The signer of an RSA key in PEM (PKCS#8 or PKCS#1, not encrypted) and a file of
    /// certificates in PEM, in any order: the key's, and those of its issuers. Both can be the
    /// same file.
    ///
    /// # Errors
    /// A file cannot be used.
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
    /// The password is wrong, or the file cannot be used.
    pub fn from_pkcs12(path: &Path, password: &str) -> Result<Self, SignerError> {
        let store =
            KeyStore::from_pkcs12(&read(path)?, password).map_err(|reason| match reason {
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

    /// Separates the certificate of the key from those of the issuers.
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

    /// The certificate of the key in DER, as in a `.cer` file.
    ///
    /// # Errors
    /// It cannot be encoded.
    pub fn certificate_der(&self) -> Result<Vec<u8>, der::Error> {
        self.certificate.to_der()
    }

    /// The certificate of the key in PEM, for `openssl` and `osslsigncode`.
    ///
    /// # Errors
    /// It cannot be encoded.
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

    /// The signature of `message`: RSASSA-PKCS1-v1_5 with SHA-256 (RFC 8017, 8.2), which is
    /// deterministic.
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
    /// The time in the encoding of X.509: UTCTime until the end of 2049 (RFC 5280, 4.1.2.5).
    ///
    /// # Errors
    /// The time is after the year 9999.
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

fn read(path: &Path) -> Result<Vec<u8>, SignerError> {
    fs::read(path).map_err(|source| SignerError::Read {
        path: path.to_owned(),
        source,
    })
}

/// Reads a PEM file. A binary file has no PEM block, which a later check reports.
fn text(path: &Path) -> Result<String, SignerError> {
    Ok(String::from_utf8_lossy(&read(path)?).into_owned())
}

/// The private key in the text of a PEM file.
fn private_key(path: &Path, text: &str) -> Result<PrivateKey, SignerError> {
    if let [block, ..] = pem_blocks(text, "PRIVATE KEY").as_slice() {
        return PrivateKey::from_pkcs8_pem(block).map_err(|reason| bad_key(path, reason));
    }
    if let [block, ..] = pem_blocks(text, "RSA PRIVATE KEY").as_slice() {
        // RFC 1421, 4.6.1.1: OpenSSL writes this into an encrypted key.
        if block.contains("Proc-Type:") {
            let path = path.to_owned();
            return Err(SignerError::EncryptedKey { path });
        }
        return PrivateKey::from_pkcs1_pem(block).map_err(|reason| bad_key(path, reason));
    }
    if !pem_blocks(text, "EC PRIVATE KEY").is_empty() {
        return Err(bad_key(path, "it is an elliptic-curve key"));
    }
    let path = path.to_owned();
    Err(match pem_blocks(text, "ENCRYPTED PRIVATE KEY").as_slice() {
        [] => SignerError::NoKey { path },
        _ => SignerError::EncryptedKey { path },
    })
}

/// The blocks with this label, from BEGIN to END, in the text of a PEM file. The file can have
/// other blocks, and text between them (RFC 7468, 2).
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

/// The SubjectPublicKeyInfo of a public key, in DER.
fn public_key_info(key: &PrivateKey) -> Result<Vec<u8>, rsa::pkcs8::spki::Error> {
    Ok(key.to_public_key().to_public_key_der()?.into_vec())
}

/// Whether the extended key usage allows code signing. A certificate without this extension
/// allows any use (RFC 5280, 4.2.1.12).
pub(crate) fn may_sign_code(certificate: &Certificate) -> bool {
    match certificate.tbs_certificate.get::<ExtendedKeyUsage>() {
        Ok(None) => true,
        Ok(Some((_, ExtendedKeyUsage(usages)))) => {
            usages.contains(&CODE_SIGNING) || usages.contains(&ANY_USAGE)
        }
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use der::{EncodePem, asn1::OctetString, pem::LineEnding};
    use p12_keystore::{KeyStoreEntry, PrivateKeyChain};
    use rsa::{Generate, pkcs1::EncodeRsaPrivateKey, pkcs8::EncodePrivateKey};
    use tempfile::TempDir;

    use super::*;

    /// A folder with the test certificate.
    fn folder() -> &'static Path {
        static FOLDER: OnceLock<TempDir> = OnceLock::new();
        FOLDER
            .get_or_init(|| {
                let folder = tempfile::tempdir().unwrap();
                Signer::test(folder.path()).unwrap();
                folder
            })
            .path()
    }

    fn test_signer() -> Signer {
        Signer::test(folder()).unwrap()
    }

    /// A file in its own folder.
    struct File {
        _folder: TempDir,
        path: PathBuf,
    }

    fn file(contents: impl AsRef<[u8]>) -> File {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, contents).unwrap();
        File {
            _folder: folder,
            path,
        }
    }

    /// The test key and its certificate as PEM files.
    fn files() -> (File, File) {
        let signer = test_signer();
        let key = signer.key.to_pkcs8_pem(LineEnding::LF).unwrap();
        (file(&*key), file(signer.certificate_pem().unwrap()))
    }

    fn pem_error(key: &File, certificates: &File) -> String {
        let error = Signer::from_pem(&key.path, &certificates.path).unwrap_err();
        let said = error.to_string();
        assert!(
            [key, certificates]
                .iter()
                .any(|file| said.starts_with(&file.path.display().to_string())),
            "it doesn't start with the file: {said}"
        );
        said
    }

    #[test]
    fn the_test_certificate_stays_the_same_after_the_first_use() {
        let first = test_signer().certificate_der().unwrap();
        assert_eq!(test_signer().certificate_der().unwrap(), first);
    }

    #[cfg(unix)]
    #[test]
    fn a_key_that_others_can_read_is_reported() {
        use std::os::unix::fs::PermissionsExt as _;
        let (key, _) = files();
        for (mode, exposed) in [
            (0o600, None),
            (0o400, None),
            (0o640, Some(0o640)),
            (0o644, Some(0o644)),
        ] {
            fs::set_permissions(&key.path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(exposed_to_others(&key.path), exposed, "{mode:o}");
        }
        assert_eq!(exposed_to_others(&folder().join(TEST_FILE)), None);
    }

    #[test]
    fn another_folder_has_another_test_certificate() {
        let other = tempfile::tempdir().unwrap();
        let other = Signer::test(other.path()).unwrap();
        let (mine, other) = (&test_signer().certificate, &other.certificate);
        assert_ne!(
            mine.tbs_certificate.serial_number,
            other.tbs_certificate.serial_number
        );
    }

    #[test]
    fn the_second_process_uses_the_existing_files_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(TEST_FILE);
        fs::write(&path, "the first one's").unwrap();

        test_certificate::make(&path).unwrap();

        assert_eq!(fs::read_to_string(&path).unwrap(), "the first one's");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn none_but_the_user_can_look_at_the_test_key() {
        use std::os::unix::fs::PermissionsExt as _;
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("a/b");
        Signer::test(&folder).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder), 0o700);
        assert_eq!(mode(&folder.join(TEST_FILE)), 0o600);
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named_with_the_variable_that_helps() {
        let occupied = file("");
        let said = Signer::test(&occupied.path.join("folder"))
            .unwrap_err()
            .to_string();
        assert!(said.contains("cannot be written"), "{said}");
        assert!(said.contains(FOLDER_VARIABLE), "{said}");
    }

    #[test]
    fn the_folder_is_the_named_one_else_among_the_users_data() {
        let folder = |variables: &[(&str, &str)]| {
            folder_by(|name| {
                let variable = variables.iter().find(|variable| variable.0 == name);
                variable.map(|(_, value)| OsString::from(value))
            })
            .ok()
        };
        let home = ("HOME", "/home/me");
        let data = ("XDG_DATA_HOME", "/data");
        assert_eq!(
            folder(&[home]),
            Some("/home/me/.local/share/ferrostor/test-signing".into())
        );
        assert_eq!(
            folder(&[home, data]),
            Some("/data/ferrostor/test-signing".into())
        );
        assert_eq!(
            folder(&[home, data, (FOLDER_VARIABLE, "/mine")]),
            Some("/mine".into())
        );
        assert_eq!(
            folder(&[home, ("XDG_DATA_HOME", "")]),
            folder(&[home]),
            "an empty variable is none"
        );
        assert_eq!(folder(&[]), None);
    }

    #[test]
    fn the_test_certificate_is_for_code_and_issues_none() {
        let certificate = test_signer().certificate;
        let tbs = &certificate.tbs_certificate;
        let (_, ExtendedKeyUsage(usages)) = tbs.get().unwrap().unwrap();
        assert_eq!(usages, [CODE_SIGNING]);
        let basic = tbs.get::<x509_cert::ext::pkix::BasicConstraints>();
        assert!(basic.unwrap().is_none());
        assert_eq!(tbs.issuer, tbs.subject);
    }

    #[test]
    fn a_key_in_pem_signs_with_its_certificate_wherever_that_is_in_the_chain() {
        let (key, certificate) = files();
        let other = tempfile::tempdir().unwrap();
        let other = Signer::test(other.path()).unwrap();
        let chain = format!(
            "words\n{}{}",
            other.certificate_pem().unwrap(),
            fs::read_to_string(&certificate.path).unwrap()
        );

        let signer = Signer::from_pem(&key.path, &file(chain).path).unwrap();

        assert_eq!(signer.certificate, test_signer().certificate);
        assert_eq!(signer.issuers, [other.certificate]);
    }

    #[test]
    fn a_key_in_pkcs1_is_as_good() {
        let (_, certificate) = files();
        let key = test_signer().key.to_pkcs1_pem(LineEnding::LF).unwrap();
        Signer::from_pem(&file(&*key).path, &certificate.path).unwrap();
    }

    #[test]
    fn a_missing_file_is_named() {
        let (_, certificate) = files();
        let missing = Path::new("/nonexistent/key.pem");
        let said = Signer::from_pem(missing, &certificate.path)
            .unwrap_err()
            .to_string();
        assert!(
            said.starts_with("/nonexistent/key.pem: cannot be read: "),
            "{said}"
        );
    }

    #[test]
    fn what_is_wrong_with_a_key_is_said() {
        let (_, certificate) = files();
        let block = |label| {
            file(format!(
                "-----BEGIN {label}-----\nAA==\n-----END {label}-----\n"
            ))
        };
        let encrypted_pkcs1 = file(
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAA==\n\
             -----END RSA PRIVATE KEY-----\n",
        );
        for (key, expected) in [
            (file("text"), "has no private key"),
            (file([0x30, 0x82, 0xff]), "has no private key"),
            (block("ENCRYPTED PRIVATE KEY"), "is encrypted"),
            (encrypted_pkcs1, "is encrypted"),
            (block("EC PRIVATE KEY"), "give an RSA key"),
            (block("PRIVATE KEY"), "cannot be used"),
            (block("RSA PRIVATE KEY"), "cannot be used"),
        ] {
            let said = pem_error(&key, &certificate);
            assert!(said.contains(expected), "{expected}: {said}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_certificate_is_said() {
        let (key, certificate) = files();
        let pem = fs::read_to_string(&certificate.path).unwrap();
        let damaged = format!("{pem}-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----");
        for (certificates, expected) in [
            (file("text"), "has no certificate"),
            (
                file(test_signer().certificate_der().unwrap()),
                "has no certificate",
            ),
            (file(damaged), "certificate 2 cannot be parsed"),
        ] {
            let said = pem_error(&key, &certificates);
            assert!(said.contains(expected), "{expected}: {said}");
        }
    }

    #[test]
    fn a_certificate_of_another_key_is_refused() {
        let (_, certificate) = files();
        let key = PrivateKey::generate().to_pkcs8_pem(LineEnding::LF).unwrap();
        let said = pem_error(&file(&*key), &certificate);
        assert!(
            said.contains("no certificate matches the private key in"),
            "{said}"
        );
    }

    #[test]
    fn a_certificate_for_something_else_is_refused() {
        let (key, _) = files();
        let certificate = with_usages(Some(&["1.3.6.1.5.5.7.3.1"]));
        let said = pem_error(&key, &file(certificate.to_pem(LineEnding::LF).unwrap()));
        assert!(
            said.contains(
                "is not for code signing: its extended key usage lacks 1.3.6.1.5.5.7.3.3"
            ),
            "{said}"
        );
    }

    #[test]
    fn a_certificate_for_all_uses_may_sign_code() {
        assert!(may_sign_code(&with_usages(None)));
        assert!(may_sign_code(&with_usages(Some(&["2.5.29.37.0"]))));
        assert!(!may_sign_code(&with_usages(Some(&[]))));
    }

    /// The test certificate with another extended key usage, or none. Its signature is wrong,
    /// but a signer does not check that.
    fn with_usages(usages: Option<&[&str]>) -> Certificate {
        let mut certificate = test_signer().certificate;
        let extensions = certificate.tbs_certificate.extensions.as_mut().unwrap();
        let place = extensions
            .iter()
            .position(|extension| extension.extn_id.to_string() == "2.5.29.37")
            .unwrap();
        match usages {
            None => drop(extensions.remove(place)),
            Some(usages) => {
                let usages = usages
                    .iter()
                    .map(|usage| ObjectIdentifier::new_unwrap(usage))
                    .collect();
                let usages = ExtendedKeyUsage(usages).to_der().unwrap();
                extensions[place].extn_value = OctetString::new(usages).unwrap();
            }
        }
        certificate
    }

    fn pkcs12(entry: Option<PrivateKeyChain>) -> File {
        let mut store = KeyStore::new();
        if let Some(entry) = entry {
            store.add_entry("key", KeyStoreEntry::PrivateKeyChain(entry));
        }
        let writer = store.writer("right").encryption_iterations(1);
        file(writer.mac_iterations(1).write().unwrap())
    }

    fn test_entry() -> PrivateKeyChain {
        let signer = test_signer();
        let key = signer.key.to_pkcs8_der().unwrap();
        let certificate = signer.certificate_der().unwrap();
        let certificate = p12_keystore::Certificate::from_der(&certificate).unwrap();
        PrivateKeyChain::new(key.as_bytes(), [1], [certificate])
    }

    #[test]
    fn a_pkcs12_file_opens_with_its_password_alone() {
        let file = pkcs12(Some(test_entry()));
        let signer = Signer::from_pkcs12(&file.path, "right").unwrap();
        assert_eq!(signer.certificate, test_signer().certificate);

        let error = Signer::from_pkcs12(&file.path, "wrong").unwrap_err();
        assert!(
            matches!(error, SignerError::WrongPassword { .. }),
            "{error}"
        );
    }

    #[test]
    fn a_pkcs12_file_without_key_is_refused() {
        let error = Signer::from_pkcs12(&pkcs12(None).path, "right").unwrap_err();
        assert!(matches!(error, SignerError::EmptyPkcs12 { .. }), "{error}");
    }

    #[test]
    fn what_is_no_pkcs12_file_is_refused() {
        let error = Signer::from_pkcs12(&file("text").path, "right").unwrap_err();
        assert!(matches!(error, SignerError::BadPkcs12 { .. }), "{error}");
    }

    #[test]
    fn times_after_2049_are_written_with_four_digits_of_the_year() {
        // 2050-01-01T00:00:00Z.
        let end = 2_524_608_000;
        assert!(matches!(
            SigningTime(end - 1).to_x509(),
            Ok(Time::UtcTime(_))
        ));
        assert!(matches!(
            SigningTime(end).to_x509(),
            Ok(Time::GeneralTime(_))
        ));
        assert!(SigningTime(u64::MAX).to_x509().is_err());
    }

    #[test]
    fn debug_output_does_not_have_the_key() {
        assert_eq!(
            format!("{:?}", test_signer()),
            r#"Signer { subject: "CN=Ferrostor test signing (not for production)", .. }"#
        );
    }
}
