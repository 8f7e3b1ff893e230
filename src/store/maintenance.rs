//! What the service looks after without being asked.

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::PgConnection;

use super::Store;
use crate::error::Error;

/// How many months ahead `inference_logs` has partitions.
const MONTHS_AHEAD: i32 = 4;

/// The sequence of audit ids, of entries and of events.
pub const AUDIT_SEQUENCE: &str = "vlaapi.customer_consent_audit_audit_id_seq";

/// A sequence that was behind the ids of its table.
#[derive(Clone, Debug)]
pub struct BehindSequence {
    pub name: String,
    /// The last id that it had drawn.
    pub last_id: i64,
    /// The largest id that is in use, to which it was moved.
    pub largest_id: i64,
}

impl Store {
    /// Moves sequences that are behind the ids of their tables forward, and returns them.
    pub async fn advance_sequences(&self) -> Result<Vec<BehindSequence>, Error> {
        let behind = sqlx::query_as!(
            BehindSequence,
            r#"
            select sequence_name as "name!", last_id as "last_id!", largest_id as "largest_id!"
            from vlaapi.advance_sequences()
            "#
        )
        .fetch_all(&self.writes)
        .await?;
        Ok(behind)
    }

    /// Returns the database's time.
    pub async fn now(&self) -> Result<DateTime<Utc>, Error> {
        let now = sqlx::query_scalar!(r#"select clock_timestamp() as "now!""#).fetch_one(&self.reads).await?;
        Ok(now)
    }

    /// A secret which all replicas share.
    pub async fn service_secret(&self, name: &str) -> Result<Vec<u8>, Error> {
        let secret = sqlx::query_scalar!("select secret from vlaapi.service_secrets where name = $1", name)
            .fetch_one(&self.reads)
            .await?;
        Ok(secret)
    }

    /// Makes the coming months' partitions of `inference_logs`, and returns how many were missing.
    pub async fn make_partitions(&self, today: NaiveDate) -> Result<i32, Error> {
        let made = sqlx::query_scalar!(
            r#"select vlaapi.make_inference_log_partitions($1, $2) as "made!""#,
            today,
            MONTHS_AHEAD
        )
        .fetch_one(&self.writes)
        .await?;
        Ok(made)
    }
}

/// Whether this transaction is the one replica which sweeps now.
pub async fn claim_sweep(connection: &mut PgConnection) -> Result<bool, Error> {
    let claimed = sqlx::query_scalar!(
        r#"select pg_try_advisory_xact_lock(hashtextextended('consentd expiry sweep', 0)) as "claimed!""#
    )
    .fetch_one(connection)
    .await?;
    Ok(claimed)
}
