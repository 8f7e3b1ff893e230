//! What the hot path asks for, in memory: customers' consents and API keys.
//!
//! PostgreSQL holds the truth. Memory answers only while it is known to be what the database says, or said a moment ago:
//! the follower reads every change from the audit trail, and while it cannot, the database is asked.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::error::Error;
use crate::health::Health;
use crate::store::Store;

pub mod consents;
pub mod follow;
pub mod freshness;
mod held;
pub mod hints;
pub mod keys;
pub mod lookups;
pub mod table;

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
    pub hints: Hints,
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
            hints: Hints::of_a_new_replica(),
            health: Arc::clone(health),
        }
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
