//! Customers' consents in memory.
//!
//! A consent gets here by a look-up alone. Before the look-up's statement is sent, its customer is marked as *awaited*;
//! what the statement finds is put in place of the mark, and is dropped where the mark is gone. Whoever learns of a
//! change (the follower, or the writer of this very replica) takes away the mark, or the consent if it is older than the
//! change. So whatever stands here has every change that was learned of, whichever came first, and the next one takes
//! it away again.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::Duration;

use uuid::Uuid;

use super::freshness::{Freshness, Moment};
use super::held::{Held, Policies};
use super::lookups::{Lookups, Source};
use super::table::{Table, Update};
use crate::domain::ConsentRecord;
use crate::error::Error;
use crate::health::Health;
use crate::store::Store;
use crate::store::session::Session;

/// How long it is remembered that a customer is unknown. One who is created past the service is seen after this.
const UNKNOWN_FOR: Duration = Duration::from_secs(1);

/// What is known of a customer's consent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// `None`: there is no such customer.
    pub record: Option<ConsentRecord>,
    pub trust: Trust,
}

/// What an answer may be built upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Anything.
    Current,
    /// It may have been changed meanwhile, unseen, but not for long: anything, if it is said to be stale.
    Stale,
    /// It may have been changed long ago: a denial.
    Outdated,
}

/// How often memory could answer, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uses {
    pub hits: u64,
    pub misses: u64,
    pub stale: u64,
    /// Statements that were sent to look up what was missing.
    pub statements: u64,
    pub evictions: u64,
}

/// Customers' consents, from memory where that can be trusted.
#[derive(Debug)]
pub struct Consents {
    shelf: Arc<Shelf>,
    lookups: Lookups<Asked>,
}

/// What is held.
#[derive(Debug)]
struct Shelf {
    table: Table,
    policies: Policies,
    freshness: Arc<Freshness>,
    /// What was unknown under another number may be known by now.
    arrivals: AtomicU32,
    hits: AtomicU64,
    misses: AtomicU64,
    stale: AtomicU64,
    written: AtomicU64,
    statements: AtomicU64,
    evictions: AtomicU64,
}

impl Consents {
    /// With room for this many customers.
    pub fn new(store: &Store, freshness: Arc<Freshness>, customers: usize, health: &Arc<Health>) -> Self {
        let shelf = Arc::new(Shelf {
            table: Table::new(customers),
            policies: Policies::default(),
            freshness,
            arrivals: AtomicU32::new(0),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            stale: AtomicU64::new(0),
            written: AtomicU64::new(0),
            statements: AtomicU64::new(0),
            evictions: AtomicU64::new(0),
        });
        let asked = Asked { session: store.session(), shelf: Arc::clone(&shelf) };
        Self { shelf, lookups: Lookups::new(asked, health) }
    }

    /// What may be answered for a permission check. At least as new as `min_version`, or an error.
    pub async fn known(&self, customer_id: Uuid, min_version: i32) -> Result<Known, Error> {
        if let Some(known) = self.shelf.trusted(customer_id, min_version) {
            return Ok(known);
        }
        let found = self.lookups.one(customer_id).await;
        self.shelf.judge(customer_id, min_version, found)
    }

    /// The same for many customers, in their order; what is not in memory is looked up together.
    pub async fn known_of_all(&self, asked: &[(Uuid, i32)]) -> Result<Vec<Known>, Error> {
        let mut known = self.shelf.trusted_of_all(asked);
        let missing: Vec<usize> = (0..known.len()).filter(|at| known[*at].is_none()).collect();
        if !missing.is_empty() {
            let customers = missing.iter().map(|at| asked[*at].0).collect();
            let (mut found, failure) = match self.lookups.many(customers).await {
                Ok(found) => (found.into_iter(), None),
                Err(error) => (Vec::new().into_iter(), Some(error)),
            };
            for at in missing {
                let (customer_id, min_version) = asked[at];
                let one = match &failure {
                    None => Ok(found.next().flatten()),
                    Some(error) => Err(error.clone()),
                };
                known[at] = Some(self.shelf.judge(customer_id, min_version, one)?);
            }
        }
        Ok(known.into_iter().flatten().collect())
    }

    /// The whole record as it stands, never a stale one; `None` for an unknown customer.
    pub async fn current(&self, customer_id: Uuid, min_version: i32) -> Result<Option<ConsentRecord>, Error> {
        if let Some(record) = self.shelf.whole(customer_id, min_version) {
            return Ok(Some(record));
        }
        let record = self.lookups.one(customer_id).await?;
        match &record {
            Some(record) if record.version < min_version => {
                Err(Error::VersionAhead { current: record.version })
            }
            _ => Ok(record),
        }
    }

    /// Looks up customers so that they are held. A customer whose consent cannot be read is left out.
    pub async fn warm(&self, customers: Vec<Uuid>) -> Result<(), Error> {
        match self.lookups.many(customers).await {
            Err(Error::Internal(why)) => {
                tracing::warn!(why, "a consent cannot be read into memory");
                Ok(())
            }
            looked_up => looked_up.map(drop),
        }
    }

    /// This replica has written a consent: call it before anybody is answered.
    pub fn written(&self, record: &ConsentRecord) {
        let shared = &*self.shelf;
        shared.written.fetch_add(1, Relaxed);
        let session = shared.freshness.session();
        let held = Held::record(record, session, &shared.policies);
        shared.update(record.customer_id, |current| match current {
            // An older consent has missed no change but this one: that which follows is learned of later.
            Some(current) if current.is_record(session) && current.version() < record.version => {
                Update::Put(held.pack())
            }
            Some(current) if current.is_record(session) => Update::Leave,
            // What is awaited may have been read before this change.
            _ => Update::Remove,
        });
    }

    /// A version of a customer's consent was seen. True when memory held an older one.
    pub fn changed(&self, customer_id: Uuid, version: i32) -> bool {
        let session = self.shelf.freshness.session();
        let mut older = false;
        self.shelf.update(customer_id, |current| match current {
            Some(current) if current.is_record(session) && current.version() >= version => Update::Leave,
            current => {
                older = current.is_some_and(|current| current.is_record(session));
                Update::Remove
            }
        });
        older
    }

    /// Nothing is known of a customer any more.
    pub fn forget(&self, customer_id: Uuid) {
        self.shelf.update(customer_id, |_| Update::Remove);
    }

    /// Customers that were unknown may be known by now.
    pub fn forget_unknown(&self) {
        self.shelf.arrivals.fetch_add(1, Release);
    }

    /// How many customers are held.
    pub fn len(&self) -> usize {
        self.shelf.table.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many bytes they take.
    pub fn bytes(&self) -> usize {
        self.shelf.table.bytes()
    }

    /// The number of checks and changes so far, the work that must not wait for any other.
    pub fn answered(&self) -> u64 {
        let shared = &*self.shelf;
        [&shared.hits, &shared.misses, &shared.written].map(|count| count.load(Relaxed)).iter().sum()
    }

    pub fn uses(&self) -> Uses {
        let shared = &*self.shelf;
        Uses {
            hits: shared.hits.load(Relaxed),
            misses: shared.misses.load(Relaxed),
            stale: shared.stale.load(Relaxed),
            statements: shared.statements.load(Relaxed),
            evictions: shared.evictions.load(Relaxed),
        }
    }
}

impl Shelf {
    fn read(&self, customer_id: Uuid) -> Option<Held> {
        Some(Held::unpack(self.table.read(customer_id.as_u128())?))
    }

    fn update(&self, customer_id: Uuid, change: impl FnOnce(Option<Held>) -> Update) {
        let session = self.freshness.session();
        let evicted = self.table.update(
            customer_id.as_u128(),
            |entry| !Held::unpack(*entry).is_record(session),
            |entry| change(entry.map(Held::unpack)),
        );
        if evicted {
            self.evictions.fetch_add(1, Relaxed);
        }
    }

    /// The session that counts, where memory is fresh. To be asked before memory is read: whatever the follower had caught
    /// up with then is in what is read after. What was read before may lack it, were the reader interrupted.
    fn current_session(&self, now: Moment) -> Option<u32> {
        self.freshness.is_fresh(now).then(|| self.freshness.session())
    }

    /// What is held and can be trusted like the database itself.
    fn trusted(&self, customer_id: Uuid, min_version: i32) -> Option<Known> {
        let now = Moment::now();
        let session = self.current_session(now);
        let known = session
            .and_then(|session| self.trust(self.read(customer_id)?, session, now, customer_id, min_version));
        let count = if known.is_some() { &self.hits } else { &self.misses };
        count.fetch_add(1, Relaxed);
        known
    }

    /// The same for many, in their order.
    fn trusted_of_all(&self, asked: &[(Uuid, i32)]) -> Vec<Option<Known>> {
        let now = Moment::now();
        let known: Vec<Option<Known>> = match self.current_session(now) {
            None => vec![None; asked.len()],
            Some(session) => {
                let held = self.table.read_all(asked.iter().map(|(customer_id, _)| customer_id.as_u128()));
                let each = asked.iter().zip(held);
                each.map(|((customer_id, min_version), entry)| {
                    self.trust(Held::unpack(entry?), session, now, *customer_id, *min_version)
                })
                .collect()
            }
        };
        let hits = known.iter().filter(|known| known.is_some()).count();
        self.hits.fetch_add(hits as u64, Relaxed);
        self.misses.fetch_add((known.len() - hits) as u64, Relaxed);
        known
    }

    fn trust(
        &self,
        held: Held,
        session: u32,
        now: Moment,
        customer_id: Uuid,
        min_version: i32,
    ) -> Option<Known> {
        let record = if held.is_record(session) {
            (held.version() >= min_version).then(|| Some(held.permissions(customer_id)))
        } else {
            let remembered = held.is_unknown(session, self.arrivals.load(Acquire), now, UNKNOWN_FOR);
            (remembered && min_version == 0).then_some(None)
        }?;
        Some(Known { record, trust: Trust::Current })
    }

    fn whole(&self, customer_id: Uuid, min_version: i32) -> Option<ConsentRecord> {
        let session = self.current_session(Moment::now())?;
        let held = self.read(customer_id)?;
        let current = held.is_record(session) && held.version() >= min_version;
        current.then(|| held.whole(customer_id, &self.policies))?
    }

    /// What a look-up that was answered, or failed, says of a customer.
    fn judge(
        &self,
        customer_id: Uuid,
        min_version: i32,
        found: Result<Option<ConsentRecord>, Error>,
    ) -> Result<Known, Error> {
        match found {
            Ok(record) => {
                let current = record.as_ref().map_or(0, |record| record.version);
                if current < min_version {
                    return Err(Error::VersionAhead { current });
                }
                Ok(Known { record, trust: Trust::Current })
            }
            Err(Error::Unavailable(why)) => {
                // Before memory is read, as in `current_session`.
                let trust =
                    if self.freshness.may_say_yes(Moment::now()) { Trust::Stale } else { Trust::Outdated };
                let session = self.freshness.session();
                let held = self.read(customer_id).filter(|held| held.is_record(session));
                let held = held.filter(|held| held.version() >= min_version);
                let held = held.ok_or(Error::Unavailable(why))?;
                self.stale.fetch_add(1, Relaxed);
                Ok(Known { record: Some(held.permissions(customer_id)), trust })
            }
            Err(error) => Err(error),
        }
    }
}

/// Asks PostgreSQL, and puts what it says into memory.
#[derive(Debug)]
pub struct Asked {
    session: Session,
    shelf: Arc<Shelf>,
}

impl Source for Asked {
    const NAME: &'static str = "consent_lookups";

    type Key = Uuid;
    type Value = ConsentRecord;

    async fn look_up(&mut self, customers: Arc<[Uuid]>) -> Result<Vec<(Uuid, ConsentRecord)>, Error> {
        let shared = &*self.shelf;
        let session = shared.freshness.session();
        let arrivals = shared.arrivals.load(Acquire);
        for customer_id in customers.iter() {
            shared.update(*customer_id, |current| match current {
                Some(current) if current.is_record(session) => Update::Leave,
                _ => Update::Put(Held::awaited(session).pack()),
            });
        }
        let asked_at = Moment::now();
        shared.statements.fetch_add(1, Relaxed);
        let found = self.session.consents_of(Arc::clone(&customers)).await;
        let records: Vec<(Uuid, ConsentRecord)> =
            found?.into_iter().map(|record| (record.customer_id, record)).collect();
        for (customer_id, record) in &records {
            shared.update(*customer_id, |current| match current {
                // If the session is over by now, what is put here says so itself.
                Some(current)
                    if current.is_awaited(session)
                        || current.is_record(session) && current.version() < record.version =>
                {
                    Update::Put(Held::record(record, session, &shared.policies).pack())
                }
                _ => Update::Leave,
            });
        }
        if records.len() < customers.len() {
            let known: HashSet<Uuid> = records.iter().map(|(customer_id, _)| *customer_id).collect();
            for customer_id in customers.iter().filter(|id| !known.contains(*id)) {
                shared.update(*customer_id, |current| match current {
                    Some(current) if current.is_awaited(session) => {
                        Update::Put(Held::unknown(session, arrivals, asked_at).pack())
                    }
                    // A customer who is gone.
                    _ => Update::Remove,
                });
            }
        }
        Ok(records)
    }
}
