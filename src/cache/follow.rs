//! The follower: learns what was changed elsewhere, by another replica or past the service.
//!
//! It reads the trail in the order of the audit ids. Ids are drawn before their transaction is committed, so a smaller
//! one may become visible after a greater one: an id that was passed and not seen is *missing*, and is looked for each
//! time until it is there, or until every transaction is over that may have drawn it.

use std::collections::{BTreeSet, HashSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use super::Cache;
use super::freshness::Moment;
use super::hints::{Change, Hint};
use crate::error::Error;
use crate::health::Component;
use crate::store::Store;
use crate::store::following::{FollowedEntry, Listener, Look};

/// How often it looks where nobody tells it anything.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How many entries it reads at once.
const BATCH: i64 = 5_000;
/// So many missing ids are not waited for: it begins anew.
const MAX_MISSING: i64 = 100_000;

/// A fact that the follower has observed.
#[derive(Clone, Copy, Debug)]
pub enum Observation {
    /// A change that memory did not have was made at this time.
    Change { made_at: DateTime<Utc> },
    /// The database's time at some moment since it was requested.
    DatabaseTime { now: DateTime<Utc>, requested_at: Moment },
}

/// Follows for one replica.
#[derive(Debug)]
pub struct Follower {
    store: Store,
    cache: Arc<Cache>,
}

/// Where a session stands in the trail.
#[derive(Debug, Default)]
struct Position {
    /// Every id up to this one was seen, or is missing.
    newest: i64,
    missing: BTreeSet<i64>,
    /// Of some that are missing, the transactions which may have drawn them.
    suspects: Option<Suspects>,
}

#[derive(Debug)]
struct Suspects {
    missing: Vec<i64>,
    drawing: HashSet<String>,
}

impl Follower {
    pub fn new(store: Store, cache: Arc<Cache>) -> Self {
        Self { store, cache }
    }

    /// Follows until the session ends, which is always an error. `observe` is called for each observation.
    pub async fn follow(&self, mut observe: impl FnMut(Observation)) -> Result<Infallible, Error> {
        let channels = Hint::ALL.map(Hint::channel);
        let hints = &self.cache.hints;
        // Whoever does not hear cannot know who is there; and whoever has just begun to has not heard all of them.
        hints.presume_others();
        let mut listener = self.store.listen(&channels).await?;
        hints.presume_others();
        hints.tell(Hint::Presence);
        // Before the position is taken: what is drawn from now on comes after it.
        self.cache.advance_sequences(&self.store).await?;
        let newest = listener.newest().await?;
        self.cache.largest_id.store(newest, Relaxed);
        let mut position = Position { newest, ..Position::default() };
        // What is under way since before this session may still change what is read now: only then memory counts.
        let mut drawing = listener.drawing().await?;
        let mut pause = Duration::from_millis(2);
        while !drawing.is_empty() {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOOK_EVERY);
            let still = listener.drawing().await?;
            drawing.retain(|transaction| still.contains(transaction));
        }
        self.cache.freshness.forget_all();
        let mut looked = Moment::now();
        loop {
            let more = self.look(&mut listener, &mut position, &mut observe).await?;
            let now = Moment::now();
            if now.since(looked) >= LOOK_EVERY && !position.missing.is_empty() {
                position.resolve(&listener.drawing().await?);
                looked = now;
            }
            if !more {
                self.listen(&mut listener, &mut observe).await?;
            }
        }
    }

    /// Waits until it is time to look again, and forgets what others say that they have changed. Their word makes
    /// nobody look less often: it is there to be early, and it can only take away.
    async fn listen(
        &self,
        listener: &mut Listener,
        observe: &mut impl FnMut(Observation),
    ) -> Result<(), Error> {
        let until = Instant::now() + LOOK_EVERY;
        while let Some(patience) = until.checked_duration_since(Instant::now()) {
            let told = listener.hear(patience).await?;
            let mut look = false;
            for heard in told.iter().filter_map(|told| self.cache.hints.understand(told)) {
                match (heard.hint, heard.changes) {
                    (Hint::Consents, Some(changes)) => {
                        for change in changes {
                            self.learn(change, observe);
                        }
                    }
                    (Hint::Consents, None) => look = true,
                    (Hint::Customers, _) => self.cache.consents.forget_unknown(),
                    (Hint::Keys, _) => self.cache.keys.forget_all(),
                    (Hint::Sequences, _) => return Err(self.sequence_is_behind()),
                    (Hint::Presence, _) => {}
                }
            }
            if look {
                break;
            }
        }
        Ok(())
    }

    fn learn(&self, change: Change, observe: &mut impl FnMut(Observation)) {
        if self.cache.consents.changed(change.customer_id, change.version) {
            observe(Observation::Change { made_at: change.changed_at });
        }
    }

    /// Reads what is new. True when there is more.
    async fn look(
        &self,
        listener: &mut Listener,
        position: &mut Position,
        observe: &mut impl FnMut(Observation),
    ) -> Result<bool, Error> {
        let before = Moment::now();
        let missing: Vec<i64> = position.missing.iter().copied().collect();
        let Look { mut entries, last_id, now } = listener.look(position.newest, &missing, BATCH).await?;
        observe(Observation::DatabaseTime { now, requested_at: before });
        entries.sort_unstable_by_key(|entry| entry.audit_id);
        let passed = position.newest;
        for entry in &entries {
            position.pass(entry)?;
            let FollowedEntry { customer_id, version, timestamp, .. } = *entry;
            self.learn(Change { customer_id, version, changed_at: timestamp }, observe);
        }
        position.acquit();
        self.cache.largest_id.fetch_max(position.newest, Relaxed);
        if last_id.is_some_and(|last_id| last_id < position.newest) {
            return Err(self.sequence_is_behind());
        }
        self.cache.health.report(Component::AuditSequence, None);
        let new = entries.iter().filter(|entry| entry.audit_id > passed).count();
        let more = i64::try_from(new).is_ok_and(|new| new >= BATCH);
        if !more {
            self.cache.freshness.caught_up(before);
        }
        Ok(more)
    }
}

impl Follower {
    /// Drops everything in memory: what is changed under an id that was passed before cannot be followed. The next session
    /// moves the sequence forward.
    fn sequence_is_behind(&self) -> Error {
        self.cache.freshness.distrust();
        self.cache.report_sequence();
        Error::Unavailable("audit ids are drawn twice".to_owned())
    }
}

impl Position {
    fn pass(&mut self, entry: &FollowedEntry) -> Result<(), Error> {
        if entry.audit_id <= self.newest {
            self.missing.remove(&entry.audit_id);
            return Ok(());
        }
        let skipped = i64::try_from(self.missing.len()).unwrap_or(i64::MAX) + entry.audit_id - self.newest;
        if skipped > MAX_MISSING {
            return Err(Error::Unavailable("too many audit ids are missing".to_owned()));
        }
        self.missing.extend(self.newest + 1..entry.audit_id);
        self.newest = entry.audit_id;
        Ok(())
    }

    /// `drawing` was read after the last look. Once none of those are left which drew when an id was found missing,
    /// the next look will show it, or nothing ever will.
    fn resolve(&mut self, drawing: &HashSet<String>) {
        match &mut self.suspects {
            Some(suspects) => suspects.drawing.retain(|transaction| drawing.contains(transaction)),
            None => {
                self.suspects = Some(Suspects {
                    missing: self.missing.iter().copied().collect(),
                    drawing: drawing.clone(),
                });
            }
        }
    }

    /// After a look: forgets the ids whose transactions were all over before it.
    fn acquit(&mut self) {
        if let Some(over) = self.suspects.take_if(|suspects| suspects.drawing.is_empty()) {
            for audit_id in over.missing {
                self.missing.remove(&audit_id);
            }
        }
    }
}
