//! Everything that speaks SQL, and nothing else does.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{Connection as _, Postgres, Row as _, Transaction};
use tokio::time::timeout;

use self::availability::Availability;
use self::chain::Chain;
use self::connection::{Connector, Purpose};
use self::pool::Pool;
use self::session::Session;
use crate::error::Error;

pub mod audit;
pub mod availability;
pub mod chain;
pub mod connection;
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
mod pool;
pub mod schema;
pub mod session;
pub mod sessions;
pub mod statistics;
pub mod unreadable;
pub mod verification;
pub mod waiting;

/// How long a request waits for a database connection before it is told that the database is not available.
const ACQUIRE_TIMEOUT: Duration = Duration::from_millis(500);
/// Time for a session to answer before it goes back to its pool.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(1);

/// The way to the database: reads and writes have connections of their own, so that neither starves the other.
#[derive(Clone, Debug)]
pub struct Store {
    connector: Connector,
    availability: Arc<Availability>,
    reads: Pool,
    writes: Pool,
    sizes: PoolSizes,
}

#[derive(Clone, Copy, Debug)]
struct PoolSizes {
    reads: u32,
    writes: u32,
}

impl Store {
    /// Prepares the pools; connections are made when they are needed.
    pub fn new(options: &PgConnectOptions, read_connections: u32, write_connections: u32) -> Self {
        let availability = Arc::default();
        let connector = Connector::new(options, &availability);
        let sizes = PoolSizes { reads: read_connections, writes: write_connections };
        let reads = Pool::new(read_pool(&connector, sizes), &availability);
        let writes = Pool::new(write_pool(&connector, sizes), &availability);
        Self { connector, availability, reads, writes, sizes }
    }

    /// A transaction, to be ended with [`settle`]. Call it only where nobody can cancel it: in a task of its own
    /// (`http::detached`).
    pub async fn begin(&self) -> Result<Transaction<'static, Postgres>, Error> {
        Ok(self.writes.begin().await?)
    }

    /// Opens a connection outside the pools, for a task that needs one all the time.
    pub async fn connect(&self, purpose: Purpose) -> sqlx::Result<PgConnection> {
        self.availability.unless_lost(self.connector.open(purpose)).await
    }

    /// The same, for transactions one after the other.
    pub async fn chain(&self) -> sqlx::Result<Chain> {
        // Counted first: a session that is opened during a loss is not used after it.
        let losses = self.availability.losses();
        Ok(Chain::on(self.connect(Purpose::Lane).await?, losses))
    }

    /// Reads on a session of their own, which is opened when it is first needed.
    pub fn session(&self) -> Session {
        Session::new(self.clone())
    }

    /// Returns the state of the database, as the heartbeat last found it.
    pub fn availability(&self) -> &Availability {
        &self.availability
    }

    /// Does the work unless the database is lost, or until it is.
    pub async fn unless_lost<T, E: From<sqlx::Error>>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        self.availability.unless_lost(work).await
    }

    /// The pools by name, for the metrics.
    pub fn pools(&self) -> [(&'static str, PgPool); 2] {
        [("read", self.reads.connections()), ("write", self.writes.connections())]
    }

    /// Leaves all pooled connections behind. Those that hang keep no place in the new pools.
    fn renew_pools(&self) {
        self.reads.replace(read_pool(&self.connector, self.sizes));
        self.writes.replace(write_pool(&self.connector, self.sizes));
    }

    pub async fn close(&self) {
        self.writes.connections().close().await;
        self.reads.connections().close().await;
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

fn pool_options(connections: u32) -> PgPoolOptions {
    PgPoolOptions::new().max_connections(connections).max_lifetime(Duration::from_mins(30))
}

fn read_pool(connector: &Connector, sizes: PoolSizes) -> PgPool {
    connector.pool(Purpose::Reads, pool_options(sizes.reads))
}

/// A `begin()` that was cancelled hands its session back inside a transaction, where the next user's commit is taken for a
/// savepoint's and lost. sqlx counts no open transaction then, so the session itself is asked: only inside a transaction is
/// its start before the statement's. Such a session is closed, and so is one that turned read-only.
fn write_pool(connector: &Connector, sizes: PoolSizes) -> PgPool {
    let options = pool_options(sizes.writes).after_release(|connection, _| {
        Box::pin(async move {
            let usable = sqlx::raw_sql(
                "select now() = statement_timestamp() and not current_setting('transaction_read_only')::boolean",
            );
            let usable = within(RELEASE_TIMEOUT, usable.fetch_one(&mut *connection)).await?.try_get(0)?;
            Ok(usable && !connection.is_in_transaction())
        })
    });
    connector.pool(Purpose::Writes, options)
}

/// What takes longer counts as not answered.
async fn within<T>(limit: Duration, work: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
    timeout(limit, work).await.unwrap_or_else(|_| Err(no_answer()))
}

fn no_answer() -> sqlx::Error {
    sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())
}
