//! The largest checkpoint that this replica saw, in a file of its own: a database that was set back does not know it.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::Error;
use crate::files::{self, FileQueue, Readers};
use crate::tlog::{Checkpoint, Note, VerifierKey};

/// A drive that does not answer for longer fails the round of sealing, and nothing else.
const DEADLINE: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
pub struct Memory {
    path: PathBuf,
    writes: FileQueue,
}

impl Memory {
    /// `path` is the file; it need not exist yet.
    pub fn at(path: PathBuf) -> Self {
        Self { path, writes: FileQueue::default() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was remembered, if anything was. It is signed, so that whoever changes the file is found out.
    pub fn recall(
        &self,
        verifier_keys: impl Fn(&str) -> Result<Vec<VerifierKey>, Error>,
    ) -> Result<Option<(Checkpoint, String)>, Error> {
        let unusable = |why: &str| {
            Error::Internal(format!(
                "{} is not a checkpoint of this service's log: {why}; restore it, or move it away if this is another \
                 database's",
                self.path.display()
            ))
        };
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unusable(&error.to_string())),
        };
        let note = Note::parse(&text).map_err(|fault| unusable(&fault.to_string()))?;
        let checkpoint = Checkpoint::parse(&note.text).map_err(|fault| unusable(&fault.to_string()))?;
        note.verify(&verifier_keys(&checkpoint.origin)?).map_err(|fault| unusable(&fault.to_string()))?;
        Ok(Some((checkpoint, text)))
    }

    /// Replaces what was remembered; whole or not at all.
    pub async fn remember(&self, note: &str) -> io::Result<()> {
        let (path, note) = (self.path.clone(), note.to_owned());
        self.writes.run(DEADLINE, move || files::replace(&path, note.as_bytes(), Readers::Owner)).await
    }
}
