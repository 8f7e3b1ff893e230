//! The trail as a whole: what is not sealed, where each customer's versions end, what was promised.

use sqlx::PgConnection;

use super::Run;
use crate::background::TimeSlice;
use crate::domain::{Leaf, LogEvent, QUARANTINE_RESOLVED, Source};
use crate::error::Error;
use crate::store::log::entries;
use crate::store::log::quarantine::{self, Listed};
use crate::store::verification as rows;
use crate::tlog::Hash;
use crate::tlog::tree::leaf_hash;
use crate::verify::Rule;
use crate::verify::ledger::{LONGEST_WAIT, VersionTold};

impl Run<'_> {
    /// What is not in the log: fresh, or hidden from the sealer.
    pub(super) async fn trail(
        &mut self,
        connection: &mut PgConnection,
        above: Option<i64>,
    ) -> Result<(), Error> {
        let now = self.scope.standards.now;
        self.quarantine(connection).await?;
        let unsealed = rows::unsealed(connection, above.unwrap_or(0)).await?;
        for entry in &unsealed {
            let place = format!("entry {}", entry.audit_id);
            match entry.queued_at {
                _ if entry.quarantined || self.ledger.is_resolved(entry.audit_id) => {}
                None => self.report.find(Rule::V9, place, "it is not sealed, and not queued to be"),
                Some(at) if self.scope.live && at + LONGEST_WAIT < now => {
                    self.report.find(Rule::V9, place, format!("it has waited to be sealed since {at}"));
                }
                Some(_) => {}
            }
        }
        for audit_id in rows::queued_without_entry(connection).await? {
            self.report.find(
                Rule::V9,
                format!("entry {audit_id}"),
                "it is queued to be sealed, and gone from the trail",
            );
        }
        let audit_ids: Vec<i64> = unsealed.iter().map(|entry| entry.audit_id).collect();
        let stored = entries::load(connection, &audit_ids).await?;
        self.twice(&stored);
        let mut slice = TimeSlice::begin();
        for stored in stored {
            slice.end_if_over().await;
            if let LogEvent::ConsentChanged { customer_id, action, version, .. } = &stored.entry.event {
                let told = VersionTold {
                    customer_id: *customer_id,
                    audit_id: stored.entry.audit_id,
                    version: *version,
                    action: action.clone(),
                    timestamp: stored.entry.timestamp,
                };
                self.ledger.version(&told, &mut self.report);
            }
        }
        Ok(())
    }

    /// Entries that are set aside stay findings until a sealed event resolves them. A version that is not the consent's is
    /// found here; the rules about versions pass it then.
    async fn quarantine(&mut self, connection: &mut PgConnection) -> Result<(), Error> {
        let mut slice = TimeSlice::begin();
        for aside in quarantine::list(connection, Listed::All, None).await? {
            slice.end_if_over().await;
            if let Some(foreign) = aside.foreign {
                self.ledger.foreign(foreign);
            }
            if self.ledger.is_resolved(aside.audit_id) {
                continue;
            }
            let (rule, place) = match aside.foreign {
                Some(foreign) => (Rule::V10, format!("customer {}", foreign.customer_id)),
                None => (Rule::V9, format!("entry {}", aside.audit_id)),
            };
            let claimed = if aside.resolved_by.is_some() {
                ", marked as resolved without a sealed event of the log that says so"
            } else {
                ""
            };
            let what = format!("entry {} is in quarantine{claimed}: {}", aside.audit_id, aside.reason);
            self.report.find(rule, place, what);
        }
        Ok(())
    }

    /// Takes up the resolutions from before the checkpoint where this verification begins.
    pub(super) async fn earlier_resolutions(
        &mut self,
        connection: &mut PgConnection,
        log_id: i32,
        begin: i64,
    ) -> Result<(), Error> {
        for bytes in quarantine::resolutions_before(connection, log_id, begin).await? {
            match Leaf::parse(&bytes) {
                Ok(leaf) if leaf.event == QUARANTINE_RESOLVED => {
                    self.ledger.resolution(&leaf, format!("entry {}", leaf.audit_id), &mut self.report);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Each customer's entries end at the consent.
    pub(super) async fn consents(&mut self, connection: &mut PgConnection) -> Result<(), Error> {
        self.ledger.find_gaps(&mut self.report);
        if self.scope.standards.since.is_some() {
            let customers = self.ledger.customer_ids();
            for chunk in customers.chunks(10_000) {
                for (customer_id, version) in rows::consents_of(connection, chunk).await? {
                    self.ledger.consent(customer_id, version, &mut self.report);
                }
            }
        } else {
            let mut after = None;
            loop {
                let consents = rows::consents(connection, after, 20_000).await?;
                let Some((last, _)) = consents.last() else { break };
                after = Some(*last);
                let mut slice = TimeSlice::begin();
                for (customer_id, version) in consents {
                    self.ledger.consent(customer_id, version, &mut self.report);
                    slice.end_if_over().await;
                }
                self.pacer.rest().await;
            }
        }
        self.ledger.consents_missing(&mut self.report);
        Ok(())
    }

    pub(super) async fn receipts(&mut self, connection: &mut PgConnection) -> Result<(), Error> {
        for outside in &self.scope.standards.receipts {
            let place = format!("receipt for entry {} from {}", outside.receipt.audit_id, outside.from);
            if let Err(fault) = outside.note.verify(&self.scope.standards.keys.of(&outside.receipt.origin)) {
                self.report.find(Rule::V11, place, fault.to_string());
                continue;
            }
            self.report.receipts += 1;
            let audit_id = outside.receipt.audit_id.cast_signed();
            match rows::leaf_hash_of(connection, audit_id).await? {
                None if waits(connection, audit_id, &outside.receipt.leaf).await? => {
                    self.report.remark(format!("{place}: it waits to be sealed"));
                }
                None => {
                    self.report.find(Rule::V11, place, "the log has no such entry, although it was promised");
                }
                Some(hash) if hash != outside.receipt.leaf.as_bytes() => {
                    self.report.find(Rule::V11, place, "the log has another entry in its place");
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}

/// Whether an entry is in the trail with this leaf. That it is not sealed is nothing that a receipt has to tell.
async fn waits(connection: &mut PgConnection, audit_id: i64, leaf: &Hash) -> Result<bool, Error> {
    let stored = entries::load(connection, &[audit_id]).await?;
    Ok(stored.iter().any(|stored| {
        let again = stored.leaf_from(Source::Service, &stored.entry.commitments());
        stored.mac.is_some() && again.is_ok_and(|again| leaf_hash(&again) == *leaf)
    }))
}
