//! Hourly housekeeping: partitions for the next months, old idempotent answers, old login sessions, and the links to the
//! customers' page with their signing keys.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::sleep_or_stop;
use crate::app::Clock;
use crate::ops;
use crate::store::Store;

pub async fn maintain(store: Store, clock: Clock, stop: CancellationToken) {
    loop {
        let now = clock.now();
        match store.make_partitions(now.date_naive()).await {
            Ok(made) if made > 0 => tracing::info!(made, "made partitions of inference_logs"),
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "could not make partitions of inference_logs"),
        }
        if let Err(error) = store.unless_lost(ops::idempotency::forget(&store, now)).await {
            tracing::warn!(%error, "could not delete old idempotent answers");
        }
        if let Err(error) = store.unless_lost(ops::sessions::forget(&store, now)).await {
            tracing::warn!(%error, "could not delete the console's old login sessions");
        }
        if let Err(error) = store.unless_lost(ops::links::maintain(&store, now)).await {
            tracing::warn!(%error, "could not maintain the links to the customers' page");
        }
        if !sleep_or_stop(Duration::from_hours(1), &stop).await {
            return;
        }
    }
}
