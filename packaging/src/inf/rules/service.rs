//! The service: the driver as Windows loads it.

use super::{Fault, Rule, at, missing};
use crate::inf::{
    Entry,
    install::{Installation, Key, Place, Service, number},
};

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "service",
        claim: "Each device gets the service that drives it",
        source: "InfVerif 1296; INF AddService directive (SPSVCINST_ASSOCSERVICE)",
        check: |inf, _| {
            let installs = inf.reached.iter().filter(|(at, _)| *at == Place::Install);
            installs
                .filter(|(_, section)| {
                    let services = inf.entries(&format!("{}.Services", section.name));
                    let needs = services.iter().any(|entry| entry.is("Needs"));
                    let named = section.name.to_ascii_lowercase();
                    drivers(inf, &services).is_empty()
                        && !needs
                        && !named.starts_with("defaultinstall")
                        && !named.starts_with("classinstall32")
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
        claim: "No device gets two services that drive it",
        source: "InfVerif 1211",
        check: |inf, _| {
            let sections = inf.reached.iter().filter(|(at, _)| *at == Place::Services);
            sections
                .filter_map(|(_, section)| {
                    let entries: Vec<&Entry> = section.entries.iter().collect();
                    let second = *drivers(inf, &entries).get(1)?;
                    Some(at(second, "another has flag 2 before it"))
                })
                .collect()
        },
    },
    Rule {
        id: "service-named",
        claim: "AddService names the service and the section that installs it",
        source: "InfVerif 1080, 1253, 1272; INF AddService directive",
        check: |inf, _| {
            let services = inf.services.iter();
            services
                .filter(|service| match (&*service.name, &*service.section) {
                    // A device that needs no driver has this service.
                    ("", "") => number(&service.flags) != Some(2),
                    (name, section) => name.is_empty() || section.is_empty(),
                })
                .map(|service| at(service.line, "a name, flags and a section are needed"))
                .collect()
        },
    },
    Rule {
        id: "service-flags",
        claim: "AddService's flags are known ones, and a PnP driver's",
        source: "InfVerif 1083; INF AddService directive",
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
                .map(|service| at(service.line, format!("{:?} is no such set", service.flags)))
                .collect()
        },
    },
    Rule {
        id: "service-directives",
        claim: "The service's type, start, error control and file are given",
        source: "InfVerif 1234, 1289; INF AddService directive",
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
        claim: "The service is a kernel driver (ServiceType 1)",
        source: "INF AddService directive",
        check: |inf, _| wrong(inf, "ServiceType", |text| number(text) == Some(1)),
    },
    Rule {
        id: "service-start",
        claim: "The service is loaded with the system, which may lie on its disk (StartType 0)",
        source: "Specifying Driver Load Order",
        check: |inf, _| wrong(inf, "StartType", |text| number(text) == Some(0)),
    },
    Rule {
        id: "service-error-control",
        claim: "The service's error control is one of the four (0 to 3)",
        source: "InfVerif 1014; INF AddService directive",
        check: |inf, _| {
            wrong(inf, "ErrorControl", |text| {
                number(text).is_some_and(|level| level <= 3)
            })
        },
    },
    Rule {
        id: "service-group",
        claim: "The service is in a load order group (LoadOrderGroup)",
        source: "Specifying Driver Load Order",
        check: |inf, _| {
            let services = inf.services.iter();
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
        claim: "The service's file is given by a directory's number",
        source: "InfVerif 2085; using-dirids",
        check: |inf, _| wrong(inf, "ServiceBinary", |text| in_directory(text).is_some()),
    },
    Rule {
        id: "service-file",
        claim: "The service's file is one that is copied there",
        source: "InfVerif 2084; InfVerif Error 2084",
        check: |inf, _| {
            wrong(inf, "ServiceBinary", |text| {
                in_directory(text).is_none_or(|(number, path)| is_copied(inf, number, path))
            })
        },
    },
    Rule {
        id: "event-log",
        claim: "What is logged under the driver's name can be read, by IoLogMsg.dll's texts",
        source: "INF AddService directive (Registering for Event Logging)",
        check: |inf, _| {
            let services = inf.services.iter();
            let mut faults: Vec<Fault> = services
                .filter(|service| {
                    let drives = number(&service.flags).is_some_and(|flags| flags & 2 != 0);
                    drives && !service.name.is_empty() && service.event_section.is_empty()
                })
                .map(|service| at(service.line, "no section for the event log is named"))
                .collect();
            if inf.services.is_empty() || !faults.is_empty() {
                return faults;
            }
            let value = |name: &str| {
                let mut values = inf.values_of(Key::Events);
                values.find(|value| value.name.eq_ignore_ascii_case(name))
            };
            match value("EventMessageFile") {
                None => faults.push(missing("the event log is told no EventMessageFile")),
                Some(value) => {
                    let data = value.data.first().map_or("", |field| &field.text);
                    if !data.to_ascii_lowercase().contains("iologmsg.dll") {
                        faults.push(at(value.line, "IoLogMsg.dll is not named"));
                    }
                }
            }
            match value("TypesSupported") {
                None => faults.push(missing("the event log is told no TypesSupported")),
                Some(value) => {
                    let data = value.data.first().and_then(|field| number(&field.text));
                    if data.is_some_and(|types| types != 7) {
                        faults.push(at(value.line, "a driver's event types are 7"));
                    }
                }
            }
            faults
        },
    },
    Rule {
        id: "event-log-file",
        claim: "A file of the package that has event texts is copied to where it is looked up",
        source: "Registering as a Source of Error Messages; Run From Driver Store",
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
        source: "InfVerif 1250; INF AddService directive",
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

/// TAGTOFRONT, NOCLOBBER_LOADORDERGROUP, NOCLOBBER_DEPENDENCIES, STARTSERVICE.
const NOT_FOR_PNP: u64 = 0x8c1;

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

/// The services' entries of that name whose value is not `right`.
fn wrong(inf: &Installation<'_>, name: &str, right: impl Fn(&str) -> bool) -> Vec<Fault> {
    let mut faults = Vec::new();
    for entry in inf
        .services
        .iter()
        .flat_map(|service| entries(service, name))
    {
        let value = inf.value(entry, 0);
        let fault = at(entry.line, format!("{name} is {value:?}"));
        if !right(&value) && !faults.contains(&fault) {
            faults.push(fault);
        }
    }
    faults
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

/// The directory's number and the path below it, of `%number%\path`.
fn in_directory(text: &str) -> Option<(u32, &str)> {
    let (number, path) = text.trim_matches('"').strip_prefix('%')?.split_once('%')?;
    Some((number.parse().ok()?, path.strip_prefix('\\')?))
}
