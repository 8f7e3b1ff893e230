//! Transactions one after the other on one session, each begun by the statement that ends the one before it: whoever comes
//! next waits for one answer less.
//!
//! A PostgreSQL backend reports what it has read and written when it waits for a statement outside a transaction, at most
//! once a second. A session that is always in one is never seen by autovacuum, and its tables are neither vacuumed nor
//! analyzed for as long as the load lasts. So once a second a transaction ends without beginning the next one.

use std::time::Duration;

use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::time::Instant;

use super::availability::Availability;
use super::plans::PlanAge;
use super::{ACQUIRE_TIMEOUT, within};

/// Longest time without a moment outside a transaction: as often as a backend reports at all.
const CHAINED_FOR: Duration = Duration::from_secs(1);

/// A session that is between two transactions, or in one.
#[derive(Debug)]
pub struct Chain {
    connection: PgConnection,
    begun: bool,
    /// The last moment outside a transaction.
    outside: Instant,
    plans: PlanAge,
    /// The number of losses of the database when the session was opened.
    losses: u64,
}

impl Chain {
    pub(super) fn on(connection: PgConnection, losses: u64) -> Self {
        Self { connection, begun: false, outside: Instant::now(), plans: PlanAge::new(), losses }
    }

    /// Returns the number of losses of the database before the session was opened.
    pub fn losses(&self) -> u64 {
        self.losses
    }

    /// Returns whether the session is from before a loss of the database, and so of no use.
    pub fn is_outdated(&self, availability: &Availability) -> bool {
        self.losses != availability.losses()
    }

    /// Whether a transaction is begun.
    pub fn is_begun(&self) -> bool {
        self.begun
    }

    /// Begins a transaction where none is begun.
    pub async fn begin(&mut self) -> sqlx::Result<()> {
        if !self.begun {
            // In one message: nothing more is waited for.
            let statement = if self.plans.is_over() { "discard plans; begin" } else { "begin" };
            within(ACQUIRE_TIMEOUT, self.connection.execute(statement)).await?;
            self.begun = true;
        }
        Ok(())
    }

    /// Commits, and begins the next one unless the session must be outside a transaction for a moment. If this fails
    /// without an answer of the database, it may have committed.
    pub async fn commit(&mut self) -> sqlx::Result<()> {
        self.end("commit", "commit and chain").await
    }

    /// Rolls back, and begins the next one unless the session must be outside a transaction for a moment.
    pub async fn rollback(&mut self) -> sqlx::Result<()> {
        self.end("rollback", "rollback and chain").await
    }

    /// What ends without success leaves nothing that is known to be begun; a `begin` too many does no harm.
    async fn end(&mut self, plain: &'static str, chained: &'static str) -> sqlx::Result<()> {
        self.begun = false;
        if self.outside.elapsed() < CHAINED_FOR {
            self.connection.execute(chained).await?;
            self.begun = true;
        } else {
            self.connection.execute(plain).await?;
            self.outside = Instant::now();
        }
        Ok(())
    }

    /// Ends a transaction in which nothing was done, and begins none.
    pub async fn rest(&mut self) -> sqlx::Result<()> {
        if self.begun {
            within(ACQUIRE_TIMEOUT, self.connection.execute("rollback")).await?;
            self.begun = false;
            self.outside = Instant::now();
        }
        Ok(())
    }

    pub async fn close(self) -> sqlx::Result<()> {
        self.connection.close().await
    }
}

impl AsMut<PgConnection> for Chain {
    fn as_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}
