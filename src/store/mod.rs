//! Everything that speaks SQL, and nothing else does.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions as _, Connection as _, Postgres, Row as _, Transaction};
use tokio::time::timeout;

use self::chain::Chain;
use self::session::Session;
use crate::error::Error;

pub mod audit;
pub mod chain;
pub mod consents;
pub mod customers;
pub mod demo;
pub mod erasure;
pub mod evidence;
pub mod export;
pub mod following;
pub mod idempotency;
pub mod keys;
pub mod links;
pub mod listing;
pub mod log;
pub mod maintenance;
pub mod migrations;
mod plans;
pub mod schema;
pub mod session;
pub mod sessions;
pub mod statistics;
pub mod verification;
pub mod waiting;

/// How long a request waits for a database connection before it is told that the database is not available.
const ACQUIRE_TIMEOUT: Duration = Duration::from_millis(500);

/// PostgreSQL compiles statements that it expects to be long, and expects that of many where it knows nothing of the tables:
/// it takes longer than all that the service asks for.
const JIT: &str = "off";

/// The way to the database: reads and writes have connections of their own, so that neither starves the other.
#[derive(Clone, Debug)]
pub struct Store {
    reads: PgPool,
    writes: PgPool,
}

impl Store {
    /// Prepares the pools; connections are made when they are needed.
    pub fn new(options: &PgConnectOptions, read_connections: u32, write_connections: u32) -> Self {
        let options = options.clone().options([
            ("statement_timeout", "5s"),
            ("lock_timeout", "1s"),
            ("idle_in_transaction_session_timeout", "10s"),
            // A plan that is kept is one for the size that the tables had when it was made: these statements are few, and
            // each is planned for what is there now.
            ("plan_cache_mode", "force_custom_plan"),
            ("jit", JIT),
        ]);
        let pool = |connections| {
            PgPoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(ACQUIRE_TIMEOUT)
                .max_lifetime(Duration::from_mins(30))
        };
        let reads = pool(read_connections).connect_lazy_with(options.clone());
        // A `begin()` that was cancelled hands its session back inside a transaction, where the next user's commit is
        // taken for a savepoint's and lost. sqlx counts no open transaction then, so the session itself is asked:
        // only inside a transaction is its start before the statement's. Such a session is closed.
        let writes = pool(write_connections)
            .after_release(|connection, _| {
                Box::pin(async move {
                    let outside = sqlx::raw_sql("select now() = statement_timestamp()");
                    Ok(!connection.is_in_transaction() && outside.fetch_one(connection).await?.try_get(0)?)
                })
            })
            .connect_lazy_with(options);
        Self { reads, writes }
    }

    /// A transaction, to be ended with [`settle`]. Call it only where nobody can cancel it: in a task of its own
    /// (`http::detached`).
    pub async fn begin(&self) -> Result<Transaction<'static, Postgres>, Error> {
        Ok(self.writes.begin().await?)
    }

    /// A session outside the pools, with their settings, for whoever needs one all the time.
    pub async fn connect(&self) -> sqlx::Result<PgConnection> {
        within(ACQUIRE_TIMEOUT, self.session_options().connect()).await
    }

    /// The same, for transactions one after the other.
    pub async fn chain(&self) -> sqlx::Result<Chain> {
        Ok(Chain::on(self.connect().await?))
    }

    /// The few statements of such a session find rows by their keys, however many: planning them for each number of keys
    /// takes longer than they do. So their plans are kept, and must be good whatever PostgreSQL knows of the tables: a scan
    /// of a whole table is none for it, nor is a join that begins with one. The plans of triggers and foreign keys are the
    /// session's too.
    fn session_options(&self) -> PgConnectOptions {
        (*self.writes.connect_options()).clone().options([
            ("plan_cache_mode", "force_generic_plan"),
            ("enable_seqscan", "off"),
            ("enable_bitmapscan", "off"),
            ("enable_mergejoin", "off"),
        ])
    }

    /// Reads on a session of their own, which is opened when it is first needed.
    pub fn session(&self) -> Session {
        Session::new(self.clone())
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<(), Error> {
        sqlx::query_scalar!("select 1 as one").fetch_one(&self.reads).await?;
        Ok(())
    }

    /// The pools by name, for the metrics.
    pub fn pools(&self) -> [(&'static str, &PgPool); 2] {
        [("read", &self.reads), ("write", &self.writes)]
    }

    pub async fn close(&self) {
        self.writes.close().await;
        self.reads.close().await;
    }
}

/// Commits the transaction if its work succeeded, and rolls it back if not. A transaction that is only dropped is rolled
/// back some time later: until then it keeps its locks, and a caller that has its answer meets them with its next request.
pub async fn settle<T>(
    transaction: Transaction<'static, Postgres>,
    outcome: Result<T, Error>,
) -> Result<T, Error> {
    match outcome {
        Ok(done) => {
            transaction.commit().await?;
            Ok(done)
        }
        Err(error) => {
            // If this fails, the connection is closed, and the database rolls back.
            let _ = transaction.rollback().await;
            Err(error)
        }
    }
}

/// What takes longer counts as not answered.
async fn within<T>(limit: Duration, work: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
    timeout(limit, work).await.unwrap_or_else(|_| Err(no_answer()))
}

fn no_answer() -> sqlx::Error {
    sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())
}
