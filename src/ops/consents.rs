//! Giving, changing and withdrawing consent.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::domain::{Consent, ConsentRecord, Precondition, decide};
use crate::error::Error;
use crate::store::Store;
use crate::store::consents::{self, Attribution};

/// What somebody wants the consent to be.
#[derive(Clone, Debug)]
pub enum Decision {
    /// It replaces the whole consent.
    Put(Consent),
    /// Tier `none`; nothing to do where nothing is given.
    Withdraw,
}

/// The consent as it stands after a decision.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub record: ConsentRecord,
    /// It is the customer's first.
    pub created: bool,
}

/// Applies a decision: the consent and its audit entry are both durable when this returns, or neither exists.
pub async fn apply(
    store: &Store,
    customer_id: Uuid,
    decision: &Decision,
    precondition: &Precondition,
    by: &Attribution,
    now: DateTime<Utc>,
) -> Result<Outcome, Error> {
    let mut transaction = store.begin().await?;
    let current = consents::lock(&mut transaction, customer_id).await?.ok_or(Error::UnknownCustomer)?;
    precondition
        .check(current.version)
        .map_err(|refusal| Error::VersionMoved { current: refusal.current })?;
    let change = match decision {
        Decision::Put(consent) => decide(&current, consent, false, now),
        Decision::Withdraw => decide(&current, &Consent::none(), true, now),
    };
    let Some(change) = change else {
        return Ok(Outcome { record: current, created: false });
    };
    let audit_id = consents::write(&mut transaction, customer_id, &change, by).await?;
    transaction.commit().await?;
    let record = ConsentRecord::from_state(
        customer_id,
        change.current,
        Some(change.timestamp),
        change.version,
        Some(audit_id),
    );
    Ok(Outcome { record, created: current.version == 0 })
}
