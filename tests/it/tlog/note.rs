//! Signed notes and witnesses' cosignatures.

use consentd::tlog::note::{
    Algorithm, Note, NoteFault, Signature, SigningKey, Verified, VerifierKey, parse_signature_lines,
};
use ed25519_dalek::Signer as _;
use proptest::prelude::*;

/// The example of the specification.
const KEY: &str = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
const NOTE: &str = "This is an example message.\n\n— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n";

/// Two more, whose keys the specifications do not tell.
const POEM: &str = "Ognuno sta solo sul cuor della terra
trafitto da un raggio di sole:

ed è subito sera.

— quasimodo.example/salvatore NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=
";
pub const COSIGNED: &str = "example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==
";

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed([seed; 32])
}

fn note(text: &str, signatures: Vec<Signature>) -> Note {
    Note { text: text.to_owned(), signatures }
}

/// A witness, made of the specification alone.
fn cosign(seed: u8, name: &str, time: u64, text: &str) -> (VerifierKey, Signature) {
    let key = ed25519_dalek::SigningKey::from_bytes(&[seed; 32]);
    let checks = VerifierKey::new(name, Algorithm::Cosignature, key.verifying_key().to_bytes()).unwrap();
    let signed = key.sign(format!("cosignature/v1\ntime {time}\n{text}").as_bytes()).to_bytes();
    let bytes = [time.to_be_bytes().as_slice(), &signed].concat();
    (checks.clone(), Signature { name: name.to_owned(), key_id: checks.id(), bytes })
}

#[test]
fn the_example_of_the_specification_is_verified() {
    let note = Note::parse(NOTE).unwrap();
    let key: VerifierKey = KEY.parse().unwrap();
    assert_eq!(note.text, "This is an example message.\n");
    assert_eq!(
        note.verify(std::slice::from_ref(&key)),
        Ok(vec![Verified { name: "example.com/foo".into(), key_id: [0x53, 0x0d, 0x90, 0x3a], time: None }])
    );
    let forged = Note { text: "This is an example massage.\n".into(), ..note };
    assert_eq!(forged.verify(&[key]), Err(NoteFault::Wrong("example.com/foo".into())));
}

#[test]
fn the_examples_of_the_specifications_are_displayed_as_they_were_read() {
    for example in [NOTE, POEM, COSIGNED] {
        assert_eq!(Note::parse(example).unwrap().to_string(), example);
    }
    let poem = Note::parse(POEM).unwrap();
    assert!(poem.text.ends_with("sole:\n\ned è subito sera.\n"), "the text ends at the last empty line");
    assert_eq!(poem.verify(&[KEY.parse().unwrap()]), Err(NoteFault::Unknown));
    let witness = &Note::parse(COSIGNED).unwrap().signatures[1];
    assert_eq!(witness.bytes[..8], 1_679_315_147_u64.to_be_bytes(), "the time that its specification tells");
}

#[test]
fn a_note_is_verified_by_whoever_knows_one_of_its_keys() {
    let text = "a log\n7\n";
    let (witness, cosignature) = cosign(2, "witness.example/w", 1_700_000_000, text);
    let (_, unknown) = cosign(3, "witness.example/unknown", 1, text);
    let note = note(text, vec![key(1).sign_note("log.example", text), unknown, cosignature]);
    let log = key(1).verifier_key("log.example").unwrap();

    let note = Note::parse(&note.to_string()).unwrap();
    let by_log = Verified { name: "log.example".into(), key_id: log.id(), time: None };
    let by_witness =
        Verified { name: "witness.example/w".into(), key_id: witness.id(), time: Some(1_700_000_000) };
    assert_eq!(note.verify(&[witness.clone(), log.clone()]), Ok(vec![by_log.clone(), by_witness.clone()]));
    assert_eq!(note.verify(&[log]), Ok(vec![by_log]));
    assert_eq!(note.verify(&[witness]), Ok(vec![by_witness]));
    assert_eq!(note.verify(&[]), Err(NoteFault::Unknown));
}

#[test]
fn one_wrong_signature_of_a_known_key_spoils_the_note() {
    let text = "a log\n7\n";
    let (log, right) = (key(1).verifier_key("log.example").unwrap(), key(1).sign_note("log.example", text));
    let (witness, cosignature) = cosign(2, "witness.example", 5, text);
    let keys = [log.clone(), witness];
    for at in [0, 7, 8, 39, 40, 71] {
        let mut wrong = cosignature.clone();
        wrong.bytes[at] ^= 1;
        let verified = note(text, vec![right.clone(), wrong]).verify(&keys);
        assert_eq!(verified, Err(NoteFault::Wrong("witness.example".into())));
    }
    for length in [0, 1, 8, 64, 71] {
        let wrong = Signature { bytes: cosignature.bytes[..length].to_vec(), ..cosignature.clone() };
        assert!(note(text, vec![right.clone(), wrong]).verify(&keys).is_err());
    }
    // A time beyond 2^63 may not be signed at all.
    let (_, late) = cosign(2, "witness.example", 1 << 63, text);
    assert!(note(text, vec![right.clone(), late]).verify(&keys).is_err());
    // A signature of the same key for another purpose is none.
    let plain = Signature { bytes: right.bytes.clone(), ..cosign(1, "log.example", 5, text).1 };
    let (cosigner, _) = cosign(1, "log.example", 5, text);
    assert!(note(text, vec![plain]).verify(&[cosigner]).is_err());
}

#[test]
fn a_name_alone_and_an_id_alone_are_unknown() {
    let text = "a log\n7\n";
    let log = key(1).verifier_key("log.example").unwrap();
    let other_key = key(2).sign_note("log.example", text);
    let other_name = Signature { name: "log.example/2".into(), ..key(1).sign_note("log.example", text) };
    assert_eq!(note(text, vec![other_key, other_name]).verify(&[log]), Err(NoteFault::Unknown));
}

#[test]
fn a_witness_that_signs_twice_counts_once() {
    let text = "a log\n7\n";
    let (witness, first) = cosign(2, "witness.example", 5, text);
    let (_, second) = cosign(2, "witness.example", 6, text);
    let verified = note(text, vec![first, second]).verify(&[witness]).unwrap();
    assert_eq!(verified.iter().map(|signature| signature.time).collect::<Vec<_>>(), [Some(5)]);
}

#[test]
fn what_is_not_a_note_is_refused_where_it_is_wrong() {
    let line = "— name AAAAAAA=\n";
    let refused = |text: &str| Note::parse(text).unwrap_err();
    assert!(Note::parse(&format!("text\n\n{line}")).is_ok());
    assert!(Note::parse(&format!("\n\n{line}")).is_ok(), "an empty line is a text");
    for (text, fault) in [
        (String::new(), NoteFault::NoSignatures),
        (format!("\n{line}"), NoteFault::NoSignatures),
        (format!("text\n{line}"), NoteFault::NoSignatures),
        (format!("text{line}"), NoteFault::NoSignatures),
        ("text\n\n".to_owned(), NoteFault::Unfinished),
        (format!("text\n\n{line}— name AAAAAAA="), NoteFault::Unfinished),
        (format!("text\n\n{line}\n"), NoteFault::Unfinished),
        (format!("text\r\n\n{line}"), NoteFault::Control),
        (format!("te\0xt\n\n{line}"), NoteFault::Control),
        (format!("te\txt\n\n{line}"), NoteFault::Control),
        (format!("text\n\n{}", line.repeat(101)), NoteFault::TooManySignatures),
        (format!("{}\n\n{line}", "a".repeat(1 << 20)), NoteFault::TooLong),
    ] {
        assert_eq!(refused(&text), fault, "{text:.60?}");
    }
    for wrong in [
        "text",
        "—name AAAAAAA=",
        "- name AAAAAAA=",
        "—  AAAAAAA=",
        "— name  AAAAAAA=",
        "— na+me AAAAAAA=",
        "— na\u{a0}me AAAAAAA=",
        "— na\u{7f}me AAAAAAA=",
        "— name",
        "— name ",
        "— name AAAAAA==",
        "— name AAAAAAB=",
        "— name AAAAAAA",
        "— name AAAAAAA= ",
        "— name AAAAAAA=\r",
    ] {
        assert_eq!(refused(&format!("one\n\ntwo\n\n{line}{wrong}\n")), NoteFault::Line(6), "{wrong:?}");
        assert_eq!(parse_signature_lines(&format!("{line}{wrong}\n")), Err(NoteFault::Line(2)), "{wrong:?}");
    }
    assert_eq!(NoteFault::Line(6).to_string().find("line 6"), Some(0));
}

#[test]
fn a_witness_answers_with_signature_lines() {
    let (_, first) = cosign(1, "witness.example/a", 5, "text\n");
    let (_, second) = cosign(2, "witness.example/b", 6, "text\n");
    assert_eq!(parse_signature_lines(&format!("{first}\n{second}\n")), Ok(vec![first.clone(), second]));
    assert_eq!(parse_signature_lines(&first.to_string()), Err(NoteFault::Unfinished));
    assert_eq!(parse_signature_lines(""), Err(NoteFault::Unfinished));
    assert_eq!(parse_signature_lines(&format!("{first}\n\n")), Err(NoteFault::Line(2)));
}

prop_compose! {
    fn signatures()(name in "[^\\s\\p{Cc}+]{1,12}", key_id: [u8; 4], bytes in proptest::collection::vec(any::<u8>(), 1..80)) -> Signature {
        Signature { name, key_id, bytes }
    }
}

prop_compose! {
    pub fn notes()(text in "([^\\p{Cc}]{0,12}\n){1,5}", signatures in proptest::collection::vec(signatures(), 1..5)) -> Note {
        Note { text, signatures }
    }
}

/// A text with one character replaced by another: near enough to a right one to be taken for it.
pub fn mistyped(text: &str, at: prop::sample::Index, with: char) -> String {
    let mut characters: Vec<_> = text.chars().collect();
    let at = at.index(characters.len());
    characters[at] = with;
    characters.into_iter().collect()
}

proptest! {
    #[test]
    fn a_note_is_read_as_it_was_written(note in notes()) {
        prop_assert_eq!(Note::parse(&note.to_string()), Ok(note));
    }

    #[test]
    fn whatever_is_read_as_a_note_is_displayed_as_it_was(note in notes(), at: prop::sample::Index, with in "[ -~\n—]") {
        let text = mistyped(&note.to_string(), at, with.chars().next().unwrap());
        if let Ok(note) = Note::parse(&text) {
            prop_assert_eq!(note.to_string(), text);
        }
    }

    #[test]
    fn no_text_makes_a_reader_stumble(text in ".*", lines in "(— [a-z]* [A-Za-z=]*\n){0,5}") {
        let _ = Note::parse(&text);
        let _ = Note::parse(&format!("{text}\n\n{lines}"));
        let _ = parse_signature_lines(&lines);
    }
}

proptest! {
    // Curves are slow in an unoptimised build.
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_is_signed_is_verified_and_nothing_else(seed: [u8; 32], note in notes(), bit: u8) {
        let key = SigningKey::from_seed(seed);
        let checks = key.verifier_key("log.example").unwrap();
        let mut signature = key.sign_note("log.example", &note.text);
        let signed = |signature: &Signature| Note { signatures: vec![signature.clone()], ..note.clone() };
        prop_assert!(signed(&signature).verify(std::slice::from_ref(&checks)).is_ok());
        signature.bytes[usize::from(bit) % 64] ^= 1 << (bit / 64);
        prop_assert!(signed(&signature).verify(&[checks]).is_err());
    }
}
