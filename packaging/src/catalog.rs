//! The catalog of a driver package (`.cat`): the digests of the files that the
//! INF installs and of the INF, signed in one piece.
//!
//! No document tells this form as a whole. What is known, and whence:
//!
//! - The names of all numbers are those of mscat.h, WinTrust.h and wincrypt.h.
//! - The frame is a certificate trust list (wincrypt.h, `CTL_INFO`): usage szOID_CATALOG_LIST, member form
//!   szOID_CATALOG_LIST_MEMBER2, an identifier of 16 bytes, one time, members,
//!   extensions.
//! - The rest was read from four catalogs of driver packages with
//!   `openssl asn1parse`: one that Inf2Cat of the WDK made and its test
//!   certificate signed (a display driver, `10_X64`, 2023), two that Microsoft
//!   signed for virtio drivers (viostor for x64, netkvm for ARM64, 2021), and
//!   one of the older version 1 (QEMU's fw_cfg). The first three agree in all
//!   that is here: members in the order of their identifiers; each file as two
//!   members, one identified by its SHA-1 digest, without SpcIndirectDataContent,
//!   and one by SHA-256, with it; `OSAttr`, `File` and CAT_MEMBERINFO2 on both;
//!   values in UTF-16, with a zero at their end; names of files and hardware IDs
//!   in small letters; the extension `OS`, then `HWID<n>` down to `HWID1`.
//!
//! Inferred: that the identifier of the list, which is random there, may be any
//! 16 bytes (here it is made of the members, so that the same package gives the
//! same bytes); that of CAT_MEMBERINFO2's choices, which no header names, 0 is
//! an image and 2 a file that is hashed whole, as is so in all three.

use der::{
    Choice, Encode, Sequence,
    asn1::{BmpString, Null, ObjectIdentifier, OctetString, SetOfVec},
};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use x509_cert::{attr::Attribute, ext::Extension, spki::AlgorithmIdentifierOwned, time::Time};

use crate::{
    architecture::Architecture,
    authenticode::{self, AuthenticodeError},
    indirect_data::{self, INDIRECT_DATA},
    pkcs7::{self, SignError, attribute},
    signer::{Signer, SigningTime},
};

/// szOID_CTL.
const CTL: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.10.1");
/// szOID_CATALOG_LIST.
const CATALOG_LIST: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.12.1.1");
/// szOID_CATALOG_LIST_MEMBER2.
const CATALOG_LIST_MEMBER2: ObjectIdentifier =
    ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.12.1.3");
/// CAT_NAMEVALUE_OBJID.
const NAME_VALUE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.12.2.1");
/// CAT_MEMBERINFO2_OBJID.
const MEMBER_INFO2: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.12.2.3");

/// CRYPTCAT_ATTR_AUTHENTICATED, CRYPTCAT_ATTR_DATAASCII (it is not to be
/// decoded) and CRYPTCAT_ATTR_NAMEASCII.
const PLAIN_TEXT: u32 = 0x1000_0000 | 0x0001_0000 | 0x0000_0001;

/// The systems a member is for: VER_PLATFORM_WIN32_NT, version 10.0.
const WINDOWS_10: &str = "2:10.0";

/// A catalog that is being put together.
#[derive(Debug)]
pub struct Catalog {
    architecture: Architecture,
    hardware_ids: Vec<String>,
    members: Vec<Member>,
}

/// A file of the package.
#[derive(Debug)]
struct Member {
    name: String,
    kind: Kind,
    sha1: Vec<u8>,
    sha256: Vec<u8>,
}

/// How a file is hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// As Authenticode does: an image keeps its digest when it is signed.
    Image,
    /// All its bytes.
    Whole,
}

/// What a catalog lists, read from its file. Its signature is not looked at.
#[derive(Debug)]
pub struct Listing {
    members: Vec<(String, Vec<u8>)>,
}

/// Why there is no catalog.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// A file is no image, or damaged.
    #[error("{name}: {source}")]
    Image {
        /// The file.
        name: String,
        /// What is wrong with it.
        source: AuthenticodeError,
    },
    /// It can't be written in DER, or isn't a catalog in DER.
    #[error("not a catalog: {0}")]
    Der(#[from] der::Error),
    /// The signature can't be made.
    #[error(transparent)]
    Sign(#[from] SignError),
}

/// CTL_INFO of wincrypt.h, as far as catalogs fill it.
#[derive(Sequence)]
struct CertificateTrustList {
    subject_usage: Vec<ObjectIdentifier>,
    list_identifier: OctetString,
    this_update: Time,
    subject_algorithm: AlgorithmIdentifierOwned,
    trusted_subjects: Vec<TrustedSubject>,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    extensions: Option<Vec<Extension>>,
}

/// CTL_ENTRY of wincrypt.h.
#[derive(Sequence)]
struct TrustedSubject {
    identifier: OctetString,
    attributes: SetOfVec<Attribute>,
}

/// CAT_NAMEVALUE of WinTrust.h.
#[derive(Sequence)]
struct NameValue {
    tag: BmpString,
    flags: u32,
    /// In UTF-16, the low byte first, with a zero at the end.
    value: OctetString,
}

/// CAT_MEMBERINFO2 of WinTrust.h, whose encoding no header tells.
#[derive(Choice)]
enum MemberInfo2 {
    #[asn1(context_specific = "0", tag_mode = "IMPLICIT", constructed = "false")]
    Image(Null),
    #[asn1(context_specific = "2", tag_mode = "IMPLICIT", constructed = "false")]
    Whole(Null),
}

impl Catalog {
    /// A catalog without members, of a package for these devices.
    pub fn new(
        architecture: Architecture,
        hardware_ids: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Self {
        Self {
            architecture,
            hardware_ids: hardware_ids
                .into_iter()
                .map(|id| id.as_ref().to_lowercase())
                .collect(),
            members: Vec::new(),
        }
    }

    /// Adds an image, signed or to be signed: a signature doesn't change what
    /// the catalog says of it.
    ///
    /// # Errors
    /// It isn't an image.
    pub fn image(mut self, name: &str, image: &[u8]) -> Result<Self, CatalogError> {
        let failed = |source| CatalogError::Image {
            name: name.to_owned(),
            source,
        };
        self.members.push(Member {
            name: name.to_lowercase(),
            kind: Kind::Image,
            sha1: authenticode::digest_by::<Sha1>(image)
                .map_err(failed)?
                .to_vec(),
            sha256: authenticode::digest(image).map_err(failed)?.to_vec(),
        });
        Ok(self)
    }

    /// Adds a file of any other kind.
    #[must_use]
    pub fn file(mut self, name: &str, bytes: &[u8]) -> Self {
        self.members.push(Member {
            name: name.to_lowercase(),
            kind: Kind::Whole,
            sha1: Sha1::digest(bytes).to_vec(),
            sha256: Sha256::digest(bytes).to_vec(),
        });
        self
    }

    /// The catalog's file, signed.
    ///
    /// # Errors
    /// It can't be signed.
    pub fn sign(&self, signer: &Signer, time: SigningTime) -> Result<Vec<u8>, CatalogError> {
        let list = self.list(time)?;
        Ok(pkcs7::sign(CTL, &list, signer, time)?)
    }

    fn list(&self, time: SigningTime) -> der::Result<CertificateTrustList> {
        let mut subjects = Vec::new();
        for member in &self.members {
            subjects.push(member.by_sha1()?);
            subjects.push(member.by_sha256()?);
        }
        subjects.sort_by(|a, b| a.identifier.as_bytes().cmp(b.identifier.as_bytes()));

        let mut extensions = vec![extension("OS", first_system(self.architecture))?];
        for (index, id) in self.hardware_ids.iter().enumerate().rev() {
            extensions.push(extension(&format!("HWID{}", index + 1), id)?);
        }

        let identity = Sha256::digest(subjects.to_der()?);
        Ok(CertificateTrustList {
            subject_usage: vec![CATALOG_LIST],
            list_identifier: OctetString::new(&identity[..16])?,
            this_update: time.to_x509()?,
            subject_algorithm: AlgorithmIdentifierOwned {
                oid: CATALOG_LIST_MEMBER2,
                parameters: Some(Null.into()),
            },
            trusted_subjects: subjects,
            extensions: Some(extensions),
        })
    }
}

/// The first system that a package is for, which is Windows 10, version 1803,
/// as the INF says. Inf2Cat's own names of it are `10_RS4_X64` and
/// `10_RS4_ARM64`.
fn first_system(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::X64 => "_v100_X64_RS4",
        Architecture::Arm64 => "_v100_ARM64_RS4",
    }
}

impl Member {
    fn by_sha1(&self) -> der::Result<TrustedSubject> {
        Ok(TrustedSubject {
            identifier: OctetString::new(self.sha1.as_slice())?,
            attributes: SetOfVec::try_from(self.attributes()?)?,
        })
    }

    fn by_sha256(&self) -> der::Result<TrustedSubject> {
        let data = match self.kind {
            Kind::Image => indirect_data::of_listed_image(&self.sha256),
            Kind::Whole => indirect_data::of_listed_file(&self.sha256),
        }?;
        let mut attributes = self.attributes()?;
        attributes.push(attribute(INDIRECT_DATA, &data)?);
        Ok(TrustedSubject {
            identifier: OctetString::new(self.sha256.as_slice())?,
            attributes: SetOfVec::try_from(attributes)?,
        })
    }

    fn attributes(&self) -> der::Result<Vec<Attribute>> {
        let info = match self.kind {
            Kind::Image => MemberInfo2::Image(Null),
            Kind::Whole => MemberInfo2::Whole(Null),
        };
        Ok(vec![
            attribute(MEMBER_INFO2, &info)?,
            attribute(NAME_VALUE, &NameValue::new("OSAttr", WINDOWS_10)?)?,
            attribute(NAME_VALUE, &NameValue::new("File", &self.name)?)?,
        ])
    }
}

impl NameValue {
    fn new(tag: &str, value: &str) -> der::Result<Self> {
        let value = value
            .encode_utf16()
            .chain([0])
            .flat_map(u16::to_le_bytes)
            .collect::<Vec<_>>();
        Ok(Self {
            tag: BmpString::from_utf8(tag)?,
            flags: PLAIN_TEXT,
            value: OctetString::new(value)?,
        })
    }

    /// The value without the zero at its end.
    fn text(&self) -> String {
        let units = self
            .value
            .as_bytes()
            .chunks_exact(2)
            .map(|unit| u16::from_le_bytes([unit[0], unit[1]]))
            .take_while(|unit| *unit != 0)
            .collect::<Vec<_>>();
        String::from_utf16_lossy(&units)
    }
}

fn extension(name: &str, value: &str) -> der::Result<Extension> {
    Ok(Extension {
        extn_id: NAME_VALUE,
        critical: false,
        extn_value: OctetString::new(NameValue::new(name, value)?.to_der()?)?,
    })
}

impl Listing {
    /// Reads what a catalog lists.
    ///
    /// # Errors
    /// It isn't a catalog.
    pub fn read(catalog: &[u8]) -> Result<Self, CatalogError> {
        let list = pkcs7::content(catalog)?.decode_as::<CertificateTrustList>()?;
        let mut members = Vec::new();
        for subject in list.trusted_subjects {
            for attribute in subject.attributes.iter() {
                for value in attribute.values.iter() {
                    if attribute.oid != NAME_VALUE {
                        continue;
                    }
                    let value = value.decode_as::<NameValue>()?;
                    if value.tag.to_string() == "File" {
                        members.push((value.text(), subject.identifier.as_bytes().to_vec()));
                    }
                }
            }
        }
        Ok(Self { members })
    }

    /// The names of the listed files, each once.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        let mut names = self
            .members
            .iter()
            .map(|(name, _)| name.as_str())
            .collect::<Vec<_>>();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Whether an image of this name is listed with its SHA-256 digest.
    ///
    /// # Errors
    /// It isn't an image.
    pub fn lists_image(&self, name: &str, image: &[u8]) -> Result<bool, AuthenticodeError> {
        Ok(self.lists(name, &authenticode::digest(image)?))
    }

    /// Whether a file of this name is listed with its SHA-256 digest.
    #[must_use]
    pub fn lists_file(&self, name: &str, bytes: &[u8]) -> bool {
        self.lists(name, &Sha256::digest(bytes))
    }

    fn lists(&self, name: &str, digest: &[u8]) -> bool {
        let name = name.to_lowercase();
        self.members
            .iter()
            .any(|member| member.0.to_lowercase() == name && member.1 == digest)
    }
}
