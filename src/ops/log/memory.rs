//! The largest checkpoint that this replica saw, in a file of its own: a database that was set back does not know it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::tlog::{Checkpoint, Note, VerifierKey};

#[derive(Clone, Debug)]
pub struct Memory {
    path: PathBuf,
}

impl Memory {
    /// `path` is the file; it need not exist yet.
    pub fn at(path: PathBuf) -> Self {
        Self { path }
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
    pub fn remember(&self, note: &str) -> io::Result<()> {
        let mut draft = self.path.clone();
        // Two replicas of one machine may remember in one place.
        draft.add_extension(std::process::id().to_string());
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(note.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, &self.path)?;
        self.path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
    }
}
