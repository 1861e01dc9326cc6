//! An SRB is completed once, and not used afterwards.

use storport::*;

/// A request can be completed only once, and a request that was started or stored is not completed
/// as well. The second completion is bug check 0xF1, 0x2004 under Storport's verifier, and corrupts
/// Storport's lists without it.
/// storport-rules.md S1, S8.
fn completed_twice<'a>(
    cx: &mut StartIo<'_, 'a>,
    slot: &DpcLocked<'a, Option<StartedSrb<'a>>>,
    (one, other): (Srb<'a>, Srb<'a>),
    fits: bool,
) {
    if fits {
        slot.with(cx, |slot| **slot = Some(one.started()));
        other.fail(Failure::Error);
        #[cfg(right)]
        return;
    }
    one.fail(Failure::Error);
    //~ E0382
    other.succeed(0);
    //~ E0382
}

/// HwBuildIo does not pass a request to HwStartIo that it completed.
/// storport-rules.md S4, StorPortBuildIo.
fn completed_and_passed_on<'a>(srb: Srb<'a>) -> Option<(Srb<'a>, u64)> {
    let Some(&operation) = srb.cdb().first() else {
        srb.fail(Failure::InvalidRequest);
        #[cfg(wrong)]
        return Some((srb, 0));
        //~ E0382
        #[cfg(right)]
        return None;
    };
    Some((srb, u64::from(operation)))
}

/// HwBuildIo does not pass a request to HwStartIo that it started.
/// storport-rules.md S4.
fn started_and_passed_on(srb: Srb<'_>) -> Option<(Srb<'_>, u64)> {
    #[cfg(wrong)]
    let srb = srb.started();
    Some((srb, 0))
    //~ E0308
}

/// A request is one value that cannot be copied, so it is completed at most once.
/// storport-rules.md S1.
fn copied(srb: &Srb<'_>) -> u32 {
    #[cfg(wrong)]
    (*srb).succeed(0);
    //~ E0507
    srb.data_length()
}

/// Only completing a request sets its status, which is final: SRB_STATUS_PENDING is not.
/// storport-rules.md S3, StorPortStatusPending.
fn status(srb: Srb<'_>, other: Srb<'_>) {
    #[cfg(wrong)]
    srb.fail(Failure::Pending);
    //~ E0599
    #[cfg(wrong)]
    other.finish(0);
    //~ E0624
    #[cfg(right)]
    {
        srb.fail(Failure::Error);
        other.succeed(0);
    }
}

/// A completed request belongs to Storport, so the driver uses neither the request nor its CDB, its
/// data or its scatter/gather list.
/// storport-rules.md S2, S11.
fn used_after_completion<'a>(
    cx: &BuildIo<'_, 'a>,
    [a, b, mut c, d]: [Srb<'a>; 4],
) -> Option<(u32, u8, usize)> {
    #[cfg(right)]
    let bytes = a.data_length();
    a.succeed(0);
    #[cfg(wrong)]
    let bytes = a.data_length();
    //~ E0382

    let operation = b.cdb().first();
    #[cfg(right)]
    let operation = operation.copied();
    b.succeed(0);
    //~ E0505
    #[cfg(wrong)]
    let operation = operation.copied();

    let data = cx.data_in(&mut c);
    #[cfg(wrong)]
    c.succeed(1);
    //~ E0505
    if let Ok(mut data) = data {
        data.write(0, &[0]);
    }
    #[cfg(right)]
    c.succeed(1);

    let list = cx.scatter_gather(&d);
    #[cfg(wrong)]
    d.succeed(0);
    //~ E0505
    let pieces = list.map_or(0, |list| list.elements().len());
    #[cfg(right)]
    d.succeed(0);
    Some((bytes, operation?, pieces))
}

/// A request that was started cannot be completed as BUSY: Storport would start it a second time.
/// The driver does not use its data while the device has it.
/// storport-rules.md S5, S8.
fn used_after_start<'a>(cx: &StartIo<'_, 'a>, mut srb: Srb<'a>, full: bool) -> StartedSrb<'a> {
    #[cfg(right)]
    if let Ok(mut data) = cx.data_in(&mut srb) {
        data.write(0, &[u8::from(full)]);
    }
    #[cfg_attr(right, expect(unused_mut))]
    let mut started = srb.started();
    #[cfg(wrong)]
    if let Ok(mut data) = cx.data_in(&mut started) {
        //~ E0277 this request was started, so the device may be using it
        data.write(0, &[0]);
    }
    #[cfg(wrong)]
    if full {
        started.busy();
        //~ E0277 this request was started, so the device may be using it
    }
    started
}
