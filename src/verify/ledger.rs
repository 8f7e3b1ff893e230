//! What the leaves tell, taken together: versions, times, erasures.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::{CLOCK_SKEW, Report, Rule};
use crate::domain::{
    CONSENT_CHANGED, Erasure, ForeignVersion, LOG_OPENED, Leaf, LogOpening, PII_ERASED, PersonalField,
    PreviousLog, QUARANTINE_RESOLVED, QuarantineResolution, Source,
};

/// One customer's versions so far.
#[derive(Clone, Debug, Default)]
struct Versions {
    /// Everything up to and including this is there.
    through: i32,
    ahead: BTreeSet<i32>,
    last_time: Option<DateTime<Utc>>,
    /// The last version that took the consent away with its customer; 0 where none did.
    ended: i32,
}

/// Versions that a consent never was at: they use up numbers, and say nothing of the consent.
type Foreign = BTreeSet<i32>;

static NONE_FOREIGN: Foreign = BTreeSet::new();

impl Versions {
    /// Returns the last version that is the consent's own.
    fn last(&self, foreign: &Foreign) -> i32 {
        let own = self.ahead.iter().rev().find(|version| !foreign.contains(version));
        own.copied().unwrap_or_else(|| {
            let mut last = self.through;
            while last > 0 && foreign.contains(&last) {
                last -= 1;
            }
            last
        })
    }
}

/// A version whose time is before that of the version before it.
#[derive(Clone, Debug)]
struct Disorder {
    customer_id: Uuid,
    version: i32,
    audit_id: i64,
    timestamp: DateTime<Utc>,
}

/// A version as an entry tells it.
#[derive(Clone, Debug)]
pub struct VersionTold {
    pub customer_id: Uuid,
    pub audit_id: i64,
    pub version: i32,
    pub action: String,
    pub timestamp: DateTime<Utc>,
}

#[derive(Debug, Default)]
pub struct Ledger {
    customers: HashMap<Uuid, Versions>,
    foreign: HashMap<Uuid, Foreign>,
    erasures: BTreeMap<PersonalField, Vec<[i64; 2]>>,
    /// Entries in quarantine that an operator resolved, by the log's word.
    resolved: BTreeSet<i64>,
    /// To be reported once it is known which versions are foreign.
    disorders: Vec<Disorder>,
    opening: Option<LogOpening>,
    /// Entries up to this one were there before any log was.
    pub adopted_through: i64,
    /// Verification begins in the middle: a customer's first version that is seen need not be 1.
    partial: bool,
    now: DateTime<Utc>,
}

impl Ledger {
    pub fn new(now: DateTime<Utc>, partial: bool) -> Self {
        Self { partial, now, ..Self::default() }
    }

    /// Reads a leaf, and checks what can be checked of it alone or with those before it.
    pub fn add(&mut self, origin: &str, index: u64, bytes: &[u8], report: &mut Report) -> Option<Leaf> {
        let place = || format!("leaf {index} of {origin}");
        let leaf = match Leaf::parse(bytes) {
            Ok(leaf) => leaf,
            Err(why) => {
                report.find(Rule::V6, place(), format!("it cannot be read: {why}"));
                return None;
            }
        };
        report.leaves += 1;
        report.vouched_for += u64::from(leaf.src == Source::Service);
        if index == 0 || leaf.event == LOG_OPENED {
            self.opened(origin, index, &leaf, report);
        }
        if leaf.timestamp > self.now + CLOCK_SKEW {
            report.find(Rule::V12, place(), format!("its time {} lies in the future", leaf.timestamp));
        }
        if leaf.event == PII_ERASED {
            self.erased(&leaf, place(), report);
        }
        if leaf.event == QUARANTINE_RESOLVED {
            self.resolution(&leaf, place(), report);
        }
        if leaf.event == CONSENT_CHANGED {
            match (leaf.customer_id, leaf.version, &leaf.action) {
                (Some(customer_id), Some(version), Some(action)) => {
                    let told = VersionTold {
                        customer_id,
                        audit_id: leaf.audit_id,
                        version,
                        action: action.clone(),
                        timestamp: leaf.timestamp,
                    };
                    self.version(&told, report);
                }
                _ => report.find(
                    Rule::V6,
                    place(),
                    "a change of a consent names its customer, version and action",
                ),
            }
        }
        Some(leaf)
    }

    fn opened(&mut self, origin: &str, index: u64, leaf: &Leaf, report: &mut Report) {
        let place = format!("leaf {index} of {origin}");
        let details = leaf.details.clone().unwrap_or_default();
        let opening: Option<LogOpening> =
            (leaf.event == LOG_OPENED).then(|| serde_json::from_value(details).ok()).flatten();
        let Some(opening) = opening.filter(|opening| index == 0 && opening.origin == origin) else {
            report.find(Rule::V1, place, "a log begins with one log.opened leaf, which names the log");
            return;
        };
        if leaf.src != Source::Service {
            report.find(Rule::V1, place, "the service does not vouch for the opening of this log");
        }
        self.adopted_through = self.adopted_through.max(opening.adopted_through);
        self.opening = Some(opening);
    }

    /// Where the log before the one whose leaves were read last ended, by its own word.
    pub fn previous(&self) -> Option<&PreviousLog> {
        self.opening.as_ref().and_then(|opening| opening.previous.as_ref())
    }

    fn erased(&mut self, leaf: &Leaf, place: String, report: &mut Report) {
        match serde_json::from_value::<Erasure>(leaf.details.clone().unwrap_or_default()) {
            Ok(_) if leaf.src != Source::Service => {
                report.find(Rule::V8, place, "the service does not vouch for this erasure");
            }
            Ok(erasure) => {
                for field in erasure.fields {
                    self.erasures.entry(field).or_default().extend(&erasure.entries);
                }
            }
            Err(error) => report.find(Rule::V8, place, format!("the erasure cannot be read: {error}")),
        }
    }

    /// Takes up an event that resolved entries in quarantine: the service must vouch for it.
    pub fn resolution(&mut self, leaf: &Leaf, place: String, report: &mut Report) {
        match serde_json::from_value::<QuarantineResolution>(leaf.details.clone().unwrap_or_default()) {
            Ok(_) if leaf.src != Source::Service => {
                report.find(Rule::V9, place, "the service does not vouch for this resolution");
            }
            Ok(resolution) => {
                for entry in resolution.entries {
                    self.resolved.insert(entry.audit_id);
                    if let Some(foreign) = entry.foreign_version {
                        self.foreign(foreign);
                    }
                }
            }
            Err(error) => report.find(Rule::V9, place, format!("the resolution cannot be read: {error}")),
        }
    }

    /// Returns whether a sealed event resolved what was found of this entry.
    pub fn is_resolved(&self, audit_id: i64) -> bool {
        self.resolved.contains(&audit_id)
    }

    /// Takes up a version that is not its customer's, and that is resolved or found by itself.
    pub fn foreign(&mut self, foreign: ForeignVersion) {
        self.foreign.entry(foreign.customer_id).or_default().insert(foreign.version);
    }

    fn foreign_of(&self, customer_id: Uuid) -> &Foreign {
        self.foreign.get(&customer_id).unwrap_or(&NONE_FOREIGN)
    }

    /// A version of a customer's consent: none twice, none skipped, none before the one before it.
    pub fn version(&mut self, told: &VersionTold, report: &mut Report) {
        let partial = self.partial;
        let versions = self.customers.entry(told.customer_id).or_insert_with(|| Versions {
            through: if partial { told.version - 1 } else { 0 },
            ..Versions::default()
        });
        let place = || format!("entry {} of customer {}", told.audit_id, told.customer_id);
        if told.version <= versions.through || versions.ahead.contains(&told.version) {
            report.find(Rule::V10, place(), format!("version {} is there twice", told.version));
            return;
        }
        if told.version != versions.through + 1 {
            versions.ahead.insert(told.version);
            return;
        }
        if told.action == "erased" {
            versions.ended = told.version;
        }
        versions.through = told.version;
        while versions.ahead.remove(&(versions.through + 1)) {
            versions.through += 1;
        }
        if versions.last_time.is_some_and(|last| told.timestamp < last) {
            self.disorders.push(Disorder {
                customer_id: told.customer_id,
                version: told.version,
                audit_id: told.audit_id,
                timestamp: told.timestamp,
            });
        }
        versions.last_time = Some(told.timestamp);
    }

    pub fn customers(&self) -> u64 {
        self.customers.len() as u64
    }

    pub fn customer_ids(&self) -> Vec<Uuid> {
        self.customers.keys().copied().collect()
    }

    /// No gap in what was told of each customer, and no version before the one before it. To be called when all foreign
    /// versions are known.
    pub fn find_gaps(&mut self, report: &mut Report) {
        for disorder in std::mem::take(&mut self.disorders) {
            let foreign = self.foreign_of(disorder.customer_id);
            if !foreign.contains(&disorder.version) && !foreign.contains(&(disorder.version - 1)) {
                report.find(
                    Rule::V12,
                    format!("entry {} of customer {}", disorder.audit_id, disorder.customer_id),
                    format!("its time {} is before its predecessor's", disorder.timestamp),
                );
            }
        }
        for (customer_id, versions) in &self.customers {
            let foreign = self.foreign_of(*customer_id);
            let mut own = versions.ahead.iter().filter(|version| !foreign.contains(version));
            if let Some(next) = own.next() {
                report.find(
                    Rule::V10,
                    format!("customer {customer_id}"),
                    format!("version {} is missing, before version {next}", versions.through + 1),
                );
            }
        }
    }

    /// Holds a customer's consent against what was told of it; afterwards the customer is done with.
    pub fn consent(&mut self, customer_id: Uuid, version: i32, report: &mut Report) {
        match self.customers.remove(&customer_id) {
            None if version == 0 || self.partial => {}
            None => report.find(
                Rule::V10,
                format!("customer {customer_id}"),
                format!("the consent is at version {version}, and there is no entry"),
            ),
            Some(versions) => {
                let last = versions.last(self.foreign_of(customer_id));
                if version != last {
                    report.find(
                        Rule::V10,
                        format!("customer {customer_id}"),
                        format!("the consent is at version {version}, and the entries end at {last}"),
                    );
                }
            }
        }
    }

    /// Customers whose consent was not there, although nothing says that it was taken away.
    pub fn consents_missing(&self, report: &mut Report) {
        for (customer_id, versions) in &self.customers {
            let last = versions.last(self.foreign_of(*customer_id));
            if last != versions.ended {
                report.find(
                    Rule::V10,
                    format!("customer {customer_id}"),
                    format!("the entries end at version {last}, and there is no consent"),
                );
            }
        }
    }

    /// Fields that are gone, and that no erasure in the log names.
    pub fn find_unerased(&mut self, gone: &[(i64, PersonalField)], report: &mut Report) {
        for ranges in self.erasures.values_mut() {
            ranges.sort_unstable();
            // Overlapping ranges become one, so that one look tells.
            let mut merged: Vec<[i64; 2]> = Vec::with_capacity(ranges.len());
            for [first, last] in ranges.drain(..) {
                match merged.last_mut() {
                    Some([_, end]) if first <= *end => *end = (*end).max(last),
                    _ => merged.push([first, last]),
                }
            }
            *ranges = merged;
        }
        for (audit_id, field) in gone {
            let named = self.erasures.get(field).is_some_and(|ranges| {
                let at = ranges.partition_point(|[first, _]| first <= audit_id);
                at > 0 && ranges[at - 1][1] >= *audit_id
            });
            if named {
                report.erased_fields += 1;
            } else {
                report.find(
                    Rule::V8,
                    format!("entry {audit_id}"),
                    format!("{} is gone, and no erasure in the log names it", field.as_str()),
                );
            }
        }
    }
}

/// How long an entry may wait to be sealed, and a tree to be signed.
pub const LONGEST_WAIT: TimeDelta = TimeDelta::seconds(60);
