//! `StorStatus`: why a Storport routine failed.

use core::{fmt, num::NonZero};

/// A status other than STOR_STATUS_SUCCESS (`STOR_STATUS_*`, `storport.h`).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct StorStatus(NonZero<u32>);

macro_rules! statuses {
    ($($(#[$doc:meta])* $name:ident = $value:ident;)*) => {
        impl StorStatus {
            $($(#[$doc])* pub const $name: Self = Self::constant(wdk_sys::$value);)*

            /// The name that `storport.h` gives the value, if it is one of those above.
            #[must_use]
            pub fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$name => Some(stringify!($value)),)*
                    _ => None,
                }
            }
        }
    };
}

statuses! {
    /// The routine failed for a reason that it does not name.
    UNSUCCESSFUL = STOR_STATUS_UNSUCCESSFUL;
    /// This Windows, or a dump stack, does not have the routine.
    NOT_IMPLEMENTED = STOR_STATUS_NOT_IMPLEMENTED;
    /// There is not enough memory now. A later attempt may succeed.
    INSUFFICIENT_RESOURCES = STOR_STATUS_INSUFFICIENT_RESOURCES;
    /// An argument is not valid.
    INVALID_PARAMETER = STOR_STATUS_INVALID_PARAMETER;
    /// The routine may not be called at this IRQL.
    INVALID_IRQL = STOR_STATUS_INVALID_IRQL;
    /// The adapter cannot do this now.
    INVALID_DEVICE_REQUEST = STOR_STATUS_INVALID_DEVICE_REQUEST;
    /// The adapter is not ready: it was not started, or it was stopped.
    INVALID_DEVICE_STATE = STOR_STATUS_INVALID_DEVICE_STATE;
    /// An earlier request of the same kind is not finished.
    BUSY = STOR_STATUS_BUSY;
}

impl StorStatus {
    const fn constant(value: u32) -> Self {
        match NonZero::new(value) {
            Some(value) => Self(value),
            // Not reached: only success is zero, and it is not in the list above.
            None => Self(NonZero::<u32>::MAX),
        }
    }

    /// Storport's value.
    #[must_use]
    pub const fn value(self) -> u32 {
        self.0.get()
    }

    /// Converts Storport's status to a result.
    #[inline]
    pub(crate) fn check(status: u32) -> Result<(), Self> {
        match NonZero::new(status) {
            None => Ok(()),
            Some(status) => Err(Self(status)),
        }
    }
}

impl fmt::Display for StorStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "STOR_STATUS {:#010X}", self.value()),
        }
    }
}

impl fmt::Debug for StorStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl core::error::Error for StorStatus {}
