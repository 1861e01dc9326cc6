//! An example of a driver on the `storport` crate: a disk in memory. HwBuildIo
//! completes requests that need no data of the disk. HwStartIo moves the data of the
//! others, stores the SRB, and writes to the bell: a device of the testbed (PCI
//! 1234:BE11) that only interrupts. Then a DPC completes the stored SRBs.
#![no_std]
#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::todo,
    clippy::unreachable,
    clippy::unwrap_used
)]

use scsi::{
    Disk, Identity, Lun, MediaOp, Outcome, Sense, Serial, WriteCacheState,
    block::{BlockSize, Capacity, Sectors, Topology, WriteCache},
};
use storport::{
    AdapterLimits, BuildIo, Configured, Dpc, DpcLocked, Failure, FindAdapter, Function, Initialize,
    Interrupt, Interrupted, MappedRegisters, Miniport, NotFound, Performance, ResetBus, Restart,
    Scope, Srb, StartIo, StartedSrb, Stop, Table, callback,
    level::{self, Below},
};
use wdk_panic as _; // The panic handler. The release driver cannot reach it.

storport::driver_entry!(Ramdisk: MessageInterrupt);

/// The disk has 64 MiB in blocks of 4 KiB; block n is in part n % PARTS.
const SECTORS: Sectors = Sectors((PARTS * PART_BLOCKS * BLOCK / 512) as u64);
const BLOCK: usize = 4096;
const PARTS: usize = 16;
const PART_BLOCKS: usize = 1024;
const REQUESTS: u8 = 64;

/// The bell's registers. A write to RING sends message 0 or asserts the pin. A
/// read of RUNG returns whether the pin was asserted, and deasserts it.
const RING: usize = 0;
const RUNG: usize = 4;

enum Ramdisk {}

struct Adapter<'a> {
    /// Each part has a lock of its own, so that requests to different blocks
    /// move their data at the same time.
    parts: Table<'a, DpcLocked<'a, Table<'a, [u8; BLOCK]>>>,
    /// Requests whose data was moved, for the DPC to complete.
    moved: DpcLocked<'a, Table<'a, Option<StartedSrb<'a>>>>,
    bell: MappedRegisters<'a>,
    disk: Disk,
}

impl<'a> Adapter<'a> {
    fn find(cx: &mut FindAdapter<'_, 'a>) -> Option<(Configured<'a>, Self)> {
        let configured = cx.configure(&AdapterLimits {
            transfer_bytes: 1 << 20,
            physical_breaks: 257,
            requests: REQUESTS.into(),
            alignment_mask: 0,
            targets: 1,
            logical_units: 1,
            caches_data: false,
        });
        let parts = cx.table(PARTS, |cx, _| {
            let blocks = cx.table(PART_BLOCKS, |_, _| Some([0; BLOCK]))?;
            cx.dpc_locked(blocks)
        })?;
        let places = cx.table(REQUESTS.into(), |_, _| Some(None))?;
        let adapter = Self {
            parts,
            moved: cx.dpc_locked(places)?,
            bell: cx.map_range(0)?,
            disk: Disk {
                capacity: Capacity::new(SECTORS, BlockSize::new(BLOCK as u32)?)?,
                topology: Topology::default(),
                write_cache: WriteCacheState::new(WriteCache::Absent),
                dpo_fua: false,
                read_only: false,
                identity: Identity {
                    vendor: *b"EXAMPLE ",
                    product: *b"Ramdisk         ",
                    revision: *b"0001",
                    serial: Serial::new(&[b'0'; 20]),
                },
            },
        };
        Some((configured.ok()?, adapter))
    }

    /// Moves the data. Returns `None` if the SRB has another length or direction than
    /// the CDB.
    fn transfer(&self, cx: &mut StartIo<'_, 'a>, media: MediaOp, srb: &mut Srb<'a>) -> Option<()> {
        let (MediaOp::Read(extent) | MediaOp::Write(extent)) = media else {
            return None;
        };
        let length = usize::try_from(extent.bytes()).ok()?;
        if u32::try_from(length) != Ok(srb.data_length()) {
            return None;
        }
        for (lba, at) in (extent.lba().0..).zip((0..length).step_by(BLOCK)) {
            let lba = usize::try_from(lba).ok()?;
            let part = self.parts.get(lba % PARTS)?;
            if let MediaOp::Write(_) = media {
                let data = cx.data_out(srb).ok()?;
                part.with(cx, |part| Some(data.read(at, part.get_mut(lba / PARTS)?)))?;
            } else {
                let mut data = cx.data_in(srb).ok()?;
                part.with(cx, |part| Some(data.write(at, part.get(lba / PARTS)?)))?;
            }
        }
        Some(())
    }

    /// Completes the requests whose data was moved. The lock is held while a
    /// request is taken out, but not while it is completed.
    fn complete(&self, cx: &mut impl Scope<'a, Level: Below<level::DpcHeld>>) {
        for _ in 0..REQUESTS {
            let srb = self
                .moved
                .with(cx, |moved| moved.iter_mut().find_map(Option::take));
            let Some(srb) = srb else { return };
            let bytes = srb.data_length();
            srb.succeed(bytes);
        }
    }
}

impl Miniport for Ramdisk {
    type Adapter<'a> = Adapter<'a>;
    type Request<'a> = MediaOp;

    const TABLE_BYTES: usize = PARTS * PART_BLOCKS * BLOCK + 4096;

    fn find_adapter<'a>(
        cx: &mut FindAdapter<'_, 'a>,
    ) -> Result<(Configured<'a>, Adapter<'a>), NotFound> {
        // A dump of the memory cannot be written to memory.
        if cx.is_dump() {
            return Err(NotFound::Absent);
        }
        Adapter::find(cx).ok_or(NotFound::Unusable)
    }

    fn initialize<'a>(_: &Adapter<'a>, cx: &mut Initialize<'_, 'a>) -> bool {
        // If Storport grants them, HwStartIo runs on as many processors at once.
        cx.optimize(
            &Performance {
                channels: PARTS as u32,
                ..Performance::default()
            },
            &mut [],
        );
        true
    }

    fn build_io<'a>(
        adapter: &Adapter<'a>,
        cx: &mut BuildIo<'_, 'a>,
        mut srb: Srb<'a>,
    ) -> Option<(Srb<'a>, MediaOp)> {
        let lun = Lun(srb.address().lun.into());
        let answer = match srb.function() {
            Function::ExecuteScsi => adapter.disk.execute(lun, srb.cdb()),
            // Nothing is cached, and a change of power changes nothing.
            Function::Flush | Function::Shutdown | Function::Pnp { .. } | Function::Power => {
                Ok(Outcome::Good)
            }
            _ => {
                srb.fail(Failure::InvalidRequest);
                return None;
            }
        };
        match answer {
            Ok(Outcome::Media(media)) => return Some((srb, media)),
            Ok(Outcome::Good) => srb.succeed(0),
            Ok(Outcome::Data(reply)) => {
                let mut buffer = [0; 256];
                let length = reply.write_to(&mut buffer);
                let bytes = buffer.get(..length).unwrap_or_default();
                match cx.data_in(&mut srb).map(|mut data| data.write(0, bytes)) {
                    Ok(written) => srb.succeed(u32::try_from(written).unwrap_or(0)),
                    Err(_) => srb.fail(Failure::InvalidRequest),
                }
            }
            Ok(Outcome::ModeSelect(_)) => srb.fail(Failure::InvalidRequest),
            Err(sense) => {
                let mut buffer = [0; Sense::FIXED_LENGTH];
                sense.write_to(&mut buffer);
                srb.check_condition(&buffer);
            }
        }
        None
    }

    fn start_io<'a>(
        adapter: &Adapter<'a>,
        cx: &mut StartIo<'_, 'a>,
        mut srb: Srb<'a>,
        media: MediaOp,
    ) {
        if adapter.transfer(cx, media, &mut srb).is_none() {
            return srb.fail(Failure::InvalidRequest);
        }
        adapter.moved.with(cx, |moved| {
            if let Some(place) = moved.iter_mut().find(|place| place.is_none()) {
                *place = Some(srb.started());
            }
        });
        adapter.bell.write_u32(RING, 0);
    }

    fn interrupt<'a>(adapter: &Adapter<'a>, cx: &mut Interrupt<'_, 'a>) -> Interrupted {
        if adapter.bell.read_u32(RUNG) == 0 {
            return Interrupted::NotOurs;
        }
        adapter.moved.issue(cx);
        Interrupted::Ours
    }

    fn dpc<'a>(adapter: &Adapter<'a>, cx: &mut Dpc<'_, 'a>) {
        adapter.complete(cx);
    }

    fn reset_bus<'a>(adapter: &Adapter<'a>, cx: &mut ResetBus<'_, 'a>) -> bool {
        adapter.complete(cx);
        true
    }

    fn stop<'a>(_: &Adapter<'a>, _: &mut Stop<'_, 'a>) {}

    fn restart<'a>(_: &Adapter<'a>, _: &mut Restart<'_, 'a>) -> bool {
        true
    }
}

impl callback::MessageInterrupt for Ramdisk {
    fn message_interrupt<'a>(
        adapter: &Adapter<'a>,
        cx: &mut storport::MessageInterrupt<'_, 'a>,
    ) -> Interrupted {
        adapter.moved.issue(cx);
        Interrupted::Ours
    }
}
