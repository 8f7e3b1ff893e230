//! Long work beside short requests: exports, evidence packs, verification, sealing.
//!
//! A worker thread that is busy with one task polls no other, so long work gives its thread away after a fraction of a
//! millisecond ([`TimeSlice`]). And where processors are few, two that are busy for long leave none for a request that
//! needs one for a moment, whatever the operating system shares out; so work that can wait also rests while others are
//! answered ([`Pacer`]).

use std::fmt;
use std::time::{Duration, Instant};

use tokio::task::yield_now;
use tokio::time::sleep;

/// Longest time for which a task keeps its thread: a request that arrives meanwhile waits for as long.
const SLICE: Duration = Duration::from_micros(200);
/// A step of work is followed by this many times its own length of rest.
const REST: u32 = 3;
/// Longest rest. Steps are short; one that was held up by something else is no reason to wait for seconds.
const LONGEST_REST: Duration = Duration::from_millis(100);

/// The time for which a task has kept its thread.
#[derive(Debug)]
pub struct TimeSlice {
    began: Instant,
}

impl TimeSlice {
    pub fn begin() -> Self {
        Self { began: Instant::now() }
    }

    /// Gives the thread to others if this task has kept it for long enough. To be called after each small piece of work.
    pub async fn end_if_over(&mut self) {
        if self.began.elapsed() >= SLICE {
            yield_now().await;
            self.began = Instant::now();
        }
    }
}

/// The pace of work that can wait: as fast as it can be while nobody else is there, and a part of the time while others are
/// answered.
pub struct Pacer {
    /// Counts requests of others; `None` where there are none.
    answered: Option<Box<dyn Fn() -> u64 + Send + Sync>>,
    seen: u64,
    since: Instant,
    alone: bool,
}

impl Pacer {
    /// Work of a process that does nothing else.
    pub fn alone() -> Self {
        Self { answered: None, seen: 0, since: Instant::now(), alone: true }
    }

    /// Work beside requests, which are counted by `answered`.
    pub fn beside(answered: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        let seen = answered();
        Self { answered: Some(Box::new(answered)), seen, since: Instant::now(), alone: true }
    }

    /// Whether nobody else was answered during the last step: only then are long steps worth their while.
    pub fn is_alone(&self) -> bool {
        self.alone
    }

    /// Ends a step of work, and rests if others were answered meanwhile.
    pub async fn rest(&mut self) {
        let Some(answered) = &self.answered else { return };
        self.alone = answered() == self.seen;
        if !self.alone {
            sleep((self.since.elapsed() * REST).min(LONGEST_REST)).await;
        }
        self.seen = answered();
        self.since = Instant::now();
    }
}

impl fmt::Debug for Pacer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pacer").field("alone", &self.alone).finish_non_exhaustive()
    }
}
