//! What the verify pass must find: each kind of wrong, told apart.

use std::sync::{Arc, Mutex};

use indicatif::ProgressBar;

use super::{
    Expected, Outcome, Pass, Settings, State, VerifyError,
    findings::{Findings, Mismatch, Place},
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

fn run(port: FakePort) -> Result<Outcome, VerifyError> {
    let image = port.disk.try_clone().expect("a second handle");
    let memory = Memory::new(32 << 20).expect("memory");
    let disk = Disk::discover(Arc::new(port), &memory).expect("the fake is a disk");
    let settings = Settings {
        bytes: VERIFIED,
        seed: 77,
        cpus: 3,
        buffer_bytes: 8 << 20,
    };
    verify(&disk, Some(&image), settings, &ProgressBar::hidden())
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
    let image = port.disk.try_clone().expect("a second handle");
    let memory = Memory::new(32 << 20).expect("memory");
    let disk = Disk::discover(Arc::new(port), &memory).expect("the fake is a disk");
    disk.failures().tolerate();
    let settings = Settings {
        bytes: VERIFIED,
        seed: 77,
        cpus: 3,
        buffer_bytes: 8 << 20,
    };

    let outcome = verify(&disk, Some(&image), settings, &ProgressBar::hidden()).expect("it ends");

    assert!(outcome.failed > 0);
    assert_eq!(outcome.findings.count(), 0);
    assert_eq!(disk.failures().counts().len(), 1);
}

/// What a pass finds when `meddle` has its hands in each transfer.
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
fn blocks_of_four_kibibytes_are_verified_as_well() {
    let outcome = run(FakePort::new(DISK, 4096)).expect("no transfer fails");
    assert_eq!(outcome.findings.count(), 0);
}

#[test]
fn transfers_that_the_adapter_cuts_to_pieces_are_verified_as_well() {
    let port = FakePort {
        max_transfer_bytes: 24 << 10,
        max_physical_breaks: 5,
        ..FakePort::new(DISK, 512)
    };
    let outcome = run(port).expect("no transfer fails");
    assert_eq!(outcome.findings.count(), 0);
}

#[test]
fn what_the_disk_held_before_does_not_matter() {
    let port = FakePort::new(DISK, 512);
    std::os::unix::fs::FileExt::write_all_at(&port.disk, &vec![0xA5; DISK as usize], 0)
        .expect("the file takes it");
    assert_eq!(run(port).expect("no transfer fails").findings.count(), 0);
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
fn a_write_torn_inside_a_sector_is_torn() {
    let outcome = found(once(Direction::Out, |io| {
        let long = is_long(io, 4);
        if long {
            io.bytes[2 * SECTOR + 100..].fill(0);
        }
        long
    }));

    assert!(damages(&outcome, Place::Image).contains(&Damage::Torn { at: 100 }));
}

#[test]
fn a_write_torn_between_sectors_is_called_torn() {
    let outcome = found(once(Direction::Out, |io| {
        let long = is_long(io, 8);
        if long {
            io.bytes[3 * SECTOR..].fill(0);
        }
        long
    }));

    let text = outcome.findings.describe(10).join("\n");
    assert!(text.contains("the write is torn: "), "{text}");
}

#[test]
fn a_write_lost_as_a_whole_is_not_called_torn() {
    let outcome = found(once(Direction::Out, |io| {
        io.bytes.fill(0);
        true
    }));

    let text = outcome.findings.describe(10).join("\n");
    assert!(!text.contains("torn"), "{text}");
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
fn a_transfer_that_fails_ends_the_pass_with_its_error() {
    let port = FakePort::new(DISK, 512).meddling(once(Direction::Out, |io| {
        io.completion = failed(io.completion.clone(), 0x3, 0x0C);
        true
    }));

    let error = run(port).expect_err("the write failed");
    let text = error.to_string();
    assert!(
        text.starts_with("WRITE(10) of ") && text.contains("MEDIUM ERROR (3h), write error"),
        "{text}"
    );
}

#[test]
fn a_short_transfer_that_claims_success_ends_the_pass() {
    let port = FakePort::new(DISK, 512).meddling(once(Direction::In, |io| {
        io.completion.transferred -= 1;
        true
    }));

    let text = run(port).expect_err("the read was short").to_string();
    assert!(text.contains("completed as a success, but"), "{text}");
}

#[test]
fn a_completion_that_never_comes_ends_the_pass() {
    let port = FakePort::new(DISK, 512).meddling(once(Direction::Out, |io| {
        io.lost = true;
        true
    }));

    assert!(matches!(run(port), Err(VerifyError::Undone(1..))));
}

#[test]
fn more_than_the_disk_holds_is_refused() {
    assert!(matches!(
        run(FakePort::new(2 << 20, 512)),
        Err(VerifyError::Length(_))
    ));
}

#[test]
fn no_stamped_disk_ends_its_first_sector_like_a_boot_record() {
    let port = FakePort::new(DISK, 512);
    let image = port.disk.try_clone().expect("a second handle");
    run(port).expect("no transfer fails");

    let mut sector = [0; SECTOR];
    std::os::unix::fs::FileExt::read_exact_at(&image, &mut sector, 0).expect("a sector");
    assert!(Stamp::found_in(&sector).is_some());
    assert_ne!(sector[510..], [0x55, 0xAA]);
}

#[test]
fn the_disk_is_flushed_between_the_last_transfer_and_the_look_at_the_image() {
    let port = Arc::new(FakePort::new(DISK, 512));
    let image = port.disk.try_clone().expect("a second handle");
    let memory = Memory::new(32 << 20).expect("memory");
    let disk = Disk::discover(port.clone(), &memory).expect("the fake is a disk");
    let settings = Settings {
        bytes: 1 << 20,
        seed: 1,
        cpus: 1,
        buffer_bytes: 4 << 20,
    };

    verify(&disk, Some(&image), settings, &ProgressBar::hidden()).expect("no transfer fails");

    let last = port.commands(|_| true).last().map(|command| command.cdb[0]);
    assert_eq!(last, Some(opcode::SYNCHRONIZE_CACHE_10));
}

#[test]
fn without_an_image_what_reads_give_is_verified() {
    let port = FakePort::new(DISK, 512).meddling(once(Direction::Out, |io| {
        io.bytes[100] ^= 1;
        true
    }));
    let memory = Memory::new(32 << 20).expect("memory");
    let disk = Disk::discover(Arc::new(port), &memory).expect("the fake is a disk");
    let settings = Settings {
        bytes: VERIFIED,
        seed: 77,
        cpus: 1,
        buffer_bytes: 8 << 20,
    };

    let outcome = verify(&disk, None, settings, &ProgressBar::hidden()).expect("no error");

    assert!(!damages(&outcome, Place::Driver).is_empty());
    assert!(damages(&outcome, Place::Image).is_empty());
    assert_eq!(outcome.untouched, 0);
}

/// A pass with only these steps to do.
fn pass_of(steps: &[Step]) -> Pass {
    let plan = Plan::new(1, 64, 1, 64);
    Pass {
        block_sectors: 1,
        seed: 1,
        untouched: std::collections::BTreeMap::new(),
        progress: ProgressBar::hidden(),
        failures: Arc::default(),
        state: Mutex::new(State {
            waiting: steps.iter().cloned().collect(),
            in_flight: Vec::new(),
            expected: Expected::of(&plan),
            findings: Findings::new(1, 512),
            failed: 0,
            error: None,
        }),
    }
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
