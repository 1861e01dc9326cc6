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
    time::SystemTime,
};

use const_oid::db::rfc5280::{ANY_EXTENDED_KEY_USAGE, ID_KP_CODE_SIGNING};
use der::{
    DateTime, Decode, DecodePem, Encode,
    asn1::{GeneralizedTime, UtcTime},
};
use p12_keystore::KeyStore;
use rsa::{
    PrivateKey,
    pkcs1::DecodeRsaPrivateKey,
    pkcs8::{DecodePrivateKey, EncodePublicKey},
    sha2::Sha256,
};
use time::OffsetDateTime;
use x509_cert::{Certificate, ext::pkix::ExtendedKeyUsage, time::Time};

/// The environment variable with the folder of the test certificate.
pub const FOLDER_VARIABLE: &str = "FERROSTOR_SIGNING_DIR";

/// The file with the test key and its certificate. One file cannot be replaced partly.
pub const TEST_FILE: &str = "test-signing.pem";

/// A private key, its certificate, and the certificates of the issuers.
pub struct Signer {
    key: PrivateKey,
    pub(crate) certificate: Certificate,
    pub(crate) issuers: Vec<Certificate>,
}

/// The signer's key or certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// A file cannot be used.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        problem: Problem,
    },
    /// No environment variable gives the folder of the user's data.
    #[error(
        "no folder for the test certificate: neither {FOLDER_VARIABLE} nor XDG_DATA_HOME, HOME or \
         LOCALAPPDATA is set: set {FOLDER_VARIABLE} to a folder outside the repository"
    )]
    NoFolder,
    /// The test certificate cannot be made.
    #[error("cannot make the test certificate: {0}")]
    Certificate(#[from] der::Error),
    /// The RSA computation failed.
    #[error("RSA: {0}")]
    Rsa(#[from] rsa::Error),
}

/// What is wrong with a file that a signer needs.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Read(io::Error),
    /// The test certificate cannot be written.
    #[error(
        "the test certificate cannot be written: {0}; set {FOLDER_VARIABLE} to a writable folder"
    )]
    Write(io::Error),
    /// A PEM file has no private key.
    #[error(
        "the file has no private key: give a PEM file with BEGIN PRIVATE KEY or BEGIN RSA PRIVATE \
         KEY"
    )]
    NoKey,
    /// A private key needs a password.
    #[error(
        "the private key is encrypted: give key and certificate as a PKCS#12 file with its \
         password, or decrypt the key: openssl pkey -in KEY.pem -out PLAIN.pem"
    )]
    EncryptedKey,
    /// A private key is damaged, or not an RSA key.
    #[error("the private key cannot be used, because {0}: give an RSA key")]
    BadKey(String),
    /// A PEM file has no certificate.
    #[error(
        "the file has no certificate: give a PEM file with BEGIN CERTIFICATE \
         (to convert a .cer: openssl x509 -inform DER -in FILE.cer -out FILE.pem)"
    )]
    NoCertificate,
    /// The certificate with this number in the file, from 1, is damaged.
    #[error("certificate {0} cannot be parsed: {1}")]
    BadCertificate(usize, der::Error),
    /// The file has no certificate for the private key.
    #[error(
        "no certificate matches the private key in {}: give the certificate that was issued for \
         this key", key.display()
    )]
    NotOfTheKey {
        /// The file with the key.
        key: PathBuf,
    },
    /// The certificate does not allow code signing.
    #[error(
        "the certificate of {subject} is not for code signing: its extended key usage lacks \
         {ID_KP_CODE_SIGNING} (code signing)"
    )]
    NotForCode {
        /// The certificate's subject.
        subject: String,
    },
    /// The password of a PKCS#12 file is wrong.
    #[error("the password is wrong")]
    WrongPassword,
    /// A PKCS#12 file is damaged or has an unsupported form.
    #[error(
        "not a PKCS#12 file, or a wrong password, or an unsupported encryption: {0}; if openssl \
         can read the file, convert it with: openssl pkcs12 -in FILE -nodes -out ALL.pem, then \
         openssl pkcs12 -export -in ALL.pem -out NEW.p12"
    )]
    BadPkcs12(p12_keystore::error::Error),
    /// A PKCS#12 file has no private key with a certificate.
    #[error("the file has no private key with a matching certificate")]
    EmptyPkcs12,
}

impl Problem {
    /// The error about the file at `path`.
    fn of(self, path: &Path) -> SignerError {
        SignerError::File {
            path: path.to_owned(),
            problem: self,
        }
    }
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
        let private_key = private_key(&text(key)?).map_err(|problem| problem.of(key))?;
        let text = text(certificates)?;
        let blocks = pem_blocks(&text, "CERTIFICATE");
        if blocks.is_empty() {
            return Err(Problem::NoCertificate.of(certificates));
        }
        let found = blocks.into_iter().map(Certificate::from_pem);
        Self::new(private_key, found, key, certificates)
    }

    /// The signer of a PKCS#12 file (.p12, .pfx).
    ///
    /// # Errors
    /// The password is wrong, or the file cannot be used.
    pub fn from_pkcs12(path: &Path, password: &str) -> Result<Self, SignerError> {
        let store = KeyStore::from_pkcs12(&read(path)?, password).map_err(|reason| {
            match reason {
                p12_keystore::error::Error::MacError(_) => Problem::WrongPassword,
                reason => Problem::BadPkcs12(reason),
            }
            .of(path)
        })?;
        let (_, entry) = store
            .private_key_chain()
            .ok_or_else(|| Problem::EmptyPkcs12.of(path))?;
        let key = PrivateKey::from_pkcs8_der(entry.key());
        let key = key.map_err(|reason| bad_key(reason).of(path))?;
        let certificates = entry.chain().iter();
        let certificates = certificates.map(|one| Certificate::from_der(one.as_der()));
        Self::new(key, certificates, path, path)
    }

    /// Separates the certificate of the key from those of the issuers.
    fn new(
        key: PrivateKey,
        certificates: impl Iterator<Item = der::Result<Certificate>>,
        key_file: &Path,
        certificate_file: &Path,
    ) -> Result<Self, SignerError> {
        let public = public_key_info(&key).map_err(|reason| bad_key(reason).of(key_file))?;
        let certificates = certificates.zip(1..).map(|(certificate, number)| {
            certificate
                .map_err(|reason| Problem::BadCertificate(number, reason).of(certificate_file))
        });
        let mut issuers = certificates.collect::<Result<Vec<_>, _>>()?;
        let is_of_the_key = |certificate: &Certificate| {
            let info = &certificate.tbs_certificate.subject_public_key_info;
            info.to_der().is_ok_and(|info| info == public)
        };
        let Some(place) = issuers.iter().position(is_of_the_key) else {
            let key = key_file.to_owned();
            return Err(Problem::NotOfTheKey { key }.of(certificate_file));
        };
        let certificate = issuers.remove(place);
        if !may_sign_code(&certificate) {
            let subject = certificate.tbs_certificate.subject.to_string();
            return Err(Problem::NotForCode { subject }.of(certificate_file));
        }
        Ok(Self {
            key,
            certificate,
            issuers,
        })
    }

    /// The certificate of the key in DER, as in a `.cer` file.
    ///
    /// # Errors
    /// It cannot be encoded.
    pub fn certificate_der(&self) -> Result<Vec<u8>, der::Error> {
        self.certificate.to_der()
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

/// The time in the encoding of X.509: UTCTime until the end of 2049 (RFC 5280, 4.1.2.5).
///
/// # Errors
/// The time is before 1970 or after the year 9999.
pub(crate) fn x509_time(time: OffsetDateTime) -> der::Result<Time> {
    let time = DateTime::try_from(SystemTime::from(time))?;
    Ok(UtcTime::from_date_time(time).map_or_else(
        |_| Time::GeneralTime(GeneralizedTime::from_date_time(time)),
        Time::UtcTime,
    ))
}

fn read(path: &Path) -> Result<Vec<u8>, SignerError> {
    fs::read(path).map_err(|source| Problem::Read(source).of(path))
}

/// Reads a PEM file. A binary file has no PEM block, which a later check reports.
fn text(path: &Path) -> Result<String, SignerError> {
    Ok(String::from_utf8_lossy(&read(path)?).into_owned())
}

/// The private key in the text of a PEM file.
fn private_key(text: &str) -> Result<PrivateKey, Problem> {
    let first = |label| pem_blocks(text, label).into_iter().next();
    if let Some(block) = first("PRIVATE KEY") {
        return PrivateKey::from_pkcs8_pem(block).map_err(bad_key);
    }
    if let Some(block) = first("RSA PRIVATE KEY") {
        // RFC 1421, 4.6.1.1: OpenSSL writes this into an encrypted key.
        if block.contains("Proc-Type:") {
            return Err(Problem::EncryptedKey);
        }
        return PrivateKey::from_pkcs1_pem(block).map_err(bad_key);
    }
    if first("EC PRIVATE KEY").is_some() {
        return Err(bad_key("it is an elliptic-curve key"));
    }
    Err(match first("ENCRYPTED PRIVATE KEY") {
        Some(_) => Problem::EncryptedKey,
        None => Problem::NoKey,
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

fn bad_key(reason: impl fmt::Display) -> Problem {
    Problem::BadKey(reason.to_string())
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
            usages.contains(&ID_KP_CODE_SIGNING) || usages.contains(&ANY_EXTENDED_KEY_USAGE)
        }
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use der::{
        EncodePem,
        asn1::{ObjectIdentifier, OctetString},
        pem::LineEnding,
    };
    use p12_keystore::{KeyStoreEntry, PrivateKeyChain};
    use rsa::{pkcs1::EncodeRsaPrivateKey, pkcs8::EncodePrivateKey};
    use tempfile::NamedTempFile;
    use time::macros::datetime;

    use super::*;
    use crate::test_data::{KEYS, SIGNERS};

    fn file(contents: impl AsRef<[u8]>) -> NamedTempFile {
        let file = NamedTempFile::new().unwrap();
        fs::write(&file, contents).unwrap();
        file
    }

    /// The file with a test key and its certificate.
    fn pem(name: &str) -> PathBuf {
        LazyLock::force(&SIGNERS);
        KEYS.path().join(name).join(TEST_FILE)
    }

    /// Why a key and certificates cannot be used. The message begins with the name of the file.
    fn pem_error(key: impl AsRef<Path>, certificates: impl AsRef<Path>) -> String {
        let [key, certificates] = [key.as_ref(), certificates.as_ref()];
        let said = Signer::from_pem(key, certificates).unwrap_err().to_string();
        let names_file = |file: &Path| said.starts_with(&format!("{}: ", file.display()));
        assert!(names_file(key) || names_file(certificates), "{said}");
        said
    }

    #[test]
    fn each_folder_has_a_test_certificate_which_stays_the_same_after_the_first_use() {
        let [one, two] = &*SIGNERS;
        let again = Signer::test(&KEYS.path().join("one")).unwrap();
        assert_eq!(again.certificate, one.certificate);
        let serial = |signer: &Signer| signer.certificate.tbs_certificate.serial_number.clone();
        assert_ne!(serial(one), serial(two));
    }

    #[cfg(unix)]
    #[test]
    fn a_key_that_others_can_read_is_reported() {
        use std::os::unix::fs::PermissionsExt as _;
        let key = file("");
        for (mode, exposed) in [
            (0o600, None),
            (0o400, None),
            (0o640, Some(0o640)),
            (0o644, Some(0o644)),
        ] {
            fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(exposed_to_others(key.path()), exposed, "{mode:o}");
        }
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
    fn only_the_user_can_look_at_the_test_key() {
        use std::os::unix::fs::PermissionsExt as _;
        let key = pem("one");
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(key.parent().unwrap()), 0o700);
        assert_eq!(mode(&key), 0o600);
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named_with_the_variable_that_helps() {
        let error = Signer::test(&file("").path().join("folder")).unwrap_err();
        let said = error.to_string();
        assert!(said.contains("cannot be written"), "{said}");
        assert!(said.contains(FOLDER_VARIABLE), "{said}");
    }

    #[test]
    fn the_folder_is_the_named_one_else_among_the_users_data() {
        let home = ("HOME", "/home/me");
        let data = ("XDG_DATA_HOME", "/data");
        let in_home = Some("/home/me/.local/share/ferrostor/test-signing");
        for (variables, expected) in [
            (&[home][..], in_home),
            (&[home, data], Some("/data/ferrostor/test-signing")),
            (&[home, data, (FOLDER_VARIABLE, "/mine")], Some("/mine")),
            // An empty variable is none.
            (&[home, ("XDG_DATA_HOME", "")], in_home),
            (&[], None),
        ] {
            let folder = folder_by(|name| {
                let variable = variables.iter().find(|variable| variable.0 == name);
                variable.map(|(_, value)| OsString::from(value))
            });
            assert_eq!(folder.ok(), expected.map(PathBuf::from), "{variables:?}");
        }
    }

    #[test]
    fn the_test_certificate_is_for_code_and_issues_none() {
        let tbs = &SIGNERS[0].certificate.tbs_certificate;
        let (_, ExtendedKeyUsage(usages)) = tbs.get().unwrap().unwrap();
        assert_eq!(usages, [ID_KP_CODE_SIGNING]);
        let basic = tbs.get::<x509_cert::ext::pkix::BasicConstraints>();
        assert!(basic.unwrap().is_none());
        assert_eq!(tbs.issuer, tbs.subject);
    }

    #[test]
    fn a_key_in_pem_signs_with_its_certificate_wherever_that_is_in_the_chain() {
        let pkcs1 = SIGNERS[0].key.to_pkcs1_pem(LineEnding::LF).unwrap();
        let pkcs1 = file(&*pkcs1);
        let [one, two] = ["one", "two"].map(|name| fs::read_to_string(pem(name)).unwrap());
        let chain = file(format!("words\n{two}{one}"));

        for key in [&pem("one"), pkcs1.path()] {
            let signer = Signer::from_pem(key, chain.path()).unwrap();
            assert_eq!(signer.certificate, SIGNERS[0].certificate);
            assert_eq!(signer.issuers, [SIGNERS[1].certificate.clone()]);
        }
    }

    #[test]
    fn each_fault_of_a_key_is_named() {
        let certificate = pem("one");
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
        let said = pem_error("/nonexistent/key.pem", &certificate);
        assert!(said.contains(": cannot be read: "), "{said}");
    }

    #[test]
    fn each_fault_of_a_certificate_is_named() {
        let key = pem("one");
        let own = fs::read_to_string(&key).unwrap();
        let damaged = format!("{own}-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----");
        let other = fs::read_to_string(pem("two")).unwrap();
        let for_servers = with_usages(Some(&["1.3.6.1.5.5.7.3.1"]));
        let for_servers = for_servers.to_pem(LineEnding::LF).unwrap();
        let der = SIGNERS[0].certificate_der().unwrap();
        for (certificates, expected) in [
            (file("text"), "has no certificate"),
            (file(der), "has no certificate"),
            (file(damaged), "certificate 2 cannot be parsed"),
            (file(other), "no certificate matches the private key in"),
            (
                file(for_servers),
                "is not for code signing: its extended key usage lacks 1.3.6.1.5.5.7.3.3",
            ),
        ] {
            let said = pem_error(&key, &certificates);
            assert!(said.contains(expected), "{expected}: {said}");
        }
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
        let mut certificate = SIGNERS[0].certificate.clone();
        let extensions = certificate.tbs_certificate.extensions.as_mut().unwrap();
        let mut ids = extensions.iter().map(|one| one.extn_id.to_string());
        let place = ids.position(|id| id == "2.5.29.37").unwrap();
        match usages {
            None => drop(extensions.remove(place)),
            Some(usages) => {
                let usages = usages.iter().copied().map(ObjectIdentifier::new_unwrap);
                let usages = ExtendedKeyUsage(usages.collect()).to_der().unwrap();
                extensions[place].extn_value = OctetString::new(usages).unwrap();
            }
        }
        certificate
    }

    fn pkcs12(entry: Option<PrivateKeyChain>) -> NamedTempFile {
        let mut store = KeyStore::new();
        if let Some(entry) = entry {
            store.add_entry("key", KeyStoreEntry::PrivateKeyChain(entry));
        }
        let writer = store.writer("right").encryption_iterations(1);
        file(writer.mac_iterations(1).write().unwrap())
    }

    #[test]
    fn a_pkcs12_file_opens_with_its_password_alone() {
        let key = SIGNERS[0].key.to_pkcs8_der().unwrap();
        let certificate = SIGNERS[0].certificate_der().unwrap();
        let certificate = p12_keystore::Certificate::from_der(&certificate).unwrap();
        let sound = pkcs12(Some(PrivateKeyChain::new(
            key.as_bytes(),
            [1],
            [certificate],
        )));
        let signer = Signer::from_pkcs12(sound.path(), "right").unwrap();
        assert_eq!(signer.certificate, SIGNERS[0].certificate);

        for (file, password, expected) in [
            (sound, "wrong", "the password is wrong"),
            (pkcs12(None), "right", "the file has no private key"),
            (file("text"), "right", "not a PKCS#12 file"),
        ] {
            let error = Signer::from_pkcs12(file.path(), password).unwrap_err();
            let start = format!("{}: {expected}", file.path().display());
            assert!(error.to_string().starts_with(&start), "{error}");
        }
    }

    #[test]
    fn times_after_2049_are_written_with_four_digits_of_the_year() {
        let last = x509_time(datetime!(2049-12-31 23:59:59 UTC));
        assert!(matches!(last, Ok(Time::UtcTime(_))));
        let first = x509_time(datetime!(2050-01-01 00:00 UTC));
        assert!(matches!(first, Ok(Time::GeneralTime(_))));
        assert!(x509_time(datetime!(1969-12-31 23:59:59 UTC)).is_err());
    }

    #[test]
    fn debug_output_does_not_have_the_key() {
        assert_eq!(
            format!("{:?}", SIGNERS[0]),
            r#"Signer { subject: "CN=Ferrostor test signing (not for production)", .. }"#
        );
    }
}
