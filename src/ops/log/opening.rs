//! The first log of a database, and the next one, when an old one cannot go on.

use chrono::{DateTime, Utc};

use super::memory::Memory;
use super::{LogKeys, vouching};
use crate::domain::{LOG_OPENED, LogOpening, PreviousLog};
use crate::error::Error;
use crate::store::Store;
use crate::store::consents::Attribution;
use crate::store::log::reading;
use crate::store::log::sealing::{self, Log, NewLeaf};
use crate::tlog::tree::leaf_hash;

/// The log that is open. Opens the first one, under `host`, if there is none.
pub async fn open_first(store: &Store, keys: &LogKeys, host: &str, now: DateTime<Utc>) -> Result<Log, Error> {
    if let Some(log) = store.open_log().await? {
        return Ok(log);
    }
    let mut transaction = store.begin().await?;
    sealing::lock_opening(&mut transaction).await?;
    // Another replica may have been faster.
    let found = reading::logs(&mut transaction).await?.pop();
    let log = if let Some(log) = found {
        log
    } else {
        let by = Attribution { changed_by: "system:sealer".to_owned(), ..Attribution::default() };
        open(&mut transaction, keys, host, 1, None, &by, now).await?
    };
    transaction.commit().await?;
    Ok(log)
}

/// Closes the log that is open and opens the next one. Its first leaf names the last checkpoint of the old one: the one
/// that is remembered outside, where there is one, since a database that was set back does not know it.
pub async fn open_next(
    store: &Store,
    keys: &LogKeys,
    host: Option<&str>,
    memory: &Memory,
    by: &Attribution,
    now: DateTime<Utc>,
) -> Result<Log, Error> {
    let mut transaction = store.begin().await?;
    sealing::lock_opening(&mut transaction).await?;
    let old = reading::logs(&mut transaction)
        .await?
        .pop()
        .ok_or(Error::Conflict("there is no log yet: the service opens the first one when it starts"))?;
    let remembered = memory.recall(|origin| keys.believed_keys(origin))?.map(|(checkpoint, _)| checkpoint);
    let stored = store.latest_checkpoint(old.log_id).await?.and_then(|stored| stored.checkpoint());
    let last = remembered
        .into_iter()
        .chain(stored)
        .filter(|checkpoint| checkpoint.origin == old.origin)
        .max_by_key(|checkpoint| checkpoint.size);
    let previous = last.map(|checkpoint| PreviousLog {
        origin: checkpoint.origin,
        tree_size: checkpoint.size,
        root: checkpoint.root.to_string(),
    });
    let own_host = old.origin.rsplit_once("/audit/").map_or(old.origin.as_str(), |(host, _)| host).to_owned();
    let host = host.unwrap_or(&own_host);
    let log = open(&mut transaction, keys, host, old.log_id + 1, previous, by, now).await?;
    transaction.commit().await?;
    Ok(log)
}

async fn open(
    transaction: &mut sqlx::PgConnection,
    keys: &LogKeys,
    host: &str,
    log_id: i32,
    previous: Option<PreviousLog>,
    by: &Attribution,
    now: DateTime<Utc>,
) -> Result<Log, Error> {
    let origin = format!("{host}/audit/{log_id}");
    let verifier_keys: Vec<String> = keys.verifier_keys(&origin)?.iter().map(ToString::to_string).collect();
    sealing::open(transaction, log_id, &origin, &verifier_keys, now).await?;
    let opening = LogOpening {
        origin: origin.clone(),
        adopted_through: if log_id == 1 { sealing::last_entry(transaction).await? } else { 0 },
        previous,
    };
    let (audit_id, leaf) = vouching::event(transaction, keys, LOG_OPENED, None, &opening, by, now).await?;
    let mut log = Log { log_id, origin, tree_size: 0, verifier_keys, fork: None };
    sealing::append(transaction, &log, &[NewLeaf { audit_id, hash: leaf_hash(&leaf), leaf }], &[]).await?;
    log.tree_size = 1;
    Ok(log)
}

/// Whether a replica may serve with the keys that it has.
pub async fn admit(store: &Store, keys: &LogKeys, log: &Log) -> Result<Result<(), String>, Error> {
    let own: Vec<String> = keys.verifier_keys(&log.origin)?.iter().map(ToString::to_string).collect();
    if !own.iter().any(|key| log.verifier_keys.contains(key)) {
        return Ok(Err(format!(
            "the audit log {} is signed by the key {}, which this replica does not have (its own is {}): copy audit.key \
             from the replica that has it, or name it with --audit-key-file",
            log.origin,
            log.verifier_keys.join(" or "),
            own.join(" and "),
        )));
    }
    store.announce_keys(log.log_id, &own).await?;
    let fingerprints: Vec<Vec<u8>> = keys.writers.iter().map(|key| key.fingerprint().to_vec()).collect();
    let mut transaction = store.begin().await?;
    let admitted = sealing::admit_writer_keys(&mut transaction, &fingerprints).await?;
    transaction.commit().await?;
    Ok(if admitted {
        Ok(())
    } else {
        Err("the entries in this database are vouched for with another writer's key than this replica has: copy \
             audit-writer.key from the replica that has it, or name it with --audit-writer-key-file"
            .to_owned())
    })
}
