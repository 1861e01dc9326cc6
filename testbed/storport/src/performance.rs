//! StorPortInitializePerfOpts and StorPortGetStartIoPerfParams.

use super::{
    abi::{
        Status, Structure, group_affinity, perf_configuration_data as data,
        wdk::{self, STOR_STATUS_INVALID_PARAMETER, STOR_STATUS_UNSUCCESSFUL},
    },
    adapter::ConcurrentChannels,
    callbacks::{self, Callback},
    interrupts::Controller,
    port::Port,
    violations::Rule,
};
use testbed_machine::cpu;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Performance {
    /// The first and last message for STOR_PERF_INTERRUPT_MESSAGE_RANGES.
    messages: Option<(u32, u32)>,
}

impl Performance {
    /// The message that completes the requests of CPU `cpu`.
    fn message_for(self, cpu: u32) -> u32 {
        let Some((first, last)) = self.messages else {
            return 0;
        };
        (first..=last)
            .find(|message| Controller::cpu_of(*message) == cpu)
            .unwrap_or(first + cpu % (last - first + 1))
    }
}

/// The size of PERF_CONFIGURATION_DATA: before version 3 it ends with the message numbers.
fn size_of(version: u32) -> u32 {
    if version >= 3 { data::SIZE as u32 } else { 24 }
}

impl Port {
    /// The flags that are offered for a structure of this version (storport-rules.md
    /// PERF_CONFIGURATION_DATA). STOR_PERF_NO_SGL is not, because each request has a list.
    fn offered(&self, version: u32) -> u32 {
        let mut flags = wdk::STOR_PERF_DPC_REDIRECTION;
        if self.settings.concurrent_channels == ConcurrentChannels::Granted {
            flags |= wdk::STOR_PERF_CONCURRENT_CHANNELS;
        }
        if self.messages() > 0 {
            flags |= wdk::STOR_PERF_INTERRUPT_MESSAGE_RANGES;
        }
        if version >= 3 {
            flags |= wdk::STOR_PERF_OPTIMIZE_FOR_COMPLETION_DURING_STARTIO;
            if self.messages() > 0 {
                flags |= wdk::STOR_PERF_ADV_CONFIG_LOCALITY;
            }
        }
        if version >= 4 {
            flags |= wdk::STOR_PERF_DPC_REDIRECTION_CURRENT_CPU;
        }
        flags
    }

    pub(super) fn performance_options(&self, query: bool, to: Structure) -> Status {
        if to.is_null() {
            self.violation(
                Rule::PerfOpts,
                format_args!("StorPortInitializePerfOpts without PerfConfigData"),
            );
            return Err(STOR_STATUS_INVALID_PARAMETER);
        }
        // storport-rules.md Routines.
        let callback = callbacks::current();
        if !matches!(
            callback,
            Callback::HwInitialize | Callback::HwPassiveInitialize
        ) {
            self.violation(
                Rule::DdiCallback,
                format_args!("StorPortInitializePerfOpts in {}", callback.name()),
            );
            return Err(STOR_STATUS_UNSUCCESSFUL);
        }
        let version = to.get(data::Version);
        if version < 2 || to.get(data::Size) < size_of(version) {
            return Err(STOR_STATUS_INVALID_PARAMETER);
        }
        let offered = self.offered(version);
        if query {
            to.set(data::Flags, offered);
            return Ok(());
        }
        self.grant(to, offered)
    }

    fn grant(&self, to: Structure, offered: u32) -> Status {
        let flags = to.get(data::Flags);
        let needs = |flag: u32, other: u32| flags & flag == 0 || flags & other == other;
        let redirection = wdk::STOR_PERF_DPC_REDIRECTION;
        let ranges = wdk::STOR_PERF_INTERRUPT_MESSAGE_RANGES;
        let consistent = flags & !offered == 0
            && needs(ranges, redirection)
            && needs(wdk::STOR_PERF_ADV_CONFIG_LOCALITY, ranges | redirection)
            && needs(
                wdk::STOR_PERF_OPTIMIZE_FOR_COMPLETION_DURING_STARTIO,
                redirection,
            )
            && needs(wdk::STOR_PERF_DPC_REDIRECTION_CURRENT_CPU, redirection);
        let first = to.get(data::FirstRedirectionMessageNumber);
        let last = to.get(data::LastRedirectionMessageNumber);
        let has_ranges = flags & ranges != 0;
        let ranges_fit = !has_ranges || first <= last && last < self.messages();
        let channels = to.get(data::ConcurrentChannels);
        let wants_channels = flags & wdk::STOR_PERF_CONCURRENT_CHANNELS != 0;
        if !consistent || !ranges_fit || wants_channels && channels == 0 {
            return Err(STOR_STATUS_UNSUCCESSFUL);
        }
        let granted = Performance {
            messages: has_ranges.then_some((first, last)),
        };
        if self.performance.set(granted).is_err() {
            return Err(STOR_STATUS_UNSUCCESSFUL);
        }
        if wants_channels {
            // Succeeds, because the options were not set before.
            self.locks.grant_channels(channels.min(cpu::count()));
        }
        if flags & wdk::STOR_PERF_ADV_CONFIG_LOCALITY != 0 {
            self.fill_targets(to, first, last);
        }
        Ok(())
    }

    fn fill_targets(&self, to: Structure, first: u32, last: u32) {
        to.set(data::DeviceNode, 0);
        let targets = to.follow(data::MessageTargets);
        if targets.is_null() {
            return;
        }
        for (message, at) in (first..=last).zip((0..).step_by(group_affinity::SIZE)) {
            let target = targets.offset(at);
            target.fill(group_affinity::SIZE, 0);
            target.set(group_affinity::Mask, 1 << Controller::cpu_of(message));
        }
    }

    /// The message and the channel of a request that the calling CPU starts
    /// (STARTIO_PERFORMANCE_PARAMETERS).
    pub(super) fn start_io_parameters(&self) -> (u32, u32) {
        let number = cpu::current_number();
        let message = self
            .performance
            .get()
            .map_or(0, |granted| granted.message_for(number));
        let channel = number.checked_rem(self.locks.channels()).unwrap_or(0);
        (message, channel)
    }
}
