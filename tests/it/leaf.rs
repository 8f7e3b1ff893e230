//! The leaves of version 1, byte for byte. They stay for ever: a leaf that was sealed years ago must be encoded as it was then.
//!
//! The expected values were made without this program, with Python's `json` (`sort_keys`, `separators=(",", ":")`,
//! `ensure_ascii=False`), `hashlib` and `hmac`.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use consentd::domain::{
    Commitments, Leaf, LeafFault, LogEntry, LogEvent, PersonalField, Salted, Source, WriterKey, hex,
};
use consentd::tlog::tree::leaf_hash;
use serde_json::{Value, json};
use uuid::{Uuid, uuid};

const CUSTOMER: Uuid = uuid!("11111111-2222-4333-8444-555555555555");

/// What a version of the encoding makes of an entry.
struct Golden {
    entry: LogEntry,
    source: Source,
    leaf: &'static str,
    /// First half of HMAC-SHA-256 by the key `07…07`.
    mac: &'static str,
    /// SHA-256 over a zero byte and the leaf.
    hash: &'static str,
}

fn time(text: &str) -> DateTime<Utc> {
    text.parse().expect("a time")
}

/// A personal field whose salt is one byte sixteen times.
fn salted(field: PersonalField, value: &str, salt: u8) -> (PersonalField, Salted) {
    (field, Salted { value: value.to_owned(), salt: vec![salt; 16] })
}

fn state(tier: &str, images: bool, policy_version: Option<&str>) -> Value {
    json!({
        "consent_tier": tier, "can_store_images": images, "can_store_embeddings": false, "can_use_for_training": false,
        "anonymization_level": "full", "policy_version": policy_version, "expires_at": null,
        "consent_granted_at": "2026-03-01T12:00:00.000001Z",
    })
}

/// Every field, with characters that are escaped and that are not.
fn whole() -> Golden {
    Golden {
        entry: LogEntry {
            audit_id: 4711,
            event: LogEvent::ConsentChanged {
                customer_id: CUSTOMER,
                action: "updated".to_owned(),
                version: 2,
                previous_tier: Some("basic".to_owned()),
                new_tier: "research".to_owned(),
                previous: Some(state("basic", false, None)),
                current: Some(state("research", true, Some("é\"\\\u{1f}\u{2028}/<"))),
            },
            personal: BTreeMap::from([
                salted(PersonalField::ChangedBy, "key:vla_live_a1b2", 1),
                salted(PersonalField::OnBehalfOf, "Zoë <zoë@example.com>", 2),
                salted(PersonalField::ChangeReason, "asked \"by phone\"\n\\ 日本 🦀\u{7}", 3),
                salted(PersonalField::IpAddress, "2001:db8::/32", 4),
                salted(PersonalField::UserAgent, "desk/1.0", 5),
            ]),
            request_id: Some("r-1".to_owned()),
            timestamp: time("2026-03-01T12:00:00.123456Z"),
        },
        source: Source::Service,
        leaf: concat!(
            r#"{"action":"updated","audit_id":4711,"commitments":{"#,
            r#""change_reason":"037dc8e1a4557f26ad5726a01c50d70dad76fe83d9f7781a36134bb56f42693a","#,
            r#""changed_by":"210097126ecf669d78c28e93d9c0a6b3193d2e27fcf9e6867938a1666b07ae2d","#,
            r#""ip_address":"bcea40d60de8297fc77736b6c2ece152f997b2e6c097ead274a0039c581aa6eb","#,
            r#""on_behalf_of":"610a5d2ead37d4336e76de13157e5f1316831d1fcffe06d5293f842e1c94ab80","#,
            r#""user_agent":"f5d7daf1c408d19900cd27429a9de4cdc377277438ac7248fd971c4dc482293d"},"#,
            r#""current":{"anonymization_level":"full","can_store_embeddings":false,"can_store_images":true,"#,
            r#""can_use_for_training":false,"consent_granted_at":"2026-03-01T12:00:00.000001Z","#,
            r#""consent_tier":"research","expires_at":null,"policy_version":"é\"\\\u001f"#,
            "\u{2028}",
            r#"/<"},"customer_id":"11111111-2222-4333-8444-555555555555","event":"consent.changed","leaf_version":1,"#,
            r#""new_tier":"research","previous":{"anonymization_level":"full","can_store_embeddings":false,"#,
            r#""can_store_images":false,"can_use_for_training":false,"#,
            r#""consent_granted_at":"2026-03-01T12:00:00.000001Z","consent_tier":"basic","expires_at":null,"#,
            r#""policy_version":null},"previous_tier":"basic","request_id":"r-1","src":"service","#,
            r#""timestamp":"2026-03-01T12:00:00.123456Z","version":2}"#,
        ),
        mac: "f2e3322958783797114cbb0f14fd9ab5",
        hash: "1a2196180a1d99512b9680a668ebb93bdabeeb07c4996dae378d9d5cd700f55c",
    }
}

/// From before the trail told states: as little as an entry can have.
fn past_the_service() -> Golden {
    Golden {
        entry: LogEntry {
            audit_id: 1,
            event: LogEvent::ConsentChanged {
                customer_id: CUSTOMER,
                action: "granted".to_owned(),
                version: 1,
                previous_tier: None,
                new_tier: "basic".to_owned(),
                previous: None,
                current: None,
            },
            personal: BTreeMap::new(),
            request_id: None,
            timestamp: time("2024-01-31T23:59:59Z"),
        },
        source: Source::Sql,
        leaf: concat!(
            r#"{"action":"granted","audit_id":1,"commitments":{},"#,
            r#""customer_id":"11111111-2222-4333-8444-555555555555","event":"consent.changed","leaf_version":1,"#,
            r#""new_tier":"basic","src":"sql","timestamp":"2024-01-31T23:59:59.000000Z","version":1}"#,
        ),
        mac: "70dad03138264776dc0a06aa8f31c962",
        hash: "b24b4ab612de038bb01999445b9c2d32caa8078e642b292c7211c482d128a306",
    }
}

/// The event which every log begins with, under the largest number that JSON carries everywhere.
fn opened() -> Golden {
    Golden {
        entry: LogEntry {
            audit_id: 9_007_199_254_740_991,
            event: LogEvent::Other {
                kind: "log.opened".to_owned(),
                customer_id: None,
                details: json!({"origin": "log.example/audit/1", "adopted_through": 0}),
            },
            personal: BTreeMap::from([salted(PersonalField::ChangedBy, "system:sealer", 6)]),
            request_id: None,
            timestamp: time("2026-03-01T12:00:00Z"),
        },
        source: Source::Service,
        leaf: concat!(
            r#"{"audit_id":9007199254740991,"commitments":{"#,
            r#""changed_by":"4be5409da72682baf125c8c5b8288cf6acdcd9d302fbb846250715a5d1851b07"},"#,
            r#""details":{"adopted_through":0,"origin":"log.example/audit/1"},"event":"log.opened","leaf_version":1,"#,
            r#""src":"service","timestamp":"2026-03-01T12:00:00.000000Z"}"#,
        ),
        mac: "51b899a3fa8365d02d496dc26986bcc1",
        hash: "493ec257b89c132881560eeff44cd4f62f86c014823d2e6450cb45abf12161d2",
    }
}

fn erasure() -> Golden {
    Golden {
        entry: LogEntry {
            audit_id: 12,
            event: LogEvent::Other {
                kind: "pii.erased".to_owned(),
                customer_id: Some(CUSTOMER),
                details: json!({
                    "legal_basis": "GDPR Art. 17(1)(b)", "fields": ["changed_by", "ip_address"],
                    "entries": [[1, 3], [7, 7]], "customer_fields": ["email"],
                }),
            },
            personal: BTreeMap::new(),
            request_id: None,
            timestamp: time("2026-03-01T12:00:00.0001Z"),
        },
        source: Source::Service,
        leaf: concat!(
            r#"{"audit_id":12,"commitments":{},"customer_id":"11111111-2222-4333-8444-555555555555","#,
            r#""details":{"customer_fields":["email"],"entries":[[1,3],[7,7]],"fields":["changed_by","ip_address"],"#,
            r#""legal_basis":"GDPR Art. 17(1)(b)"},"event":"pii.erased","leaf_version":1,"src":"service","#,
            r#""timestamp":"2026-03-01T12:00:00.000100Z"}"#,
        ),
        mac: "3fecd5afbbd1e0d2f7d1590357f25ea9",
        hash: "99d78fddbb60358bfda30fab0e6cc545d5065cd6a03696a0f9587b57cba23c27",
    }
}

#[test]
fn leaves_of_version_1_are_what_they_always_were() {
    let key = WriterKey::new([7; 32]);
    for golden in [whole(), past_the_service(), opened(), erasure()] {
        let leaf = golden.entry.leaf(golden.source, &golden.entry.commitments()).unwrap();
        assert_eq!(String::from_utf8(leaf.clone()).unwrap(), golden.leaf);
        assert_eq!(hex(&key.mac(&leaf)), golden.mac);
        assert_eq!(hex(leaf_hash(&leaf).as_bytes()), golden.hash);
        let read = Leaf::parse(&leaf).unwrap();
        assert_eq!(
            (read.audit_id, read.src, read.timestamp),
            (golden.entry.audit_id, golden.source, golden.entry.timestamp)
        );
        assert_eq!(read.commitments, golden.entry.commitments());
    }
}

#[test]
fn an_entry_whose_fields_are_erased_has_the_leaf_that_it_had() {
    let golden = whole();
    let commitments: Commitments = golden.entry.commitments();
    for gone in 0..=PersonalField::ALL.len() {
        let mut entry = golden.entry.clone();
        entry.personal.retain(|field, _| !PersonalField::ALL[..gone].contains(field));
        let leaf = entry.leaf(golden.source, &commitments).unwrap();
        assert_eq!(String::from_utf8(leaf).unwrap(), golden.leaf);
    }
}

#[test]
fn a_time_is_written_in_microseconds_and_no_finer() {
    let mut entry = erasure().entry;
    let commitments = entry.commitments();
    entry.timestamp = time("2026-03-01T12:00:00.000100999Z");
    assert_eq!(entry.leaf(Source::Service, &commitments).unwrap(), erasure().leaf.as_bytes());
}

#[test]
fn what_has_no_one_text_has_no_leaf() {
    let golden = opened();
    let fault = |details: Value| {
        let event = LogEvent::Other { kind: "log.opened".to_owned(), customer_id: None, details };
        let entry = LogEntry { event, ..golden.entry.clone() };
        entry.leaf(Source::Service, &entry.commitments()).err()
    };
    assert_eq!(fault(json!({"a": "\0"})), Some(LeafFault::Nul));
    assert_eq!(fault(json!({"a\0": 1})), Some(LeafFault::Nul));
    assert_eq!(fault(json!({"é": 1})), Some(LeafFault::Key));
    assert_eq!(fault(json!(0.5)), Some(LeafFault::Number));
    assert_eq!(fault(json!(1_u64 << 53)), Some(LeafFault::Number));
    assert_eq!(fault(json!(-(1_i64 << 53))), Some(LeafFault::Number));
    assert_eq!(fault(json!((1_u64 << 53) - 1)), None);
    assert_eq!(fault(json!("x".repeat(60_000))), Some(LeafFault::TooLong));
}
