//! Metrics that are measured and not counted: the database, the memory, the sealer's queue, the background tasks.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::sleep_or_stop;
use crate::app::Clock;
use crate::cache::Cache;
use crate::cache::freshness::Moment;
use crate::store::Store;
use crate::telemetry;

pub async fn measure(store: Store, cache: Arc<Cache>, clock: Clock, stop: CancellationToken) {
    loop {
        measure_cache(&cache);
        for (task, panics) in cache.health.panics() {
            telemetry::task_panics(task, panics);
        }
        for (component, faults) in cache.health.fault_counts() {
            telemetry::component_faults(component.name(), faults);
        }
        telemetry::clock_difference(cache.clock.get());
        telemetry::database_up(store.ping().await.is_ok());
        for (name, pool) in store.pools() {
            let idle = u32::try_from(pool.num_idle()).unwrap_or(u32::MAX);
            telemetry::pool_connections(name, idle, pool.size().saturating_sub(idle));
        }
        if let Ok(backlog) = store.backlog().await {
            let now = clock.now();
            telemetry::backlog(backlog.pending, now - backlog.oldest.unwrap_or(now), backlog.quarantined);
        }
        if !sleep_or_stop(Duration::from_secs(5), &stop).await {
            return;
        }
    }
}

fn measure_cache(cache: &Cache) {
    let consents = &cache.consents;
    let uses = consents.uses();
    let age = cache.freshness.age(Moment::now());
    let reads = [uses.hits, uses.misses, uses.stale];
    telemetry::cache(consents.len(), consents.bytes(), reads, uses.evictions, age);
}
