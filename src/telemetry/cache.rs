//! The metrics of what is held in memory.

use std::time::Duration;

use chrono::TimeDelta;
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

const CUSTOMERS: &str = "consentd_cache_customers";
const BYTES: &str = "consentd_cache_bytes";
const READS: &str = "consentd_cache_reads_total";
const EVICTIONS: &str = "consentd_cache_evictions_total";
const AGE: &str = "consentd_follow_age_seconds";
pub(super) const LAG: &str = "consentd_follow_lag_seconds";
const SESSIONS_ENDED: &str = "consentd_follow_sessions_ended_total";

pub(super) const LAG_BUCKETS: [f64; 10] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0];

pub(super) fn describe() {
    describe_gauge!(CUSTOMERS, Unit::Count, "Customers whose consents are in memory");
    describe_gauge!(BYTES, Unit::Bytes, "Bytes that they take");
    describe_counter!(
        READS,
        "Consents that were asked for, by where the answer came from: `memory`, `database`, or `stale` memory"
    );
    describe_counter!(
        EVICTIONS,
        "Customers that gave way to others: raise --cache-customers if there are many"
    );
    describe_gauge!(AGE, Unit::Seconds, "For how long the changes of others have not been seen");
    describe_histogram!(
        LAG,
        Unit::Seconds,
        "From a change elsewhere to its being learned of by this replica"
    );
    describe_counter!(SESSIONS_ENDED, "How often following the changes of others broke off");
    counter!(SESSIONS_ENDED).absolute(0);
}

/// What is held, and how it was used since the start: reads from memory, from the database, and from stale memory.
#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 bytes")]
pub fn cache(customers: usize, bytes: usize, reads: [u64; 3], evictions: u64, age: Option<Duration>) {
    gauge!(CUSTOMERS).set(customers as f64);
    gauge!(BYTES).set(bytes as f64);
    for (source, count) in ["memory", "database", "stale"].into_iter().zip(reads) {
        counter!(READS, "source" => source).absolute(count);
    }
    counter!(EVICTIONS).absolute(evictions);
    if let Some(age) = age {
        gauge!(AGE).set(age.as_secs_f64());
    }
}

/// A change of somebody else, and how long ago it was made.
pub fn followed(lag: TimeDelta) {
    // Clocks differ: what seems to come from the future was learned of at once.
    histogram!(LAG).record(lag.to_std().unwrap_or(Duration::ZERO));
}

pub fn following_ended() {
    counter!(SESSIONS_ENDED).increment(1);
}
