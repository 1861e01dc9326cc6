//! A minimal virtio-blk driver. It uses only configuration space and BARs, with split rings in
//! guest memory.

use std::{
    cell::Cell,
    sync::{Arc, Condvar, Mutex, MutexGuard, atomic::Ordering},
    time::{Duration, Instant},
};

use testbed_devices::{BlkSettings, DiskImage, VirtioBlk};
use testbed_machine::pci::{Interrupts, PciFunction};
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// The timeout of every wait. Only a broken device reaches it.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Guest memory: two regions with a gap between them.
pub const MEMORY: u64 = 0x1_0000_0000;
pub const MEMORY_BYTES: u64 = 16 << 20;
pub const SECOND: u64 = MEMORY + MEMORY_BYTES;
pub const HOLE: u64 = SECOND + (1 << 20);

/// The address of the rings: 128 KiB.
const RINGS: u64 = MEMORY;
/// The address of the buffers.
const BUFFERS: u64 = MEMORY + (2 << 20);

/// Feature bits.
pub const SIZE_MAX: u64 = 1 << 1;
pub const SEG_MAX: u64 = 1 << 2;
pub const FLUSH: u64 = 1 << 9;
pub const CONFIG_WCE: u64 = 1 << 11;
pub const INDIRECT: u64 = 1 << 28;
pub const EVENT_IDX: u64 = 1 << 29;
pub const PACKED: u64 = 1 << 34;

/// Offsets of the structures in BAR 4, as in the capabilities.
pub const COMMON: u64 = 0x0000;
pub const ISR: u64 = 0x1000;
pub const DEVICE: u64 = 0x2000;
pub const NOTIFY: u64 = 0x3000;

/// Offsets of common configuration fields.
pub const STATUS: u64 = COMMON + 0x14;

/// Request types and status values.
pub const IN: u32 = 0;
pub const OUT: u32 = 1;
pub const FLUSH_REQUEST: u32 = 4;
pub const GET_ID: u32 = 8;
pub const OK: u8 = 0;
pub const IOERR: u8 = 1;
pub const UNSUPP: u8 = 2;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT_FLAG: u16 = 4;

/// Receives the interrupts.
#[derive(Default)]
pub struct Receiver {
    seen: Mutex<Seen>,
    changed: Condvar,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The messages in order.
    pub messages: Vec<u16>,
    /// The level of the pin.
    pub line: bool,
    /// How often the pin was asserted.
    pub asserted: u32,
}

impl Receiver {
    pub fn seen(&self) -> Seen {
        self.lock().clone()
    }

    /// Waits until `enough` accepts what was seen.
    pub fn wait(&self, enough: impl Fn(&Seen) -> bool) {
        let (seen, timeout) = self
            .changed
            .wait_timeout_while(self.lock(), PATIENCE, |seen| !enough(seen))
            .expect("a lock");
        assert!(!timeout.timed_out(), "no such interrupt came: {seen:?}");
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("a lock")
    }
}

impl Interrupts for Receiver {
    fn message(&self, id: u16) {
        self.lock().messages.push(id);
        self.changed.notify_all();
    }

    fn line(&self, asserted: bool) {
        let mut seen = self.lock();
        assert_ne!(
            seen.line, asserted,
            "the pin changed to the level that it had"
        );
        seen.line = asserted;
        seen.asserted += u32::from(asserted);
        self.changed.notify_all();
    }
}

/// A buffer of a chain: address, length, whether the device writes it.
pub type Piece = (u64, u32, bool);

/// The driver's view of a split ring.
#[derive(Default)]
pub struct Ring {
    pub size: u16,
    pub desc: u64,
    pub avail: u64,
    pub used: u64,
    pub next_avail: u16,
    pub next_used: u16,
    /// The index of the next free descriptor.
    next_desc: u16,
    /// The value of `avail.idx` at the last notification.
    notified: u16,
}

/// How the driver sets up the device.
#[derive(Clone, Copy)]
pub struct Setup {
    /// Features that the driver accepts if they are offered, besides VERSION_1.
    pub features: u64,
    /// Whether to use MSI-X: vector 0 for the configuration, 1 for the queue, both unmasked.
    pub msix: bool,
    /// Descriptors in the queue.
    pub queue_size: u16,
    /// Whether to enable the queue.
    pub queue: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            features: u64::MAX,
            msix: true,
            queue_size: 64,
            queue: true,
        }
    }
}

impl Setup {
    /// Accepts all offered features but `features`.
    pub fn without(features: u64) -> Self {
        Self {
            features: !features,
            ..Self::default()
        }
    }
}

/// A machine with one disk and its driver. It fails if the driver has made an error that the test
/// has not asked for.
pub struct Driver {
    pub disk: Arc<VirtioBlk>,
    pub memory: GuestMemoryMmap,
    pub receiver: Arc<Receiver>,
    pub ring: Ring,
    pub features: u64,
    next_buffer: u64,
    /// Whether the test has asked for the driver's errors.
    asked: Cell<bool>,
    _folder: tempfile::TempDir,
}

impl Driver {
    /// An uninitialised device with a disk of `sectors` sectors, each filled with its number.
    pub fn powered_up(sectors: u64, settings: BlkSettings) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("disk");
        let content: Vec<u8> = (0..sectors)
            .flat_map(|sector| [sector as u8; 512])
            .collect();
        std::fs::write(&path, content).expect("an image");
        let image = DiskImage::open(&path).expect("an image");
        let memory = GuestMemoryMmap::from_ranges(&[
            (GuestAddress(MEMORY), MEMORY_BYTES as usize),
            (GuestAddress(SECOND), (HOLE - SECOND) as usize),
        ])
        .expect("memory");
        let disk = VirtioBlk::new(image, memory.clone(), settings);
        let receiver = Arc::new(Receiver::default());
        disk.connect(receiver.clone());
        Self {
            disk,
            memory,
            receiver,
            ring: Ring::default(),
            features: 0,
            next_buffer: BUFFERS,
            asked: Cell::new(false),
            _folder: folder,
        }
    }

    /// A disk of 256 sectors, initialised. `change` changes the defaults of the disk and of the
    /// driver.
    pub fn of(change: impl FnOnce(&mut BlkSettings, &mut Setup)) -> Self {
        let (mut settings, mut setup) = (BlkSettings::default(), Setup::default());
        change(&mut settings, &mut setup);
        let mut driver = Self::powered_up(256, settings);
        driver.initialise(setup);
        driver
    }

    /// An initialised device with all defaults.
    pub fn default_ready() -> Self {
        Self::with(Setup::default())
    }

    /// A device with the default settings, initialised as `setup` says.
    pub fn with(setup: Setup) -> Self {
        Self::of(|_, it| *it = setup)
    }

    pub fn get<const N: usize>(&self, offset: u64) -> u64 {
        let mut data = [0; 8];
        self.disk.bar_read(4, offset, &mut data[..N]);
        u64::from_le_bytes(data)
    }

    pub fn set<const N: usize>(&self, offset: u64, value: u64) {
        self.disk.bar_write(4, offset, &value.to_le_bytes()[..N]);
    }

    pub fn status(&self) -> u8 {
        self.get::<1>(STATUS) as u8
    }

    /// Resets the device and waits until the reset has finished.
    pub fn reset(&mut self) {
        self.set::<1>(STATUS, 0);
        self.wait_until("the reset ends", || self.status() == 0);
        self.ring = Ring::default();
    }

    /// Brings the device from any state to DRIVER_OK.
    pub fn initialise(&mut self, setup: Setup) {
        self.negotiate(setup);
        if setup.queue {
            self.enable_queue(setup);
        }
        self.set::<1>(STATUS, 0x0f);
        assert_eq!(self.status(), 0x0f);
    }

    /// Brings the device to FEATURES_OK.
    pub fn negotiate(&mut self, setup: Setup) {
        self.reset();
        self.set::<1>(STATUS, 1);
        self.set::<1>(STATUS, 3);
        if setup.msix {
            self.enable_msix();
            self.set::<2>(COMMON + 0x10, 0);
            assert_eq!(self.get::<2>(COMMON + 0x10), 0);
        }
        self.features = self.offered() & (setup.features | 1 << 32);
        for select in 0..2 {
            self.set::<4>(COMMON + 0x08, select);
            self.set::<4>(COMMON + 0x0c, self.features >> (32 * select) & 0xffff_ffff);
        }
        self.set::<1>(STATUS, 0x0b);
        assert_eq!(self.status(), 0x0b, "{:#?}", self.disk.driver_errors());
    }

    pub fn offered(&self) -> u64 {
        let word = |select| {
            self.set::<4>(COMMON, select);
            self.get::<4>(COMMON + 0x04)
        };
        word(0) | word(1) << 32
    }

    /// Enables MSI-X and unmasks its vectors, as firmware and operating system do.
    pub fn enable_msix(&self) {
        for vector in 0..2 {
            self.disk
                .bar_write(1, vector * 16, &0xfee0_0000_u64.to_le_bytes());
            self.disk
                .bar_write(1, vector * 16 + 8, &(0x40 + vector as u32).to_le_bytes());
            self.mask(vector, false);
        }
        self.set_msix_control(0x8000);
    }

    pub fn mask(&self, vector: u64, masked: bool) {
        self.disk
            .bar_write(1, vector * 16 + 12, &u32::from(masked).to_le_bytes());
    }

    /// The pending bits of vectors 0 to 31.
    pub fn pending(&self) -> u32 {
        let mut data = [0; 4];
        self.disk.bar_read(1, 0x800, &mut data);
        u32::from_le_bytes(data)
    }

    pub fn set_msix_control(&self, bits: u16) {
        let mut control = [0; 2];
        self.disk.config_read(0x9a, &mut control);
        let control = u16::from_le_bytes(control) & 0x3fff | bits;
        self.disk.config_write(0x9a, &control.to_le_bytes());
    }

    pub fn command(&self, value: u16) {
        self.disk.config_write(0x04, &value.to_le_bytes());
    }

    /// Enables the selected queue with these addresses of its parts.
    pub fn enable_at(&self, parts: [u64; 3]) {
        for (offset, address) in (0x20..).step_by(8).zip(parts) {
            self.set::<4>(COMMON + offset, address & 0xffff_ffff);
            self.set::<4>(COMMON + offset + 4, address >> 32);
        }
        self.set::<2>(COMMON + 0x1c, 1);
    }

    /// Zeroes the rings of the queue and enables it.
    pub fn enable_queue(&mut self, setup: Setup) {
        let ring = self.prepare_queue(setup);
        self.enable_at([ring.desc, ring.avail, ring.used]);
        assert_eq!(
            self.get::<2>(COMMON + 0x1c),
            1,
            "{:#?}",
            self.disk.driver_errors()
        );
        self.ring = ring;
    }

    /// Selects the queue, sets its size and vector, and zeroes its rings.
    pub fn prepare_queue(&self, setup: Setup) -> Ring {
        self.set::<2>(COMMON + 0x16, 0);
        assert!(self.get::<2>(COMMON + 0x18) >= setup.queue_size.into());
        self.set::<2>(COMMON + 0x18, setup.queue_size.into());
        if setup.msix {
            self.set::<2>(COMMON + 0x1a, 1);
            assert_eq!(self.get::<2>(COMMON + 0x1a), 1);
        }
        let desc = RINGS;
        self.write(desc, &[0; 0x2_0000]);
        Ring {
            size: setup.queue_size,
            desc,
            avail: desc + 0x8000,
            used: desc + 0x1_0000,
            next_avail: 0,
            next_used: 0,
            next_desc: 0,
            notified: 0,
        }
    }

    /// Allocates a buffer, which is never freed.
    pub fn buffer(&mut self, content: &[u8]) -> u64 {
        let address = self.next_buffer;
        self.next_buffer += (content.len() as u64).next_multiple_of(512).max(512);
        assert!(self.next_buffer <= SECOND, "the test wants too much memory");
        self.write(address, content);
        address
    }

    pub fn write(&self, address: u64, content: &[u8]) {
        self.memory
            .write_slice(content, GuestAddress(address))
            .expect("memory");
    }

    pub fn read(&self, address: u64, bytes: usize) -> Vec<u8> {
        let mut data = vec![0; bytes];
        self.memory
            .read_slice(&mut data, GuestAddress(address))
            .expect("memory");
        data
    }

    fn store(&self, address: u64, value: u16) {
        self.memory
            .store(value.to_le(), GuestAddress(address), Ordering::SeqCst)
            .expect("memory");
    }

    pub fn load(&self, address: u64) -> u16 {
        u16::from_le(
            self.memory
                .load(GuestAddress(address), Ordering::SeqCst)
                .expect("memory"),
        )
    }

    /// Writes descriptor `index` of the table at `table`.
    pub fn describe(&self, table: u64, index: u16, piece: Piece, flags: u16, next: u16) {
        let (address, bytes, writable) = piece;
        let flags = flags | if writable { WRITE } else { 0 };
        let descriptor = Descriptor::new(address, bytes, flags, next);
        let at = GuestAddress(table + 16 * u64::from(index));
        self.memory.write_obj(descriptor, at).expect("memory");
    }

    /// Writes `pieces` as a chain into the table at `table` from `first` on, wrapping at
    /// `size`. Returns the index after the last.
    fn chain(&self, table: u64, first: u16, size: u16, pieces: &[Piece]) -> u16 {
        let mut index = first;
        for (number, piece) in pieces.iter().enumerate() {
            let next = (index + 1) % size;
            let flags = if number + 1 < pieces.len() { NEXT } else { 0 };
            self.describe(table, index, *piece, flags, next);
            index = next;
        }
        index
    }

    /// Writes a chain into the descriptor table. Returns its head.
    pub fn direct(&mut self, pieces: &[Piece]) -> u16 {
        let ring = &self.ring;
        let head = ring.next_desc;
        let next = self.chain(ring.desc, head, ring.size, pieces);
        self.ring.next_desc = next;
        head
    }

    /// Writes a chain into an indirect table. Returns the head that refers to it.
    pub fn indirect(&mut self, pieces: &[Piece]) -> u16 {
        let table = self.buffer(&vec![0; 16 * pieces.len()]);
        self.chain(table, 0, pieces.len() as u16, pieces);
        let ring = &self.ring;
        let head = ring.next_desc;
        self.describe(
            ring.desc,
            head,
            (table, 16 * pieces.len() as u32, false),
            INDIRECT_FLAG,
            0,
        );
        self.ring.next_desc = (head + 1) % self.ring.size;
        head
    }

    /// Makes `head` available, without a notification.
    pub fn publish(&mut self, head: u16) {
        let ring = &mut self.ring;
        let slot = ring.avail + 4 + 2 * u64::from(ring.next_avail % ring.size);
        ring.next_avail = ring.next_avail.wrapping_add(1);
        let (index, at) = (ring.next_avail, ring.avail + 2);
        self.store(slot, head);
        self.store(at, index);
    }

    /// Notifies the device, unless it has suppressed notifications.
    pub fn notify_if_wanted(&mut self) {
        let ring = &self.ring;
        let (old, new) = (ring.notified, ring.next_avail);
        let wanted = if self.features & EVENT_IDX != 0 {
            let event = self.load(ring.used + 4 + 8 * u64::from(ring.size));
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            self.load(ring.used) & 1 == 0
        };
        self.ring.notified = new;
        if wanted {
            self.notify_queue();
        }
    }

    pub fn notify_queue(&self) {
        self.set::<2>(NOTIFY, 0);
    }

    /// Requests an interrupt when used element `at` is written (EVENT_IDX).
    pub fn set_used_event(&self, at: u16) {
        let ring = &self.ring;
        self.store(ring.avail + 4 + 2 * u64::from(ring.size), at);
    }

    pub fn set_avail_flags(&self, flags: u16) {
        self.store(self.ring.avail, flags);
    }

    pub fn used_index(&self) -> u16 {
        self.load(self.ring.used + 2)
    }

    /// Waits until `done` returns true.
    pub fn wait_until(&self, what: &str, done: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done() {
            assert!(
                Instant::now() < deadline,
                "never: {what}: {:#?}",
                self.disk.driver_errors()
            );
            std::thread::yield_now();
        }
    }

    /// Waits until the device has used `count` chains in total. Takes none from the ring.
    pub fn wait_for_used_index(&self, count: u16) {
        self.wait_until("all are used", || self.used_index() == count);
    }

    /// Polls for the next used element and returns its head and length. Does not change
    /// `used_event`.
    pub fn wait_used(&mut self) -> (u32, u32) {
        self.wait_until("a request is done", || {
            self.used_index() != self.ring.next_used
        });
        let ring = &mut self.ring;
        let at = ring.used + 4 + 8 * u64::from(ring.next_used % ring.size);
        ring.next_used = ring.next_used.wrapping_add(1);
        let element = self.read(at, 8);
        let word = |at: usize| u32::from_le_bytes(element[at..at + 4].try_into().expect("4 bytes"));
        (word(0), word(4))
    }

    /// Makes `pieces` available as one chain, without a notification. Returns its head.
    pub fn enqueue(&mut self, pieces: &[Piece]) -> u16 {
        let head = self.direct(pieces);
        self.publish(head);
        head
    }

    /// Makes `pieces` available as one chain. Returns its head.
    pub fn start(&mut self, pieces: &[Piece]) -> u16 {
        let head = self.enqueue(pieces);
        self.notify_if_wanted();
        head
    }

    /// Makes `pieces` available as one chain, and waits until it is used. Returns the used
    /// length.
    pub fn run(&mut self, pieces: &[Piece]) -> u32 {
        let head = self.start(pieces);
        let (id, length) = self.wait_used();
        assert_eq!(id, u32::from(head));
        length
    }

    /// Writes a request's header into a buffer.
    pub fn header(&mut self, kind: u32, sector: u64) -> u64 {
        let mut header = [0; 16];
        header[0..4].copy_from_slice(&kind.to_le_bytes());
        header[8..16].copy_from_slice(&sector.to_le_bytes());
        self.buffer(&header)
    }

    /// Builds a request with the usual framing: header, data, status. Returns the addresses of
    /// data and status too.
    pub fn request(&mut self, kind: u32, sector: u64, data: &[u8]) -> (Vec<Piece>, u64, u64) {
        let header = self.header(kind, sector);
        let buffer = self.buffer(data);
        let status = self.buffer(&[0xff]);
        let mut pieces = vec![(header, 16, false)];
        if !data.is_empty() {
            pieces.push((buffer, data.len() as u32, kind != OUT));
        }
        pieces.push((status, 1, true));
        (pieces, buffer, status)
    }

    /// Runs a request. Returns its status, its data, and the used length.
    pub fn call(&mut self, kind: u32, sector: u64, data: &[u8]) -> (u8, Vec<u8>, u32) {
        let (pieces, buffer, status) = self.request(kind, sector, data);
        let length = self.run(&pieces);
        (
            self.read(status, 1)[0],
            self.read(buffer, data.len()),
            length,
        )
    }

    /// Reads the image file.
    pub fn image(&self, sector: u64, bytes: usize) -> Vec<u8> {
        let mut data = vec![0; bytes];
        self.disk
            .image()
            .read_at(sector * 512, &mut data)
            .expect("the image");
        data
    }

    /// The driver errors.
    pub fn driver_errors(&self) -> Vec<String> {
        self.asked.set(true);
        let list = self.disk.driver_errors();
        assert_eq!(self.disk.counters().driver_errors, list.len() as u64);
        list
    }

    /// The only driver error.
    pub fn driver_error(&self) -> String {
        let [error] = &self.driver_errors()[..] else {
            panic!("{:#?}", self.disk.driver_errors());
        };
        error.clone()
    }

    /// Waits for DEVICE_NEEDS_RESET.
    pub fn wait_needs_reset(&self) {
        self.wait_until("the device stops", || self.status() & 0x40 != 0);
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.disk.stop();
        if !self.asked.get() && !std::thread::panicking() {
            assert_eq!(self.disk.driver_errors(), [""; 0]);
        }
    }
}
