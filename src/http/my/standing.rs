//! Where the customer's consent stands, read from the trail: never from memory, and what a change has just made is seen.

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::texts::Texts;
use crate::domain::{
    AuditAction, AuditEntry, Consent, ConsentRecord, ConsentState, ConsentStatus, ConsentTier, Proposal,
};
use crate::error::Error;
use crate::http::AppState;

/// How long a withdrawal can be undone with one click.
const UNDO_FOR: TimeDelta = TimeDelta::minutes(15);

/// How audit entries name changes made by this page.
const BY_LINK: &str = "link:";

#[derive(Clone, Debug)]
pub struct Standing {
    pub record: ConsentRecord,
    pub status: ConsentStatus,
    /// The entry that made it so.
    pub newest: Option<AuditEntry>,
}

impl Standing {
    pub async fn read(state: &AppState, customer_id: Uuid, now: DateTime<Utc>) -> Result<Self, Error> {
        let newest = state.store.current_entry(customer_id).await?;
        let record = newest.as_ref().map_or_else(
            || ConsentRecord::never_given(customer_id),
            |entry| {
                let (state, at) = (after(entry), Some(entry.timestamp));
                ConsentRecord::from_state(customer_id, state, at, entry.version, Some(entry.audit_id))
            },
        );
        Ok(Self { status: record.status(now), record, newest })
    }

    /// The withdrawal which this page has just made, and what it took away.
    pub fn withdrawal(&self, now: DateTime<Utc>) -> Option<Withdrawal> {
        let entry = self.newest.as_ref().filter(|entry| is_by_link(entry))?;
        let before = &entry.previous.as_ref()?.0;
        let until = entry.timestamp + UNDO_FOR;
        let undoable = entry.action == AuditAction::Withdrawn
            && before.consent_tier != ConsentTier::None
            && before.expires_at.is_none_or(|end| end > now)
            && now < until;
        undoable.then(|| Withdrawal {
            audit_id: entry.audit_id,
            version: entry.version,
            at: entry.timestamp,
            until,
            before: before.clone(),
        })
    }
}

/// The consent after an entry. One from before the trail tells the tier alone: the rest is read in the most private way.
pub fn after(entry: &AuditEntry) -> ConsentState {
    entry.current.as_ref().map_or_else(|| ConsentState::of_tier(entry.new_tier), |state| state.0.clone())
}

/// The consent before it, if there was one.
pub fn before(entry: &AuditEntry) -> Option<ConsentState> {
    let known = entry.previous.as_ref().map(|state| state.0.clone());
    known.or_else(|| entry.previous_tier.map(ConsentState::of_tier))
}

pub fn is_by_link(entry: &AuditEntry) -> bool {
    entry.changed_by.as_ref().is_some_and(|by| by.starts_with(BY_LINK))
}

/// Who made a change, as a customer can understand it.
pub fn who(entry: &AuditEntry, texts: &'static Texts) -> &'static str {
    match entry.changed_by.as_deref() {
        None => texts.by_unknown,
        Some("system:expiry") => texts.by_clock,
        Some(by) if by.starts_with(BY_LINK) => texts.by_you,
        Some(_) => texts.by_provider,
    }
}

/// A withdrawal that can still be undone.
#[derive(Clone, Debug)]
pub struct Withdrawal {
    pub audit_id: i64,
    pub version: i32,
    pub at: DateTime<Utc>,
    pub until: DateTime<Utc>,
    pub before: ConsentState,
}

impl Withdrawal {
    /// What was given before, given anew on the texts of now.
    pub fn undone(&self, texts: &'static Texts, now: DateTime<Utc>) -> Option<Consent> {
        let proposal = Proposal {
            consent_tier: self.before.consent_tier,
            can_store_images: self.before.can_store_images,
            can_store_embeddings: self.before.can_store_embeddings,
            can_use_for_training: self.before.can_use_for_training,
            anonymization_level: self.before.anonymization_level,
            policy_version: Some(texts.policy_version().to_owned()),
            expires_at: self.before.expires_at,
        };
        Consent::new(proposal, now).ok()
    }
}
