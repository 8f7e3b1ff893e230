//! The API.

use std::future::Future;
use std::time::Duration;

use tokio::time::timeout;

mod admission;
pub mod api;
mod auth;
pub mod client_address;
mod console;
mod cursor;
pub mod downloads;
pub mod extract;
pub mod input;
mod json;
pub mod limits;
mod my;
pub mod observe;
mod pace;
pub mod pages;
pub mod problem;
mod rates;
mod retry;
mod router;
pub mod server;
pub mod shares;
pub mod spec;

pub use admission::BODIES;
pub use auth::{Access, AccessTable};
pub use cursor::Cursors;
pub use rates::RateLimiter;
pub use router::{AppState, Metrics, Parts, Service, metrics_router, router};

use crate::error::Error;
use crate::ops::consents::{Outcome, Request};
use crate::store::Store;
use crate::telemetry;

/// Hands a decision to the writer; where there is no room for it, that is counted.
async fn submit(state: &AppState, request: Request) -> Result<Outcome, Error> {
    // The time of an entry is the database's, whatever the decision was judged by.
    let request = Request { now: state.cache.clock.database_time_of(request.now), ..request };
    let outcome = state.writer.submit(request).await;
    if let Err(Error::Overloaded) = outcome {
        telemetry::refused_for_overload("write");
    }
    outcome
}

/// A write that runs longer than this, on a connection that does not answer, is given up.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs a write to its end even if the client goes away in the middle of it: it is whole or it is absent. Where the database
/// is lost meanwhile, the client is answered at once, and the write runs on.
pub async fn detached<T: Send + 'static>(
    store: Store,
    write: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, problem::Problem> {
    let write = tokio::spawn(timeout(WRITE_TIMEOUT, write));
    let ended = async {
        match write.await {
            Ok(Ok(done)) => done,
            Ok(Err(_)) => Err(Error::Unavailable("the write took too long".to_owned())),
            Err(panicked) => Err(Error::Internal(panicked.to_string())),
        }
    };
    Ok(store.unless_lost(ended).await?)
}
