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

type Body = fn(Call, &'static Port);

/// A SCSI_NOTIFICATION_TYPE (storport-rules.md Notifications).
struct Notification {
    value: u32,
    name: &'static str,
    /// The inline function that sends it, if reports name that. Its BOOLEAN result is FALSE in
    /// advance.
    function: Option<&'static str>,
    /// `None` if the testbed does not emulate it.
    body: Option<Body>,
}

macro_rules! notifications {
    ($($value:literal $name:ident $([$function:literal])? $(=> $body:expr)?,)*) => {
        const NOTIFICATIONS: &[Notification] = &[$(Notification {
            value: $value,
            name: stringify!($name),
            function: notifications!(@ $($function)?),
            body: notifications!(@ $($body)?),
        },)*];
    };
    (@) => { None };
    (@ $some:expr) => { Some($some) };
}

notifications! {
    0 RequestComplete => |mut call, port| port.complete(call.address()),
    3 ResetDetected => |_, port| reset_detected(port),
    6 RequestTimerCall ["StorPortRequestTimer"] => request_timer_call,
    7 BusChangeDetected => |_, port| port.event(format_args!("the miniport detected a bus change")),
    // Nobody registered for WMI.
    8 WMIEvent => |_, _| {},
    9 WMIReregister => |_, _| {},
    10 LinkUp => |_, port| port.resume(None, closed::LINK_DOWN),
    11 LinkDown => |_, port| port.gate.close(closed::LINK_DOWN),
    12 QueryTickCount => |mut call, port| call.structure().set(abi::value(), port.time().1),
    13 BufferOverrunDetected => |_, port| overrun(port),
    0x1000 EnablePassiveInitialization ["StorPortEnablePassiveInitialization"]
        => enable_passive_initialization,
    0x1001 InitializeDpc ["StorPortInitializeDpc"]
        => |call, port| initialize_dpc(dpcs::ORDINARY, false, call, port),
    0x1002 IssueDpc ["StorPortIssueDpc"] => issue_dpc,
    0x1003 AcquireSpinLock => acquire_spin_lock,
    0x1004 ReleaseSpinLock => release_spin_lock,
    0x1005 StateChangeDetectedCall ["StorPortStateChangeDetected"] => state_change_detected,
    0x1006 IoTargetRequestServiceTime => |_, _| {},
    0x1007 AsyncNotificationDetected => async_notification_detected,
    0x1009 InitializeDpcWithContext ["StorPortInitializeDpcWithContext"]
        => |call, port| initialize_dpc(dpcs::ORDINARY, true, call, port),
    // A threaded DPC runs like an ordinary one, which Windows may do too.
    0x100A InitializeThreadedDpc ["StorPortInitializeThreadedDpc"]
        => |call, port| initialize_dpc(dpcs::THREADED, true, call, port),
    0x100B SetTargetProcessorDpc,
    0x100C MarkDeviceFailed => |_, port| device_failed(port),
    0x100D MarkDeviceFailedEx => |_, port| device_failed(port),
    0x100E TerminateSystemThread ["StorPortTerminateSystemThread"],
}

impl Notification {
    fn find(value: u32) -> Option<&'static Self> {
        NOTIFICATIONS.iter().find(|known| known.value == value)
    }

    fn name(&self) -> String {
        match (self.body, self.function) {
            (None, Some(function)) => function.to_owned(),
            _ => format!("StorPortNotification({})", self.name),
        }
    }
}

/// The name of a call of StorPortNotification of type `value`.
pub(super) fn name(value: u32) -> Option<String> {
    Notification::find(value).map(Notification::name)
}

const TRACE: u32 = 14;

/// RequestDirectComplete is not documented and has no inline function.
const DIRECT_COMPLETE: u32 = 0x1008;

/// The first type of the inline functions of storport.h.
const INLINE: u32 = 0x1000;

pub(super) fn notification(mut call: Call) -> usize {
    let value = call.u32();
    if value == TRACE {
        let _extension = call.address();
        let (kind, arguments) = (call.u32(), call.structure());
        tracing::trace(callbacks::current_port(), kind, arguments);
        return 0;
    }
    let port = call.port();
    let Some(known) = Notification::find(value) else {
        // An inline function of a newer kit than the testbed's.
        if value >= INLINE && value != DIRECT_COMPLETE {
            let name = format!("StorPortNotification of type {value:#x}");
            port.statistics.not_implemented(name);
        } else {
            port.violation(
                Rule::NotificationType,
                format_args!("StorPortNotification of type {value:#x}"),
            );
        }
        return 0;
    };
    call.function = known.function.unwrap_or(call.function);
    if !call.is_lacking(port) {
        match known.body {
            Some(body) => body(call, port),
            None => port.statistics.not_implemented(known.name()),
        }
    }
    0
}

fn reset_detected(port: &'static Port) {
    port.event(format_args!("the miniport detected a bus reset"));
    let hold = port.configuration().reset_hold;
    if !hold.is_zero() {
        port.pause(None, hold);
    }
}

fn device_failed(port: &Port) {
    port.event(format_args!("the miniport marked a device as failed"));
}

fn overrun(port: &Port) {
    testbed_machine::trap::stop_machine(format_args!(
        "{}: the driver reported a buffer overrun (BufferOverrunDetected)",
        port.driver()
    ))
}

fn request_timer_call(mut call: Call, port: &'static Port) {
    let (routine, microseconds) = (call.routine(), call.u32());
    if !fails(port, FailingExport::RequestTimerCall) {
        port.request_timer_call(routine, microseconds);
    }
}

fn initialize_dpc(kind: u32, has_context: bool, mut call: Call, port: &'static Port) {
    call.check_callback(port, &[Callback::HwPassiveInitialize]);
    let (dpc, routine) = (call.structure(), call.routine());
    let context = if has_context { call.address() } else { 0 };
    port.initialize_dpc(kind, dpc, routine, context);
}

fn issue_dpc(mut call: Call, port: &'static Port) {
    let (dpc, first, second) = (call.structure(), call.address(), call.address());
    set_boolean(call.structure(), port.issue_dpc(dpc, first, second));
}

fn acquire_spin_lock(mut call: Call, port: &'static Port) {
    let (lock, context) = (call.u32(), call.structure());
    let handle = call.structure();
    if !port.has_no_locks() {
        // StorPortAcquireSpinLock returns no status.
        let _ = port.acquire_for_miniport(Form::Plain, lock, context, handle);
    }
}

fn release_spin_lock(mut call: Call, port: &'static Port) {
    if !port.is_dump() {
        port.release_for_miniport(call.structure());
    }
}

fn state_change_detected(mut call: Call, port: &'static Port) {
    let (_entity, address, _attributes) = (call.u32(), call.address(), call.u32());
    let (routine, context) = (call.routine(), call.address());
    let status = port.state_change(address, routine, context);
    call.structure().set(abi::value(), status);
}

fn async_notification_detected(mut call: Call, port: &'static Port) {
    let (_address, _flags) = (call.address(), call.u64());
    let status = abi::stor_status::STOR_STATUS_NOT_IMPLEMENTED;
    call.structure().set(abi::value(), status);
    port.statistics
        .not_implemented("StorPortAsyncNotificationDetected");
}

/// Writes the BOOLEAN result of an inline function, which passes the address of a LONG with
/// FALSE.
fn set_boolean(to: abi::Structure, value: bool) {
    to.set(abi::value(), u8::from(value));
}

fn enable_passive_initialization(mut call: Call, port: &'static Port) {
    let routine = call.routine();
    let enabled = call.structure();
    let allowed = call.check_callback(port, &[Callback::HwInitialize]);
    if allowed {
        port.set_passive_initialize(routine);
    }
    set_boolean(enabled, allowed && !routine.is_none());
}

#[cfg(test)]
mod tests {
    use super::{DIRECT_COMPLETE, NOTIFICATIONS, Notification, TRACE};

    #[test]
    fn the_types_of_the_headers_have_the_values_of_the_headers() {
        let table: serde_json::Value =
            serde_json::from_str(include_str!("../../../cross/abi/storport-wdk.json")).unwrap();
        let types = &table["enums"]["_SCSI_NOTIFICATION_TYPE"];

        for known in NOTIFICATIONS {
            assert_eq!(types[known.name], known.value, "{}", known.name);
        }
        assert_eq!(types["TraceNotification"], TRACE);
        assert_eq!(types["RequestDirectComplete"], DIRECT_COMPLETE);
        // A miniport must not use these (storport-rules.md Notifications).
        for name in ["NextRequest", "NextLuRequest", "GetExtendedFunctionTable"] {
            let value = types[name].as_u64().unwrap() as u32;
            assert!(Notification::find(value).is_none(), "{name}");
        }
    }
}
