//! The audit trail: one entry for every change of a consent.

use chrono::{DateTime, Utc};
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize, Serializer};
use utoipa::ToSchema;
use uuid::Uuid;

use super::consent::{AnonymizationLevel, Consent, ConsentTier};
use super::instant;

/// What kind of change an entry tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "varchar", rename_all = "snake_case")]
pub enum AuditAction {
    /// Found in the database when the trail began.
    Adopted,
    /// From nothing, or tier `none`, to something.
    Granted,
    Updated,
    /// Only the end date or the policy version moved.
    Renewed,
    /// To tier `none`.
    Withdrawn,
    /// The end date came; written by the service.
    Expired,
    /// The consent's row was deleted, with its customer.
    Erased,
}

impl AuditAction {
    pub const ALL: [Self; 7] = [
        Self::Adopted,
        Self::Granted,
        Self::Updated,
        Self::Renewed,
        Self::Withdrawn,
        Self::Expired,
        Self::Erased,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Adopted => "adopted",
            Self::Granted => "granted",
            Self::Updated => "updated",
            Self::Renewed => "renewed",
            Self::Withdrawn => "withdrawn",
            Self::Expired => "expired",
            Self::Erased => "erased",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.as_str() == name)
    }
}

/// A consent as an entry tells it, before or after the change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConsentState {
    pub consent_tier: ConsentTier,
    pub can_store_images: bool,
    pub can_store_embeddings: bool,
    pub can_use_for_training: bool,
    pub anonymization_level: AnonymizationLevel,
    #[schema(max_length = 64, example = "2026-01")]
    pub policy_version: Option<String>,
    #[serde(default, serialize_with = "instant::serialize", deserialize_with = "instant::deserialize")]
    pub expires_at: Option<DateTime<Utc>>,
    #[serde(default, serialize_with = "instant::serialize", deserialize_with = "instant::deserialize")]
    pub consent_granted_at: Option<DateTime<Utc>>,
}

impl ConsentState {
    pub fn new(consent: &Consent, consent_granted_at: Option<DateTime<Utc>>) -> Self {
        let consent = consent.get();
        Self {
            consent_tier: consent.consent_tier,
            can_store_images: consent.can_store_images,
            can_store_embeddings: consent.can_store_embeddings,
            can_use_for_training: consent.can_use_for_training,
            anonymization_level: consent.anonymization_level,
            policy_version: consent.policy_version.clone(),
            expires_at: consent.expires_at,
            consent_granted_at,
        }
    }

    /// The most private reading of an entry from before the trail, which tells the tier alone.
    pub fn of_tier(consent_tier: ConsentTier) -> Self {
        Self { consent_tier, ..Self::new(&Consent::none(), None) }
    }
}

/// One change of one customer's consent.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 4711)]
    pub audit_id: i64,
    #[schema(example = "123e4567-e89b-12d3-a456-426614174000")]
    pub customer_id: Uuid,
    pub action: AuditAction,
    /// The version of the consent which this change made: 1, 2, 3 … without a gap.
    #[schema(minimum = 1, example = 3)]
    pub version: i32,
    /// Absent when there was nothing before.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub previous_tier: Option<ConsentTier>,
    pub new_tier: ConsentTier,
    /// The consent before the change. Absent when there was none, and in entries from before the trail.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<ConsentState>)]
    pub previous: Option<sqlx::types::Json<ConsentState>>,
    /// The consent after the change. Absent in `erased` entries, and in entries from before the trail.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<ConsentState>)]
    pub current: Option<sqlx::types::Json<ConsentState>>,
    /// Who made the change: the authenticated API key, `link:<link_id>` for the customer on its own page, `sql:<database user>`,
    /// `migration:<number>` or `system:expiry`.
    #[schema(max_length = 255, example = "key:vla_live_a1b2")]
    pub changed_by: Option<String>,
    /// For whom the caller acted, as it said.
    #[schema(max_length = 255)]
    pub on_behalf_of: Option<String>,
    #[schema(max_length = 1000)]
    pub change_reason: Option<String>,
    /// The address which the change came from.
    #[serde(serialize_with = "address_alone")]
    #[schema(value_type = Option<String>, max_length = 45, example = "203.0.113.7")]
    pub ip_address: Option<IpNetwork>,
    #[schema(max_length = 512)]
    pub user_agent: Option<String>,
    /// The `X-Request-Id` of the request which made the change.
    #[schema(max_length = 128)]
    pub request_id: Option<String>,
    pub timestamp: DateTime<Utc>,
    /// The fields that hold no readable value: something other than this service wrote them. `previous` and `current` are
    /// absent then; a tier is given as `none`, an action as `updated`. Absent when every field is readable.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreadable: Vec<EntryField>,
    /// The entry was inserted past the service, without a change of the consent: it never took effect. Absent otherwise.
    #[serde(default, skip_serializing_if = "is_false")]
    #[schema(example = false)]
    pub foreign: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference to the field")]
fn is_false(value: &bool) -> bool {
    !value
}

/// A field of an entry that can hold an unreadable value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EntryField {
    Action,
    PreviousTier,
    NewTier,
    Previous,
    Current,
}

impl EntryField {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Action => "action",
            Self::PreviousTier => "previous_tier",
            Self::NewTier => "new_tier",
            Self::Previous => "previous",
            Self::Current => "current",
        }
    }
}

impl AuditEntry {
    /// The consent after the change. An entry from before the trail tells the tier alone, and so does one with an unreadable
    /// state: the rest is read in the most private way.
    pub fn state(&self) -> ConsentState {
        self.current
            .as_ref()
            .map_or_else(|| ConsentState::of_tier(self.new_tier), |current| current.0.clone())
    }
}

/// What is in the audit log beside the changes of consents.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AuditEvent {
    /// Numbered together with the entries.
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 4712)]
    pub audit_id: i64,
    pub kind: EventKind,
    /// Whom it is about; null when it is about many, or about the log itself.
    pub customer_id: Option<Uuid>,
    /// `{"unreadable": true}` when something other than this service wrote details that cannot be read.
    /// Of `pii.erased`: `legal_basis`, `fields`, and `entries` as ranges of audit ids. Of `log.opened`: the log's `origin`,
    /// and where the log before it ended. Of `pii.read`: `what` was looked at; by
    /// which filter is in `change_reason`, since it may tell of a person. Of `quarantine.resolved`: the `entries`; the
    /// operator's reason is in `change_reason`.
    #[schema(value_type = Object)]
    pub details: serde_json::Value,
    #[schema(max_length = 255, example = "key:vla_live_a1b2")]
    pub changed_by: Option<String>,
    #[schema(max_length = 255)]
    pub on_behalf_of: Option<String>,
    #[schema(max_length = 1000)]
    pub change_reason: Option<String>,
    #[serde(serialize_with = "address_alone")]
    #[schema(value_type = Option<String>, max_length = 45, example = "203.0.113.7")]
    pub ip_address: Option<IpNetwork>,
    #[schema(max_length = 512)]
    pub user_agent: Option<String>,
    #[schema(max_length = 128)]
    pub request_id: Option<String>,
    pub timestamp: DateTime<Utc>,
}

/// What an event of the log tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, sqlx::Type)]
#[sqlx(type_name = "varchar")]
pub enum EventKind {
    /// A log began.
    #[serde(rename = "log.opened")]
    #[sqlx(rename = "log.opened")]
    LogOpened,
    /// Personal fields are erased.
    #[serde(rename = "pii.erased")]
    #[sqlx(rename = "pii.erased")]
    PiiErased,
    /// Somebody looked at personal fields in the console, or took them away in a file.
    #[serde(rename = "pii.read")]
    #[sqlx(rename = "pii.read")]
    PiiRead,
    /// An operator resolved findings about entries in quarantine.
    #[serde(rename = "quarantine.resolved")]
    #[sqlx(rename = "quarantine.resolved")]
    QuarantineResolved,
}

impl EventKind {
    pub const ALL: [Self; 4] = [Self::LogOpened, Self::PiiErased, Self::PiiRead, Self::QuarantineResolved];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::LogOpened => "log.opened",
            Self::PiiErased => "pii.erased",
            Self::PiiRead => "pii.read",
            Self::QuarantineResolved => "quarantine.resolved",
        }
    }
}

/// PostgreSQL's `inet` is a network; an entry holds one address.
#[expect(clippy::ref_option, reason = "serde calls it with a reference to the field")]
fn address_alone<S: Serializer>(address: &Option<IpNetwork>, serializer: S) -> Result<S::Ok, S::Error> {
    match address {
        Some(network) => serializer.collect_str(&network.ip()),
        None => serializer.serialize_none(),
    }
}
