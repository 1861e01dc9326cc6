//! Rules for the entries that the INF file adds to the registry.

use std::ops::RangeInclusive;

use super::{
    Fault, In, Rule,
    Source::{Advice, Windows},
    at, each, missing, repeated,
};
use crate::inf::install::{Installation, Place, RegistryValue, number, tokens};

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "registry-root",
        claim: "Registry keys have a known root",
        source: Windows("InfVerif 1224; INF AddReg directive"),
        faults: In::RegistryValues(|_, value| {
            let known = ["HKR", "HKLM", "HKCR", "HKCU", "HKU"];
            let root = value.root.to_ascii_uppercase();
            (!known.contains(&&*root)).then(|| format!("{:?} is none", value.root))
        }),
    },
    Rule {
        id: "registry-relative",
        claim: "Only registry keys of the driver and its devices are written (HKR)",
        source: Advice(
            "InfVerif 1304, 1320, 1321; Using a Universal INF File, Driver package isolation",
        ),
        faults: In::RegistryValues(|_, value| {
            let global = ["HKLM", "HKCR", "HKCU", "HKU"];
            let root = value.root.to_ascii_uppercase();
            global
                .contains(&&*root)
                .then(|| format!("{root}\\{} is machine-wide; use HKR", value.subkey))
        }),
    },
    Rule {
        id: "registry-parameters",
        claim: "Of the service's registry key, only Parameters is written",
        source: Advice("InfVerif 1323; Driver package isolation"),
        faults: In::File(|inf, _| {
            each(inf.values_of(Place::Service), |value| {
                let is_parameter = value.first_subkey().eq_ignore_ascii_case("Parameters");
                (value.is_relative() && !is_parameter)
                    .then(|| format!("{} lies elsewhere", value.path()))
            })
        }),
    },
    Rule {
        id: "registry-flags",
        claim: "Registry values have known types and flags",
        source: Windows("InfVerif 1083, 1263, 1264; INF AddReg directive"),
        faults: In::RegistryValues(|_, value| {
            let known = |flags: u64| flags & 0xffff & !FLAGS == 0 && Type::of(flags).is_some();
            (!value.flags.is_empty() && !number(&value.flags).is_some_and(known))
                .then(|| format!("{:?} is not a known set of flags", value.flags))
        }),
    },
    Rule {
        id: "registry-fields",
        claim: "Each AddReg line has the fields root, subkey, name, flags, data",
        source: Windows("INF AddReg directive"),
        faults: In::RegistryValues(|_, value| {
            let is_flags =
                |text: &str| text.starts_with("0x") && number(text).is_some_and(|flags| flags > 9);
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
        }),
    },
    Rule {
        id: "registry-key",
        claim: "Registry values that Windows reads are in the right key",
        source: Windows(
            "Registry Entries for StorPort Miniport Drivers, \
                 Enabling message-signaled interrupts in the registry, \
                 Enable DMA remapping for device drivers",
        ),
        faults: In::File(|inf, _| {
            let is_storage = !inf.boot_disk_services().is_empty();
            each(&inf.values, |value| {
                let first = value.first_subkey();
                let is = |name: &str| first.eq_ignore_ascii_case(name);
                let known = SERVICE_VALUES
                    .iter()
                    .any(|name| value.name.eq_ignore_ascii_case(name));
                let (right, text) = if is("Interrupt Management") || is("DMA Management") {
                    (
                        Place::Hardware,
                        "of the device: the section's name ends with .HW",
                    )
                } else if is("Parameters") && (known || is_storage) {
                    (
                        Place::Service,
                        "of the service: AddService's section has its AddReg",
                    )
                } else {
                    return None;
                };
                (value.is_relative() && value.place != right)
                    .then(|| format!("Windows reads {first} in the key {text}"))
            })
        }),
    },
    Rule {
        id: "registry-data",
        claim: "The data of registry values matches their types",
        source: Windows("InfVerif 1006, 1267, 1268; INF AddReg directive"),
        faults: In::RegistryValues(|inf, value| {
            let kind = kind(value)?;
            let data = inf_data(inf, value);
            let first = data.first().map_or("", String::as_str);
            let fits = |limit: u64| number(first).is_some_and(|number| number <= limit);
            let (is_wrong, text) = match kind {
                Type::Dword => (!fits(u64::from(u32::MAX)), "is not a 32-bit number"),
                Type::Qword => (!fits(u64::MAX), "is not a 64-bit number"),
                Type::Binary if data.iter().any(|byte| !is_byte(byte)) => {
                    return Some("the data is not a list of hexadecimal bytes".into());
                }
                _ => return None,
            };
            is_wrong.then(|| format!("{first:?} {text}"))
        }),
    },
    Rule {
        id: "registry-path",
        claim: "Paths in the registry do not depend on the folder of Windows",
        source: Advice("InfVerif 1257, 1258; Run From Driver Store"),
        faults: In::RegistryValues(|_, value| {
            let directory = |name: &&str| name.parse::<i64>().is_ok_and(|n| n != 13);
            let mut names = value.data.iter().flat_map(|field| tokens(field));
            let number = names.find(directory)?;
            Some(format!(
                "%{number}% is replaced at installation: write %%SystemRoot%%"
            ))
        }),
    },
    Rule {
        id: "registry-type",
        claim: "Registry values that Windows reads have the right type",
        source: Windows(
            "InfVerif 1225, 1431; Registry Entries for StorPort Miniport Drivers, \
                 Enabling message-signaled interrupts in the registry, \
                 Enable DMA remapping for device drivers",
        ),
        faults: In::RegistryValues(|_, value| {
            let is = |name: &&str| value.name.eq_ignore_ascii_case(name);
            let (right, text) = match () {
                () if is(&"EventMessageFile") => (Type::Expanded, "REG_EXPAND_SZ"),
                () if DWORDS.iter().chain(&SERVICE_VALUES).any(is) => (Type::Dword, "REG_DWORD"),
                () => return None,
            };
            (kind(value)? != right).then(|| format!("Windows reads {} as a {text}", value.name))
        }),
    },
    Rule {
        id: "registry-append",
        claim: "Nothing is appended to existing registry values",
        source: Advice("InfVerif 1305"),
        faults: In::RegistryValues(|_, value| {
            (flags(value) & 8 != 0).then(|| "flag 8 appends".into())
        }),
    },
    Rule {
        id: "registry-delete",
        claim: "Nothing is deleted from the registry",
        source: Advice("InfVerif 1308; Using a Universal INF File"),
        faults: In::RegistryValues(|_, value| {
            (flags(value) & 4 != 0).then(|| "flag 4 deletes".into())
        }),
    },
    Rule {
        id: "registry-once",
        claim: "No registry value is set twice",
        source: Advice("InfVerif 1331, 1332"),
        faults: In::File(|inf, _| {
            // Two devices may each have a value of their own.
            let key = |value: &RegistryValue<'_>| {
                (value.owner.to_owned(), value.path().to_ascii_lowercase())
            };
            repeated(&inf.values, key, |second, first| {
                let differs = second.flags != first.flags || second.data != first.data;
                (flags(second) & KEY_ONLY == 0 && differs)
                    .then(|| format!("{} is already set on line {}", second.path(), first.line))
            })
        }),
    },
    Rule {
        id: "registry-filters",
        claim: "No filter driver is added with a registry value",
        source: Advice("InfVerif 1329"),
        faults: In::RegistryValues(|_, value| {
            let is = |name: &str| value.name.eq_ignore_ascii_case(name);
            (is("UpperFilters") || is("LowerFilters"))
                .then(|| format!("{}: use a Filters section instead", value.name))
        }),
    },
    Rule {
        id: "messages",
        claim: "A storage controller on PCI can use message-signaled interrupts, with a limited number",
        source: Advice("Enabling message-signaled interrupts in the registry"),
        faults: In::File(|inf, _| {
            if inf.boot_disk_services().is_empty() {
                return Vec::new();
            }
            let mut faults = outside(inf, MSI_SUPPORTED, 1..=u64::MAX);
            for value in [MSI_SUPPORTED, MSI_LIMIT] {
                if stated(inf, value).is_empty() {
                    faults.push(missing(format!("{MESSAGES} has no {}", value.2)));
                }
            }
            faults
        }),
    },
    Rule {
        id: "messages-limit",
        claim: "A device gets 1 to 2048 interrupt messages, or none",
        source: Windows("Enabling message-signaled interrupts in the registry"),
        faults: In::File(|inf, _| {
            let supported = outside(inf, MSI_SUPPORTED, 0..=1);
            [supported, outside(inf, MSI_LIMIT, 1..=2048)].concat()
        }),
    },
    Rule {
        id: "dma-remapping",
        claim: "A storage controller's driver declares whether it supports DMA remapping, for old and new \
                Windows alike",
        source: Advice(
            "Enable DMA remapping for device drivers, DMA remapping support in Storport \
                 miniport drivers",
        ),
        faults: In::File(|inf, _| {
            if inf.boot_disk_services().is_empty() {
                return Vec::new();
            }
            let service = stated(inf, DMA_OF_SERVICE);
            let device = stated(inf, DMA_OF_DEVICE);
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
        }),
    },
    Rule {
        id: "dma-remapping-known",
        claim: "The DMA remapping values are known: DmaRemappingCompatible 0 to 3, \
                RemappingSupported 0 or 1",
        source: Windows(
            "Enable DMA remapping for device drivers, DMA remapping support in Storport \
                 miniport drivers",
        ),
        faults: In::File(|inf, _| {
            let of_service = outside(inf, DMA_OF_SERVICE, 0..=3);
            [of_service, outside(inf, DMA_OF_DEVICE, 0..=1)].concat()
        }),
    },
    Rule {
        id: "pnp-interface",
        claim: "Storage controllers on PCI use Plug and Play (PnpInterface 5)",
        source: Advice("Windows-driver-samples, storage/miniports/lsi_u3"),
        faults: In::File(|inf, _| {
            if inf.boot_disk_services().is_empty() {
                return Vec::new();
            }
            if stated(inf, PNP_ON_PCI).is_empty() {
                return vec![missing(r"Parameters\PnpInterface has no value 5")];
            }
            outside(inf, PNP_ON_PCI, 1..=1)
        }),
    },
    Rule {
        id: "bus-type",
        claim: "The bus type of a storage controller is given (BusType); the default is fibre channel",
        source: Advice("Registry Entries for StorPort Miniport Drivers"),
        faults: In::File(|inf, _| {
            let values = stated(inf, BUS_TYPE);
            let told = values.iter().any(|(_, number)| *number != Some(0));
            if told || inf.boot_disk_services().is_empty() {
                return Vec::new();
            }
            vec![missing("Parameters has no BusType, or only 0 (unknown)")]
        }),
    },
    Rule {
        id: "bus-type-known",
        claim: "BusType is a value of STORAGE_BUS_TYPE (0 to 20)",
        source: Windows("STORAGE_BUS_TYPE enumeration (ntddstor.h)"),
        faults: In::File(|inf, _| outside(inf, BUS_TYPE, 0..=BUS_TYPE_NVMEOF)),
    },
];

/// A value that Windows reads: the place of its key, the subkey, and the name.
type Known = (Place, &'static str, &'static str);

const MESSAGES: &str = r"Interrupt Management\MessageSignaledInterruptProperties";
const MSI_SUPPORTED: Known = (Place::Hardware, MESSAGES, "MSISupported");
const MSI_LIMIT: Known = (Place::Hardware, MESSAGES, "MessageNumberLimit");
const DMA_OF_SERVICE: Known = (Place::Service, "Parameters", "DmaRemappingCompatible");
const DMA_OF_DEVICE: Known = (Place::Hardware, "DMA Management", "RemappingSupported");
const BUS_TYPE: Known = (Place::Service, "Parameters", "BusType");
/// PNPInterface of InterfaceType 5, PCIBus.
const PNP_ON_PCI: Known = (Place::Service, r"Parameters\PnpInterface", "5");

/// The last bus that STORAGE_BUS_TYPE names.
const BUS_TYPE_NVMEOF: u64 = 0x14;

/// Values of type REG_DWORD below `Parameters` that Storport and Windows read in the service's
/// key.
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

/// The values of type REG_DWORD that Windows reads, besides [`SERVICE_VALUES`].
const DWORDS: [&str; 6] = [
    "DevicePolicy",
    "MessageNumberLimit",
    "MSISupported",
    "RemappingFlags",
    "RemappingSupported",
    "TypesSupported",
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

/// The flags, or 0 if they are not a number.
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

/// The data, with strings put in.
fn inf_data(inf: &Installation<'_>, value: &RegistryValue<'_>) -> Vec<String> {
    let fields = value.data.iter();
    fields.map(|field| inf.expand(field)).collect()
}

fn is_byte(text: &str) -> bool {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    matches!(digits.len(), 1 | 2) && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The lines of a value, and its number where it is one. Two devices may each have
/// theirs.
fn stated(inf: &Installation<'_>, (place, subkey, name): Known) -> Vec<(usize, Option<u64>)> {
    inf.values_of(place)
        .filter(|value| {
            value.is_relative()
                && value.subkey.eq_ignore_ascii_case(subkey)
                && value.name.eq_ignore_ascii_case(name)
        })
        .map(|value| {
            let data = inf_data(inf, value);
            (value.line, data.first().and_then(|text| number(text)))
        })
        .collect()
}

/// The lines of a value whose number is not in the range.
fn outside(inf: &Installation<'_>, value: Known, range: RangeInclusive<u64>) -> Vec<Fault> {
    let (_, subkey, name) = value;
    let values = stated(inf, value).into_iter();
    values
        .filter_map(|(line, number)| Some((line, number.filter(|n| !range.contains(n))?)))
        .map(|(line, number)| at(line, format!(r"{subkey}\{name} is {number}")))
        .collect()
}
