//! The background tasks of the service. Each one is tracked, restarts with backoff after a panic, and is named in
//! `/readyz` and in the metrics then.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::health::Health;

pub mod expiry;
pub mod heartbeat;
pub mod maintenance;
pub mod metrics;
pub mod service;

pub use service::ServiceTasks;

/// The pause before the first restart; it doubles with each panic up to [`LONGEST_BACKOFF`].
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_mins(1);
/// A task that ran for this long before it panicked restarts after [`FIRST_BACKOFF`] again.
const STABLE_AFTER: Duration = Duration::from_mins(1);

/// Background tasks that stop together.
#[derive(Clone, Debug)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    health: Arc<Health>,
}

impl Tasks {
    pub fn new(health: &Arc<Health>) -> Self {
        Self { tracker: TaskTracker::new(), stop: CancellationToken::new(), health: Arc::clone(health) }
    }

    /// Returns the token that is canceled when the tasks must stop.
    pub fn stop_token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Runs a task until it returns. `start` makes its future from a copy of `context`, and again after a panic.
    pub fn spawn<C, F>(
        &self,
        name: &'static str,
        context: C,
        start: impl Fn(C, CancellationToken) -> F + Send + Sync + 'static,
    ) where
        C: Clone + Send + Sync + 'static,
        F: Future<Output = ()> + Send,
    {
        let (stop, health) = (self.stop.clone(), Arc::clone(&self.health));
        self.tracker.spawn(async move {
            let mut backoff = FIRST_BACKOFF;
            loop {
                let started = Instant::now();
                // The future starts inside the guard: making it may panic, too.
                let run = async { start(context.clone(), stop.clone()).await };
                if health.catch_panic(name, run).await.is_ok() {
                    return;
                }
                if started.elapsed() >= STABLE_AFTER {
                    backoff = FIRST_BACKOFF;
                }
                tracing::info!(task = name, backoff_ms = backoff.as_millis(), "a background task restarts");
                if !sleep_or_stop(backoff, &stop).await {
                    return;
                }
                backoff = (backoff * 2).min(LONGEST_BACKOFF);
            }
        });
    }

    /// Stops all tasks and waits until they have returned.
    pub async fn finish(self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// Sleeps, and returns false when it is time to stop.
pub async fn sleep_or_stop(interval: Duration, stop: &CancellationToken) -> bool {
    tokio::select! { () = tokio::time::sleep(interval) => true, () = stop.cancelled() => false }
}
