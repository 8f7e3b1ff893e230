//! Links to the customer's own page, and the keys that sign them.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::Store;
use crate::domain::{ConsentLink, LinkClaims, LinkKey};
use crate::error::Error;

/// What there is to hold a token against.
#[derive(Clone, Debug)]
pub struct LinkStanding {
    pub key: LinkKey,
    /// `None`: it was cleared away, or its customer was.
    pub link: Option<ConsentLink>,
}

impl Store {
    /// `None` when there is no such key (any more).
    pub async fn link_standing(&self, claims: &LinkClaims) -> Result<Option<LinkStanding>, Error> {
        let row = sqlx::query!(
            r#"
            select k.key_id, k.secret, vlaapi.calendar_time(l.created_at) as created_at, l.created_by as "created_by?",
              l.on_behalf_of, vlaapi.calendar_time(l.expires_at) as expires_at,
              vlaapi.calendar_time(l.revoked_at) as revoked_at
            from vlaapi.consent_link_keys k
            left join vlaapi.consent_links l on l.key_id = k.key_id and l.customer_id = $2 and l.link_id = $3
            where k.key_id = $1
            "#,
            claims.key_id,
            claims.customer_id,
            claims.link_id,
        )
        .fetch_optional(&self.reads)
        .await?;
        Ok(row.map(|row| {
            let made = row.created_at.zip(row.created_by).zip(row.expires_at);
            let link = made.map(|((created_at, created_by), expires_at)| ConsentLink {
                link_id: claims.link_id,
                customer_id: claims.customer_id,
                created_at,
                created_by,
                on_behalf_of: row.on_behalf_of,
                expires_at,
                revoked_at: row.revoked_at,
            });
            LinkStanding { key: LinkKey::new(row.key_id, row.secret), link }
        }))
    }

    /// A page of a customer's links, newest first, below `before`.
    pub async fn list_links(
        &self,
        customer_id: Uuid,
        before: Option<Uuid>,
        limit: i64,
    ) -> Result<Vec<ConsentLink>, Error> {
        let links = sqlx::query_as!(
            ConsentLink,
            r#"
            select link_id, customer_id, vlaapi.calendar_time(created_at) as "created_at!", created_by, on_behalf_of,
              vlaapi.calendar_time(expires_at) as "expires_at!", vlaapi.calendar_time(revoked_at) as revoked_at
            from vlaapi.consent_links
            where customer_id = $1 and ($2::uuid is null or link_id < $2)
            order by link_id desc
            limit $3
            "#,
            customer_id,
            before,
            limit,
        )
        .fetch_all(&self.reads)
        .await?;
        Ok(links)
    }
}

pub async fn insert(connection: &mut PgConnection, link: &ConsentLink, key_id: i32) -> Result<(), Error> {
    sqlx::query!(
        r#"
        insert into vlaapi.consent_links
          (customer_id, link_id, key_id, created_at, created_by, on_behalf_of, expires_at)
        values ($1, $2, $3, $4, $5, $6, $7)
        "#,
        link.customer_id,
        link.link_id,
        key_id,
        link.created_at,
        link.created_by,
        link.on_behalf_of,
        link.expires_at,
    )
    .execute(connection)
    .await
    .map_err(|error| match error.as_database_error().and_then(|error| error.constraint()) {
        Some("consent_links_customer_id_fkey") => Error::UnknownCustomer,
        _ => error.into(),
    })?;
    Ok(())
}

/// Whether there is such a link. One that is revoked keeps the time at which it was.
pub async fn revoke(
    connection: &mut PgConnection,
    customer_id: Uuid,
    link_id: Uuid,
    now: DateTime<Utc>,
) -> Result<bool, Error> {
    let revoked = sqlx::query!(
        r#"
        update vlaapi.consent_links
        set revoked_at = coalesce(revoked_at, $3)
        where customer_id = $1 and link_id = $2
        "#,
        customer_id,
        link_id,
        now,
    )
    .execute(connection)
    .await?;
    Ok(revoked.rows_affected() > 0)
}

/// The newest key made after an instant, to sign with.
pub async fn newest_key(
    connection: &mut PgConnection,
    made_after: DateTime<Utc>,
) -> Result<Option<LinkKey>, Error> {
    let key = sqlx::query!(
        r#"
        select key_id, secret
        from vlaapi.consent_link_keys
        where created_at > $1
        order by created_at desc, key_id desc
        limit 1
        "#,
        made_after,
    )
    .fetch_optional(connection)
    .await?;
    Ok(key.map(|key| LinkKey::new(key.key_id, key.secret)))
}

pub async fn insert_key(
    connection: &mut PgConnection,
    secret: &[u8],
    now: DateTime<Utc>,
) -> Result<LinkKey, Error> {
    let key_id = sqlx::query_scalar!(
        "insert into vlaapi.consent_link_keys (secret, created_at) values ($1, $2) returning key_id",
        secret,
        now,
    )
    .fetch_one(connection)
    .await?;
    Ok(LinkKey::new(key_id, secret.to_vec()))
}

/// Clears away the links that ended before an instant.
pub async fn forget(connection: &mut PgConnection, ended_before: DateTime<Utc>) -> Result<(), Error> {
    sqlx::query!("delete from vlaapi.consent_links where expires_at < $1", ended_before)
        .execute(connection)
        .await?;
    Ok(())
}

/// Clears away the keys made before an instant of which no link is left.
pub async fn forget_keys(connection: &mut PgConnection, made_before: DateTime<Utc>) -> Result<(), Error> {
    sqlx::query!(
        r#"
        delete from vlaapi.consent_link_keys k
        where k.created_at < $1 and not exists (select from vlaapi.consent_links l where l.key_id = k.key_id)
        "#,
        made_before,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Forgets for whom a customer's links were.
pub async fn erase_persons(connection: &mut PgConnection, customer_id: Uuid) -> Result<(), Error> {
    sqlx::query!(
        "update vlaapi.consent_links set on_behalf_of = null where customer_id = $1 and on_behalf_of is not null",
        customer_id,
    )
    .execute(connection)
    .await?;
    Ok(())
}
