//! The health of this replica: reported by the parts of the service, shown by `/readyz` and the metrics.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;

/// A part of the service that can be at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Component {
    /// PostgreSQL, as this replica reaches it.
    Database,
    /// Writes to PostgreSQL, while it can be read.
    DatabaseWrites,
    /// The audit log: its tree and its checkpoints.
    AuditLog,
    /// The signing of checkpoints, as this replica does it or sees others do it.
    AuditSigning,
    /// The sequence of audit ids: it must not be behind the trail.
    AuditSequence,
    /// The clock of this replica, compared with the database's.
    Clock,
}

impl Component {
    pub const ALL: [Self; 6] = [
        Self::Database,
        Self::DatabaseWrites,
        Self::AuditLog,
        Self::AuditSigning,
        Self::AuditSequence,
        Self::Clock,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Database => "database",
            Self::DatabaseWrites => "database_writes",
            Self::AuditLog => "audit_log",
            Self::AuditSigning => "audit_signing",
            Self::AuditSequence => "audit_sequence",
            Self::Clock => "clock",
        }
    }

    /// Returns whether a fault concerns this replica alone, so that requests are better sent to another one.
    pub fn is_local(self) -> bool {
        match self {
            Self::Database
            | Self::DatabaseWrites
            | Self::AuditLog
            | Self::AuditSigning
            | Self::AuditSequence => false,
            Self::Clock => true,
        }
    }
}

/// A short public description of a fault: `/readyz` shows it without a key.
pub type Detail = Cow<'static, str>;

/// A panicked background task is named for this long after its last panic.
const NAMED_FOR: Duration = Duration::from_mins(1);

/// The current state of this replica.
#[derive(Debug, Default)]
pub struct Health {
    /// The start is complete, and the service is not stopping.
    serving: AtomicBool,
    faults: Mutex<Faults>,
    tasks: Mutex<BTreeMap<&'static str, TaskHealth>>,
}

#[derive(Debug, Default)]
struct Faults {
    current: BTreeMap<Component, Detail>,
    /// The number of faults of each component since the start.
    counts: BTreeMap<Component, u64>,
}

/// The error of work that panicked.
#[derive(Clone, Copy, Debug)]
pub struct Panicked;

/// The panics of a background task.
#[derive(Clone, Copy, Debug)]
struct TaskHealth {
    panics: u64,
    last: Instant,
}

impl Health {
    pub fn set_serving(&self, serving: bool) {
        self.serving.store(serving, Ordering::Relaxed);
    }

    /// Returns whether requests should be sent to this replica.
    pub fn is_ready(&self) -> bool {
        self.serving.load(Ordering::Relaxed)
            && !self.faults().current.keys().any(|component| component.is_local())
    }

    /// Records the state of a component: `None` if it works.
    pub fn report(&self, component: Component, fault: Option<Detail>) {
        let mut faults = self.faults();
        match fault {
            Some(detail) => {
                if faults.current.insert(component, detail.clone()).is_none() {
                    *faults.counts.entry(component).or_default() += 1;
                    tracing::error!(component = component.name(), %detail, "a part of the service is at fault");
                }
            }
            None => {
                if faults.current.remove(&component).is_some() {
                    tracing::info!(component = component.name(), "a part of the service works again");
                }
            }
        }
    }

    /// Returns the fault of a component, if it has one.
    pub fn fault(&self, component: Component) -> Option<Detail> {
        self.faults().current.get(&component).cloned()
    }

    /// Returns the number of faults of each component since the start.
    pub fn fault_counts(&self) -> [(Component, u64); Component::ALL.len()] {
        let faults = self.faults();
        Component::ALL.map(|component| (component, faults.counts.get(&component).copied().unwrap_or(0)))
    }

    /// Runs a part of a background task. A panic ends this part alone, and is counted.
    pub async fn catch_panic<T>(
        &self,
        task: &'static str,
        work: impl Future<Output = T>,
    ) -> Result<T, Panicked> {
        AssertUnwindSafe(work).catch_unwind().await.map_err(|_| {
            self.count_panic(task);
            tracing::error!(task, "a background task panicked");
            Panicked
        })
    }

    fn count_panic(&self, task: &'static str) {
        let now = Instant::now();
        let mut tasks = self.tasks();
        let health = tasks.entry(task).or_insert(TaskHealth { panics: 0, last: now });
        *health = TaskHealth { panics: health.panics + 1, last: now };
    }

    /// Returns the names of the background tasks that panicked within the last minute.
    pub fn panicked_tasks(&self) -> Vec<&'static str> {
        let tasks = self.tasks();
        tasks.iter().filter(|(_, health)| health.last.elapsed() < NAMED_FOR).map(|(task, _)| *task).collect()
    }

    /// Returns each background task that ever panicked, with the number of its panics.
    pub fn panics(&self) -> Vec<(&'static str, u64)> {
        self.tasks().iter().map(|(task, health)| (*task, health.panics)).collect()
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tasks(&self) -> MutexGuard<'_, BTreeMap<&'static str, TaskHealth>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
