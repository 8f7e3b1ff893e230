//! Keeps what is in memory true.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::Clock;
use super::tasks::sleep_or_stop;
use crate::cache::Cache;
use crate::cache::follow::{Follower, Observation};
use crate::store::Store;
use crate::telemetry;

/// Shorter than the second for which memory is trusted without being followed.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// Follows the changes of others, in one session after the other.
pub(super) async fn follow(store: Store, cache: Arc<Cache>, clock: Clock, stop: CancellationToken) {
    let follower = Follower::new(store, cache);
    loop {
        let session = follower.follow(|observation| match observation {
            Observation::Change { made_at } => telemetry::followed(clock.now() - made_at),
            Observation::DatabaseTime { now, requested_at } => clock.measured(now, requested_at),
        });
        let ended = tokio::select! { ended = session => ended, () = stop.cancelled() => return };
        let Err(error) = ended;
        telemetry::following_ended();
        tracing::warn!(%error, "changes cannot be followed: the database is asked for every answer until they can");
        if !sleep_or_stop(TRY_AGAIN_AFTER, &stop).await {
            return;
        }
    }
}

/// Tells the other replicas of what this one changes.
pub(super) async fn tell(store: Store, cache: Arc<Cache>, stop: CancellationToken) {
    tokio::select! { () = cache.hints.run(&store) => {}, () = stop.cancelled() => {} }
}

/// Fills the memory, once it can be trusted.
pub(super) async fn warm(store: Store, cache: Arc<Cache>, customers: usize, stop: CancellationToken) {
    while cache.freshness.session() == 0 {
        if !sleep_or_stop(Duration::from_millis(50), &stop).await {
            return;
        }
    }
    let started = Instant::now();
    let all = tokio::select! { all = cache.warm(&store, customers) => all, () = stop.cancelled() => return };
    let (held, took_ms) = (cache.consents.len(), started.elapsed().as_millis());
    match all {
        Ok(true) => tracing::info!(held, took_ms, "all consents are in memory"),
        Ok(false) => {
            tracing::warn!(held, took_ms, "memory is full: raise --cache-customers to hold all consents");
        }
        Err(error) => {
            tracing::warn!(%error, held, "memory is not filled: consents come in as they are asked for");
        }
    }
}
