//! API keys: of a key only its hash is stored.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Postgres, QueryBuilder};
use uuid::Uuid;

use super::Store;
use crate::domain::{ApiKeyRecord, Authenticated, KeyHash, Principal, Scope};
use crate::error::Error;

/// Which keys to list.
#[derive(Clone, Debug, Default)]
pub struct KeyFilter {
    pub customer_id: Option<Uuid>,
    pub is_active: Option<bool>,
}

impl Store {
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
            "select key_id, customer_id, key_prefix, key_name, \
             array(select scope from unnest(scopes) scope where scope is not null) as scopes, rate_limit_override_rpm, \
             vlaapi.calendar_time(created_at) as created_at, vlaapi.calendar_time(last_used_at) as last_used_at, \
             vlaapi.calendar_time(expires_at) as expires_at, is_active, replaced_by from vlaapi.api_keys where true",
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

    pub async fn key(&self, key_id: Uuid) -> Result<Option<ApiKeyRecord>, Error> {
        let key = sqlx::query_as!(
            ApiKeyRecord,
            r#"
            select key_id, customer_id as "customer_id?", key_prefix, key_name,
              array(select scope from unnest(scopes) scope where scope is not null) as "scopes!", rate_limit_override_rpm,
              vlaapi.calendar_time(created_at) as "created_at!", vlaapi.calendar_time(last_used_at) as last_used_at,
              vlaapi.calendar_time(expires_at) as expires_at, is_active, replaced_by
            from vlaapi.api_keys
            where key_id = $1
            "#,
            key_id,
        )
        .fetch_optional(&self.reads)
        .await?;
        Ok(key)
    }
}

/// The keys of those of these hashes which are known and not revoked, and whose customers are active.
pub async fn authenticate(
    connection: &mut PgConnection,
    key_hashes: &[KeyHash],
) -> Result<Vec<(KeyHash, Authenticated)>, Error> {
    let key_hashes: Vec<String> = key_hashes.iter().map(KeyHash::hex).collect();
    let rows = sqlx::query!(
        r#"
        select k.key_hash as "key_hash!", k.key_id as "key_id!", k.customer_id as "customer_id?",
          k.key_prefix as "key_prefix!", array(select scope from unnest(k.scopes) scope where scope is not null) as "scopes!",
          k.rate_limit_override_rpm, vlaapi.calendar_time(k.last_used_at) as last_used_at,
          vlaapi.calendar_time(k.expires_at) as expires_at,
          c.rate_limit_rpm as "rate_limit_rpm?", c.rate_limit_rpd as "rate_limit_rpd?"
        from vlaapi.api_keys k
        left join vlaapi.customers c on c.customer_id = k.customer_id
        where k.key_hash = any($1) and k.is_active and (k.customer_id is null or c.is_active)
        "#,
        &key_hashes,
    )
    .fetch_all(connection)
    .await?;
    let keys = rows.into_iter().filter_map(|row| {
        let principal = Principal {
            key_id: row.key_id,
            customer_id: row.customer_id,
            key_prefix: row.key_prefix,
            // A scope which this version does not know allows nothing.
            scopes: row.scopes.iter().filter_map(|scope| Scope::parse(scope)).collect(),
            rate_limit_override_rpm: row.rate_limit_override_rpm,
            rate_limit_rpm: row.rate_limit_rpm,
            rate_limit_rpd: row.rate_limit_rpd,
        };
        let key = Authenticated {
            principal: Arc::new(principal),
            expires_at: row.expires_at,
            last_used_at: row.last_used_at,
        };
        Some((KeyHash::from_hex(&row.key_hash)?, key))
    });
    Ok(keys.collect())
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
        select key_id, customer_id as "customer_id?", key_prefix, key_name,
          array(select scope from unnest(scopes) scope where scope is not null) as "scopes!", rate_limit_override_rpm,
          vlaapi.calendar_time(created_at) as "created_at!", vlaapi.calendar_time(last_used_at) as last_used_at,
          vlaapi.calendar_time(expires_at) as expires_at, is_active, replaced_by
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
