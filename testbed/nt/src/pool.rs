//! Pool: memory that a driver allocates and frees by address.
//!
//! Each block has its own pages, and a small block is at the end of its page. So an access
//! behind it, or after it was freed, faults at once.

use std::{
    collections::HashMap,
    sync::{LazyLock, Mutex, MutexGuard},
};

use super::{memory, require_irql};
use testbed_machine::{
    cpu::irql,
    lock,
    memory::{Block, PAGE, Placement},
    trap::{current_callback, record_driver_error, stop_machine},
};

exports! {
    "ExAllocatePool2" => ex_allocate_pool_2,
    "ExAllocatePoolWithTag" => ex_allocate_pool_with_tag,
    "ExAllocatePool" => ex_allocate_pool,
    "ExFreePool" => ex_free_pool,
    "ExFreePool2" => ex_free_pool_with_tag,
    "ExFreePoolWithTag" => ex_free_pool_with_tag,
}

/// POOL_FLAGS of `wdm.h`.
mod flag {
    pub(super) const UNINITIALIZED: u64 = 0x2;
    pub(super) const CACHE_ALIGNED: u64 = 0x8;
    pub(super) const RAISE_ON_FAILURE: u64 = 0x20;
    pub(super) const PAGED: u64 = 0x100;
}

/// The tag that ExAllocatePool uses.
const NO_TAG: u32 = u32::from_le_bytes(*b"None");

/// Fills memory that Windows would not initialize. A pointer with this value faults.
const PATTERN: u8 = 0xcd;

struct Allocation {
    block: Block,
    tag: u32,
}

static ALLOCATIONS: LazyLock<Mutex<HashMap<usize, Allocation>>> = LazyLock::new(Mutex::default);

fn allocations() -> MutexGuard<'static, HashMap<usize, Allocation>> {
    lock(&ALLOCATIONS)
}

/// Allocates `bytes` of pool, zeroed unless a pattern shall fill it. `None` if no memory is left.
fn allocate(bytes: usize, tag: u32, pattern: Option<u8>, alignment: usize) -> Option<usize> {
    let block = match memory().allocate(bytes, Placement::Scattered) {
        Ok(block) => block,
        Err(error) => {
            record_driver_error(format!("pool allocation failed: {error}"));
            return None;
        }
    };
    // As on Windows, a block of a page or more begins at a page.
    let offset = match bytes {
        0..PAGE => (PAGE - bytes.max(1)) & !(alignment - 1),
        _ => 0,
    };
    let address = block.address() + offset;
    if let Some(pattern) = pattern {
        // SAFETY: the block has whole pages, and nothing else knows its address yet.
        unsafe { (address as *mut u8).write_bytes(pattern, bytes) };
    }
    allocations().insert(address, Allocation { block, tag });
    Some(address)
}

/// Tag 0 matches any tag.
extern "win64" fn ex_free_pool_with_tag(address: usize, tag: u32) {
    require_irql("ExFreePool", irql::DISPATCH);
    let found = allocations().remove(&address);
    let Some(allocation) = found else {
        stop_machine(format_args!(
            "the driver freed pool at {address:#x} in {}, which is not allocated: it was freed \
             before, or it was not returned by an allocation",
            current_callback().unwrap_or("no callback")
        ));
    };
    if tag != 0 && tag != allocation.tag {
        record_driver_error(format!(
            "pool allocated with tag '{}' was freed with tag '{}'",
            tag_text(allocation.tag),
            tag_text(tag)
        ));
    }
    drop(allocation.block);
}

fn tag_text(tag: u32) -> String {
    tag.to_le_bytes().escape_ascii().to_string()
}

extern "win64" fn ex_allocate_pool_2(flags: u64, bytes: usize, tag: u32) -> usize {
    let highest = if flags & flag::PAGED == 0 {
        irql::DISPATCH
    } else {
        irql::APC
    };
    require_irql("ExAllocatePool2", highest);
    let pattern = (flags & flag::UNINITIALIZED != 0).then_some(PATTERN);
    let alignment = if flags & flag::CACHE_ALIGNED == 0 {
        16
    } else {
        64
    };
    let address = match tag {
        0 => {
            record_driver_error("ExAllocatePool2 was called with tag 0, which it rejects".into());
            None
        }
        _ => allocate(bytes, tag, pattern, alignment),
    };
    if address.is_none() && flags & flag::RAISE_ON_FAILURE != 0 {
        stop_machine(format_args!(
            "ExAllocatePool2 could not allocate {bytes} bytes, and \
             POOL_FLAG_RAISE_ON_FAILURE asks for an exception: the testbed has no exceptions"
        ));
    }
    address.unwrap_or(0)
}

/// Paged types of POOL_TYPE are odd (`wdm.h`).
extern "win64" fn ex_allocate_pool_with_tag(kind: u32, bytes: usize, tag: u32) -> usize {
    let highest = if kind.is_multiple_of(2) {
        irql::DISPATCH
    } else {
        irql::APC
    };
    require_irql("ExAllocatePoolWithTag", highest);
    allocate(bytes, tag, Some(PATTERN), 16).unwrap_or(0)
}

extern "win64" fn ex_allocate_pool(kind: u32, bytes: usize) -> usize {
    ex_allocate_pool_with_tag(kind, bytes, NO_TAG)
}

extern "win64" fn ex_free_pool(address: usize) {
    ex_free_pool_with_tag(address, 0);
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Once;

    use super::*;
    use testbed_machine::{memory::Memory, trap::driver_errors};

    /// Attaches the one memory that all tests of the process share.
    pub(crate) fn attach_memory() {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| testbed_machine::memory::attach(&Memory::new(8 << 20).expect("memory")));
    }

    fn content(address: usize, bytes: usize) -> Vec<u8> {
        // SAFETY: the tests read memory that they allocated.
        unsafe { std::slice::from_raw_parts(address as *const u8, bytes) }.to_vec()
    }

    #[test]
    fn pool_is_zeroed_unless_asked_otherwise() {
        attach_memory();
        let tag = u32::from_le_bytes(*b"zero");

        let zeroed = ex_allocate_pool_2(0x40, 100, tag);
        let raw = ex_allocate_pool_2(0x42, 100, tag);
        let old = ex_allocate_pool_with_tag(512, 100, tag);

        assert_eq!(content(zeroed, 100), [0; 100]);
        assert_eq!(content(raw, 100), [PATTERN; 100]);
        assert_eq!(content(old, 100), [PATTERN; 100]);
        for address in [zeroed, raw, old] {
            ex_free_pool(address);
        }
    }

    #[test]
    fn a_block_ends_at_its_page_or_begins_there_and_is_aligned() {
        attach_memory();
        let tag = u32::from_le_bytes(*b"algn");
        for (bytes, flags, offset) in [
            (1, 0x40, 0xff0),
            (100, 0x40, 0xf90),
            (100, 0x48, 0xf80),
            (4095, 0x40, 0),
            (4096, 0x40, 0),
            (10_000, 0x40, 0),
        ] {
            let address = ex_allocate_pool_2(flags, bytes, tag);
            assert_eq!(address % PAGE, offset, "{bytes} bytes");
            ex_free_pool_with_tag(address, tag);
        }
    }

    #[test]
    fn another_tag_and_no_tag_are_driver_errors() {
        attach_memory();
        let address = ex_allocate_pool_2(0x40, 8, u32::from_le_bytes(*b"mine"));
        ex_free_pool_with_tag(address, u32::from_le_bytes(*b"your"));

        assert_eq!(ex_allocate_pool_2(0x40, 8, 0), 0);

        let driver_errors = driver_errors();
        assert!(
            driver_errors
                .iter()
                .any(|text| text.contains("tag 'mine' was freed with tag 'your'"))
        );
        assert!(driver_errors.iter().any(|text| text.contains("tag 0")));
    }

    #[test]
    fn pool_above_dispatch_level_is_a_driver_error() {
        attach_memory();
        let before = testbed_machine::cpu::set_irql(irql::DEVICE);
        let address = ex_allocate_pool_2(0x40, 8, 1);
        testbed_machine::cpu::set_irql(before);
        ex_free_pool(address);

        let expected =
            "ExAllocatePool2 was called at IRQL 9 in no callback, and may be called up to 2";
        assert!(driver_errors().contains(&expected.into()));
    }

    #[test]
    fn an_allocation_beyond_the_memory_is_refused() {
        attach_memory();

        assert_eq!(ex_allocate_pool_2(0x40, 1 << 30, 1), 0);
    }
}
