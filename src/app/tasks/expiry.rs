//! The expiry sweep. Every replica runs it; the database admits one at a time.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::sleep_or_stop;
use crate::app::Clock;
use crate::error::Error;
use crate::ops;
use crate::ops::consents::Writer;
use crate::ops::expiry::Swept;
use crate::store::Store;
use crate::telemetry;

/// Sweeps by the database's clock, and not at all while this replica's differs too much.
pub async fn sweep(store: Store, writer: Writer, clock: Clock, interval: Duration, stop: CancellationToken) {
    while sleep_or_stop(interval, &stop).await {
        if !clock.is_tolerable() {
            continue;
        }
        let failure = match store.unless_lost(sweep_once(&store, &writer)).await {
            Ok(None) => None,
            Ok(Some(swept)) => {
                telemetry::expiries_recorded(swept.recorded);
                if swept.failure.is_none() {
                    telemetry::swept(clock.now());
                }
                swept.failure
            }
            Err(error) => Some(error),
        };
        if let Some(error) = failure {
            telemetry::sweep_failed();
            tracing::warn!(%error, "the expiry sweep failed; the next one tries again");
        }
    }
}

async fn sweep_once(store: &Store, writer: &Writer) -> Result<Option<Swept>, Error> {
    // Asked, and not computed: this replica's clock may have been set since it was compared.
    let now = store.now().await?;
    ops::expiry::sweep(store, writer, now).await
}
