//! Decisions folded over consents: one after the other, each on what those before it have left. No I/O, no clock.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use super::{Decision, Request};
use crate::domain::{Change, Consent, ConsentRecord, decide, expire};
use crate::error::Error;
use crate::store::consents::Locked;

/// Consents that are locked, and what the decisions so far have made of them.
#[derive(Debug)]
pub struct Fold {
    consents: HashMap<Uuid, Locked>,
    changed: HashSet<Uuid>,
    /// Decisions that allow more than before are refused.
    refuses_grants: bool,
}

/// What one decision comes to.
#[derive(Clone, Debug)]
pub struct Step {
    /// The consent after it.
    pub record: ConsentRecord,
    /// The change, and the id of its audit entry; none where nothing changes.
    pub change: Option<(i64, Change)>,
}

impl Fold {
    pub fn new(consents: Vec<Locked>) -> Self {
        let consents = consents.into_iter().map(|consent| (consent.record.customer_id, consent)).collect();
        Self { consents, changed: HashSet::new(), refuses_grants: false }
    }

    /// Refuses decisions that allow more than before.
    #[must_use]
    pub fn refusing_grants(self, refuses_grants: bool) -> Self {
        Self { refuses_grants, ..self }
    }

    /// Applies a decision. One that is refused leaves everything as it was.
    pub fn apply(&mut self, request: &Request) -> Result<Step, Error> {
        let consent = self.consents.get_mut(&request.customer_id).ok_or(Error::UnknownCustomer)?;
        let current = &consent.record;
        request
            .precondition
            .check(current.version)
            .map_err(|refusal| Error::VersionMoved { current: refusal.current })?;
        let change = match &request.decision {
            Decision::Put(wanted) => decide(current, wanted, false, request.now),
            Decision::Withdraw { policy_version } => {
                decide(current, &Consent::refusal(policy_version.clone()), true, request.now)
            }
            // Whoever found it due did not hold it: it may have been recorded since.
            Decision::Expire if consent.expiry_recorded => None,
            Decision::Expire => expire(current, request.now),
        };
        let Some(change) = change else {
            return Ok(Step { record: current.clone(), change: None });
        };
        if self.refuses_grants && change.allows_more() {
            return Err(Error::ClockDiffers);
        }
        let no_version = || Error::Internal("the versions of a consent are used up".to_owned());
        let change = Change { version: consent.next_version.ok_or_else(no_version)?, ..change };
        consent.next_version = change.version.checked_add(1);
        let no_id = || Error::Internal("too few ids were drawn for the entries".to_owned());
        let audit_id = consent.audit_ids.pop_front().ok_or_else(no_id)?;
        consent.record = ConsentRecord::from_state(
            request.customer_id,
            change.current.clone(),
            Some(change.timestamp),
            change.version,
            Some(audit_id),
        );
        consent.expiry_recorded = change.expiry_recorded;
        self.changed.insert(request.customer_id);
        Ok(Step { record: consent.record.clone(), change: Some((audit_id, change)) })
    }

    /// The consents that have changed, each as the last decision left it.
    pub fn into_changed(self) -> Vec<Locked> {
        let changed = self.changed;
        self.consents.into_values().filter(|consent| changed.contains(&consent.record.customer_id)).collect()
    }
}
