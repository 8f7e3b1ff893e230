//! The clock of the program.

use std::sync::Arc;

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};

use crate::cache::Cache;
use crate::cache::freshness::Moment;
use crate::error::Error;
use crate::store::Store;

/// Returns the time of this machine in microseconds, the precision of PostgreSQL.
#[expect(clippy::disallowed_methods, reason = "this is the clock; everything else takes time as an argument")]
pub fn clock() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(6)
}

/// The clock of a running service: this machine's, corrected by its measured difference from the database's.
#[derive(Clone, Debug)]
pub struct Clock {
    local: fn() -> DateTime<Utc>,
    cache: Arc<Cache>,
}

impl Clock {
    pub fn new(local: fn() -> DateTime<Utc>, cache: &Arc<Cache>) -> Self {
        Self { local, cache: Arc::clone(cache) }
    }

    /// Returns the time of the database's clock.
    pub fn now(&self) -> DateTime<Utc> {
        self.cache.clock.database_time((self.local)())
    }

    /// Returns whether the difference is small enough to act by the clock.
    pub fn is_tolerable(&self) -> bool {
        self.cache.clock.is_tolerable()
    }

    /// Takes in that the database's clock showed `now` at some moment since `requested_at`.
    pub fn measured(&self, now: DateTime<Utc>, requested_at: Moment) {
        // In this order: a pause in between makes the measurement less exact, and not wrong.
        let received = (self.local)();
        let round_trip = Moment::now().since(requested_at);
        let round_trip = TimeDelta::from_std(round_trip).unwrap_or(TimeDelta::MAX);
        if let Some(sent) = received.checked_sub_signed(round_trip) {
            self.cache.clock_measured(now, sent, received);
        }
    }

    /// Asks the database for its time.
    pub async fn measure(&self, store: &Store) -> Result<(), Error> {
        let sent = (self.local)();
        let now = store.now().await?;
        self.cache.clock_measured(now, sent, (self.local)());
        Ok(())
    }
}
