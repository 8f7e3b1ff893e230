//! Audit entries on their way out of the database and into a download: what need not be understood is not, and texts
//! stay where they were received.

use std::borrow::Cow;
use std::ops::Range;

use chrono::{DateTime, Datelike as _, SecondsFormat, Timelike as _, Utc};
use ipnetwork::IpNetwork;
use serde::{Deserialize, Deserializer};
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{Decode, Postgres, Row as _};
use uuid::Uuid;

use super::Store;
use super::audit::{AuditFilter, Position, entries, entries_of};
use crate::domain::{AnonymizationLevel, ConsentTier};
use crate::error::Error;

/// Entries as they were received, newest first.
#[derive(Debug)]
pub struct RawPage(Vec<PgRow>);

/// An [`AuditEntry`](crate::domain::AuditEntry), borrowed.
#[derive(Debug)]
pub struct RawEntry<'r> {
    pub audit_id: i64,
    pub customer_id: Uuid,
    pub action: &'r str,
    pub version: i32,
    pub previous_tier: Option<&'r str>,
    pub new_tier: &'r str,
    pub previous: Option<RawState<'r>>,
    pub current: Option<RawState<'r>>,
    pub changed_by: Option<&'r str>,
    pub on_behalf_of: Option<&'r str>,
    pub change_reason: Option<&'r str>,
    pub ip_address: Option<IpNetwork>,
    pub user_agent: Option<&'r str>,
    pub request_id: Option<&'r str>,
    pub timestamp: Moment<'r>,
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

/// What most instants take: `2026-03-01T12:00:00.123456Z`.
pub type MomentBuffer = [u8; 27];

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
        Ok(Self {
            audit_id: column(row, 0)?,
            customer_id: column(row, 1)?,
            action: column(row, 2)?,
            version: column(row, 3)?,
            previous_tier: column(row, 4)?,
            new_tier: column(row, 5)?,
            previous: state(row, 6)?,
            current: state(row, 7)?,
            changed_by: column(row, 8)?,
            on_behalf_of: column(row, 9)?,
            change_reason: column(row, 10)?,
            ip_address: column(row, 11)?,
            user_agent: column(row, 12)?,
            request_id: column(row, 13)?,
            timestamp: Moment::At(column(row, 14)?),
        })
    }
}

/// By its place: looking columns up by their names, and comparing types that are known, takes as long as reading them.
fn column<'r, T: Decode<'r, Postgres>>(row: &'r PgRow, index: usize) -> Result<T, Error> {
    Ok(row.try_get_unchecked(index)?)
}

fn state<'r>(row: &'r PgRow, index: usize) -> Result<Option<RawState<'r>>, Error> {
    Ok(column::<Option<Json<RawState<'r>>>>(row, index)?.map(|Json(state)| state))
}

impl Moment<'_> {
    pub fn write<'b>(&'b self, buffer: &'b mut MomentBuffer) -> Cow<'b, str> {
        match self {
            Self::Written(text) => Cow::Borrowed(text),
            Self::At(time) => written(*time, buffer).map_or_else(
                || Cow::Owned(time.to_rfc3339_opts(SecondsFormat::AutoSi, true)),
                |length| Cow::Borrowed(std::str::from_utf8(&buffer[..length]).expect("digits are ASCII")),
            ),
        }
    }
}

/// Writes an instant of the years 0 to 9999 in whole microseconds, which all are that PostgreSQL holds and people mean;
/// gives its length.
fn written(time: DateTime<Utc>, buffer: &mut MomentBuffer) -> Option<usize> {
    let (time, nanos) = (time.naive_utc(), time.nanosecond());
    let year = u32::try_from(time.year()).ok().filter(|year| *year <= 9999)?;
    if nanos % 1000 != 0 || nanos >= 1_000_000_000 {
        return None;
    }
    *buffer = *b"0000-00-00T00:00:00.000000Z";
    let mut put = |last: usize, digits: usize, mut value: u32| {
        for digit in buffer[last + 1 - digits..=last].iter_mut().rev() {
            *digit = b'0' + u8::try_from(value % 10).expect("a digit");
            value /= 10;
        }
    };
    put(3, 4, year);
    put(6, 2, time.month());
    put(9, 2, time.day());
    put(12, 2, time.hour());
    put(15, 2, time.minute());
    put(18, 2, time.second());
    put(25, 6, nanos / 1000);
    let length = match nanos {
        0 => 20,
        nanos if nanos % 1_000_000 == 0 => 24,
        _ => 27,
    };
    buffer[length - 1] = b'Z';
    Some(length)
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
        text.parse().map(Self::At).map_err(serde::de::Error::custom)
    }
}
