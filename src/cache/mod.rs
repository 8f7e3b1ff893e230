//! What the hot path asks for, in memory: customers' consents and API keys.
//!
//! PostgreSQL holds the truth. Memory answers only while it is known to be what the database says, or said a moment ago:
//! the follower reads every change from the audit trail, and while it cannot, the database is asked.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::background::Pacer;
use crate::error::Error;
use crate::health::{Component, Health};
use crate::store::Store;
use crate::store::maintenance::{AUDIT_SEQUENCE, BehindSequence};

pub mod clock;
pub mod consents;
pub mod follow;
pub mod freshness;
mod held;
pub mod hints;
pub mod keys;
pub mod lookups;
pub mod table;

use clock::ClockDifference;
use consents::Consents;
use freshness::Freshness;
use hints::{Hint, Hints};
use keys::Keys;

/// What this replica holds in memory.
#[derive(Debug)]
pub struct Cache {
    pub consents: Consents,
    pub keys: Keys,
    pub freshness: Arc<Freshness>,
    pub clock: ClockDifference,
    pub hints: Hints,
    /// The largest audit id that this replica has seen. One that is drawn later is above it.
    pub largest_id: AtomicI64,
    /// The health of this replica, to which its parts report.
    pub health: Arc<Health>,
}

/// How much is held, and how long it may be relied upon.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub customers: usize,
    /// For how long a permission may be granted from memory that the database cannot confirm; zero: never, nor before
    /// the database was asked.
    pub max_stale: Duration,
}

impl Cache {
    pub fn new(store: &Store, bounds: Bounds, health: &Arc<Health>) -> Self {
        let freshness = Arc::new(Freshness::new(bounds.max_stale));
        Self {
            consents: Consents::new(store, Arc::clone(&freshness), bounds.customers, health),
            keys: Keys::new(store, Arc::clone(&freshness), health),
            freshness,
            clock: ClockDifference::default(),
            hints: Hints::of_a_new_replica(),
            largest_id: AtomicI64::new(0),
            health: Arc::clone(health),
        }
    }

    /// The pace of work beside the checks and changes that this replica answers.
    pub fn pacer(self: &Arc<Self>) -> Pacer {
        let cache = Arc::clone(self);
        Pacer::beside(move || cache.consents.answered())
    }

    /// There is a new customer.
    pub fn customer_created(&self, customer_id: Uuid) {
        self.consents.forget(customer_id);
        self.hints.tell(Hint::Customers);
    }

    /// An API key was revoked or given an end, or its customer has other limits or is not active any more.
    pub fn keys_changed(&self) {
        self.keys.forget_all();
        self.hints.tell(Hint::Keys);
    }

    /// Takes in a measurement of the database's clock, as [`ClockDifference::measured`] does, and reports a difference
    /// that is too large.
    pub fn clock_measured(&self, database: DateTime<Utc>, sent: DateTime<Utc>, received: DateTime<Utc>) {
        self.clock.measured(database, sent, received);
        let fault = "this replica's clock differs from the database's by more than 60 seconds";
        self.health.report(Component::Clock, (!self.clock.is_tolerable()).then(|| fault.into()));
    }

    /// Moves sequences that are behind their tables forward. Each is logged; that of the audit ids is an alarm.
    pub async fn advance_sequences(&self, store: &Store) -> Result<(), Error> {
        for BehindSequence { name, last_id, largest_id } in store.advance_sequences().await? {
            tracing::error!(
                name,
                last_id,
                largest_id,
                "a sequence was behind its table and was moved forward"
            );
            if name == AUDIT_SEQUENCE {
                self.report_sequence();
            }
        }
        Ok(())
    }

    fn report_sequence(&self) {
        let fault = "ids were drawn twice: the sequence was behind the ids in use, and is moved forward";
        self.health.report(Component::AuditSequence, Some(fault.into()));
    }

    /// Reads every customer's consent into memory, as far as there is room. True when all are held.
    pub async fn warm(&self, store: &Store, customers: usize) -> Result<bool, Error> {
        let mut after = Uuid::nil();
        while self.consents.len() < customers {
            let page = store.customer_ids(after, 1000).await?;
            let Some(last) = page.last().copied() else { return Ok(true) };
            self.consents.warm(page).await?;
            after = last;
        }
        Ok(false)
    }
}
