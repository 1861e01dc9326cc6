//! StorPortLogSystemEvent: reads and checks STOR_LOG_EVENT_DETAILS, and logs the event.

use std::fmt;

use super::{
    super::{
        abi::{
            self, Status, Structure,
            calls::Call,
            stor_log_event_details as field,
            wdk::{
                STOR_STATUS_INVALID_BUFFER_SIZE, STOR_STATUS_INVALID_PARAMETER,
                STOR_STATUS_UNSUPPORTED_VERSION,
            },
        },
        port::Port,
        report::SystemEvent,
        violations::Rule,
    },
    system::wide_string,
};

/// STOR_CURRENT_LOG_INTERFACE_REVISION. The lowest byte is not compared.
const REVISION: u32 = 0x100;

/// The most bytes of dump data and strings together. The page does not say whether terminators
/// count. Here they do.
const MOST: usize = 150;

/// The device's name, which Windows inserts for `%1`. A machine has one device.
const DEVICE_NAME: &str = r"\Device\RaidPort0";

pub(super) fn log(call: &mut Call, port: &'static Port) -> Status {
    let (details, maximum_size) = (call.structure(), call.structure());
    match read(details) {
        Ok(event) => {
            let strings = event.strings.iter().map(String::as_str);
            let inserts: Vec<_> = [DEVICE_NAME].into_iter().chain(strings).collect();
            let sentence = port.sentence(event.error_code, &inserts);
            let event = SystemEvent { sentence, ..event };
            port.event(format_args!("{event}"));
            port.statistics.system_event(event);
            Ok(())
        }
        // A driver may probe for the supported revision.
        Err(Fault::Newer) => {
            details.set(field::InterfaceRevision, REVISION);
            Err(STOR_STATUS_UNSUPPORTED_VERSION)
        }
        Err(fault) => {
            port.violation(
                Rule::DdiArgument,
                format_args!("StorPortLogSystemEvent: {fault}"),
            );
            if !matches!(fault, Fault::Bytes(_)) {
                return Err(STOR_STATUS_INVALID_PARAMETER);
            }
            if !maximum_size.is_null() {
                maximum_size.set(abi::value(), MOST as u32);
            }
            Err(STOR_STATUS_INVALID_BUFFER_SIZE)
        }
    }
}

/// A violation of STOR_LOG_EVENT_DETAILS.
enum Fault {
    NoDetails,
    Newer,
    /// The field, its value, and the page's demand.
    Field(&'static str, u32, &'static str),
    Null(&'static str),
    /// The bytes of dump data and strings exceed [`MOST`].
    Bytes(usize),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDetails => write!(f, "LogDetails is NULL"),
            Self::Newer => write!(f, "InterfaceRevision is newer than {REVISION:#x}"),
            Self::Field(name, value, demand) => {
                write!(
                    f,
                    "{name} is {value:#x}; STOR_LOG_EVENT_DETAILS demands {demand}"
                )
            }
            Self::Null(name) => write!(f, "{name} is NULL although its count is not 0"),
            Self::Bytes(bytes) => write!(
                f,
                "dump data and strings have {bytes} bytes; STOR_LOG_EVENT_DETAILS allows {MOST}"
            ),
        }
    }
}

/// The event, without its text.
fn read(details: Structure) -> Result<SystemEvent, Fault> {
    if details.is_null() {
        return Err(Fault::NoDetails);
    }
    let revision = details.get(field::InterfaceRevision);
    if revision >> 8 > REVISION >> 8 {
        return Err(Fault::Newer);
    }
    let demands = [
        (
            "InterfaceRevision",
            revision,
            revision >> 8 == REVISION >> 8,
            "STOR_CURRENT_LOG_INTERFACE_REVISION, 0x100",
        ),
        (
            "Size",
            details.get(field::Size),
            details.get(field::Size) as usize == field::SIZE,
            "its own size, 0x48",
        ),
        (
            "Flags",
            details.get(field::Flags),
            details.get(field::Flags) == 0,
            "0",
        ),
        (
            "EventAssociation",
            details.get(field::EventAssociation),
            // The end of the range is StorEventInvalidAssociation.
            details.get(field::EventAssociation) < 3,
            "a value of STOR_EVENT_ASSOCIATION_ENUM",
        ),
    ];
    for (name, value, holds, demand) in demands {
        if !holds {
            return Err(Fault::Field(name, value, demand));
        }
    }
    let dump_bytes = details.get(field::DumpDataSize) as usize;
    let count = details.get(field::StringCount) as usize;
    let dump = details.follow(field::DumpData);
    let list = details.follow(field::StringList);
    if dump_bytes > 0 && dump.is_null() {
        return Err(Fault::Null("DumpData"));
    }
    if count > 0 && list.is_null() {
        return Err(Fault::Null("StringList"));
    }
    // With their terminators, so many strings are too long even if they are empty.
    let terminators = count.saturating_mul(2).saturating_add(dump_bytes);
    if terminators > MOST {
        return Err(Fault::Bytes(terminators));
    }
    let mut strings = Vec::new();
    for index in 0..count {
        let string = list.offset(index * size_of::<usize>()).follow(abi::value());
        if string.is_null() {
            return Err(Fault::Null("a string of StringList"));
        }
        strings.push(wide_string(string));
    }
    let units: usize = strings
        .iter()
        .map(|string| string.encode_utf16().count())
        .sum();
    let bytes = terminators + 2 * units;
    if bytes > MOST {
        return Err(Fault::Bytes(bytes));
    }
    Ok(SystemEvent {
        error_code: details.get(field::ErrorCode),
        unique_id: details.get(field::UniqueId),
        strings,
        dump_data: dump.bytes(dump_bytes),
        sentence: None,
    })
}
