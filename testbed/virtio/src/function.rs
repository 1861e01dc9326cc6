//! The registers of a virtio-blk function.

use std::mem;

use virtio_bindings::bindings::virtio_blk::VIRTIO_BLK_F_FLUSH;

use crate::{
    blk_config::BlkConfig,
    common_config::{CommonConfig, Effect},
    driver_errors::DriverErrors,
};

/// A structure of registers (VIRTIO 1.3 §4.1.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Structure {
    /// VIRTIO_PCI_CAP_COMMON_CFG.
    Common,
    /// VIRTIO_PCI_CAP_ISR_CFG.
    Isr,
    /// VIRTIO_PCI_CAP_DEVICE_CFG.
    Device,
    /// VIRTIO_PCI_CAP_NOTIFY_CFG. Its registers belong to the queues, not to [`Function`].
    Notify,
}

/// The registers.
#[derive(Debug)]
pub struct Function {
    /// The common configuration.
    pub common: CommonConfig,
    /// The device-specific configuration.
    pub config: BlkConfig,
    /// The ISR status.
    pub isr: u8,
    /// Whether writes to `writeback` have no effect.
    pub keeps_writeback: bool,
    /// Whether the device sets DEVICE_NEEDS_RESET when the driver sets DRIVER_OK.
    pub breaks_at_start: bool,
}

impl Function {
    /// The registers of an honest function.
    #[must_use]
    pub fn new(common: CommonConfig, config: BlkConfig) -> Self {
        Self {
            common,
            config,
            isr: 0,
            keeps_writeback: false,
            breaks_at_start: false,
        }
    }

    /// Resets all registers. The queues must have stopped.
    pub fn reset(&mut self) {
        self.common.reset();
        self.isr = 0;
        self.config.writeback = true;
    }

    /// Gives all registers the values that they have after power-on. The queues must have
    /// stopped.
    pub fn power_cycle(&mut self) {
        self.reset();
        self.common.power_cycle();
    }

    /// Notes a read. Returns whether it ends a slow reset. The device must then stop all queues
    /// and reset, and read after that.
    #[must_use]
    pub fn read_ends_reset(&mut self, structure: Structure, offset: u64) -> bool {
        structure == Structure::Common && self.common.read_ends_reset(offset)
    }

    /// Reads a register.
    pub fn read(
        &mut self,
        structure: Structure,
        offset: u64,
        data: &mut [u8],
        driver_errors: &DriverErrors,
    ) {
        match structure {
            Structure::Common => self.common.read(offset, data, driver_errors),
            Structure::Isr if (offset, data.len()) == (0, 1) => data[0] = mem::take(&mut self.isr),
            Structure::Device => {
                let (offered, status) = (self.common.offered, self.common.status());
                self.config
                    .read(offset, data, offered, status, driver_errors);
            }
            Structure::Isr | Structure::Notify => {
                data.fill(0);
                driver_errors.add(format!(
                    "{structure:?} structure: a read of {} bytes at {offset:#x}, where nothing \
                     can be read (VIRTIO 1.3 §4.1.4)",
                    data.len()
                ));
            }
        }
    }

    /// Writes a register, but not one of [`Structure::Notify`]. `msix` is whether MSI-X is
    /// enabled. The device carries out the effect, or [`Self::carry_out`] does.
    #[must_use]
    pub fn write(
        &mut self,
        structure: Structure,
        offset: u64,
        data: &[u8],
        msix: bool,
        driver_errors: &DriverErrors,
    ) -> Effect {
        match structure {
            Structure::Common => {
                let effect = self.common.write(offset, data, msix, driver_errors);
                if let Effect::FeaturesAgreed(features) = effect {
                    // Without VIRTIO_BLK_F_FLUSH there is no cache that a driver could rely on
                    // (VIRTIO 1.3 §5.2.5.2).
                    self.config.writeback = features & 1 << VIRTIO_BLK_F_FLUSH != 0;
                }
                return effect;
            }
            Structure::Device => {
                let (agreed, status) = (self.common.agreed(), self.common.status());
                let written = BlkConfig::written(offset, data, agreed, status, driver_errors);
                if let Some(writeback) = written.filter(|_| !self.keeps_writeback) {
                    self.config.writeback = writeback;
                }
            }
            Structure::Isr | Structure::Notify => driver_errors.add(format!(
                "{structure:?} structure: a write of {} bytes at {offset:#x}, where nothing can \
                 be written (VIRTIO 1.3 §4.1.4)",
                data.len()
            )),
        }
        Effect::None
    }

    /// Carries out the effect of a write for a device without threads, whose queues have
    /// stopped.
    pub fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Reset => self.reset(),
            Effect::Enable(index, _) => self.common.queue_in_use(index),
            Effect::Start if self.breaks_at_start => _ = self.common.needs_reset(),
            Effect::None | Effect::FeaturesAgreed(_) | Effect::Start => {}
        }
    }
}
