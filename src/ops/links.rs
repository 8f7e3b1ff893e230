//! Giving out and revoking links to the customer's own page, and rotating the keys that sign them.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::{ConsentLink, LinkClaims, LinkKey};
use crate::error::Error;
use crate::store::{Store, links, settle};

/// How long a key signs new links.
pub const KEY_SIGNS_FOR: TimeDelta = TimeDelta::days(30);
/// How long a link is listed after its end.
pub const KEPT_FOR: TimeDelta = TimeDelta::days(30);

/// A link which is to be made.
#[derive(Clone, Debug)]
pub struct NewLink {
    pub customer_id: Uuid,
    pub valid_for: TimeDelta,
    pub created_by: String,
    pub on_behalf_of: Option<String>,
}

/// Makes a link, and answers what opens it: that is not stored.
pub async fn create(
    connection: &mut PgConnection,
    new: NewLink,
    now: DateTime<Utc>,
) -> Result<(ConsentLink, String), Error> {
    let key = signing_key(connection, now).await?;
    let link = ConsentLink {
        link_id: Uuid::now_v7(),
        customer_id: new.customer_id,
        created_at: now,
        created_by: new.created_by,
        on_behalf_of: new.on_behalf_of,
        expires_at: now + new.valid_for,
        revoked_at: None,
    };
    links::insert(connection, &link, key.key_id).await?;
    let claims = LinkClaims {
        key_id: key.key_id,
        link_id: link.link_id,
        customer_id: link.customer_id,
        expires_at: link.expires_at,
    };
    let token = key.sign(&claims);
    Ok((link, token))
}

/// Revokes a link, effective with the next request. Revoking it again changes nothing.
pub async fn revoke(
    store: &Store,
    customer_id: Uuid,
    link_id: Uuid,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let mut transaction = store.begin().await?;
    let found = links::revoke(&mut transaction, customer_id, link_id, now).await;
    let revoked = found.and_then(|found| found.then_some(()).ok_or(Error::UnknownConsentLink));
    settle(transaction, revoked).await
}

/// Makes the next key when its time has come, and clears away links that ended long ago, and the keys that signed none of
/// those that are left.
pub async fn maintain(store: &Store, now: DateTime<Utc>) -> Result<(), Error> {
    let mut transaction = store.begin().await?;
    let maintained = async {
        signing_key(&mut transaction, now).await?;
        links::forget(&mut transaction, now - KEPT_FOR).await?;
        // A link that is being made now is not seen here: its key still signs.
        links::forget_keys(&mut transaction, now - KEY_SIGNS_FOR - TimeDelta::hours(1)).await?;
        Ok(())
    };
    let maintained = maintained.await;
    settle(transaction, maintained).await
}

/// Two replicas may make one each at the same time: both are good.
async fn signing_key(connection: &mut PgConnection, now: DateTime<Utc>) -> Result<LinkKey, Error> {
    if let Some(key) = links::newest_key(connection, now - KEY_SIGNS_FOR).await? {
        return Ok(key);
    }
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|error| Error::Internal(format!("no randomness: {error}")))?;
    links::insert_key(connection, &secret, now).await
}
