//! The transparency log's formats and proofs, against their specifications, another implementation, and chance.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod checkpoint;
mod key;
mod note;
mod proof;
mod tampering;
mod tile;
mod tree;
mod vectors;
