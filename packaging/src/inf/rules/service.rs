//! Rules for the driver's service: AddService, and the section that it names.

use super::{
    In, Rule,
    Source::{Advice, Windows},
    at, each,
};
use crate::inf::{
    Entry,
    install::{Installation, Place, Service, is_root, number},
};

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "service",
        claim: "Each device has a function driver service",
        source: Windows("InfVerif 1296; INF AddService directive (SPSVCINST_ASSOCSERVICE)"),
        faults: In::File(|inf, _| {
            // An INF file that extends another driver, or binds to one, adds no device's service.
            let class = inf.class().to_ascii_lowercase();
            if WITHOUT_SERVICE.contains(&&*class) {
                return Vec::new();
            }
            each(inf.sections_for(Place::Install), |section| {
                let services = inf.entries(&format!("{}.Services", section.name));
                let mut all = services.iter().copied().chain(&section.entries);
                (inf.is_preferred(section)
                    && drivers(inf, services.iter().copied()).next().is_none()
                    && !all.any(|entry| entry.is("Needs"))
                    && !is_root(section, "DefaultInstall")
                    && !is_root(section, "ClassInstall32"))
                .then(|| format!("[{}.Services] adds no service with flag 2", section.name))
            })
        }),
    },
    Rule {
        id: "service-one",
        claim: "No device has two function driver services",
        source: Windows("InfVerif 1211"),
        faults: In::File(|inf, _| {
            let sections = inf.sections_for(Place::Services);
            let seconds = sections.filter_map(|section| drivers(inf, &section.entries).nth(1));
            each(seconds, |_| {
                Some("an earlier AddService has flag 2, too".into())
            })
        }),
    },
    Rule {
        id: "service-named",
        claim: "AddService names the service and its install section",
        source: Windows("InfVerif 1080, 1253, 1272; INF AddService directive"),
        faults: In::Services(|_, service| {
            let is_short = match (&*service.name, &*service.section) {
                // A device that needs no driver has this service.
                ("", "") => number(&service.flags) != Some(2),
                (name, section) => name.is_empty() || section.is_empty(),
            };
            is_short.then(|| "AddService needs a name, flags and a section".into())
        }),
    },
    Rule {
        id: "service-flags",
        claim: "The flags of AddService are known, and those of a PnP driver",
        source: Windows("InfVerif 1083; INF AddService directive"),
        faults: In::Services(|_, service| {
            let fit = |flags| {
                let drives = flags & 2 != 0;
                flags & !SERVICE_FLAGS == 0 && !(drives && flags & NOT_FOR_PNP != 0)
            };
            (!service.flags.is_empty() && !number(&service.flags).is_some_and(fit))
                .then(|| format!("{:?} is not such a set of flags", service.flags))
        }),
    },
    Rule {
        id: "service-directives",
        claim: "The service has a type, start type, error control and file",
        source: Windows("InfVerif 1234, 1289; INF AddService directive"),
        faults: In::File(|inf, _| {
            let names = ["ServiceType", "StartType", "ErrorControl", "ServiceBinary"];
            let faults = names.map(|name| each(&inf.services, |service| lacks(service, name)));
            faults.concat()
        }),
    },
    Rule {
        id: "service-type",
        claim: "The service type is known, and that of a function driver is 1 (kernel driver)",
        source: Windows("INF AddService directive"),
        faults: In::ServiceValues("ServiceType", |_, service, text| {
            number(text).is_some_and(|kind| match service.drives_device() {
                true => kind == 1,
                false => SERVICE_TYPES.contains(&kind),
            })
        }),
    },
    Rule {
        id: "service-start-known",
        claim: "The start type is from 0 to 4",
        source: Windows("InfVerif 1014; INF AddService directive"),
        faults: In::ServiceValues("StartType", |_, _, text| {
            number(text).is_some_and(|start| start <= 4)
        }),
    },
    Rule {
        id: "service-start",
        claim: "A storage controller's service is started at boot (StartType 0): \
                Windows can be on its disk",
        source: Advice("Specifying Driver Load Order"),
        faults: In::File(|inf, _| {
            let services = inf.boot_disk_services().into_iter();
            let starts = services.flat_map(|service| service.entries("StartType"));
            each(starts, |entry| {
                let start = inf.value(entry, 0);
                matches!(number(&start), Some(1..=4)).then(|| format!("StartType is {start:?}"))
            })
        }),
    },
    Rule {
        id: "service-error-control",
        claim: "The error control is from 0 to 3",
        source: Windows("InfVerif 1014; INF AddService directive"),
        faults: In::ServiceValues("ErrorControl", |_, _, text| {
            number(text).is_some_and(|level| level <= 3)
        }),
    },
    Rule {
        id: "service-group",
        claim: "A storage controller's service is in a load order group (LoadOrderGroup)",
        source: Advice("Specifying Driver Load Order"),
        faults: In::File(|inf, _| {
            each(inf.boot_disk_services(), |service| {
                lacks(service, "LoadOrderGroup")
            })
        }),
    },
    Rule {
        id: "service-path",
        claim: "The path of the service's file begins with a directory number",
        source: Advice("InfVerif 2085; using-dirids"),
        faults: In::ServiceValues("ServiceBinary", |_, _, text| in_directory(text).is_some()),
    },
    Rule {
        id: "service-file",
        claim: "The service's file is copied to its path",
        source: Windows("InfVerif 2084; InfVerif Error 2084"),
        faults: In::ServiceValues("ServiceBinary", |inf, _, text| {
            // Elsewhere than in the driver store, and in no folder that the file copies
            // to, it is one that Windows has.
            in_directory(text).is_none_or(|(number, path)| {
                is_copied(inf, number, path) || !is_own_folder(inf, number, path)
            })
        }),
    },
    Rule {
        id: "event-log",
        claim: "Storport's events for the driver have their texts, from IoLogMsg.dll",
        source: Advice("INF AddService directive (Registering for Event Logging)"),
        faults: In::File(|inf, _| {
            let mut faults = Vec::new();
            for service in inf.boot_disk_services() {
                if service.event_section.is_empty() {
                    let text = "AddService names no section for the event log";
                    faults.push(at(service.line, text));
                    continue;
                }
                let mut judge = |name: &str, fault: fn(&str) -> Option<&'static str>| {
                    let value = inf.values_of(Place::Events).find(|value| {
                        value.owner.eq_ignore_ascii_case(&service.event_section)
                            && value.name.eq_ignore_ascii_case(name)
                    });
                    faults.extend(match value {
                        None => {
                            let text = format!("the event log section has no {name}");
                            Some(at(service.line, text))
                        }
                        Some(value) => fault(value.first()).map(|text| at(value.line, text)),
                    });
                };
                judge("EventMessageFile", |data| {
                    let is_own = !data.to_ascii_lowercase().contains("iologmsg.dll");
                    is_own.then_some("EventMessageFile does not name IoLogMsg.dll")
                });
                judge("TypesSupported", |data| {
                    let is_other = number(data).is_some_and(|types| types != 7);
                    is_other.then_some("TypesSupported must be 7")
                });
            }
            faults
        }),
    },
    Rule {
        id: "event-log-file",
        claim: "A file with event texts is copied to the path in EventMessageFile",
        source: Windows("Registering as a Source of Error Messages; Run From Driver Store"),
        faults: In::File(|inf, _| {
            let mut faults = Vec::new();
            let values = inf.values_of(Place::Events);
            for value in values.filter(|value| value.name.eq_ignore_ascii_case("EventMessageFile"))
            {
                let is_missing = |file: &&str| {
                    in_directory(file).is_some_and(|(number, path)| !is_copied(inf, number, path))
                };
                let files = value.first().split(';').filter(is_missing);
                faults.extend(files.map(|file| at(value.line, format!("{file} is not copied"))));
            }
            faults
        }),
    },
    Rule {
        id: "event-log-type",
        claim: "The event log is System, Application or Security",
        source: Windows("InfVerif 1250; INF AddService directive"),
        faults: In::File(|inf, _| {
            let known = ["", "system", "application", "security"];
            each(&inf.services, |service| {
                let log = &service.event_log;
                (!known.contains(&&*log.to_ascii_lowercase()))
                    .then(|| format!("{log:?} is not System, Application or Security"))
            })
        }),
    },
];

/// SPSVCINST_*, and 0x10000, which is not documented there but asks for the
/// unique names that InfVerif 1021 and 1022 speak of.
const SERVICE_FLAGS: u64 = 0x7_fdfb;

/// SERVICE_* of winnt.h: drivers and services, alone, shared, and of a user.
const SERVICE_TYPES: [u64; 11] = [
    0x1, 0x2, 0x4, 0x8, 0x10, 0x20, 0x50, 0x60, 0x110, 0x120, 0x160,
];

/// TAGTOFRONT, STARTSERVICE.
const NOT_FOR_PNP: u64 = 0x801;

/// Classes whose devices need no service of the same file.
const WITHOUT_SERVICE: [&str; 5] = [
    "extension",
    "netclient",
    "netservice",
    "nettrans",
    "softwarecomponent",
];

/// The `AddService` directives that make the service the device's own.
fn drivers<'a>(
    inf: &Installation<'a>,
    entries: impl IntoIterator<Item = &'a Entry>,
) -> impl Iterator<Item = &'a Entry> {
    let entries = entries.into_iter();
    entries.filter(|entry| {
        entry.is("AddService") && number(&inf.value(entry, 1)).is_some_and(|flags| flags & 2 != 0)
    })
}

/// The fault of a service whose sections exist, but have no such entry.
fn lacks(service: &Service<'_>, name: &str) -> Option<String> {
    (!service.installs.is_empty() && service.entries(name).next().is_none())
        .then(|| format!("[{}] has no {name}", service.section))
}

/// Whether a file is copied to this path below the directory of this number. Yes, if a
/// directory is missing or no number: that is another rule's fault.
fn is_copied(inf: &Installation<'_>, number: u32, path: &str) -> bool {
    let mut copies = inf.copies.iter();
    copies.any(|copy| {
        let place = inf.destination(copy.list.as_deref());
        place.is_none_or(|place| {
            let folder = place.subdirectory.trim_matches('\\');
            let whole = format!("{folder}\\{}", copy.destination);
            let is_here = whole
                .strip_prefix('\\')
                .unwrap_or(&whole)
                .eq_ignore_ascii_case(path);
            place
                .number
                .parse()
                .map_or(true, |own: u32| own == number && is_here)
        })
    })
}

/// Whether the file may come from the package only: it is in the driver store, or where
/// other files are copied to.
fn is_own_folder(inf: &Installation<'_>, number: u32, path: &str) -> bool {
    let folder = path.rsplit_once('\\').map_or("", |(folder, _)| folder);
    let mut copies = inf.copies.iter();
    let is_destination = copies.any(|copy| {
        inf.destination(copy.list.as_deref()).is_some_and(|place| {
            let own = place.subdirectory.trim_matches('\\');
            place.number.parse() == Ok(number) && own.eq_ignore_ascii_case(folder)
        })
    });
    number == 13 || is_destination
}

/// The directory's number and the path below it, of `%number%\path`.
fn in_directory(text: &str) -> Option<(u32, &str)> {
    let (number, path) = text.trim_matches('"').strip_prefix('%')?.split_once('%')?;
    Some((number.parse().ok()?, path.strip_prefix('\\')?))
}
