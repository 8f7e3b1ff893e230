//! The expiry sweep. Every replica runs it; the database admits one at a time.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::sleep_or_stop;
use crate::app::clock;
use crate::ops;
use crate::ops::consents::Writer;
use crate::store::Store;
use crate::telemetry;

pub async fn sweep(store: Store, writer: Writer, interval: Duration, stop: CancellationToken) {
    while sleep_or_stop(interval, &stop).await {
        let failure = match ops::expiry::sweep(&store, &writer, clock()).await {
            Ok(None) => None,
            Ok(Some(swept)) => {
                telemetry::expiries_recorded(swept.recorded);
                if swept.failure.is_none() {
                    telemetry::swept(clock());
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
