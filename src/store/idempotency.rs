//! Answers to POSTs, kept for retries.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::error::Error;

/// An answer that was given before.
#[derive(Debug)]
pub struct KeptAnswer {
    pub request_hash: Vec<u8>,
    pub sealed_answer: Vec<u8>,
}

/// Whether this transaction is the only one at work for the caller and its Idempotency-Key.
pub async fn claim(connection: &mut PgConnection, key_id: Uuid, key_hash: &[u8]) -> Result<bool, Error> {
    let name = format!("idempotency {key_id} {key_hash:?}");
    let claimed = sqlx::query_scalar!(
        r#"select pg_try_advisory_xact_lock(hashtextextended($1, 0)) as "claimed!""#,
        name
    )
    .fetch_one(connection)
    .await?;
    Ok(claimed)
}

pub async fn find(
    connection: &mut PgConnection,
    key_id: Uuid,
    key_hash: &[u8],
    not_before: DateTime<Utc>,
) -> Result<Option<KeptAnswer>, Error> {
    let answer = sqlx::query_as!(
        KeptAnswer,
        r#"
        select request_hash, sealed_answer
        from vlaapi.idempotent_answers
        where key_id = $1 and idempotency_key_hash = $2 and created_at >= $3
        "#,
        key_id,
        key_hash,
        not_before,
    )
    .fetch_optional(connection)
    .await?;
    Ok(answer)
}

pub async fn keep(
    connection: &mut PgConnection,
    key_id: Uuid,
    key_hash: &[u8],
    answer: &KeptAnswer,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    sqlx::query!(
        r#"
        insert into vlaapi.idempotent_answers
          (key_id, idempotency_key_hash, request_hash, sealed_answer, created_at)
        values ($1, $2, $3, $4, $5)
        on conflict (key_id, idempotency_key_hash) do update
        set request_hash = excluded.request_hash, sealed_answer = excluded.sealed_answer,
          created_at = excluded.created_at
        "#,
        key_id,
        key_hash,
        answer.request_hash,
        answer.sealed_answer,
        now,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Forgets answers from before an instant.
pub async fn forget(connection: &mut PgConnection, before: DateTime<Utc>) -> Result<(), Error> {
    sqlx::query!("delete from vlaapi.idempotent_answers where created_at < $1", before)
        .execute(connection)
        .await?;
    Ok(())
}
