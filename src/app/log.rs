//! What goes on beside the requests for the audit log: sealing, publishing, erasing, verifying.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use super::Clock;
use super::keys::KeyPaths;
use super::publication::Publication;
use super::tasks::{Tasks, sleep_or_stop};
use crate::config::audit::AuditConfig;
use crate::error::{Error, StartError};
use crate::ops::log::memory::Memory;
use crate::ops::log::sealer::Sealer;
use crate::ops::log::verifying::Verifications;
use crate::ops::log::{LogKeys, LogView, RetiredKeys, opening};
use crate::store::Store;
use crate::telemetry;

/// Between two rounds of a sealer that has nothing to do.
const INTERVAL: Duration = Duration::from_millis(400);

/// The audit log of a running service.
#[derive(Debug)]
pub struct Log {
    pub keys: Arc<LogKeys>,
    pub view: Arc<LogView>,
    pub verifications: Arc<Verifications>,
    sealer: Option<Sealer>,
}

/// The file in which a replica remembers the largest checkpoint that it saw.
pub fn memory(data_dir: &Path) -> Memory {
    Memory::at(data_dir.join("audit-checkpoint"))
}

/// Reads or makes the keys, opens the first log, and holds the database against what this replica remembers.
pub async fn open(
    store: &Store,
    config: &AuditConfig,
    data_dir: &Path,
    clock: &Clock,
) -> Result<Log, StartError> {
    let view = Arc::new(LogView::default());
    let verifications = Arc::new(Verifications::default());
    if config.measure_without_audit_log {
        tracing::warn!("entries are not vouched for and nothing is sealed: this is for measuring alone");
        let keys = LogKeys { writers: Vec::new(), signers: Vec::new(), retired: RetiredKeys::default() };
        return Ok(Log { keys: Arc::new(keys), view, verifications, sealer: None });
    }
    let failed = |error: Error| StartError::new(format!("cannot open the audit log: {error}"));
    let first = store.open_log().await.map_err(failed)?.is_none();
    let keys = Arc::new(KeyPaths::new(&config.keys, data_dir).load(first)?);
    let log = opening::open_first(store, &keys, &config.audit_name, clock.now()).await.map_err(failed)?;
    opening::admit(store, &keys, &log).await.map_err(failed)?.map_err(StartError::new)?;
    let mut sealer = Sealer::new(store.clone(), Arc::clone(&keys), Arc::clone(&view), memory(data_dir), &log);
    sealer.recall(clock.now()).await.map_err(failed)?;
    Ok(Log { keys, view, verifications, sealer: Some(sealer) })
}

impl Log {
    /// Seals until it is time to stop, and then once more. Returns the state of the log, if its entries are sealed.
    pub fn seal(&mut self, publication: Publication, clock: &Clock, tasks: &Tasks) -> Option<Arc<LogView>> {
        let sealer = self.sealer.take()?;
        // The sealer keeps the trees that it saw across a restart of its task.
        let sealer = Arc::new(Mutex::new(sealer));
        let context = (sealer, Arc::new(publication), Arc::clone(&self.view), clock.clone());
        tasks.spawn("sealer", context, |(sealer, publication, view, clock), stop| async move {
            let mut sealer = sealer.lock().await;
            loop {
                let stopping = stop.is_cancelled();
                let more = round(&mut sealer, &publication, &clock).await;
                telemetry::log_forked(view.get().fork.is_some());
                if stopping {
                    return;
                }
                if !more {
                    sleep_or_stop(INTERVAL, &stop).await;
                }
            }
        });
        Some(Arc::clone(&self.view))
    }
}

async fn round(sealer: &mut Sealer, publication: &Publication, clock: &Clock) -> bool {
    let round = match sealer.round(clock.now()).await {
        Ok(round) => round,
        Err(error) => {
            telemetry::sealing_failed();
            tracing::warn!(%error, "a round of sealing failed; the next one tries again");
            return false;
        }
    };
    for (audit_id, why) in &round.quarantined {
        tracing::error!(audit_id, why, "an audit entry is in quarantine: it cannot be sealed");
    }
    for audit_id in &round.foreign {
        tracing::error!(
            audit_id,
            "an audit entry is in quarantine: its version is in the trail without its consent"
        );
    }
    if round.uncounted > 0 {
        telemetry::uncounted(round.uncounted);
    }
    if let Some(oldest) = round.oldest {
        telemetry::sealed(round.sealed, clock.now() - oldest);
    }
    if let Some(noticed) = &round.noticed {
        publication.noticed(noticed);
    }
    if let Some(signed) = round.signed {
        telemetry::log_size(signed.checkpoint.size);
        publication.signed(signed);
    }
    round.more
}
