//! Storport's performance options, and the parameters of a request that follow from them
//! (storport-rules.md PERF_CONFIGURATION_DATA).
#![expect(unsafe_code, reason = "the structures are Storport's")]

use wdk_sys::{
    GROUP_AFFINITY, PERF_CONFIGURATION_DATA, PSCSI_REQUEST_BLOCK, STARTIO_PERFORMANCE_PARAMETERS,
    STOR_PERF_ADV_CONFIG_LOCALITY, STOR_PERF_CONCURRENT_CHANNELS, STOR_PERF_DPC_REDIRECTION,
    STOR_PERF_DPC_REDIRECTION_CURRENT_CPU, STOR_PERF_INTERRUPT_MESSAGE_RANGES,
    STOR_PERF_OPTIMIZE_FOR_COMPLETION_DURING_STARTIO, STOR_PERF_VERSION_4,
};

use crate::{extension::Header, port, routines::Processor, status::StorStatus};

/// The BOOLEAN `Query` of StorPortInitializePerfOpts, as C passes it: [`QUERY`] returns the flags
/// that Storport supports, and [`SET`] sets flags.
const QUERY: i32 = 1;
const SET: i32 = 0;

/// Performance options that the miniport wants, or that Storport has granted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Performance {
    /// The number of concurrent channels, in each of which one HwStartIo may run at a time. With
    /// more than one, HwStartIo runs without the StartIo lock (STOR_PERF_CONCURRENT_CHANNELS).
    pub channels: u32,
    /// Requests are completed on the processor that sent them (STOR_PERF_DPC_REDIRECTION). The
    /// options below require this one.
    pub dpc_redirection: bool,
    /// DPCs run on the processor that issues them
    /// (STOR_PERF_DPC_REDIRECTION_CURRENT_CPU).
    pub dpcs_stay: bool,
    /// Storport chooses a message for each request, from the first to the last of these
    /// (STOR_PERF_INTERRUPT_MESSAGE_RANGES).
    pub messages: Option<(u32, u32)>,
    /// Requests are completed in HwStartIo
    /// (STOR_PERF_OPTIMIZE_FOR_COMPLETION_DURING_STARTIO).
    pub completes_in_start_io: bool,
}

/// The processors that a message can interrupt. It has no processor until Storport sets it.
#[derive(Clone, Copy, Debug, Default)]
#[repr(transparent)]
pub struct MessageTarget(GROUP_AFFINITY);

impl MessageTarget {
    /// Whether the message can interrupt this processor.
    #[must_use]
    pub fn contains(&self, processor: Processor) -> bool {
        let bit = 1_u64.checked_shl(processor.number.into()).unwrap_or(0);
        self.0.Group == processor.group && self.0.Mask & bit != 0
    }
}

impl Performance {
    fn flags(&self) -> u32 {
        let mut flags = 0;
        if self.channels > 1 {
            flags |= STOR_PERF_CONCURRENT_CHANNELS;
        }
        if !self.dpc_redirection {
            return flags;
        }
        flags |= STOR_PERF_DPC_REDIRECTION;
        if self.dpcs_stay {
            flags |= STOR_PERF_DPC_REDIRECTION_CURRENT_CPU;
        }
        if self.messages.is_some() {
            flags |= STOR_PERF_INTERRUPT_MESSAGE_RANGES;
        }
        if self.completes_in_start_io {
            flags |= STOR_PERF_OPTIMIZE_FOR_COMPLETION_DURING_STARTIO;
        }
        flags
    }

    /// The options among these that `flags` has.
    fn among(&self, flags: u32) -> Self {
        let has = |flag| flags & flag != 0;
        let redirection = self.dpc_redirection && has(STOR_PERF_DPC_REDIRECTION);
        Self {
            channels: if self.channels > 1 && has(STOR_PERF_CONCURRENT_CHANNELS) {
                self.channels
            } else {
                0
            },
            dpc_redirection: redirection,
            dpcs_stay: redirection && self.dpcs_stay && has(STOR_PERF_DPC_REDIRECTION_CURRENT_CPU),
            messages: self
                .messages
                .filter(|_| redirection && has(STOR_PERF_INTERRUPT_MESSAGE_RANGES)),
            completes_in_start_io: redirection
                && self.completes_in_start_io
                && has(STOR_PERF_OPTIMIZE_FOR_COMPLETION_DURING_STARTIO),
        }
    }

    /// Asks Storport which options it supports, and sets those that are wanted. Returns the options
    /// that were granted.
    ///
    /// If `messages` is granted, and `targets` has an element for each of them, also asks for
    /// the processors of each message (STOR_PERF_ADV_CONFIG_LOCALITY).
    ///
    /// # Safety
    /// Called from HwInitialize or HwPassiveInitialize, not in a dump stack.
    pub(crate) unsafe fn request(&self, adapter: &Header, targets: &mut [MessageTarget]) -> Self {
        let mut data = PERF_CONFIGURATION_DATA {
            Version: STOR_PERF_VERSION_4,
            Size: size_of::<PERF_CONFIGURATION_DATA>() as u32,
            ..PERF_CONFIGURATION_DATA::default()
        };
        // SAFETY: The caller's promise. `data` outlives the call.
        if unsafe { port::initialize_perf_opts(adapter, QUERY, &raw mut data) }.is_err() {
            return Self::default();
        }
        let offered = data.Flags;
        let granted = self.among(offered);
        data.Flags = granted.flags();
        if data.Flags == 0 {
            return granted;
        }
        data.ConcurrentChannels = granted.channels;
        let (first, last) = granted.messages.unwrap_or_default();
        data.FirstRedirectionMessageNumber = first;
        data.LastRedirectionMessageNumber = last;
        let count = last.checked_sub(first).and_then(|more| more.checked_add(1));
        let count = count.and_then(|count| usize::try_from(count).ok());
        let have_targets = count.is_some_and(|count| count <= targets.len());
        if offered & STOR_PERF_ADV_CONFIG_LOCALITY != 0
            && granted.messages.is_some()
            && have_targets
        {
            data.Flags |= STOR_PERF_ADV_CONFIG_LOCALITY;
            // A `MessageTarget` is a GROUP_AFFINITY. Storport writes one for each message.
            data.MessageTargets = targets.as_mut_ptr().cast();
        }
        // SAFETY: As above. MessageTargets is null, or has an element for each message and
        // outlives the call.
        match unsafe { port::initialize_perf_opts(adapter, SET, &raw mut data) } {
            Ok(()) => granted,
            Err(_) => Self::default(),
        }
    }
}

/// The parameters of a request in HwStartIo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartIoParameters {
    /// The message by which the device should report the completion, if
    /// [`Performance::messages`] was granted.
    pub message: u32,
    /// The channel in which HwStartIo runs, if [`Performance::channels`] was granted. Otherwise 0.
    pub channel: u32,
}

impl StartIoParameters {
    /// # Safety
    /// `srb` was given to HwStartIo of `adapter` and is not completed.
    pub(crate) unsafe fn of(
        adapter: &Header,
        srb: PSCSI_REQUEST_BLOCK,
    ) -> Result<Self, StorStatus> {
        let mut parameters = STARTIO_PERFORMANCE_PARAMETERS {
            Version: 1,
            Size: size_of::<STARTIO_PERFORMANCE_PARAMETERS>() as u32,
            ..STARTIO_PERFORMANCE_PARAMETERS::default()
        };
        // SAFETY: The caller's promise. `parameters` outlives the call.
        unsafe { port::get_start_io_perf_params(adapter, srb, &raw mut parameters) }?;
        Ok(Self {
            message: parameters.MessageNumber,
            channel: parameters.ChannelNumber,
        })
    }
}
