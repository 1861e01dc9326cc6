//! Tests of the verify pass: it finds each kind of damage, and names it correctly.

use std::{os::unix::fs::FileExt, sync::Arc};

use indicatif::ProgressBar;

use super::{
    Expected, Outcome, Pass, Settings, VerifyError, compare,
    findings::{Mismatch, Place},
    plan::{Extent, Plan, Step},
    verify,
};
use crate::{
    disk::{
        Disk,
        cdb::opcode,
        fake_port::{FakePort, Io, failed},
    },
    stamp::{Damage, SECTOR, Stamp},
};
use testbed_machine::memory::Memory;
use testbed_storport::request::Direction;

const DISK: u64 = 16 << 20;
const VERIFIED: u64 = 4 << 20;

const SETTINGS: Settings = Settings {
    bytes: VERIFIED,
    seed: 77,
    cpus: 3,
    buffer_bytes: 8 << 20,
};

fn disk(port: &Arc<FakePort>) -> Disk {
    let memory = Memory::new(32 << 20).expect("memory");
    Disk::discover(port.clone(), &memory).expect("the fake is a disk")
}

fn run(port: FakePort) -> Result<Outcome, VerifyError> {
    let port = Arc::new(port);
    verify(
        &disk(&port),
        Some(&port.disk),
        SETTINGS,
        &ProgressBar::hidden(),
    )
}

#[test]
fn where_failures_are_tolerated_the_rest_is_verified() {
    let mut number = 0;
    let port = FakePort::new(DISK, 512).meddling(move |io: &mut Io| {
        number += 1;
        if number % 5 == 0 {
            io.completion = failed(io.completion.clone(), 0x3, 0x0C);
        }
    });
    let port = Arc::new(port);
    let disk = disk(&port);
    disk.failures().tolerate();

    let outcome = verify(&disk, Some(&port.disk), SETTINGS, &ProgressBar::hidden());
    let outcome = outcome.expect("it ends");

    assert!(outcome.failed > 0);
    assert_eq!(outcome.findings.count(), 0);
    assert_eq!(disk.failures().counts().len(), 1);
}

/// The outcome of a pass in which `meddle` can change each transfer.
fn found(meddle: impl FnMut(&mut Io) + Send + 'static) -> Outcome {
    let port = FakePort::new(DISK, 512).meddling(meddle);
    run(port).expect("no transfer fails")
}

fn damages(outcome: &Outcome, place: Place) -> Vec<Damage> {
    outcome
        .findings
        .mismatches()
        .filter(|(at, ..)| *at == place)
        .filter_map(|(_, _, mismatch)| match mismatch {
            Mismatch::Written { damage, .. } => Some(damage),
            Mismatch::Untouched { .. } => None,
        })
        .collect()
}

/// The stamps that a transfer carries.
fn stamps(io: &Io) -> Vec<Stamp> {
    io.bytes
        .as_chunks::<SECTOR>()
        .0
        .iter()
        .filter_map(Stamp::found_in)
        .collect()
}

/// Calls `meddle` once, with the first transfer that it accepts.
fn once(
    direction: Direction,
    mut meddle: impl FnMut(&mut Io) -> bool + Send + 'static,
) -> impl FnMut(&mut Io) + Send + 'static {
    let mut done = false;
    move |io| {
        if !done && io.direction == direction {
            done = meddle(io);
        }
    }
}

/// A write of at least `sectors` sectors.
fn is_long(io: &Io, sectors: usize) -> bool {
    io.bytes.len() >= sectors * SECTOR
}

#[test]
fn a_disk_that_keeps_everything_shows_no_mismatch() {
    let outcome = found(|_| {});

    assert_eq!(outcome.findings.count(), 0);
    assert_eq!(outcome.bytes, VERIFIED);
    assert!(outcome.extents > 20 && outcome.rewrites > 3 && outcome.reads > 20);
    assert!(outcome.untouched > 64);
    assert!(outcome.findings.describe(10).is_empty());
}

#[test]
fn blocks_of_4_kib_short_transfers_and_old_contents_make_no_mismatch() {
    let port = || FakePort::new(DISK, 512);
    let cutting = FakePort {
        max_transfer_bytes: 24 << 10,
        max_physical_breaks: 5,
        ..port()
    };
    let old = port();
    let contents = vec![0xA5; DISK as usize];
    old.disk.write_all_at(&contents, 0).expect("written");
    for port in [FakePort::new(DISK, 4096), cutting, old] {
        let outcome = run(port).expect("no transfer fails");
        assert_eq!(outcome.findings.count(), 0);
    }
}

#[test]
fn a_misplaced_write_is_missing_here_and_found_there() {
    let outcome = found(once(Direction::Out, |io| {
        let aside = io.at >= DISK / 2 && is_long(io, 16);
        if aside {
            io.at -= 8 * SECTOR as u64;
        }
        aside
    }));

    let misplaced = damages(&outcome, Place::Image)
        .iter()
        .any(|damage| matches!(damage, Damage::Misplaced { .. }));
    assert!(misplaced, "{:#?}", outcome.findings.describe(10));
    let text = outcome.findings.describe(10).join("\n");
    assert!(text.contains("misplaced: has the data of sector"), "{text}");
}

#[test]
fn a_write_that_spills_over_its_end_is_found_in_what_was_never_written() {
    let outcome = found(once(Direction::Out, |io| {
        let fits = io.at + io.bytes.len() as u64 + SECTOR as u64 <= DISK;
        if fits {
            let again = io.bytes[..SECTOR].to_vec();
            io.bytes.extend(again);
        }
        fits
    }));

    let untouched = outcome.findings.mismatches().any(|(place, _, mismatch)| {
        place == Place::Image && matches!(mismatch, Mismatch::Untouched { stamp: Some(_) })
    });
    assert!(untouched, "{:#?}", outcome.findings.describe(10));
    let text = outcome.findings.describe(10).join("\n");
    assert!(
        text.contains("never written, but has the data of sector"),
        "{text}"
    );
}

#[test]
fn a_lost_first_write_leaves_what_was_there_before() {
    let outcome = found(once(Direction::Out, |io| {
        io.bytes.fill(0);
        true
    }));

    assert!(!damages(&outcome, Place::Image).is_empty());
    for damage in damages(&outcome, Place::Image) {
        assert_eq!(damage, Damage::Zeros);
    }
    let text = outcome.findings.describe(10).join("\n");
    assert!(!text.contains("torn"), "{text}");
}

#[test]
fn a_lost_rewrite_leaves_a_stale_generation() {
    // Generations are numbered in the order of issue: a write whose sectors
    // were seen in an earlier one is a rewrite.
    let mut seen = std::collections::BTreeMap::new();
    let mut done = false;
    let outcome = found(move |io| {
        if io.direction == Direction::In || done {
            return;
        }
        let stamps = stamps(io);
        if let Some(older) = stamps
            .iter()
            .map(|stamp| seen.get(&stamp.sector).copied())
            .collect::<Option<Vec<[u8; SECTOR]>>>()
        {
            io.bytes = older.concat();
            done = true;
            return;
        }
        seen.extend(stamps.iter().map(|stamp| (stamp.sector, stamp.bytes())));
    });

    let damages = damages(&outcome, Place::Driver);
    assert!(!damages.is_empty());
    for damage in damages {
        assert!(matches!(damage, Damage::Stale { .. }), "{damage}");
    }
    let text = outcome.findings.describe(10).join("\n");
    assert!(text.contains("stale: has generation"), "{text}");
}

#[test]
fn a_write_torn_inside_a_sector_or_between_sectors_is_torn() {
    let torn = |at: usize| {
        found(once(Direction::Out, move |io| {
            let long = is_long(io, 8);
            if long {
                io.bytes[at..].fill(0);
            }
            long
        }))
    };
    let inside = torn(2 * SECTOR + 100);
    assert!(damages(&inside, Place::Image).contains(&Damage::Torn { at: 100 }));
    let text = torn(3 * SECTOR).findings.describe(10).join("\n");
    assert!(text.contains("the write is torn: "), "{text}");
}

#[test]
fn a_flipped_bit_on_the_way_back_is_found_there_and_not_in_the_image() {
    let outcome = found(once(Direction::In, |io| {
        let whole = stamps(io).len() * SECTOR == io.bytes.len();
        if whole {
            io.bytes[77] ^= 0x10;
        }
        whole
    }));

    assert_eq!(
        damages(&outcome, Place::Driver),
        [Damage::Flipped { bits: 1, first: 77 }]
    );
    assert!(damages(&outcome, Place::Image).is_empty());
    assert_eq!(outcome.findings.count(), 1);
}

#[test]
fn a_flipped_bit_on_the_way_there_is_found_in_the_image_too() {
    let outcome = found(once(Direction::Out, |io| {
        io.bytes[300] ^= 0x01;
        // Unless it is written again, it stays.
        true
    }));

    assert_eq!(
        damages(&outcome, Place::Image),
        [Damage::Flipped {
            bits: 1,
            first: 300
        }]
    );
}

#[test]
fn a_stale_read_is_found_through_the_driver_only() {
    let mut older = std::collections::BTreeMap::new();
    let mut now = std::collections::BTreeMap::new();
    let mut done = false;
    let outcome = found(move |io| {
        let stamps = stamps(io);
        if io.direction == Direction::Out {
            for stamp in stamps {
                if let Some(before) = now.insert(stamp.sector, stamp) {
                    older.insert(stamp.sector, before);
                }
            }
            return;
        }
        for (stamp, sector) in stamps.iter().zip(io.bytes.as_chunks_mut::<SECTOR>().0) {
            if let Some(before) = older.get(&stamp.sector)
                && !done
            {
                *sector = before.bytes();
                done = true;
            }
        }
    });

    let damages_of = damages(&outcome, Place::Driver);
    assert!(
        matches!(damages_of[..], [Damage::Stale { .. }]),
        "{damages_of:?}"
    );
    assert!(damages(&outcome, Place::Image).is_empty());
}

#[test]
fn a_read_that_brings_nothing_is_not_taken_for_an_answer() {
    let outcome = found(once(Direction::In, |io| {
        let whole = stamps(io).len() * SECTOR == io.bytes.len();
        if whole {
            // What the buffer held before the read.
            io.bytes.fill(0xEE);
        }
        whole
    }));

    let damages = damages(&outcome, Place::Driver);
    assert!(!damages.is_empty());
    assert!(damages.iter().all(|damage| *damage == Damage::Foreign));
}

#[test]
fn swapped_reads_are_misplaced() {
    let mut first: Option<(usize, Vec<u8>)> = None;
    let mut done = false;
    let outcome = found(move |io| {
        if io.direction == Direction::Out || done || stamps(io).len() * SECTOR != io.bytes.len() {
            return;
        }
        match &first {
            None => first = Some((io.bytes.len(), io.bytes.clone())),
            Some((length, bytes)) if *length == io.bytes.len() && *bytes != io.bytes => {
                io.bytes.clone_from(bytes);
                done = true;
            }
            Some(_) => {}
        }
    });

    let damages = damages(&outcome, Place::Driver);
    assert!(!damages.is_empty());
    for damage in damages {
        assert!(matches!(damage, Damage::Misplaced { .. }), "{damage}");
    }
}

#[test]
fn what_a_pass_cannot_do_ends_it() {
    let ends = |bytes, direction, meddle: fn(&mut Io)| {
        let port = FakePort::new(bytes, 512).meddling(once(direction, move |io| {
            meddle(io);
            true
        }));
        run(port).expect_err("the pass ends").to_string()
    };
    let text = ends(DISK, Direction::Out, |io| {
        io.completion = failed(io.completion.clone(), 0x3, 0x0C);
    });
    assert!(text.starts_with("WRITE(10) of "), "{text}");
    assert!(text.contains("MEDIUM ERROR (3h), write error"), "{text}");
    let text = ends(DISK, Direction::In, |io| io.completion.transferred -= 1);
    assert!(text.contains("completed as a success, but"), "{text}");
    let text = ends(DISK, Direction::Out, |io| io.lost = true);
    assert!(text.contains("completions were lost"), "{text}");
    let text = ends(2 << 20, Direction::In, |_| {});
    assert!(text.contains("more than the size of the disk"), "{text}");
}

#[test]
fn the_disk_is_flushed_between_the_last_transfer_and_the_look_at_the_image() {
    let port = Arc::new(FakePort::new(DISK, 512));

    let outcome = verify(
        &disk(&port),
        Some(&port.disk),
        SETTINGS,
        &ProgressBar::hidden(),
    );

    outcome.expect("no transfer fails");
    let last = port.commands(|_| true).last().map(|command| command.cdb[0]);
    assert_eq!(last, Some(opcode::SYNCHRONIZE_CACHE_10));
}

#[test]
fn without_an_image_the_read_data_is_verified() {
    let port = FakePort::new(DISK, 512).meddling(once(Direction::Out, |io| {
        io.bytes[100] ^= 1;
        true
    }));

    let outcome = verify(
        &disk(&Arc::new(port)),
        None,
        SETTINGS,
        &ProgressBar::hidden(),
    );

    let outcome = outcome.expect("no error");
    assert!(!damages(&outcome, Place::Driver).is_empty());
    assert!(damages(&outcome, Place::Image).is_empty());
    assert_eq!(outcome.untouched, 0);
}

#[test]
fn an_image_is_compared_with_what_a_pass_of_the_seed_wrote() {
    for block_bytes in [512, 4096] {
        let port = Arc::new(FakePort::new(DISK, block_bytes));
        verify(&disk(&port), None, SETTINGS, &ProgressBar::hidden()).expect("no error");
        let compared = |bytes, seed| {
            let progress = ProgressBar::hidden();
            compare(&port.disk, bytes, seed, block_bytes, &progress)
        };
        let mismatches = |seed| compared(VERIFIED, seed).expect("an image").count();
        assert_eq!(mismatches(SETTINGS.seed), 0);
        assert!(mismatches(SETTINGS.seed + 1) > 0);

        let plan = Plan::new(
            SETTINGS.seed,
            DISK / 512,
            u64::from(block_bytes) / 512,
            VERIFIED / 512,
        );
        for sector in [plan.extents[0].start, plan.untouched[0]] {
            let place = sector * SECTOR as u64 + 100;
            let mut byte = [0];
            port.disk.read_exact_at(&mut byte, place).expect("a byte");
            port.disk.write_all_at(&[!byte[0]], place).expect("a byte");
            assert_eq!(mismatches(SETTINGS.seed), 1);
            port.disk.write_all_at(&byte, place).expect("a byte");
        }
        for wrong in [0, VERIFIED + 1, DISK + u64::from(block_bytes)] {
            let error = compared(wrong, SETTINGS.seed).expect_err("a length");
            assert!(matches!(error, VerifyError::Length(_)));
        }
    }
}

/// A pass with only these steps to do.
fn pass_of(steps: &[Step]) -> Pass {
    let disk = disk(&Arc::new(FakePort::new(64 * SECTOR as u64, 512)));
    let expected = Expected::of(&Plan::new(1, 64, 1, 64));
    Pass::new(
        &disk,
        SETTINGS,
        &ProgressBar::hidden(),
        steps.to_vec(),
        expected,
    )
}

#[test]
fn a_step_overtakes_only_those_that_it_does_not_conflict_with() {
    let write = |extent: Extent, generation| Step::Write { extent, generation };
    let read = |extent: Extent| Step::Read { extent };
    let steps = [
        write(0..8, 1),
        // Waits for the first.
        write(4..12, 2),
        // Does not conflict with the first, but with the second before it.
        read(10..11),
        read(20..21),
    ];
    let pass = pass_of(&steps);

    assert_eq!(pass.next(), Some(steps[0].clone()));
    assert_eq!(pass.next(), Some(steps[3].clone()));
    assert_eq!(pass.next(), None);

    pass.state().in_flight.retain(|step| *step != steps[0]);
    assert_eq!(pass.next(), Some(steps[1].clone()));
    assert_eq!(pass.next(), None);

    pass.state().in_flight.retain(|step| *step != steps[1]);
    assert_eq!(pass.next(), Some(steps[2].clone()));
}
