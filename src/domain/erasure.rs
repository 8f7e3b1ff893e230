//! What the log's own events tell: what was erased, and which log follows which.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::leaf::PersonalField;

/// The columns of a customer's own row which tell of a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CustomerField {
    Email,
    CompanyName,
    CustomerMetadata,
}

impl CustomerField {
    pub const ALL: [Self; 3] = [Self::Email, Self::CompanyName, Self::CustomerMetadata];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Email => "email",
            Self::CompanyName => "company_name",
            Self::CustomerMetadata => "customer_metadata",
        }
    }
}

/// The details of a `pii.erased` event: of these entries, these fields are gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Erasure {
    pub legal_basis: String,
    pub fields: Vec<PersonalField>,
    /// Audit ids, as ranges with both ends included. An entry which never had a field is named without harm.
    pub entries: Vec<[i64; 2]>,
    /// Of the customer's own row.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub customer_fields: Vec<CustomerField>,
    /// The erasure that this one repeats on a restored backup: origin and position of its leaf.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replays: Option<String>,
}

/// Neighbouring ids as ranges. The ids must be in order.
pub fn ranges(ids: impl IntoIterator<Item = i64>) -> Vec<[i64; 2]> {
    let mut ranges: Vec<[i64; 2]> = Vec::new();
    for id in ids {
        match ranges.last_mut() {
            Some([_, last]) if *last + 1 == id => *last = id,
            _ => ranges.push([id, id]),
        }
    }
    ranges
}

/// The details of a `quarantine.resolved` event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuarantineResolution {
    pub entries: Vec<ResolvedEntry>,
}

/// An entry in quarantine that an operator has looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResolvedEntry {
    pub audit_id: i64,
    /// The version that the entry used up, where the consent never was at it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub foreign_version: Option<ForeignVersion>,
}

/// A number in a customer's trail that is no version of the customer's consent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForeignVersion {
    pub customer_id: Uuid,
    pub version: i32,
}

/// The details of a `log.opened` event, which is the first leaf of its log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogOpening {
    pub origin: String,
    /// Entries up to this one were there before any log was: nobody vouches for them.
    pub adopted_through: i64,
    /// Where the log before this one ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<PreviousLog>,
}

/// The last checkpoint of a log that cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PreviousLog {
    pub origin: String,
    pub tree_size: u64,
    /// The root hash in base64.
    pub root: String,
}
