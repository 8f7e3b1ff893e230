//! What stood when: a customer's entries as stretches of time.

use chrono::{DateTime, Utc};

use super::audit::{AuditEntry, ConsentState};
use super::consent::{ConsentRecord, ConsentStatus};

/// A time over which neither the consent changed nor its end came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Inclusive.
    pub from: DateTime<Utc>,
    /// Exclusive.
    pub until: DateTime<Utc>,
    pub state: ConsentState,
    /// `Expired`: the state is what was chosen, and allows nothing any more.
    pub status: ConsentStatus,
    /// The entry that made the state.
    pub audit_id: i64,
}

/// The stretches which one customer's entries, the oldest first, make until some instant. Before the first of them the
/// entries say nothing; foreign entries never took effect. An end date is judged by the clock, as everywhere, whenever
/// its entry was written.
pub fn stretches(entries: &[AuditEntry], until: DateTime<Utc>) -> Vec<Stretch> {
    let mut stretches = Vec::with_capacity(entries.len());
    let entries: Vec<&AuditEntry> = entries.iter().filter(|entry| !entry.foreign).collect();
    for (index, entry) in entries.iter().enumerate() {
        let end = entries.get(index + 1).map_or(until, |next| next.timestamp.min(until));
        let state = entry.state();
        let record = ConsentRecord::from_state(
            entry.customer_id,
            state.clone(),
            Some(entry.timestamp),
            entry.version,
            Some(entry.audit_id),
        );
        let middle = state
            .expires_at
            .map_or(end, |expires_at| expires_at.clamp(entry.timestamp, end.max(entry.timestamp)));
        for (from, until) in [(entry.timestamp, middle), (middle, end)] {
            if from < until {
                let status = record.status(from);
                stretches.push(Stretch {
                    from,
                    until,
                    state: state.clone(),
                    status,
                    audit_id: entry.audit_id,
                });
            }
        }
    }
    stretches
}
