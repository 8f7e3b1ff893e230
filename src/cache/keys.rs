//! API keys in memory. A key counts for one second: by then it is looked up again, whatever was told of it.

use std::collections::HashMap;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::freshness::{Freshness, Moment};
use super::lookups::{Lookups, Source};
use crate::domain::{Authenticated, KeyHash, Principal};
use crate::error::Error;
use crate::health::Health;
use crate::store::Store;
use crate::store::session::Session;

/// A revocation is obeyed within this, on every replica.
const GOOD_FOR: Duration = Duration::from_secs(1);
/// A key that is in use is looked up again before it must be: nobody waits for that.
const REFRESHED_AFTER: Duration = Duration::from_millis(500);
/// More keys than an installation has; beyond it, the oldest are forgotten.
const MAX_KEYS: usize = 100_000;
/// How long a key's `last_used_at` may lag behind.
const TOUCH_EVERY: TimeDelta = TimeDelta::minutes(1);

/// The API keys that were used of late.
#[derive(Debug)]
pub struct Keys {
    shelf: Arc<Shelf>,
    lookups: Lookups<Asked>,
}

#[derive(Debug)]
struct Shelf {
    keys: RwLock<HashMap<KeyHash, Arc<Key>>>,
    freshness: Arc<Freshness>,
    /// Counts what was told of keys: what was asked before is not kept after.
    news: AtomicU64,
    store: Store,
    health: Arc<Health>,
}

#[derive(Debug)]
struct Key {
    principal: Arc<Principal>,
    expires_at: Option<DateTime<Utc>>,
    asked_at: Moment,
    refreshing: AtomicBool,
    /// When its use was last noted, in Unix seconds.
    touched: AtomicI64,
}

impl Keys {
    pub fn new(store: &Store, freshness: Arc<Freshness>, health: &Arc<Health>) -> Self {
        let shelf = Arc::new(Shelf {
            keys: RwLock::default(),
            freshness,
            news: AtomicU64::new(0),
            store: store.clone(),
            health: Arc::clone(health),
        });
        let asked = Asked { session: store.session(), shelf: Arc::clone(&shelf) };
        Self { shelf, lookups: Lookups::new(asked, health) }
    }

    /// Who calls with the key of this hash; `None` when it is unknown, revoked, expired, or its customer inactive.
    pub async fn principal(
        &self,
        key_hash: KeyHash,
        now: DateTime<Utc>,
    ) -> Result<Option<Arc<Principal>>, Error> {
        let held = self.shelf.read().get(&key_hash).cloned();
        let age = held.as_ref().map(|key| Moment::now().since(key.asked_at));
        let good_for = GOOD_FOR.min(self.shelf.freshness.max_stale());
        match (held, age) {
            (Some(key), Some(age)) if age < good_for => {
                if age > REFRESHED_AFTER && !key.refreshing.swap(true, Relaxed) {
                    self.lookups.refresh(key_hash);
                }
                Ok(self.shelf.accept(&key, now))
            }
            (held, _) => match self.lookups.one(key_hash).await {
                Ok(found) => {
                    let key = found.map(|found| Key::new(found, Moment::now()));
                    Ok(key.and_then(|key| self.shelf.accept(&key, now)))
                }
                // Where the database cannot be asked, the key gets what memory still permits: denials, and for a few seconds
                // what was granted.
                Err(Error::Unavailable(why)) => match held {
                    Some(key) => Ok(self.shelf.accept(&key, now)),
                    None => Err(Error::Unavailable(why)),
                },
                Err(error) => Err(error),
            },
        }
    }

    /// Something was changed: every key is looked up again before it counts.
    pub fn forget_all(&self) {
        self.shelf.news.fetch_add(1, Relaxed);
        self.shelf.write().clear();
    }
}

impl Shelf {
    fn read(&self) -> RwLockReadGuard<'_, HashMap<KeyHash, Arc<Key>>> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<KeyHash, Arc<Key>>> {
        self.keys.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(&self, key: &Key, now: DateTime<Utc>) -> Option<Arc<Principal>> {
        if key.expires_at.is_some_and(|end| end <= now) {
            return None;
        }
        let touched = key.touched.load(Relaxed);
        let due = touched.saturating_add(TOUCH_EVERY.num_seconds()) <= now.timestamp();
        if due && key.touched.compare_exchange(touched, now.timestamp(), Relaxed, Relaxed).is_ok() {
            let (store, health, key_id) =
                (self.store.clone(), Arc::clone(&self.health), key.principal.key_id);
            tokio::spawn(async move {
                let touched = health.catch_panic("key_touch", store.touch_key(key_id, now)).await;
                if let Ok(Err(error)) = touched {
                    tracing::debug!(%error, "could not note that a key was used");
                }
            });
        }
        Some(Arc::clone(&key.principal))
    }
}

impl Key {
    fn new(found: Authenticated, asked_at: Moment) -> Self {
        Self {
            principal: found.principal,
            expires_at: found.expires_at,
            asked_at,
            refreshing: AtomicBool::new(false),
            touched: AtomicI64::new(found.last_used_at.map_or(i64::MIN, |time| time.timestamp())),
        }
    }
}

/// Asks PostgreSQL, and puts what it says into memory.
#[derive(Debug)]
pub struct Asked {
    session: Session,
    shelf: Arc<Shelf>,
}

impl Source for Asked {
    const NAME: &'static str = "key_lookups";

    type Key = KeyHash;
    type Value = Authenticated;

    async fn look_up(&mut self, hashes: Arc<[KeyHash]>) -> Result<Vec<(KeyHash, Authenticated)>, Error> {
        let shared = &*self.shelf;
        let news = shared.news.load(Acquire);
        let asked_at = Moment::now();
        let found = self.session.authenticate(Arc::clone(&hashes)).await;
        let mut keys = shared.write();
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                for key in hashes.iter().filter_map(|hash| keys.get(hash)) {
                    key.refreshing.store(false, Relaxed);
                }
                return Err(error);
            }
        };
        // Unknown ones are not remembered: whoever makes up keys fills no memory.
        for hash in hashes.iter() {
            keys.remove(hash);
        }
        if news == shared.news.load(Acquire) {
            if keys.len() + found.len() > MAX_KEYS {
                keys.retain(|_, key| asked_at.since(key.asked_at) < GOOD_FOR);
            }
            if keys.len() + found.len() > MAX_KEYS {
                keys.clear();
            }
            let fresh = found.iter().map(|(hash, key)| (*hash, Arc::new(Key::new(key.clone(), asked_at))));
            keys.extend(fresh);
        }
        Ok(found)
    }
}
