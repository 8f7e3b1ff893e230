//! Leaves, receipts, and files that hold many notes.

#![no_main]

use consentd_fuzz::leaf::{Leaf, hex, unhex};
use consentd_fuzz::tlog::note::{Note, split};
use consentd_fuzz::tlog::Receipt;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(leaf) = Leaf::parse(text.as_bytes()) {
        assert_eq!(leaf.leaf_version, 1);
    }
    if let Ok(receipt) = Receipt::parse(text) {
        assert_eq!(receipt.to_string(), text);
    }
    if let Some(bytes) = unhex::<16>(text) {
        assert_eq!(hex(&bytes), text);
    }
    // One behind the other, notes come apart again, if none has a signature line above its signatures.
    if let Ok(note) = Note::parse(text)
        && !note.text.starts_with('\n')
        && !note.text.lines().any(|line| line.starts_with("— "))
    {
        let two = format!("{text}\n{text}");
        assert_eq!(split(&two), [text, text]);
    }
    for piece in split(text) {
        assert!(text.contains(piece) && !piece.is_empty());
    }
});
