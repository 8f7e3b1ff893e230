//! How far what is in memory can be trusted.

use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// An instant on a clock that goes on while the machine sleeps, in nanoseconds since it was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

impl Moment {
    /// `std::time::Instant` stands still while a virtual machine is suspended: what it held would look as fresh as before.
    pub fn now() -> Self {
        #[cfg(target_os = "linux")]
        let clock = ClockId::CLOCK_BOOTTIME;
        #[cfg(not(target_os = "linux"))]
        let clock = ClockId::CLOCK_MONOTONIC;
        let now = Duration::from(clock_gettime(clock).expect("the clock can be read"));
        Self(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
    }

    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    pub fn to_bits(self) -> u64 {
        self.0
    }

    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
}

/// A replica that has not caught up for this long asks the database instead of its memory.
const FRESH_FOR: Duration = Duration::from_secs(1);

/// When the follower had last seen everything that was committed, and how long that is good for.
#[derive(Debug)]
pub struct Freshness {
    max_stale: Duration,
    /// A `Moment`; 0 when the follower never caught up.
    caught_up: AtomicU64,
    /// What was put into memory under another session of the follower may have changed unseen.
    session: AtomicU32,
}

impl Freshness {
    pub fn new(max_stale: Duration) -> Self {
        Self { max_stale, caught_up: AtomicU64::new(0), session: AtomicU32::new(0) }
    }

    /// Whether memory may answer as the database would have, a moment ago.
    pub fn is_fresh(&self, now: Moment) -> bool {
        self.age(now).is_some_and(|age| age < FRESH_FOR.min(self.max_stale))
    }

    /// Whether memory may still say yes where the database cannot be asked.
    pub fn may_say_yes(&self, now: Moment) -> bool {
        self.age(now).is_some_and(|age| age < self.max_stale)
    }

    /// How old the newest state is that memory is known to show; `None`: it was never known to show any.
    pub fn age(&self, now: Moment) -> Option<Duration> {
        let caught_up = self.caught_up.load(Acquire);
        (caught_up > 0).then(|| now.since(Moment::from_bits(caught_up)))
    }

    pub fn max_stale(&self) -> Duration {
        self.max_stale
    }

    pub fn session(&self) -> u32 {
        self.session.load(Acquire)
    }

    /// From now on, nothing counts that was put into memory before.
    pub fn forget_all(&self) {
        self.session.fetch_add(1, Release);
    }

    /// Nothing counts that is in memory, and the database is asked for every answer until the follower has caught up.
    pub(super) fn distrust(&self) {
        self.caught_up.store(0, Release);
        self.forget_all();
    }

    /// Everything that was committed before this moment has been followed.
    pub fn caught_up(&self, at: Moment) {
        self.caught_up.store(at.to_bits(), Release);
    }
}
