//! The console's sessions: begun with an API key, ended by time, by hand, or with their key.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::domain::Principal;
use crate::error::Error;
use crate::store::Store;

/// A session that nobody uses ends.
pub const IDLE: TimeDelta = TimeDelta::minutes(30);
/// A session ends, however much it is used.
pub const LONGEST: TimeDelta = TimeDelta::hours(12);
/// How exactly it is known when a session was last used.
const TOUCH_EVERY: TimeDelta = TimeDelta::minutes(1);

/// A session that may be used.
#[derive(Clone, Debug)]
pub struct Session {
    pub principal: Principal,
    /// What the key is called by those who made it.
    pub key_name: Option<String>,
}

/// Begins a session for a key; answers the secret which names it, of which only the hash is stored.
pub async fn begin(store: &Store, key_id: Uuid, now: DateTime<Utc>) -> Result<String, Error> {
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(|error| Error::Internal(format!("no randomness: {error}")))?;
    let secret = URL_SAFE_NO_PAD.encode(random);
    store.start_session(&hash(&secret), key_id, now).await?;
    Ok(secret)
}

/// The session, unless its time is over or its key no longer good.
pub async fn resume(store: &Store, secret: &str, now: DateTime<Utc>) -> Result<Option<Session>, Error> {
    let hash = hash(secret);
    let Some(found) = store.session_of(&hash, now).await? else { return Ok(None) };
    if found.seen_at + IDLE <= now || found.started_at + LONGEST <= now {
        store.end_session(&hash).await?;
        return Ok(None);
    }
    if found.seen_at + TOUCH_EVERY <= now {
        store.touch_session(&hash, now).await?;
    }
    Ok(Some(Session { principal: found.principal, key_name: found.key_name }))
}

pub async fn end(store: &Store, secret: &str) -> Result<(), Error> {
    store.end_session(&hash(secret)).await
}

/// Removes the sessions whose time is over.
pub async fn forget(store: &Store, now: DateTime<Utc>) -> Result<(), Error> {
    store.forget_sessions(now - LONGEST).await
}

fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret).into()
}
