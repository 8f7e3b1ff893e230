//! The metrics of the audit log.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use super::unix_seconds;

const SIZE: &str = "consentd_audit_log_size";
const FORKED: &str = "consentd_audit_log_forked";
const SEALED: &str = "consentd_audit_sealed_total";
pub(super) const SEALING_LAG: &str = "consentd_audit_sealing_lag_seconds";
const SEALING_FAILURES: &str = "consentd_audit_sealing_failures_total";
const PENDING: &str = "consentd_audit_pending";
const PENDING_AGE: &str = "consentd_audit_pending_oldest_seconds";
const UNCOUNTED: &str = "consentd_audit_uncounted_total";
const QUARANTINED: &str = "consentd_audit_quarantined";
const CHECKPOINT_AGE: &str = "consentd_audit_checkpoint_age_seconds";
const UNPUBLISHED: &str = "consentd_audit_checkpoint_failures_total";
const VERIFIED_AT: &str = "consentd_audit_verification_timestamp_seconds";
const VERIFIED_SIZE: &str = "consentd_audit_verification_size";
const VERIFIED_CLEAN: &str = "consentd_audit_verification_clean";

pub(super) const LAG_BUCKETS: [f64; 8] = [0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0];

pub(super) fn describe() {
    describe_gauge!(SIZE, Unit::Count, "Leaves of the largest checkpoint that this replica signed");
    describe_gauge!(
        FORKED,
        Unit::Count,
        "1 when the audit log contradicts a published checkpoint and is not sealed"
    );
    describe_counter!(SEALED, Unit::Count, "Audit entries sealed by this replica");
    describe_histogram!(
        SEALING_LAG,
        Unit::Seconds,
        "Age of the oldest entry of each batch when it was sealed"
    );
    describe_counter!(SEALING_FAILURES, Unit::Count, "Rounds of sealing of this replica that failed");
    describe_gauge!(PENDING, Unit::Count, "Audit entries that wait to be sealed");
    describe_gauge!(PENDING_AGE, Unit::Seconds, "How long the oldest of them has waited");
    describe_gauge!(
        CHECKPOINT_AGE,
        Unit::Seconds,
        "Age of the newest signed checkpoint that this replica knows; it is signed again at least every 20 seconds"
    );
    describe_gauge!(QUARANTINED, Unit::Count, "Audit entries in quarantine that are not resolved");
    describe_counter!(UNCOUNTED, Unit::Count, "Sealed audit entries that are missing in the counts by day");
    describe_counter!(UNPUBLISHED, Unit::Count, "Checkpoints that a place outside did not take, by place");
    describe_gauge!(VERIFIED_AT, Unit::Seconds, "When the audit log was last verified (Unix time)");
    describe_gauge!(VERIFIED_SIZE, Unit::Count, "How many leaves it had then");
    describe_gauge!(VERIFIED_CLEAN, Unit::Count, "1 if that verification found nothing, else 0");
    counter!(SEALED).absolute(0);
    counter!(SEALING_FAILURES).absolute(0);
    counter!(UNCOUNTED).absolute(0);
    gauge!(FORKED).set(0.0);
    for place in ["file", "webhook", "witness"] {
        counter!(UNPUBLISHED, "place" => place).absolute(0);
    }
}

/// A batch that was sealed, and how long its oldest entry waited.
pub fn sealed(entries: usize, lag: TimeDelta) {
    counter!(SEALED).increment(entries as u64);
    histogram!(SEALING_LAG).record(lag.to_std().unwrap_or(Duration::ZERO));
}

pub fn uncounted(entries: usize) {
    counter!(UNCOUNTED).increment(entries as u64);
}

pub fn sealing_failed() {
    counter!(SEALING_FAILURES).increment(1);
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 leaves")]
pub fn log_size(size: u64) {
    gauge!(SIZE).set(size as f64);
}

pub fn log_forked(forked: bool) {
    gauge!(FORKED).set(if forked { 1.0 } else { 0.0 });
}

/// What waits, since when, and what is set aside.
#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 entries")]
pub fn backlog(pending: i64, oldest: TimeDelta, quarantined: i64) {
    gauge!(PENDING).set(pending as f64);
    gauge!(PENDING_AGE).set(oldest.as_seconds_f64().max(0.0));
    gauge!(QUARANTINED).set(quarantined as f64);
}

/// The age of the newest signature, or of this replica while there is none.
pub fn checkpoint_age(age: TimeDelta) {
    gauge!(CHECKPOINT_AGE).set(age.as_seconds_f64().max(0.0));
}

pub fn checkpoint_not_published(place: &'static str) {
    counter!(UNPUBLISHED, "place" => place).increment(1);
}

/// How a verification ended.
#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 leaves")]
pub fn verified(at: DateTime<Utc>, size: u64, clean: bool) {
    gauge!(VERIFIED_AT).set(unix_seconds(at));
    gauge!(VERIFIED_SIZE).set(size as f64);
    gauge!(VERIFIED_CLEAN).set(if clean { 1.0 } else { 0.0 });
}
