//! Proofs to take along.

use consentd::tlog::proof::LogProofFault;
use consentd::tlog::tree::{Hash, ProofFault, leaf_hash, verify_inclusion};
use consentd::tlog::{Checkpoint, LogProof, Note, SigningKey};
use proptest::prelude::*;

use super::note::{COSIGNED, mistyped, notes};
use super::tree::{Log, leaf};

const HEADER: &str = "c2sp.org/tlog-proof@v1";
const HASH: &str = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";

#[test]
fn a_proof_is_written_as_the_specification_says() {
    let text = format!("{HEADER}\nextra ZXh0cmE=\nindex 3\n{HASH}\n{HASH}\n\n{COSIGNED}");
    let proof = LogProof::parse(&text).unwrap();
    let hash: Hash = HASH.parse().unwrap();
    let checkpoint = Note::parse(COSIGNED).unwrap();
    assert_eq!(
        proof,
        LogProof { extra: Some(b"extra".to_vec()), index: 3, hashes: vec![hash; 2], checkpoint }
    );
    assert_eq!(proof.to_string(), text);
    let shortest = format!("{HEADER}\nindex 0\n\n{COSIGNED}");
    assert_eq!(LogProof::parse(&shortest).unwrap().to_string(), shortest);
}

#[test]
fn a_proof_convinces_whoever_knows_the_key() {
    let log = Log::of(11);
    let root = log.root();
    let text =
        Checkpoint { origin: "log.example".into(), size: 11, root, extensions: Vec::new() }.to_string();
    let key = SigningKey::from_seed([1; 32]);
    let signatures = vec![key.sign_note("log.example", &text)];
    let checkpoint = Note { text, signatures };
    let written = LogProof { extra: None, index: 7, hashes: log.inclusion(7), checkpoint }.to_string();

    let proof = LogProof::parse(&written).unwrap();
    proof.checkpoint.verify(&[key.verifier_key("log.example").unwrap()]).unwrap();
    let checkpoint = Checkpoint::parse(&proof.checkpoint.text).unwrap();
    let verify = |at| {
        let hash = leaf_hash(&leaf(at));
        verify_inclusion(hash, proof.index, checkpoint.size, &proof.hashes, checkpoint.root)
    };
    assert_eq!(verify(7), Ok(()));
    assert_eq!(verify(6), Err(ProofFault::Root));
}

#[test]
fn what_is_not_a_proof_is_refused_where_it_is_wrong() {
    for (head, fault) in [
        (String::new(), LogProofFault::Header),
        ("c2sp.org/tlog-proof@v2\nindex 0".to_owned(), LogProofFault::Header),
        (format!("{HEADER}\r\nindex 0"), LogProofFault::Header),
        (format!(" {HEADER}\nindex 0"), LogProofFault::Header),
        (format!("{HEADER}\nextra ZXh0cmE\nindex 0"), LogProofFault::Extra),
        (format!("{HEADER}\nextra  ZXh0cmE=\nindex 0"), LogProofFault::Extra),
        (format!("{HEADER}\nextra ZXh0cmE=\nextra ZXh0cmE=\nindex 0"), LogProofFault::Index),
        (format!("{HEADER}\nindex 0\nextra ZXh0cmE="), LogProofFault::Hash(3)),
        (HEADER.to_owned(), LogProofFault::Index),
        (format!("{HEADER}\nindex"), LogProofFault::Index),
        (format!("{HEADER}\nindex 00"), LogProofFault::Index),
        (format!("{HEADER}\nindex +1"), LogProofFault::Index),
        (format!("{HEADER}\nindex 18446744073709551616"), LogProofFault::Index),
        (format!("{HEADER}\n{HASH}\nindex 1"), LogProofFault::Index),
        (format!("{HEADER}\nindex 1\n{HASH}\n{HASH} "), LogProofFault::Hash(4)),
        (format!("{HEADER}\nindex 1{}", format!("\n{HASH}").repeat(64)), LogProofFault::TooManyHashes),
    ] {
        assert_eq!(LogProof::parse(&format!("{head}\n\n{COSIGNED}")), Err(fault), "{head:?}");
    }
    let whole = format!("{HEADER}\nindex 1{}", format!("\n{HASH}").repeat(63));
    assert!(LogProof::parse(&format!("{whole}\n\n{COSIGNED}")).is_ok());
    assert_eq!(LogProof::parse(&whole), Err(LogProofFault::NoCheckpoint));
    assert!(matches!(LogProof::parse(&format!("{whole}\n\nlog\n")), Err(LogProofFault::Checkpoint(_))));
}

prop_compose! {
    fn proofs()(
        extra in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40)), index: u64,
        hashes in proptest::collection::vec(any::<[u8; 32]>().prop_map(Hash), 0..64), checkpoint in notes(),
    ) -> LogProof {
        LogProof { extra, index, hashes, checkpoint }
    }
}

proptest! {
    #[test]
    fn a_proof_is_read_as_it_was_written(proof in proofs()) {
        prop_assert_eq!(LogProof::parse(&proof.to_string()), Ok(proof));
    }

    #[test]
    fn whatever_is_read_as_a_proof_is_displayed_as_it_was(proof in proofs(), at: prop::sample::Index, with in "[ -~\n]") {
        let text = mistyped(&proof.to_string(), at, with.chars().next().unwrap());
        if let Ok(proof) = LogProof::parse(&text) {
            prop_assert_eq!(proof.to_string(), text);
        }
    }

    #[test]
    fn no_text_makes_a_reader_of_proofs_stumble(text in "(.|\n)*") {
        let _ = LogProof::parse(&text);
        let _ = LogProof::parse(&format!("{HEADER}\nindex 1\n{text}"));
    }
}
