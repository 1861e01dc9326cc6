//! Latencies of many I/Os: exact mean and deviation, percentiles to three
//! digits.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Latencies in nanoseconds.
///
/// The histogram keeps three significant digits, which would show in the mean
/// of few samples; so sums are kept beside it.
#[derive(Clone, Debug)]
pub struct Latencies {
    histogram: Histogram<u64>,
    sum: u128,
    sum_of_squares: u128,
    least: u64,
    most: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self::new()
    }
}

impl Latencies {
    /// No samples.
    #[must_use]
    pub fn new() -> Self {
        // Up to an hour: no request lives longer than Storport's time-out.
        let histogram = Histogram::new_with_max(3_600_000_000_000, 3)
            .expect("an hour in nanoseconds is a range, and 3 digits are allowed");
        Self {
            histogram,
            sum: 0,
            sum_of_squares: 0,
            least: u64::MAX,
            most: 0,
        }
    }

    /// Adds one sample.
    pub fn record(&mut self, latency: Duration) {
        let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.histogram.saturating_record(nanoseconds);
        self.sum += u128::from(nanoseconds);
        self.sum_of_squares += u128::from(nanoseconds) * u128::from(nanoseconds);
        self.least = self.least.min(nanoseconds);
        self.most = self.most.max(nanoseconds);
    }

    /// Adds all samples of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.histogram
            .add(&other.histogram)
            .expect("all histograms have the same range");
        self.sum += other.sum;
        self.sum_of_squares += other.sum_of_squares;
        self.least = self.least.min(other.least);
        self.most = self.most.max(other.most);
    }

    /// How many samples there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// The mean in milliseconds, if there is a sample.
    #[must_use]
    pub fn mean_ms(&self) -> Option<f64> {
        (self.count() > 0).then(|| self.sum as f64 / self.count() as f64 / 1e6)
    }

    /// The standard deviation of the samples (not of a population they were
    /// drawn from) in milliseconds, as diskspd computes it.
    #[must_use]
    pub fn deviation_ms(&self) -> Option<f64> {
        (self.count() > 0).then(|| {
            let count = self.count() as f64;
            let mean = self.sum as f64 / count;
            let variance = self.sum_of_squares as f64 / count - mean * mean;
            variance.max(0.0).sqrt() / 1e6
        })
    }

    /// The shortest in milliseconds.
    #[must_use]
    pub fn least_ms(&self) -> Option<f64> {
        (self.count() > 0).then_some(self.least as f64 / 1e6)
    }

    /// The longest in milliseconds.
    #[must_use]
    pub fn most_ms(&self) -> Option<f64> {
        (self.count() > 0).then_some(self.most as f64 / 1e6)
    }

    /// The latency that the share `quantile` (0 to 1) of the samples does not
    /// exceed, in milliseconds, to three significant digits.
    #[must_use]
    pub fn quantile_ms(&self, quantile: f64) -> Option<f64> {
        let value = self.histogram.value_at_quantile(quantile);
        (self.count() > 0).then(|| value.clamp(self.least, self.most) as f64 / 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_ms(samples: &[u64]) -> Latencies {
        let mut latencies = Latencies::new();
        for &sample in samples {
            latencies.record(Duration::from_millis(sample));
        }
        latencies
    }

    fn close(left: Option<f64>, right: f64, tolerance: f64) -> bool {
        left.is_some_and(|left| (left - right).abs() <= tolerance)
    }

    #[test]
    fn mean_and_deviation_are_those_computed_by_hand() {
        // 2, 4, 4, 4, 5, 5, 7, 9: mean 5, squares of deviations 9+1+1+1+0+0+4+16
        // = 32, divided by 8 = 4, root 2.
        let latencies = of_ms(&[2, 4, 4, 4, 5, 5, 7, 9]);

        assert_eq!(latencies.count(), 8);
        assert!(close(latencies.mean_ms(), 5.0, 1e-9));
        assert!(close(latencies.deviation_ms(), 2.0, 1e-9));
        assert!(close(latencies.least_ms(), 2.0, 1e-9));
        assert!(close(latencies.most_ms(), 9.0, 1e-9));
    }

    #[test]
    fn percentiles_of_one_to_a_thousand_are_within_three_digits() {
        let samples: Vec<u64> = (1..=1000).collect();
        let latencies = of_ms(&samples);

        for (quantile, expected) in [(0.25, 250.0), (0.5, 500.0), (0.99, 990.0), (0.999, 999.0)] {
            assert!(
                close(latencies.quantile_ms(quantile), expected, expected / 1000.0),
                "{quantile}: {:?}",
                latencies.quantile_ms(quantile)
            );
        }
    }

    #[test]
    fn the_highest_percentile_is_never_beyond_the_maximum() {
        let latencies = of_ms(&[1, 1234]);

        assert_eq!(latencies.quantile_ms(0.999_999_999), latencies.most_ms());
        assert_eq!(latencies.quantile_ms(0.0), latencies.least_ms());
    }

    #[test]
    fn merging_is_the_same_as_recording_all_in_one() {
        let mut left = of_ms(&[2, 4, 4, 4]);
        left.merge(&of_ms(&[5, 5, 7, 9]));
        let all = of_ms(&[2, 4, 4, 4, 5, 5, 7, 9]);

        assert_eq!(left.mean_ms(), all.mean_ms());
        assert_eq!(left.deviation_ms(), all.deviation_ms());
        assert_eq!(left.quantile_ms(0.9), all.quantile_ms(0.9));
        assert_eq!(left.least_ms(), all.least_ms());
        assert_eq!(left.most_ms(), all.most_ms());
    }

    #[test]
    fn without_samples_there_is_nothing_to_say() {
        let none = Latencies::new();

        assert_eq!(none.count(), 0);
        assert_eq!(none.mean_ms(), None);
        assert_eq!(none.deviation_ms(), None);
        assert_eq!(none.least_ms(), None);
        assert_eq!(none.most_ms(), None);
        assert_eq!(none.quantile_ms(0.5), None);
    }

    #[test]
    fn merging_nothing_changes_nothing() {
        let mut some = of_ms(&[3]);
        some.merge(&Latencies::new());

        assert_eq!(some.least_ms(), Some(3.0));
        assert_eq!(some.most_ms(), Some(3.0));
    }
}
