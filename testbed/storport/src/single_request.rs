//! Requests one at a time on the calling thread, without CPU queues: for dump stacks, and for the
//! removal of an adapter that never started.

use std::sync::atomic::Ordering;

use super::{
    callbacks::Callback,
    port::Port,
    srb::{Slot, SrbSettings, Srbs, state},
};
use testbed_machine::memory::MemoryError;

const NUMBER: u32 = 0;

impl Port {
    /// Allocates the SRB.
    pub(super) fn prepare_single(&self, settings: SrbSettings) -> Result<(), MemoryError> {
        let srbs = Srbs::new(self.machine.memory(), settings, 1, 1);
        srbs.grow(0, 0)?;
        let _ = self.srbs.set(srbs);
        Ok(())
    }

    pub(super) fn single(&self) -> &Slot {
        self.srbs().slot(NUMBER)
    }

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

    pub(super) fn start_single(&'static self, level: u8) {
        let slot = self.single();
        self.srbs().restore(NUMBER);
        slot.state.store(state::STARTED, Ordering::Release);
        let arguments = [self.extension(), slot.address()];
        let routine = self.registration().start_io;
        self.call(Callback::HwStartIo, level, routine, arguments);
    }

    pub(super) fn is_single_back(&self) -> bool {
        self.single().state.load(Ordering::Acquire) == state::COMPLETED
    }
}
