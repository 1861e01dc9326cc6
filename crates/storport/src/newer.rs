//! Enumerators of storport.h that WDKs up to 10.0.16299 do not declare. With them, drivers can be
//! built with those kits too.
//!
//! The values are those of the WDK 10.0.22621; a test in `cross/abi` compares them.
//! If the kit declares an enumerator too, the one here takes precedence.
#![expect(non_upper_case_globals, reason = "the names are those of storport.h")]

/// STOR_SPINLOCK.
pub mod kind {
    pub use wdk_sys::_STOR_SPINLOCK::*;

    pub const ThreadedDpcLock: Type = 4;
    pub const DpcLevelLock: Type = 5;
}

/// SCSI_NOTIFICATION_TYPE.
pub mod notification {
    pub use wdk_sys::_SCSI_NOTIFICATION_TYPE::*;

    pub const InitializeThreadedDpc: Type = 4106;
}

/// STORPORT_FUNCTION_CODE.
pub mod extended {
    pub use wdk_sys::_STORPORT_FUNCTION_CODE::*;

    pub const ExtFunctionAcquireSpinLock: Type = 93;
    pub const ExtFunctionEnableRegistryKeyNotification: Type = 118;
}
