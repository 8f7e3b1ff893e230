//! A receipt: the log's signature under a leaf, given with the answer, before the leaf is sealed. Should the entry be
//! missing from the log later, the receipt proves that it was promised.

use super::{LogKeys, LogState};
use crate::domain::Source;
use crate::store::log::entries::StoredEntry;
use crate::tlog::tree::leaf_hash;
use crate::tlog::{Note, Receipt};

/// The leaf of an entry that is written already, if the service vouched for the entry as it stands.
pub fn vouched_leaf(keys: &LogKeys, stored: &StoredEntry) -> Option<Vec<u8>> {
    let mac = stored.mac.as_ref()?;
    let leaf = stored.leaf_from(Source::Service, &stored.entry.commitments()).ok()?;
    keys.believed_writers().iter().any(|key| key.made(mac, &leaf)).then_some(leaf)
}

/// Signs a receipt for a leaf; `None` before the log is known.
pub fn sign(keys: &LogKeys, log: &LogState, audit_id: i64, leaf: &[u8]) -> Option<String> {
    if log.origin.is_empty() {
        return None;
    }
    let receipt =
        Receipt { origin: log.origin.clone(), audit_id: audit_id.cast_unsigned(), leaf: leaf_hash(leaf) };
    let text = receipt.to_string();
    let signatures = keys.signers.iter().map(|key| key.sign_note(&log.origin, &text)).collect();
    Some(Note { text, signatures }.to_string())
}
