//! Checkpoints and receipts from outside the database: what makes a rewritten history visible.

use std::path::Path;

use super::{Keys, Report, Rule};
use crate::error::StartError;
use crate::tlog::note::{DASH, split};
use crate::tlog::{Checkpoint, Note, Receipt};

/// The base64 of a key's id and an Ed25519 signature.
const SHORTEST_SIGNATURE: usize = 92;

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

/// The checkpoints of a file: one, or many one after the other. What a write that broke off has left between them is worth
/// a remark: it is signed by nobody, so it says nothing. Where there is no checkpoint beside it, it is a finding.
pub fn checkpoints(file: &Path, report: &mut Report) -> Result<Vec<OutsideCheckpoint>, StartError> {
    let from = file.display().to_string();
    let (mut found, mut fragments, mut read) = (Vec::new(), Vec::<String>::new(), Report::default());
    for (number, piece) in (1_usize..).zip(split(&text(file)?)) {
        let place = || format!("note {number} of {from}");
        match parse_checkpoint(&from, piece) {
            Ok((checkpoint, is_whole)) => {
                found.push(checkpoint);
                fragments.extend((!is_whole).then(place));
            }
            Err(_) if is_fragment(piece) => fragments.push(place()),
            Err(why) => read.find(Rule::V4, place(), why),
        }
    }
    for place in fragments {
        if found.is_empty() {
            read.find(Rule::V4, place, "it is a part of a note, and the file holds no whole one");
        } else {
            read.remark(format!(
                "{place}: a part of a note, as a write that broke off leaves it, is passed over"
            ));
        }
    }
    report.extend(read);
    if found.is_empty() && report.findings.is_empty() {
        return Err(no_note(file));
    }
    Ok(found)
}

/// Parses a checkpoint, and returns whether the piece holds nothing else. Before its first line there may be a fragment, or
/// that line may be lost to the note before: it is the name of the key that signed, and under the signature.
fn parse_checkpoint(from: &str, piece: &str) -> Result<(OutsideCheckpoint, bool), String> {
    let mut signed = without_cut_signature(piece).to_owned();
    if !signed.ends_with('\n') {
        signed.push('\n');
    }
    let parse = |text: &str| OutsideCheckpoint::parse(from, text);
    let name = signature_lines(&signed).next().map(name_in).unwrap_or_default();
    let start = signed.rfind(&format!("{name}\n")).filter(|start| *start > 0 && !name.is_empty());
    if let Some(Ok(behind)) = start.map(|start| parse(&signed[start..])) {
        return Ok((behind, false));
    }
    let is_whole = signed.trim_end() == piece.trim_end();
    match parse(&signed) {
        Ok(checkpoint) => Ok((checkpoint, is_whole)),
        Err(why) => {
            parse(&format!("{name}\n{signed}")).map(|checkpoint| (checkpoint, false)).map_err(|_| why)
        }
    }
}

/// A text without a signature, or whose only signature is cut off.
fn is_fragment(piece: &str) -> bool {
    signature_lines(without_cut_signature(piece)).next().is_none()
}

/// The piece up to its last signature, if that is shorter than a signature is, or has the next note's first line at its end.
fn without_cut_signature(piece: &str) -> &str {
    let last = piece.trim_end_matches('\n').rfind('\n').map_or(0, |end| end + 1);
    let line = piece[last..].trim_end_matches('\n');
    let base64 = line.rsplit(' ').next().unwrap_or_default();
    let is_cut = base64.len() < SHORTEST_SIGNATURE || base64.ends_with(name_in(line));
    if line.starts_with(DASH) && is_cut { &piece[..last] } else { piece }
}

/// The key's name in a signature line.
fn name_in(line: &str) -> &str {
    line.strip_prefix(DASH).and_then(|rest| rest.split(' ').next()).unwrap_or_default()
}

fn signature_lines(note: &str) -> impl Iterator<Item = &str> {
    note.lines().filter(|line| line.starts_with(DASH))
}

/// The receipts of a file.
pub fn receipts(file: &Path, report: &mut Report) -> Result<Vec<OutsideReceipt>, StartError> {
    let from = file.display().to_string();
    let parse = |note: &str| -> Result<OutsideReceipt, String> {
        let note = Note::parse(note).map_err(|fault| fault.to_string())?;
        let receipt = Receipt::parse(&note.text).map_err(|fault| fault.to_string())?;
        Ok(OutsideReceipt { from: from.clone(), receipt, note })
    };
    let mut found = Vec::new();
    for (number, note) in (1_usize..).zip(split(&text(file)?)) {
        match parse(note) {
            Ok(parsed) => found.push(parsed),
            Err(why) => report.find(Rule::V4, format!("note {number} of {from}"), why),
        }
    }
    if found.is_empty() && report.findings.is_empty() {
        return Err(no_note(file));
    }
    Ok(found)
}

fn text(file: &Path) -> Result<String, StartError> {
    let bytes = std::fs::read(file)
        .map_err(|error| StartError::new(format!("cannot read {}: {error}", file.display())))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn no_note(file: &Path) -> StartError {
    StartError::new(format!("{} holds no signed note", file.display()))
}
