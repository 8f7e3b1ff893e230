//! Transactions one after the other on one session, each begun by the statement that ends the one before it: whoever comes
//! next waits for one answer less.

use sqlx::{Connection as _, Executor as _, PgConnection};

use super::{ACQUIRE_TIMEOUT, within};

/// A session that is between two transactions, or in one.
#[derive(Debug)]
pub struct Chain {
    connection: PgConnection,
    begun: bool,
}

impl Chain {
    pub(super) fn on(connection: PgConnection) -> Self {
        Self { connection, begun: false }
    }

    /// Whether a transaction is begun.
    pub fn is_begun(&self) -> bool {
        self.begun
    }

    /// Begins a transaction where none is begun.
    pub async fn begin(&mut self) -> sqlx::Result<()> {
        if !self.begun {
            within(ACQUIRE_TIMEOUT, self.connection.execute("begin")).await?;
            self.begun = true;
        }
        Ok(())
    }

    /// Commits, and begins the next one. If this fails without an answer of the database, it may have committed.
    pub async fn commit(&mut self) -> sqlx::Result<()> {
        self.end("commit and chain").await
    }

    /// Rolls back, and begins the next one.
    pub async fn rollback(&mut self) -> sqlx::Result<()> {
        self.end("rollback and chain").await
    }

    /// What ends without success leaves nothing that is known to be begun; a `begin` too many does no harm.
    async fn end(&mut self, statement: &'static str) -> sqlx::Result<()> {
        self.begun = false;
        self.connection.execute(statement).await?;
        self.begun = true;
        Ok(())
    }

    /// Ends a transaction in which nothing was done, and begins none.
    pub async fn rest(&mut self) -> sqlx::Result<()> {
        if self.begun {
            within(ACQUIRE_TIMEOUT, self.connection.execute("rollback")).await?;
            self.begun = false;
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
