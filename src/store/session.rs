//! A database session of its own for one task, which is made anew when it is lost.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use sqlx::{Executor as _, PgConnection};
use tokio::time::timeout;
use uuid::Uuid;

use super::connection::Purpose;
use super::following::Told;
use super::plans::{self, PlanAge};
use super::{Store, consents, following, keys, no_answer};
use crate::domain::{Authenticated, ConsentRecord, KeyHash};
use crate::error::Error;

/// How long a look-up may take: a server that went away without a word is noticed by this.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(1);

/// One connection. A statement that was given up ends its connection: nobody waits for an answer that is not
/// wanted any more.
#[derive(Debug)]
pub struct Session {
    store: Store,
    /// With the number of losses of the database before it was opened.
    connection: Option<(PgConnection, PlanAge, u64)>,
}

impl Session {
    pub(super) fn new(store: Store) -> Self {
        Self { store, connection: None }
    }

    /// The consents of those of these customers who are known, in no particular order.
    pub async fn consents_of(&mut self, customer_ids: Arc<[Uuid]>) -> Result<Vec<ConsentRecord>, Error> {
        self.run(|connection| {
            let customer_ids = Arc::clone(&customer_ids);
            async move { consents::of_customers(connection, &customer_ids).await }.boxed()
        })
        .await
    }

    /// The keys of those of these hashes which are known, active, and of an active customer.
    pub async fn authenticate(
        &mut self,
        key_hashes: Arc<[KeyHash]>,
    ) -> Result<Vec<(KeyHash, Authenticated)>, Error> {
        self.run(|connection| {
            let key_hashes = Arc::clone(&key_hashes);
            async move { keys::authenticate(connection, &key_hashes).await }.boxed()
        })
        .await
    }

    /// Tells all who listen, this replica too. Nothing is lost by those who do not hear it, they look by themselves: so
    /// the disk is not waited for.
    pub async fn tell(&mut self, told: Vec<Told>) -> Result<(), Error> {
        let told: Arc<[Told]> = told.into();
        self.run(|connection| {
            let told = Arc::clone(&told);
            async move { following::tell(connection, &told).await }.boxed()
        })
        .await
    }

    async fn run<T>(
        &mut self,
        read: impl for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<T, Error>>,
    ) -> Result<T, Error> {
        let store = self.store.clone();
        store.unless_lost(self.ask(read)).await
    }

    async fn ask<T>(
        &mut self,
        read: impl for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<T, Error>>,
    ) -> Result<T, Error> {
        let late = || Error::from(no_answer());
        let losses = self.store.availability().losses();
        // A session that was there before may have been ended meanwhile: then a new one is worth a try.
        if let Some((mut connection, mut plans, _)) =
            self.connection.take_if(|(_, _, opened_after)| *opened_after == losses)
        {
            let answered = timeout(LOOKUP_TIMEOUT, async {
                if plans.is_over() {
                    connection.execute(plans::DISCARD).await?;
                }
                read(&mut connection).await
            });
            match answered.await {
                Ok(Ok(found)) => {
                    self.connection = Some((connection, plans, losses));
                    return Ok(found);
                }
                Ok(Err(Error::Unavailable(_))) => {}
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(late()),
            }
        }
        let mut connection = self.store.connect(Purpose::Lookups).await?;
        let found = timeout(LOOKUP_TIMEOUT, read(&mut connection)).await.map_err(|_| late())??;
        self.connection = Some((connection, PlanAge::new(), losses));
        Ok(found)
    }
}
