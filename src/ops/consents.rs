//! Giving, changing and withdrawing consent.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::domain::{Consent, ConsentRecord, Precondition, WriterKey, decide};
use crate::error::Error;
use crate::ops::log::vouching;
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
    /// The leaf which the log will have for it; none if nothing changed.
    pub leaf: Option<Vec<u8>>,
}

/// Applies a decision: the consent and its audit entry are both durable when this returns, or neither exists.
pub async fn apply(
    store: &Store,
    writer: Option<&WriterKey>,
    customer_id: Uuid,
    decision: &Decision,
    precondition: &Precondition,
    by: &Attribution,
    now: DateTime<Utc>,
) -> Result<Outcome, Error> {
    let mut transaction = store.begin().await?;
    let locked = consents::lock(&mut transaction, customer_id).await?.ok_or(Error::UnknownCustomer)?;
    let current = &locked.record;
    precondition
        .check(current.version)
        .map_err(|refusal| Error::VersionMoved { current: refusal.current })?;
    let change = match decision {
        Decision::Put(consent) => decide(current, consent, false, now),
        Decision::Withdraw => decide(current, &Consent::none(), true, now),
    };
    let Some(change) = change else {
        return Ok(Outcome { record: locked.record, created: false, leaf: None });
    };
    let vouched = writer.map(|key| vouching::change(key, &locked, &change, by)).transpose()?;
    let vouching = vouched.as_ref().map(|vouched| &vouched.vouching);
    consents::write(&mut transaction, &locked, &change, by, vouching).await?;
    transaction.commit().await?;
    let record = ConsentRecord::from_state(
        customer_id,
        change.current,
        Some(change.timestamp),
        change.version,
        Some(locked.next_audit_id),
    );
    Ok(Outcome { record, created: current.version == 0, leaf: vouched.map(|vouched| vouched.leaf) })
}
