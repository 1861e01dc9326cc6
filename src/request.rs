//! From SRB to request, and from outcome to completion.

use scsi::{Lun, MediaOp, Outcome, Sense, WriteCache};
use storport::{BuildIo, Context, Failure, Function, Srb};
use virtio::{
    blk::{Refused, RequestError},
    slots::Slot,
    split_queue::{Prepared, Used},
};

use crate::{
    adapter::Adapter,
    platform::segments,
    queue::{Kind, Owner, Parked},
};

/// A request between HwBuildIo and HwStartIo: it lies in its slot.
pub struct Request {
    /// The slot and what the queue must know of it.
    pub prepared: Prepared,
    /// What it asks for.
    pub kind: Kind,
    /// Bytes of data.
    pub bytes: u32,
}

/// Answers an SRB, or makes a request for the device out of it.
pub fn build<'a>(
    adapter: &Adapter<'a>,
    cx: &BuildIo<'_, 'a>,
    srb: Srb<'a>,
) -> Option<(Srb<'a>, Request)> {
    match srb.function() {
        Function::ExecuteScsi => execute(adapter, cx, srb),
        Function::Flush | Function::Shutdown => flush(adapter, srb),
        // Nothing is kept for a unit, and the adapter's own changes of state
        // come by HwAdapterControl.
        Function::Pnp { .. } | Function::Power => {
            srb.succeed(0);
            None
        }
        // Storport goes on to HwResetBus then, which may wait for the device.
        Function::ResetBus
        | Function::ResetDevice
        | Function::ResetLogicalUnit
        | Function::Other(_) => {
            srb.fail(Failure::InvalidRequest);
            None
        }
    }
}

fn execute<'a>(
    adapter: &Adapter<'a>,
    cx: &BuildIo<'_, 'a>,
    mut srb: Srb<'a>,
) -> Option<(Srb<'a>, Request)> {
    let address = srb.address();
    if address.path != 0 {
        srb.fail(Failure::InvalidPathId);
        return None;
    }
    if address.target != 0 {
        srb.fail(Failure::InvalidTargetId);
        return None;
    }
    match adapter.disk.execute(Lun(u16::from(address.lun)), srb.cdb()) {
        Err(sense) => refuse(srb, sense),
        Ok(Outcome::Good) => srb.succeed(0),
        Ok(Outcome::Data(reply)) => {
            let written = cx.data(&mut srb).map_or(0, |buffer| reply.write_to(buffer));
            srb.succeed(u32::try_from(written).unwrap_or(0));
        }
        Ok(Outcome::Media(MediaOp::Flush)) => return flush(adapter, srb),
        Ok(Outcome::Media(MediaOp::Read { extent, .. })) => {
            return transfer(adapter, cx, srb, Kind::Read(extent.lba()), extent);
        }
        Ok(Outcome::Media(MediaOp::Write { extent, .. })) => {
            return transfer(adapter, cx, srb, Kind::Write(extent.lba()), extent);
        }
    }
    None
}

fn transfer<'a>(
    adapter: &Adapter<'a>,
    cx: &BuildIo<'_, 'a>,
    srb: Srb<'a>,
    kind: Kind,
    extent: scsi::Extent,
) -> Option<(Srb<'a>, Request)> {
    let blocks = u32::try_from(extent.blocks().0).unwrap_or(0);
    let (Ok(extent), Some(list)) = (
        adapter.config.extent(extent.lba().0, blocks),
        cx.scatter_gather(&srb),
    ) else {
        srb.fail(Failure::InvalidRequest);
        return None;
    };
    let Some(slot) = adapter.slots.reserve() else {
        srb.busy();
        return None;
    };
    let prepared = if matches!(kind, Kind::Write(_)) {
        adapter.requests.write(slot, extent, segments(list))
    } else {
        adapter.requests.read(slot, extent, segments(list))
    };
    send(adapter, srb, prepared, kind, extent.bytes())
}

fn flush<'a>(adapter: &Adapter<'a>, srb: Srb<'a>) -> Option<(Srb<'a>, Request)> {
    if adapter.disk.write_cache == WriteCache::Absent {
        srb.succeed(0);
        return None;
    }
    let Some(slot) = adapter.slots.reserve() else {
        srb.busy();
        return None;
    };
    send(adapter, srb, adapter.requests.flush(slot), Kind::Flush, 0)
}

fn send<'a>(
    adapter: &Adapter<'a>,
    srb: Srb<'a>,
    prepared: Result<Prepared, Refused>,
    kind: Kind,
    bytes: u32,
) -> Option<(Srb<'a>, Request)> {
    match prepared {
        Ok(prepared) => Some((
            srb,
            Request {
                prepared,
                kind,
                bytes,
            },
        )),
        Err(refused) => {
            // The data do not fit the CDB, or the limits that Storport knows.
            adapter.slots.release(refused.slot);
            srb.fail(Failure::InvalidRequest);
            None
        }
    }
}

/// Completes a request that the device is done with, and frees its slot.
pub fn complete(adapter: &Adapter<'_>, used: Used<Owner<'_>>) {
    let outcome = adapter.requests.outcome(&used);
    adapter.slots.release(used.slot);
    let Owner::Initiator(Parked { srb, kind, bytes }) = used.payload else {
        return;
    };
    match (outcome, kind) {
        (Ok(read), Kind::Read(_)) => srb.succeed(read.min(bytes)),
        (Ok(_), Kind::Write(_) | Kind::Flush) => srb.succeed(bytes),
        (Err(RequestError::Io), Kind::Read(lba)) => refuse(srb, Sense::read_failed(lba)),
        (Err(RequestError::Io), Kind::Write(lba)) => refuse(srb, Sense::write_failed(lba)),
        (Err(RequestError::Io), Kind::Flush) => refuse(srb, Sense::FLUSH_FAILED),
        (Err(_), _) => refuse(srb, Sense::INTERNAL_TARGET_FAILURE),
    }
}

/// Completes a request that the device did not answer, and frees its slot.
pub fn abandon<'a>(adapter: &Adapter<'a>, slot: Slot, owner: Owner<'a>, why: Failure) {
    adapter.slots.release(slot);
    if let Owner::Initiator(parked) = owner {
        parked.srb.fail(why);
    }
}

/// Completes with CHECK CONDITION.
fn refuse<S>(srb: Srb<'_, S>, sense: Sense) {
    let mut buffer = [0; Sense::FIXED_LENGTH];
    let length = sense.write_to(&mut buffer);
    srb.check_condition(buffer.get(..length).unwrap_or_default());
}
