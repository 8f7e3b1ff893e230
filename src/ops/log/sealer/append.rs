//! Appending what is queued.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{Halt, Round, Sealer, forked};
use crate::background::TimeSlice;
use crate::domain::{LEAF_VERSIONS, Leaf, WriterKey};
use crate::error::Error;
use crate::store::log::entries::{self, StoredEntry};
use crate::store::log::reading;
use crate::store::log::sealing::{self, NewLeaf};
use crate::tlog::tree::leaf_hash;

/// The reason to set aside an entry whose id the sequence has drawn twice.
const ID_OF_ANOTHER: &str = "its id is that of another entry, which is in the log";
/// How many entries one transaction seals.
pub(super) const BATCH: i64 = 10_000;

impl Sealer {
    /// Seals what is queued, unless another replica is at it.
    ///
    /// If the rows themselves make a round fail, the next rounds take ever fewer of them, until the one that is to blame
    /// is alone. It goes to quarantine, and the rest goes on.
    pub(super) async fn append(&mut self, round: &mut Round, now: DateTime<Utc>) -> Result<(), Halt> {
        let limit = self.limit;
        let mut first = None;
        match self.append_up_to(limit, &mut first, round, now).await {
            Err(Halt::Failed(Error::UnusableRow(why))) if limit > 1 => {
                tracing::warn!(entries = limit, why, "entries cannot be sealed together; fewer are tried");
                self.limit = limit / 2;
                round.more = true;
                Ok(())
            }
            Err(Halt::Failed(Error::UnusableRow(why))) if let Some(audit_id) = first => {
                self.set_aside(audit_id, &why, round, now).await
            }
            Ok(taken) => {
                // Only what was taken shows that no row in it is to blame.
                if taken {
                    self.limit = (limit * 2).min(BATCH);
                }
                Ok(())
            }
            Err(failed) => Err(failed),
        }
    }

    /// Seals up to so many entries, and returns whether there were any to be sealed here. `first` becomes the first of them.
    async fn append_up_to(
        &self,
        limit: i64,
        first: &mut Option<i64>,
        round: &mut Round,
        now: DateTime<Utc>,
    ) -> Result<bool, Halt> {
        let mut transaction = self.store.begin().await?;
        match self.append_within(&mut transaction, limit, first, now).await {
            Ok(Some(appended)) => {
                transaction.commit().await?;
                *round = Round { signed: round.signed.take(), noticed: round.noticed.take(), ..appended };
                Ok(true)
            }
            // At once: a transaction that is merely dropped keeps the log's row until the session is used again.
            Ok(None) => {
                transaction.rollback().await?;
                Ok(false)
            }
            Err(failed) => {
                // The failure is what counts; a session that cannot roll back is closed.
                let _ = transaction.rollback().await;
                Err(failed)
            }
        }
    }

    /// Does the work of a transaction; nothing where another replica is at it, or the queue is empty.
    async fn append_within(
        &self,
        transaction: &mut PgConnection,
        limit: i64,
        first: &mut Option<i64>,
        now: DateTime<Utc>,
    ) -> Result<Option<Round>, Halt> {
        let Some(log) = sealing::lead(transaction).await? else { return Ok(None) };
        if log.log_id != self.seen.log_id || log.fork.is_some() {
            return Ok(None);
        }
        let (queued, oldest) = sealing::take_pending(transaction, limit).await?;
        *first = queued.first().copied();
        if queued.is_empty() {
            return Ok(None);
        }
        let sealed = sealing::sealed_among(transaction, &queued).await?;
        let stored = entries::load(transaction, &queued).await?;
        let (mut leaves, mut unvouched) = (Vec::<NewLeaf>::with_capacity(stored.len()), Vec::new());
        let mut quarantined = Vec::new();
        let mut slice = TimeSlice::begin();
        for entry in &stored {
            let audit_id = entry.entry.audit_id;
            if !LEAF_VERSIONS.contains(&entry.leaf_version) {
                sealing::put_back(transaction, audit_id, entry.leaf_version).await?;
                continue;
            }
            // Rows come in the order of their ids: a second row of an id follows the first.
            let is_second = leaves.last().is_some_and(|leaf| leaf.audit_id == audit_id);
            match sealed.get(&audit_id) {
                // It was queued twice.
                Some(leaf) if is_entry_of(entry, leaf) => {}
                Some(_) => quarantined.push((audit_id, ID_OF_ANOTHER.to_owned())),
                None if is_second => quarantined.push((audit_id, ID_OF_ANOTHER.to_owned())),
                None => {
                    match leaf(entry, &self.keys.writers) {
                        Ok(leaf) => leaves.push(NewLeaf { audit_id, hash: leaf_hash(&leaf), leaf }),
                        Err(why) => quarantined.push((audit_id, why)),
                    }
                    if entry.mac.is_none() {
                        unvouched.push(audit_id);
                    }
                }
            }
            slice.end_if_over().await;
        }
        let found: HashSet<i64> = stored.iter().map(|stored| stored.entry.audit_id).collect();
        for audit_id in queued.iter().filter(|id| !found.contains(id) && !sealed.contains_key(id)) {
            quarantined.push((*audit_id, "it was queued, and is not in the trail".to_owned()));
        }
        let size = log.tree_size.cast_unsigned();
        let mut tree = if self.seen.tree.size() == size {
            self.seen.tree.clone()
        } else {
            reading::frontier(transaction, log.log_id, size).await?
        };
        let mut nodes = Vec::new();
        for leaf in &leaves {
            tree.append(leaf.hash, |node, hash| nodes.extend(node.tops_a_tile().then_some((node, hash))));
        }
        if !quarantined.is_empty() {
            sealing::quarantine(transaction, &quarantined, now).await?;
        }
        let foreign = if unvouched.is_empty() {
            Vec::new()
        } else {
            sealing::set_foreign_aside(transaction, &unvouched, now).await?
        };
        if !sealing::append(transaction, &log, &leaves, &nodes).await? {
            return Err(forked("the log grew while it was locked"));
        }
        let skipped: HashSet<i64> = foreign.iter().copied().collect();
        let counted: Vec<i64> =
            leaves.iter().map(|leaf| leaf.audit_id).filter(|id| !skipped.contains(id)).collect();
        let mut uncounted = 0;
        match sealing::count_days(transaction, &counted).await {
            Ok(()) => {}
            Err(error @ Error::Unavailable(_)) => return Err(error.into()),
            Err(error) => {
                tracing::error!(%error, entries = counted.len(), "sealed entries are missing in the counts by day");
                uncounted = counted.len();
            }
        }
        Ok(Some(Round {
            sealed: leaves.len(),
            oldest,
            quarantined,
            foreign,
            uncounted,
            more: i64::try_from(queued.len()).is_ok_and(|queued| queued >= limit),
            ..Round::default()
        }))
    }

    /// Sets a queued entry aside: a round that took it alone failed.
    async fn set_aside(
        &self,
        audit_id: i64,
        why: &str,
        round: &mut Round,
        now: DateTime<Utc>,
    ) -> Result<(), Halt> {
        let mut transaction = self.store.begin().await?;
        if sealing::lead(&mut transaction).await?.is_none_or(|log| log.log_id != self.seen.log_id)
            || !sealing::take(&mut transaction, audit_id).await?
        {
            return Ok(transaction.rollback().await?);
        }
        let quarantined = vec![(audit_id, format!("it cannot be sealed: {why}"))];
        sealing::quarantine(&mut transaction, &quarantined, now).await?;
        transaction.commit().await?;
        round.quarantined = quarantined;
        round.more = true;
        Ok(())
    }
}

/// The leaf of an entry: with the service's word if its mac is by one of these keys, and without if it has none.
pub(super) fn leaf(stored: &StoredEntry, writers: &[WriterKey]) -> Result<Vec<u8>, String> {
    let leaf = stored.leaf(&stored.entry.commitments()).map_err(|fault| fault.to_string())?;
    match &stored.mac {
        Some(mac) if !writers.iter().any(|key| key.made(mac, &leaf)) => {
            Err("its mac is not the service's word for what it tells".to_owned())
        }
        _ => Ok(leaf),
    }
}

/// Returns whether a row is the entry of a sealed leaf, but for personal fields that were erased since.
fn is_entry_of(stored: &StoredEntry, leaf: &[u8]) -> bool {
    let Ok(Leaf { src, commitments, .. }) = Leaf::parse(leaf) else { return false };
    let kept = |(field, commitment)| commitments.get(&field) == Some(&commitment);
    stored.entry.commitments().into_iter().all(kept)
        && stored.leaf_from(src, &commitments).is_ok_and(|again| again == leaf)
}
