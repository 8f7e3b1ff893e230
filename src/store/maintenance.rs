//! What the service looks after without being asked.

use chrono::NaiveDate;
use sqlx::PgConnection;

use super::Store;
use crate::error::Error;

/// How many months ahead `inference_logs` has partitions.
const MONTHS_AHEAD: i32 = 4;

impl Store {
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
