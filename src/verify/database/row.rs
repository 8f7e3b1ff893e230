//! Rows, each held against the leaf that is about it.

use super::Run;
use crate::domain::{Commitments, Leaf, PersonalField};
use crate::store::log::entries::StoredEntry;
use crate::verify::Rule;

impl Run<'_> {
    /// Of two rows under one id, one would hide behind the other's leaf.
    pub(super) fn twice(&mut self, stored: &[StoredEntry]) {
        for pair in stored.windows(2).filter(|pair| pair[0].entry.audit_id == pair[1].entry.audit_id) {
            self.report.find(
                Rule::V7,
                format!("entry {}", pair[0].entry.audit_id),
                "there are two rows under this id",
            );
        }
    }

    /// The row is what the leaf says, but for what was erased.
    pub(super) fn row(&mut self, leaf: &Leaf, bytes: &[u8], stored: Option<&StoredEntry>) {
        let place = || format!("entry {}", leaf.audit_id);
        let Some(stored) = stored else {
            self.report.find(Rule::V7, place(), "it is in the log, and gone from the trail");
            return;
        };
        if u64::try_from(stored.leaf_version).ok() != Some(leaf.leaf_version) {
            let (row, sealed) = (stored.leaf_version, leaf.leaf_version);
            self.report.find(Rule::V7, place(), format!("leaf_version is {row}, and the log says {sealed}"));
        }
        let mut commitments: Commitments = leaf.commitments.clone();
        for (field, salted) in &stored.entry.personal {
            if commitments.get(field) != Some(&salted.commitment(*field)) {
                self.report.find(
                    Rule::V8,
                    place(),
                    format!("{} is not what the log committed to", field.as_str()),
                );
            }
        }
        for field in leaf.commitments.keys().filter(|field| !stored.entry.personal.contains_key(field)) {
            self.gone.push((leaf.audit_id, *field));
        }
        // What is personal was looked at above: here it is to be as the leaf has it.
        commitments.retain(|field, _| leaf.commitments.contains_key(field));
        match stored.leaf(&commitments) {
            Ok(again) if again == bytes => {}
            Ok(again) => self.report.find(Rule::V7, place(), difference(bytes, &again)),
            Err(fault) => self.report.find(Rule::V7, place(), fault.to_string()),
        }
        if let Some(mac) = &stored.mac {
            if !self.scope.writers.is_empty() && !self.scope.writers.iter().any(|key| key.made(mac, bytes)) {
                self.report.find(
                    Rule::V7,
                    place(),
                    "its mac is not the service's word for what the log says",
                );
            }
        } else if leaf.audit_id > self.ledger.adopted_through {
            self.unvouched(stored);
        }
    }

    /// A statement past the service names its database user. What names anybody else pretends.
    fn unvouched(&mut self, stored: &StoredEntry) {
        let by = stored.entry.personal.get(&PersonalField::ChangedBy).map(|salted| salted.value.as_str());
        if let Some(by) = by.filter(|by| by.starts_with("key:") || by.starts_with("system:")) {
            self.pretended.push((stored.entry.audit_id, by.to_owned()));
        }
    }

    /// Reports the entries that pretend to be the service's, once it is known which of them an operator resolved.
    pub(super) fn pretended(&mut self) {
        for (audit_id, by) in std::mem::take(&mut self.pretended) {
            if !self.ledger.is_resolved(audit_id) {
                self.report.find(
                    Rule::V7,
                    format!("entry {audit_id}"),
                    format!("it says that it was made by {by}, and the service does not vouch for it"),
                );
            }
        }
    }
}

/// Which fields two leaves differ in, and how.
fn difference(leaf: &[u8], row: &[u8]) -> String {
    let read = |bytes: &[u8]| serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(bytes);
    let (Ok(leaf), Ok(row)) = (read(leaf), read(row)) else {
        return "it is not what the log says".to_owned();
    };
    let names: std::collections::BTreeSet<&String> = leaf.keys().chain(row.keys()).collect();
    let absent = serde_json::Value::Null;
    let differences: Vec<String> = names
        .into_iter()
        .filter(|name| leaf.get(*name) != row.get(*name))
        .map(|name| {
            let of = |map: &serde_json::Map<String, serde_json::Value>| {
                map.get(name).unwrap_or(&absent).to_string()
            };
            format!("{name} is {}, and the log says {}", of(&row), of(&leaf))
        })
        .collect();
    if differences.is_empty() {
        "its leaf is not in canonical form".to_owned()
    } else {
        differences.join("; ")
    }
}
