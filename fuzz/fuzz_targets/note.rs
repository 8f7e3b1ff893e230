//! Notes, signature lines and keys: what is read is displayed as it was.

#![no_main]

use std::sync::LazyLock;

use consentd_fuzz::tlog::note::{Note, SigningKey, VerifierKey, parse_signature_lines};
use libfuzzer_sys::fuzz_target;

/// Of a note in the corpus.
static KEYS: LazyLock<Vec<VerifierKey>> = LazyLock::new(|| {
    let key = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
    vec![key.parse().expect("the specification's example")]
});

fuzz_target!(|text: &str| {
    if let Ok(note) = Note::parse(text) {
        assert_eq!(note.to_string(), text);
        let verified = note.verify(&KEYS);
        assert!(
            verified.is_err() || note.text == "This is an example message.\n",
            "a forged note was believed"
        );
    }
    if let Ok(signatures) = parse_signature_lines(text) {
        let lines: String = signatures.iter().map(|signature| format!("{signature}\n")).collect();
        assert_eq!(lines, text);
    }
    if let Ok(key) = text.parse::<VerifierKey>() {
        assert_eq!(key.to_string(), text);
    }
    for key in SigningKey::from_pem(text).into_iter().flatten() {
        let again = SigningKey::from_pem(&key.to_pem()).expect("what is written can be read");
        assert_eq!(again[0].verifier_key("name"), key.verifier_key("name"));
    }
});
