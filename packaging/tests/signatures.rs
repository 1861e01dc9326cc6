//! What the lint says of signatures: of a sound one, and of one changed in each way
//! that the file itself can show.

mod sample;

use std::sync::OnceLock;

use cms::{
    cert::CertificateChoices,
    content_info::ContentInfo,
    signed_data::{CertificateSet, SignedData, SignerInfo, SignerInfos},
};
use der::{
    Any, Decode, Encode,
    asn1::{Null, ObjectIdentifier, OctetString, SetOfVec},
};
use packaging::{
    architecture::Architecture,
    authenticode,
    catalog::Catalog,
    check::{Report, Verdict},
    lint::{self, Terms},
    package::File,
    signer::{Signer, SigningTime},
};
use time::{Date, macros::date};
use x509_cert::attr::Attribute;

/// 2026-10-01T00:00:00Z.
const TIME: u64 = 1_790_812_800;
const TODAY: Date = date!(2026 - 11 - 30);

/// Two signers: the second's file has the first's certificate too.
fn signers() -> &'static [Signer; 2] {
    static SIGNERS: OnceLock<[Signer; 2]> = OnceLock::new();
    SIGNERS.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|name| folder.path().join(name));
        let first = Signer::test(&one).unwrap();
        Signer::test(&two).unwrap();
        let key = two.join("test-signing.pem");
        let own = std::fs::read_to_string(&key).unwrap();
        let both = folder.path().join("both.pem");
        std::fs::write(&both, own + &first.certificate_pem().unwrap()).unwrap();
        [first, Signer::from_pem(&key, &both).unwrap()]
    })
}

/// A catalog of a file with these bytes.
fn catalog_of(bytes: &[u8], signer: &Signer) -> Vec<u8> {
    Catalog::new(Architecture::X64, [""; 0])
        .file("a.txt", bytes)
        .sign(signer, SigningTime::from(TIME))
        .unwrap()
}

fn catalog() -> Vec<u8> {
    catalog_of(b"text", &signers()[0])
}

fn judged(path: &str, bytes: Vec<u8>, today: Date) -> Report {
    let terms = Terms {
        today,
        advice_decides: false,
    };
    let [report] = lint::files(&[File::new(path, bytes)], &[], terms)
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
    let demands = report.checks.iter().filter(|check| !check.is_advice());
    let faults: Vec<_> = demands
        .filter_map(|check| Some(format!("{}: {}", check.claim, check.fault()?)))
        .collect();
    assert_eq!(report.verdict() == Verdict::Wrong, !faults.is_empty());
    faults
}

#[test]
fn a_sound_catalog_has_no_fault_and_says_what_was_not_judged() {
    for signer in signers() {
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

#[test]
fn a_catalog_without_a_signer_is_not_signed() {
    let unsigned = changed(|signed| {
        signed.digest_algorithms = SetOfVec::new();
        signed.certificates = None;
        signed.signer_infos = SignerInfos(SetOfVec::new());
    });
    assert_eq!(
        faults(unsigned),
        ["the signature has one signer: it is not signed"]
    );
}

#[test]
fn a_changed_signature_is_not_that_of_the_key() {
    let bad = with_signer(|signer| {
        let mut signature = signer.signature.as_bytes().to_vec();
        *signature.last_mut().unwrap() ^= 1;
        signer.signature = OctetString::new(signature).unwrap();
    });
    assert_eq!(
        faults(bad),
        ["the signature matches the signer's key: it does not match"]
    );
}

#[test]
fn a_changed_list_is_not_what_was_signed() {
    let other = ContentInfo::from_der(&catalog_of(b"other", &signers()[0])).unwrap();
    let other = other.content.decode_as::<SignedData>().unwrap();
    let bad = changed(|signed| signed.encap_content_info = other.encap_content_info);
    assert_eq!(
        faults(bad),
        [
            "the signed attributes match the content: type and digest: messageDigest is not \
             the digest of the content"
        ]
    );
}

#[test]
fn signed_attributes_are_needed_and_are_signed() {
    let attributes = |keep: fn(&Attribute) -> bool| {
        with_signer(|signer| {
            let kept = signer.signed_attrs.take().unwrap().into_vec().into_iter();
            let kept: Vec<_> = kept.filter(keep).collect();
            signer.signed_attrs = Some(SetOfVec::try_from(kept).unwrap());
        })
    };
    let of = "the signed attributes match the content: type and digest";
    let is_not = "the signature matches the signer's key: it does not match";
    assert_eq!(
        faults(attributes(|a| a.oid.to_string() != "1.2.840.113549.1.9.4")),
        [format!("{of}: it has no messageDigest"), is_not.into()]
    );
    assert_eq!(
        faults(attributes(|a| a.oid.to_string() != "1.2.840.113549.1.9.3")),
        [format!("{of}: it has no contentType"), is_not.into()]
    );
    assert_eq!(
        faults(attributes(|a| a.oid.to_string() != "1.2.840.113549.1.9.5")),
        [is_not]
    );
    let none = with_signer(|signer| signer.signed_attrs = None);
    assert_eq!(
        faults(none)[1],
        "the signature matches the signer's key: it has no signed attributes"
    );
}

#[test]
fn the_signers_certificate_is_needed() {
    let claim = "the signature contains the signer's certificate";
    let bad = changed(|signed| signed.certificates = None);
    assert_eq!(faults(bad), [format!("{claim}: it has no certificates")]);

    let other = signers()[1].certificate_der().unwrap();
    let other = CertificateChoices::Certificate(Decode::from_der(&other).unwrap());
    let set = SetOfVec::try_from(vec![other]).unwrap();
    let bad = changed(|signed| signed.certificates = Some(CertificateSet(set)));
    assert_eq!(
        faults(bad),
        [format!(
            "{claim}: none of the 1 certificates is the signer's"
        )]
    );
}

#[test]
fn a_changed_certificate_is_not_what_its_issuer_signed() {
    let bad = changed(|signed| {
        let certificates = signed.certificates.take().unwrap().0;
        let Some(CertificateChoices::Certificate(certificate)) = certificates.get(0) else {
            panic!("no certificate");
        };
        let mut certificate = certificate.clone();
        let validity = &mut certificate.tbs_certificate.validity;
        validity.not_before = validity.not_after;
        let changed = CertificateChoices::Certificate(certificate);
        signed.certificates = Some(CertificateSet(SetOfVec::try_from(vec![changed]).unwrap()));
    });
    assert_eq!(
        faults(bad),
        [
            "each certificate is signed by its issuer, as far as the signature contains the issuer: \
             the certificate of CN=Ferrostor test signing (not for production) is not",
            "the signer's certificate is valid today, because the signature has no timestamp: it \
             becomes valid at 2046-01-01T00:00:00Z"
        ]
    );
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
    let sound = catalog_of(b"text", &signers()[1]);
    let mut certificates = signers()
        .each_ref()
        .map(|one| one.certificate_der().unwrap());
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
fn what_is_no_der_or_longer_or_cut_is_refused() {
    let claim = "the signature is PKCS#7 in DER, and ends the file";
    let mut longer = catalog();
    longer.push(0);
    assert_eq!(faults(longer), [format!("{claim}: 1 bytes follow")]);

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
    let driver = authenticode::sign(&sample::driver(), &signers()[0], SigningTime::from(TIME));
    let driver = driver.unwrap();
    // id-signedData, less the header before it; the padding is cut off.
    let oid = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02";
    let at = driver.windows(oid.len()).position(|part| part == oid);
    let signature = &driver[at.unwrap() - 4..];
    let length = 4 + usize::from(u16::from_be_bytes([signature[2], signature[3]]));
    assert_eq!(
        faults(signature[..length].to_vec())[0],
        "the signed content has the right type: its content type is \
         1.3.6.1.4.1.311.2.1.4, not 1.3.6.1.4.1.311.10.1"
    );
}

#[test]
fn two_signers_are_one_too_many() {
    let bad = changed(|signed| {
        let mut signers = signed.signer_infos.0.clone().into_vec();
        let mut second = signers[0].clone();
        second.signature = OctetString::new(*b"another").unwrap();
        signers.push(second);
        signed.signer_infos = SignerInfos(SetOfVec::try_from(signers).unwrap());
    });
    assert_eq!(faults(bad), ["the signature has one signer: it has 2"]);
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
fn an_algorithm_that_is_not_known_is_not_judged_and_never_yes() {
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
    let time = SigningTime::from(TIME);
    let driver = authenticode::sign(&sample::driver(), &signers()[0], time).unwrap();
    let claim = "the signed digest is that of this file";
    let says = |driver: Vec<u8>, line: &str| {
        let text = judged("a.sys", driver, TODAY).to_string();
        assert!(text.contains(line), "{text}");
    };
    says(driver.clone(), &format!("    yes  {claim}\n"));
    says(
        driver.clone(),
        "    yes  the signature matches the signer's key\n",
    );

    let mut changed = driver.clone();
    changed[0x400] ^= 1;
    says(
        changed,
        &format!("    NO   {claim}: the file was changed after it was signed\n"),
    );

    let mut changed = driver;
    let end = changed.len() - 20;
    changed[end] ^= 1;
    says(
        changed,
        "    NO   the signature matches the signer's key: it does not match\n",
    );
}
