//! Who looked at personal fields: an event of the log each time.

use chrono::{DateTime, Utc};
use serde_json::json;
use uuid::Uuid;

use super::log::{LogKeys, vouching};
use crate::domain::PII_READ;
use crate::error::Error;
use crate::store::consents::Attribution;
use crate::store::log::sealing;
use crate::store::{Store, settle};

/// Records that somebody looks at `what`; by which filter it was found is the attribution's reason, for a filter may name
/// a person. Durable when this returns: nothing is shown before.
pub async fn record(
    store: &Store,
    keys: &LogKeys,
    what: &str,
    customer_id: Option<Uuid>,
    by: &Attribution,
    now: DateTime<Utc>,
) -> Result<i64, Error> {
    let mut transaction = store.begin().await?;
    let recorded = async {
        let details = json!({ "what": what });
        let (audit_id, _) =
            vouching::event(&mut transaction, keys, PII_READ, customer_id, &details, by, now).await?;
        sealing::enqueue(&mut transaction, audit_id).await?;
        Ok(audit_id)
    };
    let recorded = recorded.await;
    settle(transaction, recorded).await
}
