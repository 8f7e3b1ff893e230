//! Carries out erasures once they are sealed, erases what has reached its age, and rids the files of it.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use sqlx::postgres::PgConnectOptions;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::tasks::sleep_or_stop;
use super::{Clock, Database};
use crate::config::audit;
use crate::error::{Error, StartError};
use crate::ops::erasure::{Retention, carry_out};
use crate::ops::log::LogKeys;
use crate::store::Store;
use crate::store::erasure::{self, Vacuumed, vacuum};

/// How soon a sealed erasure is carried out.
const INTERVAL: Duration = Duration::from_millis(200);
/// Erasures come in bursts: the files are seen to when this has passed since the last one.
const QUIET: Duration = Duration::from_secs(2);
/// Pauses between attempts double up to this: a dump may go on for hours. As often it is looked for what others left undone.
const LONGEST_PAUSE: Duration = Duration::from_mins(10);

/// Sees to it that the service's role can erase, where that is possible.
pub async fn may_erase(store: &Store, database: &Database) -> Result<(), StartError> {
    let failed = |error| StartError::new(format!("cannot read the database: {error}"));
    if store.may_erase().await.map_err(failed)? {
        return Ok(());
    }
    let service = database.service.get_username();
    if let Err(error) = erasure::let_erase(&database.owner, service).await {
        tracing::warn!(
            %error,
            "personal data cannot be erased: as a superuser, GRANT vlaapi_eraser TO {service}"
        );
    }
    Ok(())
}

/// Until it is time to stop: carries out what is sealed, and rids the files of it.
pub async fn erase(store: Store, owner: PgConnectOptions, clock: Clock, stop: CancellationToken) {
    let erased = Notify::new();
    // Beside each other: the files may have to wait for a verification, and no erasure waits for that.
    tokio::select! {
        () = carry_out_what_is_sealed(&store, &erased, &clock, &stop) => {}
        () = rid_files(&store, &owner, &erased, &clock) => {}
    }
}

async fn carry_out_what_is_sealed(store: &Store, erased: &Notify, clock: &Clock, stop: &CancellationToken) {
    loop {
        match store.unless_lost(carry_out(store, clock.now())).await {
            Ok(0) => {}
            Ok(erasures) => {
                tracing::info!(erasures, "erased personal fields");
                erased.notify_one();
            }
            Err(error) => tracing::error!(
                %error,
                "personal fields could not be erased; it is tried again. The role as which the service logs in must be a \
                 member of vlaapi_eraser"
            ),
        }
        if !sleep_or_stop(INTERVAL, stop).await {
            return;
        }
    }
}

/// Sees to the files after each burst of erasures, and again and again where something stands in the way. What another
/// replica, or this one before it ended, has left undone is found in the database.
async fn rid_files(store: &Store, owner: &PgConnectOptions, erased: &Notify, clock: &Clock) {
    let mut pause = QUIET;
    loop {
        if timeout(pause, erased.notified()).await.is_ok() {
            pause = QUIET;
            continue;
        }
        pause = match store.unless_lost(see_to_files(store, owner, clock)).await {
            Ok(()) => LONGEST_PAUSE,
            Err(error) => {
                let pause = (2 * pause).min(LONGEST_PAUSE);
                tracing::warn!(
                    %error,
                    again_in_seconds = pause.as_secs(),
                    "what was erased may still be in the tables' files; it is tried again"
                );
                pause
            }
        };
    }
}

async fn see_to_files(store: &Store, owner: &PgConnectOptions, clock: &Clock) -> Result<(), Error> {
    let erasures = store.erasures_in_files().await?;
    if erasures.is_empty() {
        return Ok(());
    }
    match vacuum(owner).await? {
        Vacuumed::Rewritten => tracing::info!("what was erased is gone from the tables' files"),
        Vacuumed::Freed => tracing::warn!(
            "a table is too large to be written anew now, or belongs to somebody else: the files may hold what was \
             erased until their free space is used again. As a superuser, in a quiet hour, run VACUUM (FULL, ANALYZE) \
             on vlaapi.customer_consent_audit, audit_events and customers, and VACUUM FULL pg_statistic"
        ),
    }
    store.mark_vacuumed(&erasures, clock.now()).await
}

/// Once an hour: fields that have reached their age.
pub async fn retain(
    store: Store,
    keys: Arc<LogKeys>,
    policies: Vec<audit::Retention>,
    clock: Clock,
    stop: CancellationToken,
) {
    let mut policies: Vec<Retention> = policies
        .iter()
        .map(|policy| Retention::new(policy.field, TimeDelta::days(i64::from(policy.days))))
        .collect();
    loop {
        for policy in &mut policies {
            match store.unless_lost(policy.log(&store, &keys, clock.now())).await {
                Ok(0) => {}
                Ok(entries) => tracing::info!(entries, "personal fields have reached their age"),
                Err(error) => tracing::warn!(%error, "retention failed; the next hour tries again"),
            }
        }
        if !sleep_or_stop(Duration::from_hours(1), &stop).await {
            return;
        }
    }
}
