//! Verifications of the whole log on this replica: asked for by whoever looks, made by a task of its own, one at a time.

use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use tokio::sync::Notify;

/// What this replica does about verifying.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verifying {
    /// Whether anybody here verifies when asked.
    pub offered: bool,
    pub running: Option<Running>,
    /// Why the last one that was tried here came to no result.
    pub failed: Option<Failed>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    pub since: DateTime<Utc>,
    /// Leaves that are read, and how many there are; both are 0 until that is known.
    pub done: u64,
    pub in_all: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    pub at: DateTime<Utc>,
    pub why: String,
}

/// Between those who ask for a verification and the one who makes it.
#[derive(Debug, Default)]
pub struct Verifications {
    now: Mutex<Verifying>,
    wanted: Notify,
}

impl Verifications {
    pub fn get(&self) -> Verifying {
        self.state().clone()
    }

    /// Asks for one. False if nobody here makes any; while one is made, it is the one that is asked for.
    pub fn ask(&self, now: DateTime<Utc>) -> bool {
        let mut state = self.state();
        if state.offered && state.running.is_none() {
            state.running = Some(Running { since: now, done: 0, in_all: 0 });
            self.wanted.notify_one();
        }
        state.offered
    }

    /// From now on somebody here makes what is asked for.
    pub fn offer(&self) {
        self.state().offered = true;
    }

    /// Waits until somebody asks.
    pub async fn asked(&self) {
        self.wanted.notified().await;
    }

    pub fn begin(&self, now: DateTime<Utc>) {
        self.state().running = Some(Running { since: now, done: 0, in_all: 0 });
    }

    pub fn progress(&self, done: u64, in_all: u64) {
        if let Some(running) = &mut self.state().running {
            (running.done, running.in_all) = (done.min(in_all), in_all);
        }
    }

    /// It ended; `failed` if it came to no result.
    pub fn end(&self, failed: Option<Failed>) {
        let mut state = self.state();
        state.running = None;
        state.failed = failed;
    }

    fn state(&self) -> MutexGuard<'_, Verifying> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
