//! Tests of the check of signatures, with a correct signature and with one change at a time that
//! the file itself shows.

use std::{fs, process::Command, sync::LazyLock};

use cms::{
    cert::CertificateChoices,
    content_info::ContentInfo,
    signed_data::{CertificateSet, SignedData, SignerInfo, SignerInfos},
};
use const_oid::db::rfc5911::{ID_CONTENT_TYPE, ID_MESSAGE_DIGEST, ID_SIGNING_TIME};
use der::{
    Any, Decode, Encode,
    asn1::{Null, ObjectIdentifier, OctetString, SetOfVec},
};
use time::{Date, macros::date};
use x509_cert::{Certificate, attr::Attribute};

use crate::{
    architecture::Architecture,
    catalog::Catalog,
    check::{Report, Verdict},
    package::File,
    signer::{Signer, TEST_FILE},
    test_data::{self, CODE, KEYS, SIGNED, SIGNERS, TIME, TODAY, certificates},
};

/// A catalog of a file with these bytes.
fn catalog_of(bytes: &[u8], signer: &Signer) -> Vec<u8> {
    let catalog = Catalog::new(Architecture::X64, &[""; 0], None).file("a.txt", bytes);
    catalog.sign(signer, TIME).unwrap()
}

fn catalog() -> Vec<u8> {
    catalog_of(b"text", &SIGNERS[0])
}

fn judged(path: &str, bytes: Vec<u8>, today: Date) -> Report {
    let [report] = test_data::lint(&[File::new(path, bytes)], &[], today)
        .try_into()
        .unwrap();
    report
}

/// The catalog, changed.
fn changed(change: impl FnOnce(&mut SignedData)) -> Vec<u8> {
    let mut info = ContentInfo::from_der(&catalog()).unwrap();
    let mut signed = info.content.decode_as::<SignedData>().unwrap();
    change(&mut signed);
    info.content = Any::encode_from(&signed).unwrap();
    info.to_der().unwrap()
}

/// The catalog, its signer changed.
fn with_signer(change: impl FnOnce(&mut SignerInfo)) -> Vec<u8> {
    changed(|signed| {
        let mut signer = signed.signer_infos.0.get(0).unwrap().clone();
        change(&mut signer);
        signed.signer_infos = SignerInfos(SetOfVec::try_from(vec![signer]).unwrap());
    })
}

/// What is wrong with a catalog.
fn faults(catalog: Vec<u8>) -> Vec<String> {
    let report = judged("a.cat", catalog, TODAY);
    let requirements = report.checks.iter().filter(|check| !check.is_advice());
    let faults: Vec<_> = requirements
        .filter_map(|check| Some(format!("{}: {}", check.claim, check.fault()?)))
        .collect();
    assert_eq!(report.verdict() == Verdict::Wrong, !faults.is_empty());
    faults
}

#[test]
fn a_sound_catalog_has_no_fault_and_says_what_was_not_judged() {
    for signer in &*SIGNERS {
        let report = judged("a.cat", catalog_of(b"text", signer), TODAY);
        assert_eq!(report.verdict(), Verdict::Holds, "{report}");
        assert!(
            report
                .to_string()
                .contains("\n  not judged: whether Windows trusts the root"),
            "{report}"
        );
    }
}

/// The catalog, whose signer has only the attributes that `keep` accepts.
fn with_attributes(keep: impl Fn(&Attribute) -> bool) -> Vec<u8> {
    with_signer(|signer| {
        let mut attributes = signer.signed_attrs.take().unwrap().into_vec();
        attributes.retain(keep);
        signer.signed_attrs = Some(SetOfVec::try_from(attributes).unwrap());
    })
}

/// The catalog with another set of certificates.
fn with_certificate(certificate: Certificate) -> Vec<u8> {
    let set = SetOfVec::try_from(vec![CertificateChoices::Certificate(certificate)]).unwrap();
    changed(|signed| signed.certificates = Some(CertificateSet(set)))
}

#[test]
fn each_change_of_a_catalog_is_found() {
    let attributes = "the signed attributes match the content: type and digest";
    let matches = "the signature matches the signer's key: it does not match";
    let other = ContentInfo::from_der(&catalog_of(b"other", &SIGNERS[0])).unwrap();
    let other = other.content.decode_as::<SignedData>().unwrap();
    let mut altered = SIGNERS[0].certificate.clone();
    let validity = &mut altered.tbs_certificate.validity;
    validity.not_before = validity.not_after;
    let mut longer = catalog();
    longer.push(0);
    for (catalog, expected) in [
        (
            changed(|signed| {
                signed.digest_algorithms = SetOfVec::new();
                signed.certificates = None;
                signed.signer_infos = SignerInfos(SetOfVec::new());
            }),
            &["the signature has one signer: it is not signed"][..],
        ),
        (
            changed(|signed| {
                let mut signers = signed.signer_infos.0.clone().into_vec();
                let mut second = signers[0].clone();
                second.signature = OctetString::new(*b"another").unwrap();
                signers.push(second);
                signed.signer_infos = SignerInfos(SetOfVec::try_from(signers).unwrap());
            }),
            &["the signature has one signer: it has 2"],
        ),
        (
            with_signer(|signer| {
                let mut signature = signer.signature.as_bytes().to_vec();
                *signature.last_mut().unwrap() ^= 1;
                signer.signature = OctetString::new(signature).unwrap();
            }),
            &[matches],
        ),
        (
            changed(|signed| signed.encap_content_info = other.encap_content_info),
            &[&format!(
                "{attributes}: messageDigest is not the digest of the content"
            )],
        ),
        (
            with_attributes(|attribute| attribute.oid != ID_MESSAGE_DIGEST),
            &[&format!("{attributes}: it has no messageDigest"), matches],
        ),
        (
            with_attributes(|attribute| attribute.oid != ID_CONTENT_TYPE),
            &[&format!("{attributes}: it has no contentType"), matches],
        ),
        (
            with_attributes(|attribute| attribute.oid != ID_SIGNING_TIME),
            &[matches],
        ),
        (
            with_signer(|signer| signer.signed_attrs = None),
            &[
                &format!("{attributes}: it has no contentType"),
                "the signature matches the signer's key: it has no signed attributes",
            ],
        ),
        (
            changed(|signed| signed.certificates = None),
            &["the signature contains the signer's certificate: it has no certificates"],
        ),
        (
            with_certificate(SIGNERS[1].certificate.clone()),
            &[
                "the signature contains the signer's certificate: none of the 1 certificates is \
                 the signer's",
            ],
        ),
        (
            with_certificate(altered),
            &[
                "each certificate is signed by its issuer, as far as the signature contains the issuer: \
                 the certificate of CN=Ferrostor test signing (not for production) is not",
                "the signer's certificate is valid today, because the signature has no timestamp: it \
                 becomes valid at 2046-01-01T00:00:00Z",
            ],
        ),
        (
            longer,
            &["the signature is PKCS#7 in DER, and ends the file: 1 bytes follow"],
        ),
    ] {
        assert_eq!(faults(catalog), expected);
    }
}

/// `bytes` with two parts of it that follow one another in each other's place.
fn swapped(bytes: &[u8], parts: [&[u8]; 2]) -> Vec<u8> {
    let both = parts.concat();
    let at = bytes.windows(both.len()).position(|part| part == both);
    let at = at.expect("the parts follow one another");
    let mut swapped = bytes.to_vec();
    swapped[at..at + both.len()].copy_from_slice(&[parts[1], parts[0]].concat());
    swapped
}

#[test]
fn members_of_sets_out_of_order_are_refused() {
    let sound = catalog_of(b"text", &SIGNERS[1]);
    let mut certificates = SIGNERS.each_ref().map(|one| one.certificate_der().unwrap());
    certificates.sort();
    let [one, two] = &certificates;
    assert_eq!(
        faults(swapped(&sound, [one, two])),
        ["the members of the signature's sets are in DER order: not in order: certificates"]
    );

    let info = ContentInfo::from_der(&sound).unwrap();
    let signed = info.content.decode_as::<SignedData>().unwrap();
    let attributes = signed.signer_infos.0.get(0).unwrap().signed_attrs.clone();
    let attributes: Vec<_> = attributes
        .unwrap()
        .iter()
        .map(|attribute| attribute.to_der().unwrap())
        .collect();
    let bad = swapped(&sound, [&attributes[0], &attributes[1]]);
    assert_eq!(
        faults(bad)[0],
        "the members of the signature's sets are in DER order: not in order: signed attributes"
    );
}

#[test]
fn invalid_der_is_refused() {
    let claim = "the signature is PKCS#7 in DER, and ends the file";
    let mut cut = catalog();
    cut.pop();
    for bad in [cut, b"text".to_vec(), Vec::new(), vec![0x30, 0x80, 0, 0]] {
        let faults = faults(bad);
        assert!(
            faults.len() == 1 && faults[0].starts_with(claim),
            "{faults:?}"
        );
    }
}

#[test]
fn the_signature_of_a_driver_is_none_of_a_catalog() {
    // Without the header before it and the padding.
    let signature = &SIGNED[certificates(&SIGNED)][8..];
    let length = 4 + usize::from(u16::from_be_bytes([signature[2], signature[3]]));
    assert_eq!(
        faults(signature[..length].to_vec())[0],
        "the signed content has the right type: its content type is \
         1.3.6.1.4.1.311.2.1.4, not 1.3.6.1.4.1.311.10.1"
    );
}

#[test]
fn a_certificate_that_has_expired_is_refused_unless_a_timestamp_may_tell_more() {
    let late = date!(2050 - 01 - 01);
    let report = judged("a.cat", catalog(), late);
    assert_eq!(report.verdict(), Verdict::Wrong);
    assert!(
        report.to_string().contains(
            "    NO   the signer's certificate is valid today, because the signature has no timestamp: it \
             expired at 2046-01-01T00:00:00Z\n"
        ),
        "{report}"
    );

    let timestamped = with_signer(|signer| {
        let attribute = Attribute {
            oid: ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.3.3.1"),
            values: SetOfVec::try_from(vec![Any::from(Null)]).unwrap(),
        };
        signer.unsigned_attrs = Some(SetOfVec::try_from(vec![attribute]).unwrap());
    });
    let report = judged("a.cat", timestamped, late);
    assert_eq!(report.verdict(), Verdict::Holds, "{report}");
    assert!(
        report
            .to_string()
            .contains("  not judged: the timestamp's countersignature\n"),
        "{report}"
    );
}

#[test]
fn an_unknown_algorithm_is_not_judged() {
    let ecdsa = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
    let sha3 = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.8");
    let signature = with_signer(|signer| signer.signature_algorithm.oid = ecdsa);
    let digest = with_signer(|signer| signer.digest_alg.oid = sha3);
    for (catalog, claim) in [
        (signature, "the signature matches the signer's key"),
        (
            digest,
            "the signed attributes match the content: type and digest",
        ),
    ] {
        let report = judged("a.cat", catalog, TODAY);
        assert_eq!(report.verdict(), Verdict::NotJudged, "{report}");
        let text = report.to_string();
        assert!(
            text.contains(&format!("    not judged: {claim}: ")),
            "{text}"
        );
        assert!(!text.contains(&format!("yes  {claim}")), "{text}");
    }
}

#[test]
fn a_drivers_own_signature_is_judged_as_well() {
    let digest = "the signed digest is that of this file";
    let key = "the signature matches the signer's key";
    let flipped = |offset| {
        let mut changed = SIGNED.clone();
        changed[offset] ^= 1;
        changed
    };
    for (driver, line) in [
        (SIGNED.clone(), format!("yes  {digest}")),
        (SIGNED.clone(), format!("yes  {key}")),
        (
            flipped(CODE),
            format!("NO   {digest}: the file was changed after it was signed"),
        ),
        (
            flipped(SIGNED.len() - 20),
            format!("NO   {key}: it does not match"),
        ),
    ] {
        let text = judged("a.sys", driver, TODAY).to_string();
        assert!(text.contains(&format!("    {line}\n")), "{line}: {text}");
    }
}

#[test]
#[ignore = "needs osslsigncode"]
fn what_osslsigncode_signed_is_accepted() {
    LazyLock::force(&SIGNERS);
    let key = KEYS.path().join("one").join(TEST_FILE);
    let folder = tempfile::tempdir().unwrap();
    let [plain, signed] = ["plain", "signed"].map(|name| folder.path().join(name));
    fs::write(&plain, test_data::driver()).unwrap();
    for hash in ["sha1", "sha256", "sha384", "sha512"] {
        let output = Command::new("osslsigncode")
            .args(["sign", "-h", hash, "-certs"])
            .arg(&key)
            .arg("-key")
            .arg(&key)
            .arg("-in")
            .arg(&plain)
            .arg("-out")
            .arg(&signed)
            .output()
            .expect("osslsigncode is installed (Debian package osslsigncode)");
        assert!(output.status.success(), "{output:?}");
        let text = judged("a.sys", fs::read(&signed).unwrap(), TODAY).to_string();
        fs::remove_file(&signed).unwrap();
        for claim in [
            "the signed attributes match the content: type and digest",
            "the signature matches the signer's key",
            "each certificate is signed by its issuer, as far as the signature contains the issuer",
            "the signed digest is that of this file",
        ] {
            assert!(
                text.contains(&format!("    yes  {claim}\n")),
                "{hash}: {text}"
            );
        }
    }
}
