//! The catalog of a driver package (`.cat`): the signed list of digests of the INF file and of
//! the files that it installs.
//!
//! No document describes the whole format. The sources are:
//!
//! - mscat.h, WinTrust.h and wincrypt.h, for the names of object identifiers.
//! - wincrypt.h (`CTL_INFO`), for the certificate trust list around it: usage
//!   szOID_CATALOG_LIST, member form szOID_CATALOG_LIST_MEMBER2, an identifier of 16 bytes, one
//!   time, members, extensions.
//! - Four catalogs of driver packages, read with `openssl asn1parse`: one that Inf2Cat of the
//!   WDK made (a display driver, `10_X64`, 2023), two that Microsoft signed for virtio drivers
//!   (viostor for x64, netkvm for ARM64, 2021), and one of the older version 1 (QEMU's fw_cfg).
//!   The first three agree in the following. Members are sorted by identifier. Each file has
//!   two members: one identified by its SHA-1 digest, without SpcIndirectDataContent, and one
//!   by its SHA-256 digest, with it. Both have `OSAttr`, `File` and CAT_MEMBERINFO2. Values are
//!   zero-terminated UTF-16. Names of files and hardware IDs are in lower case. The extensions
//!   are `OS`, then `HWID<n>` down to `HWID1`.
//!
//! Two things are inferred from these catalogs. The identifier of the list, which is random
//! there, may be any 16 bytes. Here it is a digest of the members, so that the same package
//! gives the same bytes. In CAT_MEMBERINFO2, choice 0 is an image and 2 is a file whose bytes
//! are all hashed.

use ::authenticode::SpcIndirectDataContent;
use cms::{content_info::ContentInfo, signed_data::SignedData};
use der::{
    AnyRef, Decode, Encode, Sequence, Tag,
    asn1::{BmpString, Int, ObjectIdentifier, OctetString, SetOfVec},
};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use time::{Date, OffsetDateTime};
use x509_cert::{attr::Attribute, ext::Extension, spki::AlgorithmIdentifierOwned, time::Time};

use crate::{
    architecture::Architecture,
    authenticode::{self, AuthenticodeError},
    indirect_data::{self, INDIRECT_DATA, LISTED_FILE, LISTED_IMAGE},
    pkcs7::{self, SignError, algorithm, attribute},
    signer::{Signer, x509_time},
    verify::{self, Judgement},
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

/// CRYPTCAT_ATTR_AUTHENTICATED, CRYPTCAT_ATTR_DATAASCII (not encoded) and
/// CRYPTCAT_ATTR_NAMEASCII.
const PLAIN_TEXT: u32 = 0x1000_0000 | 0x0001_0000 | 0x0000_0001;

/// The systems that a member is for: VER_PLATFORM_WIN32_NT, version 10.0.
const WINDOWS_10: &str = "2:10.0";

/// A builder of a catalog.
pub(crate) struct Catalog {
    architecture: Architecture,
    first_build: Option<u64>,
    hardware_ids: Vec<String>,
    /// Names and digests.
    members: Vec<(String, FileDigests)>,
}

/// A file that a catalog lists.
pub(crate) struct Listed {
    /// The names or paths. Version 1 needs none, and New-FileCatalog writes paths.
    pub(crate) names: Vec<String>,
    pub(crate) digests: Vec<Vec<u8>>,
}

/// The digests that Windows searches for in catalogs. Those of an image are its Authenticode
/// digests, which signing does not change. Those of another file cover all bytes.
pub(crate) struct FileDigests {
    is_image: bool,
    pub(crate) sha1: Vec<u8>,
    pub(crate) sha256: Vec<u8>,
}

/// CTL_INFO of wincrypt.h.
#[derive(Sequence)]
struct CertificateTrustList {
    subject_usage: Vec<ObjectIdentifier>,
    #[asn1(optional = "true")]
    list_identifier: Option<OctetString>,
    #[asn1(optional = "true")]
    sequence_number: Option<Int>,
    this_update: Time,
    #[asn1(optional = "true")]
    next_update: Option<Time>,
    subject_algorithm: AlgorithmIdentifierOwned,
    #[asn1(optional = "true")]
    trusted_subjects: Option<Vec<TrustedSubject>>,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    extensions: Option<Vec<Extension>>,
}

/// CTL_ENTRY of wincrypt.h.
#[derive(Sequence)]
struct TrustedSubject {
    identifier: OctetString,
    #[asn1(optional = "true")]
    attributes: Option<SetOfVec<Attribute>>,
}

/// CAT_NAMEVALUE of WinTrust.h.
#[derive(Sequence)]
struct NameValue {
    tag: BmpString,
    flags: u32,
    /// Zero-terminated UTF-16, little-endian.
    value: OctetString,
}

/// CAT_MEMBERINFO2 of WinTrust.h in DER: a choice without contents. No header describes it.
const MEMBER_IS_IMAGE: &[u8] = &[0x80, 0];
const MEMBER_IS_OTHER_FILE: &[u8] = &[0x82, 0];

impl Catalog {
    /// Creates a catalog without members for a package for these devices. `first_build` is the
    /// first build of Windows 10 that the package supports; `None` if it supports all.
    pub(crate) fn new(
        architecture: Architecture,
        hardware_ids: &[impl AsRef<str>],
        first_build: Option<u64>,
    ) -> Self {
        let hardware_ids = hardware_ids.iter();
        Self {
            architecture,
            first_build,
            hardware_ids: hardware_ids.map(|id| id.as_ref().to_lowercase()).collect(),
            members: Vec::new(),
        }
    }

    /// Adds a file. The entry of an image stays valid if the image is signed later.
    pub(crate) fn file(mut self, name: &str, bytes: &[u8]) -> Self {
        let digests = FileDigests::of(bytes);
        self.members.push((name.to_lowercase(), digests));
        self
    }

    /// Signs the catalog and returns the bytes of the file.
    pub(crate) fn sign(&self, signer: &Signer, time: OffsetDateTime) -> Result<Vec<u8>, SignError> {
        pkcs7::sign(CTL, &self.list(time)?, signer, time)
    }

    fn list(&self, time: OffsetDateTime) -> der::Result<CertificateTrustList> {
        let mut subjects = Vec::new();
        for (name, digests) in &self.members {
            subjects.extend(TrustedSubject::of_file(name, digests)?);
        }
        subjects.sort_by(|a, b| a.identifier.as_bytes().cmp(b.identifier.as_bytes()));

        let mut extensions = vec![extension(
            "OS",
            first_system(self.architecture, self.first_build),
        )?];
        for (index, id) in self.hardware_ids.iter().enumerate().rev() {
            extensions.push(extension(&format!("HWID{}", index + 1), id)?);
        }

        let identity = Sha256::digest(subjects.to_der()?);
        Ok(CertificateTrustList {
            subject_usage: vec![CATALOG_LIST],
            list_identifier: Some(OctetString::new(&identity[..16])?),
            sequence_number: None,
            this_update: x509_time(time)?,
            next_update: None,
            subject_algorithm: algorithm(CATALOG_LIST_MEMBER2),
            trusted_subjects: Some(subjects),
            extensions: Some(extensions),
        })
    }
}

/// The first system that the package supports, as Inf2Cat names it. Inf2Cat has a name for
/// every release (`10_RS4_X64`). Two suffice here: the package gets the later one that it
/// supports.
fn first_system(architecture: Architecture, build: Option<u64>) -> &'static str {
    const WINDOWS_10_1803: u64 = 17134;
    match (architecture, build) {
        (Architecture::X64, Some(WINDOWS_10_1803..)) => "_v100_X64_RS4",
        (Architecture::Arm64, Some(WINDOWS_10_1803..)) => "_v100_ARM64_RS4",
        (Architecture::X64, _) => "_v100_X64",
        (Architecture::Arm64, _) => "_v100_ARM64",
    }
}

impl TrustedSubject {
    /// The two members of a file: by its SHA-1 and by its SHA-256 digest.
    fn of_file(name: &str, digests: &FileDigests) -> der::Result<[Self; 2]> {
        let (info, kind) = match digests.is_image {
            true => (MEMBER_IS_IMAGE, LISTED_IMAGE),
            false => (MEMBER_IS_OTHER_FILE, LISTED_FILE),
        };
        let data = indirect_data::content(kind, &digests.sha256)?;
        let mut attributes = vec![
            attribute(MEMBER_INFO2, &AnyRef::from_der(info)?)?,
            attribute(NAME_VALUE, &NameValue::new("OSAttr", WINDOWS_10)?)?,
            attribute(NAME_VALUE, &NameValue::new("File", name)?)?,
        ];
        let by_sha1 = Self::new(&digests.sha1, attributes.clone())?;
        attributes.push(attribute(INDIRECT_DATA, &data)?);
        Ok([by_sha1, Self::new(&digests.sha256, attributes)?])
    }

    fn new(identifier: &[u8], attributes: Vec<Attribute>) -> der::Result<Self> {
        Ok(Self {
            identifier: OctetString::new(identifier)?,
            attributes: Some(SetOfVec::try_from(attributes)?),
        })
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

    /// The value without its terminating zero.
    fn text(&self) -> String {
        utf16(self.value.as_bytes())
    }
}

/// Decodes little-endian UTF-16 up to a zero.
fn utf16(bytes: &[u8]) -> String {
    let (units, _) = bytes.as_chunks();
    let units = units.iter().map(|unit| u16::from_le_bytes(*unit));
    let units: Vec<u16> = units.take_while(|unit| *unit != 0).collect();
    String::from_utf16_lossy(&units)
}

fn extension(name: &str, value: &str) -> der::Result<Extension> {
    Ok(Extension {
        extn_id: NAME_VALUE,
        critical: false,
        extn_value: OctetString::new(NameValue::new(name, value)?.to_der()?)?,
    })
}

/// Checks a catalog's signature.
pub(crate) fn judge(catalog: &[u8], today: Date) -> Judgement {
    verify::judge(catalog, CTL, today)
}

impl FileDigests {
    /// The digests of a file.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let of_image = || {
            Ok::<_, AuthenticodeError>(Self {
                is_image: true,
                sha1: authenticode::digest::<Sha1>(bytes)?,
                sha256: authenticode::digest::<Sha256>(bytes)?,
            })
        };
        of_image().unwrap_or_else(|_| Self {
            is_image: false,
            sha1: Sha1::digest(bytes).to_vec(),
            sha256: Sha256::digest(bytes).to_vec(),
        })
    }
}

/// The files that a catalog lists. The signature is not checked.
pub(crate) fn read(catalog: &[u8]) -> der::Result<Vec<Listed>> {
    let info = ContentInfo::from_der(catalog)?;
    let signed = info.content.decode_as::<SignedData>()?;
    let content = signed.encap_content_info.econtent;
    listed(content.as_ref().map_or(&[], |list| list.value()))
}

/// The files in a list, which is given without its tag and length.
pub(crate) fn listed(list: &[u8]) -> der::Result<Vec<Listed>> {
    let list = AnyRef::new(Tag::Sequence, list)?.decode_as::<CertificateTrustList>()?;
    let subjects = list.trusted_subjects.unwrap_or_default();
    Ok(subjects.iter().map(Listed::of).collect())
}

impl Listed {
    fn of(subject: &TrustedSubject) -> Self {
        let identifier = subject.identifier.as_bytes();
        let mut this = Self {
            names: Vec::new(),
            digests: vec![identifier.to_vec()],
        };
        // In version 1 the identifier is the digest in hexadecimal, as zero-terminated UTF-16.
        this.digests.extend(bytes_of_digits(&utf16(identifier)));
        for attribute in subject.attributes.iter().flat_map(SetOfVec::iter) {
            for value in attribute.values.iter() {
                if attribute.oid == NAME_VALUE
                    && let Ok(value) = value.decode_as::<NameValue>()
                    && ["File", "FilePath"].contains(&&*value.tag.to_string())
                {
                    this.names.push(value.text());
                } else if attribute.oid == INDIRECT_DATA
                    && let Ok(data) = value.decode_as::<SpcIndirectDataContent>()
                {
                    this.digests.push(data.message_digest.digest.into_bytes());
                }
            }
        }
        this
    }
}

/// Parses hexadecimal digits.
fn bytes_of_digits(digits: &str) -> Option<Vec<u8>> {
    let pair = |at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
    (!digits.is_empty() && digits.len().is_multiple_of(2))
        .then(|| (0..digits.len()).step_by(2).map(pair).collect())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        check::Verdict,
        package::File,
        test_data::{self, SIGNERS, TIME, TODAY},
    };

    const INF: &[u8] = b"[Version]";

    fn catalog(architecture: Architecture) -> Catalog {
        let ids = [r"PCI\VEN_1AF4&DEV_1042", r"PCI\VEN_1AF4&DEV_1001"];
        Catalog::new(architecture, &ids, Some(17134))
            .file("Ferrostor.inf", INF)
            .file("readme.txt", b"")
    }

    fn list(architecture: Architecture) -> CertificateTrustList {
        catalog(architecture).list(TIME).unwrap()
    }

    /// The name and the value of each extension.
    fn extensions(list: &CertificateTrustList) -> Vec<(String, String)> {
        let extensions = list.extensions.iter().flatten();
        extensions
            .map(|extension| {
                let value = NameValue::from_der(extension.extn_value.as_bytes()).unwrap();
                (value.tag.to_string(), value.text())
            })
            .collect()
    }

    #[test]
    fn a_file_is_listed_by_both_digests_in_the_order_of_digests() {
        let list = list(Architecture::X64);
        let subjects = list.trusted_subjects.iter().flatten();
        let identifiers: Vec<_> = subjects.map(|one| one.identifier.as_bytes()).collect();
        let mut expected = vec![
            Sha1::digest(INF).to_vec(),
            Sha1::digest(b"").to_vec(),
            Sha256::digest(INF).to_vec(),
            Sha256::digest(b"").to_vec(),
        ];
        expected.sort();
        assert_eq!(identifiers, expected);
    }

    #[test]
    fn only_the_member_by_sha256_has_indirect_data() {
        for subject in list(Architecture::X64).trusted_subjects.unwrap() {
            let attributes = subject.attributes.unwrap();
            let oids = attributes.iter().map(|a| a.oid).collect::<Vec<_>>();
            let by_sha256 = subject.identifier.as_bytes().len() == 32;
            assert_eq!(oids.contains(&INDIRECT_DATA), by_sha256);
            let names = oids.iter().filter(|oid| **oid == NAME_VALUE).count();
            assert_eq!((names, oids.contains(&MEMBER_INFO2)), (2, true));
        }
    }

    #[test]
    fn the_extensions_are_system_and_hardware_ids_from_the_last_to_the_first() {
        let expected = [
            ("OS", "_v100_X64_RS4"),
            ("HWID2", r"pci\ven_1af4&dev_1001"),
            ("HWID1", r"pci\ven_1af4&dev_1042"),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(extensions(&list(Architecture::X64)), expected);
        assert_eq!(
            extensions(&list(Architecture::Arm64))[0].1,
            "_v100_ARM64_RS4"
        );
    }

    #[test]
    fn a_name_and_its_value_are_utf_16_of_two_orders() {
        assert_eq!(
            NameValue::new("OS", "2:").unwrap().to_der().unwrap(),
            [
                0x30, 20, 30, 4, 0, b'O', 0, b'S', 2, 4, 0x10, 1, 0, 1, 4, 6, b'2', 0, b':', 0, 0,
                0,
            ]
        );
    }

    #[test]
    fn what_is_signed_is_read_back() {
        let signed = catalog(Architecture::X64).sign(&SIGNERS[0], TIME).unwrap();

        let listing = read(&signed).unwrap();
        for (name, bytes) in [("ferrostor.inf", INF), ("readme.txt", b"")] {
            let digests = FileDigests::of(bytes);
            for digest in [digests.sha1, digests.sha256] {
                let mut members = listing.iter();
                let member = members.find(|member| member.digests.contains(&digest));
                assert_eq!(member.unwrap().names, [name]);
            }
        }
        assert_eq!(listing.len(), 4);
        assert!(read(INF).is_err());

        let again = catalog(Architecture::X64).sign(&SIGNERS[0], TIME).unwrap();
        assert!(again == signed, "the same arguments give the same bytes");
    }

    /// A catalog of version 1, like those of New-FileCatalog: SHA-1 in hexadecimal, and a path.
    fn version_1(path: &str, bytes: &[u8], with_indirect_data: bool) -> Vec<u8> {
        let digest = FileDigests::of(bytes).sha1;
        let digits: String = digest.iter().map(|byte| format!("{byte:02X}")).collect();
        let identifier = digits.encode_utf16().chain([0]).flat_map(u16::to_le_bytes);
        let path = NameValue::new("FilePath", path).unwrap();
        let mut attributes = vec![attribute(NAME_VALUE, &path).unwrap()];
        if with_indirect_data {
            let mut data = indirect_data::content(LISTED_FILE, &digest).unwrap();
            data.message_digest.digest_algorithm.oid = const_oid::db::rfc5912::ID_SHA_1;
            attributes.push(attribute(INDIRECT_DATA, &data).unwrap());
        }
        let subject = TrustedSubject::new(&identifier.collect::<Vec<_>>(), attributes);
        let list = CertificateTrustList {
            trusted_subjects: Some(vec![subject.unwrap()]),
            extensions: None,
            ..list(Architecture::X64)
        };
        pkcs7::sign(CTL, &list, &SIGNERS[0], TIME).unwrap()
    }

    #[test]
    fn a_catalog_of_version_1_lists_by_sha1() {
        for with_indirect_data in [true, false] {
            let catalog = version_1(r"sub\a.txt", b"text", with_indirect_data);
            let listing = read(&catalog).unwrap();
            assert_eq!(listing[0].names, [r"sub\a.txt"]);
            let digests = FileDigests::of(b"text");
            assert!(listing[0].digests.contains(&digests.sha1));
            assert!(!listing[0].digests.contains(&digests.sha256));

            let catalog = [File::new("a.cat", catalog)];
            let beside = [
                File::new("sub/a.txt", *b"text"),
                File::new("b.inf", *b"[autorun]"),
            ];
            let verdict = |beside| test_data::lint(&catalog, beside, TODAY)[0].verdict();
            assert_eq!(verdict(&beside[..1]), Verdict::Holds);
            assert_eq!(verdict(&beside), Verdict::Wrong);
        }
    }

    #[test]
    fn a_file_with_only_sha1_is_reported() {
        let inf = b"[Version]\nCatalogFile = a.cat\n";
        let catalog = File::new("a.cat", version_1("a.inf", inf, true));
        let reports = test_data::lint(&[catalog], &[File::new("a.inf", *inf)], TODAY);
        let text = reports[0].to_string();
        for line in [
            "yes  the INF file and each file that it installs",
            "advice: the files are listed with SHA-256 digests: a.inf\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }

    #[test]
    fn other_members_give_another_identifier_of_the_list() {
        let one = list(Architecture::X64).list_identifier;
        let other = Catalog::new(Architecture::X64, &[""; 0], None).file("ferrostor.inf", b"");
        assert_eq!(one.as_ref().unwrap().as_bytes().len(), 16);
        assert_ne!(one, other.list(TIME).unwrap().list_identifier);
    }
}
