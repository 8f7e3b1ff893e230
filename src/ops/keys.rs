//! Making, rotating and revoking API keys.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::{ApiKey, ApiKeyRecord, KeyKind, Principal, Scope};
use crate::error::Error;
use crate::store::{Store, keys, settle};

/// A key which is to be made.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// `None`: an operator's.
    pub customer_id: Option<Uuid>,
    pub key_name: Option<String>,
    pub scopes: Vec<Scope>,
    pub kind: KeyKind,
    pub rate_limit_override_rpm: Option<i32>,
    pub expires_at: Option<DateTime<Utc>>,
}

pub async fn create(
    connection: &mut PgConnection,
    new: NewKey,
    now: DateTime<Utc>,
) -> Result<(ApiKeyRecord, ApiKey), Error> {
    let key = random_key(new.kind)?;
    let record = ApiKeyRecord {
        key_id: Uuid::now_v7(),
        customer_id: new.customer_id,
        key_prefix: key.prefix().to_owned(),
        key_name: new.key_name,
        scopes: new.scopes.iter().map(|scope| scope.as_str().to_owned()).collect(),
        rate_limit_override_rpm: new.rate_limit_override_rpm,
        created_at: now,
        last_used_at: None,
        expires_at: new.expires_at,
        is_active: true,
        replaced_by: None,
    };
    keys::insert(connection, &record, &key.hash().hex()).await?;
    Ok((record, key))
}

/// Revokes a key, effective at once. Revoking it again changes nothing.
pub async fn revoke(store: &Store, caller: &Principal, key_id: Uuid) -> Result<(), Error> {
    let mut transaction = store.begin().await?;
    let revoked = async {
        lock_within_reach(&mut transaction, caller, key_id).await?;
        keys::revoke(&mut transaction, key_id).await
    };
    let revoked = revoked.await;
    settle(transaction, revoked).await
}

/// Makes a key with the same rights; the old one stays good for `overlap`, or until its own end if that is sooner.
pub async fn rotate(
    connection: &mut PgConnection,
    caller: &Principal,
    key_id: Uuid,
    overlap: TimeDelta,
    now: DateTime<Utc>,
) -> Result<(ApiKeyRecord, ApiKey, DateTime<Utc>), Error> {
    let old = lock_within_reach(connection, caller, key_id).await?;
    if !old.is_active || old.expires_at.is_some_and(|end| end <= now) {
        return Err(Error::Conflict("a key which is revoked or expired cannot be rotated: create a new one"));
    }
    if old.replaced_by.is_some() {
        return Err(Error::Conflict("this key was rotated already: rotate the key which replaced it"));
    }
    let new = NewKey {
        customer_id: old.customer_id,
        key_name: old.key_name,
        scopes: old.scopes.iter().filter_map(|scope| Scope::parse(scope)).collect(),
        kind: if old.key_prefix.starts_with("vla_test_") { KeyKind::Test } else { KeyKind::Live },
        rate_limit_override_rpm: old.rate_limit_override_rpm,
        expires_at: old.expires_at,
    };
    let (record, key) = create(connection, new, now).await?;
    let good_until = old.expires_at.map_or(now + overlap, |end| end.min(now + overlap));
    keys::replace(connection, key_id, record.key_id, good_until).await?;
    Ok((record, key, good_until))
}

async fn lock_within_reach(
    connection: &mut PgConnection,
    caller: &Principal,
    key_id: Uuid,
) -> Result<ApiKeyRecord, Error> {
    let key = keys::lock(connection, key_id).await?.ok_or(Error::UnknownApiKey)?;
    // To a customer, a key of somebody else is as unknown as one that never was.
    if caller.customer_id.is_some() && caller.customer_id != key.customer_id {
        return Err(Error::UnknownApiKey);
    }
    Ok(key)
}

/// Makes an operator's key with every right, if there is none yet or `always`, and hands it to `publish` before it is
/// stored: a key which nobody could read is not made.
pub async fn create_operator_key(
    store: &Store,
    always: bool,
    now: DateTime<Utc>,
    publish: impl FnOnce(&ApiKey) -> Result<(), Error> + Send,
) -> Result<bool, Error> {
    let mut transaction = store.begin().await?;
    let made = async {
        keys::lock_first_key(&mut transaction).await?;
        if !always && keys::has_operator_key(&mut transaction).await? {
            return Ok(false);
        }
        let new = NewKey {
            customer_id: None,
            key_name: Some("operator".to_owned()),
            scopes: vec![Scope::Admin],
            kind: KeyKind::Live,
            rate_limit_override_rpm: None,
            expires_at: None,
        };
        let (_, key) = create(&mut transaction, new, now).await?;
        publish(&key)?;
        Ok(true)
    };
    let made = made.await;
    settle(transaction, made).await
}

fn random_key(kind: KeyKind) -> Result<ApiKey, Error> {
    let mut random = [0; 64];
    getrandom::fill(&mut random).map_err(|error| Error::Internal(format!("no randomness: {error}")))?;
    Ok(ApiKey::new(kind, &random))
}
