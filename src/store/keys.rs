//! API keys: of a key only its hash is stored.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Postgres, QueryBuilder};
use uuid::Uuid;

use super::Store;
use crate::domain::{ApiKeyRecord, Principal, Scope};
use crate::error::Error;

/// Which keys to list.
#[derive(Clone, Debug, Default)]
pub struct KeyFilter {
    pub customer_id: Option<Uuid>,
    pub is_active: Option<bool>,
}

impl Store {
    /// Who calls with the key of this hash; `None` when it is unknown, revoked, expired, or its customer inactive.
    pub async fn principal(&self, key_hash: &str, now: DateTime<Utc>) -> Result<Option<Principal>, Error> {
        let row = sqlx::query!(
            r#"
            select k.key_id, k.customer_id as "customer_id?", k.key_prefix, k.scopes, k.rate_limit_override_rpm,
              k.last_used_at, c.rate_limit_rpm as "rate_limit_rpm?", c.rate_limit_rpd as "rate_limit_rpd?"
            from vlaapi.api_keys k
            left join vlaapi.customers c on c.customer_id = k.customer_id
            where k.key_hash = $1 and k.is_active and (k.expires_at is null or k.expires_at > $2)
              and (k.customer_id is null or c.is_active)
            "#,
            key_hash,
            now,
        )
        .fetch_optional(&self.reads)
        .await?;
        Ok(row.map(|row| Principal {
            key_id: row.key_id,
            customer_id: row.customer_id,
            key_prefix: row.key_prefix,
            // A scope which this version does not know allows nothing.
            scopes: row.scopes.iter().filter_map(|scope| Scope::parse(scope)).collect(),
            rate_limit_rpm: row.rate_limit_override_rpm.or(row.rate_limit_rpm),
            rate_limit_rpd: row.rate_limit_rpd,
            last_used_at: row.last_used_at,
        }))
    }

    /// Notes that a key was used.
    pub async fn touch_key(&self, key_id: Uuid, now: DateTime<Utc>) -> Result<(), Error> {
        sqlx::query!("update vlaapi.api_keys set last_used_at = $2 where key_id = $1", key_id, now)
            .execute(&self.writes)
            .await?;
        Ok(())
    }

    pub async fn list_keys(
        &self,
        filter: &KeyFilter,
        after: Option<Uuid>,
        limit: i64,
    ) -> Result<Vec<ApiKeyRecord>, Error> {
        let mut query = QueryBuilder::<Postgres>::new(
            "select key_id, customer_id, key_prefix, key_name, scopes, rate_limit_override_rpm, created_at, \
             last_used_at, expires_at, is_active, replaced_by from vlaapi.api_keys where true",
        );
        if let Some(after) = after {
            query.push(" and key_id > ").push_bind(after);
        }
        if let Some(customer_id) = filter.customer_id {
            query.push(" and customer_id = ").push_bind(customer_id);
        }
        if let Some(is_active) = filter.is_active {
            query.push(" and is_active = ").push_bind(is_active);
        }
        query.push(" order by key_id limit ").push_bind(limit);
        Ok(query.build_query_as().fetch_all(&self.reads).await?)
    }
}

pub async fn insert(connection: &mut PgConnection, key: &ApiKeyRecord, key_hash: &str) -> Result<(), Error> {
    sqlx::query!(
        r#"
        insert into vlaapi.api_keys
          (key_id, customer_id, key_prefix, key_hash, key_name, scopes, rate_limit_override_rpm, created_at, expires_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
        "#,
        key.key_id,
        key.customer_id,
        key.key_prefix,
        key_hash,
        key.key_name,
        &key.scopes,
        key.rate_limit_override_rpm,
        key.created_at,
        key.expires_at,
    )
    .execute(connection)
    .await
    .map_err(|error| match error.as_database_error() {
        Some(database) if database.is_foreign_key_violation() => Error::UnknownCustomer,
        _ => error.into(),
    })?;
    Ok(())
}

/// One key, locked until the transaction ends.
pub async fn lock(connection: &mut PgConnection, key_id: Uuid) -> Result<Option<ApiKeyRecord>, Error> {
    let key = sqlx::query_as!(
        ApiKeyRecord,
        r#"
        select key_id, customer_id as "customer_id?", key_prefix, key_name, scopes, rate_limit_override_rpm,
          created_at, last_used_at, expires_at, is_active, replaced_by
        from vlaapi.api_keys
        where key_id = $1
        for update
        "#,
        key_id,
    )
    .fetch_optional(connection)
    .await?;
    Ok(key)
}

pub async fn revoke(connection: &mut PgConnection, key_id: Uuid) -> Result<(), Error> {
    sqlx::query!("update vlaapi.api_keys set is_active = false where key_id = $1", key_id)
        .execute(connection)
        .await?;
    Ok(())
}

/// Notes that a key was rotated to another, and until when it stays good.
pub async fn replace(
    connection: &mut PgConnection,
    key_id: Uuid,
    replaced_by: Uuid,
    good_until: DateTime<Utc>,
) -> Result<(), Error> {
    sqlx::query!(
        "update vlaapi.api_keys set replaced_by = $2, expires_at = $3 where key_id = $1",
        key_id,
        replaced_by,
        good_until,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Lets one replica at a time through, until the transaction ends: the first operator key is made once.
pub async fn lock_first_key(connection: &mut PgConnection) -> Result<(), Error> {
    sqlx::query!("select pg_advisory_xact_lock(hashtextextended('consentd operator key', 0))")
        .execute(connection)
        .await?;
    Ok(())
}

/// Whether any operator's key was ever made: an empty database has none.
pub async fn has_operator_key(connection: &mut PgConnection) -> Result<bool, Error> {
    let found = sqlx::query_scalar!(
        r#"select exists (select from vlaapi.api_keys where customer_id is null) as "found!""#
    )
    .fetch_one(connection)
    .await?;
    Ok(found)
}
