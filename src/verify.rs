//! Verification of the audit log, by rules that need no trust in the database.
//!
//! | part | holds |
//! | --- | --- |
//! | [`tree`] | leaves into the tree again, against everything that was signed or stored of it |
//! | [`ledger`] | what the leaves tell: versions, times, erasures |
//! | [`outside`] | checkpoints and receipts from elsewhere |
//! | [`directory`] | a log in files: needs neither database nor service |
//! | [`database`] | the log in its database, held against the rows that it is about |
//! | [`proof_file`] | one entry's proof |

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer};

pub mod database;
pub mod directory;
pub mod ledger;
pub mod outside;
pub mod proof_file;
pub mod tree;

/// What must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    V1,
    V2,
    V3,
    V4,
    V5,
    V6,
    V7,
    V8,
    V9,
    V10,
    V11,
    V12,
}

impl Rule {
    pub fn title(self) -> &'static str {
        match self {
            Self::V1 => "origin and keys are the configured ones",
            Self::V2 => "the leaves have no gap",
            Self::V3 => "root and tiles are those of the leaves",
            Self::V4 => "checkpoints are signed, and recent",
            Self::V5 => "every checkpoint is a prefix of the tree",
            Self::V6 => "the stored leaves hash to the leaf hashes",
            Self::V7 => "every row is what its leaf says",
            Self::V8 => "personal fields open their commitments, or are erased by a sealed erasure",
            Self::V9 => "nothing stays unsealed, nothing is in quarantine",
            Self::V10 => "each customer's versions are 1 to n, and end at the consent",
            Self::V11 => "receipts are kept",
            Self::V12 => "times are in order",
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl Serialize for Rule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A rule that does not hold somewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub rule: Rule,
    /// Leaf, entry, checkpoint, file …
    pub place: String,
    pub what: String,
}

/// How a verification ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Clean,
    Tampering,
    /// Nothing was found, and there was no checkpoint from outside: a history that was rewritten as a whole, by whoever has
    /// the log's key or an old backup, would look the same.
    Incomplete,
}

impl Verdict {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Tampering => "tampering",
            Self::Incomplete => "incomplete",
        }
    }
}

/// A tree that was gone through.
#[derive(Clone, Debug, Serialize)]
pub struct VerifiedLog {
    pub origin: String,
    pub tree_size: u64,
    pub root: String,
}

/// More findings than these are counted, not listed.
const LISTED: usize = 100_000;

/// What was gone through, and what was found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    pub logs: Vec<VerifiedLog>,
    /// Leaves that were read now; fewer than the tree has when the rest was verified before.
    pub leaves: u64,
    /// Of them, those which the service vouches for.
    pub vouched_for: u64,
    pub customers: u64,
    pub erased_fields: u64,
    /// How many checkpoints and receipts from outside the trees were held against.
    pub outside_checkpoints: u64,
    pub receipts: u64,
    pub findings: Vec<Finding>,
    pub findings_in_all: u64,
    /// What is no finding, and worth knowing.
    pub remarks: Vec<String>,
}

impl Report {
    pub fn find(&mut self, rule: Rule, place: impl Into<String>, what: impl Into<String>) {
        self.findings_in_all += 1;
        if self.findings.len() < LISTED {
            self.findings.push(Finding { rule, place: place.into(), what: what.into() });
        }
    }

    pub fn remark(&mut self, remark: impl Into<String>) {
        self.remarks.push(remark.into());
    }

    /// Adds the findings and remarks of another report.
    pub fn extend(&mut self, other: Self) {
        for finding in other.findings {
            self.find(finding.rule, finding.place, finding.what);
        }
        self.remarks.extend(other.remarks);
    }

    pub fn verdict(&self) -> Verdict {
        if self.findings_in_all > 0 {
            Verdict::Tampering
        } else if self.outside_checkpoints == 0 {
            Verdict::Incomplete
        } else {
            Verdict::Clean
        }
    }
}

/// Told how far it is: leaves done, leaves in all.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) + Sync);

/// Times may differ between machines by this much.
pub const CLOCK_SKEW: chrono::TimeDelta = chrono::TimeDelta::seconds(60);

/// What a verification is held against.
#[derive(Debug)]
pub struct Standards {
    pub keys: Keys,
    pub checkpoints: Vec<outside::OutsideCheckpoint>,
    pub receipts: Vec<outside::OutsideReceipt>,
    /// Where to begin: everything before this checkpoint was verified then.
    pub since: Option<outside::OutsideCheckpoint>,
    pub now: DateTime<Utc>,
}

/// Which keys are believed.
#[derive(Clone, Debug)]
pub enum Keys {
    /// Those that sign and those that did, of which the public ones follow under any name.
    Own { signers: Vec<crate::tlog::SigningKey>, retired: Vec<crate::tlog::RetiredKey> },
    /// Public ones, under their names.
    Given(Vec<crate::tlog::VerifierKey>),
}

impl Keys {
    /// Those of a log.
    pub fn of(&self, origin: &str) -> Vec<crate::tlog::VerifierKey> {
        match self {
            Self::Own { signers, retired } => {
                let signers = signers.iter().map(|key| key.verifier_key(origin));
                let retired = retired.iter().map(|key| key.verifier_key(origin));
                signers.chain(retired).filter_map(Result::ok).collect()
            }
            Self::Given(keys) => keys.iter().filter(|key| key.name() == origin).cloned().collect(),
        }
    }
}
