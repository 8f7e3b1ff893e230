//! The sweep: writes the `expired` entry of consents whose end has come. Reads judge the end by the clock, whatever
//! the sweep does.

use chrono::{DateTime, Utc};
use futures_util::future::join_all;

use crate::domain::Precondition;
use crate::error::Error;
use crate::ops::consents::{Decision, Request, Writer};
use crate::store::consents::{self, Attribution, Due};
use crate::store::{Store, maintenance, settle};

/// How many are handed to the writer at once: less than it lets queue.
const CHUNK: i64 = 200;

/// What a sweep did.
#[derive(Debug, Default)]
pub struct Swept {
    /// How many expiries were recorded.
    pub recorded: u64,
    /// Why some were not, if there were any: the first of the reasons.
    pub failure: Option<Error>,
}

/// Records all expiries that are due; `None` when another replica is at it. Each is tried once: what cannot be recorded
/// now is left to the next sweep.
pub async fn sweep(store: &Store, writer: &Writer, now: DateTime<Utc>) -> Result<Option<Swept>, Error> {
    let by = Attribution { changed_by: "system:expiry".to_owned(), ..Attribution::default() };
    let mut swept = Swept::default();
    let mut last: Option<Due> = None;
    loop {
        // It changes nothing itself: while it is open, no other replica sweeps.
        let mut claim = store.begin().await?;
        let due = async {
            if !maintenance::claim_sweep(&mut claim).await? {
                return Ok(None);
            }
            consents::due(&mut claim, now, last, CHUNK).await.map(Some)
        };
        let due = match due.await {
            Ok(Some(due)) => due,
            outcome => return settle(claim, outcome.map(|_| last.map(|_| swept))).await,
        };
        let outcomes = join_all(due.iter().map(|due| {
            writer.submit(Request {
                customer_id: due.customer_id,
                decision: Decision::Expire,
                precondition: Precondition::Anything,
                by: by.clone(),
                now,
            })
        }))
        .await;
        // At once: a transaction that is merely dropped keeps the others from sweeping for a while.
        claim.rollback().await?;
        let Some(&end) = due.last() else {
            return Ok(Some(swept));
        };
        for outcome in outcomes {
            match outcome {
                Ok(outcome) => swept.recorded += u64::from(outcome.changed),
                // The customer was deleted meanwhile, and the consent with it.
                Err(Error::UnknownCustomer) => {}
                Err(error) => swept.failure = swept.failure.or(Some(error)),
            }
        }
        last = Some(end);
    }
}
