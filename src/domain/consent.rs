//! A customer's consent: what may be allowed at which tier, and which change a decision makes.

use chrono::{DateTime, Months, SubsecRound, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::audit::{AuditAction, ConsentState};
use super::instant;
use super::json::{Object, WriteJson};
use crate::error::Fault;

/// How far ahead a consent may end.
pub const MAX_EXPIRY_YEARS: u32 = 10;

/// How much a customer allows in general; each tier allows what the one before it does, and more.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema, sqlx::Type,
)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "varchar", rename_all = "snake_case")]
pub enum ConsentTier {
    None,
    Basic,
    Analytics,
    Research,
}

impl ConsentTier {
    pub const ALL: [Self; 4] = [Self::None, Self::Basic, Self::Analytics, Self::Research];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Basic => "basic",
            Self::Analytics => "analytics",
            Self::Research => "research",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tier| tier.as_str() == name)
    }
}

/// How far what is kept must be anonymised: `full` removes all that tells of persons and places, `none` removes nothing.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema, sqlx::Type,
)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "varchar", rename_all = "snake_case")]
pub enum AnonymizationLevel {
    Full,
    Partial,
    Minimal,
    None,
}

impl AnonymizationLevel {
    pub const ALL: [Self; 4] = [Self::Full, Self::Partial, Self::Minimal, Self::None];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Partial => "partial",
            Self::Minimal => "minimal",
            Self::None => "none",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.as_str() == name)
    }
}

/// What somebody asks to be the consent, before the rules have been applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    pub consent_tier: ConsentTier,
    pub can_store_images: bool,
    pub can_store_embeddings: bool,
    pub can_use_for_training: bool,
    pub anonymization_level: AnonymizationLevel,
    pub policy_version: Option<String>,
    pub expires_at: Option<DateTime<Utc>>,
}

/// A consent which keeps the rules of its tier: one that breaks them cannot be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consent(Proposal);

impl Consent {
    /// The most private consent: what holds before anything was given, and after a withdrawal.
    pub fn none() -> Self {
        Self(Proposal {
            consent_tier: ConsentTier::None,
            can_store_images: false,
            can_store_embeddings: false,
            can_use_for_training: false,
            anonymization_level: AnonymizationLevel::Full,
            policy_version: None,
            expires_at: None,
        })
    }

    /// The most private consent, decided on a version of the policy text.
    pub fn refusal(policy_version: Option<String>) -> Self {
        let Self(none) = Self::none();
        Self(Proposal { policy_version, ..none })
    }

    /// Applies the rules; every broken one is reported, with a JSON pointer to its field.
    pub fn new(proposal: Proposal, now: DateTime<Utc>) -> Result<Self, Vec<Fault>> {
        let mut faults = tier_faults(&proposal);
        if let Some(expires_at) = proposal.expires_at {
            let latest = now.checked_add_months(Months::new(12 * MAX_EXPIRY_YEARS)).unwrap_or(now);
            if expires_at <= now {
                faults.push(Fault::body(
                    "/expires_at",
                    "in_the_past",
                    "expires_at must lie in the future: leave it out for a consent without end, or withdraw",
                ));
            } else if expires_at > latest {
                faults.push(Fault::body(
                    "/expires_at",
                    "too_far_ahead",
                    format!("expires_at must be at most {MAX_EXPIRY_YEARS} years ahead"),
                ));
            }
        }
        if faults.is_empty() {
            // The stored consent must equal the answered one.
            let expires_at = proposal.expires_at.map(instant::stored);
            Ok(Self(Proposal { expires_at, ..proposal }))
        } else {
            Err(faults)
        }
    }

    pub fn get(&self) -> &Proposal {
        &self.0
    }
}

fn tier_faults(proposal: &Proposal) -> Vec<Fault> {
    use ConsentTier::{Analytics, Basic, None, Research};
    let tier = proposal.consent_tier;
    let mut faults = Vec::new();
    let mut refuse = |field: &str, what: &str, instead: &str| {
        faults.push(Fault::body(
            format!("/{field}"),
            "not_allowed_by_tier",
            format!("tier \"{}\" does not allow {what}: {instead}", tier.as_str()),
        ));
    };
    if proposal.can_store_images && tier != Research {
        refuse("can_store_images", "to store images", "leave it false or choose tier \"research\"");
    }
    if proposal.can_store_embeddings && matches!(tier, None | Basic) {
        refuse(
            "can_store_embeddings",
            "to store embeddings",
            "leave it false or choose tier \"analytics\" or \"research\"",
        );
    }
    if proposal.can_use_for_training && tier != Research {
        refuse(
            "can_use_for_training",
            "to use data for training",
            "leave it false or choose tier \"research\"",
        );
    }
    match (tier, proposal.anonymization_level) {
        (None, level) if level != AnonymizationLevel::Full => {
            refuse("anonymization_level", "any level but \"full\"", "leave it out");
        }
        (Basic | Analytics, AnonymizationLevel::None) => {
            refuse(
                "anonymization_level",
                "level \"none\"",
                "choose \"full\", \"partial\" or \"minimal\", or tier \"research\"",
            );
        }
        _ => {}
    }
    if tier == Research
        && proposal.can_use_for_training
        && !proposal.can_store_images
        && !proposal.can_store_embeddings
    {
        faults.push(Fault::body(
            "/can_use_for_training",
            "nothing_to_train_on",
            "training needs stored data: allow can_store_images or can_store_embeddings too",
        ));
    }
    faults
}

/// Where a consent stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConsentStatus {
    /// The customer is known, nothing was ever recorded.
    NeverGiven,
    Active,
    /// Tier `none`: everything was refused or withdrawn.
    Withdrawn,
    /// Past `expires_at`: the stored choice is shown as it was given, nothing is permitted any more.
    Expired,
}

impl ConsentStatus {
    pub const ALL: [Self; 4] = [Self::NeverGiven, Self::Active, Self::Withdrawn, Self::Expired];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::NeverGiven => "never_given",
            Self::Active => "active",
            Self::Withdrawn => "withdrawn",
            Self::Expired => "expired",
        }
    }
}

/// A customer's consent as it is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, sqlx::FromRow)]
pub struct ConsentRecord {
    #[schema(example = "123e4567-e89b-12d3-a456-426614174000")]
    pub customer_id: Uuid,
    pub consent_tier: ConsentTier,
    /// Camera images may be kept.
    #[schema(example = false)]
    pub can_store_images: bool,
    /// Embeddings computed from images and instructions may be kept.
    #[schema(example = true)]
    pub can_store_embeddings: bool,
    /// What is kept may be used to train models.
    #[schema(example = false)]
    pub can_use_for_training: bool,
    pub anonymization_level: AnonymizationLevel,
    /// The version of the policy text that the decision was made on.
    #[schema(max_length = 64, example = "2026-01")]
    pub policy_version: Option<String>,
    /// When something was last allowed after nothing was; null when nothing ever was.
    #[serde(serialize_with = "instant::serialize")]
    pub consent_granted_at: Option<DateTime<Utc>>,
    /// When this version was made; null when nothing was ever recorded.
    #[serde(serialize_with = "instant::serialize")]
    pub consent_updated_at: Option<DateTime<Utc>>,
    /// When the consent ends by itself; null when it does not.
    #[serde(serialize_with = "instant::serialize")]
    pub expires_at: Option<DateTime<Utc>>,
    /// 1, 2, 3 …; 0 when nothing was ever recorded. The `ETag` is this number in quotes.
    #[schema(minimum = 0, example = 3)]
    pub version: i32,
    /// The audit entry which made this version; null when there is none.
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 4711)]
    pub audit_id: Option<i64>,
}

/// A record, and where it stands at the instant it is looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConsentView {
    #[serde(flatten)]
    pub record: ConsentRecord,
    pub status: ConsentStatus,
}

impl WriteJson for ConsentView {
    fn write_json(&self, out: &mut Vec<u8>) {
        let record = &self.record;
        Object::begin(out)
            .uuid("customer_id", record.customer_id)
            .word("consent_tier", record.consent_tier.as_str())
            .boolean("can_store_images", record.can_store_images)
            .boolean("can_store_embeddings", record.can_store_embeddings)
            .boolean("can_use_for_training", record.can_use_for_training)
            .word("anonymization_level", record.anonymization_level.as_str())
            .text("policy_version", record.policy_version.as_deref())
            .instant("consent_granted_at", record.consent_granted_at)
            .instant("consent_updated_at", record.consent_updated_at)
            .instant("expires_at", record.expires_at)
            .integer("version", Some(record.version.into()))
            .integer("audit_id", record.audit_id)
            .word("status", self.status.as_str())
            .end();
    }
}

impl ConsentRecord {
    /// What is answered for a customer of whom nothing was ever recorded.
    pub fn never_given(customer_id: Uuid) -> Self {
        let state = ConsentState::new(&Consent::none(), None);
        Self::from_state(customer_id, state, None, 0, None)
    }

    /// The record which the entry of `version` made.
    pub fn from_state(
        customer_id: Uuid,
        state: ConsentState,
        updated_at: Option<DateTime<Utc>>,
        version: i32,
        audit_id: Option<i64>,
    ) -> Self {
        Self {
            customer_id,
            consent_tier: state.consent_tier,
            can_store_images: state.can_store_images,
            can_store_embeddings: state.can_store_embeddings,
            can_use_for_training: state.can_use_for_training,
            anonymization_level: state.anonymization_level,
            policy_version: state.policy_version,
            consent_granted_at: state.consent_granted_at,
            consent_updated_at: updated_at,
            expires_at: state.expires_at,
            version,
            audit_id,
        }
    }

    pub fn status(&self, now: DateTime<Utc>) -> ConsentStatus {
        if self.version == 0 {
            ConsentStatus::NeverGiven
        } else if self.consent_tier == ConsentTier::None {
            ConsentStatus::Withdrawn
        } else if self.expires_at.is_some_and(|expires_at| expires_at <= now) {
            ConsentStatus::Expired
        } else {
            ConsentStatus::Active
        }
    }

    pub fn view(self, now: DateTime<Utc>) -> ConsentView {
        let status = self.status(now);
        ConsentView { record: self, status }
    }

    /// What an audit entry tells of this record.
    pub fn state(&self) -> ConsentState {
        ConsentState {
            consent_tier: self.consent_tier,
            can_store_images: self.can_store_images,
            can_store_embeddings: self.can_store_embeddings,
            can_use_for_training: self.can_use_for_training,
            anonymization_level: self.anonymization_level,
            policy_version: self.policy_version.clone(),
            expires_at: self.expires_at,
            consent_granted_at: self.consent_granted_at,
        }
    }

    fn stands_at(&self, consent: &Proposal) -> bool {
        self.same_permissions(consent)
            && self.policy_version == consent.policy_version
            && self.expires_at == consent.expires_at
    }

    fn same_permissions(&self, consent: &Proposal) -> bool {
        self.consent_tier == consent.consent_tier
            && self.can_store_images == consent.can_store_images
            && self.can_store_embeddings == consent.can_store_embeddings
            && self.can_use_for_training == consent.can_use_for_training
            && self.anonymization_level == consent.anonymization_level
    }
}

/// What a writer expects to change (RFC 9110, `If-Match` and `If-None-Match`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Precondition {
    #[default]
    Anything,
    /// `If-Match: "3", "4"`
    Versions(Vec<i32>),
    /// `If-Match: *`: something was recorded.
    Given,
    /// `If-None-Match: *`: nothing was ever recorded.
    NeverGiven,
}

/// The precondition does not hold: the consent is at another version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub current: i32,
}

impl Precondition {
    pub fn check(&self, current: i32) -> Result<(), Refusal> {
        let holds = match self {
            Self::Anything => true,
            Self::Versions(versions) => versions.contains(&current),
            Self::Given => current > 0,
            Self::NeverGiven => current == 0,
        };
        if holds { Ok(()) } else { Err(Refusal { current }) }
    }
}

/// A new version of a consent, and what its audit entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub action: AuditAction,
    pub previous: Option<ConsentState>,
    pub current: ConsentState,
    pub version: i32,
    pub timestamp: DateTime<Utc>,
    pub expiry_recorded: bool,
}

impl Change {
    /// Returns whether something is allowed that was not, or is allowed for longer.
    pub fn allows_more(&self) -> bool {
        let new = &self.current;
        let given = |state: &&ConsentState| state.consent_tier != ConsentTier::None;
        let Some(old) = self.previous.as_ref().filter(given) else { return given(&new) };
        let is_longer = old.expires_at.is_some_and(|old| new.expires_at.is_none_or(|new| new > old));
        given(&new)
            && (is_longer
                || new.consent_tier > old.consent_tier
                || new.can_store_images && !old.can_store_images
                || new.can_store_embeddings && !old.can_store_embeddings
                || new.can_use_for_training && !old.can_use_for_training
                || new.anonymization_level > old.anonymization_level)
    }
}

/// What a decision changes; `None` when it stands already.
///
/// A first decision is always recorded, even if it refuses everything: that somebody was asked and said no is worth
/// proving too. Withdrawing what was never given records nothing.
pub fn decide(
    current: &ConsentRecord,
    wanted: &Consent,
    withdrawal: bool,
    now: DateTime<Utc>,
) -> Option<Change> {
    let consent = wanted.get();
    let first = current.version == 0;
    let refusing = consent.consent_tier == ConsentTier::None;
    // A withdrawal takes the tier away; that a policy version or an end date stood beside tier none is no consent.
    let stands = if withdrawal {
        current.consent_tier == ConsentTier::None
    } else {
        !first && current.stands_at(consent)
    };
    if stands {
        return None;
    }
    let action = if refusing {
        AuditAction::Withdrawn
    } else if first || current.consent_tier == ConsentTier::None {
        AuditAction::Granted
    } else if current.same_permissions(consent) {
        AuditAction::Renewed
    } else {
        AuditAction::Updated
    };
    let timestamp = next_time(now, current.consent_updated_at);
    let granted_at = if action == AuditAction::Granted {
        Some(timestamp)
    } else if refusing {
        current.consent_granted_at
    } else {
        current.consent_granted_at.or(Some(timestamp))
    };
    Some(Change {
        action,
        previous: (!first).then(|| current.state()),
        current: ConsentState::new(wanted, granted_at),
        version: current.version + 1,
        timestamp,
        expiry_recorded: false,
    })
}

/// The entry which says that a consent has come to its end; `None` when it has not.
pub fn expire(current: &ConsentRecord, now: DateTime<Utc>) -> Option<Change> {
    (current.status(now) == ConsentStatus::Expired).then(|| Change {
        action: AuditAction::Expired,
        previous: Some(current.state()),
        current: current.state(),
        version: current.version + 1,
        timestamp: next_time(now, current.consent_updated_at),
        expiry_recorded: true,
    })
}

/// The time of a customer's next entry: never before its predecessor's, whatever the replicas' clocks say. A predecessor at the
/// end of the calendar, which no clock shows, does not count: no change could follow it, not even a withdrawal.
pub fn next_time(now: DateTime<Utc>, previous: Option<DateTime<Utc>>) -> DateTime<Utc> {
    let now = now.trunc_subsecs(6);
    let previous = previous.filter(|previous| *previous < instant::CALENDAR_END);
    previous.map_or(now, |previous| now.max(previous + TimeDelta::microseconds(1)))
}
