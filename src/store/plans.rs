//! The age of the plans that a connection keeps.
//!
//! A generic plan is made once, for the size that the tables had then: one that was made for an empty table reads all of it
//! when it has a million rows, until something makes PostgreSQL plan again. Nothing may: `ANALYZE` is the work of
//! autovacuum, which may be late, or off.

use std::time::Duration;

use tokio::time::Instant;

/// Has every statement of a connection planned again, those inside functions and foreign keys too, when it is next run.
pub(super) const DISCARD: &str = "discard plans";

/// Shortest and longest time for which plans are kept. A table that is a second old may be twice as large a second later;
/// one that is an hour old is not.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_mins(1);

/// The age of a connection's plans, and the age at which they are discarded.
#[derive(Debug)]
pub(super) struct PlanAge {
    since: Instant,
    kept_for: Duration,
}

impl PlanAge {
    /// Of a new connection.
    pub(super) fn new() -> Self {
        Self { since: Instant::now(), kept_for: FIRST }
    }

    /// True when the plans are too old; then they count as discarded, and the next ones are kept twice as long.
    pub(super) fn is_over(&mut self) -> bool {
        let over = self.since.elapsed() >= self.kept_for;
        if over {
            self.since = Instant::now();
            self.kept_for = (self.kept_for * 2).min(LONGEST);
        }
        over
    }
}
