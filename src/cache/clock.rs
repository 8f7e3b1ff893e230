//! The difference between this replica's clock and the database's, which is the clock that all replicas share.

use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering::{Acquire, Release};

use chrono::{DateTime, TimeDelta, Utc};

/// The largest difference at which a replica's clock is trusted.
pub const TOLERANCE: TimeDelta = TimeDelta::seconds(60);

/// The measured difference: positive where the database's clock is ahead of this replica's.
#[derive(Debug, Default)]
pub struct ClockDifference {
    microseconds: AtomicI64,
}

impl ClockDifference {
    /// Takes in that the database's clock showed `database` at some moment from `sent` to `received` of this replica's.
    /// The difference stays as it is unless that contradicts it: so it does not change with each answer's way.
    pub fn measured(&self, database: DateTime<Utc>, sent: DateTime<Utc>, received: DateTime<Utc>) {
        let (least, most) = ((database - received).num_microseconds(), (database - sent).num_microseconds());
        if let (Some(least), Some(most)) = (least, most)
            && least <= most
        {
            let known = self.microseconds.load(Acquire);
            self.microseconds.store(known.clamp(least, most), Release);
        }
    }

    pub fn get(&self) -> TimeDelta {
        TimeDelta::microseconds(self.microseconds.load(Acquire))
    }

    /// Returns whether this replica may allow more than was allowed, and may record that consents have ended.
    pub fn is_tolerable(&self) -> bool {
        self.get().abs() <= TOLERANCE
    }

    /// Returns the database's time, where this replica's clock shows `local`.
    pub fn database_time(&self, local: DateTime<Utc>) -> DateTime<Utc> {
        local.checked_add_signed(self.get()).unwrap_or(local)
    }

    /// Returns the later of both times, where this replica's clock shows `local`: by it the end of a consent is judged.
    pub fn later_time(&self, local: DateTime<Utc>) -> DateTime<Utc> {
        local.max(self.database_time(local))
    }

    /// Returns the database's time, where the later of both is `later`.
    pub fn database_time_of(&self, later: DateTime<Utc>) -> DateTime<Utc> {
        later.min(self.database_time(later))
    }
}
