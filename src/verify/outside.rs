//! Checkpoints and receipts from outside the database: what makes a rewritten history visible.

use std::path::Path;

use super::{Keys, Report, Rule};
use crate::error::StartError;
use crate::tlog::note::split;
use crate::tlog::{Checkpoint, Note, Receipt};

/// A checkpoint, and where it is from.
#[derive(Clone, Debug)]
pub struct OutsideCheckpoint {
    pub from: String,
    pub checkpoint: Checkpoint,
    pub note: Note,
}

/// A receipt, and where it is from.
#[derive(Clone, Debug)]
pub struct OutsideReceipt {
    pub from: String,
    pub receipt: Receipt,
    pub note: Note,
}

impl OutsideCheckpoint {
    pub fn parse(from: impl Into<String>, text: &str) -> Result<Self, String> {
        let note = Note::parse(text).map_err(|fault| fault.to_string())?;
        let checkpoint = Checkpoint::parse(&note.text).map_err(|fault| fault.to_string())?;
        Ok(Self { from: from.into(), checkpoint, note })
    }

    /// Whether it is signed by the log; what is not, is a finding.
    pub fn is_signed(&self, keys: &Keys, report: &mut Report) -> bool {
        let verified = self.note.verify(&keys.of(&self.checkpoint.origin));
        if let Err(fault) = &verified {
            let place = format!("checkpoint of size {} from {}", self.checkpoint.size, self.from);
            report.find(
                Rule::V4,
                place,
                format!("it is not signed by a key of {}: {fault}", self.checkpoint.origin),
            );
        }
        verified.is_ok()
    }
}

/// The checkpoints of a file: one, or many one after the other.
pub fn checkpoints(file: &Path, report: &mut Report) -> Result<Vec<OutsideCheckpoint>, StartError> {
    let from = file.display().to_string();
    let parse = |note: &str| OutsideCheckpoint::parse(from.clone(), note);
    read(file, report, parse)
}

/// The receipts of a file.
pub fn receipts(file: &Path, report: &mut Report) -> Result<Vec<OutsideReceipt>, StartError> {
    let from = file.display().to_string();
    let parse = |note: &str| {
        let note = Note::parse(note).map_err(|fault| fault.to_string())?;
        let receipt = Receipt::parse(&note.text).map_err(|fault| fault.to_string())?;
        Ok(OutsideReceipt { from: from.clone(), receipt, note })
    };
    read(file, report, parse)
}

fn read<T>(
    file: &Path,
    report: &mut Report,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, StartError> {
    let bytes = std::fs::read(file)
        .map_err(|error| StartError::new(format!("cannot read {}: {error}", file.display())))?;
    let text = String::from_utf8_lossy(&bytes);
    let mut found = Vec::new();
    for (number, note) in (1_usize..).zip(split(&text)) {
        match parse(note) {
            Ok(parsed) => found.push(parsed),
            Err(why) => report.find(Rule::V4, format!("note {number} of {}", file.display()), why),
        }
    }
    if found.is_empty() && report.findings.is_empty() {
        return Err(StartError::new(format!("{} holds no signed note", file.display())));
    }
    Ok(found)
}
