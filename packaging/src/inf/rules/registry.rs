//! What is written to the registry.

use super::{Fault, Rule, at, missing, repeated};
use crate::inf::install::{Installation, Key, RegistryValue, number, tokens};

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "registry-root",
        claim: "Registry keys start at a known root",
        source: "InfVerif 1224; INF AddReg directive",
        check: |inf, _| {
            faults(inf, |value| {
                let known = ["HKR", "HKLM", "HKCR", "HKCU", "HKU"];
                let root = value.root.to_ascii_uppercase();
                (!known.contains(&&*root)).then(|| format!("{:?} is none", value.root))
            })
        },
    },
    Rule {
        id: "registry-relative",
        claim: "Only keys of the driver and its devices are written (HKR)",
        source: "InfVerif 1304, 1320, 1321; Using a Universal INF File, Driver package isolation",
        check: |inf, _| {
            faults(inf, |value| {
                let global = ["HKLM", "HKCR", "HKCU", "HKU"];
                let root = value.root.to_ascii_uppercase();
                global
                    .contains(&&*root)
                    .then(|| format!("{root}\\{} is everyone's", value.subkey))
            })
        },
    },
    Rule {
        id: "registry-parameters",
        claim: "Of the service's key, only Parameters is written",
        source: "InfVerif 1323; Driver package isolation",
        check: |inf, _| {
            let values = inf.values_of(Key::Service);
            values
                .filter(|value| {
                    let key = value.subkey.to_ascii_lowercase();
                    relative(value) && key != "parameters" && !key.starts_with("parameters\\")
                })
                .map(|value| at(value.line, format!("{} lies elsewhere", path(value))))
                .collect()
        },
    },
    Rule {
        id: "registry-flags",
        claim: "Registry values have a type, and flags, that are known",
        source: "InfVerif 1083, 1263, 1264; INF AddReg directive",
        check: |inf, _| {
            faults(inf, |value| {
                let known = |flags: u64| flags & 0xffff & !FLAGS == 0 && Type::of(flags).is_some();
                (!value.flags.is_empty() && !number(&value.flags).is_some_and(known))
                    .then(|| format!("{:?} is no known set of them", value.flags))
            })
        },
    },
    Rule {
        id: "registry-data",
        claim: "Registry values are what their type says",
        source: "InfVerif 1006, 1267, 1268; INF AddReg directive",
        check: |inf, _| {
            faults(inf, |value| {
                let kind = kind(value)?;
                let data = inf_data(inf, value);
                let first = data.first().map_or("", String::as_str);
                let fits = |limit: u64| number(first).is_some_and(|number| number <= limit);
                match kind {
                    Type::Dword if !fits(u64::from(u32::MAX)) => {
                        Some(format!("{first:?} is no number of 32 bits"))
                    }
                    Type::Qword if !fits(u64::MAX) => {
                        Some(format!("{first:?} is no number of 64 bits"))
                    }
                    Type::Binary if data.iter().any(|byte| !is_byte(byte)) => {
                        Some("the data is not bytes, in hexadecimal digits".into())
                    }
                    _ => None,
                }
            })
        },
    },
    Rule {
        id: "registry-path",
        claim: "Paths in the registry hold wherever Windows lies",
        source: "InfVerif 1257, 1258; Run From Driver Store",
        check: |inf, _| {
            faults(inf, |value| {
                let directory = |name: &&str| name.parse::<i64>().is_ok_and(|n| n != 13);
                let mut names = value.data.iter().flat_map(|field| tokens(&field.text));
                let number = names.find(directory)?;
                Some(format!("%{number}% is set for good: write %%SystemRoot%%"))
            })
        },
    },
    Rule {
        id: "registry-type",
        claim: "Values that Windows reads have the type that it reads",
        source: "InfVerif 1225, 1431; Registry Entries for StorPort Miniport Drivers, \
                 Enabling message-signaled interrupts in the registry, \
                 Enable DMA remapping for device drivers, INF AddService directive",
        check: |inf, _| {
            faults(inf, |value| {
                let (_, right, text) = TYPES
                    .iter()
                    .find(|(name, ..)| value.name.eq_ignore_ascii_case(name))?;
                let kind = kind(value)?;
                (kind != *right).then(|| format!("{} is read as a {text}", value.name))
            })
        },
    },
    Rule {
        id: "registry-append",
        claim: "Nothing is appended to what is in the registry",
        source: "InfVerif 1305",
        check: |inf, _| {
            faults(inf, |value| {
                (flags(value) & 8 != 0).then(|| "flag 8 appends".into())
            })
        },
    },
    Rule {
        id: "registry-delete",
        claim: "Nothing is deleted from the registry",
        source: "InfVerif 1308; Using a Universal INF File",
        check: |inf, _| {
            faults(inf, |value| {
                (flags(value) & 4 != 0).then(|| "flag 4 deletes".into())
            })
        },
    },
    Rule {
        id: "registry-once",
        claim: "No registry value is set to two things",
        source: "InfVerif 1331, 1332",
        check: |inf, _| {
            let values: Vec<&RegistryValue<'_>> = inf.values.iter().collect();
            // Two devices may each have a value of their own.
            let twice = repeated(&values, |value| {
                (value.owner, path(value).to_ascii_lowercase())
            });
            twice
                .into_iter()
                .filter(|(second, first)| {
                    flags(second) & KEY_ONLY == 0
                        && (second.flags != first.flags || second.data != first.data)
                })
                .map(|(second, first)| {
                    at(
                        second.line,
                        format!("{} is set on line {} as well", path(second), first.line),
                    )
                })
                .collect()
        },
    },
    Rule {
        id: "registry-filters",
        claim: "No filter driver is added by the registry",
        source: "InfVerif 1329",
        check: |inf, _| {
            faults(inf, |value| {
                let names = ["UpperFilters", "LowerFilters"];
                let mut names = names.iter();
                names
                    .any(|name| value.name.eq_ignore_ascii_case(name))
                    .then(|| format!("{}: filters have a section of their own", value.name))
            })
        },
    },
    Rule {
        id: "messages",
        claim: "The device may interrupt by messages, of which it gets 1 to 2048",
        source: "Enabling message-signaled interrupts in the registry",
        check: |inf, _| {
            if !inf.is_on_pci() {
                return Vec::new();
            }
            const KEY: &str = r"Interrupt Management\MessageSignaledInterruptProperties";
            let value = |name| stated(inf, Key::Hardware, KEY, name);
            let mut faults = Vec::new();
            match value("MSISupported") {
                None => faults.push(missing(format!("{KEY} has no MSISupported"))),
                Some((line, Some(number))) if number != 1 => {
                    faults.push(at(line, "MSISupported is not 1"));
                }
                Some(_) => {}
            }
            match value("MessageNumberLimit") {
                None => faults.push(missing(format!("{KEY} has no MessageNumberLimit"))),
                Some((line, Some(number))) if !(1..=2048).contains(&number) => {
                    faults.push(at(line, format!("the limit is {number}")));
                }
                Some(_) => {}
            }
            faults
        },
    },
    Rule {
        id: "dma-remapping",
        claim: "It is said whether DMA may be remapped, to old and new Windows alike",
        source: "Enable DMA remapping for device drivers, DMA remapping support in Storport \
                 miniport drivers",
        check: |inf, _| {
            let service = stated(inf, Key::Service, "Parameters", "DmaRemappingCompatible");
            let device = stated(inf, Key::Hardware, "DMA Management", "RemappingSupported");
            match (service, device) {
                (None, _) if inf.is_on_pci() => vec![missing(
                    "Parameters has no DmaRemappingCompatible: Storport's drivers count as \
                     compatible then",
                )],
                (Some((line, Some(number))), _) if number > 3 => {
                    vec![at(
                        line,
                        format!("DmaRemappingCompatible is {number}, not 0 to 3"),
                    )]
                }
                (_, Some((line, Some(number)))) if number > 1 => {
                    vec![at(
                        line,
                        format!("RemappingSupported is {number}, not 0 or 1"),
                    )]
                }
                (Some((_, Some(old))), Some((line, Some(new)))) if (old == 0) != (new == 0) => {
                    vec![at(
                        line,
                        format!("RemappingSupported is {new}, DmaRemappingCompatible {old}"),
                    )]
                }
                _ => Vec::new(),
            }
        },
    },
    Rule {
        id: "pnp-interface",
        claim: "Adapters are found by Plug and Play (PnpInterface, for PCI: 5)",
        source: "Windows-driver-samples, storage/miniports/lsi_u3",
        check: |inf, _| match stated(inf, Key::Service, r"Parameters\PnpInterface", "5") {
            None if !inf.is_on_pci() => Vec::new(),
            None => vec![missing(r"Parameters\PnpInterface has no value 5")],
            Some((line, Some(number))) if number != 1 => vec![at(line, format!("it is {number}"))],
            Some(_) => Vec::new(),
        },
    },
    Rule {
        id: "bus-type",
        claim: "The disks' bus is told (BusType); silence is fibre channel",
        source: "Registry Entries for StorPort Miniport Drivers",
        check: |inf, _| match stated(inf, Key::Service, "Parameters", "BusType") {
            None => vec![missing("Parameters has no BusType")],
            Some((line, Some(number))) if number > 0x7f => {
                vec![at(line, format!("{number} is more than 0x7f"))]
            }
            Some(_) => Vec::new(),
        },
    },
];

/// The types of registry values, as FLG_ADDREG_TYPE_* give them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    String,
    Strings,
    Expanded,
    Dword,
    Qword,
    /// Bytes, of this type or of one with another number.
    Binary,
    None,
}

/// FLG_ADDREG_* but the type: NOCLOBBER, DELVAL, APPEND, KEYONLY,
/// OVERWRITEONLY, 64BITKEY, KEYONLY_COMMON, 32BITKEY, and BINVALUETYPE.
const FLAGS: u64 = 0x703f;

/// FLG_ADDREG_KEYONLY and its common form.
const KEY_ONLY: u64 = 0x2010;

const TYPES: [(&str, Type, &str); 11] = [
    ("BusType", Type::Dword, "REG_DWORD"),
    ("DmaRemappingCompatible", Type::Dword, "REG_DWORD"),
    ("EventMessageFile", Type::Expanded, "REG_EXPAND_SZ"),
    ("IoLatencyCap", Type::Dword, "REG_DWORD"),
    ("IoTimeoutValue", Type::Dword, "REG_DWORD"),
    ("MessageNumberLimit", Type::Dword, "REG_DWORD"),
    ("MSISupported", Type::Dword, "REG_DWORD"),
    ("NumberOfRequests", Type::Dword, "REG_DWORD"),
    ("RemappingFlags", Type::Dword, "REG_DWORD"),
    ("RemappingSupported", Type::Dword, "REG_DWORD"),
    ("TypesSupported", Type::Dword, "REG_DWORD"),
];

impl Type {
    fn of(flags: u64) -> Option<Self> {
        match (flags >> 16, flags & 1) {
            (0, 0) => Some(Self::String),
            (1, 0) => Some(Self::Strings),
            (2, 0) => Some(Self::Expanded),
            (1, 1) => Some(Self::Dword),
            (2, 1) => Some(Self::None),
            (0xb, 1) => Some(Self::Qword),
            (0 | 3..=0xffff, 1) => Some(Self::Binary),
            _ => None,
        }
    }
}

/// The flags, 0 if they are no number.
fn flags(value: &RegistryValue<'_>) -> u64 {
    number(&value.flags).unwrap_or(0)
}

/// The type of a line that writes a value and whose flags can be read.
fn kind(value: &RegistryValue<'_>) -> Option<Type> {
    let flags = match &*value.flags {
        "" => 0,
        text => number(text)?,
    };
    (flags & (KEY_ONLY | 4) == 0).then(|| Type::of(flags))?
}

fn relative(value: &RegistryValue<'_>) -> bool {
    value.root.eq_ignore_ascii_case("HKR")
}

/// Key and name, to be read and compared.
fn path(value: &RegistryValue<'_>) -> String {
    [&*value.root, &value.subkey, &value.name]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("\\")
}

/// The data, with strings put in.
fn inf_data(inf: &Installation<'_>, value: &RegistryValue<'_>) -> Vec<String> {
    let fields = value.data.iter();
    fields.map(|field| inf.expand(&field.text)).collect()
}

fn is_byte(text: &str) -> bool {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    matches!(digits.len(), 1 | 2) && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The line of a value, and its number if it is one.
fn stated(
    inf: &Installation<'_>,
    key: Key,
    subkey: &str,
    name: &str,
) -> Option<(usize, Option<u64>)> {
    let mut values = inf.values_of(key);
    let value = values.find(|value| {
        relative(value)
            && value.subkey.eq_ignore_ascii_case(subkey)
            && value.name.eq_ignore_ascii_case(name)
    })?;
    let data = inf_data(inf, value);
    Some((value.line, data.first().and_then(|text| number(text))))
}

/// Asks each line of the `AddReg` sections.
fn faults(
    inf: &Installation<'_>,
    fault: impl Fn(&RegistryValue<'_>) -> Option<String>,
) -> Vec<Fault> {
    let mut faults = Vec::new();
    for value in &inf.values {
        if let Some(text) = fault(value) {
            let fault = at(value.line, text);
            if !faults.contains(&fault) {
                faults.push(fault);
            }
        }
    }
    faults
}
