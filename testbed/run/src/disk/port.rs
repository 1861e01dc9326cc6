//! The class driver's interface to the port driver: single commands, and programs that keep
//! many commands in flight.

use std::time::Duration;

use super::cdb::Command;
use crate::status::{ScsiStatus, Sense, SrbStatus, key, srb};
use testbed_storport::{
    adapter::{Adapter, AdapterLimits},
    request::{Completion, Program, Request},
};

/// The time-out of a command: SCSI_DISK_TIMEOUT (`classpnp.h`), the default of disk.sys.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);

/// The number of retries of a command: MAXIMUM_RETRIES (`classpnp.h`).
pub(crate) const RETRIES: u32 = 8;

/// A port driver, as the class driver uses it: [`Adapter`], or a fake in tests.
pub trait Port: Send + Sync {
    /// [`Adapter::execute`].
    fn execute(&self, request: Request) -> Completion;
    /// [`Adapter::run`].
    fn run(&self, programs: Vec<Box<dyn Program>>) -> Vec<Box<dyn Program>>;
    /// [`Adapter::limits`].
    fn limits(&self) -> AdapterLimits;
    /// [`Adapter::topology`].
    fn topology(&self) -> (u8, u8, u8);
}

impl Port for Adapter {
    fn execute(&self, request: Request) -> Completion {
        Self::execute(self, request)
    }

    fn run(&self, programs: Vec<Box<dyn Program>>) -> Vec<Box<dyn Program>> {
        Self::run(self, programs)
    }

    fn limits(&self) -> AdapterLimits {
        Self::limits(self)
    }

    fn topology(&self) -> (u8, u8, u8) {
        Self::topology(self)
    }
}

/// A failed command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{command}: {how}")]
pub struct CommandError {
    /// The command.
    pub command: Command,
    /// Its failure.
    pub how: Failure,
}

/// The failure of a command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// An error status.
    #[error(
        "{srb_status}, {scsi_status}, {}",
        .sense.map_or_else(|| "no sense data".to_owned(), |sense| format!("sense {sense}"))
    )]
    Status {
        /// The SRB status.
        srb_status: SrbStatus,
        /// The SCSI status.
        scsi_status: ScsiStatus,
        /// The sense data, if it is valid.
        sense: Option<Sense>,
    },
    /// A success status, but the wrong length.
    #[error("completed as a success, but with {transferred} of {expected} bytes transferred")]
    Length {
        /// Bytes transferred.
        transferred: u32,
        /// Bytes requested.
        expected: u32,
    },
}

impl Failure {
    /// The failure in `completion`; `None` for a success or an underrun. An underrun is not a
    /// failure: the port reports it as DATA_OVERRUN with the shorter length.
    pub(crate) fn status_of(completion: &Completion) -> Option<Self> {
        let good = matches!(completion.srb_status, srb::SUCCESS | srb::DATA_OVERRUN)
            && ScsiStatus(completion.scsi_status) == ScsiStatus::GOOD;
        (!good).then(|| Self::Status {
            srb_status: SrbStatus(completion.srb_status),
            scsi_status: ScsiStatus(completion.scsi_status),
            sense: completion
                .sense_valid
                .then(|| Sense::decode(&completion.sense))
                .flatten(),
        })
    }

    /// The failure in the completion of a transfer of exactly `expected` bytes.
    pub(crate) fn transfer_of(completion: &Completion, expected: u32) -> Option<Self> {
        Self::status_of(completion).or_else(|| {
            (completion.transferred != expected).then_some(Self::Length {
                transferred: completion.transferred,
                expected,
            })
        })
    }

    /// Whether the class driver tries again: after resets, attentions and
    /// refusals for want of room.
    pub(crate) fn is_worth_a_retry(&self) -> bool {
        let Self::Status {
            srb_status,
            scsi_status,
            sense,
        } = self
        else {
            return false;
        };
        if let Some(sense) = sense {
            return matches!(sense.key, key::UNIT_ATTENTION | key::ABORTED_COMMAND)
                || (sense.key == key::NOT_READY && (sense.code, sense.qualifier) == (0x04, 0x01));
        }
        matches!(
            srb_status.0,
            srb::BUSY | srb::BUS_RESET | srb::ABORTED | srb::REQUEST_FLUSHED
        ) || matches!(scsi_status.0, 0x08 | 0x28 | 0x40)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::fake_port::failed, *};

    fn completion(srb_status: u8, transferred: u32) -> Completion {
        Completion {
            token: 0,
            srb_status,
            sense_valid: false,
            scsi_status: 0,
            sense: Vec::new(),
            transferred,
            latency: Duration::ZERO,
        }
    }

    /// An error with this sense key and code.
    fn error(key: u8, code: u8) -> Completion {
        failed(completion(0, 0), key, code)
    }

    #[test]
    fn a_completion_is_a_failure_by_its_status_or_as_a_transfer_by_its_length() {
        assert_eq!(Failure::transfer_of(&completion(0x01, 512), 512), None);
        let short = Failure::Length {
            transferred: 511,
            expected: 512,
        };
        assert_eq!(
            Failure::transfer_of(&completion(0x01, 511), 512),
            Some(short)
        );
        assert_eq!(Failure::status_of(&completion(0x12, 36)), None);
        let checked = Completion {
            scsi_status: 2,
            ..completion(0x01, 0)
        };
        assert!(Failure::status_of(&checked).is_some());
    }

    #[test]
    fn attentions_resets_and_busy_are_worth_a_retry_and_refusals_are_not() {
        let mut becoming_ready = error(0x2, 0x04);
        becoming_ready.sense[13] = 1;
        for (completion, is_worth_a_retry) in [
            (error(0x6, 0x29), true),
            (error(0xB, 0), true),
            (becoming_ready, true),
            (completion(0x0E, 0), true),
            (completion(0x05, 0), true),
            (error(0x5, 0x21), false),
            (error(0x3, 0x11), false),
            (completion(0x08, 0), false),
        ] {
            let failure = Failure::status_of(&completion).expect("a failure");
            assert_eq!(failure.is_worth_a_retry(), is_worth_a_retry, "{failure}");
        }
    }

    #[test]
    fn an_error_names_the_command_both_statuses_and_the_sense() {
        let error = CommandError {
            command: Command::read_capacity_10(),
            how: Failure::status_of(&error(0x5, 0x20)).expect("a failure"),
        };

        assert_eq!(
            error.to_string(),
            "READ CAPACITY(10): SRB_STATUS_ERROR (04h), CHECK CONDITION (02h), sense ILLEGAL \
             REQUEST (5h), invalid command operation code (ASC 20h, ASCQ 00h)"
        );
    }
}
