//! Metrics that are measured and not counted: the database, the memory, the sealer's queue and signatures, the background
//! tasks.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio_util::sync::CancellationToken;

use super::sleep_or_stop;
use crate::app::Clock;
use crate::cache::Cache;
use crate::cache::freshness::Moment;
use crate::health::{Component, Health};
use crate::ops::log::LogView;
use crate::store::{Store, unreadable};
use crate::telemetry;

/// A checkpoint is signed again after 20 seconds, also if the tree does not grow.
const LONGEST_WITHOUT_SIGNATURE: TimeDelta = TimeDelta::seconds(60);

/// `sealed` is the audit log, if its entries are sealed.
pub async fn measure(
    store: Store,
    cache: Arc<Cache>,
    clock: Clock,
    sealed: Option<Arc<LogView>>,
    stop: CancellationToken,
) {
    let started = clock.now();
    loop {
        measure_cache(&cache);
        if let Some(log) = &sealed {
            measure_signing(log, &cache.health, started, clock.now());
        }
        for (task, panics) in cache.health.panics() {
            telemetry::task_panics(task, panics);
        }
        for (component, faults) in cache.health.fault_counts() {
            telemetry::component_faults(component.name(), faults);
        }
        telemetry::clock_difference(cache.clock.get());
        telemetry::unreadable_values(unreadable::count());
        for (name, pool) in store.pools() {
            let idle = u32::try_from(pool.num_idle()).unwrap_or(u32::MAX);
            telemetry::pool_connections(name, idle, pool.size().saturating_sub(idle));
        }
        if let Ok(backlog) = store.backlog().await {
            let now = clock.now();
            if let Some(log) = &sealed {
                log.set_quarantined(backlog.quarantined);
            }
            telemetry::backlog(backlog.pending, now - backlog.oldest.unwrap_or(now), backlog.quarantined);
        }
        if !sleep_or_stop(Duration::from_secs(5), &stop).await {
            return;
        }
    }
}

/// Measures the age of the newest signature, and reports one that is too old. `started` counts while there is none.
pub fn measure_signing(log: &LogView, health: &Health, started: DateTime<Utc>, now: DateTime<Utc>) {
    let age = now - log.get().signed_at.unwrap_or(started);
    telemetry::checkpoint_age(age);
    let fault = "no checkpoint was signed for more than a minute: changes are recorded and not sealed";
    health.report(Component::AuditSigning, (age > LONGEST_WITHOUT_SIGNATURE).then(|| fault.into()));
}

fn measure_cache(cache: &Cache) {
    let consents = &cache.consents;
    let uses = consents.uses();
    let age = cache.freshness.age(Moment::now());
    let reads = [uses.hits, uses.misses, uses.stale];
    telemetry::cache(consents.len(), consents.bytes(), reads, uses.evictions, age);
}
