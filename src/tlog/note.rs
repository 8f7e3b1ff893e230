//! [signed-note](https://c2sp.org/signed-note): a text, and signatures under it. The keys are in [`key`].

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

pub mod key;

pub use key::{Algorithm, KeyFault, RetiredKey, SigningKey, VerifierKey};

/// The specification asks for at least 16, and for some limit: each costs whoever checks them.
const MAX_SIGNATURES: usize = 100;
const MAX_BYTES: usize = 1 << 20;

/// What begins a signature line: an em dash and a space.
pub const DASH: &str = "— ";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Ends with a newline. Not to be believed before [`Note::verify`].
    pub text: String,
    pub signatures: Vec<Signature>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// The key's.
    pub name: String,
    pub key_id: [u8; 4],
    /// What the key's algorithm made, without the id that goes before it on the line.
    pub bytes: Vec<u8>,
}

/// A signature of a known key, which is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    pub name: String,
    pub key_id: [u8; 4],
    /// When a witness saw the checkpoint, in seconds since 1970; absent if the signature is no cosignature.
    pub time: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteFault {
    #[error("a note has at most {MAX_BYTES} bytes")]
    TooLong,
    #[error("a note has at most {MAX_SIGNATURES} signatures")]
    TooManySignatures,
    #[error("a note holds no control characters but newlines")]
    Control,
    #[error("the note has no empty line between its text and its signatures")]
    NoSignatures,
    #[error("the last line is not ended by a newline")]
    Unfinished,
    #[error("line {0} is not a signature: \"{DASH}\", a name, a space, and base64 of key id and signature")]
    Line(usize),
    #[error("the signature of {0} is wrong")]
    Wrong(String),
    #[error("no signature is of a known key")]
    Unknown,
}

impl Note {
    pub fn parse(note: &str) -> Result<Self, NoteFault> {
        if note.len() > MAX_BYTES {
            return Err(NoteFault::TooLong);
        }
        // The text may hold empty lines: it ends at the last one.
        let end = note.rfind("\n\n").ok_or(NoteFault::NoSignatures)? + 1;
        let text = &note[..end];
        if has_control_characters(text) {
            return Err(NoteFault::Control);
        }
        let above = text.split('\n').count();
        Ok(Self { text: text.to_owned(), signatures: signature_lines(&note[end + 1..], above)? })
    }

    /// Every signature of a known key must be right; those of unknown keys say nothing. At least one must be known.
    ///
    /// A key that signed twice is told of once, so that the answer can be counted.
    pub fn verify(&self, keys: &[VerifierKey]) -> Result<Vec<Verified>, NoteFault> {
        let mut verified: Vec<Verified> = Vec::new();
        for signature in &self.signatures {
            let Some(key) = keys.iter().find(|key| key.made(signature)) else { continue };
            let right = key.verify(&self.text, &signature.bytes);
            let right = right.ok_or_else(|| NoteFault::Wrong(signature.name.clone()))?;
            if !verified.iter().any(|other| other.name == right.name && other.key_id == right.key_id) {
                verified.push(right);
            }
        }
        if verified.is_empty() { Err(NoteFault::Unknown) } else { Ok(verified) }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.signatures.iter().try_for_each(|signature| writeln!(f, "{signature}"))
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [self.key_id.as_slice(), &self.bytes].concat();
        write!(f, "{DASH}{} {}", self.name, BASE64_STANDARD.encode(bytes))
    }
}

/// The notes of a text which holds one after the other: each ends with its signature lines, and empty lines may stand
/// between two. Whether a piece is a note, [`Note::parse`] tells.
pub fn split(text: &str) -> Vec<&str> {
    let mut notes = Vec::new();
    let (mut start, mut signed) = (0, false);
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let is_signature = line.starts_with(DASH);
        if signed && !is_signature {
            notes.push(&text[start..at]);
            start = at;
            signed = false;
        }
        if start == at && line == "\n" {
            start += 1;
        }
        signed |= is_signature;
        at += line.len();
    }
    if start < text.len() {
        notes.push(&text[start..]);
    }
    notes
}

/// Signature lines alone: how a witness answers.
pub fn parse_signature_lines(text: &str) -> Result<Vec<Signature>, NoteFault> {
    if text.len() > MAX_BYTES {
        return Err(NoteFault::TooLong);
    }
    signature_lines(text, 0)
}

/// `above`: how many lines of the note go before these.
fn signature_lines(text: &str, above: usize) -> Result<Vec<Signature>, NoteFault> {
    let lines = text.strip_suffix('\n').ok_or(NoteFault::Unfinished)?.split('\n');
    if lines.clone().count() > MAX_SIGNATURES {
        return Err(NoteFault::TooManySignatures);
    }
    let signatures = (above + 1..).zip(lines).map(|(at, line)| signature(line).ok_or(NoteFault::Line(at)));
    signatures.collect()
}

fn signature(line: &str) -> Option<Signature> {
    let (name, encoded) = line.strip_prefix(DASH)?.split_once(' ')?;
    let bytes = BASE64_STANDARD.decode(encoded).ok()?;
    let (key_id, bytes) = bytes.split_first_chunk()?;
    (key::is_name(name) && !bytes.is_empty()).then(|| Signature {
        name: name.to_owned(),
        key_id: *key_id,
        bytes: bytes.to_owned(),
    })
}

/// Those below U+0020, newlines aside: none of the formats may hold them.
pub(super) fn has_control_characters(text: &str) -> bool {
    text.bytes().any(|byte| byte < b' ' && byte != b'\n')
}
