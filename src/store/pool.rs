//! A pool whose statements are given up when the database is lost, and whose connections are closed when they fail.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, iter};
use futures_util::{FutureExt as _, StreamExt as _, TryFutureExt as _, TryStreamExt as _};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgPool, PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{Describe, Either, Execute, Executor, Postgres, SqlStr, Transaction};

use super::availability::Availability;
use super::within;
use crate::error::ends_session;

/// A little longer than the database lets a statement take: a session that is silent for so long is given up.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(6);

#[derive(Clone, Debug)]
pub struct Pool {
    connections: Arc<RwLock<PgPool>>,
    availability: Arc<Availability>,
}

impl Pool {
    pub(super) fn new(connections: PgPool, availability: &Arc<Availability>) -> Self {
        Self { connections: Arc::new(RwLock::new(connections)), availability: Arc::clone(availability) }
    }

    /// Returns the connections of now; those of before a loss are dropped once they are given back.
    pub(super) fn connections(&self) -> PgPool {
        // The lock guards a handle, which is whole at any time.
        self.connections.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn replace(&self, connections: PgPool) {
        *self.connections.write().unwrap_or_else(PoisonError::into_inner) = connections;
    }

    pub(super) async fn acquire(&self) -> sqlx::Result<PoolConnection<Postgres>> {
        // Boxed: what opens a connection is large, and seldom runs.
        let acquired = Box::pin(async { self.connections().acquire().await });
        self.availability.unless_lost(acquired).await
    }

    pub(super) async fn begin(&self) -> sqlx::Result<Transaction<'static, Postgres>> {
        let begun = Box::pin(async { self.connections().begin().await });
        self.availability.unless_lost(begun).await
    }

    /// Waits for the answer to one statement. On what does not answer nobody waits for long.
    async fn answer<T>(&self, statement: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
        self.availability.unless_lost(within(ANSWER_TIMEOUT, statement)).await
    }
}

/// A connection that did not answer, or whose session is over, is not used again.
fn close_if_over<T>(connection: &mut PoolConnection<Postgres>, answer: &sqlx::Result<T>) {
    if answer.as_ref().is_err_and(ends_session) {
        connection.close_on_drop();
    }
}

impl<'p> Executor<'p> for &'p Pool {
    type Database = Postgres;

    /// All rows are read before the first is given.
    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, sqlx::Result<Either<PgQueryResult, PgRow>>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let answer = async move {
            let mut connection = self.acquire().await?;
            let answer = self.answer(connection.fetch_many(query).try_collect::<Vec<_>>()).await;
            close_if_over(&mut connection, &answer);
            Ok(iter(answer?.into_iter().map(Ok)))
        };
        answer.try_flatten_stream().boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, sqlx::Result<Option<PgRow>>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        async move {
            let mut connection = self.acquire().await?;
            let answer = self.answer(connection.fetch_optional(query)).await;
            close_if_over(&mut connection, &answer);
            answer
        }
        .boxed()
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, sqlx::Result<PgStatement>>
    where
        'p: 'e,
    {
        async move { self.acquire().await?.prepare_with(sql, parameters).await }.boxed()
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, sqlx::Result<Describe<Postgres>>>
    where
        'p: 'e,
    {
        async move { self.acquire().await?.describe(sql).await }.boxed()
    }
}
