//! Rules for the section `[Version]`.

use time::{Date, Month};

use super::{
    In, Rule,
    Source::{Advice, Windows},
    at, each, missing,
};
use crate::inf::{Encoding, Entry, install::Installation};

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "encoding",
        claim: "The file is ASCII, or UTF-16 with a byte order mark",
        source: Advice("InfVerif 1003"),
        faults: In::File(|inf, _| match inf.inf.encoding {
            Encoding::Ascii | Encoding::Utf16 => Vec::new(),
            Encoding::Ansi | Encoding::Utf8 => vec![missing(
                "it has non-ASCII characters, whose meaning depends on the code page of \
                 the system: save it as UTF-16",
            )],
        }),
    },
    Rule {
        id: "signature",
        claim: "[Version] has the signature $WINDOWS NT$ or $CHICAGO$",
        source: Windows("InfVerif 1001; INF Version section"),
        faults: In::File(|inf, _| match inf.version("Signature") {
            None => vec![missing("[Version] has no Signature")],
            Some(entry) => match inf.value(entry, 0) {
                text if text.eq_ignore_ascii_case("$Windows NT$") => Vec::new(),
                text if text.eq_ignore_ascii_case("$Chicago$") => Vec::new(),
                text => vec![at(entry.line, format!("Signature is {text:?}"))],
            },
        }),
    },
    Rule {
        id: "version-directives",
        claim: "[Version] has only directives that Windows knows",
        source: Windows("InfVerif 1290; INF Version section"),
        faults: In::Version(|_, entry| {
            let is = |names: &[&str]| names.iter().any(|name| entry.is(name));
            (!is(&DIRECTIVES) && !is(&OBSOLETE) && !names_catalog(entry))
                .then(|| format!("{} is not a directive of [Version]", entry.word()))
        }),
    },
    Rule {
        id: "version-obsolete",
        claim: "[Version] has no directives for obsolete installers",
        source: Advice("InfVerif 2009; INF Version section (DIFx)"),
        faults: In::Version(|_, entry| {
            let name = OBSOLETE.iter().find(|name| entry.is(name))?;
            Some(format!("take {name} out"))
        }),
    },
    Rule {
        id: "version-extra",
        claim: "No entry of [Version] has too many values",
        source: Windows("InfVerif 1201"),
        faults: In::Version(|_, entry| {
            let most = if entry.is("DriverVer") { 2 } else { 1 };
            (entry.values.len() > most).then(|| "what follows the last comma is ignored".into())
        }),
    },
    Rule {
        id: "class",
        claim: "[Version] has the name and GUID of the device setup class",
        source: Windows("InfVerif 1234; INF Version section"),
        faults: In::File(|inf, _| {
            ["Class", "ClassGuid"]
                .into_iter()
                .filter(|key| inf.version(key).is_none_or(|e| inf.value(e, 0).is_empty()))
                .map(|key| missing(format!("[Version] has no {key}")))
                .collect()
        }),
    },
    Rule {
        id: "class-guid",
        claim: "The class GUID has the form of a GUID",
        source: Windows("InfVerif 1010"),
        faults: In::File(|inf, _| match class(inf) {
            Some((line, _, guid)) if !is_guid(&guid) => vec![at(
                line,
                format!("{guid:?} is not of the form {{XXXXXXXX-XXXX-XXXX-XXXX-XXXXXXXXXXXX}}"),
            )],
            _ => Vec::new(),
        }),
    },
    Rule {
        id: "class-match",
        claim: "The class name matches the class GUID",
        source: Windows(
            "InfVerif 1280, 1281; System-defined device setup classes available to vendors",
        ),
        faults: In::File(|inf, _| {
            let Some((line, name, guid)) = class(inf).filter(|(_, _, guid)| is_guid(guid)) else {
                return Vec::new();
            };
            let differs = |(class, number): &&(&str, &str)| {
                class.eq_ignore_ascii_case(&name) != number.eq_ignore_ascii_case(&guid)
            };
            let class = CLASSES.iter().find(differs);
            class
                .map(|(class, number)| at(line, format!("{class} is {number}")))
                .into_iter()
                .collect()
        }),
    },
    Rule {
        id: "class-storage",
        claim: "The class is SCSIAdapter, the class of storage controllers",
        source: Advice("System-defined device setup classes available to vendors"),
        faults: In::File(|inf, _| match class(inf) {
            Some((line, name, _))
                if !name.eq_ignore_ascii_case("SCSIAdapter")
                    && !inf.boot_disk_services().is_empty() =>
            {
                vec![at(line, format!("the class is {name}"))]
            }
            _ => Vec::new(),
        }),
    },
    Rule {
        id: "provider",
        claim: "[Version] has a provider",
        source: Windows("InfVerif 1234; INF Version section"),
        faults: In::File(|inf, _| match inf.version("Provider") {
            Some(entry) if !inf.value(entry, 0).is_empty() => Vec::new(),
            _ => vec![missing("[Version] has no Provider")],
        }),
    },
    Rule {
        id: "provider-microsoft",
        claim: "The provider is not Microsoft",
        source: Windows("InfVerif 1204"),
        faults: In::File(|inf, _| {
            each(inf.version("Provider"), |entry| {
                let name = inf.value(entry, 0);
                let is_microsoft = name.to_ascii_lowercase().starts_with("microsoft");
                is_microsoft.then(|| format!("the provider is {name:?}"))
            })
        }),
    },
    Rule {
        id: "catalog",
        claim: "[Version] names a catalog for the architecture",
        source: Windows("InfVerif 1233; INF Version section"),
        faults: In::File(|inf, _| match inf.catalog() {
            Some(_) => Vec::new(),
            None => vec![missing(format!(
                "[Version] has no CatalogFile and no CatalogFile.NT{}",
                inf.architecture.decoration()
            ))],
        }),
    },
    Rule {
        id: "catalog-name",
        claim: "The catalog is a .cat file in the same folder",
        source: Windows("InfVerif 1214"),
        faults: In::Version(|inf, entry| {
            let name = inf.value(entry, 0);
            let is_name =
                name.to_ascii_lowercase().ends_with(".cat") && !name.contains(['\\', '/']);
            (names_catalog(entry) && !is_name)
                .then(|| format!("{name:?} is not of the form name.cat"))
        }),
    },
    Rule {
        id: "driver-ver",
        claim: "[Version] has the driver's date and version",
        source: Windows("InfVerif 1234; INF DriverVer directive"),
        faults: In::File(|inf, _| match inf.version("DriverVer") {
            None => vec![missing("[Version] has no DriverVer")],
            entry => each(entry, |entry| {
                let is_short = (0..2).any(|index| inf.value(entry, index).is_empty());
                is_short.then(|| {
                    "DriverVer needs a date and a version, such as 05/04/2026,1.2.3.0".into()
                })
            }),
        }),
    },
    Rule {
        id: "driver-date",
        claim: "The driver's date has the form MM/DD/YYYY",
        source: Windows("InfVerif 1218; INF DriverVer directive"),
        faults: In::Version(|inf, entry| {
            let (text, _) = driver_ver(inf, entry)?;
            let is_date = date(&text).is_some();
            (!is_date).then(|| format!("{text:?} is not such a date"))
        }),
    },
    Rule {
        id: "driver-date-past",
        claim: "The driver's date is not in the future",
        source: Windows("inf2cat (\"DriverVer set to a date in the future\")"),
        faults: In::File(|inf, today| {
            each(inf.version("DriverVer"), |entry| {
                let (text, _) = driver_ver(inf, entry)?;
                (date(&text)? > today).then(|| format!("{text} is in the future"))
            })
        }),
    },
    Rule {
        id: "driver-version",
        claim: "The driver's version is four numbers below 65535, not all 0",
        source: Windows("InfVerif 1217; INF DriverVer directive"),
        faults: In::Version(|inf, entry| {
            let (_, text) = driver_ver(inf, entry)?;
            match text.parse::<crate::inf::Version>() {
                Ok(version) if version.0 == [0; 4] => Some("0.0.0.0 is not valid".into()),
                Ok(_) => None,
                Err(error) => Some(format!("{text:?}: {error}")),
            }
        }),
    },
    Rule {
        id: "pnp-lockdown",
        claim: "The installed files are locked against other programs (PnpLockdown)",
        source: Advice("InfVerif 1324"),
        faults: In::File(|inf, _| match inf.version("PnpLockdown") {
            None => vec![missing("[Version] has no PnpLockdown = 1")],
            Some(entry) => match inf.value(entry, 0) {
                text if text == "1" => Vec::new(),
                text => vec![at(entry.line, format!("PnpLockdown is {text}"))],
            },
        }),
    },
];

const DIRECTIVES: [&str; 8] = [
    "Signature",
    "Class",
    "ClassGuid",
    "ClassVer",
    "Provider",
    "ExtensionId",
    "DriverVer",
    "PnpLockdown",
];

const OBSOLETE: [&str; 2] = ["DriverPackageType", "DriverPackageDisplayName"];

/// The classes that a storage driver's file might be taken for, of those that
/// vendors may use.
const CLASSES: [(&str, &str); 9] = [
    ("DiskDrive", "{4d36e967-e325-11ce-bfc1-08002be10318}"),
    ("Display", "{4d36e968-e325-11ce-bfc1-08002be10318}"),
    ("HDC", "{4d36e96a-e325-11ce-bfc1-08002be10318}"),
    ("HIDClass", "{745a17a0-74d3-11d0-b6fe-00a0c90f57da}"),
    ("Media", "{4d36e96c-e325-11ce-bfc1-08002be10318}"),
    ("Net", "{4d36e972-e325-11ce-bfc1-08002be10318}"),
    ("SCSIAdapter", "{4d36e97b-e325-11ce-bfc1-08002be10318}"),
    ("System", "{4d36e97d-e325-11ce-bfc1-08002be10318}"),
    ("Volume", "{71a27cdd-812a-11d0-bec7-08002be2092f}"),
];

/// The class's line, name and GUID, if both are given.
fn class(inf: &Installation<'_>) -> Option<(usize, String, String)> {
    let (name, guid) = (inf.version("Class")?, inf.version("ClassGuid")?);
    let found = (guid.line, inf.value(name, 0), inf.value(guid, 0));
    (!found.1.is_empty() && !found.2.is_empty()).then_some(found)
}

fn is_guid(text: &str) -> bool {
    let inner = text.strip_prefix('{').and_then(|t| t.strip_suffix('}'));
    inner.is_some_and(|inner| {
        let groups: Vec<_> = inner.split('-').collect();
        groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
            && groups
                .iter()
                .all(|group| group.bytes().all(|b| b.is_ascii_hexdigit()))
    })
}

/// Whether the entry is `CatalogFile`, with or without a decoration.
fn names_catalog(entry: &Entry) -> bool {
    let key = entry.key.as_ref();
    key.is_some_and(|key| {
        let name = key.split('.').next().unwrap_or_default();
        name.eq_ignore_ascii_case("CatalogFile")
    })
}

/// The driver's date and version, if the entry is DriverVer and has both.
fn driver_ver(inf: &Installation<'_>, entry: &Entry) -> Option<(String, String)> {
    let found = (inf.value(entry, 0), inf.value(entry, 1));
    (entry.is("DriverVer") && !found.0.is_empty() && !found.1.is_empty()).then_some(found)
}

/// MM/DD/YYYY; a hyphen may stand for a slash.
fn date(text: &str) -> Option<Date> {
    let parts: Vec<&str> = text.split(['/', '-']).collect();
    let [month, day, year] = parts.try_into().ok()?;
    let digits =
        |text: &str, count| text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    if !(digits(month, 2) && digits(day, 2) && digits(year, 4)) {
        return None;
    }
    let month = Month::try_from(month.parse::<u8>().ok()?).ok()?;
    Date::from_calendar_date(year.parse().ok()?, month, day.parse().ok()?).ok()
}
