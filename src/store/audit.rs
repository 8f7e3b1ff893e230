//! The audit trail, newest first.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use ipnetwork::IpNetwork;
use sqlx::types::Json;
use sqlx::{Postgres, QueryBuilder};
use uuid::Uuid;

use super::Store;
use crate::domain::{AuditAction, AuditEntry, AuditEvent, ConsentState, ConsentTier, EventKind};
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
pub(super) const ORDER: &str = "timestamp desc, audit_id desc";

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
        let mut query = QueryBuilder::<Postgres>::new(
            "select audit_id, kind, customer_id, details, changed_by, on_behalf_of, change_reason, ip_address, user_agent, \
             request_id, timestamp from vlaapi.audit_events where true",
        );
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
        let event = sqlx::query_as!(
            AuditEvent,
            r#"
            select audit_id, kind as "kind: EventKind", customer_id, details, changed_by, on_behalf_of, change_reason,
              ip_address, user_agent, request_id, timestamp
            from vlaapi.audit_events
            where audit_id = $1
            "#,
            audit_id,
        )
        .fetch_optional(&self.reads)
        .await?;
        Ok(event)
    }

    pub async fn audit_entry(&self, audit_id: i64) -> Result<Option<AuditEntry>, Error> {
        let entry = sqlx::query_as!(
            AuditEntry,
            r#"
            select audit_id, customer_id, action as "action: AuditAction", version,
              previous_tier as "previous_tier: ConsentTier", new_tier as "new_tier: ConsentTier",
              previous as "previous: Json<ConsentState>", current as "current: Json<ConsentState>",
              changed_by, on_behalf_of, change_reason, ip_address, user_agent, request_id, timestamp
            from vlaapi.customer_consent_audit
            where audit_id = $1
            "#,
            audit_id,
        )
        .fetch_optional(&self.reads)
        .await?;
        Ok(entry)
    }

    /// The entries of one customer which made the version before this one, this one, and the one after it.
    pub async fn versions_around(
        &self,
        customer_id: Uuid,
        version: i32,
    ) -> Result<[Option<AuditEntry>; 3], Error> {
        let entries = sqlx::query_as!(
            AuditEntry,
            r#"
            select audit_id, customer_id, action as "action: AuditAction", version,
              previous_tier as "previous_tier: ConsentTier", new_tier as "new_tier: ConsentTier",
              previous as "previous: Json<ConsentState>", current as "current: Json<ConsentState>",
              changed_by, on_behalf_of, change_reason, ip_address, user_agent, request_id, timestamp
            from vlaapi.customer_consent_audit
            where customer_id = $1 and version between $2 - 1 and $2 + 1
            "#,
            customer_id,
            version,
        )
        .fetch_all(&self.reads)
        .await?;
        let mut around = [None, None, None];
        for entry in entries {
            if let Some(place) =
                usize::try_from(entry.version - version + 1).ok().and_then(|at| around.get_mut(at))
            {
                *place = Some(entry);
            }
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

/// What is read of an entry.
const ENTRIES: &str = "select audit_id, customer_id, action, version, previous_tier, new_tier, previous, current, changed_by, \
                       on_behalf_of, change_reason, ip_address, user_agent, request_id, timestamp \
                       from vlaapi.customer_consent_audit";

/// The statement for some entries, newest first.
pub(super) fn entries_of(audit_ids: &[i64]) -> QueryBuilder<Postgres> {
    let mut query = QueryBuilder::<Postgres>::new(ENTRIES);
    query.push(" where audit_id = any(").push_bind(audit_ids.to_vec()).push(") order by audit_id desc");
    query
}

/// The statement for a page of entries, newest first, below `before`.
pub(super) fn entries(filter: &AuditFilter, before: Option<Position>, limit: i64) -> QueryBuilder<Postgres> {
    let mut query = QueryBuilder::<Postgres>::new(ENTRIES);
    query.push(" where true");
    if let Some(before) = before {
        query.push(" and (timestamp, audit_id) < (").push_bind(before.timestamp);
        query.push(", ").push_bind(before.audit_id).push(")");
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
