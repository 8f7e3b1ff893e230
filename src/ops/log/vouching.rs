//! What the service says of an entry before it is written: salts, leaf, and a mac which the database cannot make.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use ipnetwork::IpNetwork;
use serde::Serialize;
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::LogKeys;
use crate::domain::{
    AuditEntry, Change, LogEntry, LogEvent, PersonalField, Salted, Source, WriterKey, address_text,
};
use crate::error::Error;
use crate::store::consents::{Attribution, Vouching};
use crate::store::log::entries::{self, NewEvent};

/// The leaf which an entry will have, and what is written with the entry.
#[derive(Clone, Debug)]
pub struct Vouched {
    pub leaf: Vec<u8>,
    pub vouching: Vouching,
}

/// Vouches for a change of a customer's consent, whose entry gets this id.
pub fn change(
    key: &WriterKey,
    customer_id: Uuid,
    audit_id: i64,
    change: &Change,
    by: &Attribution,
) -> Result<Vouched, Error> {
    let event = LogEvent::ConsentChanged {
        customer_id,
        action: change.action.as_str().to_owned(),
        version: change.version,
        previous_tier: change.previous.as_ref().map(|state| state.consent_tier.as_str().to_owned()),
        new_tier: change.current.consent_tier.as_str().to_owned(),
        previous: change.previous.as_ref().map(json).transpose()?,
        current: Some(json(&change.current)?),
    };
    vouch(key, audit_id, event, by, change.timestamp)
}

/// Vouches for an entry that is loaded whole.
pub fn entry(key: &WriterKey, entry: &AuditEntry) -> Result<Vouched, Error> {
    let event = LogEvent::ConsentChanged {
        customer_id: entry.customer_id,
        action: entry.action.as_str().to_owned(),
        version: entry.version,
        previous_tier: entry.previous_tier.map(|tier| tier.as_str().to_owned()),
        new_tier: entry.new_tier.as_str().to_owned(),
        previous: entry.previous.as_ref().map(|state| json(&state.0)).transpose()?,
        current: entry.current.as_ref().map(|state| json(&state.0)).transpose()?,
    };
    let by = Attribution {
        changed_by: entry.changed_by.clone().unwrap_or_default(),
        on_behalf_of: entry.on_behalf_of.clone(),
        change_reason: entry.change_reason.clone(),
        ip_address: entry.ip_address,
        user_agent: entry.user_agent.clone(),
        request_id: entry.request_id.clone(),
    };
    vouch(key, entry.audit_id, event, &by, entry.timestamp)
}

fn vouch(
    key: &WriterKey,
    audit_id: i64,
    event: LogEvent,
    by: &Attribution,
    timestamp: DateTime<Utc>,
) -> Result<Vouched, Error> {
    let entry =
        LogEntry { audit_id, event, personal: personal(by)?, request_id: by.request_id.clone(), timestamp };
    let leaf = leaf(&entry)?;
    let salt = |field| entry.personal.get(&field).map(|salted: &Salted| salted.salt.clone());
    let vouching = Vouching { salts: PersonalField::ALL.map(salt), mac: key.mac(&leaf).to_vec() };
    Ok(Vouched { leaf, vouching })
}

/// Adds an event to the log, by the service's own word. It is not queued by this; the leaf is answered.
pub async fn event(
    connection: &mut PgConnection,
    keys: &LogKeys,
    kind: &str,
    customer_id: Option<Uuid>,
    details: &impl Serialize,
    by: &Attribution,
    now: DateTime<Utc>,
) -> Result<(i64, Vec<u8>), Error> {
    let key = keys.writers.first().ok_or_else(|| Error::Internal("there is no writer's key".to_owned()))?;
    let entry = LogEntry {
        audit_id: entries::next_id(connection).await?,
        event: LogEvent::Other { kind: kind.to_owned(), customer_id, details: json(details)? },
        personal: personal(by)?,
        request_id: by.request_id.clone(),
        timestamp: now,
    };
    let leaf = leaf(&entry)?;
    let mac = key.mac(&leaf);
    entries::insert_event(connection, &NewEvent { entry: &entry, ip_address: by.ip_address, mac: &mac })
        .await?;
    Ok((entry.audit_id, leaf))
}

fn leaf(entry: &LogEntry) -> Result<Vec<u8>, Error> {
    entry
        .leaf(Source::Service, &entry.commitments())
        .map_err(|fault| Error::Internal(format!("an entry cannot be put into the log: {fault}")))
}

fn json(value: &impl Serialize) -> Result<Value, Error> {
    serde_json::to_value(value).map_err(|error| Error::Internal(error.to_string()))
}

/// The personal fields, each with a salt of its own.
fn personal(by: &Attribution) -> Result<BTreeMap<PersonalField, Salted>, Error> {
    let ip_address: Option<IpNetwork> = by.ip_address;
    let changed_by = (!by.changed_by.is_empty()).then(|| by.changed_by.clone());
    let fields = [
        (PersonalField::ChangedBy, changed_by),
        (PersonalField::OnBehalfOf, by.on_behalf_of.clone()),
        (PersonalField::ChangeReason, by.change_reason.clone()),
        (PersonalField::IpAddress, ip_address.map(address_text)),
        (PersonalField::UserAgent, by.user_agent.clone()),
    ];
    let mut random = [0; 16 * PersonalField::ALL.len()];
    getrandom::fill(&mut random).map_err(|error| Error::Internal(format!("no randomness: {error}")))?;
    let salted = fields.into_iter().zip(random.chunks_exact(16)).filter_map(|((field, value), salt)| {
        value.map(|value| (field, Salted { value, salt: salt.to_vec() }))
    });
    Ok(salted.collect())
}
