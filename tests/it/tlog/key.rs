//! Keys: as OpenSSL writes them, and as those who check signatures are given them.

use consentd::tlog::note::{Algorithm, KeyFault, RetiredKey, SigningKey, VerifierKey};
use proptest::prelude::*;

/// RFC 8410 section 10.3, and its public key from section 10.1: what `openssl genpkey` makes looks the same.
const PEM: &str = "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC
-----END PRIVATE KEY-----
";
const PUBLIC: [u8; 32] = [
    0x19, 0xbf, 0x44, 0x09, 0x69, 0x84, 0xcd, 0xfe, 0x85, 0x41, 0xba, 0xc1, 0x67, 0xdc, 0x3b, 0x96, 0xc8,
    0x50, 0x86, 0xaa, 0x30, 0xb6, 0xb6, 0xcb, 0x0c, 0x5c, 0x38, 0xad, 0x70, 0x31, 0x66, 0xe1,
];

const VKEY: &str = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";

#[test]
fn a_private_key_is_read_and_written_as_openssl_does() {
    let keys = SigningKey::from_pem(PEM).unwrap();
    let [key] = keys.as_slice() else { panic!("one key") };
    assert_eq!(key.verifier_key("log.example").unwrap().public_key(), &PUBLIC);
    assert_eq!(key.to_pem(), PEM);
    assert_eq!(SigningKey::from_pem(&PEM.replace('\n', "\r\n")).unwrap()[0].to_pem(), PEM);
    assert_eq!(SigningKey::from_pem(PEM.trim()).unwrap()[0].to_pem(), PEM);
}

#[test]
fn a_file_may_hold_several_keys() {
    let pem = format!(
        "{PEM}\n{}{}",
        SigningKey::from_seed([1; 32]).to_pem(),
        SigningKey::from_seed([2; 32]).to_pem()
    );
    let keys = SigningKey::from_pem(&pem).unwrap();
    assert_eq!(keys.iter().map(SigningKey::to_pem).collect::<String>(), pem.replace("\n\n", "\n"));
}

#[test]
fn what_is_no_private_key_is_refused_by_its_number() {
    let refused = |text: &str| SigningKey::from_pem(text).unwrap_err();
    assert_eq!(refused(""), KeyFault::NoKey);
    assert_eq!(refused("\n \n"), KeyFault::NoKey);
    assert_eq!(refused("AAAA"), KeyFault::Pem(1));
    assert_eq!(refused(&format!("{PEM}and so on")), KeyFault::Pem(2));
    assert_eq!(refused(&PEM.replace("MC4", "MC5")), KeyFault::Pem(1));
    assert_eq!(refused(&format!("{PEM}{}", PEM.replace("PRIVATE", "EC PRIVATE"))), KeyFault::Pem(2));
    assert_eq!(refused(&format!("{}{PEM}", PEM.replace("PRIVATE", "EC PRIVATE"))), KeyFault::Pem(1));
    // The same for X25519, which is another curve: its object identifier ends with 110 instead of 112.
    assert_eq!(refused(&PEM.replace("K2Vw", "K2Vu")), KeyFault::Pem(1));
}

#[test]
fn a_key_that_is_retired_leaves_its_public_half_as_openssl_writes_it() {
    let key = &SigningKey::from_pem(PEM).unwrap()[0];
    let retired = RetiredKey::from(key);
    // RFC 8410 section 10.1.
    let public = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PUBLIC KEY-----
";
    assert_eq!(retired.to_pem(), public);
    assert_eq!(retired.verifier_key("log.example"), key.verifier_key("log.example"));
    let (keys, left) = RetiredKey::take_from_pem(&format!("{public}{PEM}{public}")).unwrap();
    assert_eq!((keys, left.trim()), (vec![retired.clone(), retired], PEM.trim()));
    let none = RetiredKey::take_from_pem(PEM).unwrap();
    assert_eq!(none, (Vec::new(), PEM.to_owned()));
    let refused = |text: &str| RetiredKey::take_from_pem(text).unwrap_err();
    assert_eq!(refused(&public.replace("MCow", "MCox")), KeyFault::PublicKey);
    assert_eq!(refused(&public.replace("K2Vw", "K2Vu")), KeyFault::PublicKey);
    assert_eq!(refused(&public[..60]), KeyFault::PublicKey);
}

#[test]
fn a_private_key_is_not_shown() {
    assert_eq!(format!("{:?}", SigningKey::from_seed([7; 32])), "SigningKey { .. }");
}

#[test]
fn a_verifier_key_is_displayed_as_it_was_read() {
    let key: VerifierKey = VKEY.parse().unwrap();
    assert_eq!((key.name(), key.algorithm()), ("example.com/foo", Algorithm::Ed25519));
    assert_eq!(key.to_string(), VKEY);
    let witness = VerifierKey::new("example.com/foo", Algorithm::Cosignature, *key.public_key()).unwrap();
    assert_eq!(witness.to_string().parse(), Ok(witness.clone()));
    assert_ne!(witness.id(), key.id(), "the same key is another one for another purpose");
}

#[test]
fn what_is_no_verifier_key_is_refused() {
    let refused = |text: &str| text.parse::<VerifierKey>().unwrap_err();
    for name in ["", "a b", "a\u{2003}b", "a\nb", "a\u{7f}b"] {
        assert_eq!(refused(&VKEY.replace("example.com/foo", name)), KeyFault::Name, "{name:?}");
        assert_eq!(SigningKey::from_seed([1; 32]).verifier_key(name), Err(KeyFault::Name));
    }
    assert_eq!(SigningKey::from_seed([1; 32]).verifier_key("a+b"), Err(KeyFault::Name));
    for id in ["530d903b", "530D903A", "0530d903a", "30d903a", "", "+530d903a"] {
        assert!(VKEY.replace("530d903a", id).parse::<VerifierKey>().is_err(), "{id:?}");
    }
    assert_eq!(refused(&VKEY.replace("/foo", "/bar")), KeyFault::Id);
    assert_eq!(refused("name+530d903a"), KeyFault::Form);
    assert_eq!(refused("name+530d903a+"), KeyFault::Form);
    assert_eq!(refused("name+530d903a+AQ="), KeyFault::Form);
    assert_eq!(refused("name+530d903a+AQ=="), KeyFault::PublicKey);
    assert_eq!(refused(&VKEY.replace("+Aek", "+Auk")), KeyFault::Algorithm);
    // The neutral point: everyone can sign for it.
    let mut neutral = [0; 32];
    neutral[0] = 1;
    assert_eq!(VerifierKey::new("name", Algorithm::Ed25519, neutral), Err(KeyFault::PublicKey));
}

proptest! {
    #[test]
    fn a_key_of_any_seed_goes_through_both_its_texts(seed: [u8; 32], name in "[^\\s\\p{Cc}+]{1,20}") {
        let key = SigningKey::from_seed(seed);
        let checks = key.verifier_key(&name).unwrap();
        prop_assert_eq!(checks.to_string().parse(), Ok(checks.clone()));
        prop_assert_eq!(SigningKey::from_pem(&key.to_pem()).unwrap()[0].verifier_key(&name), Ok(checks));
    }

    #[test]
    fn no_text_makes_a_reader_of_keys_stumble(text in ".*", body in "[A-Za-z0-9+/\n]{0,99}") {
        let _ = SigningKey::from_pem(&text);
        let _ = SigningKey::from_pem(&format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----"));
        let _ = RetiredKey::take_from_pem(&format!("{text}-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----"));
        let _ = text.parse::<VerifierKey>();
        let _ = format!("name+530d903a+{body}").parse::<VerifierKey>();
    }
}
