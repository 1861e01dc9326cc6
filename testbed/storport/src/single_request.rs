//! Requests one at a time on the calling thread, without CPU queues: for dump stacks, and for the
//! removal of an adapter that never started.

use std::sync::atomic::Ordering;

use super::{
    adapter::SrbShape,
    callbacks::Callback,
    port::Port,
    srb::{Slot, SrbSettings, Srbs, state},
};
use testbed_machine::memory::MemoryError;

/// The number of the SRB.
const NUMBER: u32 = 0;

impl Port {
    /// Allocates the SRB, with at most `elements` in its list.
    pub(super) fn prepare_single(
        &self,
        shape: SrbShape,
        extension_bytes: usize,
        elements: usize,
        map_buffers: u32,
    ) -> Result<(), MemoryError> {
        let settings = SrbSettings {
            shape,
            extension_bytes,
            elements,
            map_buffers,
            checks: self.settings.checks,
        };
        let srbs = Srbs::new(self.machine.memory(), settings, 1, 1);
        srbs.grow(0, 0)?;
        let _ = self.srbs.set(srbs);
        Ok(())
    }

    /// The SRB.
    pub(super) fn single(&self) -> &Slot {
        self.srbs().slot(NUMBER)
    }

    /// The SRB's number.
    pub(super) fn single_number(&self) -> u32 {
        NUMBER
    }

    /// Calls HwBuildIo at `level`, and HwStartIo if HwBuildIo returns TRUE.
    pub(super) fn build_and_start_single(&'static self, level: u8) {
        let slot = self.single();
        let routine = self.registration().build_io;
        self.srbs().restore(NUMBER);
        slot.state.store(state::BUILDING, Ordering::Release);
        if !routine.is_none() {
            let arguments = [self.extension(), slot.address()];
            let result = self.call(Callback::HwBuildIo, level, routine, arguments);
            if result as u8 == 0 {
                slot.keep();
                return;
            }
        }
        self.start_single(level);
    }

    /// Calls HwStartIo at `level`.
    pub(super) fn start_single(&'static self, level: u8) {
        let slot = self.single();
        self.srbs().restore(NUMBER);
        slot.state.store(state::STARTED, Ordering::Release);
        let arguments = [self.extension(), slot.address()];
        let routine = self.registration().start_io;
        self.call(Callback::HwStartIo, level, routine, arguments);
    }

    /// Whether the miniport has completed the SRB.
    pub(super) fn is_single_back(&self) -> bool {
        self.single().state.load(Ordering::Acquire) == state::COMPLETED
    }
}
