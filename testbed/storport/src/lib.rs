//! Storport as a miniport sees it: storport.sys's exports, and the port driver
//! behind them that starts an adapter, feeds it requests and stops it.
//!
//! * `life_cycle`: the order from DriverEntry to ScsiStopAdapter;
//! * `callbacks`: the one way into driver code, and what is checked at its end;
//! * `lanes`, `units`, `srb`: a request's way to the miniport and back;
//! * `interrupts`, `dpcs`, `timers`: what calls the miniport else;
//! * `spin_locks`, `held_locks`: the locks, and what a thread may do with them;
//! * `waits`, `orders`: threads that lock each other out, or might;
//! * `dump`, `alone`: the stack that writes a crash dump;
//! * `restart`, `control_request`: sleep, power, plug and play;
//! * `resets`, `watchdog`: requests and callbacks that do not come back;
//! * `oddities`, `optional`: what Storport does seldom, when a test asks for it;
//! * `exports`, `notifications`, `extended`: the functions that it calls;
//! * `violations`: the rules that it must keep.
//!
//! `storport-rules.md` in comments is `docs/reference/storport-rules.md`, which has
//! these rules with their sources.
#![cfg(target_os = "linux")]

mod abi;
pub mod adapter;
mod alone;
mod callbacks;
mod configuration;
pub mod control_request;
mod dpcs;
pub mod dump;
mod events;
mod exports;
mod extended;
mod held_locks;
mod interrupts;
mod lanes;
mod life_cycle;
mod notifications;
mod oddities;
mod optional;
mod orders;
mod performance;
mod plug_and_play;
mod pool;
mod port;
mod prohibited;
mod registers;
pub mod report;
pub mod request;
mod resets;
mod restart;
mod spin_locks;
mod srb;
mod statistics;
#[cfg(test)]
mod tests;
mod timers;
mod tracing;
mod units;
mod violations;
mod waits;
mod watchdog;

/// The module that a Storport miniport may import from.
pub const MODULE: &str = "storport.sys";

/// The address of `function` of `module`: Storport's or the kernel's.
#[must_use]
pub fn resolve(module: &str, function: &str) -> Option<usize> {
    match module.to_ascii_lowercase().as_str() {
        MODULE => exports::resolve(function),
        "ntoskrnl.exe" | "hal.dll" => prohibited::resolve(module, function),
        _ => None,
    }
}

/// The name of a call of the import `function`: those that stand for many
/// routines are named with the one that the first argument selects.
pub fn name_of_call(function: &str, first: u64) -> String {
    let selected = match function {
        "StorPortExtendedFunction" => extended::name(first as u32),
        "StorPortNotification" => notifications::name(first as u32),
        _ => return function.to_owned(),
    };
    selected.unwrap_or_else(|| format!("{function}({:#x})", first as u32))
}

/// Whether a physical miniport is not to call `function` of `module`
/// (HwStorPortProhibitedDDIs).
#[must_use]
pub fn is_prohibited(module: &str, function: &str) -> bool {
    prohibited::is_prohibited(module, function)
}

/// The rules that a miniport is watched for.
pub fn rules() -> impl Iterator<Item = report::RuleRow> {
    violations::Rule::ALL.iter().map(|rule| report::RuleRow {
        name: rule.name(),
        list: rule.list(),
        source: rule.source(),
        summary: rule.summary(),
    })
}
