//! API keys: their form, what they may do, and whose they are.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;
use uuid::Uuid;

use super::leaf::{hex, unhex};

/// What a key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub enum Scope {
    #[serde(rename = "consent:read")]
    ConsentRead,
    #[serde(rename = "consent:write")]
    ConsentWrite,
    #[serde(rename = "permissions:check")]
    PermissionsCheck,
    #[serde(rename = "audit:read")]
    AuditRead,
    #[serde(rename = "customers:write")]
    CustomersWrite,
    #[serde(rename = "feedback:write")]
    FeedbackWrite,
    #[serde(rename = "inference:write")]
    InferenceWrite,
    #[serde(rename = "training:read")]
    TrainingRead,
    #[serde(rename = "admin")]
    Admin,
    /// What the keys hold which the Inference API issued: `permissions:check` and `inference:write`.
    #[serde(rename = "inference")]
    Inference,
}

impl Scope {
    pub const ALL: [Self; 10] = [
        Self::ConsentRead,
        Self::ConsentWrite,
        Self::PermissionsCheck,
        Self::AuditRead,
        Self::CustomersWrite,
        Self::FeedbackWrite,
        Self::InferenceWrite,
        Self::TrainingRead,
        Self::Admin,
        Self::Inference,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConsentRead => "consent:read",
            Self::ConsentWrite => "consent:write",
            Self::PermissionsCheck => "permissions:check",
            Self::AuditRead => "audit:read",
            Self::CustomersWrite => "customers:write",
            Self::FeedbackWrite => "feedback:write",
            Self::InferenceWrite => "inference:write",
            Self::TrainingRead => "training:read",
            Self::Admin => "admin",
            Self::Inference => "inference",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == text)
    }

    /// Whether a key with this scope may do what `wanted` allows.
    pub fn allows(self, wanted: Self) -> bool {
        self == wanted
            || self == Self::Admin
            || (self == Self::Inference && matches!(wanted, Self::PermissionsCheck | Self::InferenceWrite))
    }
}

/// Which world a key is for; the service treats both alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeyKind {
    Live,
    Test,
}

impl KeyKind {
    pub const ALL: [Self; 2] = [Self::Live, Self::Test];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Test => "test",
        }
    }
}

/// A whole API key: `vla_live_`, four characters that are shown, a secret of 142 bits, a checksum.
#[derive(Clone)]
pub struct ApiKey(Arc<str>);

/// Why a text cannot be an API key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyFault {
    NotAKey,
    /// It has the length of a key of ours, but its checksum is wrong: it was mistyped or cut.
    Mistyped,
}

const SHOWN: usize = "vla_live_".len() + 4;
const SECRET: usize = 24;
const CHECKSUM: usize = 6;
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

impl ApiKey {
    /// A key made of random bytes, at least 28 of which must be given.
    pub fn new(kind: KeyKind, random: &[u8; 64]) -> Self {
        let mut key = format!("vla_{}_", kind.as_str());
        // Rejecting the highest bytes keeps every character equally likely; 64 bytes are ample for 28 characters.
        let mut bytes = random.iter().copied();
        let mut draw = |alphabet: &[u8]| {
            let size = u8::try_from(alphabet.len()).expect("an alphabet is short");
            let byte = bytes.find(|byte| *byte < u8::MAX - u8::MAX % size).unwrap_or(0);
            char::from(alphabet[usize::from(byte % size)])
        };
        for _ in 0..4 {
            key.push(draw(b"0123456789abcdefghijklmnopqrstuvwxyz"));
        }
        for _ in 0..SECRET {
            key.push(draw(BASE62));
        }
        let checksum = checksum(&key);
        key.extend(checksum.map(char::from));
        Self(key.into())
    }

    /// Reads a key. Keys which the Inference API issued have another length and no checksum: they are let through.
    pub fn parse(text: &str) -> Result<Self, KeyFault> {
        let rest = text
            .strip_prefix("vla_live_")
            .or_else(|| text.strip_prefix("vla_test_"))
            .ok_or(KeyFault::NotAKey)?;
        let shown = rest.as_bytes().get(..4).ok_or(KeyFault::NotAKey)?;
        let well_formed = shown.iter().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase())
            && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
            && rest.len() > 4
            && text.len() <= 200;
        if !well_formed {
            return Err(KeyFault::NotAKey);
        }
        if text.len() == SHOWN + SECRET + CHECKSUM {
            let (body, found) = text.split_at(SHOWN + SECRET);
            if checksum(body) != found.as_bytes() {
                return Err(KeyFault::Mistyped);
            }
        }
        Ok(Self(text.into()))
    }

    /// The part which may be shown and stored: `vla_live_a1b2`.
    pub fn prefix(&self) -> &str {
        &self.0[..SHOWN]
    }

    pub fn hash(&self) -> KeyHash {
        KeyHash::of(&self.0)
    }

    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ApiKey({}…)", self.prefix())
    }
}

/// SHA-256 of a whole key, which is stored in hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    pub fn of(key: &str) -> Self {
        Self(Sha256::digest(key.as_bytes()).into())
    }

    pub fn hex(&self) -> String {
        hex(&self.0)
    }

    pub fn from_hex(text: &str) -> Option<Self> {
        unhex(text).map(Self)
    }
}

/// CRC-32 of the rest, in six base-62 digits: tells a mistyped key from a revoked one without a query.
fn checksum(text: &str) -> [u8; CHECKSUM] {
    let mut rest = crc32fast::hash(text.as_bytes());
    let mut digits = [b'0'; CHECKSUM];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[(rest % 62) as usize];
        rest /= 62;
    }
    digits
}

/// Who is calling: an API key, and what it may do.
#[derive(Clone, Debug)]
pub struct Principal {
    pub key_id: Uuid,
    /// `None`: an operator's key, which reaches every customer.
    pub customer_id: Option<Uuid>,
    pub key_prefix: String,
    pub scopes: Vec<Scope>,
    /// Requests per minute with this key; `None`: only the customer's limit.
    pub rate_limit_override_rpm: Option<i32>,
    /// Requests per minute with all keys of the customer; `None`: no limit.
    pub rate_limit_rpm: Option<i32>,
    /// Requests per day with all keys of the customer; `None`: no limit.
    pub rate_limit_rpd: Option<i32>,
}

/// A key that was looked up and may be used, until its end.
#[derive(Clone, Debug)]
pub struct Authenticated {
    pub principal: Arc<Principal>,
    pub expires_at: Option<DateTime<Utc>>,
    pub last_used_at: Option<DateTime<Utc>>,
}

impl Principal {
    pub fn may(&self, wanted: Scope) -> bool {
        self.scopes.iter().any(|scope| scope.allows(wanted))
    }

    pub fn reaches(&self, customer_id: Uuid) -> bool {
        self.customer_id.is_none_or(|own| own == customer_id)
    }

    /// How audit entries name this caller.
    pub fn name(&self) -> String {
        format!("key:{}", self.key_prefix)
    }
}

/// An API key as it is listed: never the key itself.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema, sqlx::FromRow)]
pub struct ApiKeyRecord {
    #[schema(example = "01890a5d-ac96-774b-bcce-b302099a8057")]
    pub key_id: Uuid,
    /// Whose key it is; null for an operator's, which reaches every customer.
    pub customer_id: Option<Uuid>,
    #[schema(pattern = "^vla_(test|live)_[a-z0-9]{4}$", example = "vla_live_a1b2")]
    pub key_prefix: String,
    #[schema(max_length = 255, example = "dashboard")]
    pub key_name: Option<String>,
    pub scopes: Vec<String>,
    /// Requests per minute with this key: fewer than its customer may make, or more.
    #[schema(minimum = 1)]
    pub rate_limit_override_rpm: Option<i32>,
    pub created_at: DateTime<Utc>,
    /// To the minute; null when it was never used.
    pub last_used_at: Option<DateTime<Utc>>,
    pub expires_at: Option<DateTime<Utc>>,
    /// False once it was revoked.
    pub is_active: bool,
    /// The key which this one was rotated to.
    pub replaced_by: Option<Uuid>,
}
