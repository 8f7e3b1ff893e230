//! Retries of POSTs: the first answer again, for 24 hours.
//!
//! An answer may hold a new API key, of which nothing but a hash may be stored. So it is kept encrypted, with a key that
//! only the caller's own API key and its Idempotency-Key give: whoever has the database cannot read it.

use chacha20poly1305::aead::{Aead as _, KeyInit as _};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use chrono::{DateTime, TimeDelta, Utc};
use hmac::{Hmac, Mac as _};
use sha2::{Digest as _, Sha256};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::ApiKey;
use crate::error::Error;
use crate::store::idempotency::{self, KeptAnswer};
use crate::store::{Store, settle};

/// How long an answer is kept.
pub const KEPT_FOR: TimeDelta = TimeDelta::hours(24);

const NONCE: usize = 24;

/// Forgets the answers whose time is over.
pub async fn forget(store: &Store, now: DateTime<Utc>) -> Result<(), Error> {
    let mut transaction = store.begin().await?;
    let forgotten = idempotency::forget(&mut transaction, now - KEPT_FOR).await;
    settle(transaction, forgotten).await
}

/// A request which may be a retry.
#[derive(Debug)]
pub struct Attempt {
    key_id: Uuid,
    idempotency_key_hash: Vec<u8>,
    request_hash: Vec<u8>,
    sealing_key: [u8; 32],
}

impl Attempt {
    /// `request` is what must be the same in a retry: method, path and body.
    pub fn new(key_id: Uuid, caller: &ApiKey, idempotency_key: &str, request: &[&[u8]]) -> Self {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(caller.reveal().as_bytes()).expect("HMAC takes a key of any size");
        mac.update(b"consentd/idempotent-answer/v1\0");
        mac.update(idempotency_key.as_bytes());
        let mut request_hash = Sha256::new();
        for part in request {
            request_hash.update((part.len() as u64).to_be_bytes());
            request_hash.update(part);
        }
        Self {
            key_id,
            idempotency_key_hash: Sha256::digest(idempotency_key.as_bytes()).to_vec(),
            request_hash: request_hash.finalize().to_vec(),
            sealing_key: mac.finalize().into_bytes().into(),
        }
    }

    /// The answer which was given before, if this is a retry.
    pub async fn replay(
        &self,
        connection: &mut PgConnection,
        now: DateTime<Utc>,
    ) -> Result<Option<Vec<u8>>, Error> {
        if !idempotency::claim(connection, self.key_id, &self.idempotency_key_hash).await? {
            return Err(Error::IdempotencyInProgress);
        }
        let kept =
            idempotency::find(connection, self.key_id, &self.idempotency_key_hash, now - KEPT_FOR).await?;
        let Some(kept) = kept else { return Ok(None) };
        if kept.request_hash != self.request_hash {
            return Err(Error::IdempotencyKeyReused);
        }
        self.open(&kept.sealed_answer).map(Some)
    }

    /// Keeps the answer, in the transaction that makes it true.
    pub async fn keep(
        &self,
        connection: &mut PgConnection,
        answer: &[u8],
        now: DateTime<Utc>,
    ) -> Result<(), Error> {
        let kept = KeptAnswer { request_hash: self.request_hash.clone(), sealed_answer: self.seal(answer)? };
        idempotency::keep(connection, self.key_id, &self.idempotency_key_hash, &kept, now).await
    }

    fn seal(&self, answer: &[u8]) -> Result<Vec<u8>, Error> {
        let mut sealed = vec![0; NONCE];
        getrandom::fill(&mut sealed).map_err(|error| Error::Internal(format!("no randomness: {error}")))?;
        let nonce = XNonce::try_from(sealed.as_slice()).expect("the nonce has its size");
        let ciphertext = self
            .cipher()
            .encrypt(&nonce, answer)
            .map_err(|_| Error::Internal("an answer could not be sealed".to_owned()))?;
        sealed.extend(ciphertext);
        Ok(sealed)
    }

    fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, Error> {
        let unreadable = || Error::Internal("a kept answer cannot be opened".to_owned());
        let (nonce, ciphertext) = sealed.split_at_checked(NONCE).ok_or_else(unreadable)?;
        let nonce = XNonce::try_from(nonce).expect("the nonce has its size");
        self.cipher().decrypt(&nonce, ciphertext).map_err(|_| unreadable())
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(&self.sealing_key.into())
    }
}
