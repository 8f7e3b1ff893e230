//! What a load saw, as one line of JSON.

use std::time::{Duration, Instant};

#[derive(Debug, Default)]
pub struct Latencies(Vec<Duration>);

impl Latencies {
    pub fn push(&mut self, latency: Duration) {
        self.0.push(latency);
    }

    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// In milliseconds.
    pub fn percentile(&mut self, hundredths: usize) -> f64 {
        self.0.sort_unstable();
        let at = (self.0.len() * hundredths / 100).min(self.0.len().saturating_sub(1));
        self.0.get(at).map_or(0.0, |latency| latency.as_secs_f64() * 1000.0)
    }
}

/// What callers did in a stretch of time.
#[derive(Debug, Default)]
pub struct Seen {
    pub latencies: Latencies,
    pub refused: u64,
    pub last: Option<Instant>,
}

impl Seen {
    pub fn add(&mut self, other: Self) {
        self.latencies.extend(other.latencies);
        self.refused += other.refused;
        self.last = self.last.max(other.last);
    }

    pub fn answered(&mut self, sent: Instant) {
        let now = Instant::now();
        self.latencies.push(now - sent);
        self.last = Some(now);
    }

    /// `each` is how many things one request asked for.
    pub fn told(mut self, since: Instant, each: usize) -> String {
        let seconds = self.last.map_or(0.0, |last| last.saturating_duration_since(since).as_secs_f64());
        format!(
            r#"{{"requests":{},"count":{},"seconds":{seconds:.6},"refused":{},"p50_ms":{:.4},"p99_ms":{:.4}}}"#,
            self.latencies.len(),
            self.latencies.len() * each,
            self.refused,
            self.latencies.percentile(50),
            self.latencies.percentile(99),
        )
    }
}
