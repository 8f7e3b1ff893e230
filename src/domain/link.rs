//! The link that opens a customer's own page: signed, for one customer, good until its end.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use utoipa::ToSchema;
use uuid::Uuid;

/// Tells what is signed here from whatever else is signed with an HMAC.
const PURPOSE: &[u8] = b"consentd/consent-link/v1\0";

/// Key, link, customer, end.
const CLAIMS: usize = 4 + 16 + 16 + 8;
const TAG: usize = 32;

/// A link as it is listed: never what opens it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, sqlx::FromRow)]
pub struct ConsentLink {
    #[schema(example = "01890a5d-ac96-774b-bcce-b302099a8057")]
    pub link_id: Uuid,
    #[schema(example = "123e4567-e89b-12d3-a456-426614174000")]
    pub customer_id: Uuid,
    pub created_at: DateTime<Utc>,
    /// The API key that asked for it.
    #[schema(max_length = 255, example = "key:vla_live_a1b2")]
    pub created_by: String,
    /// The person whom the link is for, as the caller said: each change made with it says so too.
    #[schema(max_length = 255, example = "user-17")]
    pub on_behalf_of: Option<String>,
    /// When the link ends by itself.
    pub expires_at: DateTime<Utc>,
    /// When it was revoked; null when it was not.
    pub revoked_at: Option<DateTime<Utc>>,
}

impl ConsentLink {
    /// How audit entries name who makes changes with it.
    pub fn name(link_id: Uuid) -> String {
        format!("link:{link_id}")
    }
}

/// What a link says, and its signature promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkClaims {
    pub key_id: i32,
    pub link_id: Uuid,
    pub customer_id: Uuid,
    pub expires_at: DateTime<Utc>,
}

impl LinkClaims {
    fn bytes(&self) -> [u8; CLAIMS] {
        let mut bytes = [0; CLAIMS];
        bytes[..4].copy_from_slice(&self.key_id.to_be_bytes());
        bytes[4..20].copy_from_slice(self.link_id.as_bytes());
        bytes[20..36].copy_from_slice(self.customer_id.as_bytes());
        bytes[36..].copy_from_slice(&self.expires_at.timestamp_micros().to_be_bytes());
        bytes
    }
}

/// A key that signs links.
#[derive(Clone)]
pub struct LinkKey {
    pub key_id: i32,
    secret: Vec<u8>,
}

impl fmt::Debug for LinkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LinkKey({})", self.key_id)
    }
}

impl LinkKey {
    pub fn new(key_id: i32, secret: Vec<u8>) -> Self {
        Self { key_id, secret }
    }

    /// What opens the page: the claims and their HMAC-SHA-256, in base64url.
    pub fn sign(&self, claims: &LinkClaims) -> String {
        let claims = claims.bytes();
        let mut token = Vec::with_capacity(CLAIMS + TAG);
        token.extend(claims);
        token.extend(self.hmac(&claims).finalize().into_bytes());
        URL_SAFE_NO_PAD.encode(token)
    }

    fn hmac(&self, claims: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.secret).expect("HMAC takes a key of any size");
        mac.update(PURPOSE);
        mac.update(claims);
        mac
    }
}

/// A token whose signature is not checked yet: it says which key to check it with, and nothing else of it is to be believed.
#[derive(Clone)]
pub struct LinkToken {
    claims: LinkClaims,
    tag: [u8; TAG],
}

impl fmt::Debug for LinkToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LinkToken({})", self.claims.link_id)
    }
}

impl LinkToken {
    /// `None` for what no key can have signed.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; CLAIMS + TAG] = URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
        let (claims, tag) = bytes.split_at(CLAIMS);
        let (key_id, rest) = claims.split_first_chunk()?;
        let (link_id, rest) = rest.split_first_chunk()?;
        let (customer_id, rest) = rest.split_first_chunk()?;
        let claims = LinkClaims {
            key_id: i32::from_be_bytes(*key_id),
            link_id: Uuid::from_bytes(*link_id),
            customer_id: Uuid::from_bytes(*customer_id),
            expires_at: DateTime::from_timestamp_micros(i64::from_be_bytes(rest.try_into().ok()?))?,
        };
        Some(Self { claims, tag: tag.try_into().ok()? })
    }

    /// What it claims, to look up what is needed for checking it.
    pub fn unchecked(&self) -> &LinkClaims {
        &self.claims
    }

    /// What it says, if this key has signed it. Compared in constant time.
    pub fn check(&self, key: &LinkKey) -> Option<LinkClaims> {
        key.hmac(&self.claims.bytes()).verify_slice(&self.tag).ok().map(|()| self.claims)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> LinkClaims {
        LinkClaims {
            key_id: 7,
            link_id: Uuid::from_u128(1),
            customer_id: Uuid::from_u128(2),
            expires_at: DateTime::from_timestamp_micros(1_800_000_000_123_456).expect("a time"),
        }
    }

    #[test]
    fn a_token_says_what_was_signed() {
        let key = LinkKey::new(7, vec![1; 32]);
        let token = LinkToken::parse(&key.sign(&claims())).expect("a token");
        assert_eq!(token.check(&key), Some(claims()));
        assert_eq!(token.check(&LinkKey::new(7, vec![2; 32])), None);
    }

    #[test]
    fn a_token_of_which_any_bit_is_changed_is_nobodys() {
        let key = LinkKey::new(7, vec![1; 32]);
        let bytes = URL_SAFE_NO_PAD.decode(key.sign(&claims())).expect("base64");
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let token = LinkToken::parse(&URL_SAFE_NO_PAD.encode(changed));
            assert!(token.and_then(|token| token.check(&key)).is_none(), "bit {bit}");
        }
        for nonsense in ["", "x", "%", "AAAA", &"A".repeat(101), &"A".repeat(102), &"A".repeat(5000)] {
            let token = LinkToken::parse(nonsense);
            assert!(token.and_then(|token| token.check(&key)).is_none(), "{nonsense}");
        }
    }
}
