//! Erasing personal fields. The erasure is logged first; once its leaf is in a signed tree, what it names goes. What is left
//! of a field is its commitment, which nobody can relate to anything, so that every proof stays good.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::domain::{CustomerField, Erasure, Leaf, PII_ERASED, PersonalField, ranges};
use crate::error::Error;
use crate::ops::log::{LogKeys, vouching};
use crate::store::consents::Attribution;
use crate::store::erasure::{self, Reached};
use crate::store::links;
use crate::store::log::entries::{self, StoredEntry};
use crate::store::log::sealing;
use crate::store::{Store, settle, unreadable};
use crate::tlog::Hash;
use crate::tlog::tree::leaf_hash;

/// How many entries one erasure names at most: its leaf has a bound.
const AT_ONCE: usize = 2000;

/// What somebody wants to be erased of one customer.
#[derive(Clone, Debug)]
pub struct ErasureRequest {
    pub customer_id: Uuid,
    pub legal_basis: String,
    pub fields: Vec<PersonalField>,
    pub customer_fields: Vec<CustomerField>,
}

/// What was logged to be erased.
#[derive(Clone, Debug, Default)]
pub struct Logged {
    /// The events, of which each names up to 2000 entries.
    pub audit_ids: Vec<i64>,
    pub entries: usize,
    pub customer_fields: Vec<CustomerField>,
}

/// Logs the erasure of a customer's personal fields. Durable when this returns, carried out a moment later.
pub async fn request(
    store: &Store,
    keys: &LogKeys,
    request: &ErasureRequest,
    by: &Attribution,
    now: DateTime<Utc>,
) -> Result<Logged, Error> {
    if !store.has_trail(request.customer_id).await? {
        return Err(Error::UnknownCustomer);
    }
    let mut transaction = store.begin().await?;
    let logged = log_all(&mut transaction, keys, request, by, now).await;
    settle(transaction, logged).await
}

/// Logs as many events as the entries need.
async fn log_all(
    connection: &mut sqlx::PgConnection,
    keys: &LogKeys,
    request: &ErasureRequest,
    by: &Attribution,
    now: DateTime<Utc>,
) -> Result<Logged, Error> {
    let held = erasure::customer_holds(connection, request.customer_id).await?.unwrap_or_default();
    let mut customer_fields: Vec<CustomerField> =
        request.customer_fields.iter().copied().filter(|field| held.contains(field)).collect();
    let mut logged = Logged { customer_fields: customer_fields.clone(), ..Logged::default() };
    let mut after = 0;
    loop {
        let limit = i64::try_from(AT_ONCE).unwrap_or(i64::MAX);
        // The erasure's own events, who asked for it and why, are not among what it erases.
        let within = (after, logged.audit_ids.first().copied().unwrap_or(i64::MAX));
        let entries =
            erasure::holding(connection, request.customer_id, &request.fields, within, limit).await?;
        if entries.is_empty() && customer_fields.is_empty() {
            break;
        }
        after = entries.last().copied().unwrap_or(i64::MAX);
        logged.entries += entries.len();
        let details = Erasure {
            legal_basis: request.legal_basis.clone(),
            fields: request.fields.clone(),
            entries: ranges(entries),
            customer_fields: std::mem::take(&mut customer_fields),
            replays: None,
        };
        logged.audit_ids.push(log(connection, keys, Some(request.customer_id), &details, by, now).await?);
    }
    Ok(logged)
}

/// Logs one erasure, to be carried out once it is sealed.
pub async fn log(
    connection: &mut sqlx::PgConnection,
    keys: &LogKeys,
    customer_id: Option<Uuid>,
    details: &Erasure,
    by: &Attribution,
    now: DateTime<Utc>,
) -> Result<i64, Error> {
    let (audit_id, _) = vouching::event(connection, keys, PII_ERASED, customer_id, details, by, now).await?;
    sealing::enqueue(connection, audit_id).await?;
    erasure::note(connection, audit_id).await?;
    Ok(audit_id)
}

/// Carries out the erasures that are sealed, and answers how many there were. An unreadable one stops none of the others.
pub async fn carry_out(store: &Store, now: DateTime<Utc>) -> Result<u64, Error> {
    let mut done = 0;
    let mut after = 0;
    loop {
        let mut transaction = store.begin().await?;
        let Some(due) = erasure::lock_due(&mut transaction, after).await? else { return Ok(done) };
        after = due.audit_id;
        let Ok(details) = serde_json::from_str::<Erasure>(&due.details) else {
            unreadable::report("audit_events", "details", due.audit_id);
            transaction.rollback().await?;
            continue;
        };
        erasure::mark_done(&mut transaction, due.audit_id, now).await?;
        if let Some(customer_id) = due.customer_id {
            erasure::erase_customer(&mut transaction, customer_id, &details.customer_fields, now).await?;
        }
        if let Some(customer_id) = due.customer_id
            && details.fields.contains(&PersonalField::OnBehalfOf)
        {
            links::erase_persons(&mut transaction, customer_id).await?;
        }
        erasure::erase_entries(&mut transaction, &details.entries, &details.fields).await?;
        transaction.commit().await?;
        done += 1;
    }
}

/// The age at which one field of all entries is erased, and how far the trail was looked through.
#[derive(Clone, Debug)]
pub struct Retention {
    field: PersonalField,
    age: TimeDelta,
    reached: Reached,
}

impl Retention {
    pub fn new(field: PersonalField, age: TimeDelta) -> Self {
        Self { field, age, reached: Reached { timestamp: DateTime::UNIX_EPOCH, audit_id: 0 } }
    }

    /// Logs the erasure of the field in entries which have reached that age since the last time.
    pub async fn log(&mut self, store: &Store, keys: &LogKeys, now: DateTime<Utc>) -> Result<usize, Error> {
        let by = Attribution { changed_by: "system:retention".to_owned(), ..Attribution::default() };
        let mut logged = 0;
        loop {
            let limit = i64::try_from(AT_ONCE).unwrap_or(i64::MAX);
            let aged = store.aged(self.field, self.reached, now - self.age, limit).await?;
            let Some(last) = aged.last() else { return Ok(logged) };
            let reached = Reached { timestamp: last.timestamp, audit_id: last.audit_id };
            let mut held: Vec<i64> =
                aged.iter().filter(|aged| aged.holds).map(|aged| aged.audit_id).collect();
            held.sort_unstable();
            if !held.is_empty() {
                logged += held.len();
                let details = Erasure {
                    legal_basis: format!(
                        "retention: {} is kept for {} days",
                        self.field.as_str(),
                        self.age.num_days()
                    ),
                    fields: vec![self.field],
                    entries: ranges(held),
                    customer_fields: Vec::new(),
                    replays: None,
                };
                let mut transaction = store.begin().await?;
                log(&mut transaction, keys, None, &details, &by, now).await?;
                transaction.commit().await?;
            }
            self.reached = reached;
        }
    }
}

/// An erasure from a copy of the log, to be made again.
#[derive(Clone, Debug)]
pub struct Replayed {
    /// Where it is from: origin and position of its leaf.
    pub origin: String,
    pub customer_id: Option<Uuid>,
    pub erasure: Erasure,
}

/// The erasures of a copy of the log, and the leaves in it by the ids of their entries.
#[derive(Clone, Debug, Default)]
pub struct DeletionList {
    pub erasures: Vec<Replayed>,
    pub leaves: HashMap<i64, (Hash, Leaf)>,
}

/// Logs again what a restored backup has brought back, and answers how many erasures that were. Ids are given out anew
/// after a restore, so only entries whose leaf is the one of the copy are touched.
pub async fn replay(
    store: &Store,
    keys: &LogKeys,
    list: &DeletionList,
    by: &Attribution,
    now: DateTime<Utc>,
) -> Result<usize, Error> {
    let mut replayed = 0;
    for old in &list.erasures {
        let mut transaction = store.begin().await?;
        let named: Vec<i64> = old
            .erasure
            .entries
            .iter()
            .flat_map(|[first, last]| *first..=*last)
            .filter(|audit_id| list.leaves.contains_key(audit_id))
            .collect();
        let stored = entries::load(&mut transaction, &named).await?;
        let back = stored.iter().filter(|stored| {
            let holds = old.erasure.fields.iter().any(|field| stored.entry.personal.contains_key(field));
            holds
                && list
                    .leaves
                    .get(&stored.entry.audit_id)
                    .is_some_and(|(hash, leaf)| is_same(stored, *hash, leaf))
        });
        let back = ranges(back.map(|stored| stored.entry.audit_id));
        let held = match old.customer_id {
            Some(customer_id) => {
                erasure::customer_holds(&mut transaction, customer_id).await?.unwrap_or_default()
            }
            None => Vec::new(),
        };
        let customer_fields: Vec<CustomerField> =
            old.erasure.customer_fields.iter().copied().filter(|field| held.contains(field)).collect();
        if back.is_empty() && customer_fields.is_empty() {
            continue;
        }
        let details = Erasure {
            entries: back,
            customer_fields,
            replays: Some(old.origin.clone()),
            ..old.erasure.clone()
        };
        log(&mut transaction, keys, old.customer_id, &details, by, now).await?;
        transaction.commit().await?;
        replayed += 1;
    }
    Ok(replayed)
}

/// Whether a row is what a leaf is about, whatever was erased of it meanwhile.
fn is_same(stored: &StoredEntry, hash: Hash, leaf: &Leaf) -> bool {
    let mut commitments = leaf.commitments.clone();
    commitments.extend(stored.entry.commitments());
    let again = stored.entry.leaf(leaf.src, &commitments);
    again.is_ok_and(|again| leaf_hash(&again) == hash)
}
