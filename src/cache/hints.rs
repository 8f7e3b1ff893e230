//! What this replica tells the others as soon as it has changed something, so that they need not wait until they look.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};
use std::sync::atomic::{AtomicU8, AtomicU64};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::freshness::Moment;
use crate::store::Store;

/// What has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// Consents: the trail says which.
    Consents,
    /// There are new customers.
    Customers,
    /// API keys, or what belongs to them.
    Keys,
    /// Nothing, but this replica is there, and wants to be told.
    Presence,
}

impl Hint {
    pub const ALL: [Self; 4] = [Self::Consents, Self::Customers, Self::Keys, Self::Presence];

    pub fn channel(self) -> &'static str {
        match self {
            Self::Consents => "consentd_consents",
            Self::Customers => "consentd_customers",
            Self::Keys => "consentd_keys",
            Self::Presence => "consentd_replicas",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// Shorter than anybody would notice, long enough for what changes at the same time to be told together.
const PAUSE: Duration = Duration::from_millis(1);

/// A replica that has told nothing for so long says that it is there.
const SAY_EVERY: Duration = Duration::from_secs(1);
/// How long another one counts as being there after it was heard.
const PRESENT_FOR: Duration = Duration::from_secs(3);

/// What is still to be told. However much changes, one statement at a time tells of it.
#[derive(Debug)]
pub struct Hints {
    /// What this replica is called by the others. Chosen at random at each start.
    replica: String,
    bits: AtomicU8,
    wake: Notify,
    /// A `Moment`: when another replica was heard last, or might have been there unheard.
    others: AtomicU64,
}

impl Hints {
    pub fn of_a_new_replica() -> Self {
        Self {
            replica: Uuid::new_v4().to_string(),
            bits: AtomicU8::new(0),
            wake: Notify::new(),
            others: AtomicU64::new(Moment::now().to_bits()),
        }
    }

    /// Whether it was this replica which told.
    pub fn are_told_by(&self, replica: &str) -> bool {
        self.replica == replica
    }

    /// There are others, or it is not known that there are none.
    pub fn presume_others(&self) {
        self.others.store(Moment::now().to_bits(), Release);
    }

    /// Others who come now are heard in a moment, and look by themselves until then.
    fn is_alone(&self) -> bool {
        Moment::now().since(Moment::from_bits(self.others.load(Acquire))) >= PRESENT_FOR
    }

    /// Costs next to nothing, and never waits.
    pub fn tell(&self, hint: Hint) {
        // A transaction for each change is a good part of what the change costs where there is one caller.
        if hint == Hint::Consents && self.is_alone() {
            return;
        }
        if self.bits.fetch_or(hint.bit(), AcqRel) & hint.bit() == 0 {
            self.wake.notify_one();
        }
    }

    /// Tells the other replicas, for as long as it is polled.
    pub async fn run(&self, store: &Store) {
        let mut session = store.session();
        loop {
            if timeout(SAY_EVERY, self.wake.notified()).await.is_err() {
                self.bits.fetch_or(Hint::Presence.bit(), AcqRel);
            }
            let bits = self.bits.swap(0, AcqRel);
            let channels: Vec<&str> =
                Hint::ALL.iter().filter(|hint| bits & hint.bit() != 0).map(|hint| hint.channel()).collect();
            if channels.is_empty() {
                continue;
            }
            if let Err(error) = session.tell(&channels, &self.replica).await {
                // The others look by themselves.
                tracing::debug!(%error, "could not tell the other replicas of a change");
            }
            sleep(PAUSE).await;
        }
    }
}
