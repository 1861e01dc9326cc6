//! The disk class driver: does with the miniport's logical unit what Windows' disk.sys would do.

pub mod buffer;
pub mod cdb;
pub mod discovery;
pub mod failures;
#[cfg(test)]
pub(crate) mod fake_port;
pub mod port;
pub mod transfer;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use rand::Rng;

use self::{
    buffer::Buffer,
    cdb::Command,
    discovery::{DiskError, Facts},
    failures::Failures,
    port::Port,
    transfer::{Initiator, InitiatorProgram, Limits},
};
use testbed_machine::memory::{Memory, MemoryError};
use testbed_storport::request::Program;

/// A disk that was found and can be used.
pub struct Disk {
    port: Arc<dyn Port>,
    memory: Arc<Memory>,
    facts: Facts,
    limits: Limits,
    retries: Arc<AtomicU64>,
    failures: Arc<Failures>,
}

impl Disk {
    /// Looks for a disk behind `port`.
    ///
    /// # Errors
    /// [`DiskError`]: there is none, or it contradicts itself.
    pub fn discover(port: Arc<dyn Port>, memory: &Arc<Memory>) -> Result<Self, DiskError> {
        let facts = discovery::discover(&*port, memory)?;
        let of_adapter = port.limits();
        let limits = Limits {
            address: facts.address,
            block_bytes: facts.block_bytes,
            max_transfer_bytes: of_adapter.max_transfer_bytes,
            max_physical_breaks: of_adapter.max_physical_breaks,
            write_through: facts.write_through(),
        };
        if !limits.fits_a_block() {
            return Err(DiskError::Answer {
                command: Command::read_capacity_10(),
                why: format!(
                    "a block of {} bytes does not fit the adapter's limits of {} bytes and {} \
                     physical breaks",
                    limits.block_bytes, limits.max_transfer_bytes, limits.max_physical_breaks
                ),
            });
        }
        Ok(Self {
            port,
            memory: Arc::clone(memory),
            facts,
            limits,
            retries: Arc::default(),
            failures: Arc::default(),
        })
    }

    /// The properties that discovery found.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Its failed transfers, if the run goes on after them.
    #[must_use]
    pub fn failures(&self) -> &Arc<Failures> {
        &self.failures
    }

    /// Its length in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.facts.blocks * u64::from(self.facts.block_bytes)
    }

    /// Buffers for transfers, as many and as long as asked for.
    ///
    /// # Errors
    /// The memory's.
    pub fn buffers(
        &self,
        random: &mut impl Rng,
        count: usize,
        bytes: u32,
    ) -> Result<Vec<Buffer>, MemoryError> {
        let mask = self.port.limits().alignment_mask;
        Buffer::scattered(&self.memory, random, mask, count, bytes)
    }

    /// Runs the initiators, number i on virtual CPU i modulo their number, and
    /// gives them back in the same order.
    #[must_use]
    pub fn run(&self, initiators: Vec<Box<dyn Initiator>>) -> Vec<Box<dyn Initiator>> {
        let programs = initiators
            .into_iter()
            .map(|initiator| -> Box<dyn Program> {
                let retries = Arc::clone(&self.retries);
                Box::new(InitiatorProgram::new(initiator, self.limits, retries))
            })
            .collect();
        self.port
            .run(programs)
            .into_iter()
            .filter_map(|program| program.into_any().downcast::<InitiatorProgram>().ok())
            .map(|program| program.into_initiator())
            .collect()
    }

    /// Has the disk write its cache to the medium.
    ///
    /// # Errors
    /// The command's.
    pub fn flush(&self) -> Result<(), DiskError> {
        let command = Command::synchronize_cache();
        discovery::ask(&*self.port, &self.memory, self.facts.address, command, 0).map(drop)
    }

    /// How many commands were tried again.
    #[must_use]
    pub fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests;
