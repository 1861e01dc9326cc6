//! StorPortNotification(TraceNotification): the calls of the inline functions in the kit's
//! `stortrce.h`. The kit's WPP template for Storport miniports uses them, so every driver that
//! was built with tracing makes these calls.
//!
//! The testbed has no trace sessions. A driver can register and clean up, but is never told to
//! trace. Diagnostic events and error log records are not emulated: their allocation returns
//! NULL. The cleanup routine is not called, because the driver is never unloaded.

use super::{
    abi::{
        self, Plain, Structure,
        ntstatus::{STATUS_INVALID_HANDLE, STATUS_NOT_FOUND, STATUS_NOT_SUPPORTED, STATUS_SUCCESS},
    },
    port::Port,
};

/// STORAGE_TRACE_INIT_INFO: the size, and the offset of TraceContext.
const INIT_INFO: (u32, usize) = (56, 48);

/// The opaque value of TraceContext.
static CONTEXT: u8 = 0;

/// Handles a call with this STORAGE_TRACE_NOTIFY_TYPE and argument block. HwDeviceExtension may
/// be NULL, so `port` is that of the running callback.
pub(super) fn trace(port: Option<&'static Port>, kind: u32, arguments: Structure) {
    if arguments.is_null() {
        return;
    }
    let not_modelled = |name| {
        if let Some(port) = port {
            port.statistics.not_implemented(name);
        }
    };
    match kind {
        // InitTracing, with InitInfo and the result.
        1000 => {
            let info = follow(arguments, 0);
            let (size, context) = INIT_INFO;
            if !info.is_null() && get::<u32>(info, 0) >= size {
                set(info, context, &raw const CONTEXT as usize);
            }
            set(arguments, 8, STATUS_SUCCESS);
        }
        // CleanupTracing; InitGlobalLogger, without a global logger; TraceDebugPrint.
        1001 | 2001 | 2005 => {}
        // TraceMessage: no handle is valid.
        2000 => set(arguments, 40, STATUS_INVALID_HANDLE),
        // WMIRegistrationControl.
        2002 => set(arguments, 12, STATUS_SUCCESS),
        // WmiQueryTraceInfo: there is no session.
        2003 => set(arguments, 40, STATUS_NOT_FOUND),
        // InitUnicodeString, with a string or NULL.
        2004 => init_unicode_string(follow(arguments, 0), follow(arguments, 8)),
        // AllocDiagEvent.
        3000 => {
            not_modelled("StorTraceDiagAllocEvent");
            set(arguments, 16, 0_usize);
        }
        // LogDiagEvent.
        3002 => {
            not_modelled("StorTraceDiagLogEvent");
            set(arguments, 16, STATUS_NOT_SUPPORTED);
        }
        // AllocErrorLog.
        4001 => {
            not_modelled("StorTraceErrorAllocRecord");
            set(arguments, 16, 0_usize);
        }
        // FreeDiagEvent, WriteErrorLogRecord, FreeErrorLog: there is nothing to free or write.
        3001 | 4000 | 4002 => {}
        _ => not_modelled(
            "StorPortNotification(TraceNotification), a call that stortrce.h does not have",
        ),
    }
}

/// Fills a UNICODE_STRING for a NUL-terminated string of WCHARs.
fn init_unicode_string(to: Structure, from: Structure) {
    const MOST: u16 = u16::MAX - 1;
    let length = match from.address() {
        0 => None,
        _ => (0..MOST - 2)
            .step_by(2)
            .find(|offset| get::<u16>(from, usize::from(*offset)) == 0)
            .or(Some(MOST - 2)),
    };
    set(to, 0, length.unwrap_or(0));
    set(to, 2, length.map_or(0, |length| length + 2));
    set(to, 8, from.address());
}

fn get<T: Plain>(from: Structure, offset: usize) -> T {
    from.offset(offset).get(abi::value())
}

fn set<T: Plain>(to: Structure, offset: usize, value: T) {
    to.offset(offset).set(abi::value(), value);
}

fn follow(from: Structure, offset: usize) -> Structure {
    from.offset(offset).follow(abi::value())
}
