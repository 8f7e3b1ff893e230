//! Giving, changing and withdrawing consent.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::domain::{Consent, ConsentRecord, ConsentTier, Precondition};
use crate::store::consents::Attribution;

pub mod fold;
mod writer;

pub use writer::{Lanes, Writer};

/// What somebody wants the consent to be.
#[derive(Clone, Debug)]
pub enum Decision {
    /// It replaces the whole consent.
    Put(Consent),
    /// Tier `none`; nothing to do where nothing is given.
    Withdraw {
        /// The version of the text that it was made on, where there was one.
        policy_version: Option<String>,
    },
    /// Its end has come: the sweep's, to be recorded once.
    Expire,
}

impl Decision {
    /// Whether it leaves nothing that is permitted.
    pub fn is_withdrawal(&self) -> bool {
        match self {
            Self::Put(consent) => consent.get().consent_tier == ConsentTier::None,
            Self::Withdraw { .. } => true,
            Self::Expire => false,
        }
    }
}

/// A decision on one consent, and all that it depends on.
#[derive(Clone, Debug)]
pub struct Request {
    pub customer_id: Uuid,
    pub decision: Decision,
    pub precondition: Precondition,
    pub by: Attribution,
    pub now: DateTime<Utc>,
}

/// The consent as it stands after a decision.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub record: ConsentRecord,
    /// The decision made a new version.
    pub changed: bool,
    /// It is the customer's first.
    pub created: bool,
    /// The leaf which the log will have for it; none if nothing changed.
    pub leaf: Option<Vec<u8>>,
}
