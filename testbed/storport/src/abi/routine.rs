//! The address of a driver's function, which the testbed can call.

use testbed_loader::Image;
use testbed_machine::trap;

/// The address of a function of the driver, or none.
///
/// # Invariants
/// The driver passed the address to Storport or stored it as a pointer to a function, or it is
/// the entry point of the driver's image. Storport trusts it as the kernel does. If it is
/// wrong, the call faults, and the fault is reported as the driver's crash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Routine(usize);

type Function = extern "win64" fn(usize, usize, usize, usize, usize, usize) -> usize;

impl Routine {
    pub(crate) const NONE: Self = Self(0);

    /// The function at `address`; 0 is none.
    ///
    /// # Safety
    /// The driver must have passed or stored `address` as a pointer to a function.
    pub(crate) unsafe fn at(address: usize) -> Self {
        Self(address)
    }

    /// DriverEntry.
    pub(crate) fn entry(image: &Image) -> Self {
        Self(image.entry())
    }

    pub(crate) fn address(self) -> usize {
        self.0
    }

    pub(crate) fn is_none(self) -> bool {
        self == Self::NONE
    }

    /// Calls the function, which ignores arguments beyond its own. A BOOLEAN or ULONG result
    /// leaves the upper part of the returned value undefined.
    pub(crate) fn call(self, arguments: [usize; 6]) -> usize {
        // SAFETY: 0, or a function of the driver (invariants). In the Microsoft ABI, additional
        // arguments have no effect.
        let function = unsafe { std::mem::transmute::<usize, Option<Function>>(self.0) };
        let Some(function) = function else {
            trap::stop_machine(format_args!(
                "the testbed calls a function that the driver does not have: please report this \
                 bug"
            ))
        };
        let [a, b, c, d, e, f] = arguments;
        function(a, b, c, d, e, f)
    }
}
