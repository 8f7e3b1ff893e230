//! Checkpoints and proofs: what is read is displayed as it was.

#![no_main]

use consentd_fuzz::tlog::{Checkpoint, LogProof};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(checkpoint) = Checkpoint::parse(text) {
        assert_eq!(checkpoint.to_string(), text);
    }
    if let Ok(proof) = LogProof::parse(text) {
        assert_eq!(proof.to_string(), text);
        if let Ok(checkpoint) = Checkpoint::parse(&proof.checkpoint.text) {
            assert_eq!(checkpoint.to_string(), proof.checkpoint.text);
        }
    }
});
