//! Latencies, counted in buckets that are at most 1/128 of their value wide, as `HdrHistogram` does; by any number of tasks
//! at once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Each power of two is divided into as many buckets.
const STEPS: u64 = 128;
const STEP_BITS: u32 = STEPS.ilog2();
/// 2^42 ns are more than an hour.
const POWERS: u64 = 42 - STEP_BITS as u64;
const BUCKETS: u64 = STEPS * (POWERS + 1);

#[derive(Debug)]
pub struct Histogram {
    counts: Box<[AtomicU64]>,
    longest: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(), longest: AtomicU64::new(0) }
    }
}

impl Histogram {
    pub fn record(&self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(nanos)].fetch_add(1, Ordering::Relaxed);
        self.longest.fetch_max(nanos, Ordering::Relaxed);
    }

    pub fn add(&self, other: &Self) {
        for (count, (_, more)) in self.counts.iter().zip(other.buckets()) {
            count.fetch_add(more, Ordering::Relaxed);
        }
        self.longest.fetch_max(other.longest.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    pub fn count(&self) -> u64 {
        self.buckets().map(|(_, count)| count).sum()
    }

    pub fn longest(&self) -> Duration {
        Duration::from_nanos(self.longest.load(Ordering::Relaxed))
    }

    /// What this share of the latencies does not exceed.
    pub fn quantile(&self, share: f64) -> Duration {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a count is a count"
        )]
        let wanted = ((self.count() as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        self.buckets()
            .find(|(_, count)| {
                seen += count;
                seen >= wanted
            })
            .map_or(Duration::ZERO, |(end, _)| end.min(self.longest()))
    }

    /// Where each bucket ends, and how many are in it.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> {
        (0..)
            .zip(&self.counts)
            .map(|(bucket, count)| (Duration::from_nanos(last_of(bucket)), count.load(Ordering::Relaxed)))
    }
}

fn bucket(nanos: u64) -> usize {
    let power = u64::from(nanos.max(1).ilog2().saturating_sub(STEP_BITS));
    // From the second power on, the leading bit is part of the number of the power.
    let bucket = (nanos >> power) + power * STEPS;
    usize::try_from(bucket.min(BUCKETS - 1)).expect("there are few buckets")
}

/// The largest value of a bucket.
fn last_of(bucket: u64) -> u64 {
    let power = (bucket / STEPS).saturating_sub(1);
    ((bucket - power * STEPS + 1) << power) - 1
}
