//! Entries that are set aside: listed, and resolved by an event of the log.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::{ForeignVersion, ResolvedEntry};
use crate::error::Error;
use crate::store::Store;

/// An entry that is set aside, resolved or not.
#[derive(Clone, Debug)]
pub struct Quarantined {
    pub audit_id: i64,
    pub reason: String,
    pub found_at: DateTime<Utc>,
    /// The version that it uses up, where the consent never was at it; such an entry is sealed like any other.
    pub foreign: Option<ForeignVersion>,
    /// It is named as foreign, and its row is gone or is no change of a consent.
    pub is_foreign: bool,
    /// The event that resolved it.
    pub resolved_by: Option<i64>,
    pub resolved_at: Option<DateTime<Utc>>,
}

impl Quarantined {
    /// Returns the entry as the event that resolves it names it.
    pub fn resolution(&self) -> ResolvedEntry {
        ResolvedEntry { audit_id: self.audit_id, foreign_version: self.foreign }
    }
}

struct Row {
    audit_id: i64,
    reason: String,
    found_at: DateTime<Utc>,
    is_foreign: bool,
    resolved_by: Option<i64>,
    resolved_at: Option<DateTime<Utc>>,
    customer_id: Option<Uuid>,
    version: Option<i32>,
}

impl Row {
    fn read(self) -> Quarantined {
        let version = self.customer_id.zip(self.version);
        let foreign = version.map(|(customer_id, version)| ForeignVersion { customer_id, version });
        Quarantined {
            audit_id: self.audit_id,
            reason: self.reason,
            found_at: self.found_at,
            foreign: foreign.filter(|_| self.is_foreign),
            is_foreign: self.is_foreign,
            resolved_by: self.resolved_by,
            resolved_at: self.resolved_at,
        }
    }
}

/// The entries of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listed {
    All,
    Unresolved,
    One(i64),
}

/// Returns entries that are or were set aside, the greatest ids first.
pub async fn list(
    connection: &mut PgConnection,
    listed: Listed,
    limit: Option<i64>,
) -> Result<Vec<Quarantined>, Error> {
    let one = if let Listed::One(audit_id) = listed { Some(audit_id) } else { None };
    let rows = sqlx::query_as!(
        Row,
        r#"
        select aside.audit_id, left(aside.reason, 1000) as "reason!",
          vlaapi.calendar_time(aside.found_at) as "found_at!", aside.foreign_version as is_foreign,
          aside.resolved_by, vlaapi.calendar_time(aside.resolved_at) as resolved_at,
          entry.customer_id as "customer_id?", entry.version as "version?"
        from vlaapi.audit_quarantine aside
        left join vlaapi.customer_consent_audit entry on entry.audit_id = aside.audit_id
        where ($1::bigint is null or aside.audit_id = $1) and (not $2 or aside.resolved_by is null)
        order by aside.audit_id desc
        limit $3
        "#,
        one,
        listed == Listed::Unresolved,
        limit,
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(Row::read).collect())
}

/// Returns an entry that is or was set aside, locked until the transaction ends.
pub async fn lock(connection: &mut PgConnection, audit_id: i64) -> Result<Option<Quarantined>, Error> {
    sqlx::query!("select audit_id from vlaapi.audit_quarantine where audit_id = $1 for update", audit_id)
        .fetch_optional(&mut *connection)
        .await?;
    Ok(list(connection, Listed::One(audit_id), None).await?.pop())
}

/// Records the event that resolved an entry.
pub async fn mark_resolved(
    connection: &mut PgConnection,
    audit_id: i64,
    resolved_by: i64,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    sqlx::query!(
        "update vlaapi.audit_quarantine set resolved_by = $2, resolved_at = $3 where audit_id = $1",
        audit_id,
        resolved_by,
        now,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Returns the leaves of the events that resolved something, below a leaf of a log: those before the place from which on
/// a verification reads.
pub async fn resolutions_before(
    connection: &mut PgConnection,
    log_id: i32,
    leaf_index: i64,
) -> Result<Vec<Vec<u8>>, Error> {
    let leaves = sqlx::query_scalar!(
        r#"
        select leaf.leaf
        from vlaapi.audit_events event
        join vlaapi.audit_leaves leaf on leaf.audit_id = event.audit_id
        where event.kind = 'quarantine.resolved' and (leaf.log_id, leaf.leaf_index) < ($1, $2)
        order by leaf.log_id, leaf.leaf_index
        "#,
        log_id,
        leaf_index,
    )
    .fetch_all(connection)
    .await?;
    Ok(leaves)
}

impl Store {
    /// Returns entries that are or were set aside, the greatest ids first.
    pub async fn quarantined(&self, listed: Listed, limit: Option<i64>) -> Result<Vec<Quarantined>, Error> {
        list(&mut *self.reads.acquire().await?, listed, limit).await
    }
}
