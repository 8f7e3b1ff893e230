//! [tlog-proof](https://c2sp.org/tlog-proof): that an entry is in a log, checkable without a network.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::decimal;
use super::note::{Note, NoteFault};
use super::tree::Hash;

const HEADER: &str = "c2sp.org/tlog-proof@v1";

/// More would be a tree of over 2^63 leaves.
const MAX_HASHES: usize = 63;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogProof {
    /// For the application. Nothing vouches for it.
    pub extra: Option<Vec<u8>>,
    pub index: u64,
    /// From the leaf's sibling to the root's child.
    pub hashes: Vec<Hash>,
    pub checkpoint: Note,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogProofFault {
    #[error("line 1 of the proof is not \"{HEADER}\"")]
    Header,
    #[error("line 2 of the proof is not \"extra\", a space and base64")]
    Extra,
    #[error("the proof does not go on with \"index\", a space and a number without leading zeros")]
    Index,
    #[error("line {0} of the proof is not a hash: 32 bytes in base64")]
    Hash(usize),
    #[error("the proof has more than {MAX_HASHES} hashes")]
    TooManyHashes,
    #[error("the proof has no empty line and no checkpoint after it")]
    NoCheckpoint,
    #[error("in the proof's checkpoint, {0}")]
    Checkpoint(#[from] NoteFault),
}

impl LogProof {
    pub fn parse(text: &str) -> Result<Self, LogProofFault> {
        let (head, checkpoint) = text.split_once("\n\n").ok_or(LogProofFault::NoCheckpoint)?;
        let mut lines = (1..).zip(head.split('\n')).peekable();
        lines.next_if(|(_, line)| *line == HEADER).ok_or(LogProofFault::Header)?;
        let extra = lines
            .next_if_map(|(at, line)| line.strip_prefix("extra ").ok_or((at, line)))
            .map(|extra| BASE64_STANDARD.decode(extra).map_err(|_| LogProofFault::Extra))
            .transpose()?;
        let index = lines.next().and_then(|(_, line)| decimal(line.strip_prefix("index ")?));
        let index = index.ok_or(LogProofFault::Index)?;
        if lines.clone().count() > MAX_HASHES {
            return Err(LogProofFault::TooManyHashes);
        }
        let hashes = lines.map(|(at, line)| line.parse().map_err(|_| LogProofFault::Hash(at)));
        Ok(Self {
            extra,
            index,
            hashes: hashes.collect::<Result<_, _>>()?,
            checkpoint: Note::parse(checkpoint)?,
        })
    }
}

impl fmt::Display for LogProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}")?;
        if let Some(extra) = &self.extra {
            writeln!(f, "extra {}", BASE64_STANDARD.encode(extra))?;
        }
        writeln!(f, "index {}", self.index)?;
        self.hashes.iter().try_for_each(|hash| writeln!(f, "{hash}"))?;
        write!(f, "\n{}", self.checkpoint)
    }
}
