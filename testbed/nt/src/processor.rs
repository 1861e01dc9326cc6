//! The number of processors, the number of the current one, and its IRQL.

use std::sync::atomic::{AtomicU8, Ordering};

use testbed_machine::{
    cpu::{self, irql},
    trap::{current_callback, stop_machine},
};

exports! {
    "KeQueryActiveProcessorCountEx" => ke_query_active_processor_count_ex,
    "KeQueryActiveProcessors" => ke_query_active_processors,
    "KeQueryMaximumProcessorCountEx" => ke_query_active_processor_count_ex,
    "KeGetCurrentProcessorNumberEx" => ke_get_current_processor_number_ex,
    "KeGetCurrentIrql" => ke_get_current_irql,
    "KeRaiseIrql" => ke_raise_irql,
    "KfRaiseIrql" => kf_raise_irql,
    "KeRaiseIrqlToDpcLevel" => ke_raise_irql_to_dpc_level,
    "KeLowerIrql" => ke_lower_irql,
}

/// The name of an exported variable that holds the count.
pub(super) const COUNT_VARIABLE: &str = "KeNumberProcessors";

const ALL_PROCESSOR_GROUPS: u16 = 0xffff;
/// PROCESSOR_NUMBER (`ntdef.h`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ProcessorNumber {
    group: u16,
    number: u8,
    reserved: u8,
}

/// The address of a variable that holds the current count.
pub(super) fn count_variable() -> usize {
    static COUNT: AtomicU8 = AtomicU8::new(0);
    COUNT.store(cpu::count() as u8, Ordering::Relaxed);
    COUNT.as_ptr() as usize
}

extern "win64" fn ke_query_active_processor_count_ex(group: u16) -> u32 {
    match group {
        0 | ALL_PROCESSOR_GROUPS => cpu::count(),
        _ => 0,
    }
}

/// A mask with a bit for each processor.
extern "win64" fn ke_query_active_processors() -> u64 {
    u64::MAX >> (64 - cpu::count().clamp(1, 64))
}

unsafe extern "win64" fn ke_get_current_processor_number_ex(number: *mut ProcessorNumber) -> u32 {
    let current = cpu::current_number();
    if !number.is_null() {
        // SAFETY: trusts the driver's arguments, as the kernel does.
        unsafe {
            number.write_unaligned(ProcessorNumber {
                group: 0,
                number: current as u8,
                reserved: 0,
            })
        };
    }
    current
}

extern "win64" fn ke_get_current_irql() -> u8 {
    cpu::current_irql()
}

unsafe extern "win64" fn ke_raise_irql(level: u8, before: *mut u8) {
    let old = raise("KeRaiseIrql", level);
    // SAFETY: trusts the driver's arguments, as the kernel does.
    unsafe { before.write(old) };
}

extern "win64" fn kf_raise_irql(level: u8) -> u8 {
    raise("KeRaiseIrql", level)
}

extern "win64" fn ke_raise_irql_to_dpc_level() -> u8 {
    raise("KeRaiseIrqlToDpcLevel", irql::DISPATCH)
}

pub(super) fn raise(function: &str, level: u8) -> u8 {
    let current = cpu::current_irql();
    if level < current || level > irql::HIGH {
        stop_machine(format_args!(
            "{function} was called in {} to raise the IRQL from {current} to {level}: Windows \
             stops with IRQL_NOT_GREATER_OR_EQUAL",
            current_callback().unwrap_or("no callback")
        ));
    }
    cpu::set_irql(level)
}

extern "win64" fn ke_lower_irql(level: u8) {
    lower("KeLowerIrql", level);
}

pub(super) fn lower(function: &str, level: u8) {
    let current = cpu::current_irql();
    if level > current {
        stop_machine(format_args!(
            "{function} was called in {} to lower the IRQL from {current} to {level}: Windows \
             stops with IRQL_NOT_LESS_OR_EQUAL",
            current_callback().unwrap_or("no callback")
        ));
    }
    cpu::set_irql(level);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_group_has_all_processors() {
        let count = cpu::count();
        assert_eq!(ke_query_active_processor_count_ex(0), count);
        assert_eq!(
            ke_query_active_processor_count_ex(ALL_PROCESSOR_GROUPS),
            count
        );
        assert_eq!(ke_query_active_processor_count_ex(1), 0);
        assert_eq!(ke_query_active_processors().count_ones(), count);
        // SAFETY: the variable is never freed.
        let variable = unsafe { AtomicU8::from_ptr(count_variable() as *mut u8) };
        assert_eq!(u32::from(variable.load(Ordering::Relaxed)), count);
    }

    #[test]
    fn the_current_processor_has_its_number_in_its_group() {
        let mut number = ProcessorNumber {
            group: 9,
            number: 9,
            reserved: 9,
        };

        // SAFETY: a variable of the test.
        let index = unsafe { ke_get_current_processor_number_ex(&raw mut number) };

        assert_eq!(index, cpu::current_number());
        assert_eq!((number.group, u32::from(number.number)), (0, index));
    }

    #[test]
    fn raising_and_lowering_nest() {
        let mut first = 9;
        // SAFETY: a variable of the test.
        unsafe { ke_raise_irql(1, &raw mut first) };
        let second = ke_raise_irql_to_dpc_level();
        assert_eq!((first, second, ke_get_current_irql()), (0, 1, 2));
        ke_lower_irql(second);
        ke_lower_irql(first);
        assert_eq!(ke_get_current_irql(), 0);
    }
}
