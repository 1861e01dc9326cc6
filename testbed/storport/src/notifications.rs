//! StorPortNotification, and the inline functions that call it.

use super::{
    abi::{self, calls::Call},
    adapter::FailingExport,
    callbacks::{self, Callback},
    dpcs,
    exports::fails,
    held_locks::Form,
    port::Port,
    tracing,
    units::closed,
    violations::Rule,
};

/// SCSI_NOTIFICATION_TYPE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    RequestComplete,
    ResetDetected,
    RequestTimerCall,
    BusChangeDetected,
    /// WMIEvent and WMIReregister, for which nobody registered.
    Wmi,
    LinkUp,
    LinkDown,
    QueryTickCount,
    BufferOverrunDetected,
    EnablePassiveInitialization,
    InitializeDpc,
    IssueDpc,
    AcquireSpinLock,
    ReleaseSpinLock,
    StateChangeDetected,
    IoTargetRequestServiceTime,
    InitializeDpcWithContext,
    /// A threaded DPC runs like an ordinary one, which Windows may do too.
    InitializeThreadedDpc,
    AsyncNotificationDetected,
    MarkDeviceFailed,
    /// A type whose inline function the testbed does not emulate.
    NotModelled(&'static str),
}

impl Kind {
    /// The inline function, if a dump stack may lack it. Its BOOLEAN result is FALSE in advance.
    fn function(self) -> Option<&'static str> {
        match self {
            Self::EnablePassiveInitialization => Some("StorPortEnablePassiveInitialization"),
            Self::InitializeDpc | Self::InitializeDpcWithContext => Some("StorPortInitializeDpc"),
            Self::IssueDpc => Some("StorPortIssueDpc"),
            Self::RequestTimerCall => Some("StorPortRequestTimer"),
            Self::StateChangeDetected => Some("StorPortStateChangeDetected"),
            _ => None,
        }
    }
}

/// The values of SCSI_NOTIFICATION_TYPE (storport-rules.md Notifications).
const KINDS: &[(u32, Kind)] = &[
    (0, Kind::RequestComplete),
    (3, Kind::ResetDetected),
    (6, Kind::RequestTimerCall),
    (7, Kind::BusChangeDetected),
    (8, Kind::Wmi),
    (9, Kind::Wmi),
    (10, Kind::LinkUp),
    (11, Kind::LinkDown),
    (12, Kind::QueryTickCount),
    (13, Kind::BufferOverrunDetected),
    (0x1000, Kind::EnablePassiveInitialization),
    (0x1001, Kind::InitializeDpc),
    (0x1002, Kind::IssueDpc),
    (0x1003, Kind::AcquireSpinLock),
    (0x1004, Kind::ReleaseSpinLock),
    (0x1005, Kind::StateChangeDetected),
    (0x1006, Kind::IoTargetRequestServiceTime),
    (0x1007, Kind::AsyncNotificationDetected),
    (0x1009, Kind::InitializeDpcWithContext),
    (0x100A, Kind::InitializeThreadedDpc),
    (
        0x100B,
        Kind::NotModelled("StorPortNotification(SetTargetProcessorDpc)"),
    ),
    (0x100C, Kind::MarkDeviceFailed),
    (0x100D, Kind::MarkDeviceFailed),
    (0x100E, Kind::NotModelled("StorPortTerminateSystemThread")),
];

/// The name of a call of StorPortNotification of type `value`.
pub(super) fn name(value: u32) -> Option<String> {
    match KINDS.iter().find(|(known, _)| *known == value)?.1 {
        Kind::NotModelled(name) => Some(name.to_owned()),
        kind => Some(format!("StorPortNotification({kind:?})")),
    }
}

/// TraceNotification.
const TRACE: u32 = 14;

/// RequestDirectComplete is not documented and has no inline function.
const DIRECT_COMPLETE: u32 = 0x1008;

/// The first type of the inline functions of storport.h.
const INLINE: u32 = 0x1000;

/// StorPortNotification.
pub(super) fn notification(mut call: Call) -> usize {
    let value = call.u32();
    if value == TRACE {
        let _extension = call.address();
        let (kind, arguments) = (call.u32(), call.structure());
        tracing::trace(callbacks::current_port(), kind, arguments);
        return 0;
    }
    let port = call.port();
    match KINDS.iter().find(|(known, _)| *known == value) {
        Some((_, kind)) => notify(*kind, port, call),
        // An inline function of a newer kit than the testbed's.
        None if value >= INLINE && value != DIRECT_COMPLETE => port
            .statistics
            .not_implemented(format!("StorPortNotification of type {value:#x}")),
        None => port.violation(
            Rule::NotificationType,
            call.caller,
            format_args!("StorPortNotification of type {value:#x}"),
        ),
    }
    0
}

fn notify(kind: Kind, port: &'static Port, mut call: Call) {
    let caller = call.caller;
    if kind.function().is_some_and(|name| port.lacks(name, caller)) {
        return;
    }
    match kind {
        Kind::RequestComplete => port.complete(call.address(), caller),
        Kind::ResetDetected => {
            port.event(format_args!("the miniport detected a bus reset"));
            let hold = port.configuration().reset_hold;
            if !hold.is_zero() {
                port.pause_for(None, hold);
            }
        }
        Kind::RequestTimerCall => {
            let (routine, microseconds) = (call.routine(), call.u32());
            if !fails(port, FailingExport::RequestTimerCall) {
                port.request_timer_call(routine, microseconds, caller);
            }
        }
        Kind::BusChangeDetected => {
            port.event(format_args!("the miniport detected a bus change"));
        }
        Kind::LinkUp => port.resume(None, closed::LINK_DOWN),
        Kind::LinkDown => port.gate.close(closed::LINK_DOWN),
        Kind::QueryTickCount => {
            let to = call.structure();
            let (_, ticks) = port.time();
            to.set(abi::value(), ticks);
        }
        Kind::BufferOverrunDetected => testbed_machine::trap::stop_machine(format_args!(
            "{}: the driver reported a buffer overrun (BufferOverrunDetected)",
            port.driver()
        )),
        Kind::EnablePassiveInitialization => enable_passive_initialization(port, call),
        Kind::InitializeDpc => {
            call.function = "StorPortInitializeDpc";
            call.check_callback(port, &[Callback::HwPassiveInitialize]);
            let (dpc, routine) = (call.structure(), call.routine());
            port.initialize_dpc(dpcs::ORDINARY, dpc, routine, 0, caller);
        }
        Kind::InitializeDpcWithContext | Kind::InitializeThreadedDpc => {
            let (function, of) = match kind {
                Kind::InitializeThreadedDpc => ("StorPortInitializeThreadedDpc", dpcs::THREADED),
                _ => ("StorPortInitializeDpcWithContext", dpcs::ORDINARY),
            };
            call.function = function;
            call.check_callback(port, &[Callback::HwPassiveInitialize]);
            let (dpc, routine, context) = (call.structure(), call.routine(), call.address());
            port.initialize_dpc(of, dpc, routine, context, caller);
        }
        Kind::IssueDpc => {
            let (dpc, first, second) = (call.structure(), call.address(), call.address());
            let to = call.structure();
            let queued = port.issue_dpc(dpc, first, second, caller);
            set_boolean(to, queued);
        }
        Kind::AcquireSpinLock => {
            let (lock, context) = (call.u32(), call.structure());
            let handle = call.structure();
            if port.has_no_locks(caller) {
                return;
            }
            port.acquire_for_miniport(Form::Plain, lock, context, handle, caller);
        }
        Kind::ReleaseSpinLock if port.is_dump() => {}
        Kind::ReleaseSpinLock => port.release_for_miniport(call.structure(), caller),
        Kind::StateChangeDetected => {
            let (_entity, address, _attributes) = (call.u32(), call.address(), call.u32());
            let (routine, context) = (call.routine(), call.address());
            let status = call.structure();
            status.set(abi::value(), port.state_change(address, routine, context));
        }
        Kind::AsyncNotificationDetected => {
            let (_address, _flags) = (call.address(), call.u64());
            let status = call.structure();
            port.statistics
                .not_implemented("StorPortAsyncNotificationDetected");
            status.set(abi::value(), abi::stor_status::STOR_STATUS_NOT_IMPLEMENTED);
        }
        Kind::MarkDeviceFailed => {
            port.event(format_args!("the miniport marked a device as failed"));
        }
        Kind::NotModelled(name) => port.statistics.not_implemented(name),
        Kind::Wmi | Kind::IoTargetRequestServiceTime => {}
    }
}

/// Writes the BOOLEAN result of an inline function, which passes the address of a LONG with
/// FALSE.
fn set_boolean(to: abi::Structure, value: bool) {
    to.set(abi::value(), u8::from(value));
}

fn enable_passive_initialization(port: &Port, mut call: Call) {
    let routine = call.routine();
    let enabled = call.structure();
    call.function = "StorPortEnablePassiveInitialization";
    let allowed = call.check_callback(port, &[Callback::HwInitialize]);
    if allowed {
        port.set_passive_initialize(routine);
    }
    set_boolean(enabled, allowed && !routine.is_none());
}

#[cfg(test)]
mod tests {
    use super::{DIRECT_COMPLETE, KINDS, TRACE};

    #[test]
    fn the_types_of_the_headers_have_the_values_of_the_headers() {
        let table: serde_json::Value =
            serde_json::from_str(include_str!("../../../cross/abi/storport-wdk.json")).unwrap();
        let types = table["enums"]["_SCSI_NOTIFICATION_TYPE"]
            .as_object()
            .unwrap();

        for (name, kind) in [
            ("RequestComplete", "RequestComplete"),
            ("ResetDetected", "ResetDetected"),
            ("RequestTimerCall", "RequestTimerCall"),
            ("BusChangeDetected", "BusChangeDetected"),
            ("WMIEvent", "Wmi"),
            ("WMIReregister", "Wmi"),
            ("LinkUp", "LinkUp"),
            ("LinkDown", "LinkDown"),
            ("QueryTickCount", "QueryTickCount"),
            ("BufferOverrunDetected", "BufferOverrunDetected"),
            ("EnablePassiveInitialization", "EnablePassiveInitialization"),
            ("InitializeDpc", "InitializeDpc"),
            ("IssueDpc", "IssueDpc"),
            ("AcquireSpinLock", "AcquireSpinLock"),
            ("ReleaseSpinLock", "ReleaseSpinLock"),
            ("StateChangeDetectedCall", "StateChangeDetected"),
            ("IoTargetRequestServiceTime", "IoTargetRequestServiceTime"),
            ("AsyncNotificationDetected", "AsyncNotificationDetected"),
            ("InitializeDpcWithContext", "InitializeDpcWithContext"),
            ("InitializeThreadedDpc", "InitializeThreadedDpc"),
            ("MarkDeviceFailed", "MarkDeviceFailed"),
            ("MarkDeviceFailedEx", "MarkDeviceFailed"),
        ] {
            let value = types[name].as_u64().unwrap() as u32;
            let known = KINDS.iter().find(|(known, _)| *known == value);
            assert_eq!(
                known.map(|(_, kind)| format!("{kind:?}")).as_deref(),
                Some(kind),
                "{name}"
            );
        }
        assert_eq!(types["TraceNotification"], TRACE);
        assert_eq!(types["RequestDirectComplete"], DIRECT_COMPLETE);
        // A miniport must not use these (storport-rules.md Notifications).
        for name in ["NextRequest", "NextLuRequest", "GetExtendedFunctionTable"] {
            let value = types[name].as_u64().unwrap() as u32;
            assert!(KINDS.iter().all(|(known, _)| *known != value), "{name}");
        }
    }
}
