//! StorPortNotification, and the inline functions that call it.

use super::{
    abi::{self, calls::Call, wdk},
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
    ($($name:ident $([$function:literal])? $(=> $body:expr)?,)*) => {
        const NOTIFICATIONS: &[Notification] = &[$(Notification {
            value: wdk::$name,
            name: stringify!($name),
            function: notifications!(@ $($function)?),
            body: notifications!(@ $($body)?),
        },)*];
    };
    (@) => { None };
    (@ $some:expr) => { Some($some) };
}

notifications! {
    RequestComplete => |mut call, port| port.complete(call.address()),
    ResetDetected => |_, port| reset_detected(port),
    RequestTimerCall ["StorPortRequestTimer"] => request_timer_call,
    BusChangeDetected => |_, port| port.event(format_args!("the miniport detected a bus change")),
    // Nobody registered for WMI.
    WMIEvent => |_, _| {},
    WMIReregister => |_, _| {},
    LinkUp => |_, port| port.resume(None, closed::LINK_DOWN),
    LinkDown => |_, port| port.gate.close(closed::LINK_DOWN),
    QueryTickCount => |mut call, port| call.structure().set(abi::value(), port.time().1),
    BufferOverrunDetected => |_, port| overrun(port),
    EnablePassiveInitialization ["StorPortEnablePassiveInitialization"]
        => enable_passive_initialization,
    InitializeDpc ["StorPortInitializeDpc"]
        => |call, port| initialize_dpc(dpcs::ORDINARY, false, call, port),
    IssueDpc ["StorPortIssueDpc"] => issue_dpc,
    AcquireSpinLock => acquire_spin_lock,
    ReleaseSpinLock => release_spin_lock,
    StateChangeDetectedCall ["StorPortStateChangeDetected"] => state_change_detected,
    IoTargetRequestServiceTime => |_, _| {},
    AsyncNotificationDetected => async_notification_detected,
    InitializeDpcWithContext ["StorPortInitializeDpcWithContext"]
        => |call, port| initialize_dpc(dpcs::ORDINARY, true, call, port),
    // A threaded DPC runs like an ordinary one, which Windows may do too.
    InitializeThreadedDpc ["StorPortInitializeThreadedDpc"]
        => |call, port| initialize_dpc(dpcs::THREADED, true, call, port),
    SetTargetProcessorDpc,
    MarkDeviceFailed => |_, port| device_failed(port),
    MarkDeviceFailedEx => |_, port| device_failed(port),
    TerminateSystemThread ["StorPortTerminateSystemThread"],
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

/// The first type of the inline functions of storport.h.
const INLINE: u32 = 0x1000;

pub(super) fn notification(mut call: Call) -> usize {
    let value = call.u32();
    if value == wdk::TraceNotification {
        let _extension = call.address();
        let (kind, arguments) = (call.u32(), call.structure());
        tracing::trace(callbacks::current_port(), kind, arguments);
        return 0;
    }
    let port = call.port();
    let Some(known) = Notification::find(value) else {
        // An inline function of a newer kit than the testbed's. RequestDirectComplete is not
        // documented and has no inline function.
        if value >= INLINE && value != wdk::RequestDirectComplete {
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
    let status = wdk::STOR_STATUS_NOT_IMPLEMENTED;
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
