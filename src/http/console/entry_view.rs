//! How one audit entry is shown, wherever it is.

use chrono::{DateTime, SecondsFormat, Utc};
use uuid::Uuid;

use super::reveal::Sight;
use crate::domain::{AuditAction, AuditEntry, Consent, ConsentState, ConsentTier};

/// An entry as it is shown.
#[derive(Clone, Debug)]
pub struct EntryView {
    pub audit_id: i64,
    pub version: i32,
    pub time: DateTime<Utc>,
    pub customer_id: Uuid,
    pub action: &'static str,
    pub actor: Actor,
    /// Masked unless it was asked for.
    pub on_behalf_of: Option<String>,
    pub reason: Option<String>,
    pub previous_tier: Option<&'static str>,
    pub new_tier: &'static str,
    pub changes: Vec<FieldChange>,
    /// The fields that hold no readable value, as a list.
    pub unreadable: Option<String>,
    /// It never took effect.
    pub foreign: bool,
}

/// Who made a change.
#[derive(Clone, Debug)]
pub struct Actor {
    /// `key`, `customer`, `system` or `sql`: the class of its mark.
    pub kind: &'static str,
    pub text: String,
}

/// A field that is not what it was.
#[derive(Clone, Debug)]
pub struct FieldChange {
    pub field: &'static str,
    /// `None`: there was nothing before.
    pub was: Option<String>,
    pub is: String,
}

impl EntryView {
    pub fn new(entry: &AuditEntry, sight: &Sight) -> Self {
        Self {
            audit_id: entry.audit_id,
            version: entry.version,
            time: entry.timestamp,
            customer_id: entry.customer_id,
            action: entry.action.as_str(),
            actor: Actor::new(entry.changed_by.as_deref()),
            on_behalf_of: entry.on_behalf_of.as_deref().map(|person| sight.person(person)),
            reason: entry.change_reason.clone(),
            previous_tier: entry.previous_tier.map(ConsentTier::as_str),
            new_tier: entry.new_tier.as_str(),
            changes: changes(entry),
            unreadable: (!entry.unreadable.is_empty())
                .then(|| entry.unreadable.iter().map(|field| field.as_str()).collect::<Vec<_>>().join(", ")),
            foreign: entry.foreign,
        }
    }

    /// All of it in one sentence.
    pub fn sentence(&self) -> String {
        let time = self.time.format("On %-d %B %Y at %H:%M:%SZ");
        let actor = &self.actor.text;
        let whom = match &self.on_behalf_of {
            Some(person) => format!(" on behalf of {person}"),
            None => String::new(),
        };
        let customer = self.customer_id;
        let done = match self.action {
            "granted" => "recorded the consent of",
            "updated" => "changed the consent of",
            "renewed" => "renewed the consent of",
            "withdrawn" => "withdrew the consent of",
            "expired" => "ended, as its end date had come, the consent of",
            "erased" => "ended, as the customer was deleted, the consent of",
            _ => "took into the trail, as it stood in the database, the consent of",
        };
        let tiers = match self.previous_tier {
            Some(previous) if previous != self.new_tier => format!("{previous} became {}", self.new_tier),
            Some(_) => format!("the tier stayed {}", self.new_tier),
            None => format!("the tier is {}", self.new_tier),
        };
        format!("{time}, {actor}{whom} {done} customer {customer}: {tiers}.")
    }
}

impl Actor {
    pub fn new(changed_by: Option<&str>) -> Self {
        let actor = |kind, text: String| Self { kind, text };
        let Some(name) = changed_by else {
            return actor("system", "somebody whose name was erased".to_owned());
        };
        match name.split_once(':') {
            Some(("key", prefix)) => actor("key", format!("API key {prefix}")),
            Some(("link", _)) => actor("customer", "the customer".to_owned()),
            Some(("system", "expiry")) => actor("system", "the service".to_owned()),
            Some(("sql", user)) => actor("sql", format!("database user {user}")),
            Some(("migration", number)) => actor("system", format!("migration {number}")),
            _ => actor("system", name.to_owned()),
        }
    }
}

fn changes(entry: &AuditEntry) -> Vec<FieldChange> {
    let nothing = ConsentState::new(&Consent::none(), None);
    let is = match (&entry.current, entry.action) {
        (Some(current), _) => &current.0,
        (None, AuditAction::Erased) => &nothing,
        // From before the trail: it tells the tier alone.
        (None, _) => {
            return vec![FieldChange {
                field: "tier",
                was: entry.previous_tier.map(|tier| tier.as_str().to_owned()),
                is: entry.new_tier.as_str().to_owned(),
            }];
        }
    };
    let fields = shown(is);
    match &entry.previous {
        Some(was) => shown(&was.0)
            .into_iter()
            .zip(fields)
            .filter(|((_, was), (_, is))| was != is)
            .map(|((field, was), (_, is))| FieldChange { field, was: Some(was), is })
            .collect(),
        // What is as private as nothing need not be told.
        None => fields
            .into_iter()
            .zip(shown(&nothing))
            .filter(|((field, is), (_, nothing))| *field == "tier" || is != nothing)
            .map(|((field, is), _)| FieldChange { field, was: None, is })
            .collect(),
    }
}

/// A consent's fields, in words.
pub fn shown(state: &ConsentState) -> [(&'static str, String); 7] {
    let allowed = |yes: bool| if yes { "allowed" } else { "not allowed" }.to_owned();
    let time = |time: Option<DateTime<Utc>>| {
        time.map_or_else(|| "—".to_owned(), |time| time.to_rfc3339_opts(SecondsFormat::Secs, true))
    };
    [
        ("tier", state.consent_tier.as_str().to_owned()),
        ("images", allowed(state.can_store_images)),
        ("embeddings", allowed(state.can_store_embeddings)),
        ("training", allowed(state.can_use_for_training)),
        ("anonymisation", state.anonymization_level.as_str().to_owned()),
        ("policy", state.policy_version.clone().unwrap_or_else(|| "—".to_owned())),
        ("expires", time(state.expires_at)),
    ]
}
