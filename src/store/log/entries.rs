//! Entries and events as the log sees them: exactly what the database holds.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use ipnetwork::IpNetwork;
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::background::TimeSlice;
use crate::domain::{
    Commitments, LeafFault, LogEntry, LogEvent, PersonalField, Salted, Source, address_text,
};
use crate::error::Error;

/// A row, and the service's word for it.
#[derive(Clone, Debug)]
pub struct StoredEntry {
    pub entry: LogEntry,
    /// None when the entry was not written by the service.
    pub mac: Option<Vec<u8>>,
    /// The encoding of its leaf.
    pub leaf_version: i16,
    /// JSON of the row could not be read: it is missing in `entry`, which has no leaf.
    unreadable: bool,
}

impl StoredEntry {
    /// Writes the leaf of the row, by the service if it has a mac.
    pub fn leaf(&self, commitments: &Commitments) -> Result<Vec<u8>, LeafFault> {
        self.leaf_from(if self.mac.is_some() { Source::Service } else { Source::Sql }, commitments)
    }

    /// Writes the leaf of the row by this source.
    pub fn leaf_from(&self, source: Source, commitments: &Commitments) -> Result<Vec<u8>, LeafFault> {
        if self.unreadable { Err(LeafFault::Unreadable) } else { self.entry.leaf(source, commitments) }
    }
}

/// Those of these entries and events that exist, in the order of their ids.
pub async fn load(connection: &mut PgConnection, audit_ids: &[i64]) -> Result<Vec<StoredEntry>, Error> {
    // Tiers and states as text, since the log keeps the stored values. JSON is parsed row by row, so that one that cannot be
    // parsed here hides no others. A time that no calendar
    // has (`infinity`) would not be read at all: it is brought to the nearest one that any reader of a leaf knows. Each id
    // is looked up alone: of a list of ids PostgreSQL may expect the whole trail, and read it.
    let rows = sqlx::query_as!(
        Row,
        r#"
        select entry.audit_id as "audit_id!", customer_id, action as "action: String", version,
          previous_tier as "previous_tier: String", new_tier as "new_tier: String", previous,
          current, kind, details, changed_by, on_behalf_of, change_reason,
          ip_address, user_agent, request_id, vlaapi.calendar_time(timestamp) as "timestamp!", changed_by_salt,
          on_behalf_of_salt, change_reason_salt, ip_address_salt, user_agent_salt, mac, leaf_version as "leaf_version!"
        from (select distinct unnest($1::bigint[]) as audit_id) as listed
        cross join lateral (
          select audit_id, customer_id, action, version, previous_tier, new_tier, previous::text, current::text,
            null as kind, null as details, changed_by, on_behalf_of, change_reason, ip_address, user_agent, request_id,
            timestamp, changed_by_salt, on_behalf_of_salt, change_reason_salt, ip_address_salt, user_agent_salt, mac,
            leaf_version
          from vlaapi.customer_consent_audit
          where audit_id = listed.audit_id
          union all
          select audit_id, customer_id, null, null, null, null, null, null, kind, details::text, changed_by, on_behalf_of,
            change_reason, ip_address, user_agent, request_id, timestamp, changed_by_salt, on_behalf_of_salt,
            change_reason_salt, ip_address_salt, user_agent_salt, mac, leaf_version
          from vlaapi.audit_events
          where audit_id = listed.audit_id
        ) as entry
        order by 1
        "#,
        audit_ids,
    )
    .fetch_all(connection)
    .await?;
    let mut entries = Vec::with_capacity(rows.len());
    let mut slice = TimeSlice::begin();
    for row in rows {
        entries.push(row.into_entry());
        slice.end_if_over().await;
    }
    Ok(entries)
}

/// Levels of JSON that a leaf can have: parsers stop at 128, and a leaf adds some of its own.
const DEEPEST: usize = 100;

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

struct Row {
    audit_id: i64,
    customer_id: Option<Uuid>,
    action: Option<String>,
    version: Option<i32>,
    previous_tier: Option<String>,
    new_tier: Option<String>,
    previous: Option<String>,
    current: Option<String>,
    kind: Option<String>,
    details: Option<String>,
    changed_by: Option<String>,
    on_behalf_of: Option<String>,
    change_reason: Option<String>,
    ip_address: Option<IpNetwork>,
    user_agent: Option<String>,
    request_id: Option<String>,
    timestamp: DateTime<Utc>,
    changed_by_salt: Option<Vec<u8>>,
    on_behalf_of_salt: Option<Vec<u8>>,
    change_reason_salt: Option<Vec<u8>>,
    ip_address_salt: Option<Vec<u8>>,
    user_agent_salt: Option<Vec<u8>>,
    mac: Option<Vec<u8>>,
    leaf_version: i16,
}

impl Row {
    fn into_entry(self) -> StoredEntry {
        let mut unreadable = false;
        let mut json = |text: Option<String>| {
            let parsed =
                text.map(|text| serde_json::from_str(&text).ok().filter(|value| depth(value) <= DEEPEST));
            unreadable |= matches!(parsed, Some(None));
            parsed.flatten()
        };
        let event = match self.kind {
            Some(kind) => LogEvent::Other {
                kind,
                customer_id: self.customer_id,
                details: json(self.details).unwrap_or_default(),
            },
            None => LogEvent::ConsentChanged {
                customer_id: self.customer_id.unwrap_or_default(),
                action: self.action.unwrap_or_default(),
                version: self.version.unwrap_or_default(),
                previous_tier: self.previous_tier,
                new_tier: self.new_tier.unwrap_or_default(),
                previous: json(self.previous),
                current: json(self.current),
            },
        };
        let fields = [
            (PersonalField::ChangedBy, self.changed_by, self.changed_by_salt),
            (PersonalField::OnBehalfOf, self.on_behalf_of, self.on_behalf_of_salt),
            (PersonalField::ChangeReason, self.change_reason, self.change_reason_salt),
            (PersonalField::IpAddress, self.ip_address.map(address_text), self.ip_address_salt),
            (PersonalField::UserAgent, self.user_agent, self.user_agent_salt),
        ];
        // A value whose salt is gone, or a salt whose value is, opens nothing: verification must see it all the same.
        let personal: BTreeMap<_, _> = fields
            .into_iter()
            .filter(|(_, value, salt)| value.is_some() || salt.is_some())
            .map(|(field, value, salt)| {
                (field, Salted { value: value.unwrap_or_default(), salt: salt.unwrap_or_default() })
            })
            .collect();
        StoredEntry {
            entry: LogEntry {
                audit_id: self.audit_id,
                event,
                personal,
                request_id: self.request_id,
                timestamp: self.timestamp,
            },
            mac: self.mac,
            leaf_version: self.leaf_version,
            unreadable,
        }
    }
}

/// An event which the service adds to the log.
#[derive(Clone, Debug)]
pub struct NewEvent<'a> {
    pub entry: &'a LogEntry,
    pub ip_address: Option<IpNetwork>,
    pub mac: &'a [u8],
}

/// Returns the id of the next entry or event.
pub async fn next_id(connection: &mut PgConnection) -> Result<i64, Error> {
    let audit_id =
        sqlx::query_scalar!(r#"select vlaapi.next_audit_id() as "id!""#).fetch_one(connection).await?;
    Ok(audit_id)
}

/// Adds an event; it is not queued by this.
pub async fn insert_event(connection: &mut PgConnection, new: &NewEvent<'_>) -> Result<(), Error> {
    let LogEvent::Other { kind, customer_id, details } = &new.entry.event else {
        return Err(Error::Internal("a change of a consent is no event of the log".to_owned()));
    };
    let value = |field| new.entry.personal.get(&field).map(|salted| salted.value.as_str());
    let salt = |field| new.entry.personal.get(&field).map(|salted| salted.salt.as_slice());
    sqlx::query!(
        r#"
        insert into vlaapi.audit_events
          (audit_id, kind, customer_id, details, changed_by, on_behalf_of, change_reason, ip_address, user_agent,
           request_id, timestamp, changed_by_salt, on_behalf_of_salt, change_reason_salt, ip_address_salt,
           user_agent_salt, mac)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
        "#,
        new.entry.audit_id,
        kind,
        *customer_id,
        details,
        value(PersonalField::ChangedBy),
        value(PersonalField::OnBehalfOf),
        value(PersonalField::ChangeReason),
        new.ip_address,
        value(PersonalField::UserAgent),
        new.entry.request_id,
        new.entry.timestamp,
        salt(PersonalField::ChangedBy),
        salt(PersonalField::OnBehalfOf),
        salt(PersonalField::ChangeReason),
        salt(PersonalField::IpAddress),
        salt(PersonalField::UserAgent),
        new.mac,
    )
    .execute(connection)
    .await?;
    Ok(())
}
