//! Folding: whatever comes together ends as if each decision had come alone.

use std::collections::HashMap;

use chrono::{DateTime, Duration, Utc};
use consentd::domain::{Change, Consent, ConsentRecord, Precondition, decide, expire};
use consentd::error::Error;
use consentd::ops::consents::fold::Fold;
use consentd::ops::consents::{Decision, Request};
use consentd::store::consents::{Attribution, Locked};
use proptest::prelude::*;
use uuid::Uuid;

use crate::rules::{proposals, start};

const CUSTOMERS: u128 = 3;

fn preconditions() -> impl Strategy<Value = Precondition> {
    prop_oneof![
        4 => Just(Precondition::Anything),
        1 => Just(Precondition::Given),
        1 => Just(Precondition::NeverGiven),
        2 => proptest::collection::vec(0..6_i32, 1..3).prop_map(Precondition::Versions),
    ]
}

prop_compose! {
    /// One more customer than exist.
    fn requests()(
        customer in 0..=CUSTOMERS, proposal in proposals(), kind in 0..8_u8, precondition in preconditions(),
        hours in 0..200_i64,
    ) -> Request {
        let now = start() + Duration::hours(hours);
        let decision = match kind {
            0 => Decision::Withdraw { policy_version: None },
            1 | 2 => Decision::Expire,
            _ => Consent::new(proposal, now).map_or(Decision::Withdraw { policy_version: None }, Decision::Put),
        };
        let customer_id = Uuid::from_u128(customer);
        Request { customer_id, decision, precondition, by: Attribution::default(), now }
    }
}

/// The consents of one customer each, one decision after the other: what folding must come to.
#[derive(Clone, Debug)]
struct Model(HashMap<Uuid, (ConsentRecord, bool)>);

impl Model {
    fn new() -> Self {
        let ids = (0..CUSTOMERS).map(Uuid::from_u128);
        Self(ids.map(|id| (id, (ConsentRecord::never_given(id), false))).collect())
    }

    fn apply(&mut self, request: &Request) -> Result<(ConsentRecord, Option<Change>), String> {
        let (record, expiry_recorded) =
            self.0.get_mut(&request.customer_id).ok_or(Error::UnknownCustomer.to_string())?;
        let current = record.version;
        request.precondition.check(current).map_err(|_| Error::VersionMoved { current }.to_string())?;
        let change = match &request.decision {
            Decision::Put(consent) => decide(record, consent, false, request.now),
            Decision::Withdraw { .. } => decide(record, &Consent::none(), true, request.now),
            Decision::Expire => expire(record, request.now).filter(|_| !*expiry_recorded),
        };
        if let Some(Change { current, version, timestamp, expiry_recorded: recorded, .. }) = change.clone() {
            let (id, audit_id) = (request.customer_id, Some(i64::from(version)));
            *record = ConsentRecord::from_state(id, current, Some(timestamp), version, audit_id);
            *expiry_recorded = recorded;
        }
        Ok((record.clone(), change))
    }

    /// As the database would lock them: the ids are the versions, so that they are known beforehand.
    fn lock(&self, batch: &[Request]) -> Vec<Locked> {
        let lock = |(record, expiry_recorded): &(ConsentRecord, bool)| {
            let items = batch.iter().filter(|request| request.customer_id == record.customer_id).count();
            let first = i64::from(record.version) + 1;
            Locked {
                record: record.clone(),
                next_version: Some(record.version + 1),
                expiry_recorded: *expiry_recorded,
                audit_ids: (first..).take(items).collect(),
            }
        };
        self.0.values().map(lock).collect()
    }
}

fn last_change(changes: &[(Uuid, DateTime<Utc>)], id: Uuid) -> Option<DateTime<Utc>> {
    changes.iter().rev().find(|(customer, _)| *customer == id).map(|(_, time)| *time)
}

proptest! {
    #[test]
    fn any_batches_come_to_the_same_as_one_decision_after_the_other(
        requests in proptest::collection::vec(requests(), 1..60), size in 1..60_usize,
    ) {
        let mut model = Model::new();
        for batch in requests.chunks(size) {
            let mut fold = Fold::new(model.lock(batch));
            let mut changes = Vec::new();
            for request in batch {
                let folded = fold.apply(request).map_err(|error| error.to_string());
                let expected = model.apply(request);
                if let Ok((_, Some(change))) = &expected {
                    changes.push((request.customer_id, change.timestamp));
                }
                let folded = folded.map(|step| {
                    let (ids, change) = step.change.unzip();
                    assert_eq!(ids, change.as_ref().and(step.record.audit_id));
                    (step.record, change)
                });
                prop_assert_eq!(folded, expected);
            }
            let changed = fold.into_changed();
            for consent in &changed {
                let id = consent.record.customer_id;
                let (record, expiry_recorded) = &model.0[&id];
                prop_assert_eq!((&consent.record, &consent.expiry_recorded), (record, expiry_recorded));
                prop_assert_eq!(consent.record.consent_updated_at, last_change(&changes, id));
            }
            let mut customers: Vec<_> = changes.iter().map(|(id, _)| *id).collect();
            customers.sort();
            customers.dedup();
            prop_assert_eq!(customers.len(), changed.len());
        }
    }

    #[test]
    fn a_batch_with_refusals_comes_to_the_same_as_one_without_them(
        requests in proptest::collection::vec(requests(), 1..60),
    ) {
        let model = Model::new();
        let mut whole = Fold::new(model.lock(&requests));
        let (mut steps, mut lawful) = (Vec::new(), Vec::new());
        for request in &requests {
            if let Ok(step) = whole.apply(request) {
                steps.push((step.record, step.change));
                lawful.push(request.clone());
            }
        }
        let mut rest = Fold::new(model.lock(&lawful));
        for (request, step) in lawful.iter().zip(steps) {
            let again = rest.apply(request).map_err(|error| TestCaseError::fail(error.to_string()))?;
            prop_assert_eq!((again.record, again.change), step);
        }
        let sorted = |fold: Fold| {
            let mut records: Vec<_> = fold.into_changed().into_iter().map(|consent| consent.record).collect();
            records.sort_by_key(|record| record.customer_id);
            records
        };
        prop_assert_eq!(sorted(whole), sorted(rest));
    }
}
