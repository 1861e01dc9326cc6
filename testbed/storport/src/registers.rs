//! Access to a function's registers and configuration space: StorPortGetDeviceBase, and the
//! exported register and port functions.

use std::sync::{Mutex, MutexGuard};

use super::{
    callbacks::{self, Callback},
    lock, plug_and_play,
    port::Port,
    violations::Rule,
};
use testbed_machine::{pci::BarKind, trap::RegisterWindow};

struct Window {
    bar: usize,
    offset: u64,
    bytes: u64,
    mapped: RegisterWindow,
}

#[derive(Default)]
pub(super) struct Windows(Mutex<Vec<Window>>);

impl Windows {
    fn lock(&self) -> MutexGuard<'_, Vec<Window>> {
        lock(&self.0)
    }

    /// The BAR and offset of `bytes` mapped bytes at `address`.
    fn find(&self, address: usize, bytes: usize) -> Option<(usize, u64)> {
        self.lock().iter().find_map(|window| {
            let into = address.checked_sub(window.mapped.address())? as u64;
            (into + bytes as u64 <= window.bytes).then_some((window.bar, window.offset + into))
        })
    }
}

impl Port {
    /// The BAR that contains a range of bus addresses, and the range's offset.
    fn bar_of(&self, kind: BarKind, address: u64, bytes: u64) -> Option<(usize, u64)> {
        plug_and_play::bars(self.function.as_ref())
            .into_iter()
            .find_map(|(index, bar)| {
                let offset = address.checked_sub(bar.address)?;
                let inside = bar.kind == kind && offset.checked_add(bytes)? <= bar.bytes;
                inside.then_some((index, offset))
            })
    }

    /// StorPortGetDeviceBase. Returns 0 if it maps nothing.
    pub(super) fn device_base(&self, kind: BarKind, address: u64, bytes: u32) -> usize {
        let Some((bar, offset)) = self.bar_of(kind, address, u64::from(bytes)) else {
            self.violation(
                Rule::DeviceBase,
                format_args!(
                    "StorPortGetDeviceBase: {bytes} bytes of {kind:?} space at {address:#x} are \
                     in no access range"
                ),
            );
            return 0;
        };
        if kind == BarKind::Io {
            return address as usize;
        }
        match RegisterWindow::map(&self.function, bar, offset, u64::from(bytes)) {
            Ok(mapped) => {
                let base = mapped.address();
                self.windows.lock().push(Window {
                    bar,
                    offset,
                    bytes: u64::from(bytes),
                    mapped,
                });
                base
            }
            Err(refused) => {
                self.event(format_args!(
                    "StorPortGetDeviceBase: the host cannot map registers: {refused}"
                ));
                0
            }
        }
    }

    /// StorPortFreeDeviceBase.
    pub(super) fn free_device_base(&self, address: usize) {
        let mut windows = self.windows.lock();
        let known = windows
            .iter()
            .position(|window| window.mapped.address() == address);
        match known {
            Some(index) => drop(windows.remove(index)),
            None if self.bar_of(BarKind::Io, address as u64, 1).is_some() => {}
            None => {
                drop(windows);
                self.violation(
                    Rule::DeviceBase,
                    format_args!("StorPortFreeDeviceBase: {address:#x} is not mapped"),
                );
            }
        }
    }

    /// Reads a mapped register, for StorPortReadRegisterUlong and its variants.
    pub(super) fn read_register(&self, address: usize, data: &mut [u8]) {
        match self.windows.find(address, data.len()) {
            Some((bar, offset)) => self.function.bar_read(bar, offset, data),
            None => {
                data.fill(0xff);
                self.not_mapped(address);
            }
        }
    }

    pub(super) fn write_register(&self, address: usize, data: &[u8]) {
        match self.windows.find(address, data.len()) {
            Some((bar, offset)) => self.function.bar_write(bar, offset, data),
            None => self.not_mapped(address),
        }
    }

    /// Reads a port, for StorPortReadPortUlong and its variants.
    pub(super) fn read_port(&self, address: usize, data: &mut [u8]) {
        match self.bar_of(BarKind::Io, address as u64, data.len() as u64) {
            Some((bar, offset)) => self.function.bar_read(bar, offset, data),
            None => {
                data.fill(0xff);
                self.not_mapped(address);
            }
        }
    }

    pub(super) fn write_port(&self, address: usize, data: &[u8]) {
        match self.bar_of(BarKind::Io, address as u64, data.len() as u64) {
            Some((bar, offset)) => self.function.bar_write(bar, offset, data),
            None => self.not_mapped(address),
        }
    }

    fn not_mapped(&self, address: usize) {
        self.violation(
            Rule::RegisterAddress,
            format_args!("no register of the adapter is at {address:#x}"),
        );
    }

    /// Reports an access to configuration space in the wrong callback (storport-rules.md
    /// Routines).
    pub(super) fn check_bus_data(&self, function: &str) {
        use super::abi::wdk::{ScsiSetBootConfig, ScsiSetRunningConfig};
        let callback = callbacks::current();
        let control = callbacks::current_argument();
        let allowed = callback == Callback::HwFindAdapter
            || callback == Callback::HwAdapterControl
                && [ScsiSetBootConfig, ScsiSetRunningConfig].contains(&control);
        if !allowed {
            self.violation(
                Rule::DdiCallback,
                format_args!(
                    "{function} in {}, not in HwFindAdapter or \
                     HwAdapterControl(ScsiSetRunningConfig)",
                    callback.name()
                ),
            );
        }
    }
}
