//! The sweep: writes the `expired` entry of consents whose end has come. Reads judge the end by the clock, whatever
//! the sweep does.

use chrono::{DateTime, Utc};

use crate::domain::{WriterKey, expire};
use crate::error::Error;
use crate::ops::log::vouching;
use crate::store::consents::{self, Attribution};
use crate::store::{Store, maintenance};

const BATCH: i64 = 200;

/// Records all expiries that are due and returns how many; `None` when another replica is at it.
pub async fn sweep(
    store: &Store,
    writer: Option<&WriterKey>,
    now: DateTime<Utc>,
) -> Result<Option<u64>, Error> {
    let by = Attribution { changed_by: "system:expiry".to_owned(), ..Attribution::default() };
    let mut recorded = 0;
    loop {
        let mut transaction = store.begin().await?;
        if !maintenance::claim_sweep(&mut transaction).await? {
            return Ok((recorded > 0).then_some(recorded));
        }
        let due = consents::lock_due(&mut transaction, now, BATCH).await?;
        let mut written = 0;
        for locked in &due {
            if let Some(change) = expire(&locked.record, now) {
                let vouched = writer.map(|key| vouching::change(key, locked, &change, &by)).transpose()?;
                let vouching = vouched.as_ref().map(|vouched| &vouched.vouching);
                consents::write(&mut transaction, locked, &change, &by, vouching).await?;
                written += 1;
            }
        }
        transaction.commit().await?;
        recorded += written;
        if written == 0 {
            return Ok(Some(recorded));
        }
    }
}
