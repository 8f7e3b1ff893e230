//! Takes what is queued and appends it.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::{Connection as _, PgConnection};

use crate::domain::LEAF_VERSIONS;
use crate::error::Error;
use crate::store::Store;
use crate::tlog::tree::{Hash, Node};

/// A log, as it is to be appended to.
#[derive(Clone, Debug)]
pub struct Log {
    pub log_id: i32,
    pub origin: String,
    pub tree_size: i64,
    pub verifier_keys: Vec<String>,
    /// Why it cannot go on, if it cannot.
    pub fork: Option<String>,
}

/// A leaf which is to be appended.
#[derive(Clone, Debug)]
pub struct NewLeaf {
    pub audit_id: i64,
    pub hash: Hash,
    pub leaf: Vec<u8>,
}

/// Makes this transaction the one which appends, until it ends; `None` while another one is, or where no log is open.
pub async fn lead(connection: &mut PgConnection) -> Result<Option<Log>, Error> {
    let log = sqlx::query_as!(
        Log,
        r#"
        select log_id, origin, tree_size, verifier_keys, fork
        from vlaapi.audit_logs
        where closed_at is null
        for update skip locked
        "#
    )
    .fetch_optional(connection)
    .await?;
    Ok(log)
}

/// Takes up to `limit` ids out of the queue, lowest first: one customer's entries are sealed in their order. Answers when
/// the first of them was queued too. Entries of leaf versions that this program does not know stay.
pub async fn take_pending(
    connection: &mut PgConnection,
    limit: i64,
) -> Result<(Vec<i64>, Option<DateTime<Utc>>), Error> {
    let taken = sqlx::query!(
        r#"
        delete from vlaapi.audit_pending
        where ctid = any (array(
          select ctid from vlaapi.audit_pending where leaf_version = any($2) order by audit_id limit $1
        ))
        returning audit_id,
          vlaapi.calendar_time(queued_at) as "queued_at!"
        "#,
        limit,
        &LEAF_VERSIONS as &[i16],
    )
    .fetch_all(connection)
    .await?;
    let oldest = taken.iter().map(|row| row.queued_at).min();
    let mut audit_ids: Vec<i64> = taken.iter().map(|row| row.audit_id).collect();
    audit_ids.sort_unstable();
    audit_ids.dedup();
    Ok((audit_ids, oldest))
}

/// Returns the leaves of those of these ids that have one.
pub async fn sealed_among(
    connection: &mut PgConnection,
    audit_ids: &[i64],
) -> Result<HashMap<i64, Vec<u8>>, Error> {
    let sealed =
        sqlx::query!("select audit_id, leaf from vlaapi.audit_leaves where audit_id = any($1)", audit_ids)
            .fetch_all(connection)
            .await?;
    Ok(sealed.into_iter().map(|row| (row.audit_id, row.leaf)).collect())
}

/// Takes one id out of the queue, and returns whether it was there.
pub async fn take(connection: &mut PgConnection, audit_id: i64) -> Result<bool, Error> {
    let taken = sqlx::query!("delete from vlaapi.audit_pending where audit_id = $1", audit_id)
        .execute(connection)
        .await?;
    Ok(taken.rows_affected() > 0)
}

/// Puts an entry back into the queue, for a program that knows its leaf version.
pub async fn put_back(connection: &mut PgConnection, audit_id: i64, leaf_version: i16) -> Result<(), Error> {
    sqlx::query!(
        "insert into vlaapi.audit_pending (audit_id, leaf_version) values ($1, $2)",
        audit_id,
        leaf_version
    )
    .execute(connection)
    .await?;
    Ok(())
}

pub async fn enqueue(connection: &mut PgConnection, audit_id: i64) -> Result<(), Error> {
    sqlx::query!("insert into vlaapi.audit_pending (audit_id) values ($1)", audit_id)
        .execute(connection)
        .await?;
    Ok(())
}

/// Appends leaves and the nodes which they complete, and moves the log's size from what it was. False when it was moved
/// by somebody else: then nothing may be committed.
pub async fn append(
    connection: &mut PgConnection,
    log: &Log,
    leaves: &[NewLeaf],
    nodes: &[(Node, Hash)],
) -> Result<bool, Error> {
    let audit_ids: Vec<i64> = leaves.iter().map(|leaf| leaf.audit_id).collect();
    let hashes: Vec<&[u8]> = leaves.iter().map(|leaf| leaf.hash.as_bytes().as_slice()).collect();
    let bytes: Vec<&[u8]> = leaves.iter().map(|leaf| leaf.leaf.as_slice()).collect();
    sqlx::query!(
        r#"
        insert into vlaapi.audit_leaves (log_id, leaf_index, audit_id, leaf_hash, leaf)
        select $1, $2 + position - 1, audit_id, leaf_hash, leaf
        from unnest($3::bigint[], $4::bytea[], $5::bytea[]) with ordinality as new (audit_id, leaf_hash, leaf, position)
        "#,
        log.log_id,
        log.tree_size,
        &audit_ids,
        &hashes as _,
        &bytes as _,
    )
    .execute(&mut *connection)
    .await?;
    let levels: Vec<i16> = nodes.iter().map(|(node, _)| i16::from(node.level / 8)).collect();
    let indexes: Vec<i64> = nodes.iter().map(|(node, _)| node.index.cast_signed()).collect();
    let hashes: Vec<&[u8]> = nodes.iter().map(|(_, hash)| hash.as_bytes().as_slice()).collect();
    sqlx::query!(
        r#"
        insert into vlaapi.audit_nodes (log_id, level, node_index, hash)
        select $1, level, node_index, hash
        from unnest($2::smallint[], $3::bigint[], $4::bytea[]) as new (level, node_index, hash)
        "#,
        log.log_id,
        &levels,
        &indexes,
        &hashes as _,
    )
    .execute(&mut *connection)
    .await?;
    let moved = sqlx::query!(
        "update vlaapi.audit_logs set tree_size = $3 where log_id = $1 and tree_size = $2",
        log.log_id,
        log.tree_size,
        log.tree_size + i64::try_from(leaves.len()).unwrap_or(i64::MAX),
    )
    .execute(connection)
    .await?;
    Ok(moved.rows_affected() == 1)
}

/// Adds entries to the counts of their days. They are counted with their leaves or not at all, and never twice. Days before
/// 1970 and after tomorrow are no days of this service, and are not counted.
///
/// # Errors
///
/// The transaction stays usable after a failure: entries are sealed although they cannot be counted.
pub async fn count_days(connection: &mut PgConnection, audit_ids: &[i64]) -> Result<(), Error> {
    let mut savepoint = connection.begin().await?;
    match add_to_days(&mut savepoint, audit_ids).await {
        Ok(()) => savepoint.commit().await?,
        Err(error) => {
            savepoint.rollback().await?;
            return Err(error);
        }
    }
    Ok(())
}

async fn add_to_days(connection: &mut PgConnection, audit_ids: &[i64]) -> Result<(), Error> {
    sqlx::query!(
        r#"
        with moves as materialized (
          select moves.*
          from unnest($1::bigint[]) as listed (audit_id)
          -- `offset 0`: each is looked up alone, whatever PostgreSQL expects of a list.
          cross join lateral (select * from vlaapi.consent_moves m where m.audit_id = listed.audit_id offset 0) as moves
          where day between date '1970-01-01' and current_date + 1
        )
        insert into vlaapi.consent_days as kept
          (day, action, previous_tier, new_tier, entries, tier_none, tier_basic, tier_analytics, tier_research, expired,
           images, embeddings, training)
        select day, action, previous_tier, new_tier, count(*), sum(tier_none), sum(tier_basic), sum(tier_analytics),
          sum(tier_research), sum(expired), sum(images), sum(embeddings), sum(training)
        from moves
        group by day, action, previous_tier, new_tier
        on conflict (day, action, previous_tier, new_tier) do update
        set entries = kept.entries + excluded.entries, tier_none = kept.tier_none + excluded.tier_none,
          tier_basic = kept.tier_basic + excluded.tier_basic,
          tier_analytics = kept.tier_analytics + excluded.tier_analytics,
          tier_research = kept.tier_research + excluded.tier_research, expired = kept.expired + excluded.expired,
          images = kept.images + excluded.images, embeddings = kept.embeddings + excluded.embeddings, training = kept.training + excluded.training
        "#,
        audit_ids,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Sets those of these entries aside whose version the customer's consent never was at, and returns their ids. They were
/// inserted past the service, without a change of the consent. Of a customer whose consent was deleted, the trail ends with
/// the entry that records it.
pub async fn set_foreign_aside(
    connection: &mut PgConnection,
    audit_ids: &[i64],
    now: DateTime<Utc>,
) -> Result<Vec<i64>, Error> {
    let foreign = sqlx::query_scalar!(
        r#"
        with found as materialized (
          select entry.audit_id, entry.version, consent.version as consent_version
          from unnest($1::bigint[]) as listed (audit_id)
          cross join lateral (
            select audit_id, customer_id, version from vlaapi.customer_consent_audit
            where audit_id = listed.audit_id
            offset 0
          ) entry
          cross join lateral (
            select coalesce(
              (select version from vlaapi.customer_data_consent where customer_id = entry.customer_id),
              (select max(version) from vlaapi.customer_consent_audit
               where customer_id = entry.customer_id and action = 'erased'),
              0
            ) as version
          ) consent
          where entry.version > consent.version
        ), aside as (
          insert into vlaapi.audit_quarantine as kept (audit_id, reason, found_at, foreign_version)
          select audit_id,
            format('version %s is in the trail without its consent, which was at version %s', version, consent_version),
            $2, true
          from found
          on conflict (audit_id) do update set foreign_version = true where not kept.foreign_version
        )
        select audit_id from found
        "#,
        audit_ids,
        now,
    )
    .fetch_all(connection)
    .await?;
    Ok(foreign)
}

/// Sets entries aside which cannot be sealed, each with why.
pub async fn quarantine(
    connection: &mut PgConnection,
    entries: &[(i64, String)],
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let (audit_ids, reasons): (Vec<i64>, Vec<String>) = entries.iter().cloned().unzip();
    sqlx::query!(
        r#"
        insert into vlaapi.audit_quarantine (audit_id, reason, found_at)
        select audit_id, reason, $3 from unnest($1::bigint[], $2::text[]) as found (audit_id, reason)
        on conflict (audit_id) do nothing
        "#,
        &audit_ids,
        &reasons,
        now,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Opens a log and closes the one before it; the next leaf that is appended is its first.
pub async fn open(
    connection: &mut PgConnection,
    log_id: i32,
    origin: &str,
    verifier_keys: &[String],
    now: DateTime<Utc>,
) -> Result<(), Error> {
    sqlx::query!("update vlaapi.audit_logs set closed_at = $1 where closed_at is null", now)
        .execute(&mut *connection)
        .await?;
    sqlx::query!(
        "insert into vlaapi.audit_logs (log_id, origin, verifier_keys, opened_at) values ($1, $2, $3, $4)",
        log_id,
        origin,
        verifier_keys,
        now,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Waits for whoever else opens a log; until this transaction ends nobody does.
pub async fn lock_opening(connection: &mut PgConnection) -> Result<(), Error> {
    sqlx::query!("select pg_advisory_xact_lock(hashtextextended('consentd audit log', 0))")
        .fetch_one(connection)
        .await?;
    Ok(())
}

/// The greatest id in the trail; 0 when it is empty.
pub async fn last_entry(connection: &mut PgConnection) -> Result<i64, Error> {
    let last = sqlx::query_scalar!(
        r#"select coalesce(max(audit_id), 0) as "last!" from vlaapi.customer_consent_audit"#
    )
    .fetch_one(connection)
    .await?;
    Ok(last)
}

impl Store {
    /// Keeps a checkpoint, and answers whether it is new; a size that was signed before is signed anew.
    pub async fn keep_checkpoint(
        &self,
        log_id: i32,
        tree_size: i64,
        note: &str,
        now: DateTime<Utc>,
    ) -> Result<bool, Error> {
        let is_new = sqlx::query_scalar!(
            r#"
            insert into vlaapi.audit_checkpoints (log_id, tree_size, note, signed_at)
            values ($1, $2, $3, $4)
            on conflict (log_id, tree_size) do update set signed_at = greatest(audit_checkpoints.signed_at, excluded.signed_at)
            returning (xmax = 0) as "is_new!"
            "#,
            log_id,
            tree_size,
            note,
            now,
        )
        .fetch_one(&self.writes)
        .await?;
        Ok(is_new)
    }

    pub async fn keep_cosignature(
        &self,
        log_id: i32,
        tree_size: i64,
        witness: &str,
        signature: &str,
        now: DateTime<Utc>,
    ) -> Result<(), Error> {
        sqlx::query!(
            r#"
            insert into vlaapi.audit_cosignatures (log_id, tree_size, witness, signature, added_at)
            values ($1, $2, $3, $4, $5)
            on conflict (log_id, tree_size, witness) do update
            set signature = excluded.signature, added_at = excluded.added_at
            "#,
            log_id,
            tree_size,
            witness,
            signature,
            now,
        )
        .execute(&self.writes)
        .await?;
        Ok(())
    }

    /// Stops the log for all replicas.
    pub async fn mark_forked(&self, log_id: i32, fork: &str, now: DateTime<Utc>) -> Result<(), Error> {
        sqlx::query!(
            "update vlaapi.audit_logs set fork = $2, forked_at = $3 where log_id = $1 and fork is null",
            log_id,
            fork,
            now,
        )
        .execute(&self.writes)
        .await?;
        Ok(())
    }

    /// Announces which keys sign the open log.
    pub async fn announce_keys(&self, log_id: i32, verifier_keys: &[String]) -> Result<(), Error> {
        sqlx::query!(
            r#"
            update vlaapi.audit_logs
            set verifier_keys = array(select distinct unnest(verifier_keys || $2) order by 1)
            where log_id = $1
            "#,
            log_id,
            verifier_keys,
        )
        .execute(&self.writes)
        .await?;
        Ok(())
    }
}

/// Whether one of these writers' keys is known in this database, or none was so far; then they all are, from now on.
pub async fn admit_writer_keys(
    connection: &mut PgConnection,
    fingerprints: &[Vec<u8>],
) -> Result<bool, Error> {
    let known = sqlx::query_scalar!(
        r#"
        select not exists (select from vlaapi.audit_writer_keys)
          or exists (select from vlaapi.audit_writer_keys where fingerprint = any($1)) as "known!"
        "#,
        fingerprints,
    )
    .fetch_one(&mut *connection)
    .await?;
    if known {
        sqlx::query!(
            r#"
            insert into vlaapi.audit_writer_keys (fingerprint)
            select unnest($1::bytea[])
            on conflict (fingerprint) do nothing
            "#,
            fingerprints,
        )
        .execute(connection)
        .await?;
    }
    Ok(known)
}
