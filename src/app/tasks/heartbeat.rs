//! The heartbeat: asks the database whether it is there, five times a second, so that nobody else has to find out.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::sleep_or_stop;
use crate::health::{Component, Health};
use crate::store::Store;
use crate::telemetry;

/// With the limits of a beat, a database that falls silent is found within a second.
const INTERVAL: Duration = Duration::from_millis(200);

pub async fn watch(store: Store, health: Arc<Health>, stop: CancellationToken) {
    let mut heartbeat = store.heartbeat();
    loop {
        let pulse = tokio::select! { pulse = heartbeat.beat() => pulse, () = stop.cancelled() => return };
        telemetry::database_up(pulse.is_up);
        health.report(Component::Database, pulse.fault);
        health.report(Component::DatabaseWrites, pulse.writes_refused.map(Into::into));
        if !sleep_or_stop(INTERVAL, &stop).await {
            return;
        }
    }
}
