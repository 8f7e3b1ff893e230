//! The console's sessions: of a session only the hash of its secret is stored.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::Store;
use crate::domain::{Principal, Scope};
use crate::error::Error;

/// Whose session it is.
#[derive(Clone, Debug)]
pub struct StoredSession {
    pub principal: Principal,
    /// What the key is called by those who made it.
    pub key_name: Option<String>,
    pub started_at: DateTime<Utc>,
    pub seen_at: DateTime<Utc>,
}

impl Store {
    pub async fn start_session(
        &self,
        session_hash: &[u8],
        key_id: Uuid,
        now: DateTime<Utc>,
    ) -> Result<(), Error> {
        sqlx::query!(
            "insert into vlaapi.console_sessions (session_hash, key_id, started_at, seen_at) values ($1, $2, $3, $3)",
            session_hash,
            key_id,
            now,
        )
        .execute(&self.writes)
        .await?;
        Ok(())
    }

    /// The session, if its key is still good: neither revoked nor expired.
    pub async fn session_of(
        &self,
        session_hash: &[u8],
        now: DateTime<Utc>,
    ) -> Result<Option<StoredSession>, Error> {
        let row = sqlx::query!(
            r#"
            select vlaapi.calendar_time(s.started_at) as "started_at!", vlaapi.calendar_time(s.seen_at) as "seen_at!",
              k.key_id, k.customer_id as "customer_id?", k.key_prefix, k.key_name,
              array(select scope from unnest(k.scopes) scope where scope is not null) as "scopes!", k.rate_limit_override_rpm
            from vlaapi.console_sessions s
            join vlaapi.api_keys k using (key_id)
            where s.session_hash = $1 and k.is_active and (k.expires_at is null or k.expires_at > $2)
            "#,
            session_hash,
            now,
        )
        .fetch_optional(&self.reads)
        .await?;
        Ok(row.map(|row| StoredSession {
            principal: Principal {
                key_id: row.key_id,
                customer_id: row.customer_id,
                key_prefix: row.key_prefix,
                scopes: row.scopes.iter().filter_map(|scope| Scope::parse(scope)).collect(),
                rate_limit_override_rpm: row.rate_limit_override_rpm,
                // The console takes keys of operators alone.
                rate_limit_rpm: None,
                rate_limit_rpd: None,
            },
            key_name: row.key_name,
            started_at: row.started_at,
            seen_at: row.seen_at,
        }))
    }

    pub async fn touch_session(&self, session_hash: &[u8], now: DateTime<Utc>) -> Result<(), Error> {
        sqlx::query!(
            "update vlaapi.console_sessions set seen_at = $2 where session_hash = $1",
            session_hash,
            now
        )
        .execute(&self.writes)
        .await?;
        Ok(())
    }

    pub async fn end_session(&self, session_hash: &[u8]) -> Result<(), Error> {
        sqlx::query!("delete from vlaapi.console_sessions where session_hash = $1", session_hash)
            .execute(&self.writes)
            .await?;
        Ok(())
    }

    /// Removes the sessions which began before then.
    pub async fn forget_sessions(&self, started_before: DateTime<Utc>) -> Result<(), Error> {
        sqlx::query!("delete from vlaapi.console_sessions where started_at < $1", started_before)
            .execute(&self.writes)
            .await?;
        Ok(())
    }
}
