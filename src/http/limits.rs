//! Overload: only so much is worked on at once, little waits, and the rest is told at once to come back.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::telemetry;

/// Longer than a burst, shorter than what a caller takes for an outage.
const PATIENCE: Duration = Duration::from_millis(100);

/// A place among the requests that are worked on: given back when it is dropped.
#[derive(Debug)]
#[must_use = "the place is given back when this is dropped"]
pub struct Place(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

/// Exports that may run at once, if there are read connections for twice as many: each keeps one busy.
const EXPORTS: usize = 4;

/// Places for reads, for writes and for exports, counted apart: a flood of one does not starve the others.
#[derive(Clone, Debug)]
pub struct Gate {
    reads: Budget,
    writes: Budget,
    exports: Budget,
}

/// As many may wait as have a place. Whoever came behind them would wait in vain, and those who do so in their thousands
/// take the time in which others could be served: they are refused at once.
#[derive(Clone, Debug)]
struct Budget {
    kind: &'static str,
    places: Arc<Semaphore>,
    turns: Arc<Semaphore>,
}

impl Gate {
    pub fn new(reads: usize, writes: usize, read_connections: u32) -> Self {
        let exports = EXPORTS.min(read_connections as usize / 2);
        Self {
            reads: Budget::new("read", reads),
            writes: Budget::new("write", writes),
            exports: Budget::new("export", exports),
        }
    }

    /// A place for a read; `None` when none came free in time.
    pub async fn read(&self) -> Option<Place> {
        self.reads.enter().await
    }

    /// A place for a write; `None` when none came free in time.
    pub async fn write(&self) -> Option<Place> {
        self.writes.enter().await
    }

    /// A place for an export, to be kept until its last byte; `None` when none came free in time.
    pub async fn export(&self) -> Option<Place> {
        self.exports.enter().await
    }
}

impl Budget {
    fn new(kind: &'static str, places: usize) -> Self {
        let semaphore = || Arc::new(Semaphore::new(places.clamp(1, Semaphore::MAX_PERMITS)));
        Self { kind, places: semaphore(), turns: semaphore() }
    }

    async fn enter(&self) -> Option<Place> {
        if let Ok(permit) = Arc::clone(&self.places).try_acquire_owned() {
            return Some(Place(permit));
        }
        let place = self.wait().await.map(Place);
        if place.is_none() {
            telemetry::refused_for_overload(self.kind);
        }
        place
    }

    async fn wait(&self) -> Option<OwnedSemaphorePermit> {
        let _turn = self.turns.try_acquire().ok()?;
        timeout(PATIENCE, Arc::clone(&self.places).acquire_owned()).await.ok()?.ok()
    }
}

/// Seconds for `Retry-After`: spread out, so that those who are refused together do not come back together.
pub fn retry_after() -> u64 {
    // Without randomness everybody waits the same, which is merely less kind.
    1 + u64::from(getrandom::u32().unwrap_or_default() % 3)
}
