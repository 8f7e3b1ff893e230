//! A transparency log's formats and proofs: pure, no I/O, no clock, and no word of consent.
//!
//! Whoever reads a log's answers needs the same rules as the log that wrote them, so they stand apart from both.
//! The texts are [C2SP](https://c2sp.org)'s, the tree is [RFC 6962](https://www.rfc-editor.org/rfc/rfc6962)'s:
//!
//! | module | holds |
//! | --- | --- |
//! | [`tree`] | hashes, growing a tree, making and checking proofs (RFC 6962 section 2.1) |
//! | [`tile`] | the tree and its entries cut into files that never change (tlog-tiles) |
//! | [`note`] | signed texts, and the keys that sign and check them (signed-note, tlog-cosignature) |
//! | [`checkpoint`] | what a log signs: its name, its size, its root (tlog-checkpoint) |
//! | [`proof`] | a proof that an entry is in a log, which needs no network to check (tlog-proof) |
//! | [`receipt`] | a promise that an entry will be in the log |
//!
//! Every format has exactly one text for each value: what parses is displayed as it was read, byte for byte.

pub mod checkpoint;
pub mod note;
pub mod proof;
pub mod receipt;
pub mod tile;
pub mod tree;

pub use checkpoint::Checkpoint;
pub use note::{Note, RetiredKey, SigningKey, VerifierKey};
pub use proof::LogProof;
pub use receipt::Receipt;
pub use tile::Tile;
pub use tree::Hash;

/// A number as all these formats write it: decimal digits, no sign, no leading zeros.
fn decimal(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}
