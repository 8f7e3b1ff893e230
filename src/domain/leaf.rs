//! What the log keeps of an audit entry: a leaf, which holds everything but the personal fields, and commitments to these.
//!
//! A leaf is canonical JSON in the manner of RFC 8785 (keys sorted, no white space, no floating-point numbers), so that
//! anybody can write it again from the entry. Its encoding never changes: a new one gets a new `leaf_version`, and golden
//! vectors keep the old ones as they were.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write as _;

use chrono::{DateTime, Utc};
use ipnetwork::IpNetwork;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;
use uuid::Uuid;

use super::instant::{self, Buffer};
use super::json::{self, Object};

/// The encoding of new leaves.
pub const LEAF_VERSION: u64 = 1;

/// The encodings that this program can write. Entries of other encodings wait for a program that knows them.
pub const LEAF_VERSIONS: [i16; 1] = [1];

/// A leaf is kept behind a 16-bit length; and what a field holds must fit into it many times.
pub const MAX_BYTES: usize = 60_000;

/// The fields of an entry which tell of a person, and can be erased.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PersonalField {
    ChangedBy,
    OnBehalfOf,
    ChangeReason,
    IpAddress,
    UserAgent,
}

impl PersonalField {
    pub const ALL: [Self; 5] =
        [Self::ChangedBy, Self::OnBehalfOf, Self::ChangeReason, Self::IpAddress, Self::UserAgent];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::ChangedBy => "changed_by",
            Self::OnBehalfOf => "on_behalf_of",
            Self::ChangeReason => "change_reason",
            Self::IpAddress => "ip_address",
            Self::UserAgent => "user_agent",
        }
    }
}

/// A personal field as the commitment to it is made: shown together, value and salt open it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Salted {
    pub value: String,
    /// 128 random bits which keep the commitment from being guessed.
    pub salt: Vec<u8>,
}

impl Salted {
    /// `SHA-256("consentd/field/v1\0" ‖ u16 len(name) ‖ name ‖ u32 len(value) ‖ value ‖ salt)`, lengths big-endian.
    pub fn commitment(&self, field: PersonalField) -> Commitment {
        let name = field.as_str().as_bytes();
        let mut hash = Sha256::new();
        hash.update(b"consentd/field/v1\0");
        hash.update(u16::try_from(name.len()).unwrap_or(u16::MAX).to_be_bytes());
        hash.update(name);
        hash.update(u32::try_from(self.value.len()).unwrap_or(u32::MAX).to_be_bytes());
        hash.update(self.value.as_bytes());
        hash.update(&self.salt);
        Commitment(hash.finalize().into())
    }
}

/// What is left of a personal field when it is erased.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Commitment(pub [u8; 32]);

impl fmt::Display for Commitment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Commitment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Commitment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Commitment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        unhex(&text).map(Self).ok_or_else(|| serde::de::Error::custom("64 hexadecimal digits are wanted"))
    }
}

/// Lowercase hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    let mut digits = Vec::with_capacity(2 * bytes.len());
    write_hex(bytes, &mut digits);
    String::from_utf8(digits).expect("digits are ASCII")
}

fn write_hex(bytes: &[u8], out: &mut Vec<u8>) {
    let digit = |value: u8| b"0123456789abcdef"[usize::from(value)];
    for byte in bytes {
        out.extend([digit(byte >> 4), digit(byte & 0xf)]);
    }
}

/// The bytes which lowercase hexadecimal digits stand for.
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let digits = text.as_bytes();
    let mut bytes = [0; N];
    if digits.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// The commitments of a leaf, by field; a field which the entry did not have has none.
pub type Commitments = BTreeMap<PersonalField, Commitment>;

/// An audit entry as the log sees it: exactly what the database holds.
#[derive(Clone, Debug, PartialEq)]
pub struct LogEntry {
    pub audit_id: i64,
    pub event: LogEvent,
    pub personal: BTreeMap<PersonalField, Salted>,
    pub request_id: Option<String>,
    pub timestamp: DateTime<Utc>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum LogEvent {
    /// A version of a customer's consent.
    ConsentChanged {
        customer_id: Uuid,
        action: String,
        version: i32,
        previous_tier: Option<String>,
        new_tier: String,
        /// As JSON, and not as a state: whatever is changed in it changes the leaf.
        previous: Option<Value>,
        current: Option<Value>,
    },
    /// What is no change of a consent.
    Other { kind: String, customer_id: Option<Uuid>, details: Value },
}

/// The `event` of a leaf that tells of a version of a consent.
pub const CONSENT_CHANGED: &str = "consent.changed";
/// The `event` of a log's first leaf.
pub const LOG_OPENED: &str = "log.opened";
/// The `event` of a leaf that lists what is erased.
pub const PII_ERASED: &str = "pii.erased";
/// The `event` of a leaf that tells who looked at personal fields.
pub const PII_READ: &str = "pii.read";
/// The `event` of a leaf that resolves findings about entries in quarantine.
pub const QUARANTINE_RESOLVED: &str = "quarantine.resolved";

/// Who vouches for a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The service wrote the entry, and its mac says so.
    Service,
    /// The entry was found in the database: written past the service, or before there was a log.
    Sql,
}

impl Source {
    fn as_str(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Sql => "sql",
        }
    }
}

/// Why an entry has no leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeafFault {
    #[error("it would have more than {MAX_BYTES} bytes")]
    TooLong,
    #[error("a text in it holds a NUL character")]
    Nul,
    #[error("a number in it is no whole number below 2^53")]
    Number,
    #[error("a key in it is not ASCII")]
    Key,
    #[error("its JSON cannot be read")]
    Unreadable,
}

impl LogEntry {
    pub fn customer_id(&self) -> Option<Uuid> {
        match &self.event {
            LogEvent::ConsentChanged { customer_id, .. } => Some(*customer_id),
            LogEvent::Other { customer_id, .. } => *customer_id,
        }
    }

    pub fn commitments(&self) -> Commitments {
        self.personal.iter().map(|(field, salted)| (*field, salted.commitment(*field))).collect()
    }

    /// Writes the leaf. Commitments are an argument, since those of erased fields cannot be made again.
    pub fn leaf(&self, source: Source, commitments: &Commitments) -> Result<Vec<u8>, LeafFault> {
        let (kind, action, version, [previous_tier, new_tier], [previous, current], details) = match &self
            .event
        {
            LogEvent::ConsentChanged {
                action, version, previous_tier, new_tier, previous, current, ..
            } => (
                CONSENT_CHANGED,
                Some(action.as_str()),
                Some(*version),
                [previous_tier.as_deref(), Some(new_tier)],
                [previous.as_ref(), current.as_ref()],
                None,
            ),
            LogEvent::Other { kind, details, .. } => {
                (kind.as_str(), None, None, [None; 2], [None; 2], Some(details))
            }
        };
        let mut out = Vec::with_capacity(2048);
        let mut leaf = Members(Object::begin(&mut out));
        leaf.text("action", action)?;
        leaf.number("audit_id", Some(self.audit_id))?;
        leaf.commitments("commitments", commitments);
        leaf.json("current", current)?;
        leaf.uuid("customer_id", self.customer_id());
        leaf.json("details", details)?;
        leaf.text("event", Some(kind))?;
        leaf.number("leaf_version", Some(LEAF_VERSION.cast_signed()))?;
        leaf.text("new_tier", new_tier)?;
        leaf.json("previous", previous)?;
        leaf.text("previous_tier", previous_tier)?;
        leaf.text("request_id", self.request_id.as_deref())?;
        leaf.text("src", Some(source.as_str()))?;
        leaf.text("timestamp", Some(&instant::in_microseconds(self.timestamp, &mut Buffer::default())))?;
        leaf.number("version", version.map(i64::from))?;
        leaf.0.end();
        if out.len() > MAX_BYTES { Err(LeafFault::TooLong) } else { Ok(out) }
    }
}

/// The members of an object, to be written in the order of their names. What there is none of is left out. Nothing is copied
/// before it is written: a leaf is made for every change, and for every entry that is verified.
struct Members<'o>(Object<'o>);

impl Members<'_> {
    fn text(&mut self, name: &'static str, text: Option<&str>) -> Result<(), LeafFault> {
        text.map_or(Ok(()), |text| string(text, self.0.name(name)))
    }

    fn number(&mut self, name: &'static str, value: Option<i64>) -> Result<(), LeafFault> {
        value.map_or(Ok(()), |value| number(value, self.0.name(name)))
    }

    fn json(&mut self, name: &'static str, value: Option<&Value>) -> Result<(), LeafFault> {
        value.map_or(Ok(()), |value| canonical(value, self.0.name(name)))
    }

    fn uuid(&mut self, name: &'static str, id: Option<Uuid>) {
        if let Some(id) = id {
            self.0.uuid(name, id);
        }
    }

    fn commitments(&mut self, name: &'static str, commitments: &Commitments) {
        let mut fields: Vec<_> = commitments.iter().collect();
        fields.sort_unstable_by_key(|(field, _)| field.as_str());
        self.0.object(name, |object| {
            for (field, commitment) in fields {
                let out = object.name(field.as_str());
                out.push(b'"');
                write_hex(&commitment.0, out);
                out.push(b'"');
            }
        });
    }
}

/// JSON as in RFC 8785, of what needs no rule for floating-point numbers.
fn canonical(value: &Value, out: &mut Vec<u8>) -> Result<(), LeafFault> {
    match value {
        Value::Null => out.extend(b"null"),
        Value::Bool(true) => out.extend(b"true"),
        Value::Bool(false) => out.extend(b"false"),
        Value::Number(value) => number(value.as_i64().ok_or(LeafFault::Number)?, out)?,
        Value::String(text) => string(text, out)?,
        Value::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                canonical(item, out)?;
            }
            out.push(b']');
        }
        Value::Object(members) => {
            // Whatever order the map keeps: features of serde_json change it.
            let mut members: Vec<_> = members.iter().collect();
            members.sort_unstable_by_key(|(name, _)| *name);
            out.push(b'{');
            for (index, (name, value)) in members.into_iter().enumerate() {
                if !name.is_ascii() {
                    return Err(LeafFault::Key);
                }
                if index > 0 {
                    out.push(b',');
                }
                string(name, out)?;
                out.push(b':');
                canonical(value, out)?;
            }
            out.push(b'}');
        }
    }
    Ok(())
}

fn number(value: i64, out: &mut Vec<u8>) -> Result<(), LeafFault> {
    if value.unsigned_abs() >= 1 << 53 {
        return Err(LeafFault::Number);
    }
    write!(out, "{value}").expect("memory can be written to");
    Ok(())
}

fn string(text: &str, out: &mut Vec<u8>) -> Result<(), LeafFault> {
    if text.contains('\0') {
        return Err(LeafFault::Nul);
    }
    json::string(text, out);
    Ok(())
}

/// A leaf, read.
#[derive(Clone, Debug, Deserialize)]
pub struct Leaf {
    pub leaf_version: u64,
    pub event: String,
    pub audit_id: i64,
    pub src: Source,
    pub timestamp: DateTime<Utc>,
    #[serde(default)]
    pub customer_id: Option<Uuid>,
    #[serde(default)]
    pub action: Option<String>,
    #[serde(default)]
    pub version: Option<i32>,
    pub commitments: Commitments,
    #[serde(default)]
    pub details: Option<Value>,
}

impl Leaf {
    /// Reads a leaf of a version that is known here.
    pub fn parse(leaf: &[u8]) -> Result<Self, String> {
        let leaf: Self = serde_json::from_slice(leaf).map_err(|error| error.to_string())?;
        if leaf.leaf_version == LEAF_VERSION {
            Ok(leaf)
        } else {
            Err(format!("leaf_version {} is not known to this program", leaf.leaf_version))
        }
    }
}

/// An address as it is committed to: alone, or as a network where it is one.
pub fn address_text(address: IpNetwork) -> String {
    let longest = if address.is_ipv4() { 32 } else { 128 };
    if address.prefix() == longest { address.ip().to_string() } else { address.to_string() }
}
