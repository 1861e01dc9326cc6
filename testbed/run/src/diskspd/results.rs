//! The results of a workload: I/Os, bytes, latencies and rates of each thread, separately for
//! reads and writes.

use std::time::Duration;

use super::{latency::Latencies, options::Options};

/// Reads or writes that completed in the measured time.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// The number of I/Os.
    pub ios: u64,
    /// The number of bytes.
    pub bytes: u64,
    /// The latencies, with `-L`.
    pub latencies: Option<Latencies>,
    /// The number of completions in each interval, with `-D`.
    pub intervals: Option<Intervals>,
}

impl Tally {
    /// An empty tally for `options`.
    #[must_use]
    pub fn new(options: &Options) -> Self {
        Self {
            ios: 0,
            bytes: 0,
            latencies: options.latency.then(Latencies::new),
            intervals: options.interval_ms.map(|interval_ms| {
                Intervals::new(interval_ms, Duration::from_secs(options.duration_s.into()))
            }),
        }
    }

    /// Counts an I/O of `bytes` that took `latency` and completed `at` after the start of the
    /// measured time.
    pub fn record(&mut self, bytes: u64, latency: Duration, at: Duration) {
        self.ios += 1;
        self.bytes += bytes;
        if let Some(latencies) = &mut self.latencies {
            latencies.record(latency);
        }
        if let Some(intervals) = &mut self.intervals {
            intervals.record(at);
        }
    }

    /// The sum of two tallies of the same options.
    #[must_use]
    pub fn plus(mut self, other: &Self) -> Self {
        self.ios += other.ios;
        self.bytes += other.bytes;
        if let (Some(latencies), Some(others)) = (&mut self.latencies, &other.latencies) {
            latencies.merge(others);
        }
        if let (Some(intervals), Some(others)) = (&mut self.intervals, &other.intervals) {
            intervals.merge(others);
        }
        self
    }
}

/// Completed I/Os counted in intervals of equal length.
#[derive(Clone, Debug)]
pub struct Intervals {
    interval: Duration,
    counts: Vec<u64>,
}

impl Intervals {
    /// As many intervals as cover `duration`.
    #[must_use]
    pub fn new(interval_ms: u32, duration: Duration) -> Self {
        let interval = Duration::from_millis(interval_ms.max(1).into());
        let count = duration.as_nanos().div_ceil(interval.as_nanos());
        Self {
            interval,
            counts: vec![0; usize::try_from(count).unwrap_or(usize::MAX)],
        }
    }

    fn record(&mut self, at: Duration) {
        let index = at.as_nanos() / self.interval.as_nanos();
        let count = usize::try_from(index)
            .ok()
            .and_then(|index| self.counts.get_mut(index));
        if let Some(count) = count {
            *count += 1;
        }
    }

    fn merge(&mut self, other: &Self) {
        for (count, others) in self.counts.iter_mut().zip(&other.counts) {
            *count += others;
        }
    }

    /// The standard deviation of the intervals' I/Os per second.
    #[must_use]
    pub fn deviation(&self) -> f64 {
        if self.counts.is_empty() {
            return 0.0;
        }
        let number = self.counts.len() as f64;
        let mean = self.counts.iter().map(|&count| count as f64).sum::<f64>() / number;
        let squares: f64 = self
            .counts
            .iter()
            .map(|&count| (count as f64 - mean).powi(2))
            .sum();
        (squares / number).sqrt() / self.interval.as_secs_f64()
    }
}

/// Reads and writes of one thread.
#[derive(Clone, Debug, Default)]
pub struct ThreadResults {
    /// Its reads.
    pub reads: Tally,
    /// Its writes.
    pub writes: Tally,
}

/// The host CPU time of a testbed thread in the measured time. A thread is a virtual CPU or a
/// queue of the device.
#[derive(Clone, Debug, PartialEq)]
pub struct CpuShare {
    /// The thread's name.
    pub name: String,
    /// Share of the time, 0 to 1, in the host's user mode: workload, driver,
    /// Storport and device.
    pub user: f64,
    /// Share of the time, 0 to 1, in the host's kernel: the image file, waits.
    pub kernel: f64,
}

/// The results of a workload.
#[derive(Clone, Debug)]
pub struct Results {
    /// The measured time.
    pub measured: Duration,
    /// One for each thread.
    pub threads: Vec<ThreadResults>,
    /// One for each busy thread.
    pub cpus: Vec<CpuShare>,
    /// The disk's name.
    pub target: String,
    /// The disk's length in bytes.
    pub target_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deviation_of_rates_is_that_computed_by_hand() {
        // 500 ms intervals with 10, 20, 30, 20 I/Os: mean 20, squares 200 / 4 =
        // 50, root 7.0711, per second 14.142.
        let mut intervals = Intervals::new(500, Duration::from_secs(2));
        for (index, count) in [10, 20, 30, 20].into_iter().enumerate() {
            for _ in 0..count {
                intervals.record(Duration::from_millis(500 * index as u64 + 3));
            }
        }

        assert!((intervals.deviation() - 14.142_135).abs() < 1e-5);
    }

    #[test]
    fn an_interval_that_begins_in_the_measured_time_counts() {
        assert_eq!(
            Intervals::new(1000, Duration::from_millis(2500)).counts,
            [0; 3]
        );
    }

    #[test]
    fn completions_after_the_last_interval_are_left_out() {
        let mut intervals = Intervals::new(1000, Duration::from_secs(1));
        intervals.record(Duration::from_secs(5));
        assert_eq!(intervals.counts, [0]);
    }

    #[test]
    fn tallies_add_up() {
        let options = Options::parse(&["-L".to_owned(), "-D".to_owned()]).expect("valid");
        let mut left = Tally::new(&options);
        left.record(512, Duration::from_millis(1), Duration::ZERO);
        let mut right = Tally::new(&options);
        right.record(1024, Duration::from_millis(3), Duration::from_secs(1));

        let sum = left.plus(&right);

        assert_eq!((sum.ios, sum.bytes), (2, 1536));
        assert_eq!(sum.latencies.and_then(|all| all.mean_ms()), Some(2.0));
        assert_eq!(
            sum.intervals.map(|all| all.counts[..2].to_vec()),
            Some(vec![1, 1])
        );
    }
}
