//! What this replica tells the others as soon as it has changed something, so that they need not wait until they look.

use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::AcqRel;
use std::time::Duration;

use tokio::sync::Notify;
use uuid::Uuid;

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
}

impl Hint {
    pub const ALL: [Self; 3] = [Self::Consents, Self::Customers, Self::Keys];

    pub fn channel(self) -> &'static str {
        match self {
            Self::Consents => "consentd_consents",
            Self::Customers => "consentd_customers",
            Self::Keys => "consentd_keys",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// Shorter than anybody would notice, long enough for what changes at the same time to be told together.
const PAUSE: Duration = Duration::from_millis(1);

/// What is still to be told. However much changes, one statement at a time tells of it.
#[derive(Debug)]
pub struct Hints {
    /// What this replica is called by the others. Chosen at random at each start.
    replica: String,
    bits: AtomicU8,
    wake: Notify,
}

impl Hints {
    pub fn of_a_new_replica() -> Self {
        Self { replica: Uuid::new_v4().to_string(), bits: AtomicU8::new(0), wake: Notify::new() }
    }

    /// Whether it was this replica which told.
    pub fn are_told_by(&self, replica: &str) -> bool {
        self.replica == replica
    }

    /// Costs next to nothing, and never waits.
    pub fn tell(&self, hint: Hint) {
        if self.bits.fetch_or(hint.bit(), AcqRel) & hint.bit() == 0 {
            self.wake.notify_one();
        }
    }

    /// Tells the other replicas, for as long as it is polled.
    pub async fn run(&self, store: &Store) {
        loop {
            self.wake.notified().await;
            let bits = self.bits.swap(0, AcqRel);
            let channels: Vec<&str> =
                Hint::ALL.iter().filter(|hint| bits & hint.bit() != 0).map(|hint| hint.channel()).collect();
            if channels.is_empty() {
                continue;
            }
            if let Err(error) = store.tell(&channels, &self.replica).await {
                // The others look by themselves.
                tracing::debug!(%error, "could not tell the other replicas of a change");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}
