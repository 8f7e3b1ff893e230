//! Resolving findings about entries in quarantine. The entry stays where it is; the event says who has looked at it, and why
//! it is no finding any more.

use chrono::{DateTime, Utc};

use super::{LogKeys, vouching};
use crate::domain::{QUARANTINE_RESOLVED, QuarantineResolution};
use crate::error::Error;
use crate::store::Store;
use crate::store::consents::Attribution;
use crate::store::log::{quarantine, sealing};

/// Resolves an entry by an event of the log, and returns the id of the event. Verification accepts the entry once the event
/// is sealed.
pub async fn resolve(
    store: &Store,
    keys: &LogKeys,
    audit_id: i64,
    by: &Attribution,
    now: DateTime<Utc>,
) -> Result<i64, Error> {
    let mut transaction = store.begin().await?;
    let entry = quarantine::lock(&mut transaction, audit_id).await?.ok_or(Error::Conflict(
        "this entry is not in quarantine: `consentd audit quarantine list` lists the entries",
    ))?;
    if entry.resolved_by.is_some() {
        return Err(Error::Conflict("this entry is resolved already"));
    }
    let details = QuarantineResolution { entries: vec![entry.resolution()] };
    let customer_id = entry.foreign.map(|foreign| foreign.customer_id);
    let (event, _) =
        vouching::event(&mut transaction, keys, QUARANTINE_RESOLVED, customer_id, &details, by, now).await?;
    sealing::enqueue(&mut transaction, event).await?;
    quarantine::mark_resolved(&mut transaction, audit_id, event, now).await?;
    transaction.commit().await?;
    Ok(event)
}
