//! The service: the driver as Windows loads it.

use super::{
    Fault, Rule,
    Source::{Advice, Windows},
    at,
};
use crate::inf::{
    Entry,
    install::{Installation, Key, Place, Service, is_root, number},
};

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "service",
        claim: "Each device has a function driver service",
        source: Windows("InfVerif 1296; INF AddService directive (SPSVCINST_ASSOCSERVICE)"),
        check: |inf, _| {
            // What extends another driver, or binds to one, has no service of a device.
            let class = inf.class().to_ascii_lowercase();
            if WITHOUT_SERVICE.contains(&&*class) {
                return Vec::new();
            }
            let installs = inf.reached.iter().filter(|(at, _)| *at == Place::Install);
            installs
                .filter(|(_, section)| {
                    let services = inf.entries(&format!("{}.Services", section.name));
                    let needs = |entries: &[&Entry]| entries.iter().any(|entry| entry.is("Needs"));
                    inf.is_preferred(section)
                        && drivers(inf, &services).is_empty()
                        && !needs(&services)
                        && !needs(&section.entries.iter().collect::<Vec<_>>())
                        && !is_root(section, "DefaultInstall")
                        && !is_root(section, "ClassInstall32")
                })
                .map(|(_, section)| {
                    at(
                        section.line,
                        format!("[{}.Services] adds no service with flag 2", section.name),
                    )
                })
                .collect()
        },
    },
    Rule {
        id: "service-one",
        claim: "No device has two function driver services",
        source: Windows("InfVerif 1211"),
        check: |inf, _| {
            let sections = inf.reached.iter().filter(|(at, _)| *at == Place::Services);
            sections
                .filter_map(|(_, section)| {
                    let entries: Vec<&Entry> = section.entries.iter().collect();
                    let second = *drivers(inf, &entries).get(1)?;
                    Some(at(second, "an earlier AddService has flag 2, too"))
                })
                .collect()
        },
    },
    Rule {
        id: "service-named",
        claim: "AddService names the service and its install section",
        source: Windows("InfVerif 1080, 1253, 1272; INF AddService directive"),
        check: |inf, _| {
            let services = inf.services.iter();
            services
                .filter(|service| match (&*service.name, &*service.section) {
                    // A device that needs no driver has this service.
                    ("", "") => number(&service.flags) != Some(2),
                    (name, section) => name.is_empty() || section.is_empty(),
                })
                .map(|service| at(service.line, "AddService needs a name, flags and a section"))
                .collect()
        },
    },
    Rule {
        id: "service-flags",
        claim: "The flags of AddService are known, and those of a PnP driver",
        source: Windows("InfVerif 1083; INF AddService directive"),
        check: |inf, _| {
            let services = inf.services.iter();
            services
                .filter(|service| {
                    let fit = |flags| {
                        let drives = flags & 2 != 0;
                        flags & !SERVICE_FLAGS == 0 && !(drives && flags & NOT_FOR_PNP != 0)
                    };
                    !service.flags.is_empty() && !number(&service.flags).is_some_and(fit)
                })
                .map(|service| {
                    at(
                        service.line,
                        format!("{:?} is not such a set of flags", service.flags),
                    )
                })
                .collect()
        },
    },
    Rule {
        id: "service-directives",
        claim: "The service has a type, start type, error control and file",
        source: Windows("InfVerif 1234, 1289; INF AddService directive"),
        check: |inf, _| {
            let mut faults = Vec::new();
            for service in &inf.services {
                for name in ["ServiceType", "StartType", "ErrorControl", "ServiceBinary"] {
                    if !service.installs.is_empty() && entries(service, name).is_empty() {
                        let text = format!("[{}] has no {name}", service.section);
                        faults.push(at(service.line, text));
                    }
                }
            }
            faults
        },
    },
    Rule {
        id: "service-type",
        claim: "The service type is known, and that of a function driver is 1 (kernel driver)",
        source: Windows("INF AddService directive"),
        check: |inf, _| {
            of_each(inf, "ServiceType", |service, text| {
                let kind = number(text)?;
                match is_devices_own(service) {
                    true => kind == 1,
                    false => SERVICE_TYPES.contains(&kind),
                }
                .then_some(())
            })
        },
    },
    Rule {
        id: "service-start-known",
        claim: "The start type is from 0 to 4",
        source: Windows("InfVerif 1014; INF AddService directive"),
        check: |inf, _| {
            of_each(inf, "StartType", |_, text| {
                number(text).filter(|start| *start <= 4).map(drop)
            })
        },
    },
    Rule {
        id: "service-start",
        claim: "A storage controller's service is started at boot (StartType 0): \
                Windows can be on its disk",
        source: Advice("Specifying Driver Load Order"),
        check: |inf, _| {
            let services = inf.boot_disk_services().into_iter();
            let starts = services.flat_map(|service| entries(service, "StartType"));
            starts
                .map(|entry| (entry.line, inf.value(entry, 0)))
                .filter(|(_, start)| number(start).is_some_and(|start| matches!(start, 1..=4)))
                .map(|(line, start)| at(line, format!("StartType is {start:?}")))
                .collect()
        },
    },
    Rule {
        id: "service-error-control",
        claim: "The error control is from 0 to 3",
        source: Windows("InfVerif 1014; INF AddService directive"),
        check: |inf, _| {
            of_each(inf, "ErrorControl", |_, text| {
                number(text).filter(|level| *level <= 3).map(drop)
            })
        },
    },
    Rule {
        id: "service-group",
        claim: "A storage controller's service is in a load order group (LoadOrderGroup)",
        source: Advice("Specifying Driver Load Order"),
        check: |inf, _| {
            let services = inf.boot_disk_services().into_iter();
            services
                .filter(|service| {
                    !service.installs.is_empty() && entries(service, "LoadOrderGroup").is_empty()
                })
                .map(|service| {
                    let text = format!("[{}] has no LoadOrderGroup", service.section);
                    at(service.line, text)
                })
                .collect()
        },
    },
    Rule {
        id: "service-path",
        claim: "The path of the service's file begins with a directory number",
        source: Advice("InfVerif 2085; using-dirids"),
        check: |inf, _| of_each(inf, "ServiceBinary", |_, text| in_directory(text).map(drop)),
    },
    Rule {
        id: "service-file",
        claim: "The service's file is copied to its path",
        source: Windows("InfVerif 2084; InfVerif Error 2084"),
        check: |inf, _| {
            of_each(inf, "ServiceBinary", |_, text| {
                // Elsewhere than in the driver store, and in no folder that the file copies
                // to, it is one that Windows has.
                in_directory(text)
                    .is_none_or(|(number, path)| {
                        is_copied(inf, number, path) || !is_own_folder(inf, number, path)
                    })
                    .then_some(())
            })
        },
    },
    Rule {
        id: "event-log",
        claim: "Storport's events for the driver have their texts, from IoLogMsg.dll",
        source: Advice("INF AddService directive (Registering for Event Logging)"),
        check: |inf, _| {
            let mut faults = Vec::new();
            for service in inf.boot_disk_services() {
                if service.event_section.is_empty() {
                    faults.push(at(
                        service.line,
                        "AddService names no section for the event log",
                    ));
                    continue;
                }
                let value = |name: &str| {
                    inf.values_of(Key::Events).find(|value| {
                        value.owner.eq_ignore_ascii_case(&service.event_section)
                            && value.name.eq_ignore_ascii_case(name)
                    })
                };
                match value("EventMessageFile") {
                    None => faults.push(at(
                        service.line,
                        "the event log section has no EventMessageFile",
                    )),
                    Some(value) => {
                        let data = value.data.first().map_or("", |field| &field.text);
                        if !data.to_ascii_lowercase().contains("iologmsg.dll") {
                            faults.push(at(
                                value.line,
                                "EventMessageFile does not name IoLogMsg.dll",
                            ));
                        }
                    }
                }
                match value("TypesSupported") {
                    None => faults.push(at(
                        service.line,
                        "the event log section has no TypesSupported",
                    )),
                    Some(value) => {
                        let data = value.data.first().and_then(|field| number(&field.text));
                        if data.is_some_and(|types| types != 7) {
                            faults.push(at(value.line, "TypesSupported must be 7"));
                        }
                    }
                }
            }
            faults
        },
    },
    Rule {
        id: "event-log-file",
        claim: "A file with event texts is copied to the path in EventMessageFile",
        source: Windows("Registering as a Source of Error Messages; Run From Driver Store"),
        check: |inf, _| {
            inf.values_of(Key::Events)
                .filter(|value| value.name.eq_ignore_ascii_case("EventMessageFile"))
                .flat_map(|value| {
                    let files = value
                        .data
                        .first()
                        .map_or("", |field| &field.text)
                        .split(';');
                    files
                        .filter(|file| {
                            in_directory(file)
                                .is_some_and(|(number, path)| !is_copied(inf, number, path))
                        })
                        .map(|file| at(value.line, format!("{file} is not copied")))
                        .collect::<Vec<_>>()
                })
                .collect()
        },
    },
    Rule {
        id: "event-log-type",
        claim: "The event log is System, Application or Security",
        source: Windows("InfVerif 1250; INF AddService directive"),
        check: |inf, _| {
            let known = ["", "system", "application", "security"];
            let services = inf.services.iter();
            services
                .filter(|service| !known.contains(&&*service.event_log.to_ascii_lowercase()))
                .map(|service| {
                    at(
                        service.line,
                        format!(
                            "{:?} is not System, Application or Security",
                            service.event_log
                        ),
                    )
                })
                .collect()
        },
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

/// The lines of `AddService` that make the service the device's own.
fn drivers(inf: &Installation<'_>, entries: &[&Entry]) -> Vec<usize> {
    let entries = entries.iter().filter(|entry| entry.is("AddService"));
    entries
        .filter(|entry| number(&inf.value(entry, 1)).is_some_and(|flags| flags & 2 != 0))
        .map(|entry| entry.line)
        .collect()
}

/// The entries of a service's section of that name.
fn entries<'a>(service: &Service<'a>, name: &str) -> Vec<&'a Entry> {
    let sections = service.installs.iter();
    sections
        .flat_map(|section| &section.entries)
        .filter(|entry| entry.key.is_some() && entry.is(name))
        .collect()
}

/// The services' entries of that name whose value is not right: `right` returns
/// nothing for it.
fn of_each(
    inf: &Installation<'_>,
    name: &str,
    right: impl Fn(&Service<'_>, &str) -> Option<()>,
) -> Vec<Fault> {
    let mut faults = Vec::new();
    for service in &inf.services {
        for entry in entries(service, name) {
            let value = inf.value(entry, 0);
            if right(service, &value).is_none() {
                faults.push(at(entry.line, format!("{name} is {value:?}")));
            }
        }
    }
    faults
}

/// Whether the service is the one that drives a device.
fn is_devices_own(service: &Service<'_>) -> bool {
    number(&service.flags).is_some_and(|flags| flags & 2 != 0)
}

/// Whether a file is copied to this path below the directory of this number. Yes, if a
/// directory is missing or no number: that is another rule's fault.
fn is_copied(inf: &Installation<'_>, number: u32, path: &str) -> bool {
    let mut copies = inf.copies.iter();
    copies.any(|copy| {
        let place = inf.destination(copy.list.as_deref());
        let Some((own, folder)) =
            place.and_then(|place| Some((place.number.parse::<u32>().ok()?, place.subdirectory)))
        else {
            return true;
        };
        let whole = match folder.trim_matches('\\') {
            "" => copy.destination.clone(),
            folder => format!("{folder}\\{}", copy.destination),
        };
        number == own && whole.eq_ignore_ascii_case(path)
    })
}

/// Whether the file may come from the package only: it is in the driver store, or where
/// other files are copied to.
fn is_own_folder(inf: &Installation<'_>, number: u32, path: &str) -> bool {
    let folder = path.rsplit_once('\\').map_or("", |(folder, _)| folder);
    number == 13
        || inf.copies.iter().any(|copy| {
            inf.destination(copy.list.as_deref()).is_some_and(|place| {
                place.number.parse() == Ok(number)
                    && place
                        .subdirectory
                        .trim_matches('\\')
                        .eq_ignore_ascii_case(folder)
            })
        })
}

/// The directory's number and the path below it, of `%number%\path`.
fn in_directory(text: &str) -> Option<(u32, &str)> {
    let (number, path) = text.trim_matches('"').strip_prefix('%')?.split_once('%')?;
    Some((number.parse().ok()?, path.strip_prefix('\\')?))
}
