//! The disk that the initiator sees: 64 MiB that read as zeros.

use scsi::{
    Alignment, BlockSize, Capacity, Disk, Identity, Lun, MediaOp, Outcome, Sectors, Sense, Serial,
    TransferLimits, WriteCache,
};
use storport::{BuildIo, Context, Failure, Function, Srb};

/// What becomes of a request in HwBuildIo.
pub enum Answer<'a> {
    /// It is completed.
    Completed,
    /// HwStartIo gets it.
    Start(Srb<'a>),
}

/// Answers a request. A disk that is broken fails all that are for a unit.
pub fn answer<'a>(disk: &Disk, cx: &BuildIo<'_, 'a>, mut srb: Srb<'a>, broken: bool) -> Answer<'a> {
    match srb.function() {
        Function::ExecuteScsi if broken => refuse(srb, Sense::INTERNAL_TARGET_FAILURE),
        Function::ExecuteScsi => match disk.execute(Lun(srb.address().lun.into()), srb.cdb()) {
            Ok(Outcome::Media(media)) => {
                if let (MediaOp::Read { .. }, Some(data)) = (media, cx.data(&mut srb)) {
                    data.fill(0);
                }
                return Answer::Start(srb);
            }
            Ok(Outcome::Good) => srb.succeed(0),
            Ok(Outcome::Data(reply)) => {
                let written = cx.data(&mut srb).map_or(0, |buffer| reply.write_to(buffer));
                srb.succeed(u32::try_from(written).unwrap_or(0));
            }
            Err(sense) => refuse(srb, sense),
        },
        Function::Flush | Function::Shutdown | Function::Pnp { .. } | Function::Power => {
            srb.succeed(0);
        }
        _ => srb.fail(Failure::InvalidRequest),
    }
    Answer::Completed
}

/// Completes with CHECK CONDITION.
fn refuse(srb: Srb<'_>, sense: Sense) {
    let mut buffer = [0; Sense::FIXED_LENGTH];
    sense.write_to(&mut buffer);
    srb.check_condition(&buffer);
}

/// What initiators are told.
pub fn describe() -> Option<Disk> {
    Some(Disk {
        capacity: Capacity::new(Sectors(64 << 11), BlockSize::new(512)?)?,
        alignment: Alignment::default(),
        limits: TransferLimits::default(),
        write_cache: WriteCache::Absent,
        dpo_fua: false,
        read_only: false,
        identity: Identity {
            vendor: *b"EXAMPLE ",
            product: *b"Locks           ",
            revision: *b"0001",
            serial: Serial::new(&[b'0'; 20]),
        },
    })
}
