//! What is written to the registry.

use super::{
    Fault, Rule,
    Source::{Advice, Windows},
    at, missing, repeated,
};
use crate::inf::install::{Installation, Key, RegistryValue, number, tokens};

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "registry-root",
        claim: "Registry keys have a known root",
        source: Windows("InfVerif 1224; INF AddReg directive"),
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
        claim: "Only registry keys of the driver and its devices are written (HKR)",
        source: Advice(
            "InfVerif 1304, 1320, 1321; Using a Universal INF File, Driver package isolation",
        ),
        check: |inf, _| {
            faults(inf, |value| {
                let global = ["HKLM", "HKCR", "HKCU", "HKU"];
                let root = value.root.to_ascii_uppercase();
                global
                    .contains(&&*root)
                    .then(|| format!("{root}\\{} is machine-wide; use HKR", value.subkey))
            })
        },
    },
    Rule {
        id: "registry-parameters",
        claim: "Of the service's registry key, only Parameters is written",
        source: Advice("InfVerif 1323; Driver package isolation"),
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
        claim: "Registry values have known types and flags",
        source: Windows("InfVerif 1083, 1263, 1264; INF AddReg directive"),
        check: |inf, _| {
            faults(inf, |value| {
                let known = |flags: u64| flags & 0xffff & !FLAGS == 0 && Type::of(flags).is_some();
                (!value.flags.is_empty() && !number(&value.flags).is_some_and(known))
                    .then(|| format!("{:?} is not a known set of flags", value.flags))
            })
        },
    },
    Rule {
        id: "registry-fields",
        claim: "Each AddReg line has the fields root, subkey, name, flags, data",
        source: Windows("INF AddReg directive"),
        check: |inf, _| {
            faults(inf, |value| {
                let is_flags = |text: &str| {
                    text.starts_with("0x") && number(text).is_some_and(|flags| flags > 9)
                };
                if is_flags(&value.subkey) || is_flags(&value.name) {
                    return Some(
                        "the flags are in the place of the subkey or the name: leave that empty, \
                         with its comma"
                            .into(),
                    );
                }
                let kind = kind(value)?;
                let most = match kind {
                    Type::String | Type::Expanded | Type::Qword => 1,
                    // A number, or its four bytes.
                    Type::Dword if value.data.len() == 4 => 4,
                    Type::Dword => 1,
                    Type::Strings | Type::Binary | Type::None => usize::MAX,
                };
                (value.data.len() > most).then(|| {
                    format!(
                        "{} data fields follow the flags, but {most} are allowed",
                        value.data.len()
                    )
                })
            })
        },
    },
    Rule {
        id: "registry-key",
        claim: "Registry values that Windows reads are in the right key",
        source: Windows(
            "Registry Entries for StorPort Miniport Drivers, \
                 Enabling message-signaled interrupts in the registry, \
                 Enable DMA remapping for device drivers",
        ),
        check: |inf, _| {
            let is_storage = !inf.boot_disk_services().is_empty();
            faults(inf, |value| {
                let first = value.subkey.split('\\').next().unwrap_or_default();
                let is = |name: &str| first.eq_ignore_ascii_case(name);
                let known = SERVICE_VALUES
                    .iter()
                    .any(|name| value.name.eq_ignore_ascii_case(name));
                let (right, text) = if is("Interrupt Management") || is("DMA Management") {
                    (
                        Key::Hardware,
                        "of the device: the section's name ends with .HW",
                    )
                } else if is("Parameters") && (known || is_storage) {
                    (
                        Key::Service,
                        "of the service: AddService's section has its AddReg",
                    )
                } else {
                    return None;
                };
                (relative(value) && value.key != right)
                    .then(|| format!("Windows reads {first} in the key {text}"))
            })
        },
    },
    Rule {
        id: "registry-data",
        claim: "The data of registry values matches their types",
        source: Windows("InfVerif 1006, 1267, 1268; INF AddReg directive"),
        check: |inf, _| {
            faults(inf, |value| {
                let kind = kind(value)?;
                let data = inf_data(inf, value);
                let first = data.first().map_or("", String::as_str);
                let fits = |limit: u64| number(first).is_some_and(|number| number <= limit);
                match kind {
                    Type::Dword if !fits(u64::from(u32::MAX)) => {
                        Some(format!("{first:?} is not a 32-bit number"))
                    }
                    Type::Qword if !fits(u64::MAX) => {
                        Some(format!("{first:?} is not a 64-bit number"))
                    }
                    Type::Binary if data.iter().any(|byte| !is_byte(byte)) => {
                        Some("the data is not a list of hexadecimal bytes".into())
                    }
                    _ => None,
                }
            })
        },
    },
    Rule {
        id: "registry-path",
        claim: "Paths in the registry do not depend on the folder of Windows",
        source: Advice("InfVerif 1257, 1258; Run From Driver Store"),
        check: |inf, _| {
            faults(inf, |value| {
                let directory = |name: &&str| name.parse::<i64>().is_ok_and(|n| n != 13);
                let mut names = value.data.iter().flat_map(|field| tokens(&field.text));
                let number = names.find(directory)?;
                Some(format!(
                    "%{number}% is replaced at installation: write %%SystemRoot%%"
                ))
            })
        },
    },
    Rule {
        id: "registry-type",
        claim: "Registry values that Windows reads have the right type",
        source: Windows(
            "InfVerif 1225, 1431; Registry Entries for StorPort Miniport Drivers, \
                 Enabling message-signaled interrupts in the registry, \
                 Enable DMA remapping for device drivers",
        ),
        check: |inf, _| {
            faults(inf, |value| {
                let (_, right, text) = TYPES
                    .iter()
                    .find(|(name, ..)| value.name.eq_ignore_ascii_case(name))?;
                let kind = kind(value)?;
                (kind != *right).then(|| format!("Windows reads {} as a {text}", value.name))
            })
        },
    },
    Rule {
        id: "registry-append",
        claim: "Nothing is appended to existing registry values",
        source: Advice("InfVerif 1305"),
        check: |inf, _| {
            faults(inf, |value| {
                (flags(value) & 8 != 0).then(|| "flag 8 appends".into())
            })
        },
    },
    Rule {
        id: "registry-delete",
        claim: "Nothing is deleted from the registry",
        source: Advice("InfVerif 1308; Using a Universal INF File"),
        check: |inf, _| {
            faults(inf, |value| {
                (flags(value) & 4 != 0).then(|| "flag 4 deletes".into())
            })
        },
    },
    Rule {
        id: "registry-once",
        claim: "No registry value is set twice",
        source: Advice("InfVerif 1331, 1332"),
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
                        format!("{} is already set on line {}", path(second), first.line),
                    )
                })
                .collect()
        },
    },
    Rule {
        id: "registry-filters",
        claim: "No filter driver is added with a registry value",
        source: Advice("InfVerif 1329"),
        check: |inf, _| {
            faults(inf, |value| {
                let names = ["UpperFilters", "LowerFilters"];
                let mut names = names.iter();
                names
                    .any(|name| value.name.eq_ignore_ascii_case(name))
                    .then(|| format!("{}: use a Filters section instead", value.name))
            })
        },
    },
    Rule {
        id: "messages",
        claim: "A storage controller on PCI can use message-signaled interrupts, with a limited number",
        source: Advice("Enabling message-signaled interrupts in the registry"),
        check: |inf, _| {
            if inf.boot_disk_services().is_empty() {
                return Vec::new();
            }
            let absent = |name: &&str| stated(inf, Key::Hardware, MESSAGES, name).is_empty();
            let names = ["MSISupported", "MessageNumberLimit"].into_iter();
            let mut faults: Vec<Fault> = names
                .filter(absent)
                .map(|name| missing(format!("{MESSAGES} has no {name}")))
                .collect();
            for (line, number) in stated(inf, Key::Hardware, MESSAGES, "MSISupported") {
                if number == Some(0) {
                    faults.push(at(line, "MSISupported is 0"));
                }
            }
            faults
        },
    },
    Rule {
        id: "messages-limit",
        claim: "A device gets 1 to 2048 interrupt messages, or none",
        source: Windows("Enabling message-signaled interrupts in the registry"),
        check: |inf, _| {
            let outside = |name, range: std::ops::RangeInclusive<u64>| {
                let values = stated(inf, Key::Hardware, MESSAGES, name).into_iter();
                values
                    .filter_map(|(line, number)| Some((line, number?)))
                    .filter(|(_, number)| !range.contains(number))
                    .map(|(line, number)| at(line, format!("{name} is {number}")))
                    .collect::<Vec<_>>()
            };
            let mut faults = outside("MSISupported", 0..=1);
            faults.extend(outside("MessageNumberLimit", 1..=2048));
            faults
        },
    },
    Rule {
        id: "dma-remapping",
        claim: "A storage controller's driver declares whether it supports DMA remapping, for old and new \
                Windows alike",
        source: Advice(
            "Enable DMA remapping for device drivers, DMA remapping support in Storport \
                 miniport drivers",
        ),
        check: |inf, _| {
            if inf.boot_disk_services().is_empty() {
                return Vec::new();
            }
            let service = stated(inf, Key::Service, "Parameters", "DmaRemappingCompatible");
            let device = stated(inf, Key::Hardware, "DMA Management", "RemappingSupported");
            let Some((_, old)) = service.first() else {
                return vec![missing(
                    "Parameters has no DmaRemappingCompatible: Storport's drivers count as \
                     compatible then",
                )];
            };
            let differs = |new: u64| old.filter(|old| (*old == 0) != (new == 0));
            device
                .into_iter()
                .filter_map(|(line, new)| Some((line, new?, differs(new?)?)))
                .map(|(line, new, old)| {
                    let text = format!("RemappingSupported is {new}, DmaRemappingCompatible {old}");
                    at(line, text)
                })
                .collect()
        },
    },
    Rule {
        id: "dma-remapping-known",
        claim: "The DMA remapping values are known: DmaRemappingCompatible 0 to 3, \
                RemappingSupported 0 or 1",
        source: Windows(
            "Enable DMA remapping for device drivers, DMA remapping support in Storport \
                 miniport drivers",
        ),
        check: |inf, _| {
            [
                (Key::Service, "Parameters", "DmaRemappingCompatible", 3),
                (Key::Hardware, "DMA Management", "RemappingSupported", 1),
            ]
            .into_iter()
            .flat_map(|(key, subkey, name, most)| {
                let values = stated(inf, key, subkey, name).into_iter();
                values
                    .filter_map(|(line, number)| Some((line, number?)))
                    .filter(move |(_, number)| *number > most)
                    .map(move |(line, number)| at(line, format!("{name} is {number}")))
            })
            .collect()
        },
    },
    Rule {
        id: "pnp-interface",
        claim: "Storage controllers on PCI use Plug and Play (PnpInterface 5)",
        source: Advice("Windows-driver-samples, storage/miniports/lsi_u3"),
        check: |inf, _| {
            if inf.boot_disk_services().is_empty() {
                return Vec::new();
            }
            let values = stated(inf, Key::Service, r"Parameters\PnpInterface", "5");
            if values.is_empty() {
                return vec![missing(r"Parameters\PnpInterface has no value 5")];
            }
            values
                .into_iter()
                .filter(|(_, number)| number.is_some_and(|number| number != 1))
                .map(|(line, _)| at(line, "it is not 1"))
                .collect()
        },
    },
    Rule {
        id: "bus-type",
        claim: "The bus type of a storage controller is given (BusType); the default is fibre channel",
        source: Advice("Registry Entries for StorPort Miniport Drivers"),
        check: |inf, _| {
            let values = stated(inf, Key::Service, "Parameters", "BusType");
            let told = values.iter().any(|(_, number)| *number != Some(0));
            if told || inf.boot_disk_services().is_empty() {
                return Vec::new();
            }
            vec![missing("Parameters has no BusType, or only 0 (unknown)")]
        },
    },
    Rule {
        id: "bus-type-known",
        claim: "BusType is a value of STORAGE_BUS_TYPE (0x00 to 0x14)",
        source: Windows("STORAGE_BUS_TYPE enumeration (ntddstor.h)"),
        check: |inf, _| {
            stated(inf, Key::Service, "Parameters", "BusType")
                .into_iter()
                .filter_map(|(line, number)| Some((line, number?)))
                .filter(|(_, number)| *number > BUS_TYPE_NVMEOF)
                .map(|(line, number)| at(line, format!("BusType is {number:#x}")))
                .collect()
        },
    },
];

const MESSAGES: &str = r"Interrupt Management\MessageSignaledInterruptProperties";

/// The last bus that STORAGE_BUS_TYPE names.
const BUS_TYPE_NVMEOF: u64 = 0x14;

/// Values below `Parameters` that Storport and Windows read in the service's key.
const SERVICE_VALUES: [&str; 5] = [
    "BusType",
    "DmaRemappingCompatible",
    "IoLatencyCap",
    "IoTimeoutValue",
    "NumberOfRequests",
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

/// The lines of a value, and its number where it is one. Two devices may each have
/// theirs.
fn stated(inf: &Installation<'_>, key: Key, subkey: &str, name: &str) -> Vec<(usize, Option<u64>)> {
    inf.values_of(key)
        .filter(|value| {
            relative(value)
                && value.subkey.eq_ignore_ascii_case(subkey)
                && value.name.eq_ignore_ascii_case(name)
        })
        .map(|value| {
            let data = inf_data(inf, value);
            (value.line, data.first().and_then(|text| number(text)))
        })
        .collect()
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
