//! What is held of a customer, in six words.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::freshness::Moment;
use super::table::Entry;
use crate::domain::{AnonymizationLevel, ConsentRecord, ConsentTier};

/// What stands for a customer: a consent, the mark of one that is awaited, or that there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held(Entry);

// The first word: the version in 32 bits, then
const KIND: u32 = 32; // 2 bits
const TIER: u32 = 34; // 2 bits
const LEVEL: u32 = 36; // 2 bits
const IMAGES: u32 = 38;
const EMBEDDINGS: u32 = 39;
const TRAINING: u32 = 40;
const POLICY: u32 = 48; // 16 bits: which of the policies' versions
// The other words.
const SESSION: usize = 1;
const EXPIRES_AT: usize = 2;
const AUDIT_ID: usize = 3;
const GRANTED_AT: usize = 4;
const UPDATED_AT: usize = 5;
// Of a customer who is unknown: when that was found, and how many arrivals had been told of before.
const FOUND_AT: usize = 2;
const ARRIVALS: usize = 3;

const AWAITED: u64 = 1;
const UNKNOWN: u64 = 2;
const RECORD: u64 = 3;

/// No time: PostgreSQL's own times end long before.
const NEVER: i64 = i64::MIN;

impl Held {
    pub fn awaited(session: u32) -> Self {
        Self([AWAITED << KIND, u64::from(session), 0, 0, 0, 0])
    }

    pub fn unknown(session: u32, arrivals: u32, found_at: Moment) -> Self {
        Self([UNKNOWN << KIND, u64::from(session), found_at.to_bits(), u64::from(arrivals), 0, 0])
    }

    pub fn record(record: &ConsentRecord, session: u32, policies: &Policies) -> Self {
        let level = AnonymizationLevel::ALL.iter().position(|level| *level == record.anonymization_level);
        let first = u64::from(record.version.cast_unsigned())
            | RECORD << KIND
            | (record.consent_tier as u64) << TIER
            | (level.unwrap_or(0) as u64) << LEVEL
            | u64::from(record.can_store_images) << IMAGES
            | u64::from(record.can_store_embeddings) << EMBEDDINGS
            | u64::from(record.can_use_for_training) << TRAINING
            | u64::from(policies.number(record.policy_version.as_deref())) << POLICY;
        let time =
            |time: Option<DateTime<Utc>>| time.map_or(NEVER, |time| time.timestamp_micros()).cast_unsigned();
        Self([
            first,
            u64::from(session),
            time(record.expires_at),
            record.audit_id.unwrap_or(0).cast_unsigned(),
            time(record.consent_granted_at),
            time(record.consent_updated_at),
        ])
    }

    pub fn pack(self) -> Entry {
        self.0
    }

    pub fn unpack(entry: Entry) -> Self {
        Self(entry)
    }

    fn bits(self, at: u32, count: u32) -> u64 {
        self.0[0] >> at & ((1 << count) - 1)
    }

    fn is(self, kind: u64, session: u32) -> bool {
        self.bits(KIND, 2) == kind && self.0[SESSION] == u64::from(session)
    }

    pub fn is_awaited(self, session: u32) -> bool {
        self.is(AWAITED, session)
    }

    pub fn is_record(self, session: u32) -> bool {
        self.is(RECORD, session)
    }

    pub fn is_unknown(self, session: u32, arrivals: u32, now: Moment, lately: Duration) -> bool {
        self.is(UNKNOWN, session)
            && self.0[ARRIVALS] == u64::from(arrivals)
            && now.since(Moment::from_bits(self.0[FOUND_AT])) < lately
    }

    pub fn version(self) -> i32 {
        u32::try_from(self.bits(0, 32)).unwrap_or(0).cast_signed()
    }

    /// The record, but for the policy's version, on which no permission depends.
    pub fn permissions(self, customer_id: Uuid) -> ConsentRecord {
        let index = |at| usize::try_from(self.bits(at, 2)).unwrap_or(0);
        let time = |word: usize| {
            let micros = self.0[word].cast_signed();
            (micros != NEVER).then(|| DateTime::from_timestamp_micros(micros)).flatten()
        };
        ConsentRecord {
            customer_id,
            consent_tier: ConsentTier::ALL[index(TIER)],
            can_store_images: self.bits(IMAGES, 1) == 1,
            can_store_embeddings: self.bits(EMBEDDINGS, 1) == 1,
            can_use_for_training: self.bits(TRAINING, 1) == 1,
            anonymization_level: AnonymizationLevel::ALL[index(LEVEL)],
            policy_version: None,
            consent_granted_at: time(GRANTED_AT),
            consent_updated_at: time(UPDATED_AT),
            expires_at: time(EXPIRES_AT),
            version: self.version(),
            audit_id: Some(self.0[AUDIT_ID].cast_signed()).filter(|id| *id != 0),
        }
    }

    /// The whole record; `None` where the policy's version is not held.
    pub fn whole(self, customer_id: Uuid, policies: &Policies) -> Option<ConsentRecord> {
        let number = u16::try_from(self.bits(POLICY, 16)).unwrap_or(NOT_HELD);
        let policy_version = policies.name(number).ok()?;
        Some(ConsentRecord { policy_version, ..self.permissions(customer_id) })
    }
}

const NO_POLICY: u16 = 0;
const NOT_HELD: u16 = u16::MAX;
/// Policies' versions are few; where clients make up ever new ones, those beyond this many are not held.
const MAX_POLICIES: usize = 4096;

/// The versions of policies, each held once.
#[derive(Debug, Default)]
pub struct Policies {
    held: RwLock<Names>,
}

#[derive(Debug, Default)]
struct Names {
    list: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, u16>,
}

/// The version of a policy is none of those that are held.
#[derive(Debug)]
struct NotHeld;

impl Policies {
    fn number(&self, name: Option<&str>) -> u16 {
        let Some(name) = name else { return NO_POLICY };
        if let Some(number) = self.held.read().unwrap_or_else(PoisonError::into_inner).numbers.get(name) {
            return *number;
        }
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = held.numbers.get(name) {
            return *number;
        }
        if held.list.len() >= MAX_POLICIES {
            return NOT_HELD;
        }
        let name: Arc<str> = name.into();
        held.list.push(Arc::clone(&name));
        let number = u16::try_from(held.list.len()).unwrap_or(NOT_HELD);
        held.numbers.insert(name, number);
        number
    }

    fn name(&self, number: u16) -> Result<Option<String>, NotHeld> {
        match number {
            NO_POLICY => Ok(None),
            NOT_HELD => Err(NotHeld),
            number => {
                let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
                let name = held.list.get(usize::from(number) - 1).ok_or(NotHeld)?;
                Ok(Some(name.as_ref().to_owned()))
            }
        }
    }
}
