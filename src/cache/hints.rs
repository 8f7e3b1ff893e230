//! What this replica tells the others as soon as it has changed something, so that they need not wait until they look.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::serde::ts_microseconds;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::timeout;
use uuid::Uuid;

use super::freshness::Moment;
use crate::domain::ConsentRecord;
use crate::store::Store;
use crate::store::following::Told;

/// What has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// Consents: the trail says which, unless they are named.
    Consents,
    /// There are new customers.
    Customers,
    /// API keys, or what belongs to them.
    Keys,
    /// A sequence was behind its table: ids may have been drawn twice. The database sends it.
    Sequences,
    /// Nothing, but this replica is there, and wants to be told.
    Presence,
}

impl Hint {
    pub const ALL: [Self; 5] = [Self::Consents, Self::Customers, Self::Keys, Self::Sequences, Self::Presence];

    pub fn channel(self) -> &'static str {
        match self {
            Self::Consents => "consentd_consents",
            Self::Customers => "consentd_customers",
            Self::Keys => "consentd_keys",
            Self::Sequences => "consentd_sequences",
            Self::Presence => "consentd_replicas",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A version of a customer's consent that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub customer_id: Uuid,
    pub version: i32,
    /// In Unix microseconds.
    #[serde(with = "ts_microseconds")]
    pub changed_at: DateTime<Utc>,
}

impl Change {
    /// The one that made this consent what it is.
    pub fn to(record: &ConsentRecord) -> Option<Self> {
        let changed_at = record.consent_updated_at?;
        Some(Self { customer_id: record.customer_id, version: record.version, changed_at })
    }
}

/// What is sent on a hint's channel, as JSON.
#[derive(Debug, Serialize, Deserialize)]
struct Message {
    /// The replica that tells.
    by: Uuid,
    /// All that has changed; absent where that is too much, or is not about consents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    changes: Option<Vec<Change>>,
}

/// What another replica has told.
#[derive(Debug, PartialEq, Eq)]
pub struct Heard {
    pub hint: Hint,
    /// Of consents, all that have changed; where it is not known, the trail says which.
    pub changes: Option<Vec<Change>>,
}

/// PostgreSQL takes less than 8,000 bytes; a change has 106 at most.
const MAX_CHANGES: usize = 70;

/// A replica that has told nothing for so long says that it is there.
const SAY_EVERY: Duration = Duration::from_secs(1);
/// How long another one counts as being there after it was heard.
const PRESENT_FOR: Duration = Duration::from_secs(3);

/// What is still to be told. However much changes, one statement at a time tells of it.
#[derive(Debug)]
pub struct Hints {
    /// What this replica is called by the others. Chosen at random at each start.
    replica: Uuid,
    untold: Mutex<Untold>,
    wake: Notify,
    /// A `Moment`: when another replica was heard last, or might have been there unheard.
    others: AtomicU64,
}

#[derive(Debug, Default)]
struct Untold {
    hints: u8,
    /// As many as fit; where `hints` has the consents, there are others too.
    changes: Vec<Change>,
}

impl Hints {
    pub fn of_a_new_replica() -> Self {
        Self {
            replica: Uuid::new_v4(),
            untold: Mutex::default(),
            wake: Notify::new(),
            others: AtomicU64::new(Moment::now().to_bits()),
        }
    }

    /// There are others, or it is not known that there are none.
    pub fn presume_others(&self) {
        self.others.store(Moment::now().to_bits(), Release);
    }

    /// Others who come now are heard in a moment, and look by themselves until then.
    fn is_alone(&self) -> bool {
        Moment::now().since(Moment::from_bits(self.others.load(Acquire))) >= PRESENT_FOR
    }

    fn untold(&self) -> MutexGuard<'_, Untold> {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Costs next to nothing, and never waits.
    pub fn tell(&self, hint: Hint) {
        self.untold().hints |= hint.bit();
        self.wake.notify_one();
    }

    /// Tells of consents that have changed. Costs next to nothing, and never waits.
    pub fn tell_of(&self, changes: impl Iterator<Item = Change>) {
        // A transaction for each change is a good part of what the change costs where there is one caller.
        if self.is_alone() {
            return;
        }
        let mut untold = self.untold();
        for change in changes {
            if untold.changes.len() == MAX_CHANGES {
                untold.hints |= Hint::Consents.bit();
                break;
            }
            untold.changes.push(change);
        }
        drop(untold);
        self.wake.notify_one();
    }

    /// Tells the other replicas, for as long as it is polled.
    pub async fn run(&self, store: &Store) {
        let mut session = store.session();
        loop {
            if timeout(SAY_EVERY, self.wake.notified()).await.is_err() {
                self.untold().hints |= Hint::Presence.bit();
            }
            let untold = std::mem::take(&mut *self.untold());
            let messages = self.messages(untold);
            if messages.is_empty() {
                continue;
            }
            if let Err(error) = session.tell(messages).await {
                // The others look by themselves.
                tracing::debug!(%error, "could not tell the other replicas of a change");
            }
        }
    }

    fn messages(&self, Untold { hints, changes }: Untold) -> Vec<Told> {
        let told = |hint: Hint, changes| {
            let message = Message { by: self.replica, changes };
            let payload = serde_json::to_string(&message).expect("a message is JSON");
            Told { channel: hint.channel().to_owned(), payload }
        };
        let is_told = |hint: &Hint| hints & hint.bit() != 0;
        let mut messages: Vec<_> =
            Hint::ALL.into_iter().filter(is_told).map(|hint| told(hint, None)).collect();
        if !changes.is_empty() && !is_told(&Hint::Consents) {
            messages.push(told(Hint::Consents, Some(changes)));
        }
        messages
    }

    /// What another replica meant; `None` for what this one has told itself.
    pub fn understand(&self, told: &Told) -> Option<Heard> {
        let hint = Hint::ALL.into_iter().find(|hint| hint.channel() == told.channel)?;
        let changes = match serde_json::from_str::<Message>(&told.payload) {
            Ok(message) if message.by == self.replica => return None,
            Ok(message) => message.changes,
            // Of another version of the service: what has changed can be read from the trail.
            Err(_) => None,
        };
        self.presume_others();
        Some(Heard { hint, changes })
    }
}
