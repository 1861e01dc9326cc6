//! The virtio-blk function, which connects configuration space, registers, queues and their
//! threads.

use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use virtio_bindings::bindings::{
    virtio_blk::{
        VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_SEG_MAX,
        VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_ID_BYTES,
    },
    virtio_config::VIRTIO_F_VERSION_1,
    virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC},
};
use vm_memory::GuestMemoryMmap;

use testbed_virtio::{
    blk_config::BlkConfig,
    common_config::{CommonConfig, DRIVER_OK, Effect, NEEDS_RESET, offset, replace},
    driver_errors::DriverErrors,
    function::{Function, Structure},
};

use testbed_machine::{
    pci::{Bar, FunctionCounters, Interrupts, PciFunction},
    schedule::{self, Handle},
};

use super::{
    blk_request::{Disk, Terms},
    config_space::{ConfigSpace, DeviceId, LEGACY_BAR, MSIX_BAR, NOTIFY_MULTIPLIER, structure_at},
    disk_image::{DiskImage, DiskImageError},
    faults::{Activity, Armed, Faults, Glitch, Served},
    interrupt_sender::InterruptSender,
    msix,
    queue_worker::QueueWorker,
};

/// The properties of a disk. The defaults are those of QEMU's `virtio-blk-pci`.
#[derive(Clone, Debug)]
pub struct BlkSettings {
    /// The PCI identity.
    pub device_id: DeviceId,
    /// The slot of this disk in the machine, 0 to 31. BARs of different slots do not overlap.
    pub slot: u8,
    /// MSI-X vectors, at most 2048. 0 leaves only INTx.
    pub msix_vectors: u16,
    /// The number of queues, 1 to 1024. With more than one, VIRTIO_BLK_F_MQ must be offered.
    pub queues: u16,
    /// The maximum number of descriptors in a queue: a power of two, at most 32768.
    pub queue_size: u16,
    /// The feature bits to offer.
    pub features: u64,
    /// The maximum number of data segments in a request.
    pub seg_max: u32,
    /// The maximum length of a data segment. It matters with VIRTIO_BLK_F_SIZE_MAX, which is
    /// not in [`BlkSettings::FEATURES`], as in QEMU.
    pub size_max: u32,
    /// The serial number: ASCII, of which 20 bytes are used.
    pub serial: String,
    /// The faults of the disk at its start.
    pub faults: Faults,
}

impl BlkSettings {
    /// VERSION_1, INDIRECT_DESC, EVENT_IDX, SEG_MAX, BLK_SIZE, TOPOLOGY, FLUSH
    /// and CONFIG_WCE.
    pub const FEATURES: u64 = 1 << VIRTIO_F_VERSION_1
        | 1 << VIRTIO_RING_F_INDIRECT_DESC
        | 1 << VIRTIO_RING_F_EVENT_IDX
        | 1 << VIRTIO_BLK_F_SEG_MAX
        | 1 << VIRTIO_BLK_F_BLK_SIZE
        | 1 << VIRTIO_BLK_F_TOPOLOGY
        | 1 << VIRTIO_BLK_F_FLUSH
        | 1 << VIRTIO_BLK_F_CONFIG_WCE;
}

impl Default for BlkSettings {
    fn default() -> Self {
        Self {
            device_id: DeviceId::Modern,
            slot: 0,
            msix_vectors: 2,
            queues: 1,
            queue_size: 256,
            features: Self::FEATURES,
            seg_max: 254,
            size_max: 0x1_0000,
            serial: String::new(),
            faults: Faults::default(),
        }
    }
}

/// A disk: a virtio-blk PCI function behind an image file.
pub struct VirtioBlk {
    core: Arc<Core>,
    /// The threads of the queues.
    threads: Mutex<Vec<Handle>>,
}

impl VirtioBlk {
    /// A disk that keeps its sectors in `image` and accesses `memory`. It is in the state that
    /// firmware leaves: BARs placed, memory decoding and bus mastering on, MSI-X off and every
    /// vector masked.
    ///
    /// # Panics
    /// If `settings` are outside the ranges of [`BlkSettings`], or the host denies a thread.
    #[must_use]
    pub fn new(image: DiskImage, memory: GuestMemoryMmap, settings: BlkSettings) -> Arc<Self> {
        let (slot, size) = (settings.slot, settings.queue_size);
        let vectors = settings.msix_vectors;
        assert!(slot < 32, "slot {slot} of 32");
        assert!(vectors <= msix::MOST_VECTORS, "{vectors} MSI-X vectors");
        assert!(size.is_power_of_two(), "a queue of {size} descriptors");
        let queues = settings.queues;
        assert!((1..=1024).contains(&queues), "{queues} queues");
        let core = Arc::new(Core::new(image, memory, settings));
        let threads = (0..usize::from(queues)).map(|number| {
            let shared = core.clone();
            let run = move || shared.queues[number].run(&shared);
            let name = match number {
                0 => "disk".to_owned(),
                _ => format!("disk {number}"),
            };
            schedule::spawn(&name, run).expect("the host gives a thread")
        });
        let threads = threads.collect();
        Arc::new(Self {
            core,
            threads: Mutex::new(threads),
        })
    }

    /// The image file.
    #[must_use]
    pub fn image(&self) -> &DiskImage {
        &self.core.image
    }

    /// Replaces the disk's faults. Stalled requests stay stalled.
    pub fn set_faults(&self, faults: Faults) {
        self.core.set_faults(faults);
    }

    /// Makes a [`Glitch`] in the first queue.
    pub fn glitch(&self, glitch: Glitch) {
        self.glitch_after(0, glitch, 0);
    }

    /// Makes a [`Glitch`] in a queue. A glitch that waits for an opportunity lets `skip` of them
    /// pass first.
    pub fn glitch_after(&self, queue: u16, glitch: Glitch, skip: u32) {
        match glitch {
            Glitch::Silent => self.core.glitch(queue),
            Glitch::Interrupt => {
                self.core.glitch(queue);
                self.core.queue_used(queue);
            }
            Glitch::AtNextUsed | Glitch::Twice | Glitch::AtQueueEnable | Glitch::AtDriverOk => {
                self.core.activity().glitch = Some(Armed {
                    queue,
                    glitch,
                    skip,
                });
            }
        }
    }

    /// Makes the reset after the next `after` resets slow. It ends at the status read after
    /// `reads` reads, or never with `u32::MAX`. Until then the device keeps working.
    pub fn slow_reset(&self, after: u32, reads: u32) {
        self.core.function().common.slow_reset(after, reads);
    }

    /// Lets a reset that would never end finish at the next read of the status.
    pub fn finish_reset(&self) {
        self.core.function().common.finish_reset();
    }

    /// How many queues the driver uses.
    #[must_use]
    pub fn live_queues(&self) -> usize {
        let queues = self.core.queues.iter();
        queues.filter(|queue| queue.is_live()).count()
    }

    /// How many requests of each queue never complete: see [`Faults::stalled`].
    #[must_use]
    pub fn stalled_requests(&self) -> Vec<usize> {
        let queues = self.core.queues.iter();
        queues.map(QueueWorker::stalled).collect()
    }

    /// How many requests each queue has served.
    #[must_use]
    pub fn queue_requests(&self) -> Vec<u64> {
        self.core.queues.iter().map(QueueWorker::requests).collect()
    }

    /// The number of finished resets by the driver.
    #[must_use]
    pub fn resets(&self) -> u64 {
        self.core.activity().resets
    }

    /// Removes the function by surprise: it serves nothing, reads of its registers and
    /// configuration space return ones, and writes do nothing.
    pub fn surprise_remove(&self) {
        self.core.gone.store(true, Ordering::Release);
        self.core.reset_queues();
    }

    /// Reinserts the removed function. The device is reset. Configuration space is unchanged.
    pub fn reinsert(&self) {
        self.core.reset();
        self.core.gone.store(false, Ordering::Release);
    }

    /// Stops the device and sets DEVICE_NEEDS_RESET, with a configuration
    /// interrupt (VIRTIO 1.3 §2.1.2).
    pub fn set_needs_reset(&self) {
        self.core.set_needs_reset();
    }

    /// Leaves service to [`Self::serve_now`].
    pub fn serve_manually(&self) {
        for queue in &self.core.queues {
            queue.serve_manually();
        }
    }

    /// Serves the queues that were notified on the calling thread.
    pub fn serve_now(&self) {
        for queue in &self.core.queues {
            queue.serve_now(&self.core);
        }
    }

    /// Loses the next `count` MSI-X messages.
    pub fn lose_messages(&self, count: u32) {
        self.core.interrupts.lose(count);
    }

    /// Sends message `id`, whatever the driver has set up.
    pub fn send_message(&self, id: u16) {
        self.core.interrupts.send_stray(id);
    }

    /// Whether the write cache is on: `writeback` of the configuration (VIRTIO 1.3 §5.2.5).
    #[must_use]
    pub fn writeback(&self) -> bool {
        self.core.function().config.writeback
    }

    /// The requests served since the last call, in order, at most 65536.
    #[must_use]
    pub fn take_served(&self) -> Vec<Served> {
        std::mem::take(&mut self.core.activity().served)
    }

    /// The features that the driver has accepted; 0 before FEATURES_OK.
    #[must_use]
    pub fn accepted_features(&self) -> u64 {
        self.core.function().common.agreed()
    }

    /// What the driver wrote to the device status, in order.
    #[must_use]
    pub fn status_writes(&self) -> Vec<u8> {
        self.core.activity().status_writes.clone()
    }

    /// Changes the size of the disk and signals it to the driver (VIRTIO 1.3 §5.2.4).
    ///
    /// # Errors
    /// If `bytes` is not a disk size, and errors of the host.
    pub fn resize(&self, bytes: u64) -> Result<(), DiskImageError> {
        self.core.image.resize(bytes)?;
        let (tell, vector) = {
            let function = &mut *self.core.function();
            function.config.capacity = self.core.image.sectors();
            let common = &mut function.common;
            common.configuration_changed();
            (common.status() & DRIVER_OK != 0, common.config_vector())
        };
        if tell {
            self.core.interrupts.configuration_changed(vector);
        }
        Ok(())
    }
}

impl PciFunction for VirtioBlk {
    fn config_read(&self, offset: u16, data: &mut [u8]) {
        let core = &*self.core;
        if core.is_gone() {
            return data.fill(0xff);
        }
        let interrupt = core.interrupts.line_pending();
        core.config_space().read(offset, data, interrupt);
        for (at, wrong) in &core.faults().pci_reads {
            let place = at.checked_sub(offset).map(usize::from);
            if let Some(byte) = place.and_then(|place| data.get_mut(place)) {
                *byte = *wrong;
            }
        }
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        let core = &*self.core;
        if core.is_gone() {
            return;
        }
        let (msix_control, pin_disabled) = {
            let mut space = core.config_space();
            space.write(offset, data, &core.driver_errors);
            (space.msix_control(), space.pin_disabled())
        };
        core.interrupts.configure(msix_control, pin_disabled);
    }

    fn bar(&self, index: usize) -> Option<Bar> {
        self.core.config_space().bar(index)
    }

    fn bar_read(&self, index: usize, offset: u64, data: &mut [u8]) {
        let core = &*self.core;
        if core.is_gone() || !core.reachable(index, offset, data.len()) {
            data.fill(0xff);
            return;
        }
        if index == MSIX_BAR {
            core.interrupts
                .read_table(offset, data, &core.driver_errors);
            return;
        }
        match structure_at(offset) {
            Some((Structure::Isr, 0)) if data.len() == 1 => {
                data[0] = core.interrupts.take_isr();
            }
            Some((structure, offset)) => {
                if core.function().read_ends_reset(structure, offset) {
                    core.reset();
                }
                core.function()
                    .read(structure, offset, data, &core.driver_errors);
                if structure == Structure::Device {
                    replace(&core.faults().device_reads, offset, data);
                }
            }
            None => data.fill(0xff),
        }
    }

    fn bar_write(&self, index: usize, offset: u64, data: &[u8]) {
        let core = &*self.core;
        if core.is_gone() || !core.reachable(index, offset, data.len()) {
            return;
        }
        if index == MSIX_BAR {
            core.interrupts
                .write_table(offset, data, &core.driver_errors);
            return;
        }
        match structure_at(offset) {
            Some((Structure::Notify, offset)) => core.notify(offset, data),
            Some((structure, offset)) => {
                let msix = core.interrupts.msix_enabled();
                if let (Structure::Common, offset::STATUS, [status]) = (structure, offset, data) {
                    core.activity().status_writes.push(*status);
                }
                let effect =
                    core.function()
                        .write(structure, offset, data, msix, &core.driver_errors);
                core.carry_out(effect);
            }
            None => {}
        }
    }

    fn msix_vectors(&self) -> u16 {
        self.core.interrupts.vectors()
    }

    fn connect(&self, interrupts: Arc<dyn Interrupts>) {
        self.core.interrupts.connect(interrupts);
    }

    fn counters(&self) -> FunctionCounters {
        FunctionCounters {
            notifications: self.core.notifications.load(Ordering::Relaxed),
            interrupts: self.core.interrupts.sent(),
            requests: self.core.queues.iter().map(QueueWorker::requests).sum(),
            driver_errors: self.core.driver_errors.count(),
        }
    }

    fn power_cycle(&self) {
        let core = &*self.core;
        let BlkSettings {
            device_id,
            slot,
            msix_vectors,
            ..
        } = core.settings;
        *core.config_space() = ConfigSpace::new(device_id, slot, msix_vectors).unplaced();
        core.reset_queues();
        core.function().power_cycle();
        core.interrupts.power_cycle();
    }

    fn driver_errors(&self) -> Vec<String> {
        self.core.driver_errors.list()
    }

    fn stop(&self) {
        self.core.stopping.store(true, Ordering::Release);
        self.core.reset_queues();
        for queue in &self.core.queues {
            queue.wake();
        }
        for thread in std::mem::take(&mut *self.threads.lock().expect("no holder panics")) {
            thread.join().expect("the queue's thread does not panic");
        }
    }
}

impl Drop for VirtioBlk {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The state that the function and its thread share.
///
/// Lock order: a queue before the registers. So the registers' lock is free when a queue is
/// stopped or enabled.
pub(super) struct Core {
    image: DiskImage,
    pub(super) memory: GuestMemoryMmap,
    settings: BlkSettings,
    serial: [u8; VIRTIO_BLK_ID_BYTES as usize],

    config_space: Mutex<ConfigSpace>,
    function: Mutex<Function>,
    interrupts: InterruptSender,
    queues: Box<[QueueWorker]>,

    faults: Mutex<Arc<Faults>>,
    activity: Mutex<Activity>,
    /// The function was removed.
    gone: AtomicBool,
    pub(super) driver_errors: DriverErrors,
    notifications: AtomicU64,
    /// Whether the thread must end.
    pub(super) stopping: AtomicBool,
}

impl Core {
    fn new(image: DiskImage, memory: GuestMemoryMmap, settings: BlkSettings) -> Self {
        let vectors = settings.msix_vectors;
        let mut serial = [0; VIRTIO_BLK_ID_BYTES as usize];
        for (byte, character) in serial.iter_mut().zip(settings.serial.bytes()) {
            *byte = character;
        }
        let mut common = CommonConfig::new(
            settings.features,
            settings.queues,
            settings.queue_size,
            vectors,
        );
        common.faults = settings.faults.of_registers();
        let config = BlkConfig {
            capacity: image.sectors(),
            size_max: settings.size_max,
            seg_max: settings.seg_max,
            blk_size: 512,
            writeback: true,
            num_queues: settings.queues,
            ..BlkConfig::default()
        };
        Self {
            image,
            memory,
            serial,
            config_space: Mutex::new(ConfigSpace::new(settings.device_id, settings.slot, vectors)),
            function: Mutex::new(Function::new(common, config)),
            interrupts: InterruptSender::new(vectors),
            queues: (0..settings.queues).map(QueueWorker::new).collect(),
            faults: Mutex::new(Arc::new(settings.faults.clone())),
            activity: Mutex::default(),
            gone: AtomicBool::new(false),
            driver_errors: DriverErrors::default(),
            notifications: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            settings,
        }
    }

    fn set_faults(&self, faults: Faults) {
        self.function().common.faults = faults.of_registers();
        *self.faults.lock().expect("no holder panics") = Arc::new(faults);
    }

    /// The current faults.
    fn faults(&self) -> Arc<Faults> {
        self.faults.lock().expect("no holder panics").clone()
    }

    /// The current faults of the requests in a queue.
    pub(super) fn faults_of(&self, queue: u16) -> Arc<Faults> {
        let faults = self.faults();
        if faults.are_in(queue) {
            faults
        } else {
            Arc::default()
        }
    }

    fn glitch(&self, queue: u16) {
        self.queues[usize::from(queue)].glitch(&self.memory);
    }

    /// Stops all queues.
    fn reset_queues(&self) {
        for queue in &self.queues {
            queue.reset();
        }
    }

    fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// The disk for requests.
    pub(super) fn disk<'a>(&'a self, faults: &'a Faults, terms: Terms) -> Disk<'a> {
        Disk {
            image: &self.image,
            serial: &self.serial,
            write_through: !self.function().config.writeback,
            faults,
            terms,
            driver_errors: &self.driver_errors,
        }
    }

    /// Sends the interrupt of a queue.
    pub(super) fn queue_used(&self, queue: u16) {
        let vector = self.function().common.queue_vector(queue);
        self.interrupts.queue_used(vector);
    }

    /// Stops the device, which cannot answer the driver's request, and asks for a reset.
    pub(super) fn stop_working(&self, why: &str) {
        self.driver_errors
            .add(format!("{why}; the device stops until it is reset"));
        self.set_needs_reset();
    }

    fn set_needs_reset(&self) {
        let (tell, vector) = {
            let common = &mut self.function().common;
            (common.needs_reset(), common.config_vector())
        };
        for queue in &self.queues {
            queue.halt();
        }
        if tell {
            self.interrupts.configuration_changed(vector);
        }
    }

    fn function(&self) -> MutexGuard<'_, Function> {
        self.function.lock().expect("no holder panics")
    }

    pub(super) fn activity(&self) -> MutexGuard<'_, Activity> {
        self.activity.lock().expect("no holder panics")
    }

    fn config_space(&self) -> MutexGuard<'_, ConfigSpace> {
        self.config_space.lock().expect("no holder panics")
    }

    /// Whether the access reaches a register. Otherwise records a driver error.
    fn reachable(&self, index: usize, offset: u64, bytes: usize) -> bool {
        if index == LEGACY_BAR && self.settings.device_id == DeviceId::Transitional {
            self.driver_errors.add(
                "the legacy interface in BAR 0 was used, which this disk does not have: the \
                 modern one is there (VIRTIO 1.3 §4.1.4.10)",
            );
            return false;
        }
        let (decodes, bar) = {
            let space = self.config_space();
            (space.decodes_memory(), space.bar(index))
        };
        if !decodes {
            self.driver_errors.add(format!(
                "BAR {index} was accessed while the command register has memory decoding off"
            ));
            return false;
        }
        let end = offset.checked_add(bytes as u64);
        let inside = bar.map_or(0, |bar| bar.bytes);
        let reachable = end.is_some_and(|end| end <= inside);
        if !reachable {
            self.driver_errors.add(format!(
                "an access of {bytes} bytes at {offset:#x} of BAR {index}, which has {inside} bytes"
            ));
        }
        reachable
    }

    fn notify(&self, offset: u64, data: &[u8]) {
        let number = offset / u64::from(NOTIFY_MULTIPLIER);
        let queue = usize::try_from(number)
            .ok()
            .and_then(|it| self.queues.get(it));
        let Some(queue) = queue.filter(|_| offset.is_multiple_of(NOTIFY_MULTIPLIER.into())) else {
            self.driver_errors.add(format!(
                "a notification at {offset:#x} of the notification structure, which is no queue's \
                 address (VIRTIO 1.3 §4.1.4.4)"
            ));
            return;
        };
        self.notifications.fetch_add(1, Ordering::Relaxed);
        // V71.
        let value: Option<[u8; 2]> = data.try_into().ok();
        let Some(value) = value.map(u16::from_le_bytes) else {
            self.driver_errors.add(format!(
                "a notification of {} bytes; it must have 2 (VIRTIO 1.3 §4.1.5.2.1)",
                data.len()
            ));
            return;
        };
        // V71.
        if u64::from(value) != number {
            self.driver_errors.add(format!(
                "a notification for queue {number} with the value {value} (VIRTIO 1.3 §4.1.5.2.1)"
            ));
        }
        if !self.config_space().is_bus_master() {
            self.driver_errors
                .add("a notification while the command register has bus mastering off");
            return;
        }
        if queue.is_live() {
            queue.notify();
            return;
        }
        let status = self.function().common.status();
        if status & NEEDS_RESET != 0 {
            // No error: the driver may not have seen NEEDS_RESET yet. The notification has no
            // effect.
            // V13.
        } else if status & DRIVER_OK == 0 {
            self.driver_errors.add(format!(
                "a notification for queue {number} before DRIVER_OK (VIRTIO 1.3 §3.1.1)"
            ));
        } else {
            self.driver_errors.add(format!(
                "a notification for queue {number}, which is not enabled"
            ));
        }
    }

    fn carry_out(&self, effect: Effect) {
        match effect {
            Effect::None | Effect::FeaturesAgreed(_) => {}
            Effect::Reset => self.reset(),
            Effect::Enable(index, ring) => {
                let terms = Terms {
                    agreed: self.function().common.agreed(),
                    seg_max: self.settings.seg_max,
                    size_max: self.settings.size_max,
                    ring,
                };
                let queue = &self.queues[usize::from(index)];
                let enabled = queue.enable(
                    self.settings.queue_size,
                    terms,
                    &self.memory,
                    &self.driver_errors,
                );
                if enabled {
                    let due = self.activity().take(index, &[Glitch::AtQueueEnable]);
                    if due.is_some() {
                        self.glitch(index);
                    }
                    let late = {
                        let common = &mut self.function().common;
                        common.queue_in_use(index);
                        common.status() & DRIVER_OK != 0
                    };
                    if late {
                        queue.start();
                    }
                }
            }
            Effect::Start => {
                for queue in &self.queues {
                    queue.start();
                }
                for queue in 0..self.settings.queues {
                    let due = self.activity().take(queue, &[Glitch::AtDriverOk]);
                    if due.is_some() {
                        self.glitch(queue);
                        self.queue_used(queue);
                    }
                }
                let resets = self.activity().resets;
                if self
                    .faults()
                    .driver_ok_fails
                    .is_some_and(|after| resets >= after)
                {
                    self.set_needs_reset();
                }
            }
        }
    }

    /// Carries out the driver's reset.
    fn reset(&self) {
        self.reset_queues();
        self.function().reset();
        self.interrupts.clear();
        if self.faults().until_reset {
            self.set_faults(Faults::default());
        }
        self.activity().resets += 1;
    }
}
