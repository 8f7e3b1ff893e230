//! Waits at start for a database that is down.

use std::time::{Duration, Instant};

use sqlx::Connection as _;
use sqlx::postgres::PgConnectOptions;
use tokio::time::{sleep, timeout};

use super::connection::{Purpose, open, unusable_reason};

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(250);
/// A server that is there and does not answer is down, too.
const ATTEMPT: Duration = Duration::from_secs(5);

/// Waits until the database answers, in whatever words, for no longer than `limit`. `notice` is called once, with the reason,
/// if there is something to wait for. What the database answers is for the caller to find out.
pub async fn wait(options: &PgConnectOptions, limit: Duration, notice: impl FnOnce(&str)) {
    let started = Instant::now();
    let mut notice = Some(notice);
    loop {
        let left = limit.saturating_sub(started.elapsed());
        if left.is_zero() {
            return;
        }
        let why = match timeout(ATTEMPT.min(left), open(options, Purpose::Owner)).await {
            Ok(Ok(connection)) => {
                // It is there; how this connection ends does not matter.
                let _ = connection.close().await;
                return;
            }
            Ok(Err(error)) if is_down(&error) => error.to_string(),
            Ok(Err(_)) => return,
            Err(_) => "it does not answer".to_owned(),
        };
        if let Some(notice) = notice.take() {
            notice(&why);
        }
        sleep(PAUSE.min(left)).await;
    }
}

fn is_down(error: &sqlx::Error) -> bool {
    match error {
        // A connection that is not used for its settings was answered.
        sqlx::Error::Io(_) => unusable_reason(error).is_none(),
        // admin_shutdown, crash_shutdown and cannot_connect_now: it stops, or is starting up.
        sqlx::Error::Database(error) => {
            ["57P01", "57P02", "57P03"].map(Some).contains(&error.code().as_deref())
        }
        _ => false,
    }
}
