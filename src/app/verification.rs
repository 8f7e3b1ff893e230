//! Verifies the log of the running service, every day and on its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use sqlx::postgres::PgConnectOptions;
use tokio_util::sync::CancellationToken;

use super::{clock, every, log};
use crate::config::audit::AuditConfig;
use crate::error::Error;
use crate::ops::log::LogKeys;
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
/// Findings that are kept with the result.
const KEPT: usize = 100;

/// Where checkpoints from outside the database are.
#[derive(Clone, Debug)]
pub struct Outside {
    files: Vec<PathBuf>,
}

impl Outside {
    /// What this replica remembers, and the file of all checkpoints where there is one.
    pub fn new(config: &AuditConfig, data_dir: &Path) -> Self {
        Self::of(data_dir, config.audit_checkpoint_file.as_deref())
    }

    pub fn of(data_dir: &Path, checkpoint_file: Option<&Path>) -> Self {
        let memory = log::memory(data_dir).path().to_owned();
        Self { files: std::iter::once(memory).chain(checkpoint_file.map(Path::to_owned)).collect() }
    }

    /// Reads those of the files that are there.
    pub fn read(&self, report: &mut Report) -> Vec<outside::OutsideCheckpoint> {
        let there = self.files.iter().filter(|file| file.exists());
        there
            .flat_map(|file| {
                outside::checkpoints(file, report).unwrap_or_else(|error| {
                    report.remark(error.to_string());
                    Vec::new()
                })
            })
            .collect()
    }
}

pub async fn verify_daily(
    store: Store,
    service: PgConnectOptions,
    keys: Arc<LogKeys>,
    outside: Outside,
    interval: Option<Duration>,
    stop: CancellationToken,
) {
    let Some(interval) = interval.filter(|_| !keys.signers.is_empty()) else { return };
    let interval = TimeDelta::from_std(interval).unwrap_or(TimeDelta::days(1));
    let mut pause = FIRST_LOOK;
    while every(pause, &stop).await {
        pause = LOOK;
        let last = match store.last_verification().await {
            Ok(last) => last,
            Err(error) => {
                tracing::warn!(%error, "the last verification of the audit log could not be looked up");
                continue;
            }
        };
        if let Some(last) = &last {
            telemetry::verified(last.started_at, last.tree_size.cast_unsigned(), last.result != "tampering");
        }
        if last.is_some_and(|last| last.started_at + interval > clock()) {
            continue;
        }
        let verified = tokio::select! {
            verified = once(&store, &service, &keys, &outside) => verified,
            () = stop.cancelled() => return,
        };
        if let Err(error) = verified {
            tracing::warn!(%error, "the audit log could not be verified; it is tried again");
        }
    }
}

/// Verifies the whole log, and keeps the result.
async fn once(
    store: &Store,
    service: &PgConnectOptions,
    keys: &LogKeys,
    outside: &Outside,
) -> Result<(), Error> {
    let (started_at, started) = (clock(), Instant::now());
    let mut report = Report::default();
    // Read before the snapshot is taken: what is remembered by then is in it.
    let checkpoints = outside.read(&mut report);
    let mut connection = snapshot(service).await?;
    let standards = Standards {
        keys: Keys::Own { signers: keys.signers.clone(), retired: keys.retired.signers.clone() },
        checkpoints,
        receipts: Vec::new(),
        since: None,
        now: started_at,
    };
    let writers = keys.believed_writers();
    let scope = Scope { standards: &standards, writers: &writers, live: true };
    let report = verify(&mut connection, &scope, report, &|_, _| {}).await?;
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
    store
        .keep_verification(&StoredVerification {
            log_id: store.open_log().await?.map_or(0, |log| log.log_id),
            tree_size: size.cast_signed(),
            started_at,
            took_ms,
            result: verdict.as_str().to_owned(),
            findings: serde_json::to_value(kept).map_err(|error| Error::Internal(error.to_string()))?,
        })
        .await
}
