//! Whether the database answers, as the heartbeat last found.
//!
//! One probe at a time asks the database. While it gets no answer the database is *lost*: whatever waits for it is given
//! up, and nothing else is sent. Sessions from before a loss are not used after it.

use std::borrow::Cow;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::time::Duration;

use sqlx::{Connection as _, PgConnection, Row as _};
use tokio::sync::watch;
use tokio::time::Instant;

use super::connection::{Purpose, unusable, unusable_reason};
use super::{Store, within};

/// Time for which the heartbeat waits for an answer on a session that answered before. Then it tries a new one, for as long as
/// any connection may take to open.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(300);
/// The session is opened again after this while its settings do not allow writes: they may have been changed.
const RECHECK_AFTER: Duration = Duration::from_secs(1);

const STANDBY: &str = "the database is read-only";
const TRIGGERS_OFF: &str =
    "session_replication_role is not origin, so that no audit entry would be written: writes are refused";

/// The state of the database, or of one session of it. Many wait for its changes.
#[derive(Debug, Default)]
pub struct Availability {
    state: watch::Sender<State>,
    writes_refused: AtomicBool,
}

#[derive(Clone, Debug, Default)]
struct State {
    lost: Option<Cow<'static, str>>,
    losses: u64,
}

impl Availability {
    pub fn is_lost(&self) -> bool {
        self.state.borrow().lost.is_some()
    }

    /// Returns the number of losses so far. What is older than the last one is not used any more.
    pub fn losses(&self) -> u64 {
        self.state.borrow().losses
    }

    /// Records that there is no answer. Returns whether that is new.
    pub fn lose(&self, reason: impl Into<Cow<'static, str>>) -> bool {
        let reason = reason.into();
        let mut is_new = false;
        self.state.send_modify(|state| {
            is_new = state.lost.replace(reason).is_none();
            state.losses += u64::from(is_new);
        });
        is_new
    }

    /// Records that there is an answer. Returns whether that is new.
    pub fn restore(&self) -> bool {
        self.state.send_if_modified(|state| state.lost.take().is_some())
    }

    /// Does the work unless the database is lost, or until it is. Work that is given up may have had its effect.
    pub async fn unless_lost<T, E: From<sqlx::Error>>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let mut state = self.state.subscribe();
        tokio::select! {
            biased;
            reason = lost(&mut state) => Err(unusable(reason).into()),
            done = work => done,
        }
    }

    /// Waits until there is an answer again after a loss that was not among the first so many.
    pub async fn restored_since(&self, losses: u64) {
        let mut state = self.state.subscribe();
        // The sender lives as long as `self`.
        let _ = state.wait_for(|state| state.lost.is_none() && state.losses != losses).await;
    }

    pub(super) fn set_writes_refused(&self, refused: bool) {
        self.writes_refused.store(refused, Release);
    }

    fn writes_are_refused(&self) -> bool {
        self.writes_refused.load(Acquire)
    }
}

async fn lost(state: &mut watch::Receiver<State>) -> Cow<'static, str> {
    let reason = state.wait_for(|state| state.lost.is_some()).await.map(|state| state.lost.clone());
    match reason {
        Ok(reason) => reason.unwrap_or_default(),
        // The sender is gone: nobody will ever say that anything is lost.
        Err(_) => std::future::pending().await,
    }
}

/// The faults of the database, for everybody to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pulse {
    /// The database does not answer, or refuses new sessions.
    pub fault: Option<Cow<'static, str>>,
    /// It answers, and is not written to.
    pub writes_refused: Option<&'static str>,
    /// The rest of the service uses the database.
    pub is_up: bool,
}

/// The probe, with a session of its own.
#[derive(Debug)]
pub struct Heartbeat {
    store: Store,
    session: Option<(PgConnection, Instant)>,
}

impl Store {
    pub fn heartbeat(&self) -> Heartbeat {
        Heartbeat { store: self.clone(), session: None }
    }
}

impl Heartbeat {
    /// Asks once, and makes the answer known. Takes no longer than a second.
    pub async fn beat(&mut self) -> Pulse {
        let asked = self.ask().await;
        let availability = &self.store.availability;
        let fault = asked.err().map(|error| {
            let (reason, is_lost) = diagnose(&error);
            if is_lost {
                availability.lose(reason.clone());
            }
            (reason, is_lost)
        });
        let is_up = !matches!(fault, Some((_, true)));
        if is_up && availability.is_lost() {
            // Connections from before may hang, or lead to a server that is the primary no more.
            self.store.renew_pools();
            availability.restore();
        }
        let refused = is_up && availability.writes_are_refused();
        Pulse {
            fault: fault.map(|(reason, _)| reason),
            writes_refused: refused.then_some(TRIGGERS_OFF),
            is_up,
        }
    }

    async fn ask(&mut self) -> sqlx::Result<()> {
        let recheck = self.store.availability.writes_are_refused();
        if let Some((mut connection, opened_at)) = self.session.take() {
            if recheck && opened_at.elapsed() >= RECHECK_AFTER {
                // It is the database's to notice, if it cannot be told.
                let _ = within(ANSWER_TIMEOUT, connection.close()).await;
            } else if within(ANSWER_TIMEOUT, must_be_writable(&mut connection)).await.is_ok() {
                self.session = Some((connection, opened_at));
                return Ok(());
            }
        }
        let mut connection = self.store.connector.open(Purpose::Lookups).await?;
        within(ANSWER_TIMEOUT, must_be_writable(&mut connection)).await?;
        self.session = Some((connection, Instant::now()));
        Ok(())
    }
}

async fn must_be_writable(connection: &mut PgConnection) -> sqlx::Result<()> {
    let asked = sqlx::raw_sql("select current_setting('transaction_read_only')::boolean");
    if asked.fetch_one(connection).await?.try_get(0)? { Err(unusable(STANDBY)) } else { Ok(()) }
}

/// Returns the public part of an error, and whether the database cannot be used at all. One that refuses new sessions, for
/// want of room or for a wrong password, may well answer on those that are open.
fn diagnose(error: &sqlx::Error) -> (Cow<'static, str>, bool) {
    if let Some(reason) = unusable_reason(error) {
        return (reason.to_string().into(), true);
    }
    match error {
        sqlx::Error::Database(error) => {
            let code = error.code().unwrap_or_default().into_owned();
            match code.get(..2) {
                Some("57" | "08") => {
                    (format!("the database is starting up or shutting down (SQLSTATE {code})").into(), true)
                }
                _ => (format!("the database refuses new sessions (SQLSTATE {code})").into(), false),
            }
        }
        sqlx::Error::Io(error) if error.kind() == std::io::ErrorKind::TimedOut => {
            ("the database does not answer".into(), true)
        }
        _ => ("the database cannot be reached".into(), true),
    }
}
