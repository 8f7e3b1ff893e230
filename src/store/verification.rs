//! What verification reads beside the log itself, in one snapshot.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use sqlx::postgres::PgConnectOptions;
use tokio::time::sleep;
use uuid::Uuid;

use super::Store;
use super::connection::{self, Purpose};
use super::log::reading::StoredCheckpoint;
use crate::error::Error;

/// A connection that sees the database as it is now, until it is closed. Meanwhile no file is rid of what was erased: old
/// versions of rows, which somebody can still see, would be written into the new file.
pub async fn snapshot(options: &PgConnectOptions) -> Result<PgConnection, Error> {
    let mut connection = connection::open(options, Purpose::Verification).await?;
    // Asked for again and again: a statement that waited for it would itself be a reader from before, and those are what
    // the holder outlasts.
    while !sqlx::query_scalar!(
        r#"select pg_try_advisory_lock_shared(hashtextextended('consentd files', 0)) as "locked!""#
    )
    .fetch_one(&mut connection)
    .await?
    {
        sleep(Duration::from_millis(50)).await;
    }
    sqlx::raw_sql("begin isolation level repeatable read read only").execute(&mut connection).await?;
    Ok(connection)
}

pub async fn audit_id_of(
    connection: &mut PgConnection,
    log_id: i32,
    leaf_index: i64,
) -> Result<Option<i64>, Error> {
    let audit_id = sqlx::query_scalar!(
        "select audit_id from vlaapi.audit_leaves where log_id = $1 and leaf_index = $2",
        log_id,
        leaf_index,
    )
    .fetch_optional(connection)
    .await?;
    Ok(audit_id)
}

/// The checkpoints of a log from a size above `after` on.
pub async fn checkpoints(
    connection: &mut PgConnection,
    log_id: i32,
    after: i64,
    limit: i64,
) -> Result<Vec<StoredCheckpoint>, Error> {
    let checkpoints = sqlx::query_as!(
        StoredCheckpoint,
        r#"
        select tree_size, note,
          vlaapi.calendar_time(signed_at) as "signed_at!"
        from vlaapi.audit_checkpoints
        where log_id = $1 and tree_size > $2
        order by tree_size
        limit $3
        "#,
        log_id,
        after,
        limit,
    )
    .fetch_all(connection)
    .await?;
    Ok(checkpoints)
}

/// Where a leaf or a checkpoint is: the number of its log, and the place in it.
pub type Place = (i32, i64);

/// Leaves between two places, both included: the log and the position of each, and whose it is.
pub async fn leaves_between(
    connection: &mut PgConnection,
    from: Place,
    to: Place,
    limit: i64,
) -> Result<Vec<(Place, i64)>, Error> {
    let rows = sqlx::query!(
        r#"
        select log_id, leaf_index, audit_id
        from vlaapi.audit_leaves
        where (log_id, leaf_index) >= ($1, $2) and (log_id, leaf_index) <= ($3, $4)
        order by log_id, leaf_index
        limit $5
        "#,
        from.0,
        from.1,
        to.0,
        to.1,
        limit,
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| ((row.log_id, row.leaf_index), row.audit_id)).collect())
}

/// Checkpoints between two places, both included.
pub async fn checkpoints_between(
    connection: &mut PgConnection,
    from: Place,
    to: Place,
    limit: i64,
) -> Result<Vec<Place>, Error> {
    let rows = sqlx::query!(
        r#"
        select log_id, tree_size
        from vlaapi.audit_checkpoints
        where (log_id, tree_size) >= ($1, $2) and (log_id, tree_size) <= ($3, $4)
        order by log_id, tree_size
        limit $5
        "#,
        from.0,
        from.1,
        to.0,
        to.1,
        limit,
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.log_id, row.tree_size)).collect())
}

/// An entry or event without a leaf.
#[derive(Clone, Debug)]
pub struct Unsealed {
    pub audit_id: i64,
    pub queued_at: Option<DateTime<Utc>>,
    pub quarantined: bool,
}

/// Entries and events above an id that have no leaf.
pub async fn unsealed(connection: &mut PgConnection, above: i64) -> Result<Vec<Unsealed>, Error> {
    let unsealed = sqlx::query_as!(
        Unsealed,
        r#"
        select entry.audit_id as "audit_id!", pending.queued_at as "queued_at?",
          exists (select from vlaapi.audit_quarantine q where q.audit_id = entry.audit_id) as "quarantined!"
        from (
          select audit_id from vlaapi.customer_consent_audit where audit_id > $1
          union all
          select audit_id from vlaapi.audit_events where audit_id > $1
        ) as entry
        left join (
          select audit_id,
            min(vlaapi.calendar_time(queued_at)) as queued_at
          from vlaapi.audit_pending
          group by audit_id
        ) as pending
          on pending.audit_id = entry.audit_id
        where not exists (select from vlaapi.audit_leaves leaf where leaf.audit_id = entry.audit_id)
        order by entry.audit_id
        "#,
        above,
    )
    .fetch_all(connection)
    .await?;
    Ok(unsealed)
}

/// Ids in the queue to which there is nothing.
pub async fn queued_without_entry(connection: &mut PgConnection) -> Result<Vec<i64>, Error> {
    let audit_ids = sqlx::query_scalar!(
        r#"
        select audit_id
        from vlaapi.audit_pending pending
        where not exists (select from vlaapi.customer_consent_audit e where e.audit_id = pending.audit_id)
          and not exists (select from vlaapi.audit_events e where e.audit_id = pending.audit_id)
        order by audit_id
        "#
    )
    .fetch_all(connection)
    .await?;
    Ok(audit_ids)
}

/// Customers in the order of their ids, with the versions of their consents.
pub async fn consents(
    connection: &mut PgConnection,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<(Uuid, i32)>, Error> {
    let rows = sqlx::query!(
        r#"
        select customer_id, version
        from vlaapi.customer_data_consent
        where $1::uuid is null or customer_id > $1
        order by customer_id
        limit $2
        "#,
        after,
        limit,
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.customer_id, row.version)).collect())
}

pub async fn consents_of(
    connection: &mut PgConnection,
    customer_ids: &[Uuid],
) -> Result<Vec<(Uuid, i32)>, Error> {
    let rows = sqlx::query!(
        "select customer_id, version from vlaapi.customer_data_consent where customer_id = any($1)",
        customer_ids,
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.customer_id, row.version)).collect())
}

pub async fn leaf_hash_of(connection: &mut PgConnection, audit_id: i64) -> Result<Option<Vec<u8>>, Error> {
    let hash = sqlx::query_scalar!("select leaf_hash from vlaapi.audit_leaves where audit_id = $1", audit_id)
        .fetch_optional(connection)
        .await?;
    Ok(hash)
}

/// A checkpoint, and how many witnesses signed it too.
#[derive(Clone, Debug)]
pub struct ListedCheckpoint {
    pub log_id: i32,
    pub signed: StoredCheckpoint,
    pub witnesses: i64,
}

impl Store {
    /// The checkpoints of all logs, newest first, below `before`.
    pub async fn list_checkpoints(
        &self,
        before: Option<Place>,
        limit: i64,
    ) -> Result<Vec<ListedCheckpoint>, Error> {
        let (log_id, tree_size) = before.unwrap_or((i32::MAX, i64::MAX));
        let rows = sqlx::query!(
            r#"
            select log_id, tree_size, note, vlaapi.calendar_time(signed_at) as "signed_at!",
              (
                select count(*)
                from vlaapi.audit_cosignatures w
                where w.log_id = c.log_id and w.tree_size = c.tree_size
              ) as "witnesses!"
            from vlaapi.audit_checkpoints c
            where (log_id, tree_size) < ($1, $2)
            order by log_id desc, tree_size desc
            limit $3
            "#,
            log_id,
            tree_size,
            limit,
        )
        .fetch_all(&self.reads)
        .await?;
        let listed = rows.into_iter().map(|row| ListedCheckpoint {
            log_id: row.log_id,
            signed: StoredCheckpoint { tree_size: row.tree_size, note: row.note, signed_at: row.signed_at },
            witnesses: row.witnesses,
        });
        Ok(listed.collect())
    }
}
