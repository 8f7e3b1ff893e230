//! Verifies the log of the running service, every day by itself and whenever somebody asks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use sqlx::postgres::PgConnectOptions;
use tokio_util::sync::CancellationToken;

use super::{Clock, log};
use crate::cache::Cache;
use crate::config::audit::AuditConfig;
use crate::error::Error;
use crate::files::FileQueue;
use crate::ops::log::LogKeys;
use crate::ops::log::verifying::{Failed, Verifications};
use crate::store::Store;
use crate::store::log::reading::StoredVerification;
use crate::store::verification::snapshot;
use crate::telemetry;
use crate::verify::database::{Scope, verify};
use crate::verify::{Keys, Report, Rule, Standards, Verdict, outside};

/// How often it is looked whether a verification is due: whichever replica is first makes it.
const LOOK: Duration = Duration::from_mins(1);
/// The first look, so that whoever has just started the service sees soon whether the log holds.
const FIRST_LOOK: Duration = Duration::from_secs(5);
/// Sealing takes a second: where something has waited for longer, more is to come.
const BEHIND: TimeDelta = TimeDelta::seconds(3);
/// A verification that is due waits for the sealer no longer than this after a start.
const PATIENCE: Duration = Duration::from_hours(1);
/// Deadline for reading the checkpoints outside the database.
const READ_DEADLINE: Duration = Duration::from_mins(1);
/// Findings that are kept with the result.
const KEPT: usize = 100;

/// Where checkpoints from outside the database are.
#[derive(Clone, Debug)]
pub struct Outside {
    files: Vec<PathBuf>,
    reads: FileQueue,
}

impl Outside {
    /// What this replica remembers, and the file of all checkpoints where there is one.
    pub fn new(config: &AuditConfig, data_dir: &Path) -> Self {
        Self::of(data_dir, config.audit_checkpoint_file.as_deref())
    }

    pub fn of(data_dir: &Path, checkpoint_file: Option<&Path>) -> Self {
        let memory = log::memory(data_dir).path().to_owned();
        Self {
            files: std::iter::once(memory).chain(checkpoint_file.map(Path::to_owned)).collect(),
            reads: FileQueue::default(),
        }
    }

    /// Reads those of the files that are there. A drive that does not answer is worth a remark, and holds nothing up.
    pub async fn read(&self, report: &mut Report) -> Vec<outside::OutsideCheckpoint> {
        let files = self.files.clone();
        let read = self.reads.run(READ_DEADLINE, move || Ok(read(&files))).await;
        match read {
            Ok((checkpoints, found)) => {
                report.extend(found);
                checkpoints
            }
            Err(error) => {
                report.remark(format!("the checkpoints outside the database cannot be read: {error}"));
                Vec::new()
            }
        }
    }
}

fn read(files: &[PathBuf]) -> (Vec<outside::OutsideCheckpoint>, Report) {
    let (mut checkpoints, mut report) = (Vec::new(), Report::default());
    for file in files {
        match std::fs::metadata(file) {
            Err(_) => {}
            Ok(found) if !found.is_file() => {
                report.remark(format!("{} is no file that can be read again", file.display()));
            }
            Ok(_) => match outside::checkpoints(file, &mut report) {
                Ok(found) => checkpoints.extend(found),
                Err(error) => report.remark(error.to_string()),
            },
        }
    }
    (checkpoints, report)
}

/// Verifies the log of a service.
#[derive(Clone, Debug)]
pub struct Verifier {
    pub store: Store,
    /// Work that the verification must not delay.
    pub cache: Arc<Cache>,
    pub service: PgConnectOptions,
    pub keys: Arc<LogKeys>,
    pub outside: Outside,
    pub clock: Clock,
}

impl Verifier {
    /// Verifies when it is due, if there is an interval, and when somebody asks for it.
    pub async fn verify(
        self,
        verifications: Arc<Verifications>,
        interval: Option<Duration>,
        stop: CancellationToken,
    ) {
        if self.keys.signers.is_empty() {
            return;
        }
        verifications.offer();
        let interval = interval.map(|interval| TimeDelta::from_std(interval).unwrap_or(TimeDelta::days(1)));
        let (mut pause, began) = (FIRST_LOOK, Instant::now());
        loop {
            let asked = tokio::select! {
                () = verifications.asked() => true,
                () = tokio::time::sleep(pause) => false,
                () = stop.cancelled() => return,
            };
            if !asked {
                pause = LOOK;
                let Some(interval) = interval else { continue };
                if !self.is_due(interval).await || (began.elapsed() < PATIENCE && self.is_behind().await) {
                    continue;
                }
            }
            verifications.begin(self.clock.now());
            let verified = tokio::select! {
                verified = self.store.unless_lost(self.once(&verifications)) => verified,
                () = stop.cancelled() => return,
            };
            let failed = verified.err().map(|error| {
                tracing::warn!(%error, "the audit log could not be verified; it is tried again");
                Failed { at: self.clock.now(), why: error.to_string() }
            });
            verifications.end(failed);
        }
    }

    async fn is_due(&self, interval: TimeDelta) -> bool {
        let last = match self.store.last_verification().await {
            Ok(last) => last,
            Err(error) => {
                tracing::warn!(%error, "the last verification of the audit log could not be looked up");
                return false;
            }
        };
        if let Some(last) = &last {
            telemetry::verified(last.started_at, last.tree_size.cast_unsigned(), last.result != "tampering");
        }
        last.is_none_or(|last| last.started_at + interval <= self.clock.now())
    }

    /// Whether much was loaded at once, and is not sealed yet: it would be found missing from the tree.
    async fn is_behind(&self) -> bool {
        let backlog = self.store.backlog().await.ok();
        backlog.and_then(|backlog| backlog.oldest).is_some_and(|oldest| oldest + BEHIND < self.clock.now())
    }

    /// Verifies the whole log, and keeps the result.
    async fn once(&self, verifications: &Verifications) -> Result<(), Error> {
        let (started_at, started) = (self.clock.now(), Instant::now());
        let mut report = Report::default();
        // Read before the snapshot is taken: what is remembered by then is in it.
        let checkpoints = self.outside.read(&mut report).await;
        let mut connection = snapshot(&self.service).await?;
        let standards = Standards {
            keys: Keys::Own {
                signers: self.keys.signers.clone(),
                retired: self.keys.retired.signers.clone(),
            },
            checkpoints,
            receipts: Vec::new(),
            since: None,
            now: started_at,
        };
        let writers = self.keys.believed_writers();
        let scope = Scope { standards: &standards, writers: &writers, live: true };
        let progress = |done, in_all| verifications.progress(done, in_all);
        let report = verify(&mut connection, &scope, report, &progress, self.cache.pacer()).await?;
        let verdict = report.verdict();
        let mut by_rule: BTreeMap<Rule, u64> = BTreeMap::new();
        for finding in &report.findings {
            *by_rule.entry(finding.rule).or_default() += 1;
        }
        for (rule, findings) in by_rule {
            // What was found may name a customer, and so has no place in a log line.
            tracing::error!(%rule, findings, "the audit log does not hold: GET /v1/audit/log/status tells what was found");
        }
        let size = report.logs.last().map_or(0, |log| log.tree_size);
        let took_ms = i64::try_from(started.elapsed().as_millis()).unwrap_or(i64::MAX);
        tracing::info!(
            result = verdict.as_str(),
            findings = report.findings_in_all,
            size,
            took_ms,
            "verified the audit log"
        );
        telemetry::verified(started_at, size, verdict != Verdict::Tampering);
        let kept = &report.findings[..report.findings.len().min(KEPT)];
        self.store
            .keep_verification(&StoredVerification {
                log_id: self.store.open_log().await?.map_or(0, |log| log.log_id),
                tree_size: size.cast_signed(),
                started_at,
                took_ms,
                result: verdict.as_str().to_owned(),
                findings: serde_json::to_value(kept).map_err(|error| Error::Internal(error.to_string()))?,
            })
            .await
    }
}
