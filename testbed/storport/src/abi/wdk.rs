//! The structures of storport.h as typed offsets, and its constants, under the header's names.
//!
//! `build.rs` makes most of them of the table `cross/abi/storport-wdk.json`. An integer of 8 bytes
//! and a pointer are both a `usize`.
#![expect(non_upper_case_globals, reason = "the names of the C headers")]
#![expect(dead_code, reason = "the table has more than the testbed uses")]

use super::Field;

include!(concat!(env!("OUT_DIR"), "/wdk.rs"));

/// `SP_UNINITIALIZED_VALUE` (`srb.h`).
pub(crate) const SP_UNINITIALIZED_VALUE: u32 = u32::MAX;

/// `STOR_LIST_ENTRY`, which the table lacks.
pub(crate) mod stor_list_entry {
    use super::Field;
    pub(crate) const Flink: Field<usize> = Field::at(0);
    pub(crate) const Blink: Field<usize> = Field::at(8);
}

/// `STOR_SLIST_HEADER`, which the table lacks.
pub(crate) mod stor_slist_header {
    use super::Field;
    pub(crate) const Alignment: Field<usize> = Field::at(0);
    pub(crate) const Region: Field<usize> = Field::at(8);
}

/// `STOR_SLIST_ENTRY`, which the table lacks.
pub(crate) mod stor_slist_entry {
    use super::Field;
    pub(crate) const Next: Field<usize> = Field::at(0);
}

/// `STOR_DISPATCHER_HEADER`, which the table lacks.
pub(crate) mod stor_dispatcher_header {
    use super::Field;
    pub(crate) const Lock: Field<u32> = Field::at(0);
    pub(crate) const SignalState: Field<u32> = Field::at(4);
}

/// NTSTATUS values (`ntstatus.h`).
pub(crate) mod ntstatus {
    pub(crate) const STATUS_SUCCESS: u32 = 0;
    pub(crate) const STATUS_INVALID_HANDLE: u32 = 0xC000_0008;
    pub(crate) const STATUS_INVALID_PARAMETER: u32 = 0xC000_000D;
    pub(crate) const STATUS_REVISION_MISMATCH: u32 = 0xC000_0059;
    pub(crate) const STATUS_NOT_SUPPORTED: u32 = 0xC000_00BB;
    pub(crate) const STATUS_NOT_FOUND: u32 = 0xC000_0225;
}
