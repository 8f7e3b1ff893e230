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
    reads: Arc<Semaphore>,
    writes: Arc<Semaphore>,
    exports: Arc<Semaphore>,
}

impl Gate {
    pub fn new(reads: usize, writes: usize, read_connections: u32) -> Self {
        let budget = |places: usize| Arc::new(Semaphore::new(places.clamp(1, Semaphore::MAX_PERMITS)));
        let exports = EXPORTS.min(read_connections as usize / 2);
        Self { reads: budget(reads), writes: budget(writes), exports: budget(exports) }
    }

    /// A place for a read; `None` when none came free in time.
    pub async fn read(&self) -> Option<Place> {
        enter(&self.reads, "read").await
    }

    /// A place for a write; `None` when none came free in time.
    pub async fn write(&self) -> Option<Place> {
        enter(&self.writes, "write").await
    }

    /// A place for an export, to be kept until its last byte; `None` when none came free in time.
    pub async fn export(&self) -> Option<Place> {
        enter(&self.exports, "export").await
    }
}

async fn enter(budget: &Arc<Semaphore>, kind: &'static str) -> Option<Place> {
    if let Ok(permit) = Arc::clone(budget).try_acquire_owned() {
        return Some(Place(permit));
    }
    let permit = timeout(PATIENCE, Arc::clone(budget).acquire_owned()).await;
    let place = permit.ok().and_then(Result::ok).map(Place);
    if place.is_none() {
        telemetry::refused_for_overload(kind);
    }
    place
}

/// Seconds for `Retry-After`: spread out, so that those who are refused together do not come back together.
pub fn retry_after() -> u64 {
    // Without randomness everybody waits the same, which is merely less kind.
    1 + u64::from(getrandom::u32().unwrap_or_default() % 3)
}
