//! Offsets of the I/Os, in bytes from the start of the range (`-B`).

use std::sync::atomic::{AtomicU64, Ordering};

use rand::{Rng, RngExt};

use super::options::{Access, Options};

/// The range of the disk that the workload uses, and the access pattern.
#[derive(Debug)]
pub struct Range {
    access: Access,
    step: u64,
    block: u64,
    /// Bytes of the range.
    bytes: u64,
    /// One step behind the last offset at which a block fits.
    stepped: u64,
    thread_stride: u64,
    /// The shared position of `-si`.
    shared: AtomicU64,
}

impl Range {
    /// The range of `options` on a disk of `disk_bytes`.
    ///
    /// # Errors
    /// A block does not fit into the range, or a thread would start beyond it.
    pub fn new(options: &Options, disk_bytes: u64) -> Result<Self, String> {
        let Options { base, step, .. } = *options;
        let block = u64::from(options.block_bytes);
        let end = options.end.map_or(disk_bytes, |end| end.min(disk_bytes));
        let bytes = end.saturating_sub(base);
        let Some(room) = bytes.checked_sub(block) else {
            return Err(format!(
                "the range of {bytes} bytes at offset {base} (-B, -f; the disk has {disk_bytes} \
                 bytes) is shorter than a block of {block} bytes (-b): enlarge the range, or lower \
                 -b"
            ));
        };
        let range = Self {
            access: options.access,
            step,
            block,
            bytes,
            stepped: room - room % step + step,
            thread_stride: options.thread_stride,
            shared: AtomicU64::new(0),
        };
        let last = options.threads - 1;
        let start = range.start_of(last);
        if start > room {
            return Err(format!(
                "thread {last} would start at {start}, beyond the range of {bytes} bytes: lower -T"
            ));
        }
        Ok(range)
    }

    fn start_of(&self, thread: u32) -> u64 {
        self.thread_stride.saturating_mul(thread.into())
    }

    /// A random offset at which a block fits.
    fn random(&self, random: &mut impl Rng) -> u64 {
        random.random_range(0..self.stepped / self.step) * self.step
    }

    /// `offset` if a block fits there, else the first offset of the thread.
    fn wrapped(&self, offset: u64, thread: u32) -> u64 {
        if offset.saturating_add(self.block) > self.bytes {
            self.start_of(thread) % self.step
        } else {
            offset
        }
    }
}

/// The position of a thread.
#[derive(Debug)]
pub struct Position {
    thread: u32,
    /// The next sequential offset; with `-p`, one for each outstanding I/O.
    next: Vec<u64>,
}

impl Position {
    /// The thread's start; `random` decides where mixed access starts.
    #[must_use]
    pub fn new(range: &Range, thread: u32, outstanding: u32, random: &mut impl Rng) -> Self {
        let (start, tracks) = match range.access {
            Access::Mixed { .. } => (range.random(random), 1),
            Access::Parallel => (range.start_of(thread), outstanding as usize),
            _ => (range.start_of(thread), 1),
        };
        Self {
            thread,
            next: vec![start; tracks],
        }
    }

    /// The next offset for outstanding I/O number `slot`, and whether it continues a sequential
    /// run.
    pub fn advance(&mut self, range: &Range, slot: usize, random: &mut impl Rng) -> (u64, bool) {
        let fresh = match range.access {
            Access::Random => true,
            Access::Mixed { random_percent } => random.random_range(0..100) < random_percent,
            _ => false,
        };
        let track = if self.next.len() > 1 { slot } else { 0 };
        let offset = if fresh {
            range.random(random)
        } else if range.access == Access::Interlocked {
            range.shared.fetch_add(range.step, Ordering::Relaxed) % range.stepped
        } else {
            range.wrapped(self.next[track], self.thread)
        };
        self.next[track] = offset.saturating_add(range.step);
        (offset, !fresh)
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::{super::options::tests::accepted as options, *};

    const DISK: u64 = 1 << 20;

    /// The first offsets of thread `thread`.
    fn offsets(line: &str, thread: u32, count: usize) -> Vec<u64> {
        let options = options(line);
        let range = Range::new(&options, DISK).expect("the range holds a block");
        let mut random = StdRng::seed_from_u64(1);
        let mut position = Position::new(&range, thread, options.outstanding, &mut random);
        (0..count)
            .map(|number| {
                let slot = number % options.outstanding as usize;
                position.advance(&range, slot, &mut random).0
            })
            .collect()
    }

    #[test]
    fn sequential_access_goes_on_by_its_stride_and_wraps_where_no_block_fits() {
        assert_eq!(
            offsets("-b256K", 0, 6),
            [0, 0x40000, 0x80000, 0xC0000, 0, 0x40000]
        );
        assert_eq!(offsets("-b512K -s256K", 0, 4), [0, 0x40000, 0x80000, 0]);
    }

    #[test]
    fn threads_start_apart_by_their_stride_and_wrap_to_the_begin() {
        assert_eq!(
            offsets("-b256K -t2 -T512K", 1, 4),
            [0x80000, 0xC0000, 0, 0x40000]
        );
    }

    #[test]
    fn parallel_access_gives_each_outstanding_io_its_own_track() {
        assert_eq!(
            offsets("-b256K -p -o2", 0, 6),
            [0, 0, 0x40000, 0x40000, 0x80000, 0x80000]
        );
    }

    #[test]
    fn interlocked_threads_share_one_track() {
        let options = options("-b256K -si -t2");
        let range = Range::new(&options, DISK).expect("the range holds a block");
        let mut random = StdRng::seed_from_u64(1);
        let mut first = Position::new(&range, 0, 2, &mut random);
        let mut second = Position::new(&range, 1, 2, &mut random);

        let taken: Vec<u64> = (0..3)
            .flat_map(|_| {
                [
                    first.advance(&range, 0, &mut random).0,
                    second.advance(&range, 0, &mut random).0,
                ]
            })
            .collect();

        assert_eq!(taken, [0, 0x40000, 0x80000, 0xC0000, 0, 0x40000]);
    }

    #[test]
    fn random_access_is_aligned_stays_inside_and_reaches_the_last_block() {
        let taken = offsets("-b64K -r4K", 0, 20_000);

        assert!(taken.iter().all(|offset| offset % 4096 == 0));
        assert_eq!(taken.iter().max(), Some(&(DISK - (64 << 10))));
        assert_eq!(taken.iter().min(), Some(&0));
    }

    #[test]
    fn mixed_access_jumps_as_often_as_asked() {
        let taken = offsets("-b4K -r -rs25", 0, 20_000);
        let jumps = taken
            .windows(2)
            .filter(|pair| pair[1] != pair[0] + 4096 && pair[1] != 0)
            .count();

        assert!((4500..5500).contains(&jumps), "{jumps}");
    }

    #[test]
    fn a_range_that_holds_no_block_or_not_every_thread_is_refused() {
        for (line, why) in [
            ("-b2M", "is shorter than a block"),
            ("-b4K -B1M", "is shorter than a block"),
            ("-b64K -B0:4K", "is shorter than a block"),
            ("-b4K -f1K", "is shorter than a block"),
            ("-b64K -t3 -T512K", "thread 2 would start at 1048576"),
        ] {
            let error = Range::new(&options(line), DISK).map(drop).expect_err(line);
            assert!(error.contains(why), "{error}");
        }
    }
}
