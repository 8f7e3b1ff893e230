//! Audit entries on their way out of the database and into a download: what need not be understood is not, and texts
//! stay where they were received.

use std::borrow::Cow;
use std::ops::Range;

use chrono::{DateTime, Utc};
use ipnetwork::IpNetwork;
use serde::{Deserialize, Deserializer};
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{Decode, Postgres, Row as _};
use uuid::Uuid;

use super::Store;
use super::audit::{AuditFilter, Position, entries, entries_of};
use super::unreadable;
use crate::domain::{AnonymizationLevel, AuditAction, ConsentTier, EntryField, instant};
use crate::error::Error;

/// Entries as they were received, newest first.
#[derive(Debug)]
pub struct RawPage(Vec<PgRow>);

/// An [`AuditEntry`](crate::domain::AuditEntry), borrowed.
#[derive(Debug)]
pub struct RawEntry<'r> {
    pub audit_id: i64,
    pub customer_id: Uuid,
    pub action: &'static str,
    pub version: i32,
    pub previous_tier: Option<&'static str>,
    pub new_tier: &'static str,
    pub previous: Option<RawState<'r>>,
    pub current: Option<RawState<'r>>,
    pub changed_by: Option<&'r str>,
    pub on_behalf_of: Option<&'r str>,
    pub change_reason: Option<&'r str>,
    pub ip_address: Option<IpNetwork>,
    pub user_agent: Option<&'r str>,
    pub request_id: Option<&'r str>,
    pub timestamp: Moment<'r>,
    pub unreadable: Vec<EntryField>,
    pub foreign: bool,
}

/// A [`ConsentState`](crate::domain::ConsentState), borrowed.
#[derive(Debug, Deserialize)]
pub struct RawState<'r> {
    pub consent_tier: ConsentTier,
    pub can_store_images: bool,
    pub can_store_embeddings: bool,
    pub can_use_for_training: bool,
    pub anonymization_level: AnonymizationLevel,
    pub policy_version: Option<String>,
    #[serde(borrow)]
    pub expires_at: Option<Moment<'r>>,
    #[serde(borrow)]
    pub consent_granted_at: Option<Moment<'r>>,
}

/// An instant, which is written as chrono writes it: RFC 3339 in UTC, with a fraction of 0, 3, 6 or 9 digits.
#[derive(Clone, Copy, Debug)]
pub enum Moment<'r> {
    At(DateTime<Utc>),
    /// It was received as it will be written.
    Written(&'r str),
}

impl Store {
    /// What [`Store::audit_entries`] reads, unread.
    pub async fn raw_audit_entries(
        &self,
        filter: &AuditFilter,
        before: Option<Position>,
        limit: usize,
    ) -> Result<RawPage, Error> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        Ok(RawPage(entries(filter, before, limit).build().fetch_all(&self.reads).await?))
    }

    /// Some entries, unread, newest first.
    pub async fn raw_entries_of(&self, audit_ids: &[i64]) -> Result<RawPage, Error> {
        Ok(RawPage(entries_of(audit_ids).build().fetch_all(&self.reads).await?))
    }
}

impl RawPage {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Where the last entry stands, below which the next page begins.
    pub fn end(&self) -> Result<Option<Position>, Error> {
        let position = |row| Ok(Position { timestamp: column(row, 14)?, audit_id: column(row, 0)? });
        self.0.last().map(position).transpose()
    }

    /// Some of the entries, by their places.
    pub fn entries(&self, places: Range<usize>) -> impl Iterator<Item = Result<RawEntry<'_>, Error>> {
        self.0[places].iter().map(RawEntry::read)
    }
}

impl<'r> RawEntry<'r> {
    /// In the order in which [`entries`] selects them.
    fn read(row: &'r PgRow) -> Result<Self, Error> {
        let audit_id: i64 = column(row, 0)?;
        let mut unreadable = Vec::new();
        let mut note = |field: EntryField| {
            unreadable::report("customer_consent_audit", field.as_str(), audit_id);
            unreadable.push(field);
        };
        let action = column::<&str>(row, 2)?;
        let previous_tier = column::<Option<&str>>(row, 4)?;
        let new_tier = column::<&str>(row, 5)?;
        let action = AuditAction::parse(action).map_or_else(
            || {
                note(EntryField::Action);
                AuditAction::Updated.as_str()
            },
            AuditAction::as_str,
        );
        let mut tier = |tier: &str, field| {
            ConsentTier::parse(tier).unwrap_or_else(|| {
                note(field);
                ConsentTier::None
            })
        };
        let previous_tier = previous_tier.map(|previous| tier(previous, EntryField::PreviousTier).as_str());
        let new_tier = tier(new_tier, EntryField::NewTier).as_str();
        let mut state = |index, field| {
            column::<Option<Json<RawState<'r>>>>(row, index).map_or_else(
                |_| {
                    note(field);
                    None
                },
                |state| state.map(|Json(state)| state),
            )
        };
        let previous = state(6, EntryField::Previous);
        let current = state(7, EntryField::Current);
        Ok(Self {
            audit_id,
            customer_id: column(row, 1)?,
            action,
            version: column(row, 3)?,
            previous_tier,
            new_tier,
            previous,
            current,
            changed_by: column(row, 8)?,
            on_behalf_of: column(row, 9)?,
            change_reason: column(row, 10)?,
            ip_address: column(row, 11)?,
            user_agent: column(row, 12)?,
            request_id: column(row, 13)?,
            timestamp: Moment::At(column(row, 14)?),
            unreadable,
            foreign: column(row, 15)?,
        })
    }
}

/// By its place: looking columns up by their names, and comparing types that are known, takes as long as reading them.
fn column<'r, T: Decode<'r, Postgres>>(row: &'r PgRow, index: usize) -> Result<T, Error> {
    Ok(row.try_get_unchecked(index)?)
}

impl Moment<'_> {
    pub fn write<'b>(&'b self, buffer: &'b mut instant::Buffer) -> Cow<'b, str> {
        match self {
            Self::Written(text) => Cow::Borrowed(text),
            Self::At(time) => instant::written(*time, buffer),
        }
    }
}

/// Whether chrono would write the instant just so. What it says is not looked at: the database's own rules saw to that.
fn is_written(text: &str) -> bool {
    let Some((seconds, fraction)) = text.as_bytes().split_at_checked(19) else {
        return false;
    };
    let shape = seconds.iter().zip(b"0000-00-00T00:00:00");
    shape.into_iter().all(|(byte, like)| byte == like || (*like == b'0' && byte.is_ascii_digit()))
        && match fraction {
            b"Z" => true,
            [b'.', digits @ .., b'Z'] => {
                matches!(digits.len(), 3 | 6 | 9)
                    && digits.iter().all(u8::is_ascii_digit)
                    && !digits.ends_with(b"000")
            }
            _ => false,
        }
}

impl<'de: 'r, 'r> Deserialize<'de> for Moment<'r> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&'de str>::deserialize(deserializer)?;
        if is_written(text) {
            return Ok(Self::Written(text));
        }
        instant::read(text).map(Self::At).map_err(serde::de::Error::custom)
    }
}
