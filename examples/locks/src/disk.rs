//! The disk that the initiator sees: 64 MiB that read as zeros.

use scsi::{
    Disk, Identity, Lun, MediaOp, Outcome, Sense, Serial, WriteCacheState,
    block::{BlockSize, Capacity, Sectors, Topology, WriteCache},
};
use storport::{BuildIo, Failure, Function, Srb};

/// Answers a request. Returns it if HwStartIo must handle it. Otherwise completes
/// it. A broken disk fails every SCSI request.
pub fn answer<'a>(
    disk: &Disk,
    cx: &BuildIo<'_, 'a>,
    mut srb: Srb<'a>,
    broken: bool,
) -> Option<Srb<'a>> {
    match srb.function() {
        Function::ExecuteScsi if broken => refuse(srb, Sense::INTERNAL_TARGET_FAILURE),
        Function::ExecuteScsi => match disk.execute(Lun(srb.address().lun.into()), srb.cdb()) {
            Ok(Outcome::Media(MediaOp::Read(_))) => {
                if let Ok(mut data) = cx.data_in(&mut srb) {
                    let zeros = [0; 512];
                    for at in (0..data.length()).step_by(zeros.len()) {
                        data.write(at, &zeros);
                    }
                    return Some(srb);
                }
                srb.fail(Failure::InvalidRequest);
            }
            Ok(Outcome::Media(_)) => return Some(srb),
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
            Ok(Outcome::ModeSelect(_)) => refuse(srb, Sense::INVALID_FIELD_IN_PARAMETER_LIST),
            Err(sense) => refuse(srb, sense),
        },
        Function::Flush | Function::Shutdown | Function::Pnp { .. } | Function::Power => {
            srb.succeed(0);
        }
        _ => srb.fail(Failure::InvalidRequest),
    }
    None
}

/// Completes with CHECK CONDITION.
fn refuse(srb: Srb<'_>, sense: Sense) {
    let mut buffer = [0; Sense::FIXED_LENGTH];
    sense.write_to(&mut buffer);
    srb.check_condition(&buffer);
}

/// The disk that the initiator sees.
pub fn describe() -> Option<Disk> {
    Some(Disk {
        capacity: Capacity::new(Sectors(64 << 11), BlockSize::SECTOR)?,
        topology: Topology::default(),
        write_cache: WriteCacheState::new(WriteCache::Absent),
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
