//! A log's signed promise that an entry will be in it, given before it is: the text of a note, in four lines.

use std::fmt;

use super::decimal;
use super::tree::Hash;

/// The first line. No log has this name, and the second line is no size, so that a receipt never passes for a checkpoint.
const HEADER: &str = "consentd receipt v1";

/// The text of the note: which log, which entry by its number, and the hash of its leaf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    pub origin: String,
    pub audit_id: u64,
    pub leaf: Hash,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a receipt is four lines: \"{HEADER}\", the log's origin, the entry's number, and the leaf's hash in base64"
)]
pub struct ReceiptFault;

impl Receipt {
    pub fn parse(note_text: &str) -> Result<Self, ReceiptFault> {
        let mut lines = note_text.strip_suffix('\n').ok_or(ReceiptFault)?.split('\n');
        let mut line = || lines.next().ok_or(ReceiptFault);
        let header = line()?;
        let receipt = Self {
            origin: line()?.to_owned(),
            audit_id: decimal(line()?).ok_or(ReceiptFault)?,
            leaf: line()?.parse().map_err(|_| ReceiptFault)?,
        };
        let whole = header == HEADER && !receipt.origin.is_empty() && lines.next().is_none();
        if whole { Ok(receipt) } else { Err(ReceiptFault) }
    }
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}\n{}\n{}\n{}", self.origin, self.audit_id, self.leaf)
    }
}
