//! What every page of the console has: the way to the others, who is signed in, and the state of the log.

use chrono::{DateTime, TimeDelta, Utc};

use super::session::Visitor;
use crate::domain::Scope;
use crate::error::Error;
use crate::http::AppState;
use crate::http::pages::filters::grouped;
use crate::ops::log::LogState;
use crate::store::log::reading::StoredVerification;

/// Where one can go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Overview,
    Trail,
    Customers,
    Expiring,
    Integrity,
    Keys,
}

impl Place {
    const ALL: [Self; 6] =
        [Self::Overview, Self::Trail, Self::Customers, Self::Expiring, Self::Integrity, Self::Keys];

    pub fn title(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Trail => "Audit trail",
            Self::Customers => "Customers",
            Self::Expiring => "Expiring",
            Self::Integrity => "Integrity",
            Self::Keys => "API keys",
        }
    }

    pub fn path(self) -> &'static str {
        match self {
            Self::Overview => "/console",
            Self::Trail => "/console/audit",
            Self::Customers => "/console/customers",
            Self::Expiring => "/console/expiring",
            Self::Integrity => "/console/integrity",
            Self::Keys => "/console/keys",
        }
    }

    /// The scope without which the place is not shown.
    fn scope(self) -> Scope {
        if self == Self::Keys { Scope::Admin } else { Scope::AuditRead }
    }
}

/// What a page stands in.
#[derive(Debug)]
pub struct Shell {
    pub place: Place,
    pub places: Vec<Place>,
    pub visitor: String,
    pub badge: Badge,
    pub now: DateTime<Utc>,
}

impl Shell {
    pub async fn new(state: &AppState, visitor: &Visitor, place: Place) -> Result<Self, Error> {
        visitor.must(place.scope())?;
        let now = (state.clock)();
        let last = state.store.last_verification().await?;
        Ok(Self {
            place,
            places: Place::ALL.into_iter().filter(|place| visitor.may(place.scope())).collect(),
            visitor: visitor.name(),
            badge: Badge::new(&state.log.get(), last.as_ref(), now),
            now,
        })
    }
}

/// The state of the log in a few words. Its sign and its words tell the same as its colour.
#[derive(Debug)]
pub struct Badge {
    pub condition: Condition,
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    Good,
    /// Nothing is known to be wrong, and too little is known.
    Unsure,
    Bad,
}

impl Condition {
    pub fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Unsure => "unsure",
            Self::Bad => "bad",
        }
    }

    pub fn sign(self) -> &'static str {
        match self {
            Self::Good => "✓",
            Self::Unsure => "?",
            Self::Bad => "✕",
        }
    }
}

/// The log is verified once a day: what is older than this is overdue.
const OVERDUE: TimeDelta = TimeDelta::hours(25);

impl Badge {
    pub fn new(log: &LogState, last: Option<&StoredVerification>, now: DateTime<Utc>) -> Self {
        let badge = |condition, text| Self { condition, text };
        if log.fork.is_some() {
            return badge(Condition::Bad, "Log is forked".to_owned());
        }
        let Some(last) = last else {
            return badge(Condition::Unsure, "Never verified".to_owned());
        };
        let age = now - last.started_at;
        match last.result.as_str() {
            "tampering" => {
                let place = last.findings[0]["place"].as_str().unwrap_or("an unknown place");
                badge(Condition::Bad, format!("Broken at {place}"))
            }
            _ if age > OVERDUE => badge(Condition::Unsure, format!("Not verified for {}", span(age))),
            "clean" => {
                let day = if last.started_at.date_naive() == now.date_naive() { "" } else { "%Y-%m-%d " };
                let time = last.started_at.format(&format!("{day}%H:%MZ")).to_string();
                let root =
                    log.checkpoint.as_ref().map(|(checkpoint, _)| short_root(checkpoint)).unwrap_or_default();
                let entries = if last.tree_size == 1 {
                    "1 entry".to_owned()
                } else {
                    format!("{} entries", grouped(last.tree_size))
                };
                badge(Condition::Good, format!("Verified {time} · {entries}{root}"))
            }
            _ => badge(Condition::Unsure, "Verified without a checkpoint from outside".to_owned()),
        }
    }
}

fn short_root(checkpoint: &crate::tlog::Checkpoint) -> String {
    let hash = crate::domain::hex(checkpoint.root.as_bytes());
    format!(" · {}", &hash[..8])
}

/// `2 h`, `3 d`.
fn span(time: TimeDelta) -> String {
    if time < TimeDelta::days(2) {
        format!("{} h", time.num_hours())
    } else {
        format!("{} d", time.num_days())
    }
}
