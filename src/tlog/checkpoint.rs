//! [tlog-checkpoint](https://c2sp.org/tlog-checkpoint): what a log signs.

use std::fmt;

use super::decimal;
use super::note::has_control_characters;
use super::tree::Hash;

/// The text of the note: which log, how many leaves, and the root over them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    pub origin: String,
    pub size: u64,
    pub root: Hash,
    /// Lines without a meaning that is known here.
    pub extensions: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointFault {
    #[error("a checkpoint is at least three lines, each ended by a newline")]
    Lines,
    #[error("line {0} of the checkpoint is empty")]
    EmptyLine(usize),
    #[error("a checkpoint holds no control characters")]
    Control,
    #[error("line 2 of the checkpoint is not a tree size: a decimal number without leading zeros")]
    Size,
    #[error("line 3 of the checkpoint is not a root hash: 32 bytes in base64")]
    Root,
}

impl Checkpoint {
    pub fn parse(note_text: &str) -> Result<Self, CheckpointFault> {
        if has_control_characters(note_text) {
            return Err(CheckpointFault::Control);
        }
        let mut lines = note_text.strip_suffix('\n').ok_or(CheckpointFault::Lines)?.split('\n');
        if let Some(empty) = lines.clone().position(str::is_empty) {
            return Err(CheckpointFault::EmptyLine(empty + 1));
        }
        let mut line = || lines.next().ok_or(CheckpointFault::Lines);
        Ok(Self {
            origin: line()?.to_owned(),
            size: decimal(line()?).ok_or(CheckpointFault::Size)?,
            root: line()?.parse().map_err(|_| CheckpointFault::Root)?,
            extensions: lines.map(str::to_owned).collect(),
        })
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}\n{}", self.origin, self.size, self.root)?;
        self.extensions.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}
