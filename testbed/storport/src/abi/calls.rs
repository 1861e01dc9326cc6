//! The driver's calls of Storport: the thunks that its imports are bound to, and the arguments.
//!
//! A call takes its arguments from the caller's frame, so that Storport knows where in the
//! driver it was called from. Narrow arguments have an undefined upper part.

use std::ffi::CStr;

use testbed_machine::{trap, variadic::VariadicArguments};

use super::{Routine, Structure, wdk::STOR_STATUS_INVALID_PARAMETER};
use crate::{callbacks, port::Port, request::Address, units::Unit};

/// A call of an exported function.
///
/// # Invariants
/// The arguments are in the caller's frame, where the thunk found them. Storport takes as many
/// as the function's declaration has, with which the driver was compiled, and trusts pointers
/// among them (see [`Structure`] and [`Routine`]).
pub(crate) struct Call {
    arguments: VariadicArguments,
    /// The function's name, for reports.
    pub(crate) function: &'static str,
}

impl Call {
    /// Carries out the call of `function` with these arguments.
    ///
    /// # Safety
    /// The arguments must be those that a thunk of [`exports`] passed. None may have been taken.
    pub(crate) unsafe fn carry_out(
        function: &'static str,
        arguments: VariadicArguments,
        body: fn(Self) -> usize,
    ) -> usize {
        trap::record_call(arguments.address());
        // SAFETY: all arguments of a call, as the caller promises.
        let caller = unsafe { arguments.return_address() };
        let call = Self {
            arguments,
            function,
        };
        callbacks::called_from(caller, || body(call))
    }

    /// The next argument, of 8 bytes.
    pub(crate) fn u64(&mut self) -> u64 {
        // SAFETY: the driver passed it (invariants).
        unsafe { self.arguments.u64() }
    }

    /// The next argument, a ULONG or an enum.
    pub(crate) fn u32(&mut self) -> u32 {
        self.u64() as u32
    }

    /// The next argument, a UCHAR or BOOLEAN.
    pub(crate) fn u8(&mut self) -> u8 {
        self.u64() as u8
    }

    /// The next argument, a pointer.
    pub(crate) fn address(&mut self) -> usize {
        self.u64() as usize
    }

    /// The next argument, a pointer to a structure or variable.
    pub(crate) fn structure(&mut self) -> Structure {
        let address = self.address();
        // SAFETY: the driver passed it as a pointer.
        unsafe { Structure::at(address) }
    }

    /// [`Self::structure`], which must not be NULL.
    pub(crate) fn required(&mut self) -> Result<Structure, u32> {
        let structure = self.structure();
        if structure.is_null() {
            return Err(STOR_STATUS_INVALID_PARAMETER);
        }
        Ok(structure)
    }

    /// The next argument, a function of the driver.
    pub(crate) fn routine(&mut self) -> Routine {
        let address = self.address();
        // SAFETY: the driver passed it as a pointer to a function.
        unsafe { Routine::at(address) }
    }

    /// The next argument, a string.
    pub(crate) fn string(&mut self) -> String {
        let address = self.address();
        if address == 0 {
            return String::new();
        }
        // SAFETY: the driver passed it as a C string.
        unsafe { CStr::from_ptr(address as *const std::ffi::c_char) }
            .to_string_lossy()
            .into_owned()
    }

    /// The adapter whose HwDeviceExtension is the next argument.
    pub(crate) fn port(&mut self) -> &'static Port {
        let extension = self.address();
        Port::of(extension, self.function)
    }

    /// The adapter of the running callback. The next argument is HwDeviceExtension, which the
    /// register and port functions do not use on x64: miniports pass NULL.
    pub(crate) fn port_of_callback(&mut self) -> &'static Port {
        let extension = self.address();
        callbacks::current_port().unwrap_or_else(|| Port::of(extension, self.function))
    }

    /// PathId, TargetId and Lun, the next arguments.
    pub(crate) fn unit_address(&mut self) -> Address {
        Address {
            path: self.u8(),
            target: self.u8(),
            lun: self.u8(),
        }
    }

    /// The unit of PathId, TargetId and Lun, if there is one.
    pub(crate) fn unit(&mut self, port: &Port) -> Option<&'static Unit> {
        let address = self.unit_address();
        port.units.get(address)
    }
}

/// Defines `EXPORTS`: the names and thunks of functions that take a [`Call`].
macro_rules! exports {
    ($($name:ident: $body:expr,)*) => {
        /// The exported functions: names and thunks.
        static EXPORTS: &[(&str, extern "win64" fn() -> usize)] = &[$({
            #[expect(unsafe_code, reason = "takes the arguments that the driver passed")]
            extern "win64" fn target(
                arguments: testbed_machine::variadic::VariadicArguments,
            ) -> usize {
                schedule::point(Point::Call);
                let body: fn(Call) -> usize = $body;
                // SAFETY: `entry` passed the arguments.
                let result = unsafe { Call::carry_out(stringify!($name), arguments, body) };
                schedule::point(Point::CallEnd);
                result
            }
            testbed_machine::variadic_entry!(fn entry => target);
            (stringify!($name), entry)
        },)*];
    };
}
pub(crate) use exports;
