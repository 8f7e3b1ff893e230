//! Limits of concurrency: a bounded number of requests is worked on at once, few wait, and the rest is refused at once.
//!
//! A permit is never held while the service waits for a client: it is taken when the whole request is in memory, and given
//! back before the answer is sent.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::telemetry;

/// The longest wait for a permit: longer than a burst, shorter than what a caller takes for an outage.
pub const PATIENCE: Duration = Duration::from_millis(100);

/// A permit to work on a request: given back when it is dropped.
#[derive(Debug)]
#[must_use = "the permit is given back when this is dropped"]
pub struct Permit(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

/// Requests that share permits. A flood of one group does not starve the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Reads of the API.
    Read,
    /// All other requests of the API.
    Write,
    /// Pages of the console, for people who have signed in.
    Console,
    /// All that needs no API key and no session: the sign-in, the customer's page, the public checkpoint. Sessions of the
    /// console are looked up with these permits too, since a made-up session costs as much as a real one.
    Public,
}

/// The permits of all groups.
#[derive(Clone, Debug)]
pub struct ConcurrencyLimits {
    read: Pool,
    write: Pool,
    console: Pool,
    public: Pool,
}

/// The permits of one group, and those that are reserved for its withdrawals.
#[derive(Clone, Debug)]
struct Pool {
    kind: &'static str,
    permits: Permits,
    reserve: Permits,
}

/// No more requests may wait than there are permits. A request behind them would wait in vain, and thousands that wait take
/// the time in which others could be answered.
#[derive(Clone, Debug)]
struct Permits {
    free: Arc<Semaphore>,
    turns: Arc<Semaphore>,
}

impl ConcurrencyLimits {
    /// `size` permits for reads and for writes each, a quarter of that for the console and for public pages each. A
    /// sixteenth is added to each group as the reserve of withdrawals.
    pub fn new(size: usize) -> Self {
        let pool =
            |kind, permits| Pool { kind, permits: Permits::new(permits), reserve: Permits::new(size / 16) };
        Self {
            read: pool("read", size),
            write: pool("write", size),
            console: pool("console", size / 4),
            public: pool("public", size / 4),
        }
    }

    /// A permit; `None` if none came free in time. `is_withdrawal` is called only if there is none at once: a withdrawal
    /// then waits for the reserve, which nothing else can use.
    pub async fn enter(&self, group: Group, is_withdrawal: impl FnOnce() -> bool) -> Option<Permit> {
        let pool = match group {
            Group::Read => &self.read,
            Group::Write => &self.write,
            Group::Console => &self.console,
            Group::Public => &self.public,
        };
        if let Some(permit) = pool.permits.try_enter() {
            return Some(permit);
        }
        let permits = if is_withdrawal() { &pool.reserve } else { &pool.permits };
        let permit = permits.wait().await;
        if permit.is_none() {
            telemetry::refused_for_overload(pool.kind);
        }
        permit
    }
}

impl Permits {
    fn new(size: usize) -> Self {
        let semaphore = || Arc::new(Semaphore::new(size.clamp(1, Semaphore::MAX_PERMITS)));
        Self { free: semaphore(), turns: semaphore() }
    }

    fn try_enter(&self) -> Option<Permit> {
        Arc::clone(&self.free).try_acquire_owned().ok().map(Permit)
    }

    async fn wait(&self) -> Option<Permit> {
        let _turn = self.turns.try_acquire().ok()?;
        timeout(PATIENCE, Arc::clone(&self.free).acquire_owned()).await.ok()?.ok().map(Permit)
    }
}

/// Seconds for `Retry-After`: spread out, so that clients that are refused together do not come back together.
pub fn retry_after() -> u64 {
    // Without randomness all wait equally long, which is only less kind.
    1 + u64::from(getrandom::u32().unwrap_or_default() % 3)
}
