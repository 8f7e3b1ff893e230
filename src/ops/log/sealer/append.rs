//! Appending what is queued.

use std::collections::HashSet;

use chrono::{DateTime, Utc};

use super::{Halt, Round, Sealer, forked};
use crate::background::TimeSlice;
use crate::domain::{Leaf, Source, WriterKey};
use crate::store::log::entries::{self, StoredEntry};
use crate::store::log::reading;
use crate::store::log::sealing::{self, NewLeaf};
use crate::tlog::tree::leaf_hash;

/// The reason to set aside an entry whose id the sequence has drawn twice.
const ID_OF_ANOTHER: &str = "its id is that of another entry, which is in the log";
/// How many entries one transaction seals.
const BATCH: i64 = 10_000;

impl Sealer {
    /// Seals what is queued, unless another replica is at it.
    pub(super) async fn append(&mut self, round: &mut Round, now: DateTime<Utc>) -> Result<(), Halt> {
        let mut transaction = self.store.begin().await?;
        let Some(log) = sealing::lead(&mut transaction).await? else { return Ok(()) };
        if log.log_id != self.seen.log_id || log.fork.is_some() {
            return Ok(transaction.rollback().await?);
        }
        let (queued, oldest) = sealing::take_pending(&mut transaction, BATCH).await?;
        if queued.is_empty() {
            // At once: a transaction that is merely dropped keeps the log's row until the session is used again.
            return Ok(transaction.rollback().await?);
        }
        let sealed = sealing::sealed_among(&mut transaction, &queued).await?;
        let stored = entries::load(&mut transaction, &queued).await?;
        let mut leaves: Vec<NewLeaf> = Vec::with_capacity(stored.len());
        let mut quarantined = Vec::new();
        let mut slice = TimeSlice::begin();
        for entry in &stored {
            let audit_id = entry.entry.audit_id;
            // Rows come in the order of their ids: a second row of an id follows the first.
            let is_second = leaves.last().is_some_and(|leaf| leaf.audit_id == audit_id);
            match sealed.get(&audit_id) {
                // It was queued twice.
                Some(leaf) if is_entry_of(entry, leaf) => {}
                Some(_) => quarantined.push((audit_id, ID_OF_ANOTHER.to_owned())),
                None if is_second => quarantined.push((audit_id, ID_OF_ANOTHER.to_owned())),
                None => match leaf(entry, &self.keys.writers) {
                    Ok(leaf) => leaves.push(NewLeaf { audit_id, hash: leaf_hash(&leaf), leaf }),
                    Err(why) => quarantined.push((audit_id, why)),
                },
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
            reading::frontier(&mut transaction, log.log_id, size).await?
        };
        let mut nodes = Vec::new();
        for leaf in &leaves {
            tree.append(leaf.hash, |node, hash| nodes.extend(node.tops_a_tile().then_some((node, hash))));
        }
        sealing::quarantine(&mut transaction, &quarantined, now).await?;
        if !sealing::append(&mut transaction, &log, &leaves, &nodes).await? {
            return Err(forked("the log grew while it was locked"));
        }
        transaction.commit().await?;
        round.sealed = leaves.len();
        round.oldest = oldest;
        round.quarantined = quarantined;
        round.more = queued.len() >= usize::try_from(BATCH).unwrap_or(usize::MAX);
        Ok(())
    }
}

/// The leaf of an entry: with the service's word if its mac is by one of these keys, and without if it has none.
pub(super) fn leaf(stored: &StoredEntry, writers: &[WriterKey]) -> Result<Vec<u8>, String> {
    let commitments = stored.entry.commitments();
    let source = if stored.mac.is_some() { Source::Service } else { Source::Sql };
    let leaf = stored.entry.leaf(source, &commitments).map_err(|fault| fault.to_string())?;
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
        && stored.entry.leaf(src, &commitments).is_ok_and(|again| again == leaf)
}
