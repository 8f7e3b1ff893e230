//! The audit trail, newest first.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use ipnetwork::IpNetwork;
use serde_json::Value;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{FromRow, Postgres, QueryBuilder, Row as _};
use uuid::Uuid;

use super::{Store, unreadable};
use crate::domain::{AuditAction, AuditEntry, AuditEvent, ConsentState, ConsentTier, EntryField, EventKind};
use crate::error::Error;

/// Which entries to list.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    pub customer_id: Option<Uuid>,
    /// Inclusive.
    pub since: Option<DateTime<Utc>>,
    /// Exclusive.
    pub until: Option<DateTime<Utc>>,
    pub action: Option<AuditAction>,
    pub previous_tier: Option<ConsentTier>,
    pub new_tier: Option<ConsentTier>,
    pub changed_by: Option<String>,
    /// One address, or all of a network.
    pub ip_address: Option<IpNetwork>,
    pub request_id: Option<String>,
}

/// Newest first. Every index that a filter walks ends in these two: a window of time long ago costs no more than one of
/// today, whatever else is asked for.
pub(super) const ORDER: &str = "customer_consent_audit.timestamp desc, audit_id desc";

/// Where an entry stands in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub timestamp: DateTime<Utc>,
    pub audit_id: i64,
}

/// As cursors hold it.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.timestamp.timestamp_micros(), self.audit_id)
    }
}

impl FromStr for Position {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (micros, audit_id) = text.split_once('.').ok_or(())?;
        let timestamp = micros.parse().ok().and_then(DateTime::from_timestamp_micros).ok_or(())?;
        Ok(Self { timestamp, audit_id: audit_id.parse().map_err(drop)? })
    }
}

impl Store {
    /// A page of entries, newest first, below `before`.
    pub async fn audit_entries(
        &self,
        filter: &AuditFilter,
        before: Option<Position>,
        limit: i64,
    ) -> Result<Vec<AuditEntry>, Error> {
        Ok(entries(filter, before, limit).build_query_as().fetch_all(&self.reads).await?)
    }

    /// A page of the log's events, newest first, below `before`.
    pub async fn audit_events(
        &self,
        kind: Option<EventKind>,
        customer_id: Option<Uuid>,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<AuditEvent>, Error> {
        let mut query = QueryBuilder::<Postgres>::new(EVENTS);
        query.push(" where true");
        if let Some(before) = before {
            query.push(" and audit_id < ").push_bind(before);
        }
        if let Some(kind) = kind {
            query.push(" and kind = ").push_bind(kind.as_str());
        }
        if let Some(customer_id) = customer_id {
            query.push(" and customer_id = ").push_bind(customer_id);
        }
        query.push(" order by audit_id desc limit ").push_bind(limit);
        Ok(query.build_query_as().fetch_all(&self.reads).await?)
    }

    pub async fn audit_event(&self, audit_id: i64) -> Result<Option<AuditEvent>, Error> {
        let mut query = QueryBuilder::<Postgres>::new(EVENTS);
        query.push(" where audit_id = ").push_bind(audit_id);
        Ok(query.build_query_as().fetch_optional(&self.reads).await?)
    }

    pub async fn audit_entry(&self, audit_id: i64) -> Result<Option<AuditEntry>, Error> {
        let mut query = QueryBuilder::<Postgres>::new(ENTRIES);
        query.push(" where audit_id = ").push_bind(audit_id);
        Ok(query.build_query_as().fetch_optional(&self.reads).await?)
    }

    /// Returns the customer's last entry at or before an instant, of those that took effect. The others have a version past
    /// the consent's or past the deletion of the customer, or are in quarantine for a version that the consent never had.
    pub(super) async fn newest_entry_until(
        &self,
        customer_id: Uuid,
        instant: DateTime<Utc>,
    ) -> Result<Option<AuditEntry>, Error> {
        let mut query = QueryBuilder::<Postgres>::new(ENTRIES);
        query.push(" where customer_id = ").push_bind(customer_id);
        query.push(" and timestamp <= ").push_bind(instant);
        query.push(" and version <= ");
        last_version(&mut query, customer_id);
        query.push(" and not ").push(IS_FOREIGN).push(" order by version desc limit 1");
        Ok(query.build_query_as().fetch_optional(&self.reads).await?)
    }

    /// Returns the entry that made a customer's consent what it is, or records that the customer was deleted.
    pub async fn current_entry(&self, customer_id: Uuid) -> Result<Option<AuditEntry>, Error> {
        let mut query = QueryBuilder::<Postgres>::new(ENTRIES);
        query.push(" where customer_id = ").push_bind(customer_id).push(" and version = ");
        last_version(&mut query, customer_id);
        Ok(query.build_query_as().fetch_optional(&self.reads).await?)
    }

    /// The entry of one customer that made this version, between the nearest ones before and after it that took effect.
    pub async fn versions_around(
        &self,
        customer_id: Uuid,
        version: i32,
    ) -> Result<[Option<AuditEntry>; 3], Error> {
        let mut query = QueryBuilder::<Postgres>::new(ENTRIES);
        query.push(" where customer_id = ").push_bind(customer_id);
        query.push(" and version = ").push_bind(version);
        for (comparison, order) in [("<", "desc"), (">", "asc")] {
            query.push(" union all (").push(ENTRIES).push(" where customer_id = ").push_bind(customer_id);
            query.push(" and version ").push(comparison).push(" ").push_bind(version);
            query.push(" and not ").push(IS_FOREIGN);
            query.push(" order by version ").push(order).push(" limit 1)");
        }
        let entries: Vec<AuditEntry> = query.build_query_as().fetch_all(&self.reads).await?;
        let mut around = [None, None, None];
        for entry in entries {
            let place = match entry.version.cmp(&version) {
                Ordering::Less => 0,
                Ordering::Equal => 1,
                Ordering::Greater => 2,
            };
            around[place] = Some(entry);
        }
        Ok(around)
    }

    /// Whether the customer is known, or has a trail although it was deleted.
    pub async fn has_trail(&self, customer_id: Uuid) -> Result<bool, Error> {
        let known = sqlx::query_scalar!(
            r#"
            select exists (select from vlaapi.customers where customer_id = $1)
              or exists (select from vlaapi.customer_consent_audit where customer_id = $1) as "known!"
            "#,
            customer_id,
        )
        .fetch_one(&self.reads)
        .await?;
        Ok(known)
    }
}

/// The columns of an entry, in the order in which they are read.
const ENTRIES: &str = "select audit_id, customer_id, action, version, previous_tier, new_tier, previous, current, changed_by, \
                       on_behalf_of, change_reason, ip_address, user_agent, request_id, \
                       vlaapi.calendar_time(timestamp) as timestamp, \
                       exists (select from vlaapi.audit_quarantine aside \
                         where aside.audit_id = customer_consent_audit.audit_id and aside.foreign_version) as is_foreign \
                       from vlaapi.customer_consent_audit";

/// The same of entries as they are in the log: a mark that came later is not in it.
const SEALED: &str = "select audit_id, customer_id, action, version, previous_tier, new_tier, previous, current, changed_by, \
                      on_behalf_of, change_reason, ip_address, user_agent, request_id, \
                      vlaapi.calendar_time(timestamp) as timestamp, false as is_foreign \
                      from vlaapi.customer_consent_audit";

/// Whether the entry is in quarantine for a version that is not its customer's.
const IS_FOREIGN: &str = "exists (select from vlaapi.audit_quarantine aside \
                          where aside.audit_id = customer_consent_audit.audit_id and aside.foreign_version)";

/// Adds the version at which a customer's trail ends: that of the consent, or that of the entry that records the deletion.
fn last_version(query: &mut QueryBuilder<Postgres>, customer_id: Uuid) {
    query.push("coalesce((select version from vlaapi.customer_data_consent where customer_id = ");
    query.push_bind(customer_id);
    query.push("), (select max(version) from vlaapi.customer_consent_audit where customer_id = ");
    query.push_bind(customer_id).push(" and action = 'erased'))");
}

/// A field that holds no readable value is reported and named in the entry: the rest of the entry can be read.
impl FromRow<'_, PgRow> for AuditEntry {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        let audit_id: i64 = row.try_get("audit_id")?;
        let mut unreadable = Vec::new();
        let mut note = |field: EntryField| {
            unreadable::report("customer_consent_audit", field.as_str(), audit_id);
            unreadable.push(field);
        };
        let action = AuditAction::parse(row.try_get("action")?).unwrap_or_else(|| {
            note(EntryField::Action);
            AuditAction::Updated
        });
        let mut tier = |name: &str, field| {
            ConsentTier::parse(name).unwrap_or_else(|| {
                note(field);
                ConsentTier::None
            })
        };
        let previous_tier: Option<&str> = row.try_get("previous_tier")?;
        let previous_tier = previous_tier.map(|name| tier(name, EntryField::PreviousTier));
        let new_tier = tier(row.try_get("new_tier")?, EntryField::NewTier);
        let mut state = |field: EntryField| {
            row.try_get::<Option<Json<ConsentState>>, _>(field.as_str()).unwrap_or_else(|_| {
                note(field);
                None
            })
        };
        let previous = state(EntryField::Previous);
        let current = state(EntryField::Current);
        Ok(Self {
            audit_id,
            customer_id: row.try_get("customer_id")?,
            action,
            version: row.try_get("version")?,
            previous_tier,
            new_tier,
            previous,
            current,
            changed_by: row.try_get("changed_by")?,
            on_behalf_of: row.try_get("on_behalf_of")?,
            change_reason: row.try_get("change_reason")?,
            ip_address: row.try_get("ip_address")?,
            user_agent: row.try_get("user_agent")?,
            request_id: row.try_get("request_id")?,
            timestamp: row.try_get("timestamp")?,
            unreadable,
            foreign: row.try_get("is_foreign")?,
        })
    }
}

/// The columns of an event.
const EVENTS: &str = "select audit_id, kind, customer_id, details, changed_by, on_behalf_of, change_reason, ip_address, \
                      user_agent, request_id, vlaapi.calendar_time(timestamp) as timestamp from vlaapi.audit_events";

impl FromRow<'_, PgRow> for AuditEvent {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        let audit_id: i64 = row.try_get("audit_id")?;
        let details = row.try_get::<Value, _>("details").unwrap_or_else(|_| {
            unreadable::report("audit_events", "details", audit_id);
            unreadable::placeholder()
        });
        Ok(Self {
            audit_id,
            kind: row.try_get("kind")?,
            customer_id: row.try_get("customer_id")?,
            details,
            changed_by: row.try_get("changed_by")?,
            on_behalf_of: row.try_get("on_behalf_of")?,
            change_reason: row.try_get("change_reason")?,
            ip_address: row.try_get("ip_address")?,
            user_agent: row.try_get("user_agent")?,
            request_id: row.try_get("request_id")?,
            timestamp: row.try_get("timestamp")?,
        })
    }
}

/// The statement for some entries, newest first, as they are in the log.
pub(super) fn entries_of(audit_ids: &[i64]) -> QueryBuilder<Postgres> {
    let mut query = QueryBuilder::<Postgres>::new(SEALED);
    query.push(" where audit_id = any(").push_bind(audit_ids.to_vec()).push(") order by audit_id desc");
    query
}

/// The statement for a page of entries, newest first, below `before`.
pub(super) fn entries(filter: &AuditFilter, before: Option<Position>, limit: i64) -> QueryBuilder<Postgres> {
    let mut query = QueryBuilder::<Postgres>::new(ENTRIES);
    query.push(" where true");
    if let Some(before) = before {
        // By the stored time of the entry that the cursor names: one outside the calendar is shown as another, and a page
        // that went on there would repeat or pass entries.
        query
            .push(" and (timestamp, audit_id) < (coalesce((select timestamp from vlaapi.customer_consent_audit where audit_id = ")
            .push_bind(before.audit_id)
            .push("), ")
            .push_bind(before.timestamp);
        query.push("), ").push_bind(before.audit_id).push(")");
    }
    conditions(&mut query, filter);
    query.push(" order by ").push(ORDER).push(" limit ").push_bind(limit);
    query
}

/// What a filter lets through, for a statement that ends in a condition.
pub(super) fn conditions(query: &mut QueryBuilder<Postgres>, filter: &AuditFilter) {
    if let Some(customer_id) = filter.customer_id {
        query.push(" and customer_id = ").push_bind(customer_id);
    }
    if let Some(since) = filter.since {
        query.push(" and timestamp >= ").push_bind(since);
    }
    if let Some(until) = filter.until {
        query.push(" and timestamp < ").push_bind(until);
    }
    if let Some(action) = filter.action {
        query.push(" and action = ").push_bind(action.as_str());
    }
    if let Some(tier) = filter.previous_tier {
        query.push(" and previous_tier = ").push_bind(tier.as_str());
    }
    if let Some(tier) = filter.new_tier {
        query.push(" and new_tier = ").push_bind(tier.as_str());
    }
    if let Some(changed_by) = &filter.changed_by {
        query.push(" and changed_by = ").push_bind(changed_by);
    }
    if let Some(network) = filter.ip_address {
        query.push(" and ip_address <<= ").push_bind(network);
    }
    if let Some(request_id) = &filter.request_id {
        query.push(" and request_id = ").push_bind(request_id);
    }
}
