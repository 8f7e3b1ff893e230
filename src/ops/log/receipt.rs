//! A receipt: the log's signature under a leaf, given with the answer, before the leaf is sealed. Should the entry be
//! missing from the log later, the receipt proves that it was promised.

use super::{LogKeys, LogState};
use crate::tlog::tree::leaf_hash;
use crate::tlog::{Hash, Note};

/// The first line. No log has this name, so that a receipt never passes for a checkpoint.
pub const HEADER: &str = "consentd receipt v1";

/// What a receipt says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    pub origin: String,
    pub audit_id: i64,
    pub leaf: Hash,
}

impl std::fmt::Display for Receipt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{HEADER}\n{}\n{}\n{}", self.origin, self.audit_id, self.leaf)
    }
}

impl Receipt {
    /// Reads the text of a note.
    pub fn parse(text: &str) -> Option<Self> {
        let mut lines = text.strip_suffix('\n')?.split('\n');
        let header = lines.next()?;
        let receipt = Self {
            origin: lines.next()?.to_owned(),
            audit_id: lines.next()?.parse().ok()?,
            leaf: lines.next()?.parse().ok()?,
        };
        (header == HEADER && lines.next().is_none() && receipt.to_string() == text).then_some(receipt)
    }
}

/// Signs a receipt for a leaf; `None` before the log is known.
pub fn sign(keys: &LogKeys, log: &LogState, audit_id: i64, leaf: &[u8]) -> Option<String> {
    if log.origin.is_empty() {
        return None;
    }
    let text = Receipt { origin: log.origin.clone(), audit_id, leaf: leaf_hash(leaf) }.to_string();
    let signatures = keys.signers.iter().map(|key| key.sign_note(&log.origin, &text)).collect();
    Some(Note { text, signatures }.to_string())
}
